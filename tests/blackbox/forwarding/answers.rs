//! Contract 4, step 8 and "Forwarding": what goes to the upstream, what comes back, which replica gets it, and what a
//! broken upstream looks like to a client.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client, End, Response};
use crate::support::gateway::{MODELS, Setup};
use crate::support::h2::{self, BOTH, Stream};
use crate::support::recorder::{Exchange, Recorder, Reserved};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

#[test]
fn what_identifies_the_client_or_steers_the_upstream_is_never_sent_on() {
    let stand = Stand::new();
    let dropped = [
        ("api-key", "1"),
        ("x-api-key", "1"),
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
        .header("connection", "x-other , x-request-id, x-forwarded-for, content-length, content-type, host, authorization, x-forwarded-proto")
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
        let call = Call::chat(&key.token, "good").header("x-api-key", "sk-client");
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

#[test]
fn an_answers_headers_come_back_save_those_that_speak_of_the_upstream_itself() {
    let stand = Stand::new();
    stand.up.script(|exchange| {
        exchange.reply(
            "200 OK",
            "content-type: application/json\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nServer: uvicorn\r\nAlt-Svc: h3=\":443\"\r\n\
             WWW-Authenticate: Basic\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: x\r\nConnection: X-Hop, keep-alive\r\n\
             Connection: x-hop-two\r\nX-Hop: 1\r\nX-Hop-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: x\r\nUpgrade: h2c\r\n\
             X-Request-Id: upstream-1\r\nX-Ratelimit-Remaining: 7\r\nOpenai-Processing-Ms: 12\r\nX-Twice: 1\r\nX-Twice: 2\r\n\
             Cache-Control: no-store\r\nRetry-After: 3\r\n",
            r#"{"ok":true}"#,
        );
    });
    for protocol in BOTH {
        let call = Call::chat(&stand.all.token, "good")
            .header("x-request-id", "mine")
            .header("origin", "https://app.example");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), r#"{"ok":true}"#);
        for name in [
            "set-cookie",
            "server",
            "alt-svc",
            "www-authenticate",
            "access-control-allow-origin",
            "access-control-expose-headers",
            "x-hop",
            "x-hop-two",
            "keep-alive",
            "proxy-authenticate",
            "trailer",
            "upgrade",
        ] {
            assert!(
                response.all(name).is_empty(),
                "{name} came back over {protocol:?}"
            );
        }
        assert_eq!(response.all("x-request-id"), ["mine"]);
        assert_eq!(response.all("x-twice"), ["1", "2"]);
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-ratelimit-remaining", "7"),
            ("openai-processing-ms", "12"),
            ("cache-control", "no-store"),
            ("retry-after", "3"),
            ("content-length", "11"),
        ] {
            assert_eq!(response.all(name), [value], "{name} over {protocol:?}");
        }
    }
}

#[test]
fn an_upstreams_status_and_body_pass_as_they_are() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for status in [
        200, 201, 202, 206, 300, 301, 302, 303, 307, 308, 400, 402, 404, 405, 409, 410, 413, 418,
        422, 429, 451, 500, 501, 503, 504, 529,
    ] {
        stand.up.script(move |exchange| {
            exchange.reply(
                &format!("{status} Whatever"),
                "location: /elsewhere\r\ncontent-type: text/x-odd\r\n",
                format!("body of {status}"),
            );
        });
        let before = stand.up.requests().len();
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            let right = response.status == status
                && response.text() == format!("body of {status}")
                && response.header("location") == Some("/elsewhere")
                && response.end == End::Whole;
            cases.check(
                &format!("{status} over {protocol:?}"),
                right.then_some(()).ok_or(format!("{response:?}")),
            );
        }
        let asked = stand.up.requests().len() - before;
        cases.check(
            &format!("{status} is not asked again or followed"),
            (asked == 2)
                .then_some(())
                .ok_or(format!("{asked} requests")),
        );
    }
    for status in [204, 304] {
        stand.up.script(move |exchange| {
            exchange.answer_raw(format!("HTTP/1.1 {status} X\r\nx-a: b\r\n\r\n"))
        });
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            let right = response.status == status
                && response.body.is_empty()
                && response.header("x-a") == Some("b");
            cases.check(
                &format!("{status} over {protocol:?}"),
                right.then_some(()).ok_or(format!("{response:?}")),
            );
        }
    }
    cases.done();
}

