//! What the gateway refuses to start with, and where it listens.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::client::{Call, Client};
use crate::support::gateway::{Process, Setup, keygate, serve_in};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually};

/// A setup that would start.
pub fn sound() -> Setup {
    Setup::new().upstream("up", &["http://127.0.0.1:9"], &["good"])
}

#[track_caller]
pub fn assert_refused(setup: &Setup, says: &str) {
    let (status, log) = setup.refused();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(says), "it does not say {says:?}: {log}");
}

#[test]
fn a_second_gateway_on_the_same_socket_does_not_start() {
    let first = sound().start();
    let second = sound().set("admin", &format!("socket = {:?}", first.socket()));
    assert_refused(&second, "keygate.sock");
    assert!(first.socket().exists());
    assert_eq!(first.admin("GET", "/healthz", None).status, 200);
}

#[test]
fn an_address_that_somebody_listens_on_is_refused_even_where_it_could_be_shared() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = plain.local_addr().expect("an address").to_string();
    assert_refused(&sound().listen(&address), &address);
    // Sharing a port by SO_REUSEPORT, as workers do among themselves, would hide an older process.
    let shared =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    shared.set_reuse_port(true).expect("SO_REUSEPORT");
    shared
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a port");
    shared.listen(8).expect("listens");
    let address = shared
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("IPv4")
        .to_string();
    assert_refused(&sound().listen(&address), &address);
    let first = sound().start();
    let address = first.address.to_string();
    assert_refused(&sound().listen(&address), &address);
    assert_eq!(first.ask(&Call::new("GET", "/v1/models")).status, 401);
    // The admin listener's too.
    let taken = format!("listen = \"{}\"", plain.local_addr().expect("an address"));
    assert_refused(
        &sound().set("admin", &taken),
        &plain.local_addr().expect("an address").to_string(),
    );
}

#[test]
fn a_stale_socket_is_replaced_and_anything_else_in_its_place_is_left_alone() {
    let stale = sound();
    drop(UnixListener::bind(stale.path("keygate.sock")).expect("a socket"));
    assert!(stale.path("keygate.sock").exists());
    let gateway = stale.start();
    let file = std::fs::metadata(gateway.socket()).expect("the socket");
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o600);

    let regular = sound();
    std::fs::write(regular.path("keygate.sock"), "precious").expect("written");
    assert_refused(&regular, "keygate.sock");
    assert_eq!(
        std::fs::read_to_string(regular.path("keygate.sock")).expect("still there"),
        "precious"
    );

    let folder = sound();
    std::fs::create_dir(folder.path("keygate.sock")).expect("made");
    assert_refused(&folder, "keygate.sock");
    assert!(folder.path("keygate.sock").is_dir());

    let link = sound();
    symlink("elsewhere", link.path("keygate.sock")).expect("linked");
    assert_refused(&link, "keygate.sock");
    assert!(link.path("keygate.sock").is_symlink());
}

#[test]
fn a_socket_path_that_the_system_cannot_hold_is_refused_by_name() {
    let long = format!("socket = \"{}.sock\"", "s".repeat(120));
    assert_refused(&sound().set("admin", &long), "sock");
}

