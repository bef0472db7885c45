//! Header fields of one message: its head's text, and where in it each line stands.
//!
//! A head is copied once, as it came, and classified in one pass ([`FieldKind`]). Lines that pass are then copied from
//! here in stretches, so that a header costs neither an allocation nor a hash.

/// Most lines that one head has.
pub const MAX_FIELDS: usize = 128;

/// No name that is known as a whole is longer.
const MAX_KNOWN_NAME: usize = 32;

/// What a header field is to the gateway. Variants without a line of their own are the fields of that name;
/// `ContentOther`, `XForwardedOther` and `Accept` stand for all whose names begin so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "a field's name says it")]
pub enum FieldKind {
    /// Nothing of its own: it passes in both directions.
    Other,
    /// Its name holds `_`: CGI-style servers read `x_real_ip` as `x-real-ip`, so it does not go upstream.
    Underscore,
    /// Valid between two hops only (RFC 9110 7.6.1): Keep-Alive, TE, Trailer, Upgrade, Proxy-* and their like.
    HopByHop,
    /// A credential, another path or another tenant to some upstream: it does not go there.
    NotToUpstream,
    /// A server's word about itself, about the browser's other pages, or to a proxy in front of it: clients do not get
    /// the upstream's, and in a request it means nothing.
    NotToClient,
    /// A digest of the body's bytes as sent (RFC 9530 and what came before it).
    Digest,
    Accept,
    AccessControlRequestHeaders,
    /// `api-key` and `x-api-key`.
    ApiKey,
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentOther,
    ContentType,
    Date,
    Expect,
    Host,
    Origin,
    TransferEncoding,
    XForwardedFor,
    XForwardedOther,
    XForwardedProto,
    XRequestId,
}

/// How many kinds there are.
const KINDS: usize = FieldKind::XRequestId as usize + 1;

