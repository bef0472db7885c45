//! Commands that speak to a running gateway: how they find it, what they print, and how they exit.

use serde_json::{Value, json};

use crate::commands::ran::{done, ok};
use crate::support::Cases;
use crate::support::client::Call;
use crate::support::client::Client;
use crate::support::gateway::{keygate, run};
use crate::support::stand::Stand;
use crate::support::token::{Key, key_file};

#[test]
fn what_is_refused_exits_1_and_wrong_usage_exits_2() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (arguments, code) in [
        (&["keys", "show", "no_such_key"][..], 1),
        (&["keys", "disable", "no_such_key"], 1),
        (&["keys", "delete", "no_such_key", "--yes"], 1),
        (&["keys", "update", "no_such_key", "--name", "x"], 1),
        (
            &["keys", "create", "--name", "x", "--expires", "2020-01-01"],
            1,
        ),
        (&["keys", "create", "--name", "x", "--allow-from", "::1"], 1),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--allow-from",
                "10.0.0.0/33",
            ],
            1,
        ),
        (&["keys", "create", "--name", "x", "--model", "good"], 1),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--model-access",
                "all",
                "--model",
                "good",
            ],
            1,
        ),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--model-access",
                "inclusive",
            ],
            1,
        ),
        (&["keys", "create", "--name", "a\nb"], 1),
        (&["keys", "create", "--name", ""], 1),
        (&["keys", "create"], 2),
        (&["keys", "create", "--name", "x", "--expires", "soon"], 2),
        (
            &["keys", "create", "--name", "x", "--model-access", "some"],
            2,
        ),
        (&["keys", "create", "--name", "x", "--unknown"], 2),
        (&["keys"], 2),
        (&["keys", "list", "extra"], 2),
        (&["nonsense"], 2),
        (&[], 2),
        (&["reload", "--nonsense"], 2),
        (&["explain", "--model", "good"], 2),
    ] {
        let ran = stand.gateway.run(arguments, "");
        // What is told apart by the command line alone may be told as wrong usage.
        let right = ran.code == Some(code)
            || (code == 1 && ran.code == Some(2) && arguments[1] == "create");
        let told = !ran.err.trim().is_empty() && ran.out.is_empty();
        cases.check(
            &format!("{arguments:?}"),
            (right && told).then_some(()).ok_or(format!("{ran:?}")),
        );
    }
    let keys = stand.gateway.admin_json("GET", "/api/status", None)["keys"].clone();
    cases.check(
        "nothing was made",
        (keys == 3).then_some(()).ok_or(keys.to_string()),
    );
    cases.done();
}

#[test]
fn a_panel_link_signs_in_once_and_only_the_socket_makes_one() {
    let stand = Stand::with(|setup| setup.set("admin", "listen = \"127.0.0.1:0\""));
    let address = stand.gateway.admin_address();
    let ran = stand.gateway.run(&["panel-link"], "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let start = format!("http://{address}/#link=");
    let code = ran
        .out
        .trim_end()
        .strip_prefix(&start)
        .expect("a link")
        .to_owned();
    assert!(code.len() == 43 && ran.out.lines().count() == 1, "{ran:?}");
    assert!(ran.err.contains("five minutes"), "{ran:?}");
    let asked = done(stand.gateway.run(&["panel-link", "--json"], ""));
    let asked: serde_json::Value = serde_json::from_str(&asked).expect("JSON");
    let other = asked["link"]
        .as_str()
        .and_then(|link| link.strip_prefix(&start));
    let sign_in = |code: &str| {
        let call = Call::new("POST", "/api/session").header("content-type", "application/json");
        let body = serde_json::json!({"link": code}).to_string();
        Client::connect(address).ask(&call.body(body))
    };
    let first = sign_in(&code);
    assert_eq!(first.status, 200, "{}", first.text());
    let cookie = first
        .header("set-cookie")
        .and_then(|line| line.split_once(';'))
        .expect("a cookie")
        .0;
    let answer = first.json();
    let secret = answer["secret"].as_str().expect("a secret");
    let keys = Call::new("GET", "/api/keys").header("cookie", cookie);
    assert_eq!(Client::connect(address).ask(&keys).status, 401);
    let keys = keys.header("x-keygate-session", secret);
    assert_eq!(Client::connect(address).ask(&keys).status, 200);
    assert_eq!(sign_in(&code).status, 401, "once");
    assert_eq!(
        sign_in(other.expect("a link")).status,
        200,
        "each by itself"
    );
    assert_eq!(sign_in("").status, 401);
    // Not over TCP, not even with the admin token.
    let admin =
        std::fs::read_to_string(stand.gateway.path("admin.token")).expect("the admin token");
    for token in [admin.trim(), "wrong"] {
        let call = Call::new("POST", "/api/session-links").bearer(token);
        let refused = Client::connect(address).ask(&call);
        assert!(
            matches!(refused.status, 401 | 404) && !refused.text().contains("#link"),
            "{}",
            refused.text()
        );
    }
    let log = stand.gateway.log().join("\n");
    assert!(log.contains("make_sign_in_link") && !log.contains(&code));
}

#[test]
fn without_an_admin_listener_a_panel_link_says_what_to_set() {
    let stand = Stand::new();
    let ran = stand.gateway.run(&["panel-link"], "");
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("admin.listen"), "{ran:?}");
}

