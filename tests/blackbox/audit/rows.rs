//! Each change makes exactly one row, which says who changed what and holds no token and no hash of one.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::audit::trail::{
    asked, assert_intact, change, column, create, over_tcp, rows, sign_in, verified,
};
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

#[test]
fn each_change_of_a_key_makes_one_row_with_the_fields_that_changed() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let made = create(gateway, "noted");
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["key"]["id"].as_str().expect("an id").to_owned();
    let request_id = made.header("x-request-id").expect("an id").to_owned();
    let steps = [
        (json!({"account": "acme", "name": "other"}), 200),
        (json!({"disabled": true}), 200),
        // Nothing changes, and so there is nothing to record.
        (json!({"disabled": true}), 200),
        (json!({}), 200),
        // Refused.
        (json!({"expires_at": "2001-01-01"}), 422),
        (json!({"name": ""}), 422),
    ];
    for (body, status) in steps {
        assert_eq!(change(gateway, &id, body.clone()).status, status, "{body}");
    }
    assert_eq!(
        change(gateway, "key_nobody", json!({"name": "x"})).status,
        404
    );
    let deleted = gateway.admin("DELETE", &format!("/api/keys/{id}"), None);
    assert_eq!(deleted.status, 204);
    let rows = rows(gateway);
    assert_eq!(
        column(&rows, "action"),
        ["create", "change", "change", "delete"]
    );
    let numbers: Vec<i64> = rows
        .iter()
        .map(|row| row["n"].as_i64().expect("n"))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let uid = format!("uid {}", rustix::process::getuid().as_raw());
    for row in &rows {
        assert_eq!(
            (&row["actor"], &row["via"], &row["target"], &row["address"]),
            (&json!(uid), &json!("socket"), &json!(id), &Value::Null)
        );
    }
    assert_eq!(rows[0]["request_id"], request_id.as_str());
    assert_eq!(rows[0]["before"], Value::Null);
    assert_eq!(rows[0]["after"]["name"], "noted");
    assert_eq!(
        (&rows[1]["before"], &rows[1]["after"]),
        (
            &json!({"account": null, "name": "noted"}),
            &json!({"account": "acme", "name": "other"})
        )
    );
    assert_eq!(
        (&rows[2]["before"], &rows[2]["after"]),
        (&json!({"disabled": false}), &json!({"disabled": true}))
    );
    assert_eq!(rows[3]["before"]["account"], "acme");
    assert_eq!(rows[3]["after"], Value::Null);
    assert_intact(gateway);
    // The log's line of the same change names the same row.
    let line = gateway
        .process
        .line("the first change", |line| line.contains(&request_id));
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["event"], &line["action"], &line["n"], &line["hash"]),
        (
            &json!("change"),
            &json!("create"),
            &json!(1),
            &rows[0]["hash"]
        )
    );
}

#[test]
fn a_reload_with_a_difference_makes_one_row_and_one_without_makes_none() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let (mut only, new) = (stand.only.clone(), Key::all("key_new"));
    only = only.with("name", "renamed");
    assert_eq!(gateway.reload().status, 200);
    gateway.write_keys(&[&stand.all, &only, &new]);
    let dry = gateway.admin_json("POST", "/api/reload", Some(&json!({"dry_run": true})));
    assert_eq!(dry["added"], 1);
    assert_eq!(rows(gateway), Vec::<Value>::new());
    for _ in 0..2 {
        assert_eq!(gateway.reload().status, 200);
    }
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["reload"]);
    assert_eq!(
        all[0]["after"]["counts"],
        json!({"added": 1, "changed": 1, "removed": 1})
    );
    assert_eq!(
        all[0]["after"]["changed"]["key_only"],
        json!({"name": "renamed"})
    );
    assert!(
        all[0]["before"]["removed"]["key_all_but"].is_object(),
        "{}",
        all[0]
    );
    // It belongs to each of its keys.
    for (id, count) in [
        ("key_only", 1),
        ("key_all_but", 1),
        ("key_new", 1),
        ("key_all", 0),
    ] {
        assert_eq!(asked(gateway, &format!("key={id}")).len(), count, "{id}");
    }
    // With force, more keys are dropped than the limit allows.
    gateway.write_keys(&[&stand.all]);
    assert_eq!(gateway.reload().status, 409);
    gateway.admin_json("POST", "/api/reload", Some(&json!({"force": true})));
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["reload", "forced_drop"]);
    // A file that others changed is merged by the next write.
    gateway.write_keys(&[&stand.all, &only]);
    assert_eq!(create(gateway, "mine").status, 201);
    let all = rows(gateway);
    assert_eq!(column(&all[2..], "action"), ["reload", "create"]);
    assert_eq!(column(&all[2..], "via"), ["file", "socket"]);
    gateway.write_keys(&[&stand.all, &only, &new]);
    gateway.process.hang_up();
    eventually("the reload by SIGHUP", DEADLINE, || {
        let all = rows(gateway);
        let last = all.last().expect("a row");
        (last["actor"] == "SIGHUP").then_some(())
    });
    assert_intact(gateway);
}

