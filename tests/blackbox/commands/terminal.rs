//! Nothing that a command prints can steer the terminal.

use serde_json::{Value, json};

use crate::support::gateway::{Setup, run};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;

#[test]
fn names_from_the_key_file_cannot_steer_the_terminal() {
    // No control characters are in a name; what looks like one may be.
    let key = Key::all("key_odd").with("name", "a\u{202e}b\u{9b}31m\u{200b}");
    let up = Recorder::answering();
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let folder = setup.path("");
    let listed = run(&folder, &["keys", "list", "--keys", "keys.jsonl"], "");
    // U+009B is a control character: the file may be refused for it, but it is never printed.
    for text in [&listed.out, &listed.err] {
        assert!(
            !text.contains('\u{9b}') && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }
}

#[test]
fn no_answer_of_the_admin_api_can_steer_a_terminal() {
    let name = "a\u{2029}b\u{2028}c";
    let model = "m\u{202e}\u{e0041}\u{200b}";
    let key = Key::only("key_odd", &[model]).with("name", name);
    let stand = Stand::with(|setup| setup.keys(&[&key]));
    let list = stand.gateway.admin("GET", "/api/keys", None);
    let explained = json!({"key": "key_odd", "model": "x\u{202e}y\u{7f}", "from": "192.0.2.1"});
    let fault = json!({"name": "x", "model_access": {"mode": "all"}, "odd\u{202e}\u{85}": 1});
    for answer in [
        list,
        stand.gateway.admin("GET", "/api/keys/key_odd", None),
        stand
            .gateway
            .admin("POST", "/api/explain", Some(&explained)),
        stand.gateway.admin("POST", "/api/keys", Some(&fault)),
        stand.gateway.admin("GET", "/api/\u{202e}", None),
    ] {
        let text = answer.text();
        let steers = |sign: &char| !matches!(sign, ' '..='~');
        assert_eq!(text.chars().find(steers), None, "{text:?}");
        serde_json::from_slice::<Value>(&answer.body).expect("JSON");
    }
    let shown = stand.gateway.admin("GET", "/api/keys/key_odd", None);
    assert_eq!(shown.json()["name"], name);
    assert_eq!(shown.json()["model_access"]["models"][0], model);
}
