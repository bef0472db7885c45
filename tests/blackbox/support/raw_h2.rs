//! HTTP/2 frames written by hand, for what no client library would send (RFC 9113, RFC 7541 without Huffman codes).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::DEADLINE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with this status.
    Status(u16),
    /// It was reset.
    Reset,
    /// The whole connection was given up.
    Goaway,
    /// The connection ended without a word.
    Closed,
}

/// A connection on which any frame can be sent.
pub struct RawH2 {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl RawH2 {
    /// Connects and exchanges the prefaces.
    pub fn connect(address: SocketAddr) -> Self {
        let mut raw = Self::connect_silently(address);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.frame(SETTINGS, 0, 0, &[]);
        raw
    }

    /// Connects with windows so wide open that what is sent is up to the socket alone.
    pub fn connect_greedily(address: SocketAddr) -> Self {
        let mut raw = Self::connect_silently(address);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // INITIAL_WINDOW_SIZE (RFC 9113 6.5.2), and the same for the connection, which begins with less.
        let most = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        raw.frame(SETTINGS, 0, 0, &most);
        raw.frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        raw
    }

    /// Connects and says nothing.
    pub fn connect_silently(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connected");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self {
            stream,
            inbox: Vec::new(),
        }
    }

    /// Sends bytes; a connection that is gone shows in what is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes for at most so long. False where the other side does not take them, or is gone.
    pub fn send_within(&mut self, bytes: &[u8], within: Duration) -> bool {
        self.stream
            .set_write_timeout(Some(within))
            .expect("a write timeout");
        self.stream.write_all(bytes).is_ok()
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let bytes = frame(kind, flags, stream, payload);
        self.send(&bytes);
    }

    /// HEADERS in one frame.
    pub fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        self.frame(HEADERS, flags | END_HEADERS, stream, &block(fields));
    }

    /// The head of a chat, whose body is still to come.
    pub fn begin_chat(&mut self, stream: u32, token: &str) {
        let bearer = format!("Bearer {token}");
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", "/v1/chat/completions"),
            ("authorization", &bearer),
            ("content-type", "application/json"),
        ];
        self.headers(stream, 0, &fields);
    }

    /// A whole chat.
    pub fn chat(&mut self, stream: u32, token: &str) {
        self.begin_chat(stream, token);
        self.frame(DATA, END_STREAM, stream, br#"{"model":"good"}"#);
    }

    /// The next frame; None where the connection ends first, or at the deadline.
    pub fn next(&mut self, within: Duration) -> Option<Frame> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .expect("a read timeout");
            let mut buffer = [0_u8; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(_) => return None,
            }
        }
    }

    /// Whether the connection ends in this time; what comes before is dropped.
    pub fn ends_within(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .expect("a read timeout");
            let mut buffer = [0_u8; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return false;
                }
                Err(_) => return true,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.inbox.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.inbox.get(9..9 + length)?.to_vec();
        self.inbox.drain(..9 + length);
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// Reads until this stream is answered or given up.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing became of stream {stream}");
            let Some(frame) = self.next(left) else {
                return Outcome::Closed;
            };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Status(status(&frame)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset,
                GOAWAY => return Outcome::Goaway,
                SETTINGS if frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                _ => {}
            }
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block: every field a literal without indexing, byte for byte.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A field that the other side is to remember: from now on the first of the dynamic table.
pub fn learned(name: &str, value: &str) -> Vec<u8> {
    let mut field = block(&[(name, value)]);
    field[0] = 0x40;
    field
}

/// A string's length in HPACK: seven bits, then groups of seven.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).expect("below 127"));
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("seven bits"));
}

/// The status of a response's HEADERS, which stands first: an index of the static table, or a literal of three digits.
fn status(frame: &Frame) -> u16 {
    let mut bytes = frame.payload.as_slice();
    // Updates of the dynamic table's size may come before.
    while bytes.first().is_some_and(|byte| byte & 0xe0 == 0x20) {
        bytes = &bytes[1..];
    }
    match bytes {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // A literal whose name is the static table's :status; three digits plain or by Huffman code.
        [_, 3, value @ ..] => value
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0),
        [_, length, value @ ..] if length & 0x80 != 0 => {
            huffman_digits(&value[..usize::from(length & 0x7f).min(value.len())])
        }
        _ => 0,
    }
}

/// Digits by HPACK's Huffman code: 0, 1 and 2 have five bits (0, 1, 2), 3 to 9 six (0x19 to 0x1f).
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)))
        .collect();
    let number = |bits: &[u16]| bits.iter().fold(0, |value, bit| value << 1 | bit);
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let Some(five) = bits.get(at..at + 5) else {
            return 0;
        };
        let digit = match number(five) {
            digit @ 0..=2 => {
                at += 5;
                digit
            }
            _ => {
                let Some(six) = bits.get(at..at + 6) else {
                    return 0;
                };
                at += 6;
                number(six).wrapping_sub(0x19).wrapping_add(3)
            }
        };
        status = status * 10 + digit;
    }
    status
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_status_written_by_huffman_code_is_read() {
        // 401: '4' = 011010, '0' = 00000, '1' = 00001, and one bit of padding... 17 bits, padded with ones to 24.
        assert_eq!(
            super::huffman_digits(&[0b0110_1000, 0b0000_0001, 0xff]),
            401
        );
        // 502: '5' = 011011, '0' = 00000, '2' = 00010.
        assert_eq!(
            super::huffman_digits(&[0b0110_1100, 0b0000_0010, 0xff]),
            502
        );
    }
}
