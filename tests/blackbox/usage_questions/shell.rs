//! `keygate usage` and `keygate usage records`, against a running gateway.

use serde_json::{Value, json};

use crate::commands::ran::ok;
use crate::support::gateway::Gateway;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};
use crate::usage_questions::calls::{counted, use_model};

/// A gateway on which two keys made three requests, all of them recorded.
fn used() -> Stand {
    let stand = Stand::before(Recorder::start(counted), |setup| {
        setup.table("[[prices]]\nmodel = \"good\"\ninput = 1000000\noutput = 0.5\n")
    });
    for (key, model) in [
        (&stand.all, "good"),
        (&stand.all, "bad"),
        (&stand.only, "good"),
    ] {
        use_model(&stand.gateway, key, model);
    }
    eventually("three records", DEADLINE, || {
        (records(&stand.gateway, &[]).len() == 3).then_some(())
    });
    stand
}

fn records(gateway: &Gateway, more: &[&str]) -> Vec<Value> {
    let arguments = [&["usage", "records", "--json"], more].concat();
    let page: Value = serde_json::from_str(&ok(gateway, &arguments)).expect("JSON");
    page["records"].as_array().expect("records").clone()
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn the_shell_shows_who_used_how_much_with_the_sums_at_the_foot() {
    let stand = used();
    let table = ok(&stand.gateway, &["usage", "--by", "key"]);
    let headings = [
        "KEY", "REQUESTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "COST", "EUR",
    ];
    assert_eq!(words(&table)[0], headings, "{table}");
    // The price is for a million tokens: 12 tokens cost 12, and 7 cost 0.0000035, rounded to millionths.
    assert_eq!(
        words(&table)[1],
        [
            "key_all",
            "(key_all)",
            "2",
            "0",
            "24",
            "4",
            "14",
            "12.000004"
        ]
    );
    assert_eq!(
        words(&table)[2],
        [
            "key_only",
            "(key_only)",
            "1",
            "0",
            "12",
            "2",
            "7",
            "12.000004"
        ]
    );
    assert_eq!(
        words(&table)[3],
        ["TOTAL", "3", "0", "36", "6", "21", "24.000008"]
    );
    for (by, first) in [("model", "good"), ("upstream", "up"), ("account", "-")] {
        let table = ok(&stand.gateway, &["usage", "--by", by]);
        assert_eq!(words(&table)[1][0], first, "{table}");
    }
    // Midnight may be between the requests.
    let days = ok(&stand.gateway, &["usage"]);
    let total = words(&days).into_iter().find(|line| line[0] == "TOTAL");
    assert_eq!(total.expect("the sums")[1], "3", "{days}");
    let one = ok(
        &stand.gateway,
        &["usage", "--by", "model", "--key", "key_only"],
    );
    assert_eq!(words(&one).len(), 3, "{one}");
    let both = [
        "usage", "--by", "key", "--key", "key_only", "--key", "key_all",
    ];
    assert_eq!(words(&ok(&stand.gateway, &both)).len(), 4);
    let long_ago = ["usage", "--from", "2001-01-01", "--to", "2001-01-31"];
    let nothing = ok(&stand.gateway, &long_ago);
    assert_eq!(words(&nothing)[1][..2], ["TOTAL", "0"], "{nothing}");
}

#[test]
fn the_shell_prints_json_and_csv() {
    let stand = used();
    let page = ok(&stand.gateway, &["usage", "--by", "key", "--json"]);
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["object"], "page");
    assert_eq!(page["data"][0]["results"][0]["key"], "key_all");
    let csv = ok(&stand.gateway, &["usage", "--by", "model", "--csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].starts_with("start_time,end_time,key,"), "{csv}");
    assert_eq!(lines.len(), 3, "{csv}");
    let csv = ok(
        &stand.gateway,
        &["usage", "records", "--csv", "--model", "good"],
    );
    assert_eq!(csv.lines().count(), 3, "{csv}");
}

#[test]
fn the_shell_shows_single_requests_newest_first() {
    let stand = used();
    let all = records(&stand.gateway, &[]);
    let keys: Vec<&Value> = all.iter().map(|record| &record["key_id"]).collect();
    assert_eq!(keys.len(), 3);
    for record in &all {
        assert_eq!(record["end"], "complete");
        assert_eq!(record["certainty"], "exact");
        assert_eq!(
            (&record["input_tokens"], &record["status"]),
            (&json!(12), &json!(200))
        );
    }
    let newest = records(&stand.gateway, &["--limit", "1"]);
    assert_eq!(newest, all[..1]);
    let of_only = records(&stand.gateway, &["--key", "key_only"]);
    assert_eq!(of_only.len(), 1);
    for end in [
        "client-left",
        "client_left",
        "upstream-failed",
        "upstream_failed",
        "revoked",
    ] {
        assert!(records(&stand.gateway, &["--end", end]).is_empty(), "{end}");
    }
    assert_eq!(records(&stand.gateway, &["--end", "complete"]).len(), 3);
    let table = ok(&stand.gateway, &["usage", "records"]);
    assert_eq!(words(&table).len(), 4, "{table}");
    assert_eq!(words(&table)[0][..3], ["ENDED", "KEY", "MODEL"]);
}

#[test]
fn without_a_database_the_shell_names_the_setting() {
    let stand = Stand::with(|setup| setup.set("database", "url = \"\""));
    for arguments in [
        &["usage"][..],
        &["usage", "--csv"],
        &["usage", "--json"],
        &["usage", "records"],
    ] {
        let ran = stand.gateway.run(arguments, "");
        assert_eq!(ran.code, Some(1), "{arguments:?}");
        assert!(
            ran.err.contains("set url in [database]"),
            "{arguments:?}: {}",
            ran.err
        );
    }
}

#[test]
fn arguments_that_make_no_sense_are_wrong_usage() {
    let stand = Stand::new();
    for arguments in [
        &["usage", "--by", "hour"][..],
        &["usage", "--from", "yesterday"],
        &["usage", "--key", "no key"],
        &["usage", "--json", "--csv"],
        &["usage", "records", "--limit", "0"],
    ] {
        assert_eq!(
            stand.gateway.run(arguments, "").code,
            Some(2),
            "{arguments:?}"
        );
    }
    let ran = stand.gateway.run(&["usage", "--from", "2001-01-01"], "");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("400 days before --to"), "{}", ran.err);
}

#[test]
fn messages_about_arguments_name_them_and_say_what_to_do() {
    let stand = Stand::new();
    let backwards = ["--from", "2026-11-02", "--to", "2026-11-01"];
    for (arguments, part) in [
        (
            [&["usage"][..], &backwards].concat(),
            "--from is not before --to",
        ),
        (
            [&["usage", "records"][..], &backwards].concat(),
            "--from is not before --to",
        ),
        (vec!["usage", "--to", "2001-01-01"], "7 days ago"),
        (vec!["usage", "--from", "2999-01-01"], "now"),
        (
            vec!["usage", "--key", "web site"],
            "keygate keys list shows the ids",
        ),
    ] {
        let ran = stand.gateway.run(&arguments, "");
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.contains("_time"), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn keys_that_nobody_used_for_long_are_listed_also_after_a_restart() {
    let long_ago = "2001-01-01T00:00:00Z";
    let unused = Key::all("key_unused").with("created_at", long_ago);
    let used = Key::all("key_used").with("created_at", long_ago);
    let new = Key::all("key_new").with("created_at", "2999-01-01T00:00:00Z");
    let mut stand = Stand::with(|setup| setup.keys(&[&unused, &used, &new]));
    for _ in 0..2 {
        if stand.gateway.admin_json("GET", "/api/keys/key_used", None)["requests"] == 0 {
            use_model(&stand.gateway, &used, "good");
        }
        let list = ["keys", "list", "--unused-for", "90d"];
        let listed = ok(&stand.gateway, &list);
        assert!(listed.contains("key_unused"), "{listed}");
        assert!(
            !listed.contains("key_used") && !listed.contains("key_new"),
            "{listed}"
        );
        let json = ok(&stand.gateway, &[&list[..], &["--json"]].concat());
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let ids = json["keys"]
            .as_array()
            .expect("keys")
            .iter()
            .map(|key| &key["id"]);
        assert!(
            ids.clone().any(|id| id == "key_unused") && !ids.clone().any(|id| id == "key_used")
        );
        stand.gateway.process.terminate();
        stand.gateway.process.exits_within(DEADLINE);
        stand.gateway.start_again();
    }
}
