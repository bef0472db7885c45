//! Which upstream serves which model, and what clients get while an upstream has not said so yet.

use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

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