#[test]
fn sign_ins_failed_ones_and_wrong_tokens_make_one_row_each() {
    let (stand, token) = over_tcp(|setup| setup);
    let gateway = &stand.gateway;
    let wrong = format!("{}x", &token[..token.len() - 1]);
    assert_eq!(sign_in(gateway, &json!({"token": wrong})).status, 401);
    assert_eq!(sign_in(gateway, &json!({"link": "never-made"})).status, 401);
    let signed_in = sign_in(gateway, &json!({"token": token}));
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    let tcp = |call: Call| Client::connect(gateway.admin_address()).ask(&call);
    assert_eq!(tcp(Call::get("/api/status", &wrong)).status, 401);
    let cookie = signed_in.header("set-cookie").expect("a cookie");
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let secret = signed_in.json()["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    let by_panel = |method: &str, path: &str| {
        Call::new(method, path)
            .header("content-type", "application/json")
            .header("x-keygate-panel", "1")
            .header("cookie", &cookie)
            .header("x-keygate-session", &secret)
    };
    let disabled = by_panel("PATCH", "/api/keys/key_only").body("{\"disabled\":true}");
    assert_eq!(tcp(disabled).status, 200);
    let by_token = Call::new("PATCH", "/api/keys/key_only")
        .bearer(&token)
        .header("content-type", "application/json")
        .body("{\"disabled\":false}");
    assert_eq!(tcp(by_token).status, 200);
    assert_eq!(tcp(by_panel("DELETE", "/api/session")).status, 204);
    let link = gateway.admin("POST", "/api/session-links", None);
    assert_eq!(link.status, 201, "{}", link.text());
    let all = rows(gateway);
    let told: Vec<[&str; 4]> = all
        .iter()
        .map(|row| {
            ["action", "actor", "via", "address"].map(|name| row[name].as_str().unwrap_or("-"))
        })
        .collect();
    let uid = format!("uid {}", rustix::process::getuid().as_raw());
    assert_eq!(
        told,
        [
            ["sign_in_failed", "unknown", "panel", "127.0.0.1"],
            ["sign_in_failed", "unknown", "panel", "127.0.0.1"],
            ["sign_in", "operator", "panel", "127.0.0.1"],
            ["sign_in_failed", "unknown", "api", "127.0.0.1"],
            ["change", "operator", "panel", "127.0.0.1"],
            ["change", "operator", "api", "127.0.0.1"],
            ["sign_out", "operator", "panel", "127.0.0.1"],
            ["make_sign_in_link", &uid, "socket", "-"],
        ]
    );
    assert_intact(gateway);
}

#[test]
fn no_row_holds_a_token_or_a_hash_of_one() {
    let (stand, admin) = over_tcp(|setup| setup);
    let gateway = &stand.gateway;
    let made = create(gateway, "noted").json();
    let id = made["key"]["id"].as_str().expect("an id").to_owned();
    let token = made["token"].as_str().expect("a token").to_owned();
    change(gateway, &id, json!({"name": "other"}));
    sign_in(gateway, &json!({"token": admin}));
    sign_in(gateway, &json!({"token": stand.all.token}));
    let link = gateway.admin_json("POST", "/api/session-links", None);
    let code = link["link"].as_str().expect("a link");
    let code = code.split_once("#link=").expect("a code").1.to_owned();
    // The same key with another token, by the file.
    let replaced = Key::only("key_only", &["good"]);
    let file = gateway.key_file();
    let hash = |text: &str| {
        let at = text.find("blake3:").expect("a hash");
        text[at..at + 71].to_owned()
    };
    let hashes: Vec<String> = file.lines().map(hash).collect();
    gateway.write_keys(&[&stand.all, &replaced, &stand.all_but]);
    gateway.reload();
    gateway.admin("DELETE", &format!("/api/keys/{}", stand.all_but.id), None);
    let text = gateway.admin("GET", "/api/audit?limit=1000", None).text();
    let log = gateway.log().join("\n");
    assert!(text.contains("\"token\":\"replaced\""), "{text}");
    for secret in hashes
        .iter()
        .chain([&token, &admin, &code, &stand.all.token])
    {
        assert!(!text.contains(secret.as_str()), "{secret} in {text}");
        assert!(!log.contains(secret.as_str()), "{secret} in the log");
    }
    assert!(!text.contains("blake3"), "{text}");
}

