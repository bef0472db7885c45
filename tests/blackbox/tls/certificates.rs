//! Several certificates at once, clients with certificates of their own, and peers that never finish a handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig, HandshakeKind, SignatureScheme};

use crate::support::client::{Call, Client, End};
use crate::support::gateway::Setup;
use crate::support::h2::{H2, Protocol};
use crate::support::pem::{Authority, Identity, onlooker};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, assert_error, eventually};

const ANY_KIND: [SignatureScheme; 2] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
];

/// Writes NAME.crt and NAME.key.
fn put(setup: &Setup, name: &str, identity: &Identity) {
    identity.write(
        &setup.path(&format!("{name}.crt")),
        &setup.path(&format!("{name}.key")),
    );
}

/// A further certificate of the config, NAME.crt and NAME.key.
fn more(setup: Setup, name: &str) -> Setup {
    setup.table(&format!(
        "[[tls.more]]\ncertificate = \"{name}.crt\"\nprivate_key = \"{name}.key\"\n"
    ))
}

/// The certificate that a client is shown.
fn shown(address: SocketAddr, name: &'static str, config: &Arc<ClientConfig>) -> Vec<u8> {
    let client = Client::connect_tls_as(name, address, Arc::clone(config)).expect("connected");
    let chain = client.session().peer_certificates().expect("a certificate");
    chain[0].as_ref().to_vec()
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for_and_else_the_first() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.example", "B.example"]);
    let level = authority.issue(&["*.wild.example", "a.example"]);
    let exact = authority.issue(&["exact.wild.example", "exact.wild.example"]);
    let stand = Stand::with(|setup| {
        let setup = setup.tls();
        for (name, identity) in [("pair", &pair), ("level", &level), ("exact", &exact)] {
            put(&setup, name, identity);
        }
        more(more(more(setup, "pair"), "level"), "exact")
    });
    let first = std::fs::read_to_string(stand.gateway.path("tls.crt")).expect("the first");
    let first = Identity::der_of(&first);
    let config = onlooker(&ANY_KIND);
    for (name, certificate) in [
        ("localhost", &first[..]),
        ("a.example", pair.der()),
        ("b.example", pair.der()),
        ("A.EXAMPLE", pair.der()),
        ("one.wild.example", level.der()),
        ("exact.wild.example", exact.der()),
        // A wildcard stands for one level, and not for none.
        ("wild.example", &first),
        ("two.levels.wild.example", &first),
        ("unknown.example", &first),
        // By an address no name is asked for.
        ("127.0.0.1", &first),
    ] {
        let seen = shown(stand.gateway.address, name, &config);
        assert!(seen == certificate, "{name} gets another certificate");
    }
    // Whoever checks gets in under each name, over both protocols.
    let config = authority.client(&["http/1.1"]);
    for name in ["a.example", "any.wild.example"] {
        let client = Client::connect_tls_as(name, stand.gateway.address, Arc::clone(&config));
        let response = client
            .expect(name)
            .ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200);
    }
    let log = stand.gateway.log().join("\n");
    assert!(
        log.contains("is for a.example like an earlier certificate"),
        "an operator is told that a certificate is not chosen: {log}"
    );
}

#[test]
fn two_certificates_for_a_name_serve_clients_that_know_one_kind_of_key_each() {
    let authority = Authority::new();
    let names = ["a.example"];
    let curve = authority.issue_of_kind(&names, &rcgen::PKCS_ECDSA_P256_SHA256);
    let edwards = authority.issue_of_kind(&names, &rcgen::PKCS_ED25519);
    let stand = Stand::with(|setup| {
        let setup = setup.tls();
        put(&setup, "curve", &curve);
        put(&setup, "edwards", &edwards);
        more(more(setup, "curve"), "edwards")
    });
    for (kinds, certificate) in [
        (&ANY_KIND[..], &curve),
        (&ANY_KIND[..1], &curve),
        (&ANY_KIND[1..], &edwards),
    ] {
        let seen = shown(stand.gateway.address, "a.example", &onlooker(kinds));
        assert!(seen == certificate.der(), "{kinds:?}");
    }
}