#[test]
fn an_upstream_that_refuses_the_gateways_own_credential_is_not_the_clients_fault() {
    let stand = Stand::new();
    for status in ["401 Unauthorized", "403 Forbidden"] {
        stand.up.script(move |exchange| {
            exchange.reply(
                status,
                "www-authenticate: Bearer realm=\"up\"\r\n",
                r#"{"error":"upstream says no"}"#,
            );
        });
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            assert_error(&response, 502, "upstream_rejected");
            assert!(!response.text().contains("upstream says no"));
            assert!(response.header("www-authenticate").is_none());
        }
    }
}

#[test]
fn interim_answers_are_dropped_up_to_16_and_one_more_is_a_broken_upstream() {
    let stand = Stand::new();
    let interim = |count: usize| {
        (0..count)
            .map(|at| {
                if at % 2 == 0 {
                    "HTTP/1.1 100 Continue\r\n\r\n"
                } else {
                    "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
                }
            })
            .collect::<String>()
    };
    for (count, status) in [(1, 200), (16, 200), (17, 502), (1000, 502)] {
        let answer = format!(
            "{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            interim(count)
        );
        stand
            .up
            .script(move |exchange| exchange.answer_raw(&answer));
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            assert_eq!(
                response.status,
                status,
                "{count} over {protocol:?}: {}",
                response.text()
            );
            assert!(response.interim.is_empty(), "{:?}", response.interim);
            if status == 502 {
                assert_error(&response, 502, "upstream_unreachable");
            } else {
                assert_eq!(response.text(), "ok");
            }
        }
    }
}

#[test]
fn an_answer_that_is_broken_before_its_body_is_a_502_and_its_connection_is_discarded() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let wide = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok",
        "w".repeat(1 << 20)
    );
    let mut cases = Cases::new();
    for (name, answer) in [
        ("nothing", ""),
        ("half a head", "HTTP/1.1 200 OK\r\nx: y\r\n"),
        ("garbage", "garbage\r\n\r\n"),
        ("a TLS alert", "\x15\x03\x01\0\x02\x02\x0a"),
        ("HTTP/2", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            "no status",
            "HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a status of two digits",
            "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a status of four digits",
            "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "length and chunked",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        ),
        (
            "a signed length",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        ),
        (
            "an empty length",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nok",
        ),
        (
            "a length that is no number",
            "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        ),
        (
            "an unknown coding",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "CR in a header",
            "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "NUL in a header",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "no colon",
            "HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 2\r\n\r\nok",
        ),
        ("1 MiB of headers", wide.as_str()),
        (
            "101",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\nraw bytes",
        ),
    ] {
        let bytes = answer.to_owned();
        stand
            .up
            .script(move |exchange| exchange.answer_raw_and_close(&bytes));
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            cases.check(
                &format!("{name} over {protocol:?}"),
                is_error(&response, 502, "upstream_unreachable"),
            );
        }
        if !answer.is_empty() {
            // Where the upstream would keep the connection, the gateway does not.
            let bytes = answer.to_owned();
            stand.up.script(move |exchange| {
                if bytes.ends_with("y\r\n") {
                    drop(exchange)
                } else {
                    exchange.answer_raw(&bytes)
                }
            });
            let before = stand.up.connections();
            let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            cases.check(
                &format!("{name}, kept"),
                (response.status == 502)
                    .then_some(())
                    .ok_or(response.text()),
            );
            stand.up.script(Exchange::complete);
            let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            let fresh = stand.up.last().connection > before;
            cases.check(
                &format!("{name}, after"),
                (response.status == 200 && fresh)
                    .then_some(())
                    .ok_or(format!("fresh: {fresh}, {}", response.text())),
            );
            stand.up.close_connections();
        }
    }
    cases.done();
}

