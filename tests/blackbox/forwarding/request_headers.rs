//! Which headers an upstream is sent: no credential of the client, nothing that steers it, and who asks (contract 4,
//! "Forwarding").

use crate::support::Cases;
use crate::support::client::{Call, Client};
use crate::support::gateway::{MODELS, Setup};
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;

#[test]
fn what_identifies_the_client_or_steers_the_upstream_is_never_sent_on() {
    let stand = Stand::new();
    let dropped = [
        ("cookie", "a=b"),
        ("proxy-authorization", "Basic eDp5"),
        ("forwarded", "for=203.0.113.5"),
        ("x-real-ip", "203.0.113.5"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-http-method", "DELETE"),
        ("x-http-method-override", "DELETE"),
        ("x-method-override", "DELETE"),
        ("openai-organization", "org-1"),
        ("openai-project", "proj_1"),
        ("x-portkey-provider", "openai"),
        ("x-litellm-api-key", "sk"),
        ("helicone-auth", "Bearer sk"),
        ("x-keygate-key", "key_all"),
        ("X-LiteLLM-Timeout", "1"),
        ("Helicone-Target-Url", "http://evil"),
        ("X-Keygate-", "1"),
        ("x-http-methodology", "DELETE"),
    ];
    let kept = [
        ("user-agent", "OpenAI/Python 1.0"),
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, br"),
        ("x-stainless-lang", "python"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("idempotency-key", "abc"),
        ("openai-beta", "x=y"),
        ("x-custom", "  spaced  out "),
        ("x-empty", ""),
    ];
    for protocol in BOTH {
        let mut call = Call::chat(&stand.all.token, "good");
        for (name, value) in dropped.iter().chain(&kept) {
            call = call.header(name, value);
        }
        let call = call.header("x-twice", "1").header("x-twice", "2");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.last();
        let mut cases = Cases::new();
        for (name, _) in dropped {
            cases.check(
                name,
                if seen.all(name).is_empty() {
                    Ok(())
                } else {
                    Err("reached the upstream".to_owned())
                },
            );
        }
        cases.check(
            "authorization",
            if seen.all("authorization").is_empty() {
                Ok(())
            } else {
                Err("reached it".to_owned())
            },
        );
        for (name, value) in kept {
            let right = seen.all(name) == [value.trim()];
            cases.check(
                name,
                right.then_some(()).ok_or(format!("{:?}", seen.all(name))),
            );
        }
        assert_eq!(seen.all("x-twice"), ["1", "2"]);
        assert_eq!(seen.all("host"), [stand.up.address.to_string()]);
        assert_eq!(seen.body, call.body);
        let bytes = String::from_utf8_lossy(&stand.up.bytes()).into_owned();
        assert!(
            !bytes.contains(&stand.all.token),
            "the token reached the upstream"
        );
        cases.done();
    }
}

#[test]
fn the_gateway_tells_the_upstream_who_asks_over_what() {
    let stand = Stand::new();
    for protocol in BOTH {
        let call = Call::chat(&stand.all.token, "good")
            .header("x-forwarded-for", "203.0.113.5, 10.0.0.1")
            .header("x-forwarded-for", "203.0.113.6")
            .header("x-forwarded-proto", "https")
            .header("x-request-id", "my-id.1_2");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.all("x-request-id"), ["my-id.1_2"]);
        let seen = stand.up.last();
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.all("x-request-id"), ["my-id.1_2"]);
        let response = h2::ask(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        let made = response.all("x-request-id");
        assert!(made.len() == 1 && !made[0].is_empty(), "{made:?}");
        assert_eq!(stand.up.last().all("x-request-id"), made);
    }
}

#[test]
fn a_trusted_peers_list_of_addresses_goes_on_with_the_clients_appended() {
    let stand = Stand::with(|setup| {
        setup
            .set("client_address", "from = \"x-forwarded-for\"")
            .set("client_address", "trusted_proxies = [\"127.0.0.1/32\"]")
    });
    let call =
        Call::chat(&stand.all.token, "good").header("x-forwarded-for", "198.51.100.1, 203.0.113.5");
    assert_eq!(stand.gateway.ask(&call).status, 200);
    let seen = stand.up.last();
    let list = seen.all("x-forwarded-for").join(", ");
    assert!(list.starts_with("198.51.100.1, 203.0.113.5, "), "{list}");
    let outside = "127.0.0.2".parse().expect("an address");
    assert_eq!(
        Client::connect_from(outside, stand.gateway.address)
            .ask(&call)
            .status,
        200
    );
    assert_eq!(stand.up.last().all("x-forwarded-for"), ["127.0.0.2"]);
}

#[test]
fn hop_by_hop_headers_and_those_that_any_connection_line_names_stay_behind() {
    let stand = Stand::new();
    let call = Call::chat(&stand.all.token, "good")
        .header("connection", "keep-alive, X-Named")
        .header("connection", "x-other , user-agent")
        .header("x-named", "1")
        .header("x-other", "2")
        .header("x-kept", "3")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("te", "trailers")
        .header("trailer", "x-t")
        .header("upgrade", "foo");
    let response = stand.gateway.ask(&call);
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = stand.up.last();
    for name in [
        "x-named",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    ] {
        assert_eq!(seen.all(name).len(), 0, "{name} reached the upstream");
    }
    assert!(
        seen.all("connection")
            .iter()
            .all(|line| line.eq_ignore_ascii_case("keep-alive"))
    );
    assert_eq!(seen.all("x-kept"), ["3"]);
    // What the gateway sets is there whatever Connection says.
    assert_eq!(seen.all("host").len(), 1);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-request-id").len(), 1);
    assert_eq!(seen.all("content-length"), [call.body.len().to_string()]);
    assert_eq!(seen.body, call.body);
}

#[test]
fn an_upstreams_credential_is_sent_in_place_of_the_clients_token() {
    let up = Recorder::start(|exchange| exchange.serve_models(&MODELS));
    let other = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::new()
        .upstream_with("env", &[&up.url()], &[], "api_key_env = \"UP_KEY\"")
        .upstream_with(
            "file",
            &[&other.url()],
            &["filed"],
            "api_key_file = \"up.key\"",
        )
        .environment("UP_KEY", "sk-upstream-secret")
        .secret("sk-upstream-secret")
        .secret("sk-filed-secret")
        .keys(&[&key]);
    std::fs::write(setup.path("up.key"), "  sk-filed-secret\n").expect("the credential is written");
    let gateway = setup.start();
    let discovery = up.requests_for("/v1/models");
    assert!(!discovery.is_empty());
    for seen in discovery {
        assert_eq!(seen.all("authorization"), ["Bearer sk-upstream-secret"]);
    }
    for protocol in BOTH {
        let call = Call::chat(&key.token, "good").header("x-api-key", &key.token);
        assert_eq!(h2::ask(protocol, &gateway, &call).status, 200);
        assert_eq!(
            up.last().all("authorization"),
            ["Bearer sk-upstream-secret"]
        );
        assert_eq!(
            h2::ask(protocol, &gateway, &Call::chat(&key.token, "filed")).status,
            200
        );
        assert_eq!(
            other.last().all("authorization"),
            ["Bearer sk-filed-secret"]
        );
    }
    assert!(!String::from_utf8_lossy(&other.bytes()).contains("sk-upstream-secret"));
    for path in ["/api/status", "/api/models", "/metrics"] {
        let answer = gateway.admin("GET", path, None).text();
        assert!(
            !answer.contains("sk-upstream-secret") && !answer.contains("sk-filed-secret"),
            "{path}"
        );
    }
}

#[test]
fn an_upstream_without_a_credential_gets_no_authorization() {
    let stand = Stand::new();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(stand.up.last().all("authorization").is_empty());
}
