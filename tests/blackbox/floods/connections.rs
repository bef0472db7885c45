//! More connections than are allowed, or many that say nothing, delay nobody else.

use std::time::{Duration, Instant};

use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

#[test]
fn connections_beyond_the_limit_get_no_answer_until_one_leaves() {
    let stand = Stand::with(|setup| setup.set("limits", "connections = 4"));
    let mut held: Vec<Client> = (0..4).map(|_| stand.gateway.client()).collect();
    for client in &mut held {
        assert_eq!(
            client
                .ask(&Call::get("/v1/models", &stand.all.token))
                .status,
            200
        );
    }
    let mut extra = stand.gateway.client();
    let _ = extra.try_send(&Call::get("/v1/models", &stand.all.token).bytes());
    if !extra.silent_for(Duration::from_millis(300)) {
        assert!(
            extra.ends_within(DEADLINE).is_some() && !extra.unread().starts_with(b"HTTP/1.1 200")
        );
    }
    drop(extra);
    assert_eq!(stand.gateway.admin("GET", "/healthz", None).status, 200);
    held.pop();
    eventually("there is room again", DEADLINE, || {
        let mut client = stand.gateway.client();
        client
            .try_send(&Call::get("/v1/models", &stand.all.token).bytes())
            .ok()?;
        if client.silent_for(Duration::from_millis(500))
            || !client.unread().starts_with(b"HTTP/1.1 200")
        {
            return None;
        }
        Some(())
    });
    for client in &mut held {
        assert_eq!(
            client
                .ask(&Call::get("/v1/models", &stand.all.token))
                .status,
            200
        );
    }
}

#[test]
fn a_flood_of_connections_that_say_nothing_delays_nobody() {
    let stand = Stand::new();
    let silent: Vec<Client> = (0..1000).map(|_| stand.gateway.client()).collect();
    let start = Instant::now();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(
        start.elapsed() < Duration::from_millis(700),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
    eventually("they are forgotten", DEADLINE, || {
        (stand.gateway.metric("keygate_connections") <= 1.0).then_some(())
    });
}

#[test]
fn a_tls_client_too_many_is_told_nothing_that_is_not_tls() {
    let stand = Stand::with(|setup| setup.tls().set("limits", "connections = 1"));
    let mut held = stand.gateway.client();
    let models = Call::get("/v1/models", &stand.all.token);
    assert_eq!(held.ask(&models).status, 200);
    for _ in 0..3 {
        let mut extra = Client::connect(stand.gateway.address);
        extra.assert_closed();
    }
    assert_eq!(held.ask(&models).status, 200);
}

#[test]
fn connections_that_say_nothing_lock_nobody_out_of_the_admin_listener() {
    let stand = Stand::with(|setup| setup.set("admin", "listen = \"127.0.0.1:0\""));
    let address = stand.gateway.admin_address();
    let silent: Vec<Client> = (0..400).map(|_| Client::connect(address)).collect();
    let health = Client::connect(address).ask(&Call::new("GET", "/healthz"));
    assert_eq!(health.status, 200);
    let unauthorized = Client::connect(address).ask(&Call::new("GET", "/api/status"));
    assert_eq!(unauthorized.status, 401);
    drop(silent);
}

#[test]
fn connections_without_a_key_give_way_to_new_ones() {
    for tls in [false, true] {
        let stand = Stand::with(|setup| {
            let setup = setup.line("workers = 2").set("limits", "connections = 8");
            if tls { setup.tls() } else { setup }
        });
        let models = Call::get("/v1/models", &stand.all.token);
        let mut keyed = stand.gateway.client();
        assert_eq!(keyed.ask(&models).status, 200);
        // Some say nothing, some begin a request, some have a wrong key.
        let mut keyless: Vec<Client> = (0..7).map(|_| stand.gateway.client()).collect();
        keyless[1].send(b"GET /v1/mod");
        let wrong = Call::get("/v1/models", "sk-wrong");
        assert_eq!(keyless[2].ask(&wrong).status, 401);
        for _ in 0..20 {
            let mut client = stand.gateway.client();
            assert_eq!(client.ask(&models).status, 200, "TLS: {tls}");
        }
        let mut held: Vec<Client> = (0..7).map(|_| stand.gateway.client()).collect();
        for client in &mut held {
            assert_eq!(client.ask(&models).status, 200, "TLS: {tls}");
        }
        for client in &mut keyless {
            assert!(client.ends_within(DEADLINE).is_some(), "TLS: {tls}");
        }
        assert_eq!(keyed.ask(&models).status, 200, "one with a key stays");
    }
}