#[test]
fn bytes_behind_a_whole_answer_are_never_shown_to_the_next_client() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let mut cases = Cases::new();
    for answer in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"),
        format!("HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nbody{evil}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nbody{evil}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{evil}"),
        format!("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n\r\n{evil}"),
    ] {
        let shown = format!("{:.50}", answer.replace("\r\n", " "));
        stand
            .up
            .script(move |exchange| exchange.answer_raw(&answer));
        let first = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        cases.check(
            &shown,
            (!first.text().contains("evil"))
                .then_some(())
                .ok_or(first.text()),
        );
        // Late ones too: by now the connection would be idle in a pool.
        thread::sleep(Duration::from_millis(20));
        stand.up.script(Exchange::complete);
        for _ in 0..3 {
            let next = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            let right = next.status == 200 && next.text().contains("chat.completion");
            cases.check(
                &format!("{shown}, after"),
                right.then_some(()).ok_or(next.text()),
            );
        }
    }
    cases.done();
}

#[test]
fn a_truncated_answer_reaches_the_client_as_truncated() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, answer) in [
        (
            "short of its length",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"part\":",
        ),
        (
            "within a chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n40\r\nmore",
        ),
        (
            "between chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n",
        ),
        (
            "before the last line end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n0\r\n",
        ),
        (
            "a chunk size that is none",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\nzz\r\n",
        ),
        (
            "an event stream",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n",
        ),
    ] {
        for reset in [false, true] {
            stand.up.script(move |mut exchange| {
                exchange.body();
                exchange.send(answer);
                if reset {
                    // What was sent must be on its way before the reset overtakes it.
                    thread::sleep(Duration::from_millis(50));
                    exchange.reset();
                }
            });
            for protocol in BOTH {
                let mut stream = Stream::open(
                    protocol,
                    &stand.gateway,
                    &Call::chat(&stand.all.token, "good"),
                );
                let mut response = stream.head();
                stream.finish(&mut response, DEADLINE);
                // What arrived is flushed first, head included; the end is no clean one.
                let right = response.status == 200
                    && response.text().starts_with("{\"part\":")
                    && response.end == End::Cut;
                let clean = response.text().contains("[DONE]");
                cases.check(
                    &format!("{name}, reset {reset}, {protocol:?}"),
                    (right && !clean)
                        .then_some(())
                        .ok_or(format!("{response:?}")),
                );
            }
        }
    }
    cases.done();
}

#[test]
fn a_head_alone_before_the_upstream_breaks_off_still_reaches_the_client() {
    let stand = Stand::new();
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        stand
            .up
            .script(move |exchange| exchange.answer_raw_and_close(answer));
        for protocol in BOTH {
            let mut stream = Stream::open(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            assert_eq!(
                (response.status, response.end),
                (200, End::Cut),
                "{answer:?} over {protocol:?}"
            );
        }
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_ends_cleanly() {
    let stand = Stand::new();
    stand.up.script(|exchange| {
        exchange
            .answer_raw_and_close("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it")
    });
    for protocol in BOTH {
        let response = h2::ask(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "all of it")
        );
        assert!(
            matches!(response.end, End::Whole | End::UntilClose),
            "{:?}",
            response.end
        );
    }
    stand.up.script(|exchange| {
        exchange.answer_raw_and_close("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold")
    });
    let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
    assert_eq!((response.status, response.text().as_str()), (200, "old"));
}

#[test]
fn upstream_connections_are_kept_and_given_up_when_idle() {
    let stand = Stand::with(|setup| {
        setup
            .line("workers = 1")
            .set("timeouts", "upstream_keep_alive = \"1s\"")
    });
    for _ in 0..5 {
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    assert_eq!(stand.up.connections(), 1);
    let idle = Instant::now();
    stand.up.wait_gone(0);
    let idle = idle.elapsed();
    assert!(
        idle > Duration::from_millis(700) && idle < Duration::from_secs(4),
        "{idle:?}"
    );
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    // An upstream that says close is believed.
    stand
        .up
        .script(|exchange| exchange.reply("200 OK", "connection: close\r\n", "{}"));
    let before = stand.up.requests().len();
    for _ in 0..2 {
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    let on: Vec<usize> = stand.up.requests()[before..]
        .iter()
        .map(|seen| seen.connection)
        .collect();
    assert_ne!(on[0], on[1]);
}

#[test]
fn a_request_is_retried_once_when_a_reused_connection_closed_before_any_byte() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    for protocol in BOTH {
        stand.up.forget();
        stand.up.script(Exchange::complete);
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
        let reused = stand.up.last().connection;
        stand.up.script(move |exchange| {
            if exchange.seen.connection == reused {
                drop(exchange)
            } else {
                exchange.complete()
            }
        });
        let call = Call::chat(&stand.all.token, "good");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.requests();
        assert_eq!(seen.len(), 3, "one, its unanswered second, and the retry");
        assert_eq!(seen[1].connection, reused);
        assert_ne!(
            seen[2].connection, reused,
            "the retry has a connection of its own"
        );
        assert_eq!(seen[2].body, call.body, "the retry sends the whole body");
    }
}

#[test]
fn a_retry_that_fails_too_is_not_retried_again() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    stand.up.script(drop);
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        502,
        "upstream_unreachable",
    );
    assert_eq!(stand.up.requests().len(), 3);
}

