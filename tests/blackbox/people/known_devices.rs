//! A person whose password somebody guesses from the same address, on a device where the person has signed in before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::people::panel::{
    OTHER_PASSWORD, PASSWORD, accept, by_password, from_panel, invite, stand,
};
use crate::support::client::{Client, Response};
use crate::support::gateway::Gateway;

const ALICE: &str = "alice@example.com";

/// The cookie that makes a device known.
#[track_caller]
fn device(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let cookies = response.all("set-cookie");
    let cookie = cookies
        .iter()
        .find(|cookie| cookie.starts_with("keygate_device="));
    let (cookie, _) = cookie.expect("a device").split_once("; ").expect("flags");
    cookie.to_owned()
}

fn on_device(gateway: &Gateway, cookie: &str, password: &str) -> Response {
    let fields = json!({"email": ALICE, "password": password});
    let call = from_panel("POST", "/api/session", &fields).header("cookie", cookie);
    Client::connect(gateway.admin_address()).ask(&call)
}

/// Guesses until a guess is not looked at, and a right password from this address neither.
#[track_caller]
fn guess(gateway: &Gateway) {
    // The first wait is a second, which a slow machine may take between two calls.
    for _ in 0..100 {
        if by_password(gateway, ALICE, OTHER_PASSWORD).status == 429
            && by_password(gateway, ALICE, PASSWORD).status == 429
        {
            return;
        }
    }
    panic!("guesses are not slowed down");
}

#[test]
fn whoever_guesses_at_the_same_address_does_not_keep_a_person_out_of_a_known_device() {
    let mut stand = stand();
    let code = invite(&stand.gateway, "acme", ALICE, "owner");
    let first = device(&accept(&stand.gateway, &code, PASSWORD));
    let gateway = &stand.gateway;
    let is_over = AtomicBool::new(false);
    let last = thread::scope(|scope| {
        guess(gateway);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                by_password(gateway, ALICE, OTHER_PASSWORD);
            }
        });
        let last = (0..5).fold(first.clone(), |cookie, _| {
            device(&on_device(gateway, &cookie, PASSWORD))
        });
        is_over.store(true, Ordering::Relaxed);
        last
    });
    // What the gateway knows of a device outlives its restart.
    stand.gateway.start_again();
    let gateway = &stand.gateway;
    guess(gateway);
    for cookie in [&first, &last] {
        device(&on_device(gateway, cookie, PASSWORD));
    }
    let value = last.split_once('=').expect("a value").1;
    let rows = gateway.admin_json("GET", "/api/audit", None);
    assert!(!rows.to_string().contains(value));
    let failed = rows["rows"].as_array().expect("rows").iter();
    let failed = failed.filter(|row| row["action"] == "sign_in_failed");
    let from: Vec<&Value> = failed.map(|row| &row["address"]).collect();
    assert!(!from.is_empty() && from.iter().all(|address| **address == "127.0.0.1"));
}
