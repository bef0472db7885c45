//! An upstream that does not connect, does not answer or stops in the middle is given up, and holds up nobody else.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, End};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{BOTH, Stream};
use crate::support::recorder::{Recorder, Reserved};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, about_a_second, assert_error, eventually};

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
    // The gateway may connect once before, to see whether the upstream is up. Nothing is read, and nothing closed.
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let key = Key::all("key_all");
    let gateway = before(&format!("http://{address}"), "upstream_first_byte", &key);
    // More than the kernels hold between them.
    let text = "x".repeat(30 << 20);
    let body = format!(r#"{{"model":"good","text":"{text}"}}"#);
    let response = gateway.ask(&Call::json("/v1/chat/completions", &key.token, body));
    assert_error(&response, 504, "upstream_timeout");
}

#[test]
fn a_connect_that_is_never_answered_times_out_and_sets_the_replica_aside() {
    let silent = Reserved::new().unanswering();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&format!("http://{}", silent.address)], &["good"])
        .set("timeouts", "upstream_connect = \"1s\"")
        .keys(&[&key])
        .start();
    let start = Instant::now();
    let response = gateway.ask(&Call::chat(&key.token, "good"));
    assert!(matches!(response.status, 502 | 503), "{}", response.text());
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    let start = Instant::now();
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "good")),
        503,
        "upstream_unavailable",
    );
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_silent_upstream_times_out_and_is_freed() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "upstream_first_byte = \"1s\""));
    for protocol in BOTH {
        let start = Instant::now();
        let mut stream = Stream::open(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        let exchange = stand.up.next();
        let mut response = stream.head();
        stream.finish(&mut response, DEADLINE);
        assert_error(&response, 504, "upstream_timeout");
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(4),
            "{took:?}"
        );
        exchange.assert_freed();
    }
}

#[test]
fn a_stream_that_falls_silent_is_broken_off() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "stream_idle = \"1s\""));
    for protocol in BOTH {
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
        // A pause that is shorter than the limit does no harm.
        thread::sleep(Duration::from_millis(600));
        exchange.chunk("data: two\n\n");
        stream.until(&mut response, "two");
        stream.finish(&mut response, Duration::from_secs(4));
        assert_eq!(response.end, End::Cut);
        exchange.assert_freed();
    }
}

#[test]
fn an_upstream_that_does_not_answer_for_5_s_holds_nobody_up_and_is_asked_again() {
    let silent = Recorder::held();
    let quick = Recorder::answering();
    let key = Key::all("key_all");
    let start = Instant::now();
    let gateway = Setup::new()
        .upstream("silent", &[&silent.url()], &[])
        .upstream("quick", &[&quick.url()], &["good"])
        .keys(&[&key])
        .start();
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "ready after {took:?}"
    );
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "late")),
        503,
        "not_ready",
    );
    silent.script(|exchange| exchange.serve_models(&["late"]));
    eventually("it is asked again", DEADLINE, || {
        (gateway.ask(&Call::chat(&key.token, "late")).status == 200).then_some(())
    });
}
