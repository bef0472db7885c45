//! Every timeout of the config against a peer that is slow in just that way, beyond what `lifecycle`, `body`,
//! `forward` and `streams` try: peers that trickle, that keep busy without getting anywhere, and that never read.

use std::cell::Cell;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client};
use crate::support::gateway::{Gateway, Setup};
use crate::support::process::resident;
use crate::support::raw_h2::{self, RawH2};
use crate::support::recorder::{Exchange, Recorder};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, about_a_second, assert_error, eventually};

/// Sends a byte each 100 ms until the other side ends the connection; returns how long that took.
fn trickle(client: &mut Client, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        let sent = client.try_send(&[*byte]);
        if sent.is_err() || client.ends_within(Duration::from_millis(100)).is_some() {
            return start.elapsed();
        }
        assert!(start.elapsed() < DEADLINE, "it may go on for ever");
    }
    start.elapsed()
}

/// Sends these frames each 100 ms until the connection ends; returns how long that took.
fn repeat(raw: &mut RawH2, frames: &[u8]) -> Duration {
    let start = Instant::now();
    loop {
        raw.send(frames);
        if raw.ends_within(Duration::from_millis(100)) {
            return start.elapsed();
        }
        assert!(start.elapsed() < DEADLINE, "it may go on for ever");
    }
}

#[test]
fn a_tls_handshake_and_the_head_behind_it_have_their_time_however_they_trickle_in() {
    let stand = Stand::with(|setup| {
        setup
            .tls()
            .set("timeouts", "tls_handshake = \"1s\"")
            .set("timeouts", "header_read = \"1s\"")
    });
    let gateway = &stand.gateway;
    let mut cases = Cases::new();
    // A record of 512 bytes, that holds a hello of 508: it comes, but never to its end.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(500, 7);
    let took = trickle(&mut Client::connect(gateway.address), &hello);
    cases.check("a hello that trickles", about_a_second(took));
    for protocol in ["http/1.1", "h2"] {
        let connect = || {
            let config = gateway.authority().client(&[protocol]);
            Client::connect_tls(gateway.address, config).expect("a TLS connection")
        };
        let mut silent = connect();
        let start = Instant::now();
        let ended = silent.ends_within(DEADLINE);
        cases.check(
            &format!("silent once {protocol} is agreed on"),
            ended
                .ok_or("it stays open".to_owned())
                .and_then(|_| about_a_second(start.elapsed())),
        );
        let head = match protocol {
            "h2" => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec(),
            _ => Call::get("/v1/models", &stand.all.token).bytes(),
        };
        let took = trickle(&mut connect(), &head);
        cases.check(
            &format!("a head in {protocol} that trickles"),
            about_a_second(took),
        );
    }
    cases.done();
}

#[test]
fn an_http_2_client_that_only_keeps_busy_is_closed_as_one_that_is_silent() {
    let stand = Stand::with(|setup| {
        setup
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "keep_alive = \"1s\"")
    });
    let address = stand.gateway.address;
    let ping = raw_h2::frame(raw_h2::PING, 0, 0, &[7; 8]);
    let settings = raw_h2::frame(raw_h2::SETTINGS, 0, 0, &[]);
    let window = raw_h2::frame(raw_h2::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let unknown = raw_h2::frame(0xbe, 0, 0, b"anything");
    let busy = [&ping[..], &settings, &window, &unknown].concat();
    let request = raw_h2::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/models"),
    ]);
    let whole = raw_h2::END_HEADERS | raw_h2::END_STREAM;
    let mut cases = Cases::new();

    let mut raw = RawH2::connect(address);
    let took = repeat(&mut raw, &busy);
    cases.check("before any request", about_a_second(took));

    // As fast as it can: there is never a moment in which nothing waits to be read.
    let mut raw = RawH2::connect(address);
    let volley = unknown.repeat(5000);
    let start = Instant::now();
    while raw.send_within(&volley, DEADLINE) && start.elapsed() < DEADLINE {}
    cases.check("without a pause", about_a_second(start.elapsed()));

    let mut raw = RawH2::connect(address);
    raw.frame(raw_h2::HEADERS, whole, 1, &request);
    assert_eq!(raw.outcome(1), raw_h2::Outcome::Status(401));
    let took = repeat(&mut raw, &busy);
    cases.check("after a request", about_a_second(took));

    let mut raw = RawH2::connect(address);
    raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM, 1, &request);
    let took = repeat(&mut raw, &[]);
    cases.check("within a head", about_a_second(took));
    cases.done();
}

