//! Which versions and protocols are agreed on with clients, and that all other rules are the same over TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::support::client::{Call, Client};
use crate::support::h2::{self, BOTH, H2};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
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

#[test]
fn versions_before_1_2_are_refused_by_an_alert() {
    let stand = Stand::with(|setup| setup.tls());
    // SSL 3.0, TLS 1.0 and 1.1, each by a hello of its own (RFC 4346 7.4.1.2).
    for version in [[3, 0], [3, 1], [3, 2]] {
        let mut body = version.to_vec();
        body.extend([7; 32]);
        body.push(0);
        // ECDHE with AES and SHA, RSA with AES and SHA.
        body.extend([0, 6, 0xc0, 0x09, 0xc0, 0x13, 0, 0x2f]);
        body.extend([1, 0]);
        let length = u8::try_from(body.len()).expect("a short hello");
        let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        hello.extend(body);
        let mut client = Client::connect(stand.gateway.address);
        client.send(&hello);
        assert!(client.ends_within(DEADLINE).is_some());
        // A fatal alert: protocol_version, or handshake_failure where none of its suites is known.
        let alert = client.unread();
        assert!(
            alert.len() == 7 && alert[0] == 21 && alert[5] == 2 && [40, 70].contains(&alert[6]),
            "{version:?}: {alert:?}"
        );
    }
    let up: &Recorder = &stand.up;
    up.untouched().expect("nothing is forwarded");
}
