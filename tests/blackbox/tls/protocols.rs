//! TLS on both sides: what is agreed on with clients, whose certificate is believed of an upstream, and certificates
//! that change while all goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::support::client::{Call, Client, End};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{self, BOTH, H2, Protocol, Stream, tls_front};
use crate::support::pem::{Authority, Identity};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error};

#[test]
fn both_protocols_and_both_versions_are_spoken() {
    let stand = Stand::with(|setup| setup.tls());
    let call = Call::chat(&stand.all.token, "good");
    for (versions, spoken) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        for alpn in [&["http/1.1"][..], &[], &["http/1.1", "x-unknown"]] {
            let config = stand
                .gateway
                .authority()
                .client_of_versions(alpn, &[versions]);
            let mut client = Client::connect_tls(stand.gateway.address, config).expect("connected");
            assert_eq!(client.session().protocol_version(), Some(spoken));
            let agreed = client.session().alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(agreed, (!alpn.is_empty()).then(|| b"http/1.1".to_vec()));
            assert_eq!(client.ask(&call).status, 200);
            assert_eq!(client.ask(&call).status, 200);
        }
        let config = stand
            .gateway
            .authority()
            .client_of_versions(&["h2", "http/1.1"], &[versions]);
        let client =
            Client::connect_tls(stand.gateway.address, Arc::clone(&config)).expect("connected");
        assert_eq!(
            client.session().alpn_protocol(),
            Some(&b"h2"[..]),
            "HTTP/2 is preferred"
        );
        assert_eq!(
            H2::connect_tls(stand.gateway.address, config)
                .ask(&call)
                .status,
            200
        );
    }
    assert_eq!(stand.up.last().all("x-forwarded-proto"), ["https"]);
}

#[test]
fn the_rules_are_the_same_over_tls() {
    let stand = Stand::with(|setup| setup.tls());
    for protocol in BOTH {
        let ask = |call: &Call| h2::ask(protocol, &stand.gateway, call);
        assert_error(
            &ask(&Call::chat("sk-unknown", "good")),
            401,
            "invalid_api_key",
        );
        assert_error(
            &ask(&Call::chat(&stand.only.token, "bad")),
            404,
            "model_not_found",
        );
        assert_eq!(ask(&Call::chat(&stand.only.token, "good")).status, 200);
    }
}

#[test]
fn plain_http_on_the_tls_port_is_closed() {
    let stand = Stand::with(|setup| setup.tls());
    for bytes in [
        Call::chat(&stand.all.token, "good").bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
    ] {
        let start = Instant::now();
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        assert!(client.ends_within(DEADLINE).is_some() && start.elapsed() < Duration::from_secs(5));
        assert!(!client.unread().starts_with(b"HTTP/1.1 200"));
    }
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_client_may_ask_for_any_name_and_gets_the_one_certificate() {
    let stand = Stand::with(|setup| setup.tls());
    // Clients that trust nobody the gateway knows do not connect; that is theirs to decide.
    let stranger = Authority::new();
    assert!(Client::connect_tls(stand.gateway.address, stranger.client(&["http/1.1"])).is_err());
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
}

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

#[test]
fn a_certificate_is_reloaded_for_new_connections_while_old_ones_go_on() {
    let stand = Stand::held_with(|setup| setup.tls());
    let authority = stand.gateway.authority();
    let shown = || {
        let client = Client::connect_tls(stand.gateway.address, authority.client(&["http/1.1"]))
            .expect("connected");
        let chain = client.session().peer_certificates().expect("a certificate");
        chain[0].as_ref().to_vec()
    };
    let first = shown();
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
    let second = authority.issue(&["localhost"]);
    second.write(
        &stand.gateway.path("tls.crt"),
        &stand.gateway.path("tls.key"),
    );
    assert_eq!(shown(), first, "nothing is read unasked");
    assert_eq!(stand.gateway.reload().status, 200);
    assert_eq!(shown(), second.der());
    // What is broken is answered, and the last good one stays.
    let third = authority.issue(&["localhost"]);
    for (certificate, private_key) in [
        ("nonsense", third.private_key.as_str()),
        (third.certificate.as_str(), "nonsense"),
        (third.certificate.as_str(), second.private_key.as_str()),
        ("", ""),
    ] {
        std::fs::write(stand.gateway.path("tls.crt"), certificate).expect("written");
        std::fs::write(stand.gateway.path("tls.key"), private_key).expect("written");
        let answer = stand.gateway.reload();
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains("tls."), "{}", answer.text());
        assert_eq!(shown(), second.der());
    }
    std::fs::remove_file(stand.gateway.path("tls.crt")).expect("removed");
    assert_eq!(stand.gateway.reload().status, 422);
    third.write(
        &stand.gateway.path("tls.crt"),
        &stand.gateway.path("tls.key"),
    );
    stand.gateway.process.hang_up();
    crate::support::eventually("SIGHUP reloads it too", DEADLINE, || {
        (shown() == third.der()).then_some(())
    });
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole);
    let log = stand.gateway.log().join("\n");
    for line in second
        .private_key
        .lines()
        .filter(|line| !line.starts_with("---"))
    {
        assert!(!log.contains(line), "the log holds a private key");
    }
}

#[test]
fn the_admin_listener_may_speak_tls_too() {
    let stand = Stand::with(|setup| {
        setup
            .tls()
            .set("admin", "listen = \"127.0.0.1:0\"")
            .set("admin", "tls = true")
    });
    let admin =
        std::fs::read_to_string(stand.gateway.path("admin.token")).expect("the admin token");
    let address = stand.gateway.admin_address();
    let config = stand.gateway.authority().client(&["http/1.1"]);
    let mut client = Client::connect_tls(address, config).expect("connected");
    assert_eq!(
        client.ask(&Call::get("/api/status", admin.trim())).status,
        200
    );
    let mut plain = Client::connect(address);
    plain.send(&Call::get("/api/status", admin.trim()).bytes());
    assert!(plain.ends_within(DEADLINE).is_some());
    assert!(!plain.unread().starts_with(b"HTTP/1.1 200"));
    // What users see is https.
    let made = stand.gateway.admin_json(
        "POST",
        "/api/keys",
        Some(&json!({"name": "x", "model_access": {"mode": "all"}})),
    );
    assert!(
        made["url"]
            .as_str()
            .is_some_and(|url| url.starts_with("https://") && url.ends_with("/v1")),
        "{made}"
    );
}
