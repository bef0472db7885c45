//! Requests that use something, and the time around them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Call;
use crate::support::gateway::Gateway;
use crate::support::recorder::Exchange;
use crate::support::token::Key;

/// A completion that says what it used: 12 tokens of input, 2 of them cached, and 7 of output.
pub fn counted(exchange: Exchange) {
    exchange.reply_json(
        "{\"object\":\"chat.completion\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":7,\
         \"prompt_tokens_details\":{\"cached_tokens\":2}}}",
    );
}

#[track_caller]
pub fn use_model(gateway: &Gateway, key: &Key, model: &str) {
    let response = gateway.ask(&Call::chat(&key.token, model));
    assert_eq!(response.status, 200, "{}", response.text());
}

/// An hour ago, in Unix seconds: before all that a test does.
pub fn an_hour_ago() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a time after 1970").as_secs() - 3600
}
