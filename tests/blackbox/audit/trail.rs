//! The audit rows of a gateway, and what somebody with the database file in hand does to them.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::client::{Call, Client, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::stand::Stand;

/// The rows, oldest first.
pub fn rows(gateway: &Gateway) -> Vec<Value> {
    asked(gateway, "limit=1000")
}

/// The rows that a question finds, oldest first.
pub fn asked(gateway: &Gateway, query: &str) -> Vec<Value> {
    let page = gateway.admin_json("GET", &format!("/api/audit?{query}"), None);
    let mut rows = page["rows"].as_array().expect("rows").clone();
    rows.reverse();
    rows
}

pub fn column<'r>(rows: &'r [Value], name: &str) -> Vec<&'r str> {
    rows.iter()
        .map(|row| row[name].as_str().unwrap_or("-"))
        .collect()
}

pub fn verified(gateway: &Gateway) -> Value {
    gateway.admin_json("GET", "/api/audit/verify", None)
}

#[track_caller]
pub fn assert_intact(gateway: &Gateway) {
    let report = verified(gateway);
    assert_eq!(report["intact"], true, "{report}");
}

/// Edits the database behind the gateway's back.
pub fn edit(gateway: &Gateway, sql: &str) {
    let database = Connection::open(gateway.path("keygate.db")).expect("the database");
    database.execute_batch(sql).expect("edited");
}

/// A lock that keeps the gateway from writing to its database, until it is dropped.
pub fn locked(gateway: &Gateway) -> Connection {
    let database = Connection::open(gateway.path("keygate.db")).expect("the database");
    database.execute_batch("BEGIN IMMEDIATE").expect("locked");
    database
}

pub fn create(gateway: &Gateway, name: &str) -> Response {
    let body = json!({"name": name, "model_access": {"mode": "all"}});
    gateway.admin("POST", "/api/keys", Some(&body))
}

pub fn change(gateway: &Gateway, id: &str, body: Value) -> Response {
    gateway.admin("PATCH", &format!("/api/keys/{id}"), Some(&body))
}

/// A gateway with the admin API over TCP, and its token.
pub fn over_tcp(more: impl FnOnce(Setup) -> Setup) -> (Stand, String) {
    let stand = Stand::with(|setup| more(setup.set("admin", "listen = \"127.0.0.1:0\"")));
    let token = std::fs::read_to_string(stand.gateway.path("admin.token")).expect("a token");
    (stand, token.trim().to_owned())
}

pub fn sign_in(gateway: &Gateway, body: &Value) -> Response {
    let call = Call::new("POST", "/api/session")
        .header("content-type", "application/json")
        .header("x-keygate-panel", "1")
        .body(body.to_string());
    Client::connect(gateway.admin_address()).ask(&call)
}
