//! From start to end: what the gateway refuses to start with, how long it waits for whom, and how it goes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::client::{Call, Client, End};
use crate::support::gateway::{Process, Setup, keygate, serve_in};
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::process::processor_time;
use crate::support::raw_h2::RawH2;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, about_a_second, assert_error, eventually};

/// A setup that would start.
fn sound() -> Setup {
    Setup::new().upstream("up", &["http://127.0.0.1:9"], &["good"])
}

#[track_caller]
fn assert_refused(setup: &Setup, says: &str) {
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
fn a_key_file_that_is_named_and_missing_is_fatal() {
    assert_refused(&sound().without_key_file(), "keys.jsonl");
}

#[test]
fn a_key_file_with_any_fault_is_fatal_and_every_fault_is_named_with_its_line() {
    let good = Key::all("key_good").line();
    let record = |change: &str| {
        let mut record: serde_json::Value =
            serde_json::from_str(&Key::all("key_x").line()).expect("JSON");
        let change: serde_json::Value = serde_json::from_str(change).expect("JSON");
        for (name, value) in change.as_object().expect("fields") {
            record[name] = value.clone();
        }
        record.to_string()
    };
    let without = |field: &str| {
        let mut record: serde_json::Value =
            serde_json::from_str(&Key::all("key_x").line()).expect("JSON");
        record.as_object_mut().expect("an object").remove(field);
        record.to_string()
    };
    let twin = Key::all("key_good").line();
    let same_hash = record(&format!(
        r#"{{"hash":{}}}"#,
        serde_json::from_str::<serde_json::Value>(&good).expect("JSON")["hash"]
    ));
    let torn = &good[..good.len() / 2];
    let repeated = good.replacen('{', r#"{"name":"twice","#, 1);
    let mut faulty: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a torn line", torn.into(), ""),
        (
            "two objects on a line",
            format!("{good}{}", Key::all("key_y").line()).into(),
            "",
        ),
        ("an array", format!("[{good}]").into(), ""),
        ("no JSON", b"nonsense".to_vec(), ""),
        ("NUL", b"\0\0\0\0".to_vec(), ""),
        ("the same id twice", twin.into(), "id"),
        ("the same hash twice", same_hash.into(), "hash"),
        (
            "a repeated field",
            repeated.replace("key_good", "key_z").into(),
            "name",
        ),
        (
            "an unknown field",
            record(r#"{"allow_form":[]}"#).into(),
            "allow_form",
        ),
        (
            "a misspelt field of the model access",
            record(r#"{"model_access":{"mode":"all","model":[]}}"#).into(),
            "model",
        ),
        ("no id", without("id").into(), "id"),
        ("no name", without("name").into(), "name"),
        ("no hash", without("hash").into(), "hash"),
        (
            "no model access",
            without("model_access").into(),
            "model_access",
        ),
        ("an id with a space", record(r#"{"id":"a b"}"#).into(), "id"),
        ("an empty id", record(r#"{"id":""}"#).into(), "id"),
        (
            "an id of 65 characters",
            record(&format!(r#"{{"id":"{}"}}"#, "i".repeat(65))).into(),
            "id",
        ),
        ("an id that is no text", record(r#"{"id":7}"#).into(), "id"),
        ("an empty name", record(r#"{"name":""}"#).into(), "name"),
        (
            "a name of 101 characters",
            record(&format!(r#"{{"name":"{}"}}"#, "n".repeat(101))).into(),
            "name",
        ),
        (
            "a name with a line feed",
            record(r#"{"name":"a\nb"}"#).into(),
            "name",
        ),
        (
            "a name with an escape",
            record(r#"{"name":"a\u001bb"}"#).into(),
            "name",
        ),
        (
            "a hash of another kind",
            record(&format!(r#"{{"hash":"sha256:{}"}}"#, "a".repeat(64))).into(),
            "hash",
        ),
        (
            "a short hash",
            record(r#"{"hash":"blake3:abcd"}"#).into(),
            "hash",
        ),
        (
            "a hash that is no hexadecimal",
            record(&format!(r#"{{"hash":"blake3:{}"}}"#, "g".repeat(64))).into(),
            "hash",
        ),
        (
            "an unknown mode",
            record(r#"{"model_access":{"mode":"some"}}"#).into(),
            "mode",
        ),
        (
            "a mode of another case",
            record(r#"{"model_access":{"mode":"All"}}"#).into(),
            "mode",
        ),
        (
            "all with models",
            record(r#"{"model_access":{"mode":"all","models":["x"]}}"#).into(),
            "models",
        ),
        (
            "inclusive without models",
            record(r#"{"model_access":{"mode":"inclusive"}}"#).into(),
            "models",
        ),
        (
            "inclusive of nothing",
            record(r#"{"model_access":{"mode":"inclusive","models":[]}}"#).into(),
            "models",
        ),
        (
            "exclusive of nothing",
            record(r#"{"model_access":{"mode":"exclusive","models":[]}}"#).into(),
            "models",
        ),
        (
            "a model access of null",
            record(r#"{"model_access":null}"#).into(),
            "model_access",
        ),
        (
            "an expiry without a zone",
            record(r#"{"expires_at":"2027-01-01T00:00:00"}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that is a date",
            record(r#"{"expires_at":"2027-01-01"}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that is a number",
            record(r#"{"expires_at":1800000000}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that does not exist",
            record(r#"{"expires_at":"2027-02-30T00:00:00Z"}"#).into(),
            "expires_at",
        ),
        (
            "disabled as text",
            record(r#"{"disabled":"false"}"#).into(),
            "disabled",
        ),
        (
            "invalid UTF-8",
            [record("{}").as_bytes(), b"\n\xff\xfe"].concat(),
            "",
        ),
    ];
    for network in [
        "/33",
        "/-1",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "0/0",
        "010.0.0.1/8",
        "1.2.3/24",
        "1.2.3.4.5",
        "10.0.0.0/8 ",
        " 10.0.0.0/8",
        "10.0.0.0/08",
        "10.0.0.0/",
        "0x0a.0.0.1",
        "",
        "localhost",
        "10.0.0.1-10.0.0.9",
    ] {
        faulty.push((
            "a network",
            record(&format!(r#"{{"allow_from":["192.0.2.0/24",{network:?}]}}"#)).into(),
            "allow_from",
        ));
    }
    for network in [
        "::/0",
        "2001:db8::/32",
        "::1",
        "::ffff:192.0.2.1",
        "::ffff:0:0/96",
        "::192.0.2.1",
    ] {
        faulty.push((
            "an IPv6 network",
            record(&format!(r#"{{"allow_from":[{network:?}]}}"#)).into(),
            "IPv6",
        ));
    }
    let mut cases = Cases::new();
    for (name, line, says) in faulty {
        let setup = sound();
        setup.write();
        // The good line, an empty one, and the faulty one: line 3.
        let text = [good.as_bytes(), b"\r\n\n", &line, b"\n"].concat();
        std::fs::write(setup.path("keys.jsonl"), &text).expect("written");
        let (code, log) = {
            let mut process = Process::spawn(serve_in(setup.path("").as_path()));
            let status = process.exits_within(DEADLINE);
            (status.code(), process.log().join("\n"))
        };
        let place = if name == "invalid UTF-8" {
            "keys.jsonl:4"
        } else {
            "keys.jsonl:3"
        };
        let right = code == Some(1) && log.contains(place) && log.contains(says);
        let shown = String::from_utf8_lossy(&line).into_owned();
        cases.check(
            &format!("{name} {shown:.200}"),
            right.then_some(()).ok_or(format!("{code:?} {log}")),
        );
        let leaked = log.contains(&good[good.find("blake3:").expect("a hash")..][..30]);
        cases.check(
            name,
            (!leaked)
                .then_some(())
                .ok_or(format!("the log shows a hash: {log}")),
        );
    }
    for (name, text) in [
        ("a byte-order mark", format!("\u{feff}{good}\n")),
        ("two faults", format!("nonsense\n{good}\n{{}}\n")),
    ] {
        let setup = sound();
        setup.write();
        std::fs::write(setup.path("keys.jsonl"), text).expect("written");
        let mut process = Process::spawn(serve_in(setup.path("").as_path()));
        let code = process.exits_within(DEADLINE).code();
        let log = process.log().join("\n");
        let both =
            name != "two faults" || (log.contains("keys.jsonl:1") && log.contains("keys.jsonl:3"));
        cases.check(
            name,
            (code == Some(1) && both)
                .then_some(())
                .ok_or(format!("{code:?} {log}")),
        );
    }
    cases.done();
}

#[test]
fn a_key_file_may_be_empty_have_crlf_empty_lines_and_no_last_line_end() {
    let (one, two) = (Key::all("key_one"), Key::all("key_two"));
    let up = Recorder::answering();
    let gateway = Setup::before(&up).start();
    for (text, keys) in [
        (String::new(), 0),
        ("\n\r\n\n".to_owned(), 0),
        (format!("{}\r\n\r\n{}\r\n", one.line(), two.line()), 2),
        (format!("\n{}\n\n{}", one.line(), two.line()), 2),
    ] {
        gateway.write_key_file(&text);
        assert_eq!(
            gateway.admin_json(
                "POST",
                "/api/reload",
                Some(&serde_json::json!({"force": true}))
            )["keys"],
            keys,
            "{text:?}"
        );
    }
    assert_eq!(gateway.ask(&Call::chat(&two.token, "good")).status, 200);
}

#[test]
fn what_is_no_file_at_all_is_no_key_file() {
    let folder = sound().without_key_file();
    std::fs::create_dir(folder.path("keys.jsonl")).expect("made");
    assert_refused(&folder, "keys.jsonl");
    let looped = sound().without_key_file();
    symlink("keys.jsonl", looped.path("keys.jsonl")).expect("linked");
    assert_refused(&looped, "keys.jsonl");
    // A pipe that nobody writes to must not hang the start for ever, either.
    let piped = sound().without_key_file();
    let made = std::process::Command::new("mkfifo")
        .arg(piped.path("keys.jsonl"))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    assert_refused(&piped, "keys.jsonl");
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
fn a_client_that_says_close_is_answered_and_closed() {
    let stand = Stand::new();
    let mut client = stand.gateway.client();
    let response = client.ask(&Call::chat(&stand.all.token, "good").header("connection", "close"));
    assert_eq!(response.status, 200);
    client.assert_closed();
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
}

#[test]
fn connections_beyond_the_limit_get_no_answer_until_one_leaves() {
    let stand = Stand::with(|setup| setup.set("limits", "connections = 4"));
    let mut held: Vec<Client> = (0..4).map(|_| stand.gateway.client()).collect();
    for client in &mut held {
        assert_eq!(
            client
                .ask(&Call::get("/v1/models", &stand.all.token))
                .status,
            200
        );
    }
    let mut extra = stand.gateway.client();
    let _ = extra.try_send(&Call::get("/v1/models", &stand.all.token).bytes());
    if !extra.silent_for(Duration::from_millis(300)) {
        assert!(
            extra.ends_within(DEADLINE).is_some() && !extra.unread().starts_with(b"HTTP/1.1 200")
        );
    }
    drop(extra);
    assert_eq!(stand.gateway.admin("GET", "/healthz", None).status, 200);
    held.pop();
    eventually("there is room again", DEADLINE, || {
        let mut client = stand.gateway.client();
        client
            .try_send(&Call::get("/v1/models", &stand.all.token).bytes())
            .ok()?;
        if client.silent_for(Duration::from_millis(500))
            || !client.unread().starts_with(b"HTTP/1.1 200")
        {
            return None;
        }
        Some(())
    });
    for client in &mut held {
        assert_eq!(
            client
                .ask(&Call::get("/v1/models", &stand.all.token))
                .status,
            200
        );
    }
}

/// How long until the other side ends the connection.
fn ends_after(client: &mut Client) -> Duration {
    let start = Instant::now();
    assert!(
        client.ends_within(DEADLINE).is_some(),
        "the connection stays open"
    );
    start.elapsed()
}

#[test]
fn a_head_must_be_whole_within_header_read_however_it_trickles_in() {
    let stand = Stand::with(|setup| setup.set("timeouts", "header_read = \"1s\""));
    let mut cases = Cases::new();
    let bytes = Call::get("/v1/models", &stand.all.token).bytes();
    thread::scope(|scope| {
        let (stand, bytes) = (&stand, &bytes);
        let silent = scope.spawn(move || ends_after(&mut stand.gateway.client()));
        let one_byte = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(b"G");
            ends_after(&mut client)
        });
        let trickling = scope.spawn(move || {
            let mut client = stand.gateway.client();
            let start = Instant::now();
            for byte in bytes {
                if client.try_send(&[*byte]).is_err()
                    || client.ends_within(Duration::from_millis(100)).is_some()
                {
                    break;
                }
            }
            start.elapsed()
        });
        let half_preface = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM");
            ends_after(&mut client)
        });
        let no_settings = scope.spawn(move || {
            let mut raw = RawH2::connect_silently(stand.gateway.address);
            raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            let start = Instant::now();
            assert!(raw.ends_within(DEADLINE), "a silent HTTP/2 peer is kept");
            start.elapsed()
        });
        let second_head = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(bytes);
            assert_eq!(client.answer().status, 200);
            // Idle for longer than a head may take: that clock starts with a head's first byte.
            assert!(
                client.silent_for(Duration::from_millis(1800)),
                "an idle connection is not a slow head"
            );
            client.send(&bytes[..10]);
            ends_after(&mut client)
        });
        for (name, thread) in [
            ("silent from the start", silent),
            ("one byte", one_byte),
            ("a byte each 100 ms", trickling),
            ("half a preface", half_preface),
            ("a preface without SETTINGS", no_settings),
            ("a second head", second_head),
        ] {
            let verdict = thread
                .join()
                .map_err(|_| "panicked".to_owned())
                .and_then(about_a_second);
            cases.check(name, verdict);
        }
    });
    cases.done();
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive_and_no_sooner() {
    let stand = Stand::with(|setup| setup.set("timeouts", "keep_alive = \"1s\""));
    let call = Call::get("/v1/models", &stand.all.token);
    let mut client = stand.gateway.client();
    for _ in 0..4 {
        assert_eq!(client.ask(&call).status, 200);
        assert!(client.silent_for(Duration::from_millis(500)));
    }
    assert_eq!(client.ask(&call).status, 200);
    about_a_second(ends_after(&mut client)).expect("closed");
    let connection = stand.gateway.h2();
    assert_eq!(connection.ask(&call).status, 200);
    let start = Instant::now();
    assert!(
        connection.ends_within(DEADLINE),
        "an idle HTTP/2 connection is kept"
    );
    about_a_second(start.elapsed()).expect("closed");
}

#[test]
fn a_request_that_runs_is_not_an_idle_connection() {
    let stand = Stand::held_with(|setup| {
        setup
            .set("timeouts", "keep_alive = \"1s\"")
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "body_idle = \"1s\"")
    });
    for protocol in BOTH {
        let mut stream = Stream::open(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        let mut exchange = stand.up.next();
        exchange.body();
        thread::sleep(Duration::from_millis(2500));
        exchange.begin_stream();
        exchange.chunk("data: one\n\n");
        let mut response = stream.head();
        stream.until(&mut response, "one");
        thread::sleep(Duration::from_millis(2500));
        exchange.chunk("data: two\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Whole);
    }
}

#[test]
fn silent_tls_peers_are_closed() {
    let stand = Stand::with(|setup| setup.tls().set("timeouts", "tls_handshake = \"1s\""));
    let mut silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(stand.gateway.address).expect("connected"))
        .collect();
    for stream in &mut silent[..100] {
        // A hello that never goes on.
        stream
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc])
            .expect("sent");
    }
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(
            !ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "a silent peer is kept"
        );
    }
}

#[test]
fn a_flood_of_connections_that_say_nothing_delays_nobody() {
    let stand = Stand::new();
    let silent: Vec<Client> = (0..1000).map(|_| stand.gateway.client()).collect();
    let start = Instant::now();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(
        start.elapsed() < Duration::from_millis(700),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
    eventually("they are forgotten", DEADLINE, || {
        (stand.gateway.metric("keygate_connections") <= 1.0).then_some(())
    });
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

#[test]
fn the_process_leaves_no_core_that_could_hold_a_token() {
    let stand = Stand::new();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", stand.gateway.process.pid()))
        .expect("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("the limit");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn a_log_that_nobody_reads_or_that_is_closed_stops_no_request() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let mut command = serve_in(setup.path("").as_path());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("keygate is started");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let address = loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).expect("a line") > 0,
            "it never listens"
        );
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if line["event"] == "listening" {
            break line["address"]
                .as_str()
                .expect("an address")
                .parse()
                .expect("an address");
        }
    };
    let call = Call::chat(&key.token, "good");
    let mut client = eventually("it is ready", DEADLINE, || {
        let mut client = Client::connect(address);
        (client.ask(&call).status == 200).then_some(client)
    });
    // Far more lines than a pipe holds.
    for _ in 0..3000 {
        assert_eq!(client.ask(&call).status, 200);
    }
    drop(log);
    for _ in 0..300 {
        assert_eq!(client.ask(&call).status, 200);
    }
    child.kill().expect("killed");
    child.wait().expect("a status");
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]).line("workers = 1");
    setup.write();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 80; exec \"$0\" serve --config keygate.toml --log-format json",
        ])
        .arg(env!("CARGO_BIN_EXE_keygate"))
        .current_dir(setup.path(""));
    let mut process = Process::spawn(command);
    let address = process.listening();
    let call = Call::chat(&key.token, "good");
    eventually("it is ready", DEADLINE, || {
        (Client::connect(address).ask(&call).status == 200).then_some(())
    });
    let held: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(address).expect("queued by the kernel"))
        .collect();
    let before = processor_time(process.pid());
    thread::sleep(Duration::from_secs(1));
    let spent = processor_time(process.pid()) - before;
    assert!(
        spent < 30,
        "{spent} ticks of processor time in a second: it spins"
    );
    drop(held);
    let start = Instant::now();
    assert_eq!(Client::connect(address).ask(&call).status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(process.log().len() < 400, "the shortage fills the log");
    process.terminate();
    process.exits_within(DEADLINE);
}
