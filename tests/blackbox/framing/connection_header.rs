//! `Connection` names the headers that end at the gateway (RFC 9110, 7.6.1). It takes away nothing that the gateway
//! judged by or sets.

use crate::support::Cases;
use crate::support::assert_error;
use crate::support::client::Call;
use crate::support::http1::{attempt, holds, serves_next};
use crate::support::is_error;
use crate::support::stand::Stand;

/// Headers that the gateway judges a request by, or sets itself.
const ITS_OWN: [&str; 21] = [
    "content-type",
    "content-length",
    "content-encoding",
    "content-language",
    "content-disposition",
    "host",
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "x-api-key",
    "api-key",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "Content-Type",
    "HOST",
    "Authorization",
    "X-Forwarded-For",
    "X-REQUEST-ID",
];

/// What a Connection line may hold without any harm: options, and names of hop-by-hop headers.
const OPTIONS: [&str; 15] = [
    "close",
    "keep-alive",
    "Keep-Alive",
    "upgrade",
    "Upgrade",
    "te",
    "TE",
    "trailer",
    "trailers",
    "transfer-encoding",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
    "keep-alive, te , upgrade",
];

fn chat(stand: &Stand) -> Call {
    Call::chat(&stand.all.token, "good")
}

#[test]
fn a_connection_line_that_names_a_header_of_the_gateways_own_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for name in ITS_OWN {
        for value in [
            name.to_owned(),
            format!("keep-alive, {name}"),
            format!("close,{name}"),
            format!("{name}\t, keep-alive"),
            format!(",, {name} ,"),
        ] {
            let verdict = attempt(|| {
                stand
                    .gateway
                    .ask(&chat(&stand).header("connection", &value))
            })
            .and_then(|response| is_error(&response, 400, "invalid_request"));
            cases.check(&format!("{value:?}"), verdict);
        }
        // On a second line too.
        let call = chat(&stand)
            .header("connection", "keep-alive")
            .header("Connection", name);
        let verdict = attempt(|| stand.gateway.ask(&call))
            .and_then(|response| is_error(&response, 400, "invalid_request"));
        cases.check(&format!("{name} on a second line"), verdict);
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn a_header_of_the_gateways_own_may_not_be_named_even_where_the_request_has_none() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for name in [
        "x-forwarded-for",
        "x-request-id",
        "content-encoding",
        "accept",
    ] {
        for call in [
            chat(&stand),
            Call::get("/v1/models", &stand.all.token),
            Call::get("/v1/key", &stand.all.token),
        ] {
            let verdict = attempt(|| stand.gateway.ask(&call.clone().header("connection", name)))
                .and_then(|response| is_error(&response, 400, "invalid_request"));
            cases.check(&format!("{name} {}", call.target), verdict);
        }
    }
    cases.done();
}

#[test]
fn any_other_header_that_a_connection_line_names_is_dropped() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, value) in [
        ("user-agent", "tests/1"),
        ("User-Agent", "tests/1"),
        ("x-anything", "1"),
        ("referer", "http://localhost/"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("idempotency-key", "1"),
        ("x-title", "a title"),
    ] {
        for connection in [
            name.to_owned(),
            format!("keep-alive , {}", name.to_uppercase()),
        ] {
            let call = chat(&stand)
                .header(name, value)
                .header("openai-version", "kept")
                .header("connection", &connection);
            let mut client = stand.gateway.client();
            let verdict = attempt(|| client.ask(&call))
                .and_then(|response| {
                    holds(response.status == 200, || {
                        format!("{} {}", response.status, response.text())
                    })
                })
                .and_then(|()| {
                    let seen = stand.up.last();
                    let dropped = seen.all(name).iter().all(|line| *line != value);
                    let kept = seen.all("openai-version") == ["kept"];
                    holds(dropped && kept && seen.body == call.body, || {
                        format!("{:?}", seen.headers)
                    })
                })
                .and_then(|()| serves_next(&mut client, &stand.only));
            cases.check(&format!("{connection:?}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn connection_options_and_names_of_hop_by_hop_headers_pass() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for value in OPTIONS.into_iter().chain(["", " , ", ",,keep-alive,"]) {
        let mut client = stand.gateway.client();
        let call = chat(&stand).header("connection", value);
        let verdict = attempt(|| client.ask(&call))
            .and_then(|response| {
                holds(response.status == 200, || {
                    format!("{} {}", response.status, response.text())
                })
            })
            .and_then(|()| {
                let seen = stand.up.last();
                holds(seen.body == call.body, || format!("{:?}", seen.headers))
            });
        cases.check(&format!("{value:?}"), verdict);
        if value != "close" {
            cases.check(
                &format!("{value:?}, the next request"),
                serves_next(&mut client, &stand.only),
            );
        }
    }
    cases.done();
}

#[test]
fn headers_that_only_look_like_one_of_the_gateways_own_may_be_named() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for name in [
        "x-content-type",
        "hosts",
        "x-host",
        "xcontent-type",
        "request-id",
    ] {
        let call = chat(&stand).header(name, "1").header("connection", name);
        let verdict = attempt(|| stand.gateway.ask(&call)).and_then(|response| {
            let there = stand.up.requests().last().map(|seen| seen.all(name).len());
            holds(response.status == 200 && there == Some(0), || {
                format!("{} {there:?}", response.status)
            })
        });
        cases.check(name, verdict);
    }
    cases.done();
}

#[test]
fn a_connection_line_that_holds_no_token_is_refused_or_decides_nothing() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for value in ["content type", "\"content-type\"", "host;q=1", "a b", "(x)"] {
        let mut client = stand.gateway.client();
        let verdict = attempt(|| client.ask(&chat(&stand).header("connection", value))).and_then(
            |response| {
                let right = match response.status {
                    400 => true,
                    200 => stand.up.last().header("content-type") == Some("application/json"),
                    _ => false,
                };
                holds(right, || format!("{} {}", response.status, response.text()))
            },
        );
        cases.check(value, verdict);
    }
    cases.done();
}

#[test]
fn a_connection_header_that_names_too_much_is_refused() {
    let stand = Stand::new();
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("x-{at}")).collect();
        names.join(",")
    };
    let ask = |call: Call| stand.gateway.ask(&call);
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(
        ask(call.clone().header("connection", &names(100))).status,
        200
    );
    let lines = call
        .clone()
        .header("connection", &names(60))
        .header("connection", &names(60));
    for refused in [call.header("connection", &names(101)), lines] {
        assert_error(&ask(refused), 400, "invalid_request");
    }
    stand.up.script(move |exchange| {
        exchange.reply("200 OK", &format!("connection: {}\r\n", names(101)), "{}");
    });
    assert_error(
        &ask(Call::chat(&stand.all.token, "good")),
        502,
        "upstream_unreachable",
    );
}
