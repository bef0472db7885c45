//! The PROXY protocol, written by hand: only listed peers may speak it, and what they send must be whole and in time.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, is_error};

/// A load balancer's address, as the config lists it, and a client's that is not.
const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));

pub const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A gateway that has 127.0.0.1 tell for whom it speaks, and a key for 203.0.113.0/24 alone.
pub fn told_by_protocol() -> (Stand, Key) {
    told_with(|setup| setup)
}

pub fn told_with(more: impl FnOnce(Setup) -> Setup) -> (Stand, Key) {
    let there = Key::all("key_there").only_from(&["203.0.113.0/24"]);
    let stand = Stand::with(|setup| {
        more(setup.keys(&[&there]))
            .set("client_address", "from = \"proxy-protocol\"")
            .set(
                "client_address",
                "trusted_proxies = [\"127.0.0.1\", \"::1\"]",
            )
    });
    (stand, there)
}

/// Version 2 with this command, family, and what follows.
fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// The same for a client at an IPv4 address.
fn relayed(address: [u8; 4]) -> Vec<u8> {
    version_2(
        0x21,
        0x11,
        &[&address[..], &[10, 0, 0, 1, 0xc3, 0x50, 0, 80]].concat(),
    )
}

fn after(header: &[u8], gateway: &Gateway) -> Client {
    let mut client = Client::connect_from(LISTED, gateway.address);
    client.send(header);
    client
}

/// What a key is told about its client.
pub fn shown(client: &mut Client, key: &Key) -> (Value, Value) {
    let response = client.ask(&Call::get("/v1/key", &key.token));
    assert_eq!(response.status, 200, "{}", response.text());
    let shown = response.json();
    (
        shown["client_address"].clone(),
        shown["client_address_reason"].clone(),
    )
}

pub const NAMED: &str = "a trusted proxy named it by the PROXY protocol";

pub const ITSELF: &str = "a trusted proxy spoke for itself by the PROXY protocol";

const NOBODY: &str = "a trusted proxy named no client by the PROXY protocol";

#[test]
fn a_listed_peers_header_names_the_client_of_every_request_behind_it() {
    let (stand, there) = told_by_protocol();
    let six = |octets: [u8; 16]| version_2(0x21, 0x21, &[&octets[..], &[0; 20]].concat());
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 5];
    let global = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let mut cases = Cases::new();
    for (header, address, reason) in [
        (
            b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 80\r\n".to_vec(),
            json!("203.0.113.5"),
            NAMED,
        ),
        (
            b"PROXY TCP6 ::ffff:203.0.113.5 ::1 50000 80\r\n".to_vec(),
            json!("203.0.113.5"),
            NAMED,
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 50000 80\r\n".to_vec(),
            json!("2001:db8::7"),
            NAMED,
        ),
        (
            b"PROXY TCP4 198.51.100.1 203.0.113.5 50000 80\r\n".to_vec(),
            json!("198.51.100.1"),
            NAMED,
        ),
        (relayed([203, 0, 113, 5]), json!("203.0.113.5"), NAMED),
        (six(mapped), json!("203.0.113.5"), NAMED),
        (six(global), json!("2001:db8::7"), NAMED),
        // Its own connection, whatever else stands there.
        (version_2(0x20, 0x00, b""), json!("127.0.0.1"), ITSELF),
        (
            version_2(0x20, 0x11, &[203, 0, 113, 5]),
            json!("127.0.0.1"),
            ITSELF,
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), json!("127.0.0.1"), ITSELF),
        (
            b"PROXY UNKNOWN 203.0.113.5 10.0.0.1 1 2\r\n".to_vec(),
            json!("127.0.0.1"),
            ITSELF,
        ),
        (version_2(0x21, 0x00, b"whatever"), json!(null), NOBODY),
        (version_2(0x21, 0x31, &[b'/'; 216]), json!(null), NOBODY),
        (
            version_2(0x21, 0x12, &[203, 0, 113, 5, 10, 0, 0, 1, 0, 1, 0, 2]),
            json!(null),
            NOBODY,
        ),
    ] {
        let name = String::from_utf8_lossy(&header).escape_debug().to_string();
        let mut client = after(&header, &stand.gateway);
        let is = shown(&mut client, &stand.all);
        let right = is == (address.clone(), json!(reason));
        cases.check(&name, right.then_some(()).ok_or(format!("{is:?}")));
        // On the same connection: the address decides, and no header of the request's changes it.
        let call = Call::chat(&there.token, "good").header("x-forwarded-for", "203.0.113.5");
        let response = client.ask(&call);
        if address == "203.0.113.5" {
            let seen = stand.up.last();
            let right = response.status == 200 && seen.all("x-forwarded-for") == ["203.0.113.5"];
            cases.check(
                &name,
                right.then_some(()).ok_or(format!("{response:?} {seen:?}")),
            );
        } else {
            cases.check(&name, is_error(&response, 401, "ip_not_authorized"));
        }
    }
    cases.done();
    let line = stand
        .gateway
        .process
        .line("a client's address", |line| line.contains("\"access\""));
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["client"], "203.0.113.5");
}

