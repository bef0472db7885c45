//! Floods of requests without a valid key: clients with a key are served meanwhile, and neither memory nor the log grow
//! with the number of requests. (`cargo bench --bench flood` measures how much slower the clients with a key get.)

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::DEADLINE;
use crate::support::client::{Call, find};
use crate::support::eventually;
use crate::support::process::resident;
use crate::support::raw_h2::{self, RawH2};
use crate::support::stand::Stand;
use crate::support::token::Key;

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(4);
/// Requests of a flood that are sent at once.
const VOLLEY: usize = 50;

/// Lines of early refusals, and how many others the log says it left out.
fn told(stand: &Stand) -> (usize, usize) {
    let lines = stand.gateway.log();
    let lines = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.fold((0, 0), |(written, left_out), line| {
        if line["event"] == "refusals_left_out" {
            let count = line["count"].as_u64().expect("a count");
            (
                written,
                left_out + usize::try_from(count).expect("a small one"),
            )
        } else if line["event"] == "access" && !line["denial"].is_null() && line["route"].is_null()
        {
            (written + 1, left_out)
        } else {
            (written, left_out)
        }
    })
}

/// Sends this again and again, each time `VOLLEY` requests, each refused with a 401; returns how many that were.
fn flood_with(stand: &Stand, call: &Call, until: &AtomicBool) -> usize {
    let volley = call.bytes().repeat(VOLLEY);
    let mut client = stand.gateway.client();
    let mut refused = 0;
    while !until.load(Ordering::Relaxed) {
        client.send(&volley);
        for _ in 0..VOLLEY {
            assert_eq!(client.answer().status, 401);
            refused += 1;
        }
    }
    refused
}

/// The same over HTTP/2, in frames.
fn flood_over_http_2(stand: &Stand, until: &AtomicBool) -> usize {
    let mut raw = RawH2::connect(stand.gateway.address);
    let block = raw_h2::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/models"),
        ("authorization", "Bearer kg_nobody"),
    ]);
    let mut refused = 0;
    let mut stream = 1;
    while !until.load(Ordering::Relaxed) {
        for _ in 0..VOLLEY {
            let flags = raw_h2::END_HEADERS | raw_h2::END_STREAM;
            raw.frame(raw_h2::HEADERS, flags, stream, &block);
            // What is answered takes window of the connection.
            let window = raw_h2::frame(raw_h2::WINDOW_UPDATE, 0, 0, &1024_u32.to_be_bytes());
            raw.send(&window);
            stream += 2;
        }
        for _ in 0..VOLLEY {
            loop {
                let frame = raw.next(DEADLINE).expect("an answer");
                assert_ne!(frame.kind, raw_h2::GOAWAY, "the connection is given up");
                if frame.kind == raw_h2::HEADERS {
                    refused += 1;
                    break;
                }
            }
        }
    }
    refused
}

