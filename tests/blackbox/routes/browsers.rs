//! OPTIONS and CORS: an origin that is configured may ask from a browser, and others are told nothing.

use crate::support::assert_error;
use crate::support::chat::anonymous;
use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;

#[test]
fn an_options_request_is_a_request_like_any_other() {
    let stand = Stand::new();
    let call =
        Call::new("OPTIONS", "/v1/chat/completions").header("origin", "https://app.example.com");
    assert_error(&stand.gateway.ask(&call), 401, "missing_api_key");
    let response = stand.gateway.ask(&call.bearer(&stand.all.token));
    assert_error(&response, 405, "method_not_allowed");
    assert!(
        response
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("access-control-"))
    );
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn browser_origins_that_are_configured_may_ask_and_others_are_told_nothing() {
    let stand = Stand::with(|setup| setup.line("cors_origins = [\"https://app.example.com\"]"));
    let mine = "https://app.example.com";
    for protocol in BOTH {
        let preflight = Call::new("OPTIONS", "/v1/chat/completions")
            .header("origin", mine)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization, content-type, x-custom",
            );
        let response = h2::ask(protocol, &stand.gateway, &preflight);
        assert_eq!(response.status, 204, "{}", response.text());
        assert_eq!(response.all("access-control-allow-origin"), [mine]);
        assert!(
            response
                .header("access-control-allow-methods")
                .is_some_and(|methods| methods.contains("POST"))
        );
        let headers = response
            .header("access-control-allow-headers")
            .map(str::to_ascii_lowercase);
        assert!(headers.is_some_and(
            |headers| headers.contains("authorization") && headers.contains("x-custom")
        ));
        assert_eq!(response.header("access-control-max-age"), Some("600"));
        // Every other answer to that origin, errors too.
        for (call, status) in [
            (Call::chat(&stand.all.token, "good"), 200),
            (Call::chat(&stand.only.token, "bad"), 404),
            (Call::get("/v1/models", &stand.all.token), 200),
            (anonymous(), 401),
            (Call::get("/nowhere", &stand.all.token), 404),
            (
                Call::chat(&stand.all.token, "good").without("content-type"),
                415,
            ),
        ] {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &call.clone().header("origin", mine),
            );
            assert_eq!(response.status, status, "{}", response.text());
            assert_eq!(
                response.all("access-control-allow-origin"),
                [mine],
                "{} {status}",
                call.target
            );
            assert!(
                response
                    .header("access-control-expose-headers")
                    .is_some_and(|names| names.contains("x-request-id"))
            );
            assert!(
                response
                    .all("vary")
                    .iter()
                    .any(|names| names.eq_ignore_ascii_case("origin")),
                "{:?}",
                response.headers
            );
            for other in [
                "https://evil.example",
                "http://app.example.com",
                "https://app.example.com:444",
                "https://app.example.com.evil.example",
                "null",
            ] {
                let response = h2::ask(
                    protocol,
                    &stand.gateway,
                    &call.clone().header("origin", other),
                );
                assert_eq!(response.status, status);
                assert!(
                    response.header("access-control-allow-origin").is_none(),
                    "{other}"
                );
            }
        }
        let unserved = Call {
            target: "/v1/files".to_owned(),
            ..preflight.clone()
        };
        assert_error(
            &h2::ask(protocol, &stand.gateway, &unserved),
            401,
            "missing_api_key",
        );
        let foreign = preflight
            .without("origin")
            .header("origin", "https://evil.example");
        assert_error(
            &h2::ask(protocol, &stand.gateway, &foreign),
            401,
            "missing_api_key",
        );
    }
    assert_eq!(stand.up.requests().len(), 2 * 6);
}
