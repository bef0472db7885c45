//! How much of a key may be used: by day, week, month, or in all.

use serde_json::{Value, json};

use crate::support::client::{Call, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::usage::records;
use crate::support::{DEADLINE, assert_error, eventually};

const USED: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":60,"completion_tokens":40,"total_tokens":100}}"#;
const PRICES: &str = "[[prices]]\nmodel = \"good\"\ninput = 1000\noutput = 1000\n";

fn counting() -> Recorder {
    Recorder::start(|exchange| exchange.reply_json(USED))
}

fn with_budgets(budgets: Value) -> Key {
    Key::all("key_budget").with("budgets", budgets)
}

fn started(up: &Recorder, key: &Key) -> Gateway {
    Setup::before(up).table(PRICES).keys(&[key]).start()
}

/// A request that asks for one token.
fn ask(gateway: &Gateway, key: &Key) -> Response {
    let body = r#"{"model":"good","max_tokens":1}"#;
    gateway.ask(&Call::json("/v1/chat/completions", &key.token, body))
}

/// The key's first budget, as it sees it itself.
fn budget(gateway: &Gateway, key: &Key) -> Value {
    gateway.ask(&Call::get("/v1/key", &key.token)).json()["budgets"][0].clone()
}

#[track_caller]
fn wait_used(gateway: &Gateway, key: &Key, used: &Value) {
    eventually("the budget is settled", DEADLINE, || {
        (budget(gateway, key)["used"] == *used).then_some(())
    });
}

#[track_caller]
fn assert_spent(response: &Response) {
    assert_eq!(response.status, 429, "{}", response.text());
    let error = &response.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("insufficient_quota"), &json!("insufficient_quota"))
    );
    assert_eq!(response.header("x-should-retry"), Some("false"));
    assert_eq!(response.header("retry-after"), None);
}

#[test]
fn each_unit_is_spent_and_then_refused() {
    for (unit, amount, used) in [
        ("tokens", json!(150), json!(200)),
        ("requests", json!(2), json!(2)),
        ("cost", json!("0.15"), json!("0.2")),
    ] {
        let up = counting();
        let key = with_budgets(json!([{"unit": unit, "amount": amount, "per": "month"}]));
        let gateway = started(&up, &key);
        assert_eq!(ask(&gateway, &key).status, 200, "{unit}");
        eventually("the first is settled", DEADLINE, || {
            (budget(&gateway, &key)["used"]
                != match unit {
                    "cost" => json!("0"),
                    _ => json!(0),
                })
            .then_some(())
        });
        assert_eq!(ask(&gateway, &key).status, 200, "{unit}");
        wait_used(&gateway, &key, &used);
        let refused = ask(&gateway, &key);
        assert_spent(&refused);
        let message = refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(message.contains("begins anew at 20"), "{message}");
        let shown = budget(&gateway, &key);
        assert_eq!(
            (
                &shown["unit"],
                &shown["per"],
                &shown["amount"],
                &shown["mode"]
            ),
            (&json!(unit), &json!("month"), &amount, &json!("enforce"))
        );
        assert!(
            shown["resets_at"]
                .as_str()
                .unwrap()
                .ends_with("-01T00:00:00Z"),
            "{shown}"
        );
        assert_eq!(up.requests().len(), 2, "{unit}");
    }
}

#[test]
fn what_is_spent_outlives_a_restart_and_an_edit_of_the_amount() {
    let up = counting();
    let key = with_budgets(json!([{"unit": "tokens", "amount": 150, "per": "total"}]));
    let mut gateway = started(&up, &key);
    assert_eq!(ask(&gateway, &key).status, 200);
    wait_used(&gateway, &key, &json!(100));
    records(&gateway, 1);
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    assert_eq!(budget(&gateway, &key)["used"], 100);
    assert_eq!(ask(&gateway, &key).status, 200);
    wait_used(&gateway, &key, &json!(200));
    assert_spent(&ask(&gateway, &key));
    let path = format!("/api/keys/{}", key.id);
    let more = json!({"budgets": [{"unit": "tokens", "amount": 250, "per": "total"}]});
    gateway.admin_json("PATCH", &path, Some(&more));
    assert_eq!(budget(&gateway, &key)["used"], 200);
    assert_eq!(ask(&gateway, &key).status, 200);
}

