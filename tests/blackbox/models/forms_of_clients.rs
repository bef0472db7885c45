//! Forms as real clients write them, beyond what RFC 7578 says, and how far the gateway follows them.

use crate::support::client::{Call, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::{Cases, is_error};

const TYPE: &str = "multipart/form-data; boundary=XyZ";
const MODEL: &str = "Content-Disposition: form-data; name=\"model\"\r\n\r\ngood";
const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\0";

/// These parts between boundaries, with `end` behind the last one.
fn form(parts: &[&str], end: &str) -> Vec<u8> {
    let parts: String = parts
        .iter()
        .map(|part| format!("--XyZ\r\n{part}\r\n"))
        .collect();
    format!("{parts}--XyZ--{end}").into_bytes()
}

fn upload(stand: &Stand, content_type: &str, body: &[u8]) -> Call {
    Call::new("POST", "/v1/audio/transcriptions")
        .bearer(&stand.only.token)
        .header("content-type", content_type)
        .body(body)
}

/// The upload passed, and its upstream got the very body, with this type.
fn forwarded(stand: &Stand, response: &Response, body: &[u8], as_type: &str) -> Result<(), String> {
    if response.status != 200 {
        return Err(format!("{} {}", response.status, response.text()));
    }
    let seen = stand.up.last();
    (seen.body == body && seen.all("content-type") == [as_type])
        .then_some(())
        .ok_or(format!("the upstream saw something else: {seen:?}"))
}

fn invalid(stand: &Stand, body: &[u8], code: &str) -> Result<(), String> {
    is_error(&stand.gateway.ask(&upload(stand, TYPE, body)), 400, code)
}

/// The upstream saw no request since it was last told to forget them.
fn saw_none(stand: &Stand) -> Result<(), String> {
    let seen = stand.up.requests();
    seen.is_empty()
        .then_some(())
        .ok_or(format!("the upstream saw {seen:?}"))
}

#[test]
fn empty_lines_around_a_form_are_taken_as_clients_send_them() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for before in ["", "\r\n"] {
        for end in ["", "\r\n", "\r\n\r\n"] {
            for protocol in BOTH {
                let body = [before.as_bytes(), &form(&[FILE, MODEL], end)].concat();
                let response = h2::ask(protocol, &stand.gateway, &upload(&stand, TYPE, &body));
                cases.check(
                    &format!("{before:?} before, {end:?} behind, {protocol:?}"),
                    forwarded(&stand, &response, &body, TYPE),
                );
            }
        }
    }
    stand.up.forget();
    for (before, end) in [
        ("\r\n\r\n", "\r\n"),
        ("\n", "\r\n"),
        ("\r\n ", "\r\n"),
        ("\r\nx\r\n", "\r\n"),
        ("", "\r\n\r\n\r\n"),
        ("", "\n\n"),
        ("", "\r\n\r\nx"),
        ("", "\r\n\r\n--XyZ--"),
    ] {
        let body = [before.as_bytes(), &form(&[MODEL], end)].concat();
        cases.check(
            &format!("{before:?} before, {end:?} behind"),
            invalid(&stand, &body, "invalid_multipart"),
        );
    }
    cases.check("upstream", saw_none(&stand));
    cases.done();
}

#[test]
fn the_media_type_reaches_the_upstream_in_lower_case_with_the_boundary_alone() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let body = form(&[MODEL, FILE], "\r\n");
    for content_type in [
        "Multipart/Form-Data; boundary=XyZ",
        "MULTIPART/FORM-DATA; BOUNDARY=XyZ",
        "multipart/form-data;boundary=\"XyZ\"",
        "multipart/form-data; boundary=XyZ;",
        "multipart/form-data; charset=utf-8; boundary=XyZ",
        "multipart/form-data; boundary=XyZ; charset=\"utf8\"",
    ] {
        let response = stand.gateway.ask(&upload(&stand, content_type, &body));
        cases.check(content_type, forwarded(&stand, &response, &body, TYPE));
    }
    let quoted = "multipart/form-data; boundary=\"a/B:c?=(d)\"";
    let body = String::from_utf8_lossy(&body).replace("XyZ", "a/B:c?=(d)");
    let response = stand.gateway.ask(&upload(&stand, quoted, body.as_bytes()));
    cases.check(
        quoted,
        forwarded(&stand, &response, body.as_bytes(), quoted),
    );
    cases.done();
}

