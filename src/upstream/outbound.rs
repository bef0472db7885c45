//! A request as it goes out: written once, and sent again as it is where it has to be.

use std::ops::Range;

use bytes::Bytes;

use crate::request_body::collect;

use super::connection::Request;
use super::{Replica, Upstream};

/// See the module's page.
#[derive(Debug)]
pub struct Outbound {
    /// The head, and a small body.
    text: Vec<u8>,
    /// Where in it stands which replica it is for.
    host: Range<usize>,
    /// A large body.
    body: Bytes,
}

impl Outbound {
    /// A request line, header lines and a body. `room` is memory to write into.
    #[must_use]
    pub fn new(
        upstream: &Upstream,
        (method, target): (&str, &str),
        mut room: Vec<u8>,
        write_headers: impl FnOnce(&mut Vec<u8>),
        body: &Bytes,
    ) -> Self {
        room.clear();
        let parts = [method, " ", target, " HTTP/1.1\r\nhost: "];
        parts
            .iter()
            .for_each(|part| room.extend_from_slice(part.as_bytes()));
        let host = room.len();
        if let [first, ..] = upstream.replicas() {
            room.extend_from_slice(first.authority.as_bytes());
        }
        let host = host..room.len();
        room.extend_from_slice(b"\r\n");
        if let Some(credential) = upstream.credential() {
            let parts = ["authorization: Bearer ", credential, "\r\n"];
            parts
                .iter()
                .for_each(|part| room.extend_from_slice(part.as_bytes()));
        }
        write_headers(&mut room);
        room.extend_from_slice(b"\r\n");
        let is_small = body.len() <= collect::SMALL;
        if is_small {
            room.extend_from_slice(body);
        }
        Self {
            text: room,
            host,
            body: if is_small { Bytes::new() } else { body.clone() },
        }
    }

    /// The request as it is sent to this replica.
    pub(super) fn addressed_to(&mut self, replica: &Replica) -> Request<'_> {
        let host = replica.authority.as_bytes();
        if self.text[self.host.clone()] != *host {
            self.text.splice(self.host.clone(), host.iter().copied());
            self.host.end = self.host.start + host.len();
        }
        Request {
            head: &self.text,
            body: &self.body,
        }
    }

    /// The memory, to be written into again.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.text
    }
}
