//! HTTP/1 requests written byte by byte, and how a connection ended: what tests of the codec share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::client::{Call, Client, Gone, Response};
use super::stand::Stand;
use super::token::Key;

/// The smallest body of a chat that a key for everything may send.
pub const BODY: &str = r#"{"model":"good"}"#;

/// A request with this request line, a Host, this key, the media type JSON, these header lines, and this body.
pub fn request(first: &str, key: &Key, lines: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!(
        "{first}\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        key.token
    );
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// The head of a request that announces a body of this many bytes, with these header lines.
pub fn head_with_length(call: &Call, length: usize, lines: &[&str]) -> Vec<u8> {
    let mut head = call.head_without_length();
    head.truncate(head.len() - 2);
    for line in lines {
        head.extend_from_slice(format!("{line}\r\n").as_bytes());
    }
    head.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
    head
}

/// The same request as an HTTP/1.0 client sends it.
pub fn as_http_1_0(call: &Call) -> Vec<u8> {
    let mut bytes = call.bytes();
    let at = super::client::find(&bytes, b"HTTP/1.1").expect("a version");
    bytes[at + 7] = b'0';
    bytes
}

/// Runs something that may panic; the message is the error, so that a table of cases goes on.
pub fn attempt<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}

/// Turns a condition into a verdict; `describe` runs only where it is false.
pub fn holds(right: bool, describe: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(describe()) }
}

/// How a request is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtOnce,
    /// Each byte in a segment of its own.
    ByteByByte,
}

pub const DELIVERIES: [Delivery; 2] = [Delivery::AtOnce, Delivery::ByteByByte];

impl Delivery {
    /// Sends these bytes. The gateway may refuse them halfway, so an error is not one of the test.
    pub fn send(self, client: &mut Client, bytes: &[u8]) {
        match self {
            Self::AtOnce => {
                let _ = client.try_send(bytes);
            }
            Self::ByteByByte => {
                for byte in bytes {
                    if client.try_send(&[*byte]).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The request is refused with one of these statuses (0: the connection ends without an answer), its connection
/// ends without a second answer, and the upstream sees no byte of it.
pub fn refused_and_closed(
    stand: &Stand,
    delivery: Delivery,
    bytes: &[u8],
    statuses: &[u16],
) -> Result<(), String> {
    let before = stand.up.bytes().len();
    let mut client = stand.gateway.client();
    delivery.send(&mut client, bytes);
    let status = attempt(|| client.answer_or_end())?.map_or(0, |response| response.status);
    holds(statuses.contains(&status), || {
        format!("status {status}, not one of {statuses:?}")
    })?;
    holds(client.ends_within(DEADLINE).is_some(), || {
        format!("answered {status}, but the connection stays open")
    })?;
    holds(client.unread().is_empty(), || {
        let unread = String::from_utf8_lossy(client.unread()).into_owned();
        format!("a second answer: {unread:?}")
    })?;
    let count = stand.up.bytes().len() - before;
    holds(count == 0, || format!("the upstream saw {count} bytes"))
}

/// The request reaches the upstream once, with this body in one framing, and its connection serves the next one.
pub fn passes(
    stand: &Stand,
    delivery: Delivery,
    bytes: &[u8],
    body: &str,
) -> Result<Response, String> {
    let before = stand.up.requests().len();
    let mut client = stand.gateway.client();
    delivery.send(&mut client, bytes);
    let response = attempt(|| client.answer())?;
    holds(response.status == 200, || {
        format!("status {}: {}", response.status, response.text())
    })?;
    serves_next(&mut client, &stand.only)?;
    let seen = stand.up.requests();
    holds(seen.len() == before + 1, || {
        format!("the upstream saw {} requests", seen.len() - before)
    })?;
    let seen = &seen[before];
    let framings = seen.all("content-length").len() + seen.all("transfer-encoding").len();
    holds(framings == 1 && seen.body == body.as_bytes(), || {
        format!("{:?}", String::from_utf8_lossy(&seen.head))
    })?;
    Ok(response)
}

/// The connection serves one more request, and its answer is the answer to that request.
pub fn serves_next(client: &mut Client, key: &Key) -> Result<(), String> {
    let call = Call::get("/v1/key", &key.token);
    let sent = client.try_send(&call.bytes());
    let next = attempt(|| client.answer_or_end())?;
    match (sent, next) {
        (_, Some(next)) if next.status == 200 && next.json()["id"] == key.id.as_str() => Ok(()),
        (_, Some(next)) => Err(format!("then {} {}", next.status, next.text())),
        (sent, None) => Err(format!(
            "the connection is closed; the next request: {sent:?}"
        )),
    }
}

/// Whether the connection is marked as one that ends behind this answer.
pub fn says_close(response: &Response) -> bool {
    response
        .all("connection")
        .iter()
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// How a connection ended, in more detail than [`Gone`]: over TLS a missing close_notify may come with FIN or RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN, over TLS behind close_notify.
    Clean,
    /// Over TLS: FIN, but no close_notify before it.
    FinWithoutCloseNotify,
    /// RST; over TLS, no close_notify before it.
    Reset,
}

/// Waits for the connection's end. None: it does not end in this time.
pub fn ending(client: &mut Client, within: Duration) -> Option<Ending> {
    match client.ends_within(within)? {
        Gone::Fin => Some(Ending::Clean),
        // Linux refuses the first write behind an RST that was received, and takes the first one behind a FIN.
        Gone::Reset if client.try_send(b"x").is_err() => Some(Ending::Reset),
        Gone::Reset => Some(Ending::FinWithoutCloseNotify),
    }
}

/// Sends pieces of a body for as long as the other side takes them, up to so many bytes. Ok: they were all taken.
/// Err: how many were, and why no more.
pub fn send_body(client: &mut Client, length: usize) -> Result<(), (usize, std::io::Error)> {
    let piece = vec![b' '; 64 << 10];
    let mut sent = 0;
    while sent < length {
        let count = piece.len().min(length - sent);
        if let Err(error) = client.try_send(&piece[..count]) {
            return Err((sent, error));
        }
        sent += count;
    }
    Ok(())
}

/// How long something took, with its result.
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}
