//! What happened can be read in the metrics (contract 6) and in the log, whatever clients send.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::admin::calls::{all, create};
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, eventually};

#[test]
fn the_metrics_count_what_happens() {
    let stand = Stand::held();
    let expired = json!({"name": "x", "model_access": {"mode": "all"}});
    create(&stand.gateway, &expired);
    let complete = |call: &Call| {
        let mut client = stand.gateway.client();
        client.send(&call.bytes());
        stand.up.next().complete();
        assert_eq!(client.answer().status, 200);
    };
    complete(&Call::chat(&stand.all.token, "good"));
    complete(&Call::chat(&stand.only.token, "good"));
    stand.gateway.ask(&Call::chat("sk-unknown", "good"));
    stand.gateway.ask(&Call::chat(&stand.only.token, "bad"));
    stand
        .gateway
        .ask(&Call::new("POST", "/v1/chat/completions"));
    assert_eq!(stand.gateway.reload().status, 200);
    eventually("the requests are counted", DEADLINE, || {
        (stand
            .gateway
            .metric("keygate_requests_total{outcome=\"allowed\"}")
            >= 2.0)
            .then_some(())
    });
    let metrics = stand.gateway.admin("GET", "/metrics", None);
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/plain"))
    );
    let mut cases = Cases::new();
    for (name, value) in [
        ("keygate_requests_total{outcome=\"allowed\"}", 2.0),
        ("keygate_requests_total{outcome=\"invalid_api_key\"}", 1.0),
        ("keygate_requests_total{outcome=\"missing_api_key\"}", 1.0),
        ("keygate_requests_total{outcome=\"model_not_found\"}", 1.0),
        (
            "keygate_responses_total{status=\"200\",upstream=\"up\"}",
            2.0,
        ),
        ("keygate_in_flight", 0.0),
        ("keygate_keys", 4.0),
        ("keygate_reloads_total{result=\"ok\"}", 1.0),
    ] {
        let shown = stand.gateway.metric(name);
        cases.check(
            name,
            ((shown - value).abs() < 0.5)
                .then_some(())
                .ok_or(format!("{shown} instead of {value}:\n{}", metrics.text())),
        );
    }
    let url = stand.up.url();
    for name in [
        "keygate_request_seconds",
        "keygate_first_byte_seconds",
        "keygate_overhead_seconds",
        "keygate_in_flight",
        "keygate_connections",
        "keygate_keys",
        "keygate_generation",
        "keygate_reloads_total",
        "keygate_last_reload_timestamp_seconds",
        "keygate_upstream_up",
        "keygate_build_info",
    ] {
        let there = metrics.text().lines().any(|line| line.starts_with(name));
        cases.check(name, there.then_some(()).ok_or("is not there".to_owned()));
    }
    let up = metrics.text().lines().any(|line| {
        line.starts_with("keygate_upstream_up{")
            && line.contains("upstream=\"up\"")
            && line.contains(&url)
            && line.ends_with(" 1")
    });
    cases.check(
        "keygate_upstream_up",
        up.then_some(()).ok_or(metrics.text()),
    );
    cases.done();
}

#[test]
fn no_label_grows_with_what_clients_send() {
    let stand = Stand::new();
    let series = || {
        stand
            .gateway
            .metrics()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| series.to_owned())
            .collect::<BTreeSet<String>>()
    };
    let provoke = |at: usize| {
        stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, &format!("model-{at}")));
        stand.gateway.ask(&Call::chat(&format!("sk-{at}"), "good"));
        stand
            .gateway
            .ask(&Call::get(&format!("/path-{at}"), &stand.all.token));
        stand.gateway.ask(
            &Call::new(&format!("METHOD{at}"), "/v1/chat/completions").bearer(&stand.all.token),
        );
        stand.gateway.ask(
            &Call::get("/v1/models", &stand.all.token)
                .header("host", &format!("host-{at}.example")),
        );
    };
    // A request is counted after its answer.
    for at in 0..2 {
        provoke(at);
    }
    eventually("all are counted", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    let before = series();
    for at in 2..40 {
        provoke(at);
    }
    let after = series();
    let more: Vec<&String> = after.difference(&before).collect();
    assert!(more.is_empty(), "{more:?}");
    let text = stand.gateway.metrics();
    for word in [
        "model-",
        "sk-",
        "path-",
        "METHOD",
        "host-",
        "127.0.0.1\"",
        "key_all",
        "kg_",
    ] {
        assert!(!text.contains(word), "{word} is in the metrics");
    }
}

#[test]
fn a_log_line_stays_one_line_whatever_a_client_sends() {
    let stand = Stand::new();
    let hostile = "a\u{1b}[31m\u{202e}\"},{\"event\":\"forged\u{2028}";
    let body = json!({"model": hostile}).to_string();
    stand
        .gateway
        .ask(&Call::json("/v1/chat/completions", &stand.all.token, body));
    stand.gateway.ask(&Call::get(
        "/v1/models/%0a%0d%1b%5b31m%22",
        &stand.all.token,
    ));
    stand
        .gateway
        .ask(&Call::get("/\"},{\\\"", &stand.all.token).header("user-agent", "\"\u{e4}\u{202e}"));
    stand.gateway.ask(&Call::get(
        "/v1/models?secret=query-string",
        &stand.all.token,
    ));
    let prompt =
        json!({"model": "good", "messages": [{"role": "user", "content": "a very secret prompt"}]})
            .to_string();
    stand.gateway.ask(
        &Call::json(
            "/v1/chat/completions?api_key=query-string",
            &stand.all.token,
            prompt,
        )
        .header("x-request-id", "last-one"),
    );
    stand
        .gateway
        .process
        .line("the last request", |line| line.contains("last-one"));
    for line in stand.gateway.log() {
        let parsed: Result<Value, _> = serde_json::from_str(&line);
        assert!(parsed.is_ok(), "not one JSON object: {line}");
        assert!(
            line.chars()
                .all(|sign| !sign.is_control() && !"\u{202e}\u{2028}".contains(sign)),
            "control characters: {line:?}"
        );
        assert_ne!(parsed.expect("JSON")["event"], "forged");
        for secret in ["query-string", "secret prompt"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn every_change_leaves_a_line_that_says_who_did_what() {
    let stand = Stand::new();
    let made = create(&stand.gateway, &all("noted"));
    let id = made["key"]["id"].as_str().expect("an id").to_owned();
    stand.gateway.admin_json(
        "PATCH",
        &format!("/api/keys/{id}"),
        Some(&json!({"account": "acme"})),
    );
    stand
        .gateway
        .admin("DELETE", &format!("/api/keys/{id}"), None);
    stand.gateway.reload();
    let lines = || -> Vec<String> {
        stand
            .gateway
            .log()
            .into_iter()
            .filter(|line| line.contains(&id))
            .collect()
    };
    eventually("create, change and delete are logged", DEADLINE, || {
        (lines().len() >= 3).then_some(())
    });
    let uid = rustix::process::getuid().as_raw().to_string();
    for line in lines() {
        assert!(line.contains(&uid), "who did it is not in {line}");
    }
    assert!(
        lines().iter().any(|line| line.contains("account")),
        "the changed field is not named: {:?}",
        lines()
    );
    stand
        .gateway
        .process
        .line("the reload", |line| line.contains("reload"));
}
