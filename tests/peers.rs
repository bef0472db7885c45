//! The comparison with other proxies is worth as much as its load's eye for a wrong answer: where a message ends, and
//! what of it is the body, must not depend on how it was cut on its way.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

#[allow(dead_code, reason = "the load and the upstream use the rest")]
#[path = "../benches/peers/tool/framing.rs"]
mod framing;

use framing::{Message, Side};

const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n10;why=not\r\n0123456789abcdef\r\n0\r\n\r\n";
const WHOLE: &[u8] = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!";

#[test]
fn a_message_cut_anywhere_is_the_same_message() {
    for (bytes, status, length, close) in [(STREAM, 200, 21, false), (WHOLE, 404, 3, true)] {
        for cut in 0..=bytes.len() {
            let mut message = Message::default();
            let (first, second) = bytes.split_at(cut);
            assert_eq!(message.feed(Side::Answer, first).unwrap(), cut);
            assert_eq!(message.is_whole(), cut == bytes.len(), "cut at {cut}");
            assert_eq!(message.feed(Side::Answer, second).unwrap(), second.len());
            assert!(message.is_whole(), "cut at {cut}");
            let seen = (message.head.status, message.length, message.head.close);
            assert_eq!(seen, (status, length, close), "cut at {cut}");
        }
    }
}

#[test]
fn what_follows_a_message_is_not_taken_for_a_part_of_it() {
    for bytes in [STREAM, WHOLE] {
        let two = [bytes, b"HTTP/1.1"].concat();
        let mut message = Message::default();
        assert_eq!(message.feed(Side::Answer, &two).unwrap(), bytes.len());
    }
}

#[test]
fn a_message_that_is_broken_off_is_not_whole() {
    for bytes in [STREAM, WHOLE] {
        let mut message = Message::default();
        message
            .feed(Side::Answer, &bytes[..bytes.len() - 1])
            .unwrap();
        assert!(!message.ends_by_close());
    }
}
