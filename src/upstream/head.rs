//! Parses the head of an upstream's response strictly: ambiguous framing is an error.

use std::mem::MaybeUninit;

use http::StatusCode;

use crate::http::connection_options::{MAX_CONNECTION_OPTIONS, connection_options, forget_named};
use crate::http::fields::{Fields, MAX_FIELDS};
use crate::http::framing::{Framing, FramingError, Sender};
use crate::http::head::{decimal, places};
use crate::policy::field_kind::FieldKind;

/// Largest head of a response, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// The header fields that may be passed to the client.
    pub(crate) fields: Fields,
    /// The rest of the body.
    pub(crate) framing: Framing,
    /// Whether the connection can be reused after the body.
    pub(super) keeps_open: bool,
}

impl ResponseHead {
    /// A response of which nothing was read yet, with memory for its fields.
    pub(super) fn awaited(fields: Fields) -> Self {
        Self {
            status: StatusCode::OK,
            fields,
            framing: Framing::Done,
            keeps_open: false,
        }
    }

    /// Parses a head at the start of `bytes` and returns its length; None if it is incomplete.
    ///
    /// # Errors
    /// If the head is invalid.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, FramingError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, bytes, &mut lines)
            .map_err(|_| FramingError("the upstream's response is not HTTP"))?;
        let length = match parsed {
            httparse::Status::Complete(length) if length <= MAX_HEAD => length,
            httparse::Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
            httparse::Status::Complete(_) | httparse::Status::Partial => {
                return Err(FramingError("the response's head is too long"));
            }
        };
        let is_http11 = response.version == Some(1);
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        self.status = status.ok_or(FramingError("the upstream's response has no status"))?;
        self.fields.restart(&bytes[..length]);
        for line in response.headers.iter() {
            let name = places(bytes, line.name.as_bytes());
            let value = match line.value {
                [] => name.end + 1..name.end + 1,
                value => places(bytes, value),
            };
            self.fields.index(name, value);
        }
        if connection_options(&self.fields)
            .nth(MAX_CONNECTION_OPTIONS)
            .is_some()
        {
            return Err(FramingError(
                "the response's Connection header names too much",
            ));
        }
        self.framing = framing(&self.fields, self.status, is_http11)?;
        // A server that declares a body although the status allows none may send it anyway. So the connection is never
        // reused (RFC 9112 6.3).
        self.keeps_open = self.framing != Framing::UntilClose
            && !has_no_body(self.status)
            && keeps_open(&self.fields, is_http11);
        if connection_options(&self.fields).any(names_field) {
            forget_named(&mut self.fields);
        }
        self.fields.retain(|_, line| line.kind().passes_to_client());
        Ok(Some(length))
    }

    /// The length of the body, if it is known.
    #[must_use]
    pub(crate) fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }
}

/// The framing of the body (RFC 9112 6.3).
fn framing(fields: &Fields, status: StatusCode, is_http11: bool) -> Result<Framing, FramingError> {
    let encodings = fields.count(FieldKind::TransferEncoding);
    let lengths = fields.count(FieldKind::ContentLength);
    if encodings + lengths > 1 {
        return Err(FramingError("the response's length is said twice"));
    }
    if has_no_body(status) {
        return Ok(Framing::Done);
    }
    if let Some(encoding) = fields.first(FieldKind::TransferEncoding) {
        return if is_http11 && encoding.eq_ignore_ascii_case(b"chunked") {
            Ok(Framing::chunked(Sender::Upstream))
        } else {
            Err(FramingError(
                "the response's transfer encoding is not chunked",
            ))
        };
    }
    match fields.first(FieldKind::ContentLength) {
        None => Ok(Framing::UntilClose),
        Some(length) => decimal(length)
            .map(Framing::length)
            .ok_or(FramingError("the response's length is no number")),
    }
}

/// Interim responses, 204 and 304 have no body (RFC 9110 6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn keeps_open(fields: &Fields, is_http11: bool) -> bool {
    let says =
        |word: &[u8]| connection_options(fields).any(|option| option.eq_ignore_ascii_case(word));
    !says(b"close") && (is_http11 || says(b"keep-alive"))
}

/// Whether an option of Connection can name a field that would be passed to the client.
fn names_field(option: &[u8]) -> bool {
    !option.eq_ignore_ascii_case(b"close") && FieldKind::of(option).passes_to_client()
}