impl FieldKind {
    /// The kind of a field name, in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let mut lower = [0; MAX_KNOWN_NAME];
        let length = name.len().min(MAX_KNOWN_NAME);
        lower[..length].copy_from_slice(&name[..length]);
        lower.make_ascii_lowercase();
        match &lower[..length] {
            b"accept" => Self::Accept,
            b"accept-ch" => Self::NotToClient,
            b"access-control-request-headers" => Self::AccessControlRequestHeaders,
            b"alt-svc" => Self::NotToClient,
            b"api-key" => Self::ApiKey,
            b"authorization" => Self::Authorization,
            b"clear-site-data" => Self::NotToClient,
            b"connection" => Self::Connection,
            b"content-digest" => Self::Digest,
            b"content-encoding" => Self::ContentEncoding,
            b"content-length" => Self::ContentLength,
            b"content-md5" => Self::Digest,
            b"content-type" => Self::ContentType,
            b"cookie" => Self::NotToUpstream,
            b"critical-ch" => Self::NotToClient,
            b"date" => Self::Date,
            b"digest" => Self::Digest,
            b"expect" => Self::Expect,
            b"expect-ct" => Self::NotToClient,
            b"forwarded" => Self::NotToUpstream,
            b"host" => Self::Host,
            b"http2-settings" => Self::HopByHop,
            b"keep-alive" => Self::HopByHop,
            b"link" => Self::NotToClient,
            b"nel" => Self::NotToClient,
            b"openai-organization" => Self::NotToUpstream,
            b"openai-project" => Self::NotToUpstream,
            b"origin" => Self::Origin,
            b"public-key-pins" => Self::NotToClient,
            b"refresh" => Self::NotToClient,
            b"repr-digest" => Self::Digest,
            b"report-to" => Self::NotToClient,
            b"reporting-endpoints" => Self::NotToClient,
            b"request-id" => Self::NotToClient,
            b"server" => Self::NotToClient,
            b"set-cookie" => Self::NotToClient,
            b"set-cookie2" => Self::NotToClient,
            b"strict-transport-security" => Self::NotToClient,
            b"te" => Self::HopByHop,
            b"trailer" => Self::HopByHop,
            b"transfer-encoding" => Self::TransferEncoding,
            b"upgrade" => Self::HopByHop,
            b"www-authenticate" => Self::NotToClient,
            b"x-api-key" => Self::ApiKey,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"x-forwarded-proto" => Self::XForwardedProto,
            b"x-lighttpd-send-file" => Self::NotToClient,
            b"x-lighttpd-send-tempfile" => Self::NotToClient,
            b"x-method-override" => Self::NotToUpstream,
            b"x-original-url" => Self::NotToUpstream,
            b"x-real-ip" => Self::NotToUpstream,
            b"x-reproxy-url" => Self::NotToClient,
            b"x-request-id" => Self::XRequestId,
            b"x-rewrite-url" => Self::NotToUpstream,
            b"x-sendfile" => Self::NotToClient,
            other => Self::by_prefix(other, name),
        }
    }

    /// The kind of a name that is not known as a whole. `lower` is its beginning in lower case.
    fn by_prefix(lower: &[u8], name: &[u8]) -> Self {
        let kind = match lower.first() {
            Some(b'a') if lower.starts_with(b"accept-") => Self::Accept,
            Some(b'a') if lower.starts_with(b"access-control-") => Self::NotToClient,
            Some(b'c') if lower.starts_with(b"content-") => Self::ContentOther,
            Some(b'h') if lower.starts_with(b"helicone-") => Self::NotToUpstream,
            Some(b'p') if lower.starts_with(b"proxy-") => Self::HopByHop,
            Some(b'x') if lower.starts_with(b"x-accel-") => Self::NotToClient,
            Some(b'x') if lower.starts_with(b"x-forwarded-") => Self::XForwardedOther,
            Some(b'x') if lower.starts_with(b"x-http-method") => Self::NotToUpstream,
            Some(b'x') if lower.starts_with(b"x-keygate-") => Self::NotToUpstream,
            Some(b'x') if lower.starts_with(b"x-litellm-") => Self::NotToUpstream,
            Some(b'x') if lower.starts_with(b"x-portkey-") => Self::NotToUpstream,
            Some(b'x') if lower.starts_with(b"x-ratelimit-") => Self::NotToClient,
            _ => Self::Other,
        };
        match kind {
            Self::HopByHop | Self::NotToClient | Self::NotToUpstream => kind,
            _ if name.contains(&b'_') => Self::Underscore,
            kind => kind,
        }
    }

    /// Whether a request's line of this kind is forwarded as it came. What the gateway sets itself is not.
    #[must_use]
    pub fn passes_to_upstream(self) -> bool {
        match self {
            Self::Other
            | Self::Accept
            | Self::AccessControlRequestHeaders
            | Self::ContentOther
            | Self::ContentType
            | Self::Date
            | Self::Digest
            | Self::Origin
            | Self::XForwardedOther => true,
            Self::Underscore
            | Self::HopByHop
            | Self::NotToClient
            | Self::NotToUpstream
            | Self::ApiKey
            | Self::Authorization
            | Self::Connection
            | Self::ContentEncoding
            | Self::ContentLength
            | Self::Expect
            | Self::Host
            | Self::TransferEncoding
            | Self::XForwardedFor
            | Self::XForwardedProto
            | Self::XRequestId => false,
        }
    }

    /// Whether an answer's line of this kind is passed on to the client. Its length is written anew.
    #[must_use]
    pub fn passes_to_client(self) -> bool {
        match self {
            Self::HopByHop
            | Self::NotToClient
            | Self::AccessControlRequestHeaders
            | Self::Connection
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::XRequestId => false,
            Self::Other
            | Self::Underscore
            | Self::NotToUpstream
            | Self::Accept
            | Self::ApiKey
            | Self::Authorization
            | Self::ContentEncoding
            | Self::ContentOther
            | Self::ContentType
            | Self::Date
            | Self::Digest
            | Self::Expect
            | Self::Host
            | Self::Origin
            | Self::XForwardedFor
            | Self::XForwardedOther
            | Self::XForwardedProto => true,
        }
    }

    /// Whether the gateway judges a request by fields of this kind, or sets them: a client must not have them removed
    /// by naming them in Connection (RFC 9110 7.6.1).
    #[must_use]
    pub fn is_judged_or_set(self) -> bool {
        matches!(
            self,
            Self::Accept
                | Self::ApiKey
                | Self::Authorization
                | Self::ContentEncoding
                | Self::ContentLength
                | Self::ContentOther
                | Self::ContentType
                | Self::Digest
                | Self::Expect
                | Self::Host
                | Self::XForwardedFor
                | Self::XForwardedOther
                | Self::XForwardedProto
                | Self::XRequestId
        )
    }
}