#[test]
fn a_gateway_killed_without_a_word_starts_again_in_the_same_place() {
    let gateway = sound().start();
    gateway.change_config("127.0.0.1:0", &gateway.address.to_string());
    gateway.process.signal(Signal::KILL);
    let (folder, address) = (gateway.folder().to_owned(), gateway.address);
    eventually("the port is free", DEADLINE, || {
        TcpStream::connect(address).is_err().then_some(())
    });
    assert!(folder.join("keygate.sock").exists());
    let start = Instant::now();
    let mut again = Process::spawn(serve_in(&folder));
    assert_eq!(again.listening(), address);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn without_a_config_flags_alone_serve_and_the_default_key_file_is_made_private() {
    let up = Recorder::answering();
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = keygate(folder.path());
    command.args([
        "serve",
        "--upstream",
        &up.url(),
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    let mut process = Process::spawn(command);
    let address = process.listening();
    let keys = std::fs::metadata(folder.path().join("keys.jsonl")).expect("the key file is made");
    assert_eq!((keys.len(), keys.permissions().mode() & 0o777), (0, 0o600));
    eventually("it is ready", DEADLINE, || {
        let response = Client::connect(address).ask(&Call::new("GET", "/v1/models"));
        (response.status == 401).then_some(())
    });
    process.terminate();
    assert_eq!(process.exits_within(DEADLINE).code(), Some(0));
}

#[test]
fn a_faulty_config_starts_nothing() {
    let mut cases = Cases::new();
    for (name, setup) in [
        ("an unknown field", sound().line("workerz = 1")),
        (
            "an unknown field of a table",
            sound().set("limits", "request_bodies = \"1MiB\""),
        ),
        ("a number that is none", sound().line("workers = \"many\"")),
        (
            "a size that is none",
            sound().set("limits", "request_body = \"32 elephants\""),
        ),
        (
            "a time that is none",
            sound().set("timeouts", "drain = \"soon\""),
        ),
        (
            "a percentage over 100",
            sound().set("keys", "max_drop_percent = 101"),
        ),
        (
            "a source without proxies",
            sound().set("client_address", "from = \"x-forwarded-for\""),
        ),
        (
            "a PROXY protocol without proxies",
            sound().set("client_address", "from = \"proxy-protocol\""),
        ),
        (
            "an unknown source",
            sound().set("client_address", "from = \"x-real-ip\""),
        ),
        (
            "a network that is none",
            sound().set("client_address", "trusted_proxies = [\"10.0.0.0/33\"]"),
        ),
        ("no upstream", Setup::new()),
        (
            "a url with a path",
            Setup::new().upstream("up", &["http://127.0.0.1:9/v1"], &["good"]),
        ),
        (
            "a url of another scheme",
            Setup::new().upstream("up", &["ftp://127.0.0.1:9"], &["good"]),
        ),
        (
            "a url with a user",
            Setup::new().upstream("up", &["http://u:p@127.0.0.1:9"], &["good"]),
        ),
        (
            "two upstreams of one name",
            sound().upstream("up", &["http://127.0.0.1:9"], &["other"]),
        ),
        (
            "one model of two upstreams",
            sound().upstream("two", &["http://127.0.0.1:9"], &["good"]),
        ),
        (
            "a certificate that is missing",
            sound()
                .set("tls", "certificate = \"no.crt\"")
                .set("tls", "private_key = \"no.key\""),
        ),
        (
            "a credential that is not set",
            Setup::new().upstream_with(
                "up",
                &["http://127.0.0.1:9"],
                &["good"],
                "api_key_env = \"NOT_SET_ANYWHERE\"",
            ),
        ),
        ("an address that is none", sound().listen("nowhere")),
        ("no TOML", sound().line("= = =")),
    ] {
        let (status, log) = setup.refused();
        let right = status.code() == Some(1) && log.contains("keygate.toml:");
        cases.check(name, right.then_some(()).ok_or(format!("{status:?} {log}")));
    }
    cases.done();
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = Process::spawn(serve_in(folder.path()));
    assert_eq!(process.exits_within(DEADLINE).code(), Some(1));
}

#[test]
fn the_data_port_may_be_a_unix_socket() {
    let up = Recorder::answering();
    let open = Key::all("key_open");
    let restricted = Key::all("key_restricted").only_from(&["0.0.0.0/0"]);
    let setup = Setup::before(&up).keys(&[&open, &restricted]);
    setup.write();
    let path = setup.path("data.sock");
    let config = setup.config().replace(
        "listen = \"127.0.0.1:0\"",
        &format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display()),
    );
    std::fs::write(setup.path("keygate.toml"), config).expect("written");
    let mut process = Process::spawn(serve_in(setup.path("").as_path()));
    process.listening();
    let mut client = eventually("the socket is there", DEADLINE, || {
        Client::connect_unix(&path).ok()
    });
    let response = eventually("it is ready", DEADLINE, || {
        let response = client.ask(&Call::chat(&open.token, "good"));
        (response.status != 503).then_some(response)
    });
    assert_eq!(response.status, 200, "{}", response.text());
    // A client without an address is unknown, and a key with networks is not for it.
    assert_error(
        &client.ask(&Call::chat(&restricted.token, "good")),
        401,
        "ip_not_authorized",
    );
}
