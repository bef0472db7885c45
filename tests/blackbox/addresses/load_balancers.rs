//! HAProxy and nginx, as they are installed, name their clients by the PROXY protocol and by X-Forwarded-For.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::addresses::proxy_protocol::{ITSELF, NAMED, OTHER, shown, told_by_protocol, told_with};
use crate::support::balancer::Balancer;
use crate::support::client::{Call, Client};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::H2;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

/// HAProxy's and nginx's ways to pass a connection on.
fn relays(gateway: &Gateway) -> Vec<(&'static str, Balancer)> {
    let haproxy = |server: &str| {
        Balancer::haproxy(&format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind 127.0.0.1:{{port}}\n bind unix@{{folder}}/front.sock\n \
             server gateway {} {server}\n",
            gateway.address
        ))
    };
    let nginx = Balancer::nginx(&format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
         stream {{ server {{ listen 127.0.0.1:{{port}}; proxy_pass {}; proxy_protocol on; }} }}",
        gateway.address
    ));
    vec![
        ("HAProxy, version 1", haproxy("send-proxy")),
        ("HAProxy, version 2", haproxy("send-proxy-v2")),
        (
            "HAProxy, version 2 with TLS",
            haproxy("send-proxy-v2-ssl-cn"),
        ),
        (
            "HAProxy, version 2 with a checksum",
            haproxy("send-proxy-v2 proxy-v2-options ssl,cert-cn,crc32c,unique-id,authority"),
        ),
        ("nginx, version 1", nginx),
    ]
}

/// What passes HAProxy and nginx, plain or as TLS of the gateway's own, over both versions of HTTP.
fn named_by_real_balancers(more: impl FnOnce(Setup) -> Setup, is_tls: bool) {
    let near = Key::all("key_near").only_from(&["127.0.0.3"]);
    let (stand, _) = told_with(|setup| more(setup.keys(&[&near])));
    for (name, balancer) in relays(&stand.gateway) {
        if !is_tls {
            let mut client = Client::connect_from(OTHER, balancer.address);
            assert_eq!(
                shown(&mut client, &stand.all),
                (json!("127.0.0.3"), json!(NAMED)),
                "{name}"
            );
            assert_eq!(
                client.ask(&Call::chat(&near.token, "good")).status,
                200,
                "{name}"
            );
            assert_eq!(
                stand.up.last().all("x-forwarded-for"),
                ["127.0.0.3"],
                "{name}"
            );
        }
        let (mut client, connection) = if is_tls {
            let authority = stand.gateway.authority();
            let client = Client::connect_tls(balancer.address, authority.client(&["http/1.1"]));
            let connection = H2::connect_tls(balancer.address, authority.client(&["h2"]));
            (client.expect("a TLS connection"), connection)
        } else {
            (
                Client::connect(balancer.address),
                H2::connect(balancer.address),
            )
        };
        let is = (json!("127.0.0.1"), json!(NAMED));
        assert_eq!(shown(&mut client, &stand.all), is, "{name}");
        assert_error(
            &client.ask(&Call::chat(&near.token, "good")),
            401,
            "ip_not_authorized",
        );
        let response = connection.ask(&Call::get("/v1/key", &stand.all.token));
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        assert_eq!(response.json()["client_address_reason"], NAMED, "{name}");
        let response = connection.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        // Of a client on its Unix socket HAProxy says what it says of itself: UNKNOWN, or LOCAL.
        let socket = balancer.path("front.sock");
        if socket.exists() && !is_tls {
            let mut client = Client::connect_unix(&socket).expect("connected");
            let is = (json!("127.0.0.1"), json!(ITSELF));
            assert_eq!(shown(&mut client, &stand.all), is, "{name}");
        }
    }
    let log = stand.gateway.log().join("\n");
    assert!(!log.contains("proxy_header_refused"), "{log}");
}

#[test]
fn haproxy_and_nginx_name_their_clients_by_the_proxy_protocol() {
    named_by_real_balancers(|setup| setup, false);
}

#[test]
fn haproxy_and_nginx_name_their_clients_before_tls_begins() {
    named_by_real_balancers(Setup::tls, true);
}

#[test]
fn haproxy_that_ends_tls_names_its_clients_with_what_it_knows_of_that() {
    let (stand, _) = told_by_protocol();
    let authority = crate::support::pem::Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
    authority.issue(&["localhost"]).write(&certificate, &key);
    let both = folder.path().join("both.pem");
    let pem = [certificate, key].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&both, pem.concat()).unwrap();
    for server in [
        "send-proxy-v2-ssl",
        "send-proxy-v2-ssl-cn",
        "send-proxy-v2 proxy-v2-options ssl,crc32c,authority",
    ] {
        let balancer = Balancer::haproxy(&format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind 127.0.0.1:{{port}} ssl crt {}\n server gateway {} {server}\n",
            both.display(),
            stand.gateway.address
        ));
        let client = Client::connect_tls(balancer.address, authority.client(&[]));
        let is = shown(&mut client.expect("a TLS connection"), &stand.all);
        assert_eq!(is, (json!("127.0.0.1"), json!(NAMED)), "{server}");
    }
}