/// A gateway before one upstream at this URL, with the limits of a second that are asked for.
fn before(url: &str, timeout: &str, key: &Key) -> Gateway {
    Setup::new()
        .upstream("up", &[url], &["good"])
        .set("timeouts", &format!("{timeout} = \"1s\""))
        .keys(&[key])
        .start()
}

#[test]
fn an_upstream_that_never_answers_the_tls_hello_is_given_up_after_upstream_connect() {
    let up = Recorder::held();
    let key = Key::all("key_all");
    let url = up.url().replace("http:", "https:");
    let gateway = before(&url, "upstream_connect", &key);
    let start = Instant::now();
    let response = gateway.ask(&Call::chat(&key.token, "good"));
    about_a_second(start.elapsed()).expect("given up");
    assert_error(&response, 502, "upstream_unreachable");
    up.wait_gone(0);
}

#[test]
fn an_upstream_whose_head_only_trickles_is_given_up_after_upstream_first_byte() {
    let key = Key::all("key_all");
    let call = Call::chat(&key.token, "good");
    let mut cases = Cases::new();
    for (name, piece) in [
        ("a head byte by byte", "x"),
        (
            "one interim answer after the other",
            "HTTP/1.1 103 Early Hints\r\n\r\n",
        ),
    ] {
        let up = Recorder::start(move |mut exchange| {
            exchange.body();
            if piece == "x" {
                exchange.send("HTTP/1.1 200 OK\r\nx: ");
            }
            while !exchange.gone_within(Duration::from_millis(150)) {
                exchange.send(piece);
            }
        });
        let gateway = before(&up.url(), "upstream_first_byte", &key);
        let start = Instant::now();
        let response = gateway.ask(&call);
        cases.check(name, about_a_second(start.elapsed()));
        assert_error(&response, 504, "upstream_timeout");
        up.wait_gone(0);
    }
    cases.done();
}

#[test]
fn an_upstream_that_never_reads_the_request_is_given_up_after_upstream_first_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepted = thread::spawn(move || listener.accept().expect("a connection"));
    let key = Key::all("key_all");
    let gateway = before(&format!("http://{address}"), "upstream_first_byte", &key);
    // More than the kernels hold between them.
    let text = "x".repeat(30 << 20);
    let body = format!(r#"{{"model":"good","text":"{text}"}}"#);
    let response = gateway.ask(&Call::json("/v1/chat/completions", &key.token, body));
    assert_error(&response, 504, "upstream_timeout");
    drop(accepted.join().expect("a connection"));
}

#[test]
fn an_upstream_that_resets_is_a_502_at_any_moment_before_its_answer() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let call = Call::chat(&stand.all.token, "good");
    let resets: [fn(Exchange); 3] = [
        |exchange| exchange.reset(),
        |mut exchange| {
            exchange.body();
            exchange.reset();
        },
        |mut exchange| {
            exchange.body();
            exchange.send("HTTP/1.1 200 OK\r\n");
            thread::sleep(Duration::from_millis(30));
            exchange.reset();
        },
    ];
    for reset in resets {
        for kept in [false, true] {
            if kept {
                stand.up.script(Exchange::complete);
                assert_eq!(stand.gateway.ask(&call).status, 200);
            }
            stand.up.script(reset);
            assert_error(&stand.gateway.ask(&call), 502, "upstream_unreachable");
        }
    }
    stand.up.script(Exchange::complete);
    assert_eq!(stand.gateway.ask(&call).status, 200);
}

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

#[test]
fn half_a_head_and_half_a_handshake_do_not_hold_up_the_end() {
    for tls in [false, true] {
        let mut stand = Stand::with(|setup| {
            let setup = setup.set("timeouts", "header_read = \"1s\"");
            if tls { setup.tls() } else { setup }
        });
        let mut kept = stand.gateway.client();
        let call = Call::get("/v1/models", &stand.all.token);
        assert_eq!(kept.ask(&call).status, 200);
        kept.send(&call.bytes()[..20]);
        let mut fresh = stand.gateway.client();
        fresh.send(&call.bytes()[..20]);
        let mut half = Client::connect(stand.gateway.address);
        half.send(&[0x16, 3, 1]);
        // An answer to another says that these bytes were read.
        assert_eq!(stand.gateway.ask(&call).status, 200);
        stand.gateway.process.terminate();
        let status = stand.gateway.process.exits_within(Duration::from_secs(6));
        assert_eq!(status.code(), Some(0), "TLS: {tls}");
    }
}