#[test]
fn without_a_gateway_the_commands_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["status"][..],
        &["keys", "list"],
        &["reload"],
        &["panel-link"],
        &["keys", "create", "--name", "x"],
    ] {
        let ran = run(folder.path(), arguments, "");
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("keygate.sock"), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn the_socket_is_found_by_flag_environment_and_config() {
    let stand = Stand::new();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let socket = stand.gateway.socket();
    let socket = socket.to_str().expect("a path");
    done(run(elsewhere.path(), &["status", "--socket", socket], ""));
    let config = stand.gateway.path("keygate.toml");
    done(run(
        elsewhere.path(),
        &["status", "--config", config.to_str().expect("a path")],
        "",
    ));
    let by_environment = keygate(elsewhere.path())
        .arg("status")
        .env("KEYGATE_SOCKET", socket)
        .output()
        .expect("run");
    assert!(by_environment.status.success(), "{by_environment:?}");
    let by_config = keygate(elsewhere.path())
        .arg("status")
        .env("KEYGATE_CONFIG", &config)
        .output()
        .expect("run");
    assert!(by_config.status.success(), "{by_config:?}");
    done(stand.gateway.run(&["status"], ""));
}

#[test]
fn reload_and_status_and_explain_speak() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let stand = Stand::with(|setup| setup.keys(&[&old]));
    let gateway = &stand.gateway;
    let kept = [stand.all.clone(), stand.only.clone(), stand.all_but.clone()];
    let with = |more: &Key| {
        key_file(&[
            kept[0].clone(),
            kept[1].clone(),
            kept[2].clone(),
            more.clone(),
        ])
    };
    gateway.write_key_file(&with(&new));
    let dry = ok(gateway, &["reload", "--dry-run"]);
    assert!(dry.contains('1'), "{dry}");
    assert_eq!(gateway.ask(&Call::chat(&old.token, "good")).status, 200);
    ok(gateway, &["reload"]);
    assert_eq!(gateway.ask(&Call::chat(&new.token, "good")).status, 200);
    gateway.write_key_file("nonsense\n");
    let faulty = gateway.run(&["reload"], "");
    assert_eq!(faulty.code, Some(1));
    assert!(faulty.err.contains("keys.jsonl:1"), "{faulty:?}");
    gateway.write_key_file(&key_file(std::slice::from_ref(&new)));
    let dropping = gateway.run(&["reload"], "");
    assert_eq!(dropping.code, Some(1), "{dropping:?}");
    ok(gateway, &["reload", "--force"]);
    let status = ok(gateway, &["status"]);
    for fact in ["up", &stand.up.url()] {
        assert!(status.contains(fact), "{status}");
    }
    let status: Value = serde_json::from_str(&ok(gateway, &["status", "--json"])).expect("JSON");
    assert_eq!(status["keys"], 1);
    let allowed = ok(
        gateway,
        &[
            "explain",
            "--model",
            "good",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
        ],
    );
    assert!(allowed.to_lowercase().contains("allow"), "{allowed}");
    // Exit 0 either way, and the token is never an argument.
    let denied = done(gateway.run(
        &["explain", "--model", "none", "--from", "127.0.0.1"],
        &format!("{}\n", new.token),
    ));
    assert!(denied.to_lowercase().contains("den"), "{denied}");
    assert!(!denied.contains(&new.token));
    let denied: Value = serde_json::from_str(&ok(
        gateway,
        &[
            "explain",
            "--model",
            "none",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
            "--json",
        ],
    ))
    .expect("JSON");
    assert_eq!(
        (&denied["allowed"], &denied["denial"]),
        (&json!(false), &json!("model_not_found"))
    );
    let unknown = done(gateway.run(
        &["explain", "--model", "good", "--from", "127.0.0.1"],
        "sk-unknown\n",
    ));
    assert!(unknown.to_lowercase().contains("den"), "{unknown}");
    let later = ok(
        gateway,
        &[
            "explain",
            "--model",
            "good",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
            "--at",
            "2090-01-01T00:00:00Z",
        ],
    );
    assert!(later.to_lowercase().contains("allow"), "{later}");
}
