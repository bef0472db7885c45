//! Rotating a key in the tests, and what a token gets then.

use serde_json::{Value, json};

use crate::support::client::{Call, Response};
use crate::support::gateway::Gateway;
use crate::support::token::{self, Key};

/// Rotates a key; the answer.
#[track_caller]
pub fn rotate(gateway: &Gateway, id: &str, grace_seconds: u64) -> Value {
    let body = json!({ "grace_seconds": grace_seconds });
    gateway.admin_json("POST", &format!("/api/keys/{id}/rotate"), Some(&body))
}

/// The new token of a rotation.
#[track_caller]
pub fn token_of(rotated: &Value) -> String {
    rotated["token"].as_str().expect("a token").to_owned()
}

/// A key for all models as the gateway would make it, with its token's last characters.
pub fn key(id: &str) -> Key {
    let key = Key::all(id);
    let hint = key.token[48..].to_owned();
    key.with("hint", hint)
}

/// A chat with a token.
pub fn ask(gateway: &Gateway, token: &str) -> Response {
    gateway.ask(&Call::chat(token, "good"))
}

/// The status of a chat with each token.
pub fn statuses<const N: usize>(gateway: &Gateway, tokens: [&str; N]) -> [u16; N] {
    tokens.map(|token| ask(gateway, token).status)
}

/// The key as the admin API shows it.
#[track_caller]
pub fn shown(gateway: &Gateway, id: &str) -> Value {
    gateway.admin_json("GET", &format!("/api/keys/{id}"), None)
}

/// A previous token as the key file has it.
pub fn previous(token: &str, not_after: &str) -> Value {
    json!({"hash": token::hash(token), "hint": token[token.len() - 4..], "not_after": not_after})
}
