//! An upstream over TLS: whose certificate is believed, and that its answers are treated as those of any other.

use std::net::SocketAddr;

use rcgen::ExtendedKeyUsagePurpose;

use crate::support::client::{Call, End};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{self, BOTH, Stream, tls_front};
use crate::support::pem::{Authority, Identity};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error};

/// A gateway before an upstream that speaks TLS with this certificate.
fn before_tls(
    identity: &Identity,
    host: &str,
    ca: Option<&Authority>,
) -> (Gateway, Recorder, Key, SocketAddr) {
    let up = Recorder::answering();
    let front = tls_front(identity, up.address);
    let key = Key::all("key_all");
    let setup = Setup::new();
    let more = match ca {
        Some(ca) => {
            std::fs::write(setup.path("ca.crt"), ca.pem()).expect("written");
            "ca_file = \"ca.crt\""
        }
        None => "",
    };
    let url = format!("https://{host}:{}", front.port());
    let gateway = setup
        .upstream_with("up", &[&url], &["good"], more)
        .keys(&[&key])
        .start();
    (gateway, up, key, front)
}

#[test]
fn an_upstream_over_tls_is_believed_by_the_given_authority_and_for_its_name_alone() {
    let authority = Authority::new();
    let identity = authority.issue(&["localhost", "127.0.0.1"]);
    for host in ["localhost", "127.0.0.1"] {
        let (gateway, up, key, front) = before_tls(&identity, host, Some(&authority));
        for protocol in BOTH {
            let response = h2::ask(protocol, &gateway, &Call::chat(&key.token, "good"));
            assert_eq!(response.status, 200, "{host}: {}", response.text());
        }
        assert_eq!(up.last().all("host"), [format!("{host}:{}", front.port())]);
        assert_eq!(up.last().all("x-forwarded-proto"), ["http"]);
    }
    let stranger = Authority::new();
    let elsewhere = authority.issue(&["elsewhere.example"]);
    let past = authority.issue_expired(&["localhost"]);
    let early = authority.issue_too_early(&["localhost"]);
    let of_itself = Identity::self_signed(&["localhost"]);
    let of_a_client = authority.issue_for(&["localhost"], ExtendedKeyUsagePurpose::ClientAuth);
    for (name, identity, ca) in [
        ("another authority", &identity, Some(&stranger)),
        ("the system's roots", &identity, None),
        ("another name", &elsewhere, Some(&authority)),
        ("expired", &past, Some(&authority)),
        ("not valid yet", &early, Some(&authority)),
        ("self-signed", &of_itself, Some(&authority)),
        ("self-signed, the system's roots", &of_itself, None),
        ("a client's", &of_a_client, Some(&authority)),
    ] {
        let (gateway, up, key, _) = before_tls(identity, "localhost", ca);
        for _ in 0..2 {
            let response = gateway.ask(&Call::chat(&key.token, "good"));
            assert_error(&response, 502, "upstream_unreachable");
            assert!(
                !response.text().contains("localhost"),
                "{name}: {}",
                response.text()
            );
        }
        up.untouched()
            .expect("no byte goes over an unproven connection");
    }
}

#[test]
fn a_plain_upstream_is_not_taken_for_one_over_tls() {
    let authority = Authority::new();
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::new();
    std::fs::write(setup.path("ca.crt"), authority.pem()).expect("written");
    let url = format!("https://{}", up.address);
    let gateway = setup
        .upstream_with("up", &[&url], &["good"], "ca_file = \"ca.crt\"")
        .keys(&[&key])
        .start();
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "good")),
        502,
        "upstream_unreachable",
    );
    assert!(up.requests().is_empty());
}

#[test]
fn a_stream_over_tls_upstream_is_cancelled_and_truncated_as_any_other() {
    let authority = Authority::new();
    let identity = authority.issue(&["localhost"]);
    let up = Recorder::held();
    let front = tls_front(&identity, up.address);
    let key = Key::all("key_all");
    let setup = Setup::new();
    std::fs::write(setup.path("ca.crt"), authority.pem()).expect("written");
    let url = format!("https://localhost:{}", front.port());
    let gateway = setup
        .upstream_with("up", &[&url], &["good"], "ca_file = \"ca.crt\"")
        .keys(&[&key])
        .start();
    for protocol in BOTH {
        let begin = || {
            let mut stream = Stream::open(protocol, &gateway, &Call::chat(&key.token, "good"));
            let mut exchange = up.next();
            exchange.begin_stream();
            exchange.chunk("data: one\n\n");
            let mut response = stream.head();
            stream.until(&mut response, "one");
            (stream, response, exchange)
        };
        let (stream, _, exchange) = begin();
        drop(stream);
        exchange.assert_freed();
        let (mut stream, mut response, exchange) = begin();
        drop(exchange);
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Cut);
        let (mut stream, mut response, exchange) = begin();
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Whole);
    }
}
