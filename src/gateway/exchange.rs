//! What a request's path needs of the protocol that the request came by: [`Exchange`], with one implementation for
//! HTTP/1 and one for HTTP/2.
//!
//! An exchange moves bytes and knows no rule and no deadline: what is sent and how long is waited is decided by
//! whoever calls.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::StatusCode;

use crate::http::fields::Fields;
use crate::http::head::RequestHead;
use crate::request_body::collect::BodySource;
use crate::runtime::timers::TimerEntry;

/// One request and its response, on a connection of any protocol. Its body is read as a [`BodySource`].
pub(super) trait Exchange: BodySource {
    /// The request's head.
    fn head(&self) -> &RequestHead;

    /// Frees the memory of the head, which is not asked for any more: the request was written to its upstream.
    fn release_head(&mut self);

    /// A request with a valid key has come on the connection: it gives way to no other.
    fn authenticated(&self);

    /// The deadlines of the request; HTTP/1 has one entry for the whole connection.
    fn timer_entry(&self) -> &Rc<TimerEntry>;

    /// Says that no other request may follow on the connection. To be called before [`Self::begin`]; without a meaning
    /// for HTTP/2, whose other streams go on.
    fn close_after(&mut self);

    /// Begins the response. Its head leaves with the first part that is sent.
    fn begin(&mut self, status: StatusCode, fields: &Fields, length: BodyLength);

    /// Whether [`Self::begin`] was called.
    fn has_begun(&self) -> bool;

    /// Sends a part of the response's body. While this is pending it has to be called again with the same part.
    ///
    /// # Errors
    /// The connection's, or the client does not want the response any more.
    fn poll_send(&mut self, cx: &mut Context<'_>, part: BodyPart<'_>) -> Poll<io::Result<()>>;

    /// Bytes that the client's connection took so far, for telling a slow client from one that takes nothing.
    fn sent(&self) -> u64;

    /// Ready once all that was sent has left the process: only then may a response be broken off without losing its
    /// last bytes.
    ///
    /// # Errors
    /// The connection's.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready once the client has left: nobody waits for the response any more.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Breaks the response off, so that no client takes a part of it for the whole.
    fn abort(&mut self);
}

/// A part of a response's body.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyPart<'a> {
    /// More follows. An empty part sends a head that has not left yet.
    More(&'a [u8]),
    /// The body ends with it.
    Last(&'a [u8]),
}

/// What is known of a response's body before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// So many bytes.
    Known(u64),
    /// Its end is not known yet.
    Unknown,
}

impl<'a> BodyPart<'a> {
    /// The bytes of the part.
    #[must_use]
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::More(bytes) | Self::Last(bytes) => bytes,
        }
    }

    /// Whether the body ends with it.
    #[must_use]
    pub(super) fn is_last(self) -> bool {
        matches!(self, Self::Last(_))
    }
}

impl From<Option<u64>> for BodyLength {
    fn from(length: Option<u64>) -> Self {
        length.map_or(Self::Unknown, Self::Known)
    }
}