/// An address of one family that came to one of the other.
#[test]
fn a_client_on_ipv6_is_not_taken_for_the_balancer_that_it_came_to_on_ipv4() {
    let near = Key::all("key_near").only_from(&["127.0.0.0/8"]);
    let (stand, _) = told_with(|setup| setup.keys(&[&near]));
    for server in ["send-proxy", "send-proxy-v2"] {
        let balancer = Balancer::haproxy(&format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind 127.0.0.1:{{port}}\n http-request set-src hdr(x-client)\n \
             server gateway {} {server}\n",
            stand.gateway.address
        ));
        let ask = |call: Call| {
            Client::connect(balancer.address).ask(&call.header("x-client", "2001:db8::7"))
        };
        let shown = ask(Call::get("/v1/key", &stand.all.token)).json();
        assert_eq!(shown["client_address"], "2001:db8::7", "{server}");
        assert_error(
            &ask(Call::chat(&near.token, "good")),
            401,
            "ip_not_authorized",
        );
    }
}

#[test]
fn haproxys_health_checks_speak_for_themselves() {
    let near = Key::all("key_near").only_from(&["127.0.0.1"]);
    let (stand, _) = told_with(|setup| setup.keys(&[&near]).line("public_health = true"));
    let balancer = Balancer::haproxy(&format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen front\n bind 127.0.0.1:{{port}}\n option httpchk GET /v1/key\n \
         http-check send hdr authorization \"Bearer {}\" hdr host localhost\n http-check expect string \"{ITSELF}\"\n \
         server gateway {} send-proxy-v2 check inter 100ms\n",
        near.token, stand.gateway.address
    ));
    // Three that find something else would take the server out, and the request after them with it.
    eventually("the checks are answered", DEADLINE, || {
        let lines = stand.gateway.log();
        let passed = |line: &&String| line.contains("key_near") && line.contains("\"status\":200");
        (lines.iter().filter(passed).count() >= 5).then_some(())
    });
    let response = Client::connect(balancer.address).ask(&Call::get("/v1/key", &stand.all.token));
    assert_eq!(response.status, 200, "{}", response.text());
}

/// HAProxy before nginx before the gateway: the one appends a line, the other an item.
#[test]
fn haproxy_and_nginx_name_their_clients_by_x_forwarded_for() {
    let near = Key::all("key_near").only_from(&["127.0.0.3"]);
    let stand = Stand::with(|setup| {
        setup
            .keys(&[&near])
            .set("client_address", "from = \"x-forwarded-for\"")
            .set("client_address", "trusted_proxies = [\"127.0.0.1\"]")
    });
    let nginx = |to: std::net::SocketAddr| {
        Balancer::nginx(&format!(
            "http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                server {{ listen 127.0.0.1:{{port}}; location / {{
                  proxy_pass http://{to}; proxy_http_version 1.1; proxy_set_header Host localhost;
                  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}"
        ))
    };
    let haproxy = |to: std::net::SocketAddr| {
        Balancer::haproxy(&format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind 127.0.0.1:{{port}}\n option forwardfor\n server next {to}\n"
        ))
    };
    let (one, other) = (haproxy(stand.gateway.address), nginx(stand.gateway.address));
    let (before_haproxy, before_nginx) = (nginx(one.address), haproxy(other.address));
    let mut cases = Cases::new();
    for (name, balancer) in [
        ("HAProxy", &one),
        ("nginx", &other),
        ("nginx before HAProxy", &before_haproxy),
        ("HAProxy before nginx", &before_nginx),
    ] {
        // What the client itself claims stands to the left of what is believed.
        for claim in [
            None,
            Some("203.0.113.5"),
            Some("unknown"),
            Some("203.0.113.5, 127.0.0.1"),
        ] {
            let call = |call: Call| match claim {
                Some(claim) => call.header("x-forwarded-for", claim),
                None => call,
            };
            let mut client = Client::connect_from(OTHER, balancer.address);
            let shown = client
                .ask(&call(Call::get("/v1/key", &stand.all.token)))
                .json();
            let right = shown["client_address"] == "127.0.0.3"
                && shown["client_address_reason"] == "a trusted proxy named it in X-Forwarded-For";
            cases.check(name, right.then_some(()).ok_or(shown.to_string()));
            let near = client.ask(&call(Call::chat(&near.token, "good")));
            cases.check(name, (near.status == 200).then_some(()).ok_or(near.text()));
        }
        let call = Call::chat(&near.token, "good").header("x-forwarded-for", "127.0.0.3");
        let far = Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4)), balancer.address)
            .ask(&call);
        cases.check(name, is_error(&far, 401, "ip_not_authorized"));
    }
    cases.done();
}