#[test]
fn a_flood_of_bad_tokens_harms_nobody_takes_no_memory_and_is_counted_instead_of_written() {
    let stand = Stand::new();
    let off = Key::all("key_off");
    let good = Call::chat(&stand.all.token, "good");
    assert_eq!(stand.gateway.ask(&good).status, 200);
    let strangers = [
        Call::get("/v1/models", "kg_nobody"),
        Call::get("/v1/models", &off.token),
        Call::new("GET", "/v1/models"),
        Call::get("/v1/models", "sk-made-elsewhere"),
    ];
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let flood = || {
        over.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            let mut floods: Vec<_> = strangers
                .iter()
                .map(|call| scope.spawn(|| flood_with(&stand, call, &over)))
                .collect();
            floods.push(scope.spawn(|| flood_over_http_2(&stand, &over)));
            let mut client = stand.gateway.client();
            let start = Instant::now();
            while start.elapsed() < FLOOD {
                let response = client.ask(&good);
                assert_eq!(response.status, 200, "{}", response.text());
                answered.fetch_add(1, Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
            let refused = floods
                .into_iter()
                .map(|flood| flood.join().expect("it went on"));
            refused.sum::<usize>()
        })
    };
    // The first one fills what is kept for reuse; from then on nothing may grow.
    let mut refused = flood();
    let before = resident(stand.gateway.process.pid());
    refused += flood();
    let grown = resident(stand.gateway.process.pid()).saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "{grown} bytes more after {refused} refusals"
    );

    assert!(refused > 2000, "only {refused} requests: that was no flood");
    eventually("every refusal is written or counted", DEADLINE, || {
        let (written, left_out) = told(&stand);
        (written + left_out == refused).then_some(())
    });
    let (written, _) = told(&stand);
    let seconds = usize::try_from(FLOOD.as_secs() * 2 + 8).expect("a few");
    assert!(
        written <= 1000 * seconds,
        "{written} lines in about {seconds} s"
    );
    // Whoever has a key has a line for each request.
    let answered = answered.load(Ordering::Relaxed) + 1;
    eventually("every answer is written", DEADLINE, || {
        let lines = stand.gateway.log();
        let served = lines.iter().filter(|line| {
            find(line.as_bytes(), b"\"key_id\":\"key_all\"").is_some()
                && find(line.as_bytes(), b"\"status\":200").is_some()
        });
        (served.count() == answered).then_some(())
    });
    assert!((stand.gateway.metric("keygate_log_lines_dropped_total") - 0.0).abs() < 0.5);
}

/// One worker's lines stand in the order of its answers. Sixteen strangers have sent all they have before the one with a
/// key begins, whose requests take a turn each.
#[test]
fn before_each_answer_to_a_key_one_stranger_is_answered_and_not_all_of_them() {
    const STRANGERS: usize = 16;
    const EACH: usize = 60;
    const GOOD: usize = 40;
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let bad = Call::get("/v1/models", "kg_nobody").bytes().repeat(EACH);
    let good = Call::get("/v1/models", &stand.all.token).bytes();
    let mut strangers: Vec<_> = (0..STRANGERS).map(|_| stand.gateway.client()).collect();
    let mut client = stand.gateway.client();
    for stranger in &mut strangers {
        stranger.send(&bad);
    }
    client.send(&good.repeat(GOOD));
    for _ in 0..GOOD {
        assert_eq!(client.answer().status, 200);
    }
    // They are answered all the same.
    for stranger in &mut strangers {
        for _ in 0..EACH {
            assert_eq!(stranger.answer().status, 401);
        }
    }
    let statuses: Vec<u64> = eventually("every answer is written", DEADLINE, || {
        let lines = stand.gateway.log();
        let lines = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let statuses: Vec<u64> = lines.filter_map(|line| line["status"].as_u64()).collect();
        (statuses.len() == STRANGERS * EACH + GOOD).then_some(statuses)
    });
    let first = statuses.iter().position(|status| *status == 200);
    let last = statuses.iter().rposition(|status| *status == 200);
    let span = last.expect("an answer") - first.expect("an answer") + 1;
    let between = span - GOOD;
    assert!(
        between <= 2 * GOOD,
        "{between} strangers between {GOOD} answers"
    );
}

#[test]
fn refusals_at_rest_have_their_lines_and_those_behind_a_flood_too() {
    let stand = Stand::new();
    let bad = Call::get("/v1/models", "kg_nobody");
    let mut client = stand.gateway.client();
    let volley = bad.bytes().repeat(2000);
    client.send(&volley);
    for _ in 0..2000 {
        assert_eq!(client.answer().status, 401);
    }
    eventually("all of them are written or counted", DEADLINE, || {
        let (written, left_out) = told(&stand);
        (written + left_out == 2000 && left_out > 0).then_some(())
    });
    let mut tries = 0;
    eventually("a refusal after the flood has its line", DEADLINE, || {
        tries += 1;
        let id = format!("after-the-flood-{tries}");
        let response = stand.gateway.ask(&bad.clone().header("x-request-id", &id));
        assert_eq!(response.status, 401);
        let lines = stand.gateway.log();
        lines
            .iter()
            .any(|line| line.contains("after-the-flood"))
            .then_some(())
    });
}
