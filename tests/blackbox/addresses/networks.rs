//! Keys that may be used from some networks alone (contract 4, step 4).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, assert_error, is_error};

#[test]
fn a_key_with_networks_is_refused_outside_every_one_of_them() {
    let source = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 3, last));
    // Network, an address within, an address outside.
    let edges = [
        ("127.0.3.4", Some(4), Some(5)),
        ("127.0.3.4/32", Some(4), Some(3)),
        ("127.0.3.4/31", Some(5), Some(6)),
        ("127.0.3.7/30", Some(4), Some(8)),
        ("127.0.3.129/25", Some(255), Some(127)),
        ("0.0.0.0/0", Some(9), None),
        ("192.0.2.0/24", None, Some(1)),
    ];
    let keys: Vec<Key> = edges
        .iter()
        .enumerate()
        .map(|(at, (network, ..))| Key::all(&format!("key_{at}")).only_from(&[network]))
        .collect();
    let several =
        Key::all("key_several").only_from(&["192.0.2.0/24", "127.0.3.9/32", "10.0.0.0/8"]);
    let empty = Key::all("key_empty").only_from(&[]);
    let stand = Stand::with(|setup| {
        let mut all: Vec<&Key> = keys.iter().collect();
        all.extend([&several, &empty]);
        setup.keys(&all)
    });
    let ask = |key: &Key, last: u8| {
        Client::connect_from(source(last), stand.gateway.address)
            .ask(&Call::chat(&key.token, "good"))
    };
    let mut cases = Cases::new();
    let passes = |response: &Response| {
        (response.status == 200)
            .then_some(())
            .ok_or(response.text())
    };
    for ((network, within, outside), key) in edges.iter().zip(&keys) {
        if let Some(last) = within {
            cases.check(&format!("{network} from .{last}"), passes(&ask(key, *last)));
        }
        if let Some(last) = outside {
            let verdict = is_error(&ask(key, *last), 401, "ip_not_authorized");
            cases.check(&format!("{network} from .{last}"), verdict);
        }
    }
    cases.check("one of several", passes(&ask(&several, 9)));
    cases.check(
        "none of several",
        is_error(&ask(&several, 8), 401, "ip_not_authorized"),
    );
    cases.check("an empty list is any address", passes(&ask(&empty, 77)));
    cases.done();
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_judged_as_ipv4_and_an_ipv6_one_never_matches() {
    let here = Key::all("key_here").only_from(&["127.0.0.1/32"]);
    let anywhere = Key::all("key_anywhere").only_from(&["0.0.0.0/0"]);
    let up = Recorder::answering();
    let open = Key::all("key_open");
    let gateway = Setup::before(&up)
        .listen("[::]:0")
        .keys(&[&here, &anywhere, &open])
        .start();
    let port = gateway.address.port();
    let over_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let over_v6: SocketAddr = format!("[::1]:{port}").parse().expect("an address");
    for key in [&here, &anywhere, &open] {
        let response = Client::connect(over_v4).ask(&Call::chat(&key.token, "good"));
        assert_eq!(response.status, 200, "{}: {}", key.id, response.text());
    }
    let shown = Client::connect(over_v4)
        .ask(&Call::get("/v1/key", &here.token))
        .json();
    assert_eq!(shown["client_address"], "127.0.0.1");
    for key in [&here, &anywhere] {
        let response = Client::connect(over_v6).ask(&Call::chat(&key.token, "good"));
        assert_error(&response, 401, "ip_not_authorized");
    }
    // A key without networks is for any address, IPv6 too.
    let response = Client::connect(over_v6).ask(&Call::chat(&open.token, "good"));
    assert_eq!(response.status, 200, "{}", response.text());
    let shown = Client::connect(over_v6)
        .ask(&Call::get("/v1/key", &open.token))
        .json();
    assert_eq!(shown["client_address"], "::1");
}