#[test]
fn a_header_may_come_a_byte_at_a_time_and_with_what_follows_it() {
    let (stand, there) = told_by_protocol();
    let call = Call::chat(&there.token, "good");
    for header in [
        b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 80\r\n".to_vec(),
        relayed([203, 0, 113, 5]),
    ] {
        let bytes = [&header[..], &call.bytes()].concat();
        let mut client = Client::connect_from(LISTED, stand.gateway.address);
        client.send(&bytes);
        assert_eq!(client.answer().status, 200);
        let mut client = Client::connect_from(LISTED, stand.gateway.address);
        for byte in &bytes[..header.len() + 3] {
            client.send(&[*byte]);
            thread::sleep(Duration::from_millis(1));
        }
        client.send(&bytes[header.len() + 3..]);
        assert_eq!(client.answer().status, 200);
        // In two pieces, at every place.
        thread::scope(|scope| {
            for at in 1..header.len() {
                let (bytes, gateway) = (&bytes, &stand.gateway);
                scope.spawn(move || {
                    let mut client = Client::connect_from(LISTED, gateway.address);
                    client.send(&bytes[..at]);
                    thread::sleep(Duration::from_millis(30));
                    client.send(&bytes[at..]);
                    assert_eq!(client.answer().status, 200, "in two at {at}");
                });
            }
        });
    }
}

