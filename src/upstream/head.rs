//! The head of an upstream's answer, read strictly: whatever could be framed in two ways is [`Broken`].

use std::io;
use std::mem::MaybeUninit;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use crate::http::headers;

use super::framing::Framing;

/// Largest head of an answer, in bytes.
pub(super) const MOST_HEAD: usize = 64 << 10;
/// Most header lines of an answer.
const MOST_LINES: usize = 128;

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its header lines, as far as a client gets to see them.
    pub headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether its server keeps the connection open.
    pub(super) keeps: bool,
}

/// What was wrong with an answer.
#[derive(Debug)]
pub struct Broken {
    what: &'static str,
    source: Option<io::Error>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<&'static str> for Broken {
    fn from(what: &'static str) -> Self {
        Self { what, source: None }
    }
}

impl Broken {
    pub(super) fn io(source: io::Error) -> Self {
        Self {
            what: "the connection to the upstream broke",
            source: Some(source),
        }
    }
}

impl Head {
    /// Reads a head and its length off the beginning of `bytes`; None where more has to come. `spare` is emptied and
    /// used for the headers, so that one map serves a request and its answer.
    pub(super) fn parse(
        bytes: &[u8],
        spare: &mut HeaderMap,
    ) -> Result<Option<(Self, usize)>, Broken> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut lines = [const { MaybeUninit::uninit() }; MOST_LINES];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, bytes, &mut lines)
            .map_err(|_| Broken::from("the upstream's answer is not HTTP"))?;
        let length = match parsed {
            httparse::Status::Complete(length) if length <= MOST_HEAD => length,
            httparse::Status::Partial if bytes.len() < MOST_HEAD => return Ok(None),
            httparse::Status::Complete(_) | httparse::Status::Partial => {
                return Err("the answer's head is too long".into());
            }
        };
        let version = if response.version == Some(1) {
            Version::HTTP_11
        } else {
            Version::HTTP_10
        };
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or("the upstream's answer has no status")?;
        let mut between_hops = BetweenHops::default();
        for line in response.headers.iter() {
            between_hops.note(line)?;
        }
        let framing = between_hops.framing(status, version)?;
        let keeps = framing != Framing::UntilClose
            && !(framing == Framing::Done && between_hops.announces_body())
            && between_hops.keeps_open(version);
        spare.clear();
        for line in response.headers.iter() {
            take_over(spare, line, &between_hops)?;
        }
        let head = Self {
            status,
            headers: std::mem::take(spare),
            framing,
            keeps,
        };
        Ok(Some((head, length)))
    }

    /// The body's length, where the upstream declared one.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.framing == Framing::Done
    }
}

/// The lines that are between the upstream and the gateway only (RFC 9110 7.6.1, RFC 9112 6).
#[derive(Debug, Default)]
struct BetweenHops<'a> {
    encoding: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    connection: Vec<&'a [u8]>,
}

impl<'a> BetweenHops<'a> {
    fn note(&mut self, line: &httparse::Header<'a>) -> Result<(), Broken> {
        let is = |name: &HeaderName| line.name.eq_ignore_ascii_case(name.as_str());
        if is(&header::CONTENT_LENGTH) {
            once(self.length.replace(line.value))
        } else if is(&header::TRANSFER_ENCODING) {
            once(self.encoding.replace(line.value))
        } else {
            if is(&header::CONNECTION) {
                self.connection.push(line.value);
            }
            Ok(())
        }
    }

    /// RFC 9112 6.3.
    fn framing(&self, status: StatusCode, version: Version) -> Result<Framing, Broken> {
        if self.encoding.is_some() && self.length.is_some() {
            return Err(SAID_TWICE.into());
        }
        if status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Framing::Done);
        }
        match (self.encoding, self.length) {
            (Some(encoding), _)
                if version == Version::HTTP_11 && encoding.eq_ignore_ascii_case(b"chunked") =>
            {
                Ok(Framing::chunked())
            }
            (Some(_), _) => Err("the answer's transfer encoding is not chunked".into()),
            (None, Some(length)) => match number(length)? {
                0 => Ok(Framing::Done),
                length => Ok(Framing::Length(length)),
            },
            (None, None) => Ok(Framing::UntilClose),
        }
    }

    /// Whether an answer that has no body by its status says that it has one: its server may send it all the same.
    fn announces_body(&self) -> bool {
        let is_some = |length: &[u8]| length.iter().any(|digit| *digit != b'0');
        self.encoding.is_some() || self.length.is_some_and(is_some)
    }

    fn keeps_open(&self, version: Version) -> bool {
        let says = |what: &[u8]| self.options().any(|word| word.eq_ignore_ascii_case(what));
        !says(b"close") && (version == Version::HTTP_11 || says(b"keep-alive"))
    }

    /// What the Connection lines say.
    fn options(&self) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.connection.iter();
        lines.flat_map(|line| line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
    }
}

const SAID_TWICE: &str = "the answer's length is said twice";

fn once(before: Option<&[u8]>) -> Result<(), Broken> {
    before.map_or(Ok(()), |_| Err(SAID_TWICE.into()))
}

/// A length in digits, without sign or blanks.
fn number(digits: &[u8]) -> Result<u64, Broken> {
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_plain)
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| "the answer's length is no number".into())
}

/// Adds a line to those that the client gets, where it may.
fn take_over(
    headers: &mut HeaderMap,
    line: &httparse::Header<'_>,
    between_hops: &BetweenHops<'_>,
) -> Result<(), Broken> {
    let name = HeaderName::from_bytes(line.name.as_bytes());
    let name = name.map_err(|_| Broken::from("the answer has a header that is none"))?;
    let is_named = |word: &[u8]| word.eq_ignore_ascii_case(name.as_str().as_bytes());
    if headers::passes_to_client(name.as_str()) && !between_hops.options().any(is_named) {
        let value = HeaderValue::from_bytes(line.value);
        let value = value.map_err(|_| Broken::from("the answer has a header that is none"))?;
        headers.append(name, value);
    }
    Ok(())
}
