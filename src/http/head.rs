//! A request's head, parsed instead of checked: a [`RequestHead`] that breaks a rule of RFC 9112 cannot be made.
//!
//! Whatever two servers could read differently is refused here, before anything is judged: the line ends, the target,
//! the Host, the framing of the body, and which headers a Connection line may remove.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::Version;
use http::request::Parts;

use crate::http::connection_options::{MAX_CONNECTION_OPTIONS, connection_options, forget_named};
use crate::http::fields::Fields;
use crate::policy::field_kind::FieldKind;

/// Most header fields of a request.
pub const MAX_REQUEST_FIELDS: usize = 100;
/// Empty lines that are passed over before a request line (RFC 9112 2.2).
const MAX_EMPTY_LINES: usize = 2;

/// Why a head is refused. The connection ends with the answer: where the next request begins is not certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Two servers could read it differently; the text says what is wrong with it.
    Malformed(&'static str),
    /// It has more bytes than a head may have, which is so many.
    TooLarge(usize),
    /// It has more than [`MAX_REQUEST_FIELDS`] fields.
    TooManyFields,
}

/// How the end of a request's body is known (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// Chunks (RFC 9112 7.1).
    Chunked,
    /// The end of the stream (HTTP/2).
    Stream,
}

/// See the module's page.
#[derive(Debug)]
pub struct RequestHead {
    fields: Fields,
    /// Method and target, with a blank between them.
    request_line: String,
    /// Where the method ends, and the path.
    method_end: usize,
    path_end: usize,
    version: Version,
    framing: RequestFraming,
    keeps_open: bool,
}

impl Default for RequestHead {
    /// The head of no request yet.
    fn default() -> Self {
        Self {
            fields: Fields::default(),
            request_line: String::new(),
            method_end: 0,
            path_end: 0,
            version: Version::HTTP_11,
            framing: RequestFraming::Length(0),
            keeps_open: false,
        }
    }
}

/// Where in a connection's bytes a head may end; it remembers what was looked at, so that a head that comes byte by
/// byte is not read anew with each.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// The length of the empty lines before it.
    skipped: usize,
    /// No line of the head ends before this.
    scanned: usize,
    /// The length at which the part that was there was last tried to be parsed, and whether a line ended since then.
    tried: usize,
    has_new_line: bool,
}

impl RequestHead {
    /// Reads a head off the beginning of `bytes` and returns its length; None where more has to come. `max` is the
    /// most bytes that it may have. `scan` belongs to this head: a new one before each.
    ///
    /// # Errors
    /// [`HeadError`]; as soon as it is certain, which may be before the head is whole.
    pub fn parse(
        &mut self,
        bytes: &[u8],
        max: usize,
        scan: &mut HeadScan,
    ) -> Result<Option<usize>, HeadError> {
        let skipped = empty_lines(bytes)?;
        if skipped != scan.skipped {
            // The head begins elsewhere than it seemed to.
            *scan = HeadScan {
                skipped,
                ..HeadScan::default()
            };
        }
        let head = &bytes[skipped..];
        let Some(length) = scan.end_of(head)? else {
            if head.len() >= max {
                return Err(HeadError::TooLarge(max));
            }
            // A peer that speaks something else is told before it has sent a whole head's worth.
            if scan.has_new_line || head.len() >= scan.tried * 2 {
                scan.has_new_line = false;
                scan.tried = head.len().max(1);
                self.read(head, true)?;
            }
            return Ok(None);
        };
        if length > max {
            return Err(HeadError::TooLarge(max));
        }
        self.read(&head[..length], false)?;
        Ok(Some(skipped + length))
    }

