//! What a command printed, where it had to succeed.

use crate::support::gateway::{Gateway, Ran};

#[track_caller]
pub fn done(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{} {}", ran.out, ran.err);
    ran.out
}

/// A command in the gateway's folder, where its config and socket are.
#[track_caller]
pub fn ok(gateway: &Gateway, arguments: &[&str]) -> String {
    done(gateway.run(arguments, ""))
}

/// The bearer token in what a command printed.
pub fn bearer(text: &str) -> String {
    let at = text
        .find("kg_")
        .unwrap_or_else(|| panic!("no token: {text}"));
    let token: String = text[at..]
        .chars()
        .take_while(|sign| sign.is_ascii_alphanumeric() || *sign == '_')
        .collect();
    assert_eq!(token.len(), 52, "{token}");
    token
}
