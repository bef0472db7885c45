//! A request to an upstream. It is serialized once, and can be sent again unchanged.

use std::ops::Range;

use crate::http::buffer::BufferPool;
use crate::request_body::collect::{BodyPermit, CollectedBody, SMALL_BODY};
use crate::request_body::edit::BodyEdits;
use crate::upstream::{Replica, Upstream};

/// A serialized request.
#[derive(Debug)]
pub(crate) struct OutboundRequest {
    pool: BufferPool,
    /// The head, and the body if it is small.
    text: Vec<u8>,
    /// The position of the replica's authority in `text`.
    host: Range<usize>,
    /// The body, if it is large. None once it was sent and cannot be needed again.
    body: Option<CollectedBody>,
    /// The changes of a large body.
    edits: BodyEdits,
    /// Bytes of head and body.
    length: usize,
    /// The budget of a small body, held until the request is sent.
    _permit: Option<BodyPermit>,
}

impl OutboundRequest {
    /// Serializes a request: a request line, the header lines that `write_headers` writes, and a body.
    #[must_use]
    pub(crate) fn new(
        pool: &BufferPool,
        upstream: &Upstream,
        (method, target): (&str, &str),
        write_headers: impl FnOnce(&mut Vec<u8>),
        body: CollectedBody,
        edits: BodyEdits,
    ) -> Self {
        let mut text = pool.take_write();
        for part in [method, " ", target, " HTTP/1.1\r\nhost: "] {
            text.extend_from_slice(part.as_bytes());
        }
        let host = text.len();
        if let [first, ..] = upstream.replicas() {
            text.extend_from_slice(first.authority().as_bytes());
        }
        let host = host..text.len();
        text.extend_from_slice(b"\r\n");
        if let Some(credential) = upstream.credential() {
            for part in ["authorization: Bearer ", credential, "\r\n"] {
                text.extend_from_slice(part.as_bytes());
            }
        }
        write_headers(&mut text);
        text.extend_from_slice(b"\r\n");
        let (body, edits, permit) = if body.bytes().len() <= SMALL_BODY {
            for slice in edits.slices(body.bytes()) {
                text.extend_from_slice(slice);
            }
            (None, BodyEdits::default(), Some(body.into_permit()))
        } else {
            (Some(body), edits, None)
        };
        Self {
            pool: pool.clone(),
            length: text.len()
                + body
                    .as_ref()
                    .map_or(0, |body| edits.edited_length(body.bytes().len())),
            text,
            host,
            body,
            edits,
            _permit: permit,
        }
    }

    /// A request of these bytes, without a body. Used to fetch an upstream's list of models.
    #[must_use]
    pub(crate) fn from_text(pool: &BufferPool, text: Vec<u8>) -> Self {
        Self {
            pool: pool.clone(),
            length: text.len(),
            text,
            host: 0..0,
            body: None,
            edits: BodyEdits::default(),
            _permit: None,
        }
    }

    /// Sets the Host header to this replica.
    pub(super) fn address_to(&mut self, replica: &Replica) {
        let host = replica.authority().as_bytes();
        if self.text[self.host.clone()] != *host {
            self.length = self.length - self.host.len() + host.len();
            self.text.splice(self.host.clone(), host.iter().copied());
            self.host.end = self.host.start + host.len();
        }
    }

    /// The length of head and body, in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether it has a large body whose memory is still held.
    pub(super) fn holds_body(&self) -> bool {
        self.body.is_some()
    }

    /// Whether all of it is in one buffer, which is kept until the response.
    pub(super) fn is_small(&self) -> bool {
        self.length == self.text.len()
    }

    /// Frees a large body. The request must have been sent whole, and cannot be sent again.
    pub(super) fn release_body(&mut self) {
        self.body = None;
    }

    /// The beginning of the unsent rest, after `sent` bytes were sent: up to three slices, the first ones filled.
    pub(super) fn rest(&self, sent: usize) -> [&[u8]; 3] {
        if self.edits.is_empty() {
            let of_text = sent.min(self.text.len());
            return [&self.text[of_text..], &self.body()[sent - of_text..], b""];
        }
        let mut rest = [&b""[..]; 3];
        let (mut skip, mut filled) = (sent, 0);
        for slice in std::iter::once(&self.text[..]).chain(self.edits.slices(self.body())) {
            let unsent = &slice[skip.min(slice.len())..];
            skip -= slice.len() - unsent.len();
            if unsent.is_empty() {
                continue;
            }
            let Some(free) = rest.get_mut(filled) else {
                break;
            };
            *free = unsent;
            filled += 1;
        }
        rest
    }

    fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], CollectedBody::bytes)
    }
}

impl Drop for OutboundRequest {
    fn drop(&mut self) {
        self.pool.give_write(std::mem::take(&mut self.text));
    }
}
