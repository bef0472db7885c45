//! Chat requests and how their answers are judged, as several folders of tests need them.

use crate::support::client::{Call, Response};
use crate::support::stand::Stand;
use crate::support::token::Key;

/// A chat without any credential.
pub fn anonymous() -> Call {
    Call::chat("x", "good").without("authorization")
}

pub const CHAT: &str = "/v1/chat/completions";

pub fn chat(key: &Key, body: impl Into<Vec<u8>>) -> Call {
    Call::json(CHAT, &key.token, body)
}

pub fn passed(response: &Response) -> Result<(), String> {
    (response.status == 200)
        .then_some(())
        .ok_or(format!("{} {}", response.status, response.text()))
}

pub fn same_bytes(stand: &Stand, body: &[u8]) -> Result<(), String> {
    let seen = stand.up.last();
    if blake3::hash(&seen.body) != blake3::hash(body) {
        return Err(format!("{} bytes became {}", body.len(), seen.body.len()));
    }
    let length = body.len().to_string();
    let framed = seen.header("content-length") == Some(&length)
        && seen.header("transfer-encoding").is_none();
    let chunked =
        seen.all("content-length").is_empty() && seen.all("transfer-encoding") == ["chunked"];
    (framed || chunked)
        .then_some(())
        .ok_or("not one clean framing".to_owned())
}
