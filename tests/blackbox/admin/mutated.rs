//! Mutated bodies for the admin API: what is answered as done was done as it says, and the key file stays one that can be
//! read. `models/mutated.rs` says how to run more cases.

use serde_json::Value;

use crate::dice::{Dice, mutate, seed};
use crate::models::mutated::cases;
use crate::support::client::{Call, Client, Response};
use crate::support::stand::Stand;

const ADMIN_BODIES: [&str; 6] = [
    r#"{"name":"web","model_access":{"mode":"inclusive","models":["good"]},"allow_from":["192.0.2.0/24"],"expires_at":"2999-01-31","account":"acme"}"#,
    r#"{"model_access":{"mode":"all"},"name":"n"}"#,
    r#"{"disabled":true}"#,
    r#"{"allow_from":[],"expires_at":null,"account":null,"name":"other"}"#,
    r#"{"key":"key_all","model":"good","from":"192.0.2.7","at":"2027-01-01T00:00:00Z"}"#,
    r#"{"force":false,"dry_run":true}"#,
];

const ADMIN: [&str; 30] = [
    r#""name":"x","#,
    r#""disabled":false,"#,
    r#""mode":"exclusive","#,
    r#""models":["bad"],"#,
    r#","models":[]"#,
    r#""allow_from":["::1"],"#,
    r#""expires_at":"2027-02-30","#,
    r#""token":"kg_x","#,
    r#""dry_run":1,"#,
    r#""id":"key_all","#,
    r#""hash":"blake3:00","#,
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\n",
    "\\ud800",
    "\u{202e}",
    "\u{feff}",
    "\0",
    "null",
    "true",
    "0",
    "1e999",
    "/33",
];

const ADMIN_CALLS: [(&str, &str); 6] = [
    ("POST", "/api/keys"),
    ("POST", "/api/keys"),
    ("PATCH", "/api/keys/key_all"),
    ("POST", "/api/explain"),
    ("POST", "/api/reload"),
    ("POST", "/api/session"),
];

/// What must be true of an answer of the admin API to this body.
fn admin_answer(target: &str, body: &[u8], response: &Response) -> Result<(), String> {
    let is_json = serde_json::from_slice::<Value>(body).is_ok();
    let fits = match response.status {
        200 | 201 => is_json || body.is_empty(),
        400 => !is_json,
        422 => is_json || body.is_empty(),
        // Signing in needs the token, and no key but key_all is asked for.
        401 | 403 | 404 => target != "/api/keys" && (is_json || body.is_empty()),
        409 => target == "/api/reload",
        _ => false,
    };
    let told = response.status < 300
        || response.json()["error"]["message"]
            .as_str()
            .is_some_and(|message| !message.chars().any(char::is_control));
    (fits && told)
        .then_some(())
        .ok_or_else(|| format!("{target}: {} {}", response.status, response.text()))
}

#[test]
fn no_mutated_body_of_the_admin_api_does_what_it_does_not_say_or_spoils_the_key_file() {
    let stand = Stand::new();
    let seed = seed();
    let mut dice = Dice(seed);
    let connect = || Client::connect_unix(&stand.gateway.socket()).expect("the admin socket");
    let mut client = connect();
    let mut created = 0;
    for case in 0..cases() {
        let (method, target) = ADMIN_CALLS[dice.roll(ADMIN_CALLS.len())];
        let mut body = dice.pick(&ADMIN_BODIES).as_bytes().to_vec();
        // Some go as they are: what is sound has to be done.
        if dice.roll(5) > 0 {
            mutate(&mut dice, &mut body, &ADMIN);
        }
        let response = client.ask(&Call::new(method, target).body(body.clone()));
        let told = format!(
            "case {case} of seed {seed}: {:?}",
            String::from_utf8_lossy(&body)
        );
        admin_answer(target, &body, &response)
            .unwrap_or_else(|failure| panic!("{told}: {failure}"));
        if response.status == 201 {
            created += 1;
            let answer = response.json();
            let id = answer["key"]["id"].as_str().expect("an id");
            let asked: Value = serde_json::from_slice(&body).expect("JSON");
            let kept = stand
                .gateway
                .admin_json("GET", &format!("/api/keys/{id}"), None);
            assert_eq!(kept, answer["key"], "{told}");
            assert_eq!(kept["name"], asked["name"], "{told}");
            assert_eq!(
                kept["model_access"]["mode"], asked["model_access"]["mode"],
                "{told}"
            );
            let gone = stand
                .gateway
                .admin("DELETE", &format!("/api/keys/{id}"), None);
            assert_eq!(gone.status, 204, "{told}");
        }
        if response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            client = connect();
        }
    }
    assert!(created > 0, "no key was made in {} cases", cases());
    let checked = stand
        .gateway
        .run(&["check", "--config", "keygate.toml"], "");
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.err);
}
