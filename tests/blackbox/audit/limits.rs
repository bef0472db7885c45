//! Limits and budgets: a row says which changed, and what gives more is refused where it cannot be recorded.

use serde_json::{Value, json};

use crate::audit::trail::{assert_intact, change, column, locked, rows};
use crate::audit::unwritable::{assert_refused, audit_status};
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

fn tokens(amount: u64, mode: &str) -> Value {
    json!({"unit": "tokens", "amount": amount, "per": "day", "mode": mode})
}

#[test]
fn a_change_of_limits_or_budgets_has_a_row_with_those_alone() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let cost = json!({"unit": "cost", "amount": "2.50", "per": "month"});
    let steps = [
        json!({"limits": {"requests_per_minute": 60, "tokens_per_minute": 1000}}),
        // Merged, and then as before.
        json!({"limits": {"requests_per_minute": 30}}),
        json!({"limits": {"requests_per_minute": 30, "tokens_per_minute": 1000}}),
        json!({"budgets": [tokens(10, "enforce"), cost]}),
        json!({"limits": null, "budgets": [], "account": "acme"}),
    ];
    for step in steps {
        let changed = change(gateway, "key_all", step.clone());
        assert_eq!(changed.status, 200, "{step}: {}", changed.text());
    }
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["change"; 4]);
    let limits =
        |requests: u64| json!({"requests_per_minute": requests, "tokens_per_minute": 1000});
    assert_eq!(all[0]["before"], json!({"limits": null}));
    assert_eq!(all[0]["after"], json!({"limits": limits(60)}));
    assert_eq!(all[1]["before"], json!({"limits": limits(60)}));
    assert_eq!(all[1]["after"], json!({"limits": limits(30)}));
    assert_eq!(all[2]["before"], json!({"budgets": null}));
    let budgets = all[2]["after"]["budgets"].as_array().expect("budgets");
    assert_eq!(budgets[0]["amount"], 10);
    assert_eq!(budgets[1]["amount"], "2.5");
    assert_eq!(
        all[3]["after"],
        json!({"limits": null, "budgets": null, "account": "acme"})
    );
    assert_intact(gateway);
}

#[test]
fn what_gives_more_is_refused_and_what_gives_less_is_in_force_and_recorded_later() {
    let up = Recorder::answering();
    let key = Key::all("key_limited")
        .with("limits", json!({"requests_per_minute": 60}))
        .with("budgets", json!([tokens(1000, "enforce")]));
    let gateway = &Setup::before(&up)
        .keys(&[&key])
        .set("keys.default_limits", "tokens_per_minute = 1000")
        .start();
    let lock = locked(gateway);
    let file = gateway.key_file();
    let other = json!({"unit": "tokens", "amount": 1, "per": "week"});
    for wider in [
        json!({"limits": {"requests_per_minute": 61}}),
        json!({"limits": {"requests_per_minute": null}}),
        json!({"limits": {"requests_per_minute": "unlimited"}}),
        json!({"limits": {"concurrent_requests": "unlimited"}}),
        json!({"limits": null}),
        // Above the default, which held until now.
        json!({"limits": {"tokens_per_minute": 2000}}),
        json!({"budgets": [tokens(1001, "enforce")]}),
        json!({"budgets": [tokens(1000, "observe")]}),
        json!({"budgets": []}),
        json!({"budgets": [other]}),
        json!({"limits": {"requests_per_minute": 1}, "budgets": null}),
    ] {
        assert_refused(&change(gateway, "key_limited", wider));
    }
    assert_eq!(gateway.key_file(), file);
    let narrower = [
        json!({"limits": {"requests_per_minute": 59}}),
        json!({"limits": {"concurrent_requests": 1, "tokens_per_minute": 999}}),
        json!({"budgets": [tokens(999, "enforce"), other]}),
    ];
    for narrower in &narrower {
        let changed = change(gateway, "key_limited", narrower.clone());
        assert_eq!(changed.status, 200, "{narrower}: {}", changed.text());
    }
    assert_eq!(audit_status(gateway), json!({"waiting": 3, "lost": 0}));
    let shown = gateway.admin_json("GET", "/api/keys/key_limited", None);
    assert_eq!(shown["limits"]["requests_per_minute"], 59);
    // A reload is judged alike.
    gateway.write_keys(&[&key]);
    assert_refused(&gateway.reload());
    drop(lock);
    eventually("the rows are written", DEADLINE, || {
        (audit_status(gateway)["waiting"] == 0).then_some(())
    });
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["change"; 3]);
    assert_eq!(
        all[0]["before"],
        json!({"limits": {"requests_per_minute": 60}})
    );
    assert_intact(gateway);
}
