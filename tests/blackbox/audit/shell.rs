//! `keygate audit` and `keygate audit verify`, against a running gateway.

use serde_json::{Value, json};

use crate::audit::trail::{change, create};
use crate::commands::ran::ok;
use crate::support::stand::Stand;

#[test]
fn the_shell_shows_changes_newest_first_and_verifies_them() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    assert!(ok(gateway, &["audit", "verify"]).starts_with("intact: there are no rows yet"));
    create(gateway, "noted");
    change(gateway, "key_only", json!({"name": "other"}));
    let table = ok(gateway, &["audit"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let headings: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        headings,
        ["N", "AT", "ACTOR", "VIA", "ACTION", "KEY", "CHANGE"]
    );
    assert!(
        lines[1].starts_with("2 ") && lines[1].contains("key_only"),
        "{table}"
    );
    assert!(
        lines[1].ends_with("name: \"key_only\" -> \"other\""),
        "{table}"
    );
    assert!(
        lines[2].starts_with("1 ") && lines[2].contains("create"),
        "{table}"
    );
    let one = ok(gateway, &["audit", "--key", "key_only", "--from", "1h"]);
    assert_eq!(one.lines().count(), 2, "{one}");
    let none = ok(gateway, &["audit", "--action", "delete"]);
    assert_eq!(none.lines().count(), 1, "{none}");
    let newest = ok(gateway, &["audit", "--limit", "1", "--json"]);
    let newest: Value = serde_json::from_str(&newest).expect("JSON");
    assert_eq!(
        (&newest["rows"][0]["n"], &newest["next"]),
        (&json!(2), &json!("2"))
    );
    let csv = ok(gateway, &["audit", "--csv"]);
    assert!(
        csv.starts_with("n,at,actor,") && csv.lines().count() == 3,
        "{csv}"
    );
    let verified = ok(gateway, &["audit", "verify"]);
    assert!(
        verified.starts_with("intact: rows 1 to 2 are as they were written"),
        "{verified}"
    );
    let report = ok(gateway, &["audit", "verify", "--json"]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(
        (&report["intact"], &report["rows"]),
        (&json!(true), &json!(2))
    );
}

#[test]
fn arguments_that_make_no_sense_are_wrong_usage() {
    let stand = Stand::new();
    for arguments in [
        &["audit", "--key", "no key"][..],
        &["audit", "--limit", "0"],
        &["audit", "--from", "yesterday"],
        &["audit", "--json", "--csv"],
        &["audit", "verify", "--key", "key_all"],
        &["audit", "check"],
    ] {
        assert_eq!(
            stand.gateway.run(arguments, "").code,
            Some(2),
            "{arguments:?}"
        );
    }
    let ran = stand.gateway.run(&["audit", "--action", "destroy"], "");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("make_sign_in_link"), "{}", ran.err);
}