#[test]
fn a_missing_or_broken_header_of_a_listed_peer_closes_the_connection_without_an_answer() {
    let (stand, _) = told_by_protocol();
    let request = Call::chat(&stand.all.token, "good").bytes();
    let mut wrong_checksum = relayed([203, 0, 113, 5]);
    wrong_checksum.extend_from_slice(&[3, 0, 4, 0, 0, 0, 0]);
    wrong_checksum[15] += 7;
    let mut overrun = relayed([203, 0, 113, 5]);
    overrun.extend_from_slice(&[4, 0, 200]);
    overrun[15] += 3;
    let mut cases = Cases::new();
    for (name, header) in [
        ("none", Vec::new()),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("a preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (
            "another case",
            b"Proxy TCP4 203.0.113.5 10.0.0.1 50000 80\r\n".to_vec(),
        ),
        (
            "a bare line end",
            b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 80\n".to_vec(),
        ),
        (
            "no port",
            b"PROXY TCP4 203.0.113.5 10.0.0.1 50000\r\n".to_vec(),
        ),
        ("a zone", b"PROXY TCP6 fe80::1%lo ::1 50000 80\r\n".to_vec()),
        (
            "a long line",
            [
                b"PROXY UNKNOWN ".to_vec(),
                vec![b'x'; 200],
                b"\r\n".to_vec(),
            ]
            .concat(),
        ),
        (
            "an endless line",
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 4096]].concat(),
        ),
        (
            "another signature",
            [&SIGNATURE[..11], b"\r\x21\x11\0\0"].concat(),
        ),
        ("another version", version_2(0x31, 0x11, &[0; 12])),
        ("another command", version_2(0x22, 0x11, &[0; 12])),
        ("another family", version_2(0x21, 0x51, &[0; 12])),
        ("too short", version_2(0x21, 0x11, &[0; 11])),
        ("too long", version_2(0x20, 0x00, &[0; 60_000])),
        ("a wrong checksum", wrong_checksum),
        ("an extension too long", overrun),
    ] {
        let mut client = Client::connect_from(LISTED, stand.gateway.address);
        let _ = client.try_send(&[&header[..], &request].concat());
        let answer = client.answer_or_end();
        cases.check(name, answer.map_or(Ok(()), |answer| Err(answer.text())));
        let mut half = Client::connect_from(LISTED, stand.gateway.address);
        let _ = half.try_send(&relayed([203, 0, 113, 5])[..20]);
        half.shut_write();
        let answer = half.answer_or_end();
        cases.check(
            "cut short",
            answer.map_or(Ok(()), |answer| Err(answer.text())),
        );
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
    stand
        .gateway
        .process
        .line("why", |line| line.contains("proxy_header_refused"));
    let told = |line: &String| line.contains("proxy_header_refused");
    let lines: Vec<String> = stand.gateway.log().into_iter().filter(told).collect();
    assert!(lines.len() < 20, "sampled: {lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(
        (&line["peer"], &line["more"]),
        (&json!("127.0.0.1"), &json!(0))
    );
    assert!(
        line["reason"]
            .as_str()
            .is_some_and(|reason| reason.len() > 10),
        "{line}"
    );
}

