//! With `client_ca`, only clients with a valid certificate of that authority get in.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig, HandshakeKind};

use crate::support::client::{Call, Client, End};
use crate::support::h2::H2;
use crate::support::pem::{Authority, Identity};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, assert_error};

/// A gateway whose clients must show a certificate of this authority.
fn asking_for(clients: &Authority) -> Stand {
    Stand::with(|setup| {
        std::fs::write(setup.path("clients.pem"), clients.pem()).expect("written");
        setup
            .tls()
            .set("tls", "client_ca = \"clients.pem\"")
            .set("admin", "listen = \"127.0.0.1:0\"")
            .set("admin", "tls = true")
    })
}

/// Whether the gateway takes a client with this certificate as far as a request's answer.
fn is_taken(address: SocketAddr, config: Arc<ClientConfig>, call: &Call) -> bool {
    // In TLS 1.3 a client learns that it was refused only once it reads.
    let Ok(mut client) = Client::connect_tls(address, config) else {
        return false;
    };
    if client.try_send(&call.bytes()).is_err() {
        return false;
    }
    client.answer_or_end().is_some()
}

#[test]
fn with_a_clients_ca_only_clients_with_a_valid_certificate_of_it_get_in() {
    let clients = Authority::new();
    let stand = asking_for(&clients);
    let (gateway, servers) = (&stand.gateway, stand.gateway.authority());
    let call = Call::chat(&stand.all.token, "good");
    let good = clients.issue(&["client.example"]);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for (name, own) in [
            ("none", None),
            (
                "another authority's",
                Some(Authority::new().issue(&["client.example"])),
            ),
            (
                "the server's authority's",
                Some(servers.issue(&["client.example"])),
            ),
            (
                "self-signed",
                Some(Identity::self_signed(&["client.example"])),
            ),
            ("expired", Some(clients.issue_expired(&["client.example"]))),
            (
                "not valid yet",
                Some(clients.issue_too_early(&["client.example"])),
            ),
            (
                "a server's",
                Some(clients.issue_for(&["client.example"], ExtendedKeyUsagePurpose::ServerAuth)),
            ),
        ] {
            let config = servers.client_showing(own.as_ref(), &["http/1.1"], versions);
            let taken = is_taken(gateway.address, config, &call);
            assert!(!taken, "a certificate that is {name} is taken");
        }
        stand.up.untouched().expect("nothing is forwarded");
    }
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = servers.client_showing(Some(&good), &["http/1.1"], versions);
        let mut client = Client::connect_tls(gateway.address, config).expect("connected");
        assert_eq!(client.ask(&call).status, 200);
        // A certificate is no key.
        let refused = client.ask(&Call::chat("sk-unknown", "good"));
        assert_error(&refused, 401, "invalid_api_key");
        let config = servers.client_showing(Some(&good), &["h2"], versions);
        let h2 = H2::connect_tls(gateway.address, config);
        assert_eq!(h2.ask(&call).status, 200);
    }
    // The admin listener asks for its token, as ever, and for no certificate.
    let admin = std::fs::read_to_string(gateway.path("admin.token")).expect("the admin token");
    let config = servers.client(&["http/1.1"]);
    let mut client = Client::connect_tls(gateway.admin_address(), config).expect("connected");
    let status = client.ask(&Call::get("/api/status", admin.trim()));
    assert_eq!(status.status, 200);
}

#[test]
fn a_clients_certificate_is_looked_at_in_every_handshake_and_a_session_never_stands_for_it() {
    let clients = Authority::new();
    let strict = asking_for(&clients);
    let open = Stand::with(|setup| setup.tls());
    let good = clients.issue(&["client.example"]);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let mut kinds = Vec::new();
        for stand in [&strict, &open] {
            let servers = stand.gateway.authority();
            let config = servers.client_showing(Some(&good), &["http/1.1"], versions);
            for _ in 0..2 {
                let address = stand.gateway.address;
                let mut client = Client::connect_tls(address, Arc::clone(&config)).expect("in");
                let response = client.ask(&Call::chat(&stand.all.token, "good"));
                assert_eq!(response.status, 200);
                kinds.push(client.session().handshake_kind());
            }
        }
        let full = Some(HandshakeKind::Full);
        assert_eq!(kinds[..3], [full, full, full]);
        // Where nobody has to show a certificate, resuming is a saving.
        assert_eq!(kinds[3], Some(HandshakeKind::Resumed));
    }
    // Begun where no certificate is asked for, a session is worth nothing where one is.
    let config = strict.gateway.authority().client(&["http/1.1"]);
    let admin = std::fs::read_to_string(strict.gateway.path("admin.token")).expect("the token");
    let address = strict.gateway.admin_address();
    let mut client = Client::connect_tls(address, Arc::clone(&config)).expect("connected");
    assert_eq!(
        client.ask(&Call::get("/api/status", admin.trim())).status,
        200
    );
    let call = Call::chat(&strict.all.token, "good");
    assert!(!is_taken(strict.gateway.address, config, &call));
}

#[test]
fn another_clients_ca_counts_from_the_reload_on_and_running_streams_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let stand = Stand::held_with(|setup| {
        std::fs::write(setup.path("clients.pem"), old.pem()).expect("written");
        setup.tls().set("tls", "client_ca = \"clients.pem\"")
    });
    let (gateway, servers) = (&stand.gateway, stand.gateway.authority());
    let of = |authority: &Authority| {
        let own = authority.issue(&["client.example"]);
        servers.client_showing(Some(&own), &["http/1.1"], ALL_VERSIONS)
    };
    let call = Call::get("/v1/key", &stand.all.token);
    let is_in = |authority| is_taken(gateway.address, of(authority), &call);
    assert!(is_in(&old) && !is_in(&new));
    let mut stream = Client::connect_tls(gateway.address, of(&old)).expect("connected");
    stream.send(&Call::chat(&stand.all.token, "good").bytes());
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, b"one");
    std::fs::write(gateway.path("clients.pem"), new.pem()).expect("written");
    assert_eq!(gateway.reload().status, 200);
    assert!(!is_in(&old) && is_in(&new));
    // A CA that cannot be read opens nothing: what was in force stays.
    std::fs::write(gateway.path("clients.pem"), "nonsense").expect("written");
    let answer = gateway.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("tls.client_ca"), "{}", answer.text());
    assert!(!is_in(&old) && is_in(&new));
    let plain = servers.client(&["http/1.1"]);
    assert!(!is_taken(gateway.address, plain, &call));
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole);
}
