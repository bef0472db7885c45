//! How the gateway ends: running requests may finish, nobody new is taken, and nobody holds up the end.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{Call, Client, End};
use crate::support::gateway::{Process, serve_in};
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::raw_h2::{Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

#[test]
fn an_idle_http_2_client_that_does_not_answer_does_not_hold_up_the_end() {
    let mut stand = Stand::new();
    let mut client = RawH2::connect(stand.gateway.address);
    client.chat(1, &stand.all.token);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    eventually("the answer is out", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    // From here on the client reads nothing, so that GOAWAY and PING stay unanswered.
    stand.gateway.process.terminate();
    let status = stand.gateway.process.exits_within(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
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

#[test]
fn sigterm_with_nothing_in_flight_ends_within_a_second() {
    let stand = Stand::new();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let mut idle = stand.gateway.client();
    assert_eq!(idle.ask(&Call::chat(&stand.all.token, "good")).status, 200);
    let connection = stand.gateway.h2();
    assert_eq!(
        connection.ask(&Call::chat(&stand.all.token, "good")).status,
        200
    );
    let mut gateway = stand.gateway;
    let start = Instant::now();
    gateway.process.terminate();
    let status = gateway.process.exits_within(DEADLINE);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(status.code(), Some(0));
    idle.assert_closed();
    assert!(connection.ends_within(DEADLINE));
    assert!(!gateway.socket().exists(), "the socket's file stays");
}

/// A gateway with a running stream that was told to end.
fn draining(
    protocol: Protocol,
    stand: &Stand,
) -> (
    Stream,
    crate::support::client::Response,
    crate::support::recorder::Exchange,
) {
    let mut stream = Stream::open(
        protocol,
        &stand.gateway,
        &Call::chat(&stand.all.token, "good"),
    );
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    stand.gateway.process.terminate();
    let socket = stand.gateway.socket();
    eventually("the socket is given up", DEADLINE, || {
        (!socket.exists()).then_some(())
    });
    (stream, response, exchange)
}

#[test]
fn sigterm_lets_running_streams_finish_and_takes_nobody_new() {
    for protocol in BOTH {
        let mut stand = Stand::held_with(|setup| setup.set("admin", "listen = \"127.0.0.1:0\""));
        let admin = stand.gateway.admin_address();
        let mut idle = stand.gateway.client();
        assert_eq!(
            idle.ask(&Call::get("/v1/models", &stand.all.token)).status,
            200
        );
        let (mut stream, mut response, mut exchange) = draining(protocol, &stand);
        let address = stand.gateway.address;
        eventually("the data port is closed", DEADLINE, || {
            TcpStream::connect(address).is_err().then_some(())
        });
        eventually("the admin port is closed", DEADLINE, || {
            TcpStream::connect(admin).is_err().then_some(())
        });
        assert!(
            idle.ends_within(DEADLINE).is_some(),
            "an idle connection stays"
        );
        thread::sleep(Duration::from_millis(300));
        assert!(stand.gateway.process.is_running());
        exchange.chunk("data: [DONE]\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(
            (response.text().as_str(), response.end),
            ("data: one\n\ndata: [DONE]\n\n", End::Whole)
        );
        let start = Instant::now();
        assert_eq!(stand.gateway.process.exits_within(DEADLINE).code(), Some(0));
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_new_request_on_a_kept_connection_of_a_draining_gateway_is_told_so() {
    let stand = Stand::held();
    // Pipelined behind a running one, it is read when that ends.
    let mut client = stand.gateway.client();
    let mut bytes = Call::chat(&stand.all.token, "good").bytes();
    client.send(&bytes);
    let exchange = stand.up.next();
    let connection = stand.gateway.h2();
    let mut running = connection.open(&Call::chat(&stand.all.token, "good"));
    let second = stand.up.next();
    stand.gateway.process.terminate();
    let socket = stand.gateway.socket();
    eventually("the socket is given up", DEADLINE, || {
        (!socket.exists()).then_some(())
    });
    bytes = Call::chat(&stand.all.token, "good").bytes();
    let _ = client.try_send(&bytes);
    // A client that has seen GOAWAY opens no new stream; one that has not is answered or turned away.
    let mut late = connection.open(&Call::chat(&stand.all.token, "good"));
    if let Ok(mut response) = late.head_or_reset() {
        late.finish(&mut response, DEADLINE);
        assert_error(&response, 503, "shutting_down");
    }
    exchange.complete();
    assert_eq!(client.answer().status, 200);
    if let Some(response) = client.answer_or_end() {
        assert_error(&response, 503, "shutting_down");
    }
    second.complete();
    assert_eq!(running.head().status, 200);
    assert_eq!(stand.up.requests().len(), 2);
}

#[test]
fn a_request_whose_body_is_on_its_way_at_sigterm_is_still_answered() {
    let mut stand = Stand::new();
    let call = Call::chat(&stand.all.token, "good");
    let (first, rest) = call.body.split_at(10);
    let mut client = stand.gateway.client();
    client.send(&[&call.head(), first].concat());
    let (mut stream, sending) = stand.gateway.h2().begin(&call);
    sending.data(first);
    eventually("both are in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") > 1.5).then_some(())
    });
    stand.gateway.process.terminate();
    let socket = stand.gateway.socket();
    eventually("the socket is given up", DEADLINE, || {
        (!socket.exists()).then_some(())
    });
    client.send(rest);
    assert_eq!(client.answer().status, 200);
    sending.data(rest);
    drop(sending);
    assert_eq!(stream.head().status, 200);
    drop(stream);
    assert_eq!(stand.gateway.process.exits_within(DEADLINE).code(), Some(0));
}

#[test]
fn a_second_sigterm_ends_at_once() {
    for protocol in BOTH {
        let mut stand = Stand::held();
        let (mut stream, mut response, _exchange) = draining(protocol, &stand);
        assert!(stand.gateway.process.is_running());
        let start = Instant::now();
        stand.gateway.process.terminate();
        stand.gateway.process.exits_within(DEADLINE);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Cut);
    }
}

#[test]
fn running_streams_are_cut_when_the_drain_time_is_over() {
    for protocol in BOTH {
        let mut stand = Stand::held_with(|setup| setup.set("timeouts", "drain = \"1s\""));
        let start = Instant::now();
        let (mut stream, mut response, _exchange) = draining(protocol, &stand);
        assert_eq!(stand.gateway.process.exits_within(DEADLINE).code(), Some(0));
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(3),
            "{took:?}"
        );
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Cut);
    }
}

