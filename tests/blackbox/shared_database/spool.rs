//! Usage and audit rows that wait on disk while the server of the database is away.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::audit::trail::assert_intact;
use crate::postgres::TestServer;
use crate::shared_database::gateways::{counted, server, setup};
use crate::support::client::Call;
use crate::support::gateway::Gateway;
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

/// What waits in the spool's folder.
fn files(gateway: &Gateway) -> Vec<String> {
    let files = std::fs::read_dir(gateway.path("usage-spool")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Sends so many requests.
fn send(gateway: &Gateway, key: &Key, count: usize) {
    let mut client = gateway.client();
    for _ in 0..count {
        let answer = client.ask(&Call::chat(&key.token, "good"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn is_down(gateway: &Gateway) {
    eventually("the gateway notices", DEADLINE, || {
        let status = gateway.admin_json("GET", "/api/status", None);
        (status["database"]["up"] == false).then_some(())
    });
}

/// Nothing is in memory any more: as many requests are in the spool's files as were sent.
fn is_on_disk(gateway: &Gateway, requests: i64) {
    eventually("all is in the spool", DEADLINE, || {
        (spooled(&gateway.path("usage-spool")) == requests).then_some(())
    });
}

/// Of how many requests the usage is in whole lines of this folder, by the form that the documents give.
fn spooled(folder: &Path) -> i64 {
    let mut all = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("usage-")
        {
            // A file may go meanwhile.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let whole = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let count = |line: &str| line.split(' ').nth(3)?.parse::<i64>().ok();
            all += whole.filter_map(count).sum::<i64>();
        }
    }
    all
}

fn all_is_written(gateway: &Gateway, server: &TestServer, requests: i64) {
    eventually("all is counted", DEADLINE, || {
        (counted(gateway) == requests && files(gateway).is_empty()).then_some(())
    });
    eventually("all is among the records", DEADLINE, || {
        let records = server.query("usage", "SELECT count(*) FROM usage_records");
        (records == requests.to_string()).then_some(())
    });
    assert_eq!(counted(gateway), requests);
    assert_eq!(gateway.metric("keygate_usage_records_dropped_total"), 0.0);
    eventually("nothing waits", DEADLINE, || {
        (gateway.metric("keygate_usage_waiting_bytes") == 0.0).then_some(())
    });
}

#[test]
fn kill_9_while_the_server_is_dead_loses_no_usage_and_no_audit_row() {
    let mut server = server();
    let up = Recorder::answering();
    let (key, other) = (Key::all("key_all"), Key::all("key_other"));
    let mut gateway = setup(&server, &up, &[&key, &other]).start();
    send(&gateway, &key, 20);
    eventually("all is counted", DEADLINE, || {
        (counted(&gateway) == 20).then_some(())
    });
    assert_eq!(files(&gateway), Vec::<String>::new());
    server.kill();
    send(&gateway, &key, 30);
    is_down(&gateway);
    let gone = gateway.admin("DELETE", "/api/keys/key_other", None);
    assert!(gone.status < 300, "{}", gone.text());
    is_on_disk(&gateway, 30);
    assert!(gateway.metric("keygate_usage_waiting_bytes") > 0.0);
    let ready = gateway.admin("GET", "/readyz", None);
    assert_eq!(ready.status, 200);
    assert!(
        ready.text().contains("bytes of usage wait"),
        "{}",
        ready.text()
    );
    gateway.process.signal(Signal::KILL);
    gateway.process.exits_within(DEADLINE);

    // Still without the server.
    gateway.launch_again();
    send(&gateway, &key, 5);
    is_on_disk(&gateway, 35);
    let status = gateway.admin_json("GET", "/api/status", None);
    assert_eq!(status["audit"]["waiting"], 1, "{status}");
    gateway.process.signal(Signal::KILL);
    gateway.process.exits_within(DEADLINE);

    server.run();
    gateway.start_again();
    all_is_written(&gateway, &server, 55);
    let rows = gateway.admin_json("GET", "/api/audit?action=delete", None);
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["target"]), (1, &json!("key_other")));
    assert_intact(&gateway);
}

#[test]
fn a_stop_while_the_server_is_away_loses_nothing_and_says_what_waits() {
    let mut server = server();
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let mut gateway = setup(&server, &up, &[&key]).start();
    for is_dead in [true, false] {
        send(&gateway, &key, 10);
        let sent = if is_dead { 10 } else { 30 };
        eventually("all is counted", DEADLINE, || {
            (counted(&gateway) == sent).then_some(())
        });
        match is_dead {
            true => server.kill(),
            false => server.freeze(),
        }
        send(&gateway, &key, 10);
        gateway.process.terminate();
        gateway.process.exits_within(DEADLINE);
        assert_eq!(spooled(&gateway.path("usage-spool")), 10);
        let log = gateway.log().join("\n");
        assert!(log.contains("10 requests waits in the spool"), "{log}");
        assert!(!log.contains("is lost"), "{log}");
        match is_dead {
            true => server.run(),
            false => server.thaw(),
        }
        gateway.start_again();
        all_is_written(&gateway, &server, sent + 10);
    }
}

#[test]
fn two_gateways_with_one_spool_and_a_spool_that_cannot_be_written_do_not_start() {
    let server = server();
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let one = setup(&server, &up, &[&key]).start();
    let folder = one.path("usage-spool");
    let line = |folder: &Path| format!("spool = \"{}\"", folder.display());
    let (status, said) = setup(&server, &up, &[&key])
        .set("usage", &line(&folder))
        .refused();
    assert!(!status.success());
    assert!(
        said.contains("folder of its own in [usage] spool"),
        "{said}"
    );
    let (status, said) = setup(&server, &up, &[&key])
        .set("usage", &line(Path::new("/proc/spool")))
        .refused();
    assert!(!status.success());
    assert!(said.contains("may write, in [usage] spool"), "{said}");
    // The first goes on.
    send(&one, &key, 3);
    all_is_written(&one, &server, 3);
}
