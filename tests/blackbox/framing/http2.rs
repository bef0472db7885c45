//! HTTP/2 requests that are malformed or reset in the middle of their body are refused and never forwarded.

use crate::framing::verdict::{BODY, attempt};
use crate::support::Cases;
use crate::support::raw_h2::{self, Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::token::Key;

/// The fields of a chat in HTTP/2, without a body's length.
pub fn h2_fields(key: &Key) -> Vec<(&'static str, &'static str)> {
    let bearer: &'static str = Box::leak(format!("Bearer {}", key.token).into_boxed_str());
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/chat/completions"),
        ("authorization", bearer),
        ("content-type", "application/json"),
    ]
}

#[test]
fn malformed_http_2_requests_are_refused_and_never_forwarded() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let base = h2_fields(&stand.all);
    let replaced = |name: &str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        base.iter()
            .map(|(known, old)| {
                if *known == name {
                    (*known, value)
                } else {
                    (*known, *old)
                }
            })
            .collect()
    };
    let without = |name: &str| -> Vec<(&'static str, &'static str)> {
        base.iter()
            .copied()
            .filter(|(known, _)| *known != name)
            .collect()
    };
    let with = |name: &'static str, value: &'static str| {
        let mut fields = base.clone();
        fields.push((name, value));
        fields
    };
    let mut first = vec![("x-first", "1")];
    first.extend(base.clone());
    for (name, fields) in [
        ("a length below the data", with("content-length", "5")),
        ("a length above the data", with("content-length", "50")),
        ("two lengths", {
            let mut fields = with("content-length", "16");
            fields.push(("content-length", "17"));
            fields
        }),
        ("a length that is no number", with("content-length", "+16")),
        ("an upper-case name", with("X-Upper", "1")),
        ("connection", with("connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("keep-alive", with("keep-alive", "1")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("upgrade", with("upgrade", "h2c")),
        ("te: gzip", with("te", "gzip")),
        ("no :path", without(":path")),
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("two :path", with(":path", "/v1/models")),
        ("a late pseudo-header", first),
        ("an unknown pseudo-header", {
            let mut fields = base.clone();
            fields.insert(0, (":evil", "1"));
            fields
        }),
        (":status in a request", {
            let mut fields = base.clone();
            fields.insert(0, (":status", "200"));
            fields
        }),
        ("an empty :path", replaced(":path", "")),
        (
            "a space in :path",
            replaced(":path", "/v1/chat/completions x"),
        ),
        (
            "CR in :path",
            replaced(":path", "/v1/chat/completions\r\nx: y"),
        ),
        ("a relative :path", replaced(":path", "v1/chat/completions")),
        (
            "an absolute :path",
            replaced(":path", "http://localhost/v1/chat/completions"),
        ),
        ("* as :path", replaced(":path", "*")),
        ("a method with a space", replaced(":method", "POST /x")),
        (":authority other than host", with("host", "evil.example")),
        ("more than 100 fields", {
            let mut fields = base.clone();
            fields.resize(110, ("x-more", "1"));
            fields
        }),
        (
            "an authority with user",
            replaced(":authority", "u@localhost"),
        ),
        ("LF in a value", with("x-a", "a\nb: c")),
        ("CR in a value", with("x-a", "a\rb")),
        ("NUL in a value", with("x-a", "a\0b")),
        ("a name with a colon", with("x:y", "1")),
        ("a name with a space", with("x y", "1")),
        ("an empty name", with("", "1")),
    ] {
        let mut raw = RawH2::connect(stand.gateway.address);
        raw.headers(1, 0, &fields);
        raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 1, BODY.as_bytes());
        let verdict = attempt(|| raw.outcome(1)).and_then(|outcome| match outcome {
            Outcome::Status(400 | 404 | 405)
            | Outcome::Reset
            | Outcome::Goaway
            | Outcome::Closed => Ok(()),
            Outcome::Status(status) => Err(format!("status {status}")),
        });
        cases.check(name, verdict);
    }
    cases.check("upstream", stand.up.untouched());
    let mut raw = RawH2::connect(stand.gateway.address);
    let mut host = base.clone();
    host.push(("host", "localhost"));
    raw.headers(1, 0, &host);
    raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 1, BODY.as_bytes());
    let outcome = attempt(|| raw.outcome(1));
    cases.check(
        "an equal host passes",
        (outcome == Ok(Outcome::Status(200)))
            .then_some(())
            .ok_or(format!("{outcome:?}")),
    );
    cases.done();
}

#[test]
fn an_http_2_request_that_is_reset_in_its_body_is_never_forwarded() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    raw.headers(1, 0, &h2_fields(&stand.all));
    raw.frame(raw_h2::DATA, 0, 1, BODY.as_bytes());
    raw.frame(raw_h2::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    raw.headers(3, 0, &h2_fields(&stand.all));
    raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 3, BODY.as_bytes());
    assert_eq!(raw.outcome(3), Outcome::Status(200));
    assert_eq!(stand.up.requests().len(), 1);
}