/// One header line, as places in its head's text.
#[derive(Clone, Copy, Debug)]
pub struct FieldLine {
    start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
    kind: FieldKind,
    /// `name: value` and CRLF, with no other white space: it can be copied as it stands.
    is_plain: bool,
}

impl FieldLine {
    /// What the field is to the gateway.
    #[must_use]
    pub fn kind(&self) -> FieldKind {
        self.kind
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<FieldLine>,
    /// Memory for the lines that [`Self::retain`] keeps.
    spare: Vec<FieldLine>,
    first: [u8; KINDS],
    count: [u8; KINDS],
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            lines: Vec::new(),
            spare: Vec::new(),
            first: [0; KINDS],
            count: [0; KINDS],
        }
    }
}

impl Fields {
    /// Forgets all fields and puts a new text in place, whose lines are then told by [`Self::index`].
    pub fn restart(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.lines.clear();
        self.count = [0; KINDS];
    }

    /// Bytes of memory that the text holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Notes a line that stands in the text: the places of its name and of its value.
    pub fn index(&mut self, name: std::ops::Range<usize>, value: std::ops::Range<usize>) {
        let kind = FieldKind::of(&self.text[name.clone()]);
        // An empty value has no place of its own: the parser says none.
        let is_plain = value.start == name.end + 2
            && self.text[name.end + 1] == b' '
            && self.text.get(value.end..value.end + 2) == Some(b"\r\n");
        self.note(FieldLine {
            start: place(name.start),
            name_end: place(name.end),
            value_start: place(value.start),
            value_end: place(value.end),
            kind,
            is_plain,
        });
    }