#[test]
fn a_peer_that_only_looks_whether_the_port_is_open_is_not_worth_a_line() {
    let (stand, _) = told_by_protocol();
    for _ in 0..20 {
        let mut client = Client::connect_from(LISTED, stand.gateway.address);
        client.shut_write();
        assert!(client.answer_or_end().is_none());
    }
    let mut client = after(&relayed([203, 0, 113, 5]), &stand.gateway);
    assert_eq!(
        client.ask(&Call::chat(&stand.all.token, "good")).status,
        200
    );
    stand
        .gateway
        .process
        .line("the request", |line| line.contains("\"access\""));
    let log = stand.gateway.log().join("\n");
    assert!(!log.contains("proxy_header_refused"), "{log}");
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for_longer_than_a_head() {
    let (mut stand, _) = told_with(|setup| setup.set("timeouts", "header_read = \"1s\""));
    for part in [&b""[..], b"PROXY TCP4 ", &relayed([203, 0, 113, 5])[..20]] {
        let mut client = Client::connect_from(LISTED, stand.gateway.address);
        client.send(part);
        assert!(client.answer_or_end().is_none());
    }
    // Nor past the end of the process.
    let patient = told_with(|setup| setup.set("timeouts", "header_read = \"600s\""));
    let mut waiting = Client::connect_from(LISTED, patient.0.gateway.address);
    waiting.send(b"PROXY TCP4 ");
    stand = patient.0;
    stand.gateway.process.terminate();
    let status = stand.gateway.process.exits_within(DEADLINE);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_peer_that_is_not_listed_is_the_client_itself_and_its_header_is_no_request() {
    let (stand, there) = told_by_protocol();
    let connect = || Client::connect_from(OTHER, stand.gateway.address);
    let untrusted = "the connection came from it, and it is no trusted proxy";
    assert_eq!(
        shown(&mut connect(), &stand.all),
        (json!("127.0.0.3"), json!(untrusted))
    );
    let chat = Call::chat(&there.token, "good");
    assert_error(&connect().ask(&chat), 401, "ip_not_authorized");
    for header in [
        b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 80\r\n".to_vec(),
        relayed([203, 0, 113, 5]),
    ] {
        let mut client = connect();
        let _ = client.try_send(&[header, chat.bytes()].concat());
        if let Some(answer) = client.answer_or_end() {
            assert_eq!(answer.status, 400, "{}", answer.text());
        }
    }
    stand.up.untouched().expect("nothing goes on");
}

#[test]
fn a_header_where_none_is_asked_for_is_no_request() {
    let there = Key::all("key_there").only_from(&["203.0.113.0/24"]);
    let plain = Stand::with(|setup| setup.keys(&[&there]));
    let by_header = Stand::with(|setup| {
        setup
            .set("client_address", "from = \"x-forwarded-for\"")
            .set("client_address", "trusted_proxies = [\"127.0.0.1\"]")
    });
    let (told, _) = told_with(|setup| setup.set("admin", "listen = \"127.0.0.1:0\""));
    let call = Call::chat(&there.token, "good");
    for header in [
        b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 80\r\n".to_vec(),
        relayed([203, 0, 113, 5]),
    ] {
        // On a listener without it, behind a header that was read already, and on the admin listener.
        let second = after(&relayed([203, 0, 113, 5]), &told.gateway);
        for mut client in [
            Client::connect(plain.gateway.address),
            Client::connect(by_header.gateway.address),
            second,
            Client::connect(told.gateway.admin_address()),
        ] {
            let _ = client.try_send(&[&header[..], &call.bytes()].concat());
            if let Some(answer) = client.answer_or_end() {
                assert_eq!(answer.status, 400, "{}", answer.text());
            }
        }
    }
    let healthy = Client::connect(told.gateway.admin_address()).ask(&Call::new("GET", "/healthz"));
    assert_eq!(healthy.status, 200);
    for up in [&plain.up, &by_header.up, &told.up] {
        up.untouched().expect("nothing goes on");
    }
}

#[test]
fn a_header_may_come_in_one_write_with_a_tls_hello() {
    let (stand, there) = told_with(Setup::tls);
    let authority = stand.gateway.authority();
    for header in [
        b"PROXY TCP4 203.0.113.5 10.0.0.1 50000 443\r\n".to_vec(),
        relayed([203, 0, 113, 5]),
    ] {
        let config = authority.client(&["http/1.1"]);
        let client = Client::connect_tls_after(&header, stand.gateway.address, config);
        let mut client = client.expect("a TLS connection");
        assert_eq!(client.ask(&Call::chat(&there.token, "good")).status, 200);
        assert_eq!(stand.up.last().all("x-forwarded-for"), ["203.0.113.5"]);
        assert_eq!(stand.up.last().all("x-forwarded-proto"), ["https"]);
    }
    // Without it, a hello is a broken header.
    let config = authority.client(&["http/1.1"]);
    assert!(Client::connect_tls(stand.gateway.address, config).is_err());
    // Behind it, what is no hello is no connection.
    let mut client = after(&relayed([203, 0, 113, 5]), &stand.gateway);
    let _ = client.try_send(&Call::chat(&there.token, "good").bytes());
    assert!(
        client.ends_within(DEADLINE).is_some(),
        "the connection stays open"
    );
    assert!(
        matches!(client.unread().first(), None | Some(0x15)),
        "more than an alert"
    );
}

/// An upstream is the same whichever way a client was named.
#[test]
fn a_client_without_an_address_is_told_to_no_upstream() {
    let (up, key) = (Recorder::answering(), Key::all("key_all"));
    let gateway = Setup::before(&up)
        .keys(&[&key])
        .set("client_address", "from = \"proxy-protocol\"")
        .set("client_address", "trusted_proxies = [\"127.0.0.1\"]")
        .start();
    let mut client = after(&version_2(0x21, 0x00, b""), &gateway);
    let call = Call::chat(&key.token, "good").header("x-forwarded-for", "203.0.113.5");
    assert_eq!(client.ask(&call).status, 200);
    assert!(up.last().all("x-forwarded-for").is_empty());
}
