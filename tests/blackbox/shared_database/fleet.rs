//! Gateways that share a database see each other, and who of them is there no more.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::postgres::TestServer;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::{DEADLINE, eventually};

/// After so long without a report a gateway is not seen, as promised, with room for a busy machine.
const NOT_SEEN: Duration = Duration::from_secs(25);

fn start(server: &TestServer, up: &Recorder, name: &str) -> Gateway {
    let setup = Setup::before(up)
        .set("database", &format!("url = \"{}\"", server.url("usage")))
        .set("database", &format!("gateway_name = \"{name}\""));
    setup.start()
}

/// Name, state and whether it is the one that was asked, of each gateway.
fn states(gateway: &Gateway) -> Value {
    let list = gateway.admin_json("GET", "/api/fleet", None);
    let rows = list["data"].as_array().unwrap().iter();
    rows.map(|row| json!([row["name"], row["state"], row["is_this"]]))
        .collect()
}

fn gets(gateway: &Gateway, within: Duration, wanted: &Value) {
    eventually(&format!("the list is {wanted}"), within, || {
        (states(gateway) == *wanted).then_some(())
    });
}

#[test]
fn gateways_see_each_other_and_no_more_the_one_that_stops_or_is_killed() {
    let mut server = TestServer::start();
    server.create_database("usage");
    let up = Recorder::answering();
    let one = start(&server, &up, "eu-1");
    let two = start(&server, &up, "eu-2");
    let mut three = start(&server, &up, "eu-3");
    for (gateway, at) in [(&one, 0), (&two, 1), (&three, 2)] {
        let row = |number: usize| json!([format!("eu-{}", number + 1), "in_sync", number == at]);
        gets(gateway, DEADLINE, &json!([row(0), row(1), row(2)]));
    }
    eventually("it is counted", DEADLINE, || {
        (one.metric("keygate_gateways") == 3.0).then_some(())
    });
    let named = server.query(
        "usage",
        "SELECT count(DISTINCT application_name) FROM pg_stat_activity WHERE application_name LIKE 'keygate/eu-_'",
    );
    assert_eq!(named, "3");

    // One that stops takes itself out of the list.
    three.process.terminate();
    assert!(three.process.exits_within(DEADLINE).success());
    let both = json!([["eu-1", "in_sync", true], ["eu-2", "in_sync", false]]);
    assert_eq!(states(&one), both);

    two.process.signal(Signal::KILL);
    let lost = json!([["eu-1", "in_sync", true], ["eu-2", "not_seen", false]]);
    gets(&one, NOT_SEEN, &lost);
    let is_right = server.query(
        "usage",
        "SELECT clock_timestamp() - seen_at > INTERVAL '10 s' FROM gateways WHERE name = 'eu-2'",
    );
    assert_eq!(is_right, "t");
    eventually("it is counted no more", DEADLINE, || {
        (one.metric("keygate_gateways") == 1.0).then_some(())
    });
    let ran = one.run(&["fleet"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[1].starts_with("eu-2  "), "{}", ran.out);
    assert!(lines[1].contains("not seen since 20"), "{}", ran.out);
    assert!(lines[2].starts_with("eu-1 (this)  in sync"), "{}", ran.out);
    assert_eq!(lines.len(), 3, "{}", ran.out);

    // While the database is away, they are shown as they were read last.
    server.kill();
    let ran = one.run(&["fleet"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let last = ran.out.lines().last().unwrap();
    assert!(
        last.starts_with("The database is away; this is as of 20"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("eu-2"), "{}", ran.out);
    let shown = one.run(&["fleet", "--json"], "");
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["database"]["up"], false);
    let of_reports = |part: &str| {
        one.process.line("about the reports", |line| {
            line.contains("\"fleet\"") && line.contains(part)
        })
    };
    of_reports("cannot be reported");
    // That is told without a request that would have to be written.
    assert_eq!(one.metric("keygate_database_up"), 0.0);
    let status = one.admin_json("GET", "/api/status", None);
    assert_eq!(status["database"]["up"], false, "{status}");
    server.run();
    of_reports("is reported to the others again");
    assert_eq!(one.metric("keygate_database_up"), 1.0);
    gets(&one, DEADLINE, &lost);
    let log = one.log();
    let told = log
        .iter()
        .filter(|line| line.contains("cannot be reported"));
    assert_eq!(told.count(), 1);
}

#[test]
fn a_wait_for_other_gateways_is_refused_where_each_has_its_own_key_file() {
    let server = TestServer::start();
    server.create_database("usage");
    let gateway = start(&server, &Recorder::answering(), "eu-1");
    let before = gateway.key_file();
    let body = json!({"name": "n", "model_access": {"mode": "all"}});
    let refused = gateway.admin("POST", "/api/keys?wait=5s", Some(&body));
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(refused.json()["error"]["field"], "wait");
    let ran = gateway.run(&["keys", "create", "--name", "n", "--wait"], "");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(
        ran.err.contains("wait") && ran.err.contains("source ="),
        "{}",
        ran.err
    );
    assert_eq!(gateway.key_file(), before);
}