#[test]
fn a_successor_can_start_while_the_old_one_drains_and_keeps_its_socket() {
    let mut stand = Stand::held();
    let address = stand.gateway.address;
    stand
        .gateway
        .change_config("127.0.0.1:0", &address.to_string());
    let (mut stream, mut response, exchange) = draining(Protocol::Http1, &stand);
    let mut successor = Process::spawn(serve_in(stand.gateway.folder()));
    assert_eq!(successor.listening(), address);
    stand.gateway.wait_ready();
    assert_eq!(
        Client::connect(address)
            .ask(&Call::get("/v1/models", &stand.all.token))
            .status,
        200
    );
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole);
    assert_eq!(stand.gateway.process.exits_within(DEADLINE).code(), Some(0));
    // The file is the successor's now, and the old one's exit leaves it alone.
    assert!(stand.gateway.socket().exists());
    assert_eq!(stand.gateway.admin("GET", "/readyz", None).status, 200);
    successor.terminate();
    assert_eq!(successor.exits_within(DEADLINE).code(), Some(0));
}

#[test]
fn during_drain_delay_requests_are_taken_and_readiness_is_not() {
    let mut stand = Stand::with(|setup| {
        setup
            .set("timeouts", "drain_delay = \"2s\"")
            .line("public_health = true")
    });
    assert_eq!(stand.gateway.ask(&Call::new("GET", "/healthz")).status, 200);
    assert_eq!(stand.gateway.ask(&Call::new("GET", "/readyz")).status, 200);
    assert_eq!(
        stand.gateway.admin_json("GET", "/api/status", None)["draining"],
        false
    );
    let start = Instant::now();
    stand.gateway.process.terminate();
    let gateway = &stand.gateway;
    eventually("it is not ready", WITHIN_A_SECOND, || {
        (gateway.admin("GET", "/readyz", None).status == 503).then_some(())
    });
    assert_eq!(gateway.ask(&Call::new("GET", "/readyz")).status, 503);
    assert_eq!(gateway.ask(&Call::new("GET", "/healthz")).status, 200);
    assert_eq!(
        gateway.admin_json("GET", "/api/status", None)["draining"],
        true
    );
    for protocol in BOTH {
        let response =
            crate::support::h2::ask(protocol, gateway, &Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "the machine is too slow for this test"
    );
    assert_eq!(stand.gateway.process.exits_within(DEADLINE).code(), Some(0));
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(1800) && took < Duration::from_secs(4),
        "{took:?}"
    );
    // Health checks that say yes would drown the rest of the log.
    let log = stand.gateway.log();
    let requests = log
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["event"] == "access");
    let mut told: Vec<(String, u64)> = requests
        .map(|line| (line["method"].to_string(), line["status"].as_u64().unwrap()))
        .collect();
    told.sort();
    let get = ("\"GET\"".to_owned(), 503);
    let post = ("\"POST\"".to_owned(), 200);
    assert_eq!(told, [get, post.clone(), post]);
}