    /// Parses a whole head, or looks for faults in the beginning of one.
    fn read(&mut self, head: &[u8], is_partial: bool) -> Result<(), HeadError> {
        let mut lines = [const { MaybeUninit::uninit() }; MAX_REQUEST_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request
            .parse_with_uninit_headers(head, &mut lines)
            .map_err(|error| match error {
                httparse::Error::TooManyHeaders => HeadError::TooManyFields,
                _ => HeadError::Malformed(what(error)),
            })?;
        if is_partial {
            return Ok(());
        }
        let malformed = HeadError::Malformed(
            "its head is not HTTP/1; send a request line and `name: value` lines that end with CRLF",
        );
        if parsed != httparse::Status::Complete(head.len()) {
            return Err(malformed);
        }
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(malformed);
        };
        self.fields.restart(head);
        self.set_request_line(method, target);
        self.version = match version {
            0 => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        for line in request.headers.iter() {
            let name = places(head, line.name.as_bytes());
            // An empty value stands nowhere.
            let value = match line.value {
                [] => name.end + 1..name.end + 1,
                value => places(head, value),
            };
            self.fields.index(name, value);
        }
        check_target(method, target.as_bytes())?;
        self.check_host()?;
        self.framing = self.http1_framing()?;
        self.keeps_open = self.check_connection()?;
        Ok(())
    }

    /// Becomes the head of a request that came by HTTP/2. Its pseudo-headers were checked by the library; this checks what is
    /// this gateway's: the size, the number of fields, the authority and the path.
    ///
    /// # Errors
    /// [`HeadError`]
    pub fn read_http2(&mut self, parts: &Parts, max: usize) -> Result<(), HeadError> {
        let method = parts.method.as_str();
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        self.fields.restart(b"");
        self.set_request_line(method, target);
        self.version = Version::HTTP_2;
        self.framing = RequestFraming::Stream;
        self.keeps_open = true;
        if parts.headers.len() > MAX_REQUEST_FIELDS {
            return Err(HeadError::Malformed("send at most 100 header fields"));
        }
        for (name, value) in &parts.headers {
            // HTTP/1's parser leaves out the white space around a value too (RFC 9110 5.5).
            self.fields
                .push(name.as_str(), value.as_bytes().trim_ascii());
        }
        if self.request_line.len() + self.fields.text().len() > max {
            return Err(HeadError::TooLarge(max));
        }
        check_target(method, target.as_bytes())?;
        let authority = parts
            .uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let hosts = self.fields.count(FieldKind::Host);
        match (authority, hosts) {
            (Some(authority), 0 | 1) if !is_host(authority) => {
                return Err(HeadError::Malformed(
                    "the :authority must be a host name or address, and a port at most",
                ));
            }
            (Some(_), 0) => {}
            (Some(authority), 1)
                if self
                    .fields
                    .first(FieldKind::Host)
                    .is_some_and(|host| host.eq_ignore_ascii_case(authority)) => {}
            _ => {
                return Err(HeadError::Malformed(
                    "send one :authority, and no Host that differs from it",
                ));
            }
        }
        self.check_connection().map(drop)
    }

    fn check_host(&self) -> Result<(), HeadError> {
        match self.fields.only(FieldKind::Host) {
            None => Err(HeadError::Malformed("send exactly one Host header")),
            Some(host) if !is_host(host) => Err(HeadError::Malformed(
                "the Host header must hold a host name or address, and a port at most",
            )),
            Some(_) => Ok(()),
        }
    }

    /// RFC 9112 6.3, strictly: Content-Length in digits, once or always the same, or one Transfer-Encoding that is
    /// `chunked`.
    fn http1_framing(&self) -> Result<RequestFraming, HeadError> {
        let encodings = self.fields.count(FieldKind::TransferEncoding);
        let lengths = self.fields.count(FieldKind::ContentLength);
        match (encodings, lengths) {
            (0, 0) => Ok(RequestFraming::Length(0)),
            (0, _) => {
                let mut values = self.fields.all(FieldKind::ContentLength);
                let first = values.next();
                first
                    .filter(|first| values.all(|other| other == *first))
                    .and_then(decimal)
                    .map(RequestFraming::Length)
                    .ok_or(HeadError::Malformed("send one Content-Length, in digits"))
            }
            (_, 0) => {
                let only = self.fields.only(FieldKind::TransferEncoding);
                let is_chunked = only.is_some_and(|only| only.eq_ignore_ascii_case(b"chunked"));
                if is_chunked && self.version == Version::HTTP_11 {
                    Ok(RequestFraming::Chunked)
                } else {
                    Err(HeadError::Malformed(
                        "the only transfer encoding taken is one 'chunked', in HTTP/1.1",
                    ))
                }
            }
            _ => Err(HeadError::Malformed(
                "send Content-Length or Transfer-Encoding, not both",
            )),
        }
    }

    /// Drops what Connection lines name (RFC 9110 7.6.1) and returns whether the connection is kept open. Naming a
    /// header that the gateway judges by, or sets, would let a client edit what was checked: it is refused.
    fn check_connection(&mut self) -> Result<bool, HeadError> {
        let is_http11 = self.version != Version::HTTP_10;
        if self.fields.count(FieldKind::Connection) == 0 {
            return Ok(is_http11);
        }
        let (mut closes, mut keeps, mut names_others) = (false, false, false);
        for (index, option) in connection_options(&self.fields).enumerate() {
            if index == MAX_CONNECTION_OPTIONS {
                return Err(HeadError::Malformed("the Connection header names too much"));
            }
            if !option.is_ascii() {
                return Err(HeadError::Malformed("the Connection header must be ASCII"));
            }
            closes |= option.eq_ignore_ascii_case(b"close");
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            let kind = FieldKind::of(option);
            if kind.is_judged_or_set() {
                return Err(HeadError::Malformed(
                    "the Connection header names a header that the gateway judges by or sets; send that header without naming it there",
                ));
            }
            names_others |=
                !matches!(kind, FieldKind::HopByHop) && !option.eq_ignore_ascii_case(b"close");
        }
        if names_others {
            forget_named(&mut self.fields);
        }
        Ok(!closes && (is_http11 || keeps))
    }

    fn set_request_line(&mut self, method: &str, target: &str) {
        self.request_line.clear();
        self.request_line.reserve(method.len() + 1 + target.len());
        for part in [method, " ", target] {
            self.request_line.push_str(part);
        }
        self.method_end = method.len();
        let query = memchr::memchr(b'?', target.as_bytes());
        self.path_end = self.method_end + 1 + query.unwrap_or(target.len());
    }

    /// The method, as sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.request_line[..self.method_end]
    }