#[test]
fn a_part_typed_as_a_form_without_a_boundary_is_read_as_untyped() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let model = "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: multipart/form-data\r\nContent-Length: 4\r\n\r\ngood";
    let language = "Content-Disposition: form-data; name=\"language\"\r\nContent-Type: multipart/form-data\r\n\r\nde";
    let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: multipart/form-data\r\n\r\nRIFF";
    let body = form(&[file, language, model], "\r\n");
    let response = stand.gateway.ask(&upload(&stand, TYPE, &body));
    cases.check("Retrofit", forwarded(&stand, &response, &body, TYPE));
    stand.up.forget();
    for (value, code) in [
        ("multipart/form-data; boundary=Y", "invalid_multipart"),
        ("multipart/mixed", "invalid_multipart"),
        ("application/x-www-form-urlencoded", "invalid_multipart"),
        ("application/json", "ambiguous_model"),
    ] {
        let typed = model.replace("multipart/form-data", value);
        cases.check(value, invalid(&stand, &form(&[&typed], "\r\n"), code));
    }
    let fields = language.replace("multipart/form-data", "application/x-www-form-urlencoded");
    let body = form(&[MODEL, &fields], "\r\n");
    cases.check(
        "fields in a part",
        invalid(&stand, &body, "invalid_multipart"),
    );
    cases.check("upstream", saw_none(&stand));
    cases.done();
}

#[test]
fn a_filename_may_hold_a_name_only_behind_the_parts_own() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let with = |parameters: &str| {
        let part = format!("Content-Disposition: form-data; {parameters}\r\n\r\nbad");
        form(&[MODEL, &part], "\r\n")
    };
    for parameters in [
        "name=\"file\"; filename=\"a; name=model.wav\"",
        "name=\"file\"; filename=\"; name=model\"",
        "name=\"file\"; filename=\"a;name=b;name=c.wav\"",
        "name=file; filename=\"Speech; name = x.wav\"",
    ] {
        let body = with(parameters);
        let response = stand.gateway.ask(&upload(&stand, TYPE, &body));
        cases.check(parameters, forwarded(&stand, &response, &body, TYPE));
    }
    stand.up.forget();
    for parameters in [
        "filename=\"; name=model\"; name=\"file\"",
        "name=\"file\"; filename=\"a\\\"; name=model; b=\\\"\"",
        "name=\"file\"; FileName=\"; name=model\"",
        "name=\"file\"; x=\"; name=model\"",
        "name=\"file\"; filename=\"; name=model\"; name=\"model\"",
        "name=\"[model]\"",
    ] {
        cases.check(
            parameters,
            invalid(&stand, &with(parameters), "ambiguous_model"),
        );
    }
    cases.check("upstream", saw_none(&stand));
    cases.done();
}

#[test]
fn a_part_header_that_some_parser_reads_otherwise_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for header in [
        "Content_Disposition: form-data; name=\"model\"",
        "CONTENT_DISPOSITION: form-data; name=\"model\"",
        "X-Foo: bar",
        "MIME-Version: 1.0",
        "Content-Type2: text/plain",
        "Content-Disposition.: form-data; name=\"model\"",
    ] {
        for part in [
            format!("Content-Disposition: form-data; name=\"x\"\r\n{header}\r\n\r\nbad"),
            format!("{header}\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\nbad"),
        ] {
            let body = form(&[MODEL, &part], "\r\n");
            cases.check(header, invalid(&stand, &body, "invalid_multipart"));
        }
    }
    for colon in [":", ":\t", " : "] {
        let part = MODEL.replacen(": ", colon, 1);
        let body = form(&[&part], "\r\n");
        cases.check(&part, invalid(&stand, &body, "invalid_multipart"));
    }
    cases.check("upstream", stand.up.untouched());
    for header in ["Content-Id: <a>", "content-language: de"] {
        let part = format!("{header}\r\n{MODEL}");
        let body = form(&[&part], "\r\n");
        let response = stand.gateway.ask(&upload(&stand, TYPE, &body));
        cases.check(header, forwarded(&stand, &response, &body, TYPE));
    }
    cases.done();
}

#[test]
fn a_filename_in_latin_1_is_told_to_be_sent_in_utf_8() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for parameters in [
        &b"name=\"file\"; filename=\"Gespr\xE4ch.wav\""[..],
        b"name=\"f\xE4\"",
    ] {
        let disposition = [b"--XyZ\r\nContent-Disposition: form-data; ", parameters].concat();
        let body = [&disposition[..], b"\r\n\r\nx\r\n", &form(&[MODEL], "\r\n")].concat();
        let response = stand.gateway.ask(&upload(&stand, TYPE, &body));
        let verdict = is_error(&response, 400, "invalid_multipart").and_then(|()| {
            (response.text().contains("UTF-8") && response.text().contains("filename"))
                .then_some(())
                .ok_or(response.text())
        });
        cases.check(&String::from_utf8_lossy(parameters), verdict);
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}
