//! Clients that never read, or that send and read slowly on many streams at once, take no more memory than the limits say.

use std::cell::Cell;
use std::time::Duration;

use crate::support::client::{Call, Client};
use crate::support::process::resident;
use crate::support::raw_h2::{self, RawH2};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

#[test]
fn clients_that_never_read_take_no_memory_however_much_there_is_for_them() {
    let stand = Stand::before(
        Recorder::start(|mut exchange| {
            exchange.begin_stream();
            let piece = "x".repeat(1 << 20);
            for _ in 0..64 {
                if exchange.gone_within(Duration::ZERO) {
                    return;
                }
                exchange.chunk(&piece);
            }
        }),
        |setup| setup.set("timeouts", "client_write = \"4s\""),
    );
    let pid = stand.gateway.process.pid();
    let call = Call::chat(&stand.all.token, "good");
    let before = resident(pid);
    let clients: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = stand.gateway.client();
            client.send(&call.bytes());
            client
        })
        .collect();
    let most = Cell::new(0);
    // 2.5 GB wait for them; then they are given up, one and all.
    eventually("they have all begun", DEADLINE, || {
        most.set(resident(pid).max(most.get()));
        (stand.gateway.metric("keygate_in_flight") == 40.0).then_some(())
    });
    eventually("they are given up", DEADLINE, || {
        most.set(resident(pid).max(most.get()));
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    let grown = most.get().saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes more");
    drop(clients);
}

/// What one stream of an HTTP/2 connection may hold of its answer: the 64 KiB that wait for its client (`HTTP2_SEND_BUFFER`
/// in `src/gateway/serve.rs`), a piece of 32 KiB behind them, as much room to read the next one into, and its task.
const HELD_OF_AN_ANSWER: usize = (64 + 32 + 32 + 16) << 10;

#[test]
fn many_slow_streams_of_one_http_2_connection_take_no_more_memory_than_their_buffers() {
    const STREAMS: usize = 100;
    let stand = Stand::before(
        Recorder::start(|mut exchange| {
            exchange.begin_stream();
            let piece = "x".repeat(1 << 20);
            for _ in 0..4 {
                if exchange.gone_within(Duration::ZERO) {
                    return;
                }
                exchange.chunk(&piece);
            }
        }),
        |setup| setup.set("timeouts", "client_write = \"4s\""),
    );
    let pid = stand.gateway.process.pid();
    let in_flight = || stand.gateway.metric("keygate_in_flight");
    let before = resident(pid);
    // A client that reads nothing, and one that reads but keeps the window of each stream shut.
    for is_open in [true, false] {
        let mut client = if is_open {
            RawH2::connect_greedily(stand.gateway.address)
        } else {
            let mut client = RawH2::connect(stand.gateway.address);
            let shut = [0, 4, 0, 0, 0, 0];
            client.frame(raw_h2::SETTINGS, 0, 0, &shut);
            client
        };
        for number in 0..STREAMS {
            let stream = u32::try_from(2 * number + 1).expect("a stream's number");
            client.chat(stream, &stand.all.token);
        }
        let most = Cell::new(0);
        let reaches = |what: &str, wanted: usize| {
            eventually(what, DEADLINE, || {
                most.set(resident(pid).max(most.get()));
                ((in_flight() - wanted as f64).abs() < 0.5).then_some(())
            });
        };
        // 400 MB wait for them; then they are given up, one and all.
        reaches("they have all begun", STREAMS);
        reaches("they are given up", 0);
        let grown = most.get().saturating_sub(before);
        let bound = STREAMS * HELD_OF_AN_ANSWER + (8 << 20);
        assert!(
            grown < bound,
            "{grown} bytes more with windows open: {is_open}"
        );
    }
}

const BEGINNING: &[u8] = br#"{"model":"good"}"#;

/// Sends bodies that have begun on, of 248 KiB each, all alike and as fast as the connection's window lets it; returns how
/// many were refused meanwhile.
fn send_bodies(client: &mut RawH2, streams: usize, mut look: impl FnMut()) -> usize {
    const PIECE: [u8; 8 << 10] = [b' '; 8 << 10];
    const PIECES: usize = 31;
    let mut window = 65_535 - streams * BEGINNING.len();
    let mut refused = vec![false; streams];
    for _ in 0..PIECES {
        for number in 0..streams {
            while window < PIECE.len() {
                let frame = client.next(DEADLINE).expect("room for more");
                match frame.kind {
                    raw_h2::WINDOW_UPDATE if frame.stream == 0 => {
                        let more = frame.payload.try_into().expect("four bytes");
                        window += u32::from_be_bytes(more) as usize;
                    }
                    raw_h2::HEADERS => refused[frame.stream as usize / 2] = true,
                    kind => assert_ne!(kind, raw_h2::GOAWAY, "the connection is given up"),
                }
            }
            if !refused[number] {
                let stream = u32::try_from(2 * number + 1).expect("a stream's number");
                client.frame(raw_h2::DATA, 0, stream, &PIECE);
                window -= PIECE.len();
            }
        }
        look();
    }
    refused.iter().filter(|refused| **refused).count()
}

#[test]
fn many_slow_bodies_on_one_http_2_connection_hold_no_more_than_all_bodies_may() {
    const STREAMS: usize = 200;
    const BUFFERED: usize = 8 << 20;
    let stand = Stand::with(|setup| {
        setup
            .set("limits", "request_body = \"8MiB\"")
            .set("limits", "buffered_bodies = \"8MiB\"")
    });
    let pid = stand.gateway.process.pid();
    let before = resident(pid);
    let mut client = RawH2::connect(stand.gateway.address);
    for number in 0..STREAMS {
        let stream = u32::try_from(2 * number + 1).expect("a stream's number");
        client.begin_chat(stream, &stand.all.token);
        client.frame(raw_h2::DATA, 0, stream, BEGINNING);
    }
    let mut most = 0;
    let refused = send_bodies(&mut client, STREAMS, || most = most.max(resident(pid)));
    assert!(
        refused > STREAMS / 2,
        "only {refused} of the bodies had no room"
    );
    // A body grows in doubled buffers, and the allocator gives those it grew out of back only seconds later; a connection holds
    // a MiB that nobody has read yet (`HTTP2_WINDOW`).
    let grown = most.saturating_sub(before);
    let bound = 3 * BUFFERED + (1 << 20) + STREAMS * (32 << 10);
    assert!(grown < bound, "{grown} bytes more");
    // What is left of them holds up nobody, and is given back.
    drop(client);
    eventually("the bodies are let go", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    let whole = Call::json("/v1/chat/completions", &stand.all.token, {
        let mut body = BEGINNING.to_vec();
        body.resize(BUFFERED - 1024, b' ');
        body
    });
    assert_eq!(stand.gateway.ask(&whole).status, 200);
    assert_eq!(stand.up.requests().len(), 1);
}
