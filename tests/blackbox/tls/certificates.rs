//! Which certificate a client gets, and certificates that change while the gateway runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::{ClientConfig, SignatureScheme};

use crate::support::client::{Call, Client, End};
use crate::support::gateway::Setup;
use crate::support::h2::{Protocol, Stream};
use crate::support::pem::{Authority, Identity, onlooker};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

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
