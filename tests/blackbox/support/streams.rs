//! Chats whose answers are event streams, and one of them that has begun.

use crate::support::client::{Call, Response};
use crate::support::h2::{Protocol, Stream};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;
use crate::support::token::Key;

/// A streamed chat.
pub fn chat(key: &Key) -> Call {
    Call::json(
        "/v1/chat/completions",
        &key.token,
        r#"{"model":"good","stream":true}"#,
    )
}

/// A stream of a key that has begun, in the hands of its client and its upstream.
pub fn begun(stand: &Stand, protocol: Protocol, key: &Key) -> (Stream, Response, Exchange) {
    let mut stream = Stream::open(protocol, &stand.gateway, &chat(key));
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "data: one\n\n");
    (stream, response, exchange)
}
