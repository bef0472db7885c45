//! The header lines of a request as its upstream gets them: those of the client's that pass, and the gateway's own.

use crate::http::head::RequestHead;
use crate::policy::field_kind::{FieldKind, ForwardHeaders, ToUpstream};

/// What the gateway itself tells an upstream about a request.
#[derive(Clone, Copy, Debug)]
pub struct ForwardedHeaders<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The peer's address, with which X-Forwarded-For ends; None over a Unix socket.
    pub peer: Option<&'a str>,
    /// Whether the peer is a proxy whose own X-Forwarded-For is believed, and so passed on in front.
    pub peer_is_trusted: bool,
    /// How the client came: http or https.
    pub scheme: &'static str,
    /// Fields that pass besides those that always do.
    pub listed: &'a ForwardHeaders,
    /// The body's media type.
    pub content_type: &'a [u8],
    /// Bytes of the body.
    pub length: usize,
    /// Whether the body is another than the client sent, decoded or edited: digests of that are then wrong.
    pub is_changed: bool,
}

/// Writes the header lines that do not depend on the upstream, without the empty line behind them.
pub fn write(out: &mut Vec<u8>, head: &RequestHead, forwarded: &ForwardedHeaders<'_>) {
    let fields = head.fields();
    fields.write(out, |line| match line.kind().to_upstream() {
        ToUpstream::Always => true,
        ToUpstream::IfListed => {
            !(forwarded.is_changed && line.kind() == FieldKind::Digest)
                && forwarded.listed.lists(fields.name(line))
        }
        ToUpstream::Never => false,
    });
    write_line(out, "content-type", forwarded.content_type);
    write_line(out, "x-request-id", forwarded.request_id.as_bytes());
    if let Some(peer) = forwarded.peer {
        out.extend_from_slice(b"x-forwarded-for: ");
        if forwarded.peer_is_trusted {
            let lists = fields.all(FieldKind::XForwardedFor);
            for line in lists.filter(|line| !line.is_empty()) {
                out.extend_from_slice(line);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(peer.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    write_line(out, "x-forwarded-proto", forwarded.scheme.as_bytes());
    write_number(out, "content-length", forwarded.length as u64);
}

/// Writes one header line.
pub fn write_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes one header line with a number.
pub fn write_number(out: &mut Vec<u8>, name: &str, value: u64) {
    write_line(out, name, itoa::Buffer::new().format(value).as_bytes());
}