#[test]
fn a_fresh_connection_that_closes_is_not_retried() {
    let stand = Stand::before(Recorder::start(drop), |setup| setup);
    for asked in 1..=3 {
        for_status(&stand, asked);
    }
    fn for_status(stand: &Stand, asked: usize) {
        assert_error(
            &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
            502,
            "upstream_unreachable",
        );
        assert_eq!(stand.up.requests().len(), asked);
    }
}

#[test]
fn a_reused_connection_that_breaks_after_a_byte_is_not_retried() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    stand.up.script(|mut exchange| {
        exchange.body();
        exchange.send("H");
    });
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        502,
        "upstream_unreachable",
    );
    assert_eq!(stand.up.requests().len(), 2);
}

#[test]
fn an_upstream_that_closes_idle_connections_is_never_seen_as_an_error() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let mut client = stand.gateway.client();
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(client.ask(&call).status, 200);
    for gap in [0, 1, 2, 5, 10, 20, 50] {
        for _ in 0..20 {
            let (up, idle) = (&stand.up, stand.up.last().connection);
            thread::scope(|scope| {
                // The close races the next request.
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(gap));
                    up.close_connection(idle);
                });
                thread::sleep(Duration::from_millis(gap));
                let response = client.ask(&call);
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
    }
}

#[test]
fn an_upstream_that_answers_before_it_has_read_the_request_is_sent_the_rest_of_it() {
    let stand = Stand::new();
    stand.up.script(|mut exchange| {
        exchange.begin_stream();
        let length = exchange.body().map_or(0, |body| body.len());
        exchange.chunk(format!("data: {length}\n\n"));
        exchange.end_stream();
    });
    let text = "x".repeat(8 << 20);
    let call = Call::json(
        "/v1/chat/completions",
        &stand.all.token,
        format!(r#"{{"model":"good","text":"{text}"}}"#),
    );
    let response = stand.gateway.ask(&call);
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), format!("data: {}\n\n", call.body.len()));
}

