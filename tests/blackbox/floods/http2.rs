//! HTTP/2 frames and heads that would exhaust the gateway: each flood costs it little and harms nobody else.

use std::time::{Duration, Instant};

use crate::framing::http2::h2_fields;
use crate::framing::verdict::attempt;
use crate::support::client::Call;
use crate::support::process::resident;
use crate::support::raw_h2::{self, Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

fn fields(key: &Key) -> Vec<(&'static str, String)> {
    vec![
        (":method", "POST".to_owned()),
        (":scheme", "http".to_owned()),
        (":authority", "localhost".to_owned()),
        (":path", "/v1/chat/completions".to_owned()),
        ("authorization", format!("Bearer {}", key.token)),
        ("content-type", "application/json".to_owned()),
    ]
}

pub fn block(key: &Key) -> Vec<u8> {
    let fields = fields(key);
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    raw_h2::block(&fields)
}

/// Sends rounds of frames for some seconds or until the gateway lets go; meanwhile and after, others are served, and
/// the memory stays.
fn withstands(stand: &Stand, mut round: impl FnMut(u32) -> Vec<u8>) {
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let before = resident(stand.gateway.process.pid());
    let mut raw = RawH2::connect(stand.gateway.address);
    let start = Instant::now();
    let mut rounds = 0;
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(2) && rounds < 200 {
        if !raw.send_within(&round(rounds), Duration::from_millis(200)) {
            break;
        }
        rounds += 1;
        if rounds % 20 == 0 {
            let asked = Instant::now();
            assert_eq!(
                stand
                    .gateway
                    .ask(&Call::chat(&stand.all.token, "good"))
                    .status,
                200
            );
            slowest = slowest.max(asked.elapsed());
        }
    }
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let grown = resident(stand.gateway.process.pid()).saturating_sub(before);
    assert!(grown < 60 << 20, "{grown} bytes more after {rounds} rounds");
    assert!(
        slowest < Duration::from_secs(1),
        "another client waited {slowest:?}"
    );
    drop(raw);
    let quiet = || (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(());
    eventually("nothing is in flight", DEADLINE, quiet);
}

#[test]
fn a_flood_of_pings_is_withstood() {
    let ping = raw_h2::frame(raw_h2::PING, 0, 0, &[7; 8]);
    withstands(&Stand::new(), |_| ping.repeat(2000));
}

#[test]
fn a_flood_of_settings_is_withstood() {
    let settings = raw_h2::frame(raw_h2::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    withstands(&Stand::new(), |_| settings.repeat(2000));
}

#[test]
fn a_flood_of_empty_data_is_withstood() {
    let stand = Stand::new();
    let head = raw_h2::frame(raw_h2::HEADERS, raw_h2::END_HEADERS, 1, &block(&stand.all));
    let empty = raw_h2::frame(raw_h2::DATA, 0, 1, &[]);
    withstands(&stand, |round| {
        if round == 0 {
            head.clone()
        } else {
            empty.repeat(2000)
        }
    });
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM, 1, &block(&stand.all));
    let more = raw_h2::block(&[("x-more", &"m".repeat(8000))]);
    let start = Instant::now();
    let mut sent = 0;
    while raw.send_within(
        &raw_h2::frame(raw_h2::CONTINUATION, 0, 1, &more),
        Duration::from_millis(500),
    ) {
        sent += more.len();
        assert!(
            sent < 64 << 20 && start.elapsed() < DEADLINE,
            "{sent} bytes of one head were taken"
        );
        if raw.ends_within(Duration::from_millis(1)) {
            break;
        }
    }
    assert!(sent < 2 << 20, "{sent} bytes of one head were taken");
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn streams_that_make_the_gateway_reset_them_are_withstood() {
    let stand = Stand::new();
    let block = block(&stand.all);
    // Each is a fault of a stream that is open, which the gateway must then reset.
    let offences: [fn(u32) -> Vec<u8>; 3] = [
        |stream| raw_h2::frame(raw_h2::WINDOW_UPDATE, 0, stream, &[0; 4]),
        |stream| {
            let whole = raw_h2::frame(raw_h2::DATA, raw_h2::END_STREAM, stream, b"{}");
            [whole, raw_h2::frame(raw_h2::DATA, 0, stream, b"{}")].concat()
        },
        |stream| {
            let on_itself = [&stream.to_be_bytes()[..], &[16]].concat();
            raw_h2::frame(raw_h2::PRIORITY, 0, stream, &on_itself)
        },
    ];
    for offence in offences {
        withstands(&stand, |round| {
            let streams = (0..100).map(|at| 1 + 2 * (round * 100 + at));
            let frames = streams.flat_map(|stream| {
                let head = raw_h2::frame(raw_h2::HEADERS, raw_h2::END_HEADERS, stream, &block);
                [head, offence(stream)].concat()
            });
            frames.collect()
        });
    }
}

#[test]
fn floods_of_frames_that_mean_little_or_nothing_are_withstood() {
    let stand = Stand::new();
    let one = 1_u32.to_be_bytes();
    // PRIORITY of a stream that was never opened; a window opened by one byte; a kind that nobody knows.
    let priority = raw_h2::frame(raw_h2::PRIORITY, 0, 1, &[0, 0, 0, 0, 16]);
    let window = raw_h2::frame(raw_h2::WINDOW_UPDATE, 0, 0, &one);
    let unknown = raw_h2::frame(0xbe, 0xff, 7, &[0; 16]);
    let padded = raw_h2::frame(raw_h2::PING, raw_h2::ACK, 0, &[7; 8]);
    for frame in [priority, window, unknown, padded] {
        withstands(&stand, |_| frame.repeat(2000));
    }
}

#[test]
fn requests_reset_as_soon_as_they_run_free_their_upstreams_and_are_withstood() {
    let stand = Stand::held();
    let block = block(&stand.all);
    let pid = stand.gateway.process.pid();
    let rounds = |count: u32| {
        let mut raw = RawH2::connect(stand.gateway.address);
        for round in 0..count {
            let streams: Vec<u32> = (0..10).map(|at| 1 + 2 * (round * 10 + at)).collect();
            for stream in &streams {
                raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, *stream, &block);
                raw.frame(
                    raw_h2::DATA,
                    raw_h2::END_STREAM,
                    *stream,
                    br#"{"model":"good"}"#,
                );
            }
            // All of them run by the time this is answered: they are reset in the middle of their work.
            let running: Vec<_> = streams.iter().map(|_| stand.up.next()).collect();
            for stream in &streams {
                raw.frame(raw_h2::RST_STREAM, 0, *stream, &8_u32.to_be_bytes());
            }
            for exchange in running {
                assert!(exchange.gone_within(DEADLINE), "an upstream is kept");
            }
        }
    };
    rounds(20);
    let before = resident(pid);
    rounds(60);
    let grown = resident(pid).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
}

#[test]
fn heads_that_wait_for_room_are_let_go_when_their_streams_are_reset() {
    let stand = Stand::new();
    let pid = stand.gateway.process.pid();
    let start = block(&stand.all);
    let mut learn = start.clone();
    learn.extend(raw_h2::learned("cookie", &"c".repeat(3900)));
    // Heads of 54 kB, whose bodies never come, hold all the room that a connection's heads have.
    let large = [&start[..], &[0xbe; 14]].concat();
    let few = [&start[..], &[0x90; 85]].concat();
    let many = [&start[..], &[0x90; 900]].concat();
    for (name, waiting) in [("a usual number of fields", few), ("many fields", many)] {
        let mut raw = RawH2::connect(stand.gateway.address);
        raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, 1, &learn);
        for stream in (3..43).step_by(2) {
            raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, stream, &large);
        }
        let settle = |raw: &mut RawH2| {
            raw.frame(raw_h2::PING, 0, 0, &[1; 8]);
            while let Some(frame) = raw.next(DEADLINE) {
                if (frame.kind, frame.flags) == (raw_h2::PING, raw_h2::ACK) {
                    return;
                }
            }
            panic!("{name}: no answer to PING");
        };
        settle(&mut raw);
        let before = resident(pid);
        for round in 0..200_u32 {
            let streams: Vec<u32> = (0..10).map(|at| 101 + 2 * (10 * round + at)).collect();
            for stream in &streams {
                raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, *stream, &waiting);
            }
            settle(&mut raw);
            for stream in &streams {
                raw.frame(raw_h2::RST_STREAM, 0, *stream, &8_u32.to_be_bytes());
            }
        }
        settle(&mut raw);
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < 8 << 20, "{name}: {grown} bytes more");
    }
}

