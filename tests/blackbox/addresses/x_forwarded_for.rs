//! X-Forwarded-For names the client where the peer is a trusted proxy, and nobody elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, is_error};

/// A gateway that believes X-Forwarded-For from 127.0.0.1 and 10.0.0.0/8, and a key for 203.0.113.0/24 alone.
fn behind_proxies() -> (Stand, Key) {
    let there = Key::all("key_there").only_from(&["203.0.113.0/24"]);
    let stand = Stand::with(|setup| {
        setup
            .keys(&[&there])
            .set("client_address", "from = \"x-forwarded-for\"")
            .set(
                "client_address",
                "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]",
            )
    });
    (stand, there)
}

/// A call with these X-Forwarded-For lines.
fn forwarded(call: Call, lines: &[&str]) -> Call {
    lines
        .iter()
        .fold(call, |call, line| call.header("x-forwarded-for", line))
}

#[test]
fn a_trusted_proxys_list_is_walked_from_the_right_over_all_its_lines() {
    let (stand, there) = behind_proxies();
    let mut cases = Cases::new();
    for (lines, client) in [
        (&["203.0.113.5"][..], "203.0.113.5"),
        (&["203.0.113.5, 10.1.2.3"], "203.0.113.5"),
        (&["203.0.113.5", "10.1.2.3"], "203.0.113.5"),
        (&["203.0.113.5,10.1.2.3 ,127.0.0.1"], "203.0.113.5"),
        (&["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
        (&["203.0.113.5, 198.51.100.1"], "198.51.100.1"),
        (&["203.0.113.5", "198.51.100.1"], "198.51.100.1"),
        (&["unknown, 203.0.113.5"], "203.0.113.5"),
        (&["<script>, 203.0.113.5, 10.0.0.1"], "203.0.113.5"),
        (&["::ffff:203.0.113.5"], "203.0.113.5"),
        (&["203.0.113.5, ::ffff:10.0.0.1"], "203.0.113.5"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["2001:DB8:0::1"], "2001:db8::1"),
        (&["203.0.113.5:1234"], "203.0.113.5"),
        (
            &["198.51.100.1:80, 203.0.113.5:1, 10.1.2.3:65535"],
            "203.0.113.5",
        ),
        (&["[::ffff:203.0.113.5]:1234"], "203.0.113.5"),
        (&["[2001:db8::1]:443"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["203.0.113.5, [::ffff:10.0.0.1]"], "203.0.113.5"),
    ] {
        let shown = stand
            .gateway
            .ask(&forwarded(Call::get("/v1/key", &stand.all.token), lines));
        let right = shown.status == 200 && shown.json()["client_address"] == client;
        cases.check(
            &format!("{lines:?}"),
            right.then_some(()).ok_or(shown.text()),
        );
        let response = stand
            .gateway
            .ask(&forwarded(Call::chat(&there.token, "good"), lines));
        let verdict = if client.starts_with("203.") {
            (response.status == 200)
                .then_some(())
                .ok_or(response.text())
        } else {
            is_error(&response, 401, "ip_not_authorized")
        };
        cases.check(&format!("{lines:?} restricted"), verdict);
    }
    cases.done();
}

#[test]
fn a_client_that_a_trusted_proxy_does_not_name_is_unknown_and_restricted_keys_are_refused() {
    let (stand, there) = behind_proxies();
    let many = vec!["10.0.0.1"; 2000].join(", ");
    let mut cases = Cases::new();
    for lines in [
        &[][..],
        &[""],
        &[" , "],
        &["127.0.0.1"],
        &["10.0.0.1, 127.0.0.1"],
        &[many.as_str()],
        &["203.0.113.5, unknown"],
        &["203.0.113.5, _hidden"],
        &["203.0.113.5:"],
        &["203.0.113.5:65536"],
        &["[203.0.113.5]:80"],
        &["203.0.113.5, 203.0.113.x"],
        &["203.0.113.5, [::1"],
        &["203.0.113.5, [::1]"],
        &["203.0.113.5, [2001:db8::1]:443"],
        &["2001:db8::1, 203.0.113.5:x"],
        &["fe80::1%eth0"],
        &["203.0.113.05"],
        &["0xcb.0.113.5"],
        &["203.0.113"],
        &["203.0.113.5/32"],
        &["２０３.0.113.5"],
        &["203.0.113.5 203.0.113.6"],
        &["\"203.0.113.5\""],
        &["203.0.113.5", "nonsense"],
    ] {
        let name = format!("{:.60}", format!("{lines:?}"));
        let response = stand
            .gateway
            .ask(&forwarded(Call::chat(&there.token, "good"), lines));
        cases.check(&name, is_error(&response, 401, "ip_not_authorized"));
        let open = stand
            .gateway
            .ask(&forwarded(Call::chat(&stand.all.token, "good"), lines));
        cases.check(
            &format!("{name} for a key without networks"),
            (open.status == 200).then_some(()).ok_or(open.text()),
        );
    }
    cases.done();
}

#[test]
fn a_key_is_told_why_its_client_is_taken_to_be_there() {
    let (stand, _) = behind_proxies();
    let there = "203.0.113.5";
    for (lines, client, reason) in [
        (&[][..], None, "a trusted proxy sent no X-Forwarded-For"),
        (
            &[there],
            Some(there),
            "a trusted proxy named it in X-Forwarded-For",
        ),
        (
            &["203.0.113.5, unknown"],
            None,
            "X-Forwarded-For holds something else where the client's address should be",
        ),
        (
            &["10.0.0.1"],
            None,
            "X-Forwarded-For names trusted proxies alone",
        ),
    ] {
        let call = forwarded(Call::get("/v1/key", &stand.all.token), lines);
        let shown = stand.gateway.ask(&call).json();
        assert_eq!(shown["client_address"], json!(client), "{lines:?}");
        assert_eq!(shown["client_address_reason"], reason, "{lines:?}");
    }
    let outside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    for (stand, reason) in [
        (
            stand,
            "the connection came from it, and it is no trusted proxy",
        ),
        (Stand::new(), "the connection came from it"),
    ] {
        let call = Call::get("/v1/key", &stand.all.token).header("x-forwarded-for", there);
        let shown = Client::connect_from(outside, stand.gateway.address).ask(&call);
        assert_eq!(shown.json()["client_address"], "127.0.0.2");
        assert_eq!(shown.json()["client_address_reason"], reason);
    }
}

#[test]
fn an_untrusted_peer_is_the_client_itself_whatever_it_claims() {
    let (stand, there) = behind_proxies();
    let outside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let claims = [
        ("x-forwarded-for", "203.0.113.5"),
        ("forwarded", "for=203.0.113.5"),
        ("x-real-ip", "203.0.113.5"),
        ("cf-connecting-ip", "203.0.113.5"),
        ("true-client-ip", "203.0.113.5"),
        ("x-client-ip", "203.0.113.5"),
        ("x_forwarded_for", "203.0.113.5"),
    ];
    let mut cases = Cases::new();
    for (name, value) in claims {
        let ask = |call: Call| {
            Client::connect_from(outside, stand.gateway.address).ask(&call.header(name, value))
        };
        cases.check(
            name,
            is_error(
                &ask(Call::chat(&there.token, "good")),
                401,
                "ip_not_authorized",
            ),
        );
        let shown = ask(Call::get("/v1/key", &stand.all.token)).json();
        let right = shown["client_address"] == "127.0.0.2";
        cases.check(name, right.then_some(()).ok_or(shown.to_string()));
        // And from the trusted peer, only X-Forwarded-For speaks.
        if name != "x-forwarded-for" {
            let response = stand
                .gateway
                .ask(&Call::chat(&there.token, "good").header(name, value));
            cases.check(name, is_error(&response, 401, "ip_not_authorized"));
        }
    }
    cases.done();
    // Where the config believes nobody, a claim is nothing either.
    let near = Key::all("key_near").only_from(&["127.0.0.1"]);
    let plain = Stand::with(|setup| setup.keys(&[&near]));
    let response = plain
        .gateway
        .ask(&Call::chat(&near.token, "good").header("x-forwarded-for", "203.0.113.5"));
    assert_eq!(response.status, 200);
}
