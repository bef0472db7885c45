//! Limits and budgets from the shell, and what `explain` says of them.

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;

fn started(up: &Recorder, key: &Key) -> Gateway {
    Setup::before(up).keys(&[key]).start()
}

fn shown(gateway: &Gateway, id: &str) -> Value {
    gateway.admin_json("GET", &format!("/api/keys/{id}"), None)
}

#[track_caller]
fn run(gateway: &Gateway, arguments: &[&str]) -> String {
    let ran = gateway.run(arguments, "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    ran.out
}

#[test]
fn limits_and_budgets_are_set_changed_and_cleared_from_the_shell() {
    let (up, key) = (Recorder::answering(), Key::all("key_shell"));
    let gateway = started(&up, &key);
    let update = |arguments: &[&str]| {
        run(
            &gateway,
            &[&["keys", "update", "key_shell"], arguments].concat(),
        )
    };
    let out = update(&[
        "--requests-per-minute",
        "60",
        "--tokens-per-minute",
        "100K",
        "--budget",
        "tokens=5M/month",
        "--budget",
        "cost=25.00/day,observe",
    ]);
    assert!(
        out.contains("Limits: requests_per_minute 60, tokens_per_minute 100000\n"),
        "{out}"
    );
    assert!(
        out.contains("Budgets: tokens=5000000/month, cost=25/day,observe\n"),
        "{out}"
    );
    let now = shown(&gateway, "key_shell");
    assert_eq!(
        now["limits"],
        json!({"requests_per_minute": 60, "tokens_per_minute": 100_000})
    );
    let budgets = json!([
        {"unit": "tokens", "amount": 5_000_000, "per": "month", "mode": "enforce"},
        {"unit": "cost", "amount": "25", "per": "day", "mode": "observe"},
    ]);
    assert_eq!(now["budgets"], budgets);
    // It is in the file so.
    let file = gateway.key_file();
    let line: Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["limits"], &line["budgets"]),
        (&now["limits"], &now["budgets"])
    );
    update(&[
        "--requests-per-minute",
        "none",
        "--tokens-per-minute",
        "default",
        "--concurrent-requests",
        "8",
    ]);
    let now = shown(&gateway, "key_shell");
    assert_eq!(
        now["limits"],
        json!({"requests_per_minute": "unlimited", "concurrent_requests": 8})
    );
    assert_eq!(now["budgets"], budgets);
    update(&["--budget", "none"]);
    assert_eq!(shown(&gateway, "key_shell")["budgets"], json!([]));
    let created = run(
        &gateway,
        &[
            "keys",
            "create",
            "--name",
            "n",
            "--concurrent-requests",
            "2",
            "--json",
        ],
    );
    let created: Value = serde_json::from_str(&created).unwrap();
    assert_eq!(created["key"]["limits"], json!({"concurrent_requests": 2}));
}

#[test]
fn a_limit_or_a_budget_that_cannot_be_is_refused_with_the_way_to_write_it() {
    let (up, key) = (Recorder::answering(), Key::all("key_shell"));
    let gateway = started(&up, &key);
    for (argument, value, part) in [
        ("--requests-per-minute", "0", "from 1 to"),
        ("--tokens-per-minute", "1.5", "from 1 to"),
        ("--budget", "words=5/day", "no unit"),
        ("--budget", "tokens=5", "tokens=5M/month"),
        ("--budget", "tokens=5/hour", "per: "),
        ("--budget", "cost=0/day", "amount: "),
        ("--budget", "tokens=5/day,warn", "mode: "),
    ] {
        let ran = gateway.run(&["keys", "update", "key_shell", argument, value], "");
        assert_eq!(ran.code, Some(2), "{argument} {value}: {}", ran.err);
        assert!(ran.err.contains(part), "{argument} {value}: {}", ran.err);
    }
    let path = "/api/keys/key_shell";
    for (body, field) in [
        (
            json!({"limits": {"requests_per_minute": 0}}),
            "limits.requests_per_minute",
        ),
        (json!({"limits": {"requests": 1}}), "limits"),
        (
            json!({"budgets": [{"unit": "tokens", "amount": 1, "per": "year"}]}),
            "budgets.per",
        ),
    ] {
        let refused = gateway.admin("PATCH", path, Some(&body));
        assert_eq!(
            (refused.status, &refused.json()["error"]["field"]),
            (422, &json!(field))
        );
    }
}

#[test]
fn explain_names_the_limit_that_would_refuse_now() {
    let up = Recorder::answering();
    let key = Key::all("key_shell")
        .with("limits", json!({"requests_per_minute": 1}))
        .with(
            "budgets",
            json!([{"unit": "requests", "amount": 1, "per": "total"}]),
        );
    let gateway = started(&up, &key);
    let explain = || {
        run(
            &gateway,
            &[
                "explain",
                "--model",
                "good",
                "--from",
                "127.0.0.1",
                "--key",
                "key_shell",
            ],
        )
    };
    assert!(explain().contains("allowed"), "{}", explain());
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    let said = explain();
    assert!(
        said.contains("denied")
            && (said.contains("requests_per_minute") || said.contains("budget of requests")),
        "{said}"
    );
}