#[test]
fn heads_that_unpack_to_much_more_than_was_sent_hold_little() {
    let stand = Stand::new();
    let pid = stand.gateway.process.pid();
    let start = block(&stand.all);
    // `accept-encoding: gzip, deflate` of the static table in one byte, and a cookie of 3900 bytes in one of the dynamic
    // table, which one request puts there.
    let mut learn = start.clone();
    learn.extend(raw_h2::learned("cookie", &"c".repeat(3900)));
    let small = [&start[..], &[0x90; 900]].concat();
    let large = [&start[..], &[0xbe; 14]].concat();
    for (name, block) in [("many small fields", small), ("few large fields", large)] {
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
        let before = resident(pid);
        let mut sent = 0;
        let connections: Vec<RawH2> = (0..8)
            .map(|_| {
                let mut raw = RawH2::connect(stand.gateway.address);
                raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, 1, &learn);
                sent += learn.len();
                // Each waits for its body, and holds its head meanwhile.
                for stream in (3..400).step_by(2) {
                    raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, stream, &block);
                    sent += block.len() + 9;
                }
                raw.frame(raw_h2::PING, 0, 0, &[1; 8]);
                loop {
                    let frame = raw.next(DEADLINE).expect("an answer to PING");
                    if (frame.kind, frame.flags) == (raw_h2::PING, raw_h2::ACK) {
                        break raw;
                    }
                }
            })
            .collect();
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < 50 * sent, "{name}: {grown} bytes for {sent}");
        drop(connections);
        eventually("nothing is in flight", DEADLINE, || {
            (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
        });
    }
}

