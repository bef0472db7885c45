//! Which upstream serves which model, and what clients get while an upstream has not said so yet.

use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::{Exchange, Recorder, Reserved};
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually};

#[test]
fn a_reload_that_brings_a_silent_upstream_refuses_nobody_what_the_others_serve() {
    let (up, silent) = (Recorder::answering(), Recorder::held());
    let key = Key::all("key_all");
    let gateway = Setup::before(&up).keys(&[&key]).start();
    let more = format!(
        "[[upstreams]]\nname = \"silent\"\nurl = \"{}\"\n\n[[upstreams]]",
        silent.url()
    );
    gateway.change_config("[[upstreams]]", &more);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    let _unanswered = silent.next();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", None).status, 200);
}

#[test]
fn an_upstream_whose_settings_change_keeps_the_models_it_named() {
    let up = Recorder::start(|exchange| exchange.serve_models(&["found"]));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &[])
        .keys(&[&key])
        .start();
    eventually("the model is found", DEADLINE, || {
        (gateway.ask(&Call::chat(&key.token, "found")).status == 200).then_some(())
    });
    // Asked again, it says nothing.
    up.script(|exchange| match exchange.seen.target.as_str() {
        "/v1/models" => exchange.keep(),
        _ => exchange.complete(),
    });
    let url = up.url();
    let other = url.replace("127.0.0.1", "localhost");
    gateway.change_config(&url, &other);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "found")).status, 200);
}

#[test]
fn models_are_discovered_and_each_goes_to_the_upstream_that_serves_it() {
    let one = Recorder::start(|exchange| {
        if exchange.seen.target == "/v1/models" {
            // llama.cpp's answer has a second list, and aliases.
            exchange.reply_json(
                r#"{"models":[{"name":"hidden","model":"hidden"}],"object":"list","data":[{"id":"llama","aliases":["alias"],"object":"model"},{"id":"both"}]}"#,
            );
        } else {
            exchange.complete();
        }
    });
    let two = Recorder::start(|exchange| exchange.serve_models(&["both", "qwen", "org/two"]));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("one", &[&one.url()], &[])
        .upstream("two", &[&two.url()], &[])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    let mut ids: Vec<&str> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["both", "llama", "org/two", "qwen"]);
    for (model, upstream) in [
        ("llama", &one),
        ("both", &one),
        ("qwen", &two),
        ("org/two", &two),
    ] {
        assert_eq!(gateway.ask(&Call::chat(&key.token, model)).status, 200);
        let body: serde_json::Value = serde_json::from_slice(&upstream.last().body).expect("JSON");
        assert_eq!(body["model"], model);
    }
    for model in ["hidden", "alias"] {
        assert_error(
            &gateway.ask(&Call::chat(&key.token, model)),
            404,
            "model_not_found",
        );
    }
}

#[test]
fn until_the_catalogue_is_there_the_gateway_is_not_ready_and_nobody_is_told_that_a_key_is_bad() {
    let up = Recorder::held();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &[])
        .keys(&[&key])
        .launch();
    let discovery = up.next();
    assert_eq!(
        (
            discovery.seen.method.as_str(),
            discovery.seen.target.as_str()
        ),
        ("GET", "/v1/models")
    );
    for protocol in BOTH {
        assert_error(
            &h2::ask(protocol, &gateway, &Call::chat(&key.token, "good")),
            503,
            "not_ready",
        );
    }
    assert_eq!(gateway.admin("GET", "/healthz", None).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", None).status, 503);
    up.script(Exchange::complete);
    discovery.list_models(&["good"]);
    gateway.wait_ready();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}

#[test]
fn an_upstream_that_refuses_or_answers_nonsense_at_start_contributes_nothing() {
    let down = Reserved::new();
    let nonsense = Recorder::start(|exchange| exchange.reply_json("[1,2"));
    let quick = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("down", &[&down.url()], &[])
        .upstream("nonsense", &[&nonsense.url()], &[])
        .upstream("quick", &[&quick.url()], &["good"])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}