#[test]
fn a_replica_that_refuses_is_tried_past_set_aside_and_taken_back() {
    let first = Recorder::answering();
    let down = Reserved::new();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&down.url(), &first.url()], &["good"])
        .keys(&[&key])
        .start();
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    }
    assert_eq!(first.requests().len(), 20);
    let up = |url: &str| {
        let status = gateway.admin_json("GET", "/api/status", None);
        let replicas = status["upstreams"][0]["replicas"]
            .as_array()
            .expect("replicas")
            .clone();
        let replica = replicas
            .iter()
            .find(|replica| replica["url"] == url)
            .expect("the replica");
        replica["up"].as_bool().expect("up or not")
    };
    assert!(up(&first.url()));
    assert!(!up(&down.url()), "nobody noticed that it refuses");
    let url = down.url();
    let second = down.open(Exchange::complete);
    eventually("the replica is taken back", DEADLINE, || {
        up(&url).then_some(())
    });
    eventually("it gets requests", DEADLINE, || {
        assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
        (!second.requests().is_empty()).then_some(())
    });
    // And the other way round, under load.
    let address = first.down();
    for _ in 0..20 {
        let response = gateway.ask(&Call::chat(&key.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    drop(address);
}

#[test]
fn without_a_healthy_replica_the_upstream_is_unavailable_until_one_is_back() {
    let down = [Reserved::new(), Reserved::new()];
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&down[0].url(), &down[1].url()], &["good"])
        .keys(&[&key])
        .start();
    let start = Instant::now();
    let first = gateway.ask(&Call::chat(&key.token, "good"));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "refused at once: {:?}",
        start.elapsed()
    );
    assert!(matches!(first.status, 502 | 503), "{}", first.text());
    for protocol in BOTH {
        assert_error(
            &h2::ask(protocol, &gateway, &Call::chat(&key.token, "good")),
            503,
            "upstream_unavailable",
        );
    }
    // The models are still known, and a denial still comes before.
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "other")),
        404,
        "model_not_found",
    );
    let [one, _other] = down;
    let _up = one.open(Exchange::complete);
    eventually("it recovers", Duration::from_secs(5), || {
        (gateway.ask(&Call::chat(&key.token, "good")).status == 200).then_some(())
    });
}

#[test]
fn a_broken_answer_does_not_set_a_replica_aside() {
    let stand = Stand::before(Recorder::start(drop), |setup| setup);
    for _ in 0..5 {
        assert_error(
            &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
            502,
            "upstream_unreachable",
        );
    }
    stand.up.script(Exchange::complete);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
}

#[test]
fn a_connect_that_is_never_answered_times_out_and_sets_the_replica_aside() {
    let silent = Reserved::new().unanswering();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&format!("http://{}", silent.address)], &["good"])
        .set("timeouts", "upstream_connect = \"1s\"")
        .keys(&[&key])
        .start();
    let start = Instant::now();
    let response = gateway.ask(&Call::chat(&key.token, "good"));
    assert!(matches!(response.status, 502 | 503), "{}", response.text());
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    let start = Instant::now();
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "good")),
        503,
        "upstream_unavailable",
    );
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_silent_upstream_times_out_and_is_freed() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "upstream_first_byte = \"1s\""));
    for protocol in BOTH {
        let start = Instant::now();
        let mut stream = Stream::open(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        let exchange = stand.up.next();
        let mut response = stream.head();
        stream.finish(&mut response, DEADLINE);
        assert_error(&response, 504, "upstream_timeout");
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(4),
            "{took:?}"
        );
        exchange.assert_freed();
    }
}

#[test]
fn a_stream_that_falls_silent_is_broken_off() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "stream_idle = \"1s\""));
    for protocol in BOTH {
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
        // A pause that is shorter than the limit does no harm.
        thread::sleep(Duration::from_millis(600));
        exchange.chunk("data: two\n\n");
        stream.until(&mut response, "two");
        stream.finish(&mut response, Duration::from_secs(4));
        assert_eq!(response.end, End::Cut);
        exchange.assert_freed();
    }
}

#[test]
fn requests_go_to_the_replica_with_the_fewest_in_flight() {
    let (first, second) = (Recorder::held(), Recorder::held());
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .line("workers = 1")
        .upstream("up", &[&first.url(), &second.url()], &["good"])
        .keys(&[&key])
        .start();
    let mut clients: Vec<Client> = (0..6).map(|_| gateway.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&Call::chat(&key.token, "good").bytes());
        eventually("it reached a replica", DEADLINE, || {
            (first.requests().len() + second.requests().len() > at).then_some(())
        });
    }
    assert_eq!(first.requests().len(), 3);
    assert_eq!(second.requests().len(), 3);
}

