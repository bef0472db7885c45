//! The gateway's own HTTP/1 reader, in process: the same parts in the same order as on a connection.

use keygate::http::buffer::{BufferPool, ReadBuffer};
use keygate::http::framing::{Framing, Sender};
use keygate::http::head::{HeadScan, RequestFraming, RequestHead};

use super::outcome::{Outcome, Parser, Request};

/// Most bytes of a head, as on a connection.
const MAX_HEAD: usize = 64 << 10;

/// See the module.
pub struct Codec;

impl Parser for Codec {
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome> {
        self.parse_pieces([bytes])
    }
}

impl Codec {
    /// Reads a connection on which the bytes come in these pieces, and then no more.
    pub fn parse_pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Outcome> {
        let mut reading = Reading {
            buffer: ReadBuffer::new(&BufferPool::default()),
            pieces: pieces.into_iter(),
            consumed: 0,
        };
        let mut outcomes = Vec::new();
        loop {
            match reading.request() {
                Ok(Some(request)) => {
                    let keep_alive = request.keep_alive == Some(true);
                    outcomes.push(Outcome::Request(request));
                    if !keep_alive {
                        return outcomes;
                    }
                }
                Ok(None) => return outcomes,
                Err(end) => {
                    outcomes.push(match end {
                        End::Refused(rule) => Outcome::Refused(rule),
                        End::Incomplete => Outcome::Incomplete,
                    });
                    return outcomes;
                }
            }
        }
    }
}

/// How a connection's reading ends before a request is whole.
enum End {
    Refused(String),
    Incomplete,
}

struct Reading<I> {
    buffer: ReadBuffer,
    pieces: I,
    /// Bytes of requests before what is in the buffer.
    consumed: usize,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Reading<I> {
    /// The next request; none where the bytes end behind one.
    fn request(&mut self) -> Result<Option<Request>, End> {
        let start = self.consumed;
        let mut head = RequestHead::default();
        let mut scan = HeadScan::default();
        loop {
            if !self.buffer.is_empty() {
                let parsed = head.parse(self.buffer.unread(), MAX_HEAD, &mut scan);
                match parsed.map_err(|error| End::Refused(format!("{error:?}")))? {
                    Some(length) => {
                        self.buffer.consume(length);
                        self.consumed += length;
                        break;
                    }
                    None if self.more() => continue,
                    None => return Err(End::Incomplete),
                }
            }
            if !self.more() {
                return Ok(None);
            }
        }
        let body = self.body(match head.framing() {
            RequestFraming::Length(length) => Framing::length(length),
            RequestFraming::Chunked => Framing::chunked(Sender::Client),
            RequestFraming::Stream => unreachable!("only HTTP/2 has it"),
        })?;
        let fields = head.fields();
        let headers = fields
            .lines()
            .map(|line| {
                let name = fields.name(line).to_ascii_lowercase();
                (name, fields.value(line).to_vec())
            })
            .collect();
        Ok(Some(Request {
            method: head.method().into(),
            target: head.target().into(),
            version: Some(u8::from(head.version() == http::Version::HTTP_11)),
            headers: Some(Request::sorted(headers)),
            body,
            keep_alive: Some(head.keeps_open()),
            place: Some(start..self.consumed),
        }))
    }

    fn body(&mut self, mut framing: Framing) -> Result<Vec<u8>, End> {
        let mut body = Vec::new();
        while !framing.is_done() {
            let unread = self.buffer.len();
            let data = framing
                .take(&mut self.buffer)
                .map_err(|error| End::Refused(error.to_string()))?;
            self.consumed += unread - self.buffer.len();
            let came = self.buffer.at(data);
            body.extend_from_slice(came);
            if came.is_empty() && !framing.is_done() && !self.more() {
                return Err(End::Incomplete);
            }
        }
        Ok(body)
    }

    /// Appends the next piece, as a read from the socket does.
    fn more(&mut self) -> bool {
        let next = self.pieces.by_ref().find(|piece| !piece.is_empty());
        if let Some(piece) = next {
            self.buffer.append(piece);
        }
        next.is_some()
    }
}