#[test]
fn a_flood_of_resets_is_answered_with_goaway_and_harms_nobody_else() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    let fields = h2_fields(&stand.all);
    let mut bytes = Vec::new();
    for stream in (1..6000).step_by(2) {
        bytes.extend(raw_h2::frame(
            raw_h2::HEADERS,
            raw_h2::END_HEADERS,
            stream,
            &raw_h2::block(&fields),
        ));
        bytes.extend(raw_h2::frame(
            raw_h2::RST_STREAM,
            0,
            stream,
            &8_u32.to_be_bytes(),
        ));
    }
    raw.send(&bytes);
    let start = Instant::now();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let outcome = attempt(|| raw.outcome(100_001));
    assert!(
        matches!(outcome, Ok(Outcome::Goaway | Outcome::Closed)),
        "{outcome:?}"
    );
}

#[test]
fn a_small_head_that_unpacks_to_megabytes_is_refused() {
    let stand = Stand::new();
    let resident = || {
        let path = format!("/proc/{}/statm", stand.gateway.process.pid());
        let pages = std::fs::read_to_string(path).expect("memory");
        let pages = pages
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<usize>().ok());
        pages.expect("pages") * 4096
    };
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(stand.gateway.ask(&call).status, 200);
    let before = resident();
    let bearer = format!("Bearer {}", stand.all.token);
    let mut block = raw_h2::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/chat/completions"),
        ("authorization", &bearer),
        ("content-type", "application/json"),
    ]);
    // A field of nearly 4 KiB that the table keeps (RFC 7541 6.2.1), and then one byte for each time it is named again.
    block.extend([0x40, 3, b'x', b'-', b'b', 0x7f]);
    let mut length = 3900 - 0x7f;
    while length >= 0x80 {
        block.push(u8::try_from(length % 0x80).expect("seven bits") | 0x80);
        length /= 0x80;
    }
    block.push(u8::try_from(length).expect("seven bits"));
    block.extend([b'v'; 3900]);
    let ask = |times: usize| {
        let block = [&block[..], &vec![0x80 | 62; times]].concat();
        let mut raw = RawH2::connect(stand.gateway.address);
        let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let is_last = at + 1 == pieces.len();
            let ends = if is_last { raw_h2::END_HEADERS } else { 0 };
            match at {
                0 => raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM | ends, 1, piece),
                _ => raw.frame(raw_h2::CONTINUATION, ends, 1, piece),
            }
        }
        raw.outcome(1)
    };
    // A few are a request like any other, whose body is missing.
    assert_eq!(ask(3), Outcome::Status(400));
    let outcome = ask(20_000);
    let is_refused = matches!(
        outcome,
        Outcome::Status(431) | Outcome::Reset | Outcome::Goaway
    );
    assert!(is_refused, "{outcome:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 << 20, "80 MB unpacked took {grown} bytes");
    stand
        .up
        .requests()
        .iter()
        .for_each(|seen| assert!(seen.header("x-b").is_none()));
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
}
