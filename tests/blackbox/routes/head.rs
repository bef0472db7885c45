//! HEAD is answered like GET, without a body, on every listener (RFC 9110 9.3.2).

use crate::support::Cases;
use crate::support::client::{Call, Client, Response};
use crate::support::h2::{BOTH, ask};
use crate::support::stand::Stand;

/// The status and the headers, save those that differ from one response to the next.
fn shown(response: &Response) -> (u16, Vec<(String, String)>) {
    let own = ["date", "x-request-id", "etag"];
    let mut headers: Vec<_> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .collect();
    headers.sort();
    (response.status, headers)
}

fn compare(get: &Response, head: &Response) -> Result<(), String> {
    if shown(get) != shown(head) {
        return Err(format!("{:?} instead of {:?}", shown(head), shown(get)));
    }
    let length = get.body.len().to_string();
    if get.header("content-length") != Some(&length) || get.body.is_empty() {
        return Err(format!(
            "GET has {:?} for {length}",
            get.header("content-length")
        ));
    }
    if !head.body.is_empty() {
        return Err(format!("a body: {}", head.text()));
    }
    Ok(())
}

#[test]
fn head_is_answered_like_get_on_the_data_port() {
    let stand = Stand::with(|setup| setup.line("public_health = true"));
    let mut cases = Cases::new();
    for protocol in BOTH {
        for path in [
            "/healthz",
            "/readyz",
            "/v1/models",
            "/v1/models/good",
            "/v1/models/nothing",
            "/v1/key",
            "/v1/key/usage",
            "/v1/key/usage?start_time=978307200&end_time=978393600",
            "/v1/nothing",
        ] {
            for token in [&stand.all.token, "sk-nobody"] {
                let of = |method: &str| {
                    let call = Call::new(method, path).bearer(token);
                    ask(protocol, &stand.gateway, &call)
                };
                let verdict = compare(&of("GET"), &of("HEAD"));
                cases.check(&format!("{protocol:?} {path} {token:.3}"), verdict);
            }
        }
    }
    // The connection goes on behind each.
    let mut client = stand.gateway.client();
    for method in ["HEAD", "HEAD", "GET", "HEAD"] {
        let response = client.ask(&Call::new(method, "/v1/models").bearer(&stand.all.token));
        assert_eq!(response.status, 200);
    }
    cases.done();
}

#[test]
fn head_is_answered_like_get_on_both_admin_listeners() {
    let stand = Stand::with(|setup| setup.set("admin", "listen = \"127.0.0.1:0\""));
    let file = stand.gateway.path("admin.token");
    let token = std::fs::read_to_string(file).expect("the admin token");
    let mut cases = Cases::new();
    for path in [
        "/healthz",
        "/readyz",
        "/api/keys",
        "/api/keys/key_all",
        "/api/keys/nothing",
        "/api/models",
        "/api/openapi.json",
        "/api/usage",
        "/api/usage?start_time=978307200&end_time=978393600",
        "/api/usage/records",
        "/api/audit",
        "/api/audit/verify",
        "/api/nothing",
        "/",
    ] {
        for over in ["socket", "TCP", "TCP without a token"] {
            let of = |method: &str| {
                let call = match over {
                    "TCP" => Call::new(method, path).bearer(token.trim()),
                    _ => Call::new(method, path),
                };
                match over {
                    "socket" => stand.gateway.admin(method, path, None),
                    _ => Client::connect(stand.gateway.admin_address()).ask(&call),
                }
            };
            let verdict = compare(&of("GET"), &of("HEAD"));
            cases.check(&format!("{path} over {over}"), verdict);
        }
    }
    // Its numbers change from one answer to the next, and so may its length.
    let metrics = stand.gateway.admin("HEAD", "/metrics", None);
    assert_eq!((metrics.status, metrics.body.len()), (200, 0));
    let length = metrics.header("content-length").map(str::parse::<usize>);
    assert!(
        matches!(length, Some(Ok(length)) if length > 1000),
        "{length:?}"
    );
    cases.done();
}