    /// The target, as sent: path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        self.request_line
            .get(self.method_end + 1..)
            .unwrap_or_default()
    }

    /// The path, as sent.
    #[must_use]
    pub fn path(&self) -> &str {
        let path = self.method_end + 1..self.path_end;
        self.request_line.get(path).unwrap_or_default()
    }

    /// The query, as sent, without its question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.request_line.get(self.path_end + 1..)
    }

    /// The version: 1.0, 1.1 or 2.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How the body's end is known.
    #[must_use]
    pub fn framing(&self) -> RequestFraming {
        self.framing
    }

    /// Whether the client wants to send another request on the connection (RFC 9112 9.3).
    #[must_use]
    pub fn keeps_open(&self) -> bool {
        self.keeps_open
    }

    /// The header fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The head of no request yet, with memory for the next one's fields.
    #[must_use]
    pub fn in_fields(mut fields: Fields) -> Self {
        fields.restart(b"");
        Self {
            fields,
            ..Self::default()
        }
    }

    /// Its memory, to be used again.
    #[must_use]
    pub fn into_fields(self) -> Fields {
        self.fields
    }
}

impl HeadScan {
    /// Where the empty line behind a head ends. Every line has to end in CRLF: a bare LF is a line end to some servers
    /// and a part of the line to others.
    fn end_of(&mut self, head: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(found) = memchr::memchr(b'\n', &head[self.scanned..]) {
            let end = self.scanned + found;
            if end == 0 || head[end - 1] != b'\r' {
                return Err(HeadError::Malformed("a line of its head ends without CR"));
            }
            self.scanned = end + 1;
            self.has_new_line = true;
            if head[..end - 1].ends_with(b"\r\n") {
                return Ok(Some(end + 1));
            }
        }
        self.scanned = head.len();
        Ok(None)
    }
}

/// The length of the empty lines that stand before a request line.
fn empty_lines(bytes: &[u8]) -> Result<usize, HeadError> {
    let mut skipped = 0;
    while bytes[skipped..].starts_with(b"\r\n") {
        skipped += 2;
        if skipped > 2 * MAX_EMPTY_LINES {
            return Err(HeadError::Malformed(
                "there are empty lines before its head",
            ));
        }
    }
    Ok(skipped)
}

/// What of a head's syntax is broken.
fn what(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => {
            "a header's name holds a byte that is not taken there, or white space"
        }
        httparse::Error::HeaderValue => "a header's value holds a control byte",
        httparse::Error::NewLine => "a line of its head does not end in CRLF",
        httparse::Error::Token => "its request line is not one",
        httparse::Error::Version => "its version is not HTTP/1.0 or HTTP/1.1",
        _ => "its head is not HTTP/1",
    }
}

/// A path in origin form (RFC 9112 3.2.1), or `*` to OPTIONS, without a fragment. Some clients send UTF-8 in a query as it
/// is; the parser takes no other bytes beyond ASCII.
fn check_target(method: &str, target: &[u8]) -> Result<(), HeadError> {
    let is_visible = |byte: &u8| byte.is_ascii_graphic() || !byte.is_ascii();
    let is_taken = |byte: &u8| is_visible(byte) && !matches!(byte, b'#' | b'<' | b'>');
    let is_asterisk = method == "OPTIONS" && target == b"*";
    if !target.starts_with(b"/") && !is_asterisk && method != "CONNECT" {
        return Err(HeadError::Malformed(
            "the request target must be a path, not a URL",
        ));
    }
    if !target.iter().all(is_taken) {
        return Err(HeadError::Malformed(
            "the request target holds a byte that has to be percent-encoded, or a fragment",
        ));
    }
    if method == "CONNECT" {
        return Err(HeadError::Malformed("tunnels are not made here"));
    }
    Ok(())
}

/// A host and perhaps a port (RFC 3986 3.2.2 and 3.2.3): an address in brackets, or a name or IPv4 address.
#[must_use]
pub fn is_host(host: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let (is_valid, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == b']').unwrap_or(0);
            let (address, port) = rest.split_at(end);
            let is_address = |byte: &u8| is_name(byte) || *byte == b':';
            let is_valid = !address.is_empty() && address.iter().all(is_address);
            (is_valid, port.strip_prefix(b"]").unwrap_or(port))
        }
        None => {
            let end = host.iter().position(|byte| *byte == b':');
            let (name, port) = host.split_at(end.unwrap_or(host.len()));
            (!name.is_empty() && name.iter().all(is_name), port)
        }
    };
    let digits = port.strip_prefix(b":");
    let is_port = digits.map_or(port.is_empty(), |digits| {
        digits.iter().all(u8::is_ascii_digit)
    });
    is_valid && is_port
}

/// A number in digits, without sign or blanks.
#[must_use]
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_plain)
        .and_then(|digits| digits.parse().ok())
}

/// Where in a text a part of it stands.
pub fn places(text: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

#[cfg(test)]
mod tests;