#[test]
fn models_are_discovered_and_each_goes_to_the_upstream_that_serves_it() {
    let one = Recorder::start(|exchange| {
        if exchange.seen.target == "/v1/models" {
            // llama.cpp's answer has a second list, and aliases.
            exchange.reply_json(
                r#"{"models":[{"name":"hidden","model":"hidden"}],"object":"list","data":[{"id":"llama","aliases":["alias"],"object":"model"},{"id":"both"}]}"#,
            );
        } else {
            exchange.complete();
        }
    });
    let two = Recorder::start(|exchange| exchange.serve_models(&["both", "qwen", "org/two"]));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("one", &[&one.url()], &[])
        .upstream("two", &[&two.url()], &[])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    let mut ids: Vec<&str> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["both", "llama", "org/two", "qwen"]);
    for (model, upstream) in [
        ("llama", &one),
        ("both", &one),
        ("qwen", &two),
        ("org/two", &two),
    ] {
        assert_eq!(gateway.ask(&Call::chat(&key.token, model)).status, 200);
        let body: serde_json::Value = serde_json::from_slice(&upstream.last().body).expect("JSON");
        assert_eq!(body["model"], model);
    }
    for model in ["hidden", "alias"] {
        assert_error(
            &gateway.ask(&Call::chat(&key.token, model)),
            404,
            "model_not_found",
        );
    }
}

#[test]
fn until_the_catalogue_is_there_the_gateway_is_not_ready_and_nobody_is_told_that_a_key_is_bad() {
    let up = Recorder::held();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &[])
        .keys(&[&key])
        .launch();
    let discovery = up.next();
    assert_eq!(
        (
            discovery.seen.method.as_str(),
            discovery.seen.target.as_str()
        ),
        ("GET", "/v1/models")
    );
    for protocol in BOTH {
        assert_error(
            &h2::ask(protocol, &gateway, &Call::chat(&key.token, "good")),
            503,
            "not_ready",
        );
    }
    assert_eq!(gateway.admin("GET", "/healthz", None).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", None).status, 503);
    up.script(Exchange::complete);
    discovery.list_models(&["good"]);
    gateway.wait_ready();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}

#[test]
fn an_upstream_that_does_not_answer_for_5_s_holds_nobody_up_and_is_asked_again() {
    let silent = Recorder::held();
    let quick = Recorder::answering();
    let key = Key::all("key_all");
    let start = Instant::now();
    let gateway = Setup::new()
        .upstream("silent", &[&silent.url()], &[])
        .upstream("quick", &[&quick.url()], &["good"])
        .keys(&[&key])
        .start();
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "ready after {took:?}"
    );
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "late")),
        404,
        "model_not_found",
    );
    silent.script(|exchange| exchange.serve_models(&["late"]));
    eventually("it is asked again", DEADLINE, || {
        (gateway.ask(&Call::chat(&key.token, "late")).status == 200).then_some(())
    });
}

#[test]
fn an_upstream_that_refuses_or_answers_nonsense_at_start_contributes_nothing() {
    let down = Reserved::new();
    let nonsense = Recorder::start(|exchange| exchange.reply_json("[1,2"));
    let quick = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("down", &[&down.url()], &[])
        .upstream("nonsense", &[&nonsense.url()], &[])
        .upstream("quick", &[&quick.url()], &["good"])
        .keys(&[&key])
        .start();
    let list = gateway.ask(&Call::get("/v1/models", &key.token)).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}

#[test]
fn an_answer_that_comes_before_the_upstream_read_the_body_reaches_the_client_and_poisons_nothing() {
    let stand = Stand::new();
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(8 << 20));
    let call = Call::json("/v1/chat/completions", &stand.all.token, body);
    stand.up.script(|mut exchange| {
        exchange.send("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy");
    });
    let response = stand.gateway.ask(&call);
    let answered =
        response.status == 429 && response.text() == "busy" && response.end == End::Whole;
    assert!(answered || response.status == 502, "{response:?}");
    stand.up.script(|exchange| exchange.complete());
    for _ in 0..5 {
        let response: Response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
}
