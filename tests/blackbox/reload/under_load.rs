//! Reloads in quick succession or of many keys give no request a wrong answer and delay none.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::reload::key_file::{refs, with_crowd};
use crate::support::client::{Call, End};
use crate::support::gateway::Setup;
use crate::support::h2::{Protocol, Stream};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, eventually};

#[test]
fn a_thousand_swaps_under_load_never_give_a_wrong_answer() {
    let (steady, swapped) = (Key::all("key_steady"), Key::all("key_swapped"));
    let (_up, gateway, keys) = with_crowd(&[&steady], |setup| setup);
    let without = key_file(
        &refs(&keys, &[&steady])
            .into_iter()
            .cloned()
            .collect::<Vec<_>>(),
    );
    let with = key_file(
        &refs(&keys, &[&steady, &swapped])
            .into_iter()
            .cloned()
            .collect::<Vec<_>>(),
    );
    let done = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..3 {
            let (gateway, steady, done, asked) = (&gateway, &steady, &done, &asked);
            scope.spawn(move || {
                let call = Call::chat(&steady.token, "good");
                let mut client = gateway.client();
                let connection = gateway.h2();
                while !done.load(Ordering::Relaxed) {
                    let response = if worker == 0 {
                        connection.ask(&call)
                    } else {
                        client.ask(&call)
                    };
                    assert_eq!(
                        response.status,
                        200,
                        "a key that nobody changed: {}",
                        response.text()
                    );
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = gateway.client();
            for swap in 0..1000 {
                let (text, expected) = if swap % 2 == 0 {
                    (&with, 200)
                } else {
                    (&without, 401)
                };
                gateway.write_key_file(text);
                assert_eq!(gateway.reload().status, 200);
                // The very next request sees it.
                let response = client.ask(&Call::chat(&swapped.token, "good"));
                assert_eq!(
                    response.status,
                    expected,
                    "after swap {swap}: {}",
                    response.text()
                );
                if response
                    .header("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"))
                {
                    client = gateway.client();
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(asked.load(Ordering::Relaxed) > 500, "there was no load");
    assert!((gateway.metric("keygate_reloads_total{result=\"ok\"}") - 1000.0).abs() < 0.5);
}

#[test]
fn a_thousand_sighups_end_with_the_last_file_in_force() {
    let (first, last) = (Key::all("key_first"), Key::all("key_last"));
    let stand = Stand::held_with(|setup| setup.keys(&[&first]));
    let keys = [stand.all.clone(), stand.only.clone(), stand.all_but.clone()];
    let mut stream = Stream::open(
        Protocol::Http2,
        &stand.gateway,
        &Call::chat(&stand.all.token, "good"),
    );
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    for at in 0..1000 {
        match at {
            500 => stand.gateway.write_keys(&refs(&keys, &[])),
            999 => stand.gateway.write_keys(&refs(&keys, &[&last])),
            _ => {}
        }
        stand.gateway.process.hang_up();
    }
    let shows = |key: &Key| stand.gateway.ask(&Call::get("/v1/key", &key.token)).status;
    eventually("the last file is in force", DEADLINE, || {
        (shows(&last) == 200).then_some(())
    });
    assert_eq!(shows(&first), 401);
    assert_eq!(shows(&stand.all), 200);
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole, "a running stream noticed");
}

#[test]
fn a_reload_of_many_keys_does_not_delay_running_requests() {
    let key = Key::all("key_steady");
    let up = Recorder::answering();
    let gateway = Setup::before(&up).keys(&[&key]).start();
    let many: Vec<Key> = (0..50_000)
        .map(|at| {
            Key::with_token(
                &format!("key_{at}"),
                &format!("sk-{at}"),
                json!({"mode": "all"}),
            )
        })
        .collect();
    gateway.write_keys(&refs(&many, &[&key]));
    let slowest = thread::scope(|scope| {
        let reload = scope.spawn(|| gateway.reload().status);
        let mut client = gateway.client();
        let mut slowest = Duration::ZERO;
        while !reload.is_finished() {
            let start = Instant::now();
            assert_eq!(client.ask(&Call::chat(&key.token, "good")).status, 200);
            slowest = slowest.max(start.elapsed());
        }
        assert_eq!(reload.join().expect("the reload"), 200);
        slowest
    });
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert_eq!(gateway.ask(&Call::chat("sk-49999", "good")).status, 200);
}
