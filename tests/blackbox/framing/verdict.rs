//! How a raw request ended: refused, or forwarded in one clean framing; and the requests that these tests send.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::DEADLINE;
use crate::support::client::{Call, Client};
use crate::support::recorder::Seen;
use crate::support::stand::Stand;
use crate::support::token::Key;

pub const BODY: &str = r#"{"model":"good"}"#;

/// A chat with these header lines and whatever follows, written out.
pub fn raw(key: &Key, lines: &[&str], rest: &str) -> Vec<u8> {
    request("POST /v1/chat/completions HTTP/1.1", key, lines, rest)
}

pub fn request(first: &str, key: &Key, lines: &[&str], rest: &str) -> Vec<u8> {
    let mut text = format!(
        "{first}\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        key.token
    );
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(rest);
    text.into_bytes()
}

/// Runs what may panic, for tables that go on.
pub fn attempt<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}

/// Sends these bytes: one of these statuses comes (0: an end without an answer), then the connection ends without
/// another word, and the upstream saw nothing.
pub fn refused(stand: &Stand, bytes: &[u8], statuses: &[u16]) -> Result<(), String> {
    let before = stand.up.bytes().len();
    let mut client = Client::connect(stand.gateway.address);
    let _ = client.try_send(bytes);
    let status = attempt(|| client.answer_or_end())?.map_or(0, |response| response.status);
    if !statuses.contains(&status) {
        return Err(format!("status {status}, not one of {statuses:?}"));
    }
    if client.ends_within(DEADLINE).is_none() {
        return Err(format!("answered {status}, but the connection stays open"));
    }
    if !client.unread().is_empty() {
        return Err(format!(
            "a second answer: {:?}",
            String::from_utf8_lossy(client.unread())
        ));
    }
    match stand.up.bytes().len() - before {
        0 => Ok(()),
        count => Err(format!("the upstream saw {count} bytes")),
    }
}

/// Refused as above, or forwarded as exactly one request in one framing with this body.
pub fn refused_or_clean(stand: &Stand, bytes: &[u8], body: &str) -> Result<(), String> {
    let before = stand.up.requests().len();
    let mut client = Client::connect(stand.gateway.address);
    let _ = client.try_send(bytes);
    let answer = attempt(|| client.answer_or_end())?;
    let seen = stand.up.requests();
    match answer.map_or(0, |response| response.status) {
        0 | 400 | 501 if seen.len() == before => Ok(()),
        200 if seen.len() == before + 1 => clean(&seen[before], body),
        status => Err(format!(
            "status {status} and {} requests",
            seen.len() - before
        )),
    }
}

pub fn clean(seen: &Seen, body: &str) -> Result<(), String> {
    let one_framing = seen.all("content-length").len() + seen.all("transfer-encoding").len() == 1;
    let length_right = seen
        .header("content-length")
        .is_none_or(|length| length == body.len().to_string());
    let crlf_only = !String::from_utf8_lossy(&seen.head)
        .replace("\r\n", "")
        .contains(['\r', '\n']);
    (one_framing && length_right && crlf_only && seen.body == body.as_bytes())
        .then_some(())
        .ok_or(format!(
            "not clean: {:?}",
            String::from_utf8_lossy(&seen.head)
        ))
}

/// A whole second request, which must never be executed.
pub fn smuggled(key: &Key) -> String {
    String::from_utf8_lossy(&Call::chat(&key.token, "bad").bytes()).into_owned()
}
