//! Which upstream serves which model, and what clients get while an upstream has not said so yet.

use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
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

/// The upstream that gets a request for this model: the name of the one of `ups` that saw it.
fn served_by<'a>(
    gateway: &Gateway,
    key: &Key,
    model: &str,
    ups: &[(&'a str, &Recorder)],
) -> &'a str {
    for (_, up) in ups {
        up.forget();
    }
    let response = gateway.ask(&Call::chat(&key.token, model));
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = |up: &Recorder| !up.requests_for("/v1/chat/completions").is_empty();
    let found: Vec<&str> = ups
        .iter()
        .filter(|(_, up)| seen(up))
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[test]
fn a_configured_name_is_served_where_the_config_says_whoever_else_names_it() {
    let named = Recorder::answering();
    let thief = Recorder::start(|exchange| exchange.serve_models(&["good", "own"]));
    let key = Key::all("key_all");
    // The order of the config does not matter.
    let setups = [
        Setup::new()
            .upstream("thief", &[&thief.url()], &[])
            .upstream("named", &[&named.url()], &["good"]),
        Setup::new()
            .upstream("named", &[&named.url()], &["good"])
            .upstream("thief", &[&thief.url()], &[]),
    ];
    for setup in setups {
        let gateway = setup.keys(&[&key]).start();
        let ups = [("named", &named), ("thief", &thief)];
        eventually("the other's models are found", DEADLINE, || {
            (gateway.ask(&Call::chat(&key.token, "own")).status == 200).then_some(())
        });
        assert_eq!(served_by(&gateway, &key, "good", &ups), "named");
        assert_eq!(served_by(&gateway, &key, "own", &ups), "thief");
        let line = gateway
            .process
            .line("the clash", |line| line.contains("model_served_twice"));
        for part in ["\"good\"", "\"named\"", "\"thief\""] {
            assert!(line.contains(part), "{line}");
        }
        assert!((gateway.metric("keygate_model_clashes") - 1.0).abs() < 0.1);
    }
}

#[test]
fn a_found_name_stays_with_its_first_upstream_and_a_reload_that_configures_it_moves_it() {
    let early = Recorder::start(|exchange| exchange.serve_models(&["both"]));
    let late = Recorder::start(|exchange| exchange.serve_models(&["late"]));
    let key = Key::all("key_all");
    // `late` stands first in the config, but names the model later.
    let gateway = Setup::new()
        .upstream("late", &[&late.url()], &[])
        .upstream("early", &[&early.url()], &[])
        .keys(&[&key])
        .start();
    let ups = [("late", &late), ("early", &early)];
    assert_eq!(served_by(&gateway, &key, "both", &ups), "early");
    late.script(|exchange| exchange.serve_models(&["late", "both"]));
    // Its settings change, so it is asked again at once.
    let url = late.url();
    gateway.change_config(&url, &url.replace("127.0.0.1", "localhost"));
    assert_eq!(gateway.reload().status, 200);
    gateway
        .process
        .line("the clash", |line| line.contains("model_served_twice"));
    assert_eq!(served_by(&gateway, &key, "both", &ups), "early");
    // Also while its owner does not answer.
    early.script(|exchange| match exchange.seen.target.as_str() {
        "/v1/models" => exchange.reply("500 No", "", ""),
        _ => exchange.complete(),
    });
    let url = early.url();
    gateway.change_config(&url, &url.replace("127.0.0.1", "localhost"));
    assert_eq!(gateway.reload().status, 200);
    gateway
        .process
        .line("its failure", |line| line.contains("models_unknown"));
    assert_eq!(served_by(&gateway, &key, "both", &ups), "early");
    gateway.change_config("name = \"late\"", "name = \"late\"\nmodels = [\"both\"]");
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(served_by(&gateway, &key, "both", &ups), "late");
}

#[test]
fn while_an_upstream_was_never_heard_of_an_unknown_model_may_be_its_own() {
    let (quick, slow) = (Recorder::answering(), Reserved::new());
    let (all, only) = (
        Key::all("key_all"),
        Key::only("key_only", &["good", "coming"]),
    );
    let gateway = Setup::new()
        .upstream("quick", &[&quick.url()], &["good"])
        .upstream("slow", &[&slow.url()], &[])
        .keys(&[&all, &only])
        .start();
    for protocol in BOTH {
        let ask =
            |key: &Key, model: &str| h2::ask(protocol, &gateway, &Call::chat(&key.token, model));
        assert_eq!(ask(&all, "good").status, 200);
        for (key, model) in [(&all, "coming"), (&only, "coming")] {
            let response = ask(key, model);
            assert_error(&response, 503, "not_ready");
            assert_eq!(response.all("retry-after"), ["5"]);
        }
        let one = Call::get("/v1/models/coming", &all.token);
        assert_error(&h2::ask(protocol, &gateway, &one), 503, "not_ready");
        // A key that may not use a model learns nothing of who is there.
        for model in ["other", "another"] {
            assert_error(&ask(&only, model), 404, "model_not_found");
        }
    }
    let ready = gateway.admin("GET", "/readyz", None);
    assert_eq!(ready.status, 200);
    assert!(
        ready.text().contains("upstream slow has not said"),
        "{}",
        ready.text()
    );
    let _slow = slow.open(|exchange| exchange.serve_models(&["coming"]));
    eventually("it is found", DEADLINE, || {
        (gateway.ask(&Call::chat(&only.token, "coming")).status == 200).then_some(())
    });
    assert_error(
        &gateway.ask(&Call::chat(&all.token, "nothing")),
        404,
        "model_not_found",
    );
    assert_eq!(gateway.admin("GET", "/readyz", None).text(), "ready\n");
}

#[test]
fn a_list_of_models_that_is_null_is_empty() {
    let empty = Recorder::start(|exchange| exchange.reply_json(r#"{"object":"list","data":null}"#));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("ollama", &[&empty.url()], &[])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(0));
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "good")),
        404,
        "model_not_found",
    );
}

#[test]
fn a_model_whose_name_holds_u_0000_is_in_no_catalogue() {
    let up = Recorder::start(|exchange| {
        exchange.reply_json(r#"{"object":"list","data":[{"id":"good"},{"id":"bad\u0000"}]}"#);
    });
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &[])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    // A parser that ends texts at U+0000 would serve `bad`.
    let call = Call::chat(&key.token, "bad\0");
    assert_error(&gateway.ask(&call), 404, "model_not_found");
}