#[test]
fn a_budget_that_is_set_later_counts_what_was_used_before() {
    let up = counting();
    let key = Key::all("key_budget");
    let gateway = started(&up, &key);
    assert_eq!(ask(&gateway, &key).status, 200);
    records(&gateway, 1);
    let path = format!("/api/keys/{}", key.id);
    let budgets = json!({"budgets": [{"unit": "requests", "amount": 1, "per": "total"}]});
    gateway.admin_json("PATCH", &path, Some(&budgets));
    assert_spent(&ask(&gateway, &key));
}

#[test]
fn a_budget_that_is_taken_away_and_given_again_counts_what_was_used_between() {
    let up = counting();
    let budgets = json!([{"unit": "tokens", "amount": 1000, "per": "total"}]);
    let key = with_budgets(budgets.clone());
    let gateway = started(&up, &key);
    assert_eq!(ask(&gateway, &key).status, 200);
    let path = format!("/api/keys/{}", key.id);
    gateway.admin_json("PATCH", &path, Some(&json!({"budgets": null})));
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &key).status, 200);
    }
    records(&gateway, 4);
    gateway.admin_json("PATCH", &path, Some(&json!({"budgets": budgets})));
    assert_eq!(budget(&gateway, &key)["used"], 400);
}

#[test]
fn a_budget_that_is_set_or_lowered_below_what_was_used_tells_its_marks() {
    let up = counting();
    let key = Key::all("key_budget");
    let gateway = started(&up, &key);
    assert_eq!(ask(&gateway, &key).status, 200);
    records(&gateway, 1);
    let path = format!("/api/keys/{}", key.id);
    for (amount, status, percent) in [(105, 429, 95), (50, 429, 95), (240, 200, 80)] {
        let budgets = json!({"budgets": [{"unit": "tokens", "amount": amount, "per": "total"}]});
        gateway.admin_json("PATCH", &path, Some(&budgets));
        assert_eq!(ask(&gateway, &key).status, status, "{amount}");
        let parts = [
            format!("\"percent\":{percent},"),
            format!("\"amount\":\"{amount}\""),
        ];
        eventually("the mark is logged", DEADLINE, || {
            let is_told = |line: &String| parts.iter().all(|part| line.contains(part));
            gateway.log().iter().any(is_told).then_some(())
        });
    }
}

#[test]
fn an_observed_budget_refuses_nothing_and_is_logged_at_its_marks() {
    let up = counting();
    let key =
        with_budgets(json!([{"unit": "tokens", "amount": 110, "per": "day", "mode": "observe"}]));
    let gateway = started(&up, &key);
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &key).status, 200);
    }
    wait_used(&gateway, &key, &json!(300));
    let marks = eventually("both marks are logged", DEADLINE, || {
        let mut lines = gateway.log();
        lines.retain(|line| line.contains("\"event\":\"budget\""));
        (lines.len() >= 2).then_some(lines)
    });
    assert_eq!(marks.len(), 2, "{marks:#?}");
    assert!(
        marks[0].contains("\"percent\":80") && marks[1].contains("\"percent\":95"),
        "{marks:#?}"
    );
}

#[test]
fn a_burst_cannot_overshoot_a_budget() {
    let up = Recorder::held();
    let key = with_budgets(json!([{"unit": "tokens", "amount": 1000, "per": "day"}]));
    let gateway = started(&up, &key);
    let body = r#"{"model":"good","max_tokens":393}"#;
    let call = Call::json("/v1/chat/completions", &key.token, body);
    let mut clients = [gateway.client(), gateway.client()];
    let running = clients.each_mut().map(|client| {
        client.send(&call.bytes());
        up.next()
    });
    assert_spent(&gateway.ask(&call));
    for exchange in running {
        exchange.reply_json(USED);
    }
    wait_used(&gateway, &key, &json!(200));
}

