//! Eight gateways with one database, under load: a deleted key is dead on all of them, and nothing else is refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::gateways::{SetOnDrop, server};
use super::keys::{becomes, make, setup};
use crate::support::client::Call;
use crate::support::recorder::Recorder;
use crate::support::{DEADLINE, eventually};

/// Keys that are deleted one after the other; `KEYGATE_FLEET_DELETES` for more.
const DELETES: usize = 64;

#[test]
fn a_deleted_key_is_dead_on_eight_gateways_and_no_request_of_another_is_refused() {
    let server = server();
    let up = Recorder::answering();
    let gateways = [(); 8].map(|()| setup(&server, &up).line("workers = 1").start());
    let wanted = std::env::var("KEYGATE_FLEET_DELETES").ok();
    let wanted = wanted
        .and_then(|count| count.parse().ok())
        .unwrap_or(DELETES);
    let kept = make(&gateways[0], "kept");
    let keys: Vec<_> = (0..wanted)
        .map(|number| make(&gateways[number % 8], &format!("key {number}")))
        .collect();
    for gateway in &gateways {
        becomes(gateway, &kept, 200);
        becomes(gateway, keys.last().unwrap(), 200);
    }
    let (ends, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&ends);
        for gateway in &gateways {
            let (ends, sent, kept) = (&ends, &sent, &kept);
            scope.spawn(move || {
                let mut client = gateway.client();
                while !ends.load(Ordering::Relaxed) {
                    let answer = client.ask(&Call::chat(&kept.token, "good"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                    // A load, not a race for the two cores of the machine.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let mut clients: Vec<_> = gateways.iter().map(|gateway| gateway.client()).collect();
        for (number, key) in keys.iter().enumerate() {
            let path = format!("/api/keys/{}", key.id);
            let began = Instant::now();
            assert_eq!(
                gateways[number % 8].admin("DELETE", &path, None).status,
                204
            );
            for client in &mut clients {
                eventually("it is dead on all", DEADLINE, || {
                    let asked = client.ask(&Call::new("GET", "/v1/models").bearer(&key.token));
                    (asked.status == 401).then_some(())
                });
            }
            took.push(began.elapsed());
        }
    });
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    eprintln!(
        "{} deletes, dead on 8 gateways: p50 {:?}, p99 {:?}, longest {:?}; {} requests meanwhile",
        took.len(),
        at(50),
        at(99),
        at(100),
        sent.load(Ordering::Relaxed)
    );
    // Every gateway has the same revision, and none is missing.
    let revision = server.query("usage", "SELECT max(n) FROM key_revisions");
    for gateway in &gateways {
        eventually("in step", DEADLINE, || {
            let status = gateway.admin_json("GET", "/api/status", None);
            (status["key_database"]["revision"] == json!(revision.parse::<u64>().unwrap()))
                .then_some(())
        });
    }
    assert_eq!(
        server.query("usage", "SELECT count(*) FROM key_revisions"),
        revision
    );
}
