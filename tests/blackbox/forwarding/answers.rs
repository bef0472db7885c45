//! What an upstream answers comes back as it is, but for headers that speak of the upstream itself.

use crate::support::client::{Call, End, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::{Cases, assert_error};

#[test]
fn an_answers_headers_come_back_save_those_that_speak_of_the_upstream_itself() {
    let stand = Stand::new();
    stand.up.script(|exchange| {
        exchange.reply(
            "200 OK",
            "content-type: application/json\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nServer: uvicorn\r\nAlt-Svc: h3=\":443\"\r\n\
             WWW-Authenticate: Basic\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: x\r\nConnection: X-Hop, keep-alive\r\n\
             Connection: x-hop-two\r\nX-Hop: 1\r\nX-Hop-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: x\r\nUpgrade: h2c\r\n\
             X-Request-Id: upstream-1\r\nX-Ratelimit-Remaining-Tokens: 7\r\nX-Accel-Redirect: /private\r\nX-Accel-Expires: 9\r\n\
             X-Sendfile: /etc/passwd\r\nX-Lighttpd-Send-File: /etc/passwd\r\nX-Reproxy-Url: http://inside\r\nClear-Site-Data: \"*\"\r\n\
             Strict-Transport-Security: max-age=1\r\nNEL: {}\r\nReport-To: {}\r\nReporting-Endpoints: a=\"b\"\r\n\
             Refresh: 0; url=http://evil\r\nLink: </a>; rel=preload\r\nPublic-Key-Pins: x\r\nExpect-CT: x\r\nAccept-CH: x\r\n\
             Request-Id: upstream-2\r\nX-Ratelimited: 7\r\nOpenai-Processing-Ms: 12\r\nX-Twice: 1\r\nX-Twice: 2\r\n\
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
            "x-ratelimit-remaining-tokens",
            "x-accel-redirect",
            "x-accel-expires",
            "x-sendfile",
            "x-lighttpd-send-file",
            "x-reproxy-url",
            "clear-site-data",
            "strict-transport-security",
            "nel",
            "report-to",
            "reporting-endpoints",
            "refresh",
            "link",
            "public-key-pins",
            "expect-ct",
            "accept-ch",
            "request-id",
            "x-accel-buffering",
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
            ("x-ratelimited", "7"),
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

#[test]
fn an_event_stream_is_not_held_back_by_a_proxy_in_front() {
    let stand = Stand::new();
    for (kind, buffering) in [
        ("text/event-stream; charset=utf-8", &["no"][..]),
        ("application/json", &[]),
    ] {
        stand.up.script(move |exchange| {
            exchange.reply(
                "200 OK",
                &format!("content-type: {kind}\r\nx-accel-buffering: yes\r\n"),
                "data: a\n\n",
            );
        });
        for protocol in BOTH {
            let call = Call::chat(&stand.all.token, "good");
            let response = h2::ask(protocol, &stand.gateway, &call);
            assert_eq!(response.all("x-accel-buffering"), buffering, "{kind}");
        }
    }
}

#[test]
fn nobody_keeps_what_the_gateway_answers_itself() {
    let stand = Stand::new();
    let token = stand.all.token.as_str();
    for protocol in BOTH {
        for call in [
            Call::get("/v1/models", token),
            Call::get("/v1/models/good", token),
            Call::get("/v1/key", token),
            Call::get("/v1/key", "sk-wrong"),
            Call::get("/nowhere", token),
            Call::chat(token, "nothing"),
            Call::chat(token, "good").body("{"),
        ] {
            let response = h2::ask(protocol, &stand.gateway, &call);
            assert_eq!(
                response.all("cache-control"),
                ["no-store"],
                "{}",
                call.target
            );
        }
    }
    let malformed = stand
        .gateway
        .ask(&Call::chat(token, "good").header("transfer-encoding", "gzip"));
    assert_eq!(
        (malformed.status, malformed.all("cache-control")),
        (400, vec!["no-store"])
    );
    for path in [
        "/api/status",
        "/api/nothing",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        let response = stand.gateway.admin("GET", path, None);
        assert_eq!(response.all("cache-control"), ["no-store"], "{path}");
    }
}