#[test]
fn without_a_database_a_key_with_a_budget_is_refused_and_the_check_names_it() {
    let up = counting();
    let key = with_budgets(json!([{"unit": "tokens", "amount": 1000, "per": "day"}]));
    let plain = Key::all("key_plain");
    let gateway = Setup::before(&up)
        .set("database", "url = \"\"")
        .keys(&[&plain, &key])
        .start();
    assert_error(&ask(&gateway, &key), 503, "limits_unavailable");
    assert_eq!(ask(&gateway, &plain).status, 200);
    let ran = gateway.run(&["check"], "");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let said = format!("{}{}", ran.out, ran.err);
    assert!(
        said.contains("keys.jsonl:2: budgets: ") && said.contains("[database]"),
        "{said}"
    );
}

#[test]
fn the_fullest_budgets_are_a_metric_and_their_marks_are_told_to_the_webhook() {
    let up = counting();
    let receiver = Recorder::start(|exchange| exchange.reply("200 OK", "", ""));
    let key = with_budgets(json!([
        {"unit": "tokens", "amount": 1000, "per": "day"},
        {"unit": "requests", "amount": 1, "per": "month", "mode": "observe"},
    ]));
    let webhook = format!("webhook = \"{}/hook\"", receiver.url());
    let gateway = Setup::before(&up)
        .set("alerts", &webhook)
        .keys(&[&key])
        .start();
    assert_eq!(ask(&gateway, &key).status, 200);
    wait_used(&gateway, &key, &json!(100));
    let ratio = gateway.metric("keygate_key_budget_used_ratio{key=\"key_budget\"}");
    assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
    let told = eventually("the mark is told", DEADLINE, || {
        receiver.requests().into_iter().find(|seen| seen.complete)
    });
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(told["type"], "budget.mark");
    let data = &told["data"];
    assert_eq!(
        (
            &data["key_id"],
            &data["unit"],
            &data["percent"],
            &data["used"],
            &data["amount"]
        ),
        (
            &json!("key_budget"),
            &json!("requests"),
            &json!(95),
            &json!("1"),
            &json!("1")
        )
    );
    // A key that is gone, or has no budget any more, is no label.
    gateway.admin("DELETE", "/api/keys/key_budget", None);
    assert!(!gateway.metrics().contains("keygate_key_budget_used_ratio{"));
}

#[test]
fn a_budget_is_begun_anew_by_hand_which_outlives_a_restart_and_is_audited() {
    let up = counting();
    let key = with_budgets(json!([{"unit": "tokens", "amount": 100, "per": "month"}]));
    let mut gateway = started(&up, &key);
    assert_eq!(ask(&gateway, &key).status, 200);
    wait_used(&gateway, &key, &json!(100));
    assert_spent(&ask(&gateway, &key));
    let ran = gateway.run(&["keys", "update", "key_budget", "--reset-budget"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(budget(&gateway, &key)["used"], 0);
    assert_eq!(ask(&gateway, &key).status, 200);
    wait_used(&gateway, &key, &json!(100));
    records(&gateway, 2);
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    // The first to ask after the restart is the operator.
    let question = json!({"key": "key_budget", "model": "good", "from": "192.0.2.7"});
    let explained = gateway.admin_json("POST", "/api/explain", Some(&question));
    assert_eq!(
        (&explained["allowed"], &explained["denial"]),
        (&json!(false), &json!("insufficient_quota")),
        "{explained}"
    );
    let shown = gateway.admin_json("GET", "/api/keys/key_budget", None);
    assert_eq!(shown["budgets_left"][0], budget(&gateway, &key));
    let ran = gateway.run(&["keys", "show", "key_budget"], "");
    assert!(
        ran.out.contains("tokens=100/month (100 used, 0 left)"),
        "{}",
        ran.out
    );
    assert_eq!(budget(&gateway, &key)["used"], 100);
    assert_spent(&ask(&gateway, &key));
    let rows = gateway.admin_json("GET", "/api/audit?action=reset_budgets", None);
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(
        (&rows[0]["target"], &rows[0]["after"]),
        (&json!("key_budget"), &json!({"budgets": ["tokens/month"]}))
    );
    let unknown = gateway.admin("POST", "/api/keys/key_nobody/reset-budgets", None);
    assert_eq!(unknown.status, 404);
}
