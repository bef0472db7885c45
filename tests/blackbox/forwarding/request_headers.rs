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
        ("x-override-model", "bad"),
        ("x-vllm-anything", "1"),
        ("x-data-parallel-rank", "1"),
        ("X-Data-Parallel-Host-Port", "evil:1"),
        ("x-gateway-inference-objective", "1"),
        ("x-llm-d-request-ttft-slo", "1"),
        ("x-routing-strategy", "1"),
        ("cf-connecting-ip", "203.0.113.5"),
        ("cf-access-jwt-assertion", "ey"),
        ("remote-user", "admin"),
        ("x-forwarded-user", "admin"),
        ("x-forwarded-email", "a@b"),
        ("x-forwarded-groups", "admin"),
        ("x-forwarded-host", "evil"),
        ("x-auth-request-user", "admin"),
        ("x-goog-api-key", "k"),
        ("x-amz-security-token", "k"),
        ("x-amzn-oidc-data", "k"),
        ("x-ms-client-principal", "k"),
        ("true-client-ip", "203.0.113.5"),
        ("accept-encoding", "gzip, br"),
        ("accept-charset", "utf-8"),
        ("origin", "https://app.example"),
        ("content-language", "en"),
        ("x-custom", "1"),
        ("x-empty", ""),
    ];
    let kept = [
        ("user-agent", "OpenAI/Python 1.0"),
        ("accept", "text/event-stream"),
        ("accept-language", "de"),
        ("referer", "https://app.example/"),
        ("x-title", "  spaced  out "),
        ("x-app", "cli"),
        ("openai-version", "2020-10-01"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("tracestate", "a=b"),
        ("baggage", "a=b"),
        ("x-stainless-lang", "python"),
        ("X-Stainless-Retry-Count", "0"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("idempotency-key", "abc"),
        ("openai-beta", "x=y"),
    ];
    for protocol in BOTH {
        let mut call = Call::chat(&stand.all.token, "good");
        for (name, value) in dropped.iter().chain(&kept) {
            call = call.header(name, value);
        }
        let call = call
            .header("anthropic-beta", "")
            .header("anthropic-beta", "1")
            .without("content-type")
            .header("content-type", "Application/JSON; charset=utf-8");
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
        assert_eq!(seen.all("anthropic-beta"), ["", "1"]);
        assert_eq!(seen.all("content-type"), ["application/json"]);
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
        // The gateway's own, which no client can choose.
        let own = seen.all("x-request-id");
        assert!(own.len() == 1 && own[0].starts_with("req_"), "{own:?}");
        let line = stand
            .gateway
            .process
            .line("the request", |line| line.contains(own[0]));
        assert!(
            line.contains("\"client_request_id\":\"my-id.1_2\""),
            "{line}"
        );
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
        .header("x-title", "3")
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
    assert_eq!(seen.all("x-title"), ["3"]);
    assert_eq!(seen.all("user-agent").len(), 0);
    // What the gateway sets is there whatever Connection says.
    assert_eq!(seen.all("host").len(), 1);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-request-id").len(), 1);
    assert_eq!(seen.all("content-length"), [call.body.len().to_string()]);
    assert_eq!(seen.body, call.body);
}

#[test]
fn an_upstream_gets_the_other_headers_that_its_config_names_and_no_credential_by_a_star() {
    let (named, all) = (Recorder::answering(), Recorder::answering());
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream_with(
            "named",
            &[&named.url()],
            &["n"],
            "forward_headers = [\"X-Tenant\", \"origin\"]",
        )
        .upstream_with("all", &[&all.url()], &["a"], "forward_headers = [\"*\"]")
        .keys(&[&key])
        .start();
    for protocol in BOTH {
        for (model, up, passing) in [
            ("n", &named, &["x-tenant", "origin", "user-agent"][..]),
            (
                "a",
                &all,
                &[
                    "x-tenant",
                    "origin",
                    "user-agent",
                    "x-custom",
                    "content-language",
                    "accept-charset",
                ],
            ),
        ] {
            let mut call = Call::chat(&key.token, model);
            let sent = [
                "X-Tenant",
                "origin",
                "user-agent",
                "x-custom",
                "content-language",
                "accept-charset",
                "accept-encoding",
                "cookie",
                "x-real-ip",
                "x-vllm-a",
                "x-goog-api-key",
                "x_tenant",
                "te",
                "x-forwarded-host",
                "x-keygate-a",
                "forwarded",
                "openai-organization",
                "x.real.ip",
                "cookie~",
                "x-serverless-authorization",
                "session-token",
                "x-smg-target-worker",
                "x-prefiller-host-port",
                "x-model",
                "wl-proxy-client-ip",
                "impersonate-user",
                "apikey",
                "x-auth",
                "x-openai-api-key",
                "Client-Cert",
                "x-userinfo",
                "x-arr-clientcert",
                "x-oauth-token",
                "x-envoy-original-path",
            ];
            for name in sent {
                call = call.header(name, "1");
            }
            let response = h2::ask(protocol, &gateway, &call.without("te"));
            assert_eq!(response.status, 200, "{}", response.text());
            let seen = up.last();
            for name in sent {
                let passes = passing.contains(&name.to_lowercase().as_str());
                let count = seen.all(name).len();
                assert_eq!(count == 1, passes, "{name} to {model}: {count}");
            }
        }
    }
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
