//! Successful responses of the admin API.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::policy::text::is_harmless;

/// A response to a call that succeeded.
#[derive(Debug)]
pub(super) struct ApiResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl ApiResponse {
    /// 200 with a value as JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        Self::with_status(StatusCode::OK, value)
    }

    /// 201 with a value as JSON.
    pub(super) fn created(value: &impl Serialize) -> Self {
        Self::with_status(StatusCode::CREATED, value)
    }

    /// 204.
    pub(super) fn done() -> Self {
        Self::empty(StatusCode::NO_CONTENT)
    }

    /// A status without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// 200 with content that is compiled in.
    pub(super) fn file(kind: &'static str, content: &'static [u8]) -> Self {
        Self::of(StatusCode::OK, kind, Bytes::from_static(content))
    }

    /// 200 with JSON text.
    pub(super) fn json_text(body: Bytes) -> Self {
        Self::of(StatusCode::OK, "application/json", body)
    }

    /// 200 with plain text.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::of(StatusCode::OK, "text/plain; charset=utf-8", text.into())
    }

    /// 200 with a table, each line ended as RFC 4180 says.
    pub(super) fn csv(text: String) -> Self {
        Self::of(StatusCode::OK, "text/csv; charset=utf-8", text.into())
    }

    /// 200 with metrics (Prometheus' text format).
    pub(super) fn metrics(text: Vec<u8>) -> Self {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        Self::of(StatusCode::OK, kind, text.into())
    }

    pub(super) fn with_status(status: StatusCode, value: &impl Serialize) -> Self {
        // Only maps whose keys are not strings cannot become JSON, and there are none here.
        let body = serde_json::to_string(value).unwrap_or_default();
        Self::of(status, "application/json", plain_json(body))
    }

    fn of(status: StatusCode, kind: &'static str, body: Bytes) -> Self {
        let reply = Self {
            body,
            ..Self::empty(status)
        };
        reply.with(CONTENT_TYPE, HeaderValue::from_static(kind))
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds one more line of a header that may be there.
    pub(super) fn and(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Status and body, for a caller without HTTP.
    pub(super) fn into_parts(self) -> (StatusCode, Bytes) {
        (self.status, self.body)
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // No page of another origin may load this, not even as a script or an image.
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        response
    }
}

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The same JSON with every character escaped that could control a terminal, since people print responses there.
pub(super) fn plain_json(json: String) -> Bytes {
    let is_plain = |character: char| character.is_ascii_graphic() || is_harmless(character);
    if json.chars().all(is_plain) {
        return json.into();
    }
    let mut plain = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_plain(character) {
            plain.push(character);
            continue;
        }
        // Outside strings JSON is graphic ASCII, so this character is inside a string (RFC 8259 7).
        for unit in character.encode_utf16(&mut [0; 2]) {
            plain.push_str(&format!("\\u{unit:04x}"));
        }
    }
    plain.into()
}
