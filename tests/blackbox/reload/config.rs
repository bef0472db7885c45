//! A changed config is taken in the parts that can change while the gateway runs, and what needs a restart is named.

use crate::reload::key_file::{refs, status, with_crowd};
use crate::support::client::{Call, End};
use crate::support::h2::{Protocol, Stream};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error};

#[test]
fn upstreams_are_reloaded_while_what_runs_goes_on() {
    let stand = Stand::held();
    let other = Recorder::answering();
    let mut stream = Stream::open(
        Protocol::Http1,
        &stand.gateway,
        &Call::chat(&stand.all.token, "good"),
    );
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    stand.gateway.change_config(&stand.up.url(), &other.url());
    stand.gateway.change_config("\"bad\"", "\"new\"");
    assert_eq!(stand.gateway.reload().status, 200);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "new"))
            .status,
        200
    );
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "bad")),
        404,
        "model_not_found",
    );
    assert_eq!(other.requests().len(), 2);
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(
        (response.text().as_str(), response.end),
        ("data: one\n\ndata: two\n\n", End::Whole)
    );
}

#[test]
fn a_price_for_a_model_that_nobody_serves_is_a_warning_at_the_start_and_at_a_reload() {
    let stand = Stand::with(|setup| setup.table("[[prices]]\nmodel = \"misspelt\"\ninput = 1\n"));
    let warned = |model: &str| {
        stand.gateway.process.line(model, |line| {
            line.contains("\"warn\"") && line.contains("no upstream serves") && line.contains(model)
        });
    };
    warned("misspelt");
    stand.gateway.change_config("misspelt", "mistaken");
    assert_eq!(stand.gateway.reload().status, 200);
    warned("mistaken");
    let checked = stand.gateway.run(&["check"], "");
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(
        checked.out.contains("warning: ") && checked.out.contains("mistaken"),
        "{}",
        checked.out
    );
}

#[test]
fn what_is_faulty_stays_as_it_was_and_the_rest_is_taken() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let (_up, gateway, keys) = with_crowd(&[&old], |setup| setup);
    let config = std::fs::read_to_string(gateway.path("keygate.toml")).expect("the config");
    // A faulty config, and a sound key file.
    std::fs::write(
        gateway.path("keygate.toml"),
        config.replace("url = ", "uri = "),
    )
    .expect("written");
    gateway.write_keys(&refs(&keys, &[&new]));
    let response = gateway.reload();
    assert_eq!(response.status, 422, "{}", response.text());
    let faults = response.json()["error"]["faults"].clone();
    assert!(faults.to_string().contains("keygate.toml"), "{faults}");
    assert_eq!(status(&gateway, &new), 200, "the key file is sound");
    assert_eq!(status(&gateway, &old), 401);
    // A faulty key file, and a sound config with a model more.
    std::fs::write(
        gateway.path("keygate.toml"),
        config.replace("\"bad\"", "\"bad\", \"more\""),
    )
    .expect("written");
    gateway.write_key_file("nonsense\n");
    assert_eq!(gateway.reload().status, 422);
    assert_eq!(
        gateway.ask(&Call::chat(&new.token, "more")).status,
        200,
        "the upstreams are sound"
    );
}

#[test]
fn what_needs_a_restart_is_named() {
    let key = Key::all("key_here");
    let (_up, gateway, _) = with_crowd(&[&key], |setup| {
        setup
            .line("workers = 1")
            .set("limits", "request_body = \"1MiB\"")
    });
    gateway.change_config("workers = 1", "workers = 2");
    gateway.change_config("1MiB", "2MiB");
    let answer = gateway.admin_json("POST", "/api/reload", None);
    let needed = answer["restart_needed"].as_array().expect("a list");
    assert!(
        needed.iter().any(|field| field
            .as_str()
            .is_some_and(|field| field.contains("workers"))),
        "{answer}"
    );
    assert_eq!(status(&gateway, &key), 200);
}