#[test]
fn concurrent_changes_have_one_row_each_in_the_order_in_which_they_are_in_force() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let socket = gateway.socket();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let socket = &socket;
            scope.spawn(move || {
                let mut client = Client::connect_unix(socket).expect("the admin socket");
                for number in 0..12 {
                    let body = json!({"name": format!("{thread}-{number}")}).to_string();
                    let call = Call::new("PATCH", "/api/keys/key_all").body(body);
                    assert_eq!(client.ask(&call).status, 200);
                }
            });
        }
    });
    let all = rows(gateway);
    assert_eq!(all.len(), 96);
    // Each change begins where the one before it ended.
    let mut name = all[0]["before"]["name"].clone();
    let mut seen = HashMap::new();
    for row in &all {
        assert_eq!(row["before"]["name"], name, "{row}");
        name = row["after"]["name"].clone();
        let text = name.as_str().expect("a name").to_owned();
        let (thread, number) = text.split_once('-').expect("a name of ours");
        let number: i64 = number.parse().expect("a number");
        let last = seen.insert(thread.to_owned(), number);
        assert_eq!(number, last.map_or(0, |last| last + 1));
    }
    let key = gateway.admin_json("GET", "/api/keys/key_all", None);
    assert_eq!(key["name"], name);
    assert_intact(gateway);
}

#[test]
fn rows_are_paged_filtered_and_given_as_csv() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    for number in 0..5 {
        change(gateway, "key_all", json!({"name": format!("=n{number}")}));
    }
    change(gateway, "key_only", json!({"disabled": true}));
    let mut target = "/api/audit?limit=2".to_owned();
    let mut numbers = Vec::new();
    loop {
        let page = gateway.admin_json("GET", &target, None);
        let rows = page["rows"].as_array().expect("rows");
        numbers.extend(rows.iter().map(|row| row["n"].as_i64().expect("n")));
        match page["next"].as_str() {
            Some(next) => target = format!("/api/audit?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1]);
    let uid = format!("uid%20{}", rustix::process::getuid().as_raw());
    for (query, count) in [
        ("key=key_only".to_owned(), 1),
        ("key=key_all&action=change".to_owned(), 5),
        ("action=delete".to_owned(), 0),
        (format!("actor={uid}"), 6),
        ("actor=operator".to_owned(), 0),
        ("start_time=2001-01-01T00:00:00Z".to_owned(), 6),
        ("end_time=978307200".to_owned(), 0),
    ] {
        assert_eq!(asked(gateway, &query).len(), count, "{query}");
    }
    for (query, field) in [
        ("key=no%20key", "key"),
        ("action=destroy", "action"),
        ("limit=0", "limit"),
        ("after=x", "after"),
        ("start_time=yesterday", "start_time"),
        ("who=me", "who"),
        ("key=a&key=b", "key"),
    ] {
        let refused = gateway.admin("GET", &format!("/api/audit?{query}"), None);
        assert_eq!(refused.status, 422, "{query}");
        assert_eq!(refused.json()["error"]["field"], field, "{query}");
    }
    let call = Call::new("GET", "/api/audit?limit=2").header("accept", "text/csv");
    let mut client = Client::connect_unix(&gateway.socket()).expect("the admin socket");
    let csv = client.ask(&call);
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let link = csv.header("link").expect("a link");
    assert_eq!(link, "</api/audit?limit=2&after=5>; rel=\"next\"");
    let text = csv.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("n,at,actor,via,action,"), "{text}");
    assert!(lines[1].starts_with("6,2"), "{text}");
}

#[test]
fn without_a_database_changes_are_made_and_logged_and_questions_name_the_setting() {
    let stand = Stand::with(|setup| setup.set("database", "url = \"\""));
    let gateway = &stand.gateway;
    let made = create(gateway, "noted");
    assert_eq!(made.status, 201);
    let id = made.json()["key"]["id"].as_str().expect("an id").to_owned();
    let line = gateway.process.line("the change", |line| {
        line.contains("\"change\"") && line.contains(&id)
    });
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["action"], &line["n"], &line["after"]["name"]),
        (&json!("create"), &Value::Null, &json!("noted"))
    );
    for path in ["/api/audit", "/api/audit/verify"] {
        let response = gateway.admin("GET", path, None);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.json()["error"]["code"], "audit_unavailable");
    }
    assert_eq!(
        gateway.admin_json("GET", "/api/status", None)["audit"],
        Value::Null
    );
    for arguments in [&["audit"][..], &["audit", "--csv"], &["audit", "verify"]] {
        let ran = gateway.run(arguments, "");
        assert_eq!(ran.code, Some(1), "{arguments:?}");
        assert!(ran.err.contains("set url in [database]"), "{}", ran.err);
    }
}

#[test]
fn whoever_guesses_tokens_fast_does_not_fill_the_database() {
    let (stand, _) = over_tcp(|setup| setup);
    let gateway = &stand.gateway;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let mut client = Client::connect(gateway.admin_address());
                    assert_eq!(
                        client.ask(&Call::get("/api/status", "sk-wrong")).status,
                        401
                    );
                }
            });
        }
    });
    let all = rows(gateway);
    let counted: i64 = all
        .iter()
        .map(|row| row["after"]["count"].as_i64().expect("a count"))
        .sum();
    assert!((50..=120).contains(&all.len()), "{} rows", all.len());
    assert!((50..=200).contains(&counted), "{counted}");
    assert_eq!(verified(gateway)["intact"], true);
}
