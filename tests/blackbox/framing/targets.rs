//! The request line and the host: a target is a path, a method is one that is served, and nothing is tunnelled.

use crate::framing::verdict::{BODY, attempt, refused, request, smuggled};
use crate::support::Cases;
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;

#[test]
fn a_request_names_one_host() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let hosts = |lines: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{lines}authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{BODY}",
            stand.all.token
        )
    };
    for lines in [
        "",
        "host: a\r\nhost: b\r\n",
        "host: localhost\r\nHost: localhost\r\n",
        "host: \r\n",
        "host: a/b\r\n",
        "host: a?b\r\n",
        "host: a#b\r\n",
        "host: u@a\r\n",
        "host: a\\b\r\n",
        "host: a,b\r\n",
        "host: a b\r\n",
        "host: a/#@b?x=\r\n",
        "host: a\tb\r\n",
        "host: http://a\r\n",
    ] {
        cases.check(
            &format!("{lines:?}"),
            refused(&stand, hosts(lines).as_bytes(), &[400]),
        );
    }
    for lines in [
        "host: localhost\r\n",
        "Host: ai.example.com:8080\r\n",
        "HOST: 127.0.0.1\r\n",
        "host: [::1]:8080\r\n",
        "host: A-b_c.example\r\n",
    ] {
        let mut client = Client::connect(stand.gateway.address);
        client.send(hosts(lines).as_bytes());
        let response = client.answer();
        let verdict = (response.status == 200)
            .then_some(())
            .ok_or(response.text());
        cases.check(
            lines,
            verdict.and_then(|()| {
                // The upstream's Host is its own.
                let host = stand.up.last().all("host").join(" and ");
                (host == stand.up.address.to_string())
                    .then_some(())
                    .ok_or(host)
            }),
        );
    }
    cases.done();
}

#[test]
fn methods_that_nobody_serves_are_refused_and_nothing_is_tunnelled() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let long = "M".repeat(10 << 10);
    for method in [
        "post",
        "Post",
        "G!T",
        "TRACE",
        "TRACK",
        "PROPFIND",
        "FOO",
        long.as_str(),
    ] {
        let bytes = request(
            &format!("{method} /v1/chat/completions HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let mut client = Client::connect(stand.gateway.address);
        let _ = client.try_send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let refused = matches!(status, Ok(400 | 405 | 414 | 431 | 501));
        cases.check(
            &format!("{method:.12}"),
            refused.then_some(()).ok_or(format!("{status:?}")),
        );
    }
    let up = stand.up.address;
    for first in [
        format!("CONNECT {up} HTTP/1.1"),
        "CONNECT /v1/chat/completions HTTP/1.1".to_owned(),
    ] {
        let bytes = request(&first, &stand.all, &[], &smuggled(&stand.all));
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let refused = matches!(status, Ok(400 | 405 | 501));
        cases.check(&first, refused.then_some(()).ok_or(format!("{status:?}")));
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn an_upgrade_is_not_taken_up() {
    let stand = Stand::new();
    for protocol in ["h2c", "websocket", "foo"] {
        let call = Call::chat(&stand.all.token, "good")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", protocol)
            .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = stand.gateway.ask(&call);
        assert_eq!(response.status, 200, "{protocol}: {}", response.text());
        let seen = stand.up.last();
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(seen.all(name).len(), 0, "{name} reached the upstream");
        }
    }
}

#[test]
fn a_target_is_a_path_and_nothing_else() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let up = stand.up.address;
    for target in [
        format!("http://{up}/v1/chat/completions"),
        "http://localhost/v1/chat/completions".to_owned(),
        "https://localhost/v1/chat/completions".to_owned(),
        "HTTP://localhost/v1/chat/completions".to_owned(),
        "http://user:pass@localhost/v1/chat/completions".to_owned(),
        "ftp://localhost/v1/chat/completions".to_owned(),
        format!("{up}"),
        "localhost".to_owned(),
        "*".to_owned(),
        "v1/chat/completions".to_owned(),
    ] {
        let bytes = request(
            &format!("POST {target} HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let allowed: &[u16] = if target == "*" {
            &[400, 404, 405]
        } else {
            &[400]
        };
        cases.check(&target, refused(&stand, &bytes, allowed));
    }
    for target in [
        "/v1/chat/completions#f",
        "/v1/chat/completions?x#f",
        "/v1/chat/completions\u{e4}",
        "/v1/chat\u{2215}completions",
    ] {
        let bytes = request(
            &format!("POST {target} HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let before = stand.up.requests().len();
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let seen = stand.up.requests();
        let verdict = match status {
            Ok(400 | 404) => seen.len() == before,
            // What the parser has cut off is not there any more.
            Ok(200) => {
                target.contains('#') && seen.last().is_some_and(|seen| !seen.target.contains('#'))
            }
            _ => false,
        };
        cases.check(target, verdict.then_some(()).ok_or(format!("{status:?}")));
    }
    cases.done();
}
