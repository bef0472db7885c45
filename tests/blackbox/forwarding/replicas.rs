//! Which replica of an upstream gets a request, and when one is set aside and taken back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Call, Client};
use crate::support::gateway::Setup;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::{Exchange, Recorder, Reserved};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually};

#[test]
fn a_replica_that_refuses_is_tried_past_set_aside_and_taken_back() {
    let first = Recorder::answering();
    let down = Reserved::new();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&down.url(), &first.url()], &["good"])
        .keys(&[&key])
        .start();
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    }
    assert_eq!(first.requests().len(), 20);
    let up = |url: &str| {
        let status = gateway.admin_json("GET", "/api/status", None);
        let replicas = status["upstreams"][0]["replicas"]
            .as_array()
            .expect("replicas")
            .clone();
        let replica = replicas
            .iter()
            .find(|replica| replica["url"] == url)
            .expect("the replica");
        replica["up"].as_bool().expect("up or not")
    };
    assert!(up(&first.url()));
    assert!(!up(&down.url()), "nobody noticed that it refuses");
    let url = down.url();
    let second = down.open(Exchange::complete);
    eventually("the replica is taken back", DEADLINE, || {
        up(&url).then_some(())
    });
    eventually("it gets requests", DEADLINE, || {
        assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
        (!second.requests().is_empty()).then_some(())
    });
    // And the other way round, under load.
    let address = first.down();
    for _ in 0..20 {
        let response = gateway.ask(&Call::chat(&key.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    drop(address);
}

#[test]
fn without_a_healthy_replica_the_upstream_is_unavailable_until_one_is_back() {
    let down = [Reserved::new(), Reserved::new()];
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&down[0].url(), &down[1].url()], &["good"])
        .keys(&[&key])
        .start();
    let start = Instant::now();
    let first = gateway.ask(&Call::chat(&key.token, "good"));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "refused at once: {:?}",
        start.elapsed()
    );
    assert!(matches!(first.status, 502 | 503), "{}", first.text());
    for protocol in BOTH {
        assert_error(
            &h2::ask(protocol, &gateway, &Call::chat(&key.token, "good")),
            503,
            "upstream_unavailable",
        );
    }
    // The models are still known, and a denial still comes before.
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "other")),
        404,
        "model_not_found",
    );
    let [one, _other] = down;
    let _up = one.open(Exchange::complete);
    eventually("it recovers", Duration::from_secs(5), || {
        (gateway.ask(&Call::chat(&key.token, "good")).status == 200).then_some(())
    });
}

#[test]
fn a_broken_answer_does_not_set_a_replica_aside() {
    let stand = Stand::before(Recorder::start(drop), |setup| setup);
    for _ in 0..5 {
        assert_error(
            &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
            502,
            "upstream_unreachable",
        );
    }
    stand.up.script(Exchange::complete);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
}

#[test]
fn requests_go_to_the_replica_with_the_fewest_in_flight() {
    let (first, second) = (Recorder::held(), Recorder::held());
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .line("workers = 1")
        .upstream("up", &[&first.url(), &second.url()], &["good"])
        .keys(&[&key])
        .start();
    let mut clients: Vec<Client> = (0..6).map(|_| gateway.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&Call::chat(&key.token, "good").bytes());
        eventually("it reached a replica", DEADLINE, || {
            (first.requests().len() + second.requests().len() > at).then_some(())
        });
    }
    assert_eq!(first.requests().len(), 3);
    assert_eq!(second.requests().len(), 3);
}

#[test]
fn whether_a_replica_is_up_is_known_before_a_request_needs_it() {
    let (up, down) = (Recorder::answering(), Reserved::new());
    let gateway = Setup::new()
        .upstream("up", &[&up.url(), &down.url()], &["good"])
        .start();
    eventually("both were tried", DEADLINE, || {
        let status = gateway.admin_json("GET", "/api/status", None);
        let replicas = status["upstreams"][0]["replicas"].clone();
        let known = json!([{"url": up.url(), "up": true}, {"url": down.url(), "up": false}]);
        (replicas == known).then_some(())
    });
    assert_eq!(up.untouched(), Ok(()), "a probe is no request");
}
