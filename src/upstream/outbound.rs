//! A request as it goes out: written once, and sent again as it is where it has to be.

use std::ops::Range;

use crate::http::buffer::BufferPool;
use crate::request_body::collect::{BufferPermit, CollectedBody, SMALL_BODY};
use crate::upstream::{Replica, Upstream};

/// See the module's page.
#[derive(Debug)]
pub(crate) struct OutboundRequest {
    pool: BufferPool,
    /// The head, and a small body.
    text: Vec<u8>,
    /// Where the replica's authority stands in it.
    host: Range<usize>,
    /// A large body.
    body: Option<CollectedBody>,
    /// A small body's part of the budget, held until the request is sent.
    _permit: Option<BufferPermit>,
}

impl OutboundRequest {
    /// A request line, the header lines that `write_headers` writes, and a body.
    #[must_use]
    pub(crate) fn new(
        pool: &BufferPool,
        upstream: &Upstream,
        (method, target): (&str, &str),
        write_headers: impl FnOnce(&mut Vec<u8>),
        body: CollectedBody,
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
        let (body, permit) = if body.bytes().len() <= SMALL_BODY {
            text.extend_from_slice(body.bytes());
            (None, Some(body.into_permit()))
        } else {
            (Some(body), None)
        };
        Self {
            pool: pool.clone(),
            text,
            host,
            body,
            _permit: permit,
        }
    }

    /// A request of these bytes, without a body: to ask an upstream which models it serves.
    #[must_use]
    pub(crate) fn from_text(pool: &BufferPool, text: Vec<u8>) -> Self {
        Self {
            pool: pool.clone(),
            text,
            host: 0..0,
            body: None,
            _permit: None,
        }
    }

    /// Names this replica as the request's host.
    pub(super) fn address_to(&mut self, replica: &Replica) {
        let host = replica.authority().as_bytes();
        if self.text[self.host.clone()] != *host {
            self.text.splice(self.host.clone(), host.iter().copied());
            self.host.end = self.host.start + host.len();
        }
    }

    /// All of it, in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.body().len()
    }

    /// What is left once `sent` bytes were sent.
    pub(super) fn rest(&self, sent: usize) -> [&[u8]; 2] {
        let of_text = sent.min(self.text.len());
        [&self.text[of_text..], &self.body()[sent - of_text..]]
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
