//! Each route takes one Content-Type.

use crate::support::chat::{chat, passed};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, is_error};

#[test]
fn one_content_type_is_taken_and_the_others_are_told_which() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let body = r#"{"model":"good"}"#;
    let bare = |key: &Key| chat(key, body).without("content-type");
    for taken in [
        "application/json",
        "APPLICATION/JSON",
        "Application/Json",
        "application/json;charset=utf-8",
        "application/json; charset=utf-8",
        "application/json; charset=UTF-8",
        "application/json; Charset=Utf-8",
        "application/json; charset=utf8",
        "application/json; charset=\"utf-8\"",
        "application/json;charset=\"UTF8\"",
        "application/json;",
        "application/json; charset=utf-8;",
        "application/json; charset=utf8 ; ",
    ] {
        let response = stand
            .gateway
            .ask(&bare(&stand.only).header("content-type", taken));
        cases.check(
            taken,
            passed(&response).and_then(|()| {
                let seen = stand.up.last();
                (seen.all("content-type") == ["application/json"])
                    .then_some(())
                    .ok_or(format!("{:?}", seen.headers))
            }),
        );
    }
    stand.up.forget();
    for refused in [
        "",
        "text/plain",
        "text/json",
        "application/jsonl",
        "application/x-ndjson",
        "application/vnd.x+json",
        "application/json, text/plain",
        "application/json,application/json",
        "text/plain, application/json",
        "application/json; charset=utf-16",
        "application/json; charset=utf16",
        "application/json; charset=utf-8; charset=utf8",
        "application/json;;",
        "application/json; charset=iso-8859-1",
        "application/json; version=1",
        "application/json; charset=utf-8; version=1",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json charset=utf-8",
        "application /json",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "*/*",
    ] {
        for key in [&stand.all, &stand.only] {
            let response = stand
                .gateway
                .ask(&bare(key).header("content-type", refused));
            let verdict = is_error(&response, 415, "unsupported_media_type").and_then(|()| {
                let told = response.text().contains("application/json");
                told.then_some(())
                    .ok_or(format!("does not name the header: {}", response.text()))
            });
            cases.check(&format!("{refused:?} as {}", key.id), verdict);
        }
    }
    let missing = stand.gateway.ask(&bare(&stand.all));
    cases.check("missing", is_error(&missing, 415, "unsupported_media_type"));
    for second in ["application/json", "text/plain"] {
        let response = stand
            .gateway
            .ask(&chat(&stand.all, body).header("content-type", second));
        cases.check(
            &format!("two, {second}"),
            is_error(&response, 415, "unsupported_media_type"),
        );
    }
    cases.check(
        "upstream",
        if stand.up.requests().is_empty() {
            Ok(())
        } else {
            Err("saw some".to_owned())
        },
    );
    cases.done();
}