    /// Appends a line of its own.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let start = self.text.len();
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.text.extend_from_slice(part);
        }
        let name = start..start + name.len();
        let value_start = name.end + 2;
        self.index(name, value_start..value_start + value.len());
    }

    fn note(&mut self, line: FieldLine) {
        let kind = line.kind as usize;
        if self.count[kind] == 0 {
            self.first[kind] = u8::try_from(self.lines.len()).unwrap_or(u8::MAX);
        }
        self.count[kind] = self.count[kind].saturating_add(1);
        self.lines.push(line);
    }

    /// Forgets the lines that do not stay; all are there until each was asked about.
    pub fn retain(&mut self, stays: impl Fn(&Self, &FieldLine) -> bool) {
        let mut kept = std::mem::take(&mut self.spare);
        kept.extend(self.lines.iter().filter(|line| stays(self, line)));
        self.lines.clear();
        self.count = [0; KINDS];
        for line in kept.drain(..) {
            self.note(line);
        }
        self.spare = kept;
    }

    /// All lines, in their order.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &FieldLine> + Clone {
        self.lines.iter()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A line's name, in the case it came in.
    #[must_use]
    pub fn name(&self, line: &FieldLine) -> &[u8] {
        &self.text[line.start as usize..line.name_end as usize]
    }

    /// A line's value, without the white space around it.
    #[must_use]
    pub fn value(&self, line: &FieldLine) -> &[u8] {
        &self.text[line.value_start as usize..line.value_end as usize]
    }

    /// How many lines are of this kind.
    #[must_use]
    pub fn count(&self, kind: FieldKind) -> usize {
        usize::from(self.count[kind as usize])
    }

    /// The values of a kind's lines, in their order.
    pub fn all(&self, kind: FieldKind) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        let from = match self.count(kind) {
            0 => self.lines.len(),
            _ => usize::from(self.first[kind as usize]),
        };
        let lines = self.lines[from..].iter();
        lines
            .filter(move |line| line.kind == kind)
            .map(|line| self.value(line))
    }

    /// The first value of a kind.
    #[must_use]
    pub fn first(&self, kind: FieldKind) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// The value of a kind that has exactly one line.
    #[must_use]
    pub fn only(&self, kind: FieldKind) -> Option<&[u8]> {
        (self.count(kind) == 1).then(|| self.first(kind)).flatten()
    }

    /// Writes the lines that are chosen, with their line ends; neighbours that need no rewriting are copied at once.
    pub fn write(&self, out: &mut Vec<u8>, chosen: impl Fn(&FieldLine) -> bool) {
        let mut stretch = 0..0;
        for line in self.lines.iter().filter(|line| chosen(line)) {
            let start = line.start as usize;
            if !line.is_plain {
                for part in [self.name(line), b": ", self.value(line), b"\r\n"] {
                    // What stands before it is written first.
                    out.extend_from_slice(&self.text[std::mem::take(&mut stretch)]);
                    out.extend_from_slice(part);
                }
                continue;
            }
            if stretch.end != start {
                out.extend_from_slice(&self.text[stretch]);
                stretch = start..start;
            }
            stretch.end = line.value_end as usize + 2;
        }
        out.extend_from_slice(&self.text[stretch]);
    }
}

/// A head is far shorter than this; [`crate::http::head`] and the upstream's reader bound it.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_stand_or_put_right() {
        let mut fields = Fields::default();
        fields.restart(b"A: 1\r\nhost: h\r\nb:2 \r\nC: 3\r\nd: 4\r\n");
        for (name, value) in [
            (0..1, 3..4),
            (6..10, 12..13),
            (15..16, 17..18),
            (21..22, 24..25),
            (27..28, 30..31),
        ] {
            fields.index(name, value);
        }
        let mut out = Vec::new();
        fields.write(&mut out, |line| line.kind() != FieldKind::Host);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "A: 1\r\nb: 2\r\nC: 3\r\nd: 4\r\n"
        );
        assert_eq!(fields.only(FieldKind::Host), Some(&b"h"[..]));
        assert_eq!(fields.all(FieldKind::Other).count(), 4);
        fields.push("x-request-id", b"r");
        assert_eq!(fields.first(FieldKind::XRequestId), Some(&b"r"[..]));
    }

    #[test]
    fn names_are_classified_in_any_case() {
        for (name, kind) in [
            ("Host", FieldKind::Host),
            ("CONTENT-TYPE", FieldKind::ContentType),
            ("X-Api-Key", FieldKind::ApiKey),
            ("x_real_ip", FieldKind::Underscore),
            ("content_length", FieldKind::Underscore),
            ("Proxy-Connection", FieldKind::HopByHop),
            ("x-portkey-config", FieldKind::NotToUpstream),
            ("X-Forwarded-Host", FieldKind::XForwardedOther),
            ("accept-encoding", FieldKind::Accept),
            ("x-stainless-os", FieldKind::Other),
            ("x_portkey_config", FieldKind::Underscore),
            ("access-control-a_b", FieldKind::NotToClient),
            (
                "X-Portkey-a-name-that-is-longer-than-any-that-is-known",
                FieldKind::NotToUpstream,
            ),
            (
                "a-name-that-is-longer-than-any-that-is-known",
                FieldKind::Other,
            ),
            ("", FieldKind::Other),
        ] {
            assert_eq!(FieldKind::of(name.as_bytes()), kind, "{name}");
        }
    }
}