#[test]
fn a_reload_takes_each_certificate_on_its_own() {
    let authority = Authority::new();
    let issue = |name| authority.issue(&[name]);
    let stand = Stand::with(|setup| {
        let setup = setup.tls();
        put(&setup, "a", &issue("a.example"));
        put(&setup, "b", &issue("b.example"));
        more(more(setup, "a"), "b")
    });
    let gateway = &stand.gateway;
    let config = onlooker(&ANY_KIND);
    let seen = |name| shown(gateway.address, name, &config);
    let write = |name: &str, identity: &Identity| {
        let path = |ending| gateway.path(&format!("{name}.{ending}"));
        identity.write(&path("crt"), &path("key"));
    };
    let (new_first, new_a, new_b) = (issue("localhost"), issue("a.example"), issue("b.example"));
    for (name, identity) in [("tls", &new_first), ("a", &new_a), ("b", &new_b)] {
        write(name, identity);
    }
    assert_eq!(gateway.reload().status, 200);
    for (name, identity) in [
        ("localhost", &new_first),
        ("a.example", &new_a),
        ("b.example", &new_b),
    ] {
        assert!(seen(name) == identity.der(), "{name}");
    }
    // One of them torn: the others are renewed all the same, and it stays as it was.
    let newer_b = issue("b.example");
    write("b", &newer_b);
    std::fs::write(gateway.path("a.crt"), "-----BEGIN CERTIFICATE-----\nMII").expect("written");
    let answer = gateway.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(
        answer.text().contains("tls.more[0].certificate"),
        "{}",
        answer.text()
    );
    assert!(seen("a.example") == new_a.der() && seen("b.example") == newer_b.der());
    // The first one too, and a signal is a reload like any other.
    let newest_b = issue("b.example");
    write("b", &newest_b);
    std::fs::remove_file(gateway.path("tls.key")).expect("removed");
    gateway.process.hang_up();
    eventually(
        "SIGHUP renews the certificate that is whole",
        DEADLINE,
        || (seen("b.example") == newest_b.der()).then_some(()),
    );
    assert!(seen("localhost") == new_first.der() && seen("a.example") == new_a.der());
    write("tls", &new_first);
    write("a", &new_a);
    // A rehearsal says the same and changes nothing.
    let unused = issue("b.example");
    write("b", &unused);
    let rehearsed = gateway.admin(
        "POST",
        "/api/reload",
        Some(&serde_json::json!({"dry_run": true})),
    );
    assert_eq!(rehearsed.status, 200);
    assert!(seen("b.example") == newest_b.der());
    // A certificate comes and another goes.
    let c = issue("c.example");
    write("c", &c);
    gateway.change_config("\"a.crt\"", "\"c.crt\"");
    gateway.change_config("\"a.key\"", "\"c.key\"");
    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(seen("c.example") == c.der());
    assert!(
        seen("a.example") == new_first.der(),
        "a.example is unknown now"
    );
}

#[test]
fn connections_come_and_go_without_a_fault_while_certificates_are_reloaded() {
    let stand = Stand::with(|setup| setup.tls().line("workers = 2"));
    let gateway = &stand.gateway;
    let authority = gateway.authority();
    let call = Call::chat(&stand.all.token, "good");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut kept = gateway.client();
    // Its hello is with the gateway when the certificates change, and the rest comes later.
    let mut begun = Handshake::begin(gateway.address, authority.client(&["http/1.1"]));
    std::thread::scope(|scope| {
        for protocol in [Protocol::Http1, Protocol::Http1, Protocol::Http2] {
            let (over, served, call) = (&over, &served, &call);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // A configuration of its own each time: nothing is resumed, every handshake is a whole one.
                    let response = crate::support::h2::ask(protocol, gateway, call);
                    assert_eq!(response.status, 200, "{}", response.text());
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let reloads = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..30 {
                let before = served.load(Ordering::Relaxed);
                let renewed = authority.issue(&["localhost", "127.0.0.1"]);
                renewed.write(&gateway.path("tls.crt"), &gateway.path("tls.key"));
                assert_eq!(gateway.reload().status, 200);
                assert_eq!(kept.ask(&call).status, 200, "a kept connection goes on");
                let config = authority.client(&["http/1.1"]);
                assert!(shown(gateway.address, "localhost", &config) == renewed.der());
                eventually("others are served meanwhile", DEADLINE, || {
                    (served.load(Ordering::Relaxed) > before).then_some(())
                });
            }
        }));
        over.store(true, Ordering::Relaxed);
        reloads.expect("every reload is taken");
    });
    begun.finish();
}

/// A handshake whose first flight is on its way.
struct Handshake {
    stream: std::net::TcpStream,
    session: rustls::ClientConnection,
}

impl Handshake {
    fn begin(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let mut session = rustls::ClientConnection::new(config, name).expect("a session");
        while session.wants_write() {
            session.write_tls(&mut stream).expect("sent");
        }
        Self { stream, session }
    }

    #[track_caller]
    fn finish(&mut self) {
        while self.session.is_handshaking() {
            self.session
                .complete_io(&mut self.stream)
                .expect("the handshake is finished");
        }
    }
}

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

#[test]
fn peers_that_never_finish_a_handshake_keep_nobody_waiting() {
    let stand = Stand::with(|setup| {
        setup
            .tls()
            .line("workers = 1")
            .set("timeouts", "tls_handshake = \"10m\"")
    });
    let address = stand.gateway.address;
    let mut hello = Vec::new();
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let config = stand.gateway.authority().client(&["http/1.1"]);
    let mut session = rustls::ClientConnection::new(config, name).expect("a session");
    session.write_tls(&mut hello).expect("a hello");
    let mut peers: Vec<Client> = (0..300)
        .map(|index| {
            let mut peer = Client::connect(address);
            // Silence, a byte, half a hello, a whole one and then silence.
            let bytes = [0, 1, hello.len() / 2, hello.len()][index % 4];
            peer.send(&hello[..bytes]);
            peer
        })
        .collect();
    let config = stand.gateway.authority().client(&["h2"]);
    let h2 = H2::connect_tls(address, config);
    for _ in 0..10 {
        let call = Call::chat(&stand.all.token, "good");
        assert_eq!(stand.gateway.ask(&call).status, 200);
        assert_eq!(h2.ask(&call).status, 200);
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        let ended = peer.ends_within(Duration::from_millis(1));
        assert_eq!(ended, None, "peer {index} was still there all the time");
    }
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
