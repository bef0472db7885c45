//! The model of a multipart/form-data body: one part names it, and no parser can read another (contract 4, step 6).

use crate::support::client::{Call, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, is_error};

const TRANSCRIBE: &str = "/v1/audio/transcriptions";
const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\0\x01\n--x\r\n--\r\n-";

/// A body of these parts, each its headers, an empty line, and its content.
fn form(parts: &[&str]) -> Vec<u8> {
    let mut body = String::new();
    for part in parts {
        body.push_str(&format!("--XyZ\r\n{part}\r\n"));
    }
    body.push_str("--XyZ--\r\n");
    body.into_bytes()
}

fn model(value: &str) -> String {
    format!("Content-Disposition: form-data; name=\"model\"\r\n\r\n{value}")
}

fn call(key: &Key, content_type: &str, body: impl Into<Vec<u8>>) -> Call {
    Call::new("POST", TRANSCRIBE)
        .bearer(&key.token)
        .header("content-type", content_type)
        .body(body)
}

fn upload(key: &Key, body: impl Into<Vec<u8>>) -> Call {
    call(key, "multipart/form-data; boundary=XyZ", body)
}

fn passed(response: &Response) -> Result<(), String> {
    (response.status == 200)
        .then_some(())
        .ok_or(format!("{} {}", response.status, response.text()))
}

/// Each body is refused so for every kind of key, and none reaches the upstream.
fn refuses(status: u16, code: &str, bodies: &[(&str, Vec<u8>)]) {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, body) in bodies {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&upload(key, body.clone()));
            cases.check(
                &format!("{name} as {}", key.id),
                is_error(&response, status, code),
            );
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn an_upload_is_forwarded_byte_for_byte_to_its_model() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let good = model("good");
    let bodies = [
        ("model first", form(&[&good, FILE])),
        ("model last", form(&[FILE, &good])),
        ("model alone", form(&[&good])),
        ("no line end behind the final boundary", {
            let mut body = form(&[&good, FILE]);
            body.truncate(body.len() - 2);
            body
        }),
        (
            "bare line feeds in content",
            form(&[
                &good,
                "Content-Disposition: form-data; name=\"prompt\"\r\n\r\na\nb\n--Xy\nc",
            ]),
        ),
        (
            "an empty file",
            form(&[
                &good,
                "Content-Disposition: form-data; name=\"file\"; filename=\"\"\r\n\r\n",
            ]),
        ),
        (
            "other parts twice",
            form(&[
                &good,
                "Content-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword",
                "Content-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nsegment",
            ]),
        ),
        (
            "binary transfer encoding",
            form(&[
                &good,
                "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\nContent-Transfer-Encoding: binary\r\n\r\nx",
            ]),
        ),
        (
            "8bit and 7bit",
            form(&[
                &format!("Content-Transfer-Encoding: 8bit\r\n{good}"),
                "Content-Disposition: form-data; name=\"p\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nx",
            ]),
        ),
        (
            "the header's name in another case",
            form(&["CONTENT-DISPOSITION: form-data; name=\"model\"\r\n\r\ngood"]),
        ),
        (
            "a content type on the model",
            form(&[
                "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngood",
            ]),
        ),
    ];
    for (name, body) in bodies {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            for protocol in BOTH {
                let response = h2::ask(protocol, &stand.gateway, &upload(key, body.clone()));
                let verdict = passed(&response).and_then(|()| {
                    let seen = stand.up.last();
                    (seen.body == body
                        && seen.header("content-type") == Some("multipart/form-data; boundary=XyZ"))
                    .then_some(())
                    .ok_or("the upstream saw something else".to_owned())
                });
                cases.check(&format!("{name} as {} over {protocol:?}", key.id), verdict);
            }
        }
    }
    for path in [
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/variations",
    ] {
        let call = Call {
            target: path.to_owned(),
            ..upload(&stand.only, form(&[FILE, &good]))
        };
        cases.check(path, passed(&stand.gateway.ask(&call)));
    }
    cases.done();
}

#[test]
fn the_model_of_an_upload_is_judged_like_any_other() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (key, name) in [
        (&stand.only, "bad"),
        (&stand.only, "org/name"),
        (&stand.all_but, "bad"),
        (&stand.all, "no-such-model"),
        (&stand.all, "good "),
        (&stand.all, " good"),
        (&stand.all, "good\r\n"),
        (&stand.all, "good\n"),
        (&stand.all, "Good"),
        (&stand.all, "\"good\""),
        (&stand.all, "%67ood"),
        (&stand.all, "good\0"),
    ] {
        let response = stand.gateway.ask(&upload(key, form(&[FILE, &model(name)])));
        cases.check(
            &format!("{name:?} as {}", key.id),
            is_error(&response, 404, "model_not_found"),
        );
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn a_model_part_behind_megabytes_gets_the_same_verdict() {
    let stand = Stand::new();
    let file = format!("{FILE}{}", "\r\n--XyY\r\n--Xy \n".repeat(500_000));
    for (name, status) in [("good", 200), ("bad", 404)] {
        let response = stand
            .gateway
            .ask(&upload(&stand.only, form(&[&file, &model(name)])));
        assert_eq!(response.status, status, "{name}: {}", response.text());
    }
}

#[test]
fn an_upload_that_two_parsers_could_read_as_two_models_is_ambiguous() {
    let good = model("good");
    let bad = model("bad");
    let part = |headers: &str| format!("{headers}\r\n\r\nbad");
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("two models", form(&[&good, &bad])),
        ("two models, the same", form(&[&good, FILE, &good])),
        (
            "a filename",
            form(&["Content-Disposition: form-data; name=\"model\"; filename=\"m\"\r\n\r\ngood"]),
        ),
        (
            "an empty filename",
            form(&["Content-Disposition: form-data; name=\"model\"; filename=\"\"\r\n\r\ngood"]),
        ),
        (
            "an empty filename beside a model",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name=\"model\"; filename=\"\""),
            ]),
        ),
        (
            "Model",
            form(&["Content-Disposition: form-data; name=\"Model\"\r\n\r\ngood"]),
        ),
        (
            "MODEL beside a model",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name=\"MODEL\""),
            ]),
        ),
        (
            "name*",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name*=UTF-8''model"),
            ]),
        ),
        (
            "name* beside name",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name=\"x\"; name*=UTF-8''model"),
            ]),
        ),
        (
            "name*0",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name*0=\"mo\"; name*1=\"del\""),
            ]),
        ),
        (
            "two names",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name=\"x\"; name=\"model\""),
            ]),
        ),
        (
            "two names, model first",
            form(&["Content-Disposition: form-data; name=\"model\"; name=\"x\"\r\n\r\ngood"]),
        ),
        (
            "NAME alone",
            form(&["Content-Disposition: form-data; NAME=\"model\"\r\n\r\ngood"]),
        ),
        (
            "more beside the model's name",
            form(&["Content-Disposition: form-data; name-of=x; name=\"model\"\r\n\r\ngood"]),
        ),
        (
            "NAME beside name",
            form(&[
                &good,
                &part("Content-Disposition: form-data; name=\"x\"; NAME=\"model\""),
            ]),
        ),
        (
            "two dispositions",
            form(&[
                &good,
                &part(
                    "Content-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"model\"",
                ),
            ]),
        ),
        (
            "two dispositions, model first",
            form(&[
                "Content-Disposition: form-data; name=\"model\"\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\ngood",
            ]),
        ),
        (
            "quoted-printable",
            form(&[
                "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=67ood",
            ]),
        ),
        (
            "base64",
            form(&[
                "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64\r\n\r\nZ29vZA==",
            ]),
        ),
        (
            "base64 on another part",
            form(&[
                &good,
                "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\ncontent-transfer-encoding: BASE64\r\n\r\neA==",
            ]),
        ),
    ];
    refuses(400, "ambiguous_model", &bodies);
}

#[test]
fn an_upload_without_a_model_is_told_so() {
    refuses(
        400,
        "missing_model",
        &[("none", form(&[FILE])), ("empty", form(&[&model("")]))],
    );
}

#[test]
fn an_upload_that_is_not_well_formed_is_invalid() {
    let good = model("good");
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("a preamble", [b"preamble\r\n".to_vec(), form(&[&good])].concat()),
        ("two empty lines before it", [b"\r\n\r\n".to_vec(), form(&[&good])].concat()),
        ("a bare LF behind a delimiter", format!("--XyZ\n{good}\r\n--XyZ--\r\n").into_bytes()),
        ("a bare LF before a delimiter", format!("--XyZ\r\n{good}\n--XyZ--\r\n").into_bytes()),
        ("a bare LF in part headers", b"--XyZ\r\nContent-Disposition: form-data; name=\"model\"\nX: y\r\n\r\ngood\r\n--XyZ--\r\n".to_vec()),
        ("part headers ended by LF", b"--XyZ\r\nContent-Disposition: form-data; name=\"model\"\n\ngood\r\n--XyZ--\r\n".to_vec()),
        ("no final boundary", format!("--XyZ\r\n{good}\r\n").into_bytes()),
        ("another part's start instead of the final boundary", format!("--XyZ\r\n{good}\r\n--XyZ\r\n").into_bytes()),
        ("an epilogue", [form(&[&good]), b"x".to_vec()].concat()),
        ("three line ends behind the final boundary", [form(&[&good]), b"\r\n\r\n".to_vec()].concat()),
        ("LF behind the final boundary", format!("--XyZ\r\n{good}\r\n--XyZ--\n").into_bytes()),
        ("a second form behind the first", [form(&[&good]), form(&[&model("bad")])].concat()),
        ("a part without a name", form(&[&good, "Content-Disposition: form-data\r\n\r\nbad"])),
        ("a part without a disposition", form(&[&good, "Content-Id: 1\r\n\r\nbad"])),
        ("a part without headers", form(&[&good, "\r\nbad"])),
        ("padding behind a delimiter", format!("--XyZ  \r\n{good}\r\n--XyZ--\r\n").into_bytes()),
        ("padding behind the final boundary", format!("--XyZ\r\n{good}\r\n--XyZ-- \r\n").into_bytes()),
        ("a longer line that begins as the delimiter", form(&[&good, "Content-Disposition: form-data; name=\"x\"\r\n\r\na\r\n--XyZZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbad"])),
        ("the boundary of another case", form(&[&good]).to_ascii_lowercase()),
    ];
    let many: Vec<String> = (0..65)
        .map(|at| format!("Content-Disposition: form-data; name=\"p{at}\"\r\n\r\nx"))
        .collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push(&good);
    cases.push(("more than 64 parts", form(&many)));
    let wide = format!("Content-Wide: {}\r\n{good}", "w".repeat(9000));
    cases.push(("part headers over 8 KiB", form(&[&wide])));
    refuses(400, "invalid_multipart", &cases);
}

#[test]
fn a_boundary_is_one_and_of_1_to_70_characters() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let with_boundary = |boundary: &str| {
        String::from_utf8_lossy(&form(&[&model("good")]))
            .replace("XyZ", boundary)
            .into_bytes()
    };
    let refused = |content_type: &str, boundary: &str| {
        let response = stand
            .gateway
            .ask(&call(&stand.only, content_type, with_boundary(boundary)));
        is_error(&response, 400, "invalid_multipart")
    };
    let long = "b".repeat(71);
    for (content_type, boundary) in [
        ("multipart/form-data", "XyZ"),
        ("multipart/form-data; boundary=", "XyZ"),
        ("multipart/form-data; boundary=\"\"", "XyZ"),
        ("multipart/form-data; boundary=", ""),
        ("multipart/form-data; boundary=XyZ; boundary=XyZ", "XyZ"),
        ("multipart/form-data; boundary=XyZ; boundary=abc", "XyZ"),
        ("multipart/form-data; boundary=abc; Boundary=XyZ", "XyZ"),
        ("multipart/form-data; boundary*=UTF-8''XyZ", "XyZ"),
        (
            "multipart/form-data; boundary=XyZ; boundary*=UTF-8''abc",
            "XyZ",
        ),
        ("multipart/form-data; boundary*0=Xy; boundary*1=Z", "XyZ"),
        (
            &format!("multipart/form-data; boundary={long}"),
            long.as_str(),
        ),
        ("multipart/form-data; boundary=abc", "XyZ"),
    ] {
        cases.check(content_type, refused(content_type, boundary));
    }
    cases.check("upstream", stand.up.untouched());
    let longest = "b".repeat(70);
    for (content_type, boundary) in [
        ("multipart/form-data; boundary=\"XyZ\"", "XyZ"),
        ("Multipart/Form-Data; Boundary=XyZ", "XyZ"),
        ("multipart/form-data;boundary=XyZ", "XyZ"),
        ("multipart/form-data; boundary=x", "x"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundaryAbC123",
            "----WebKitFormBoundaryAbC123",
        ),
        (
            &format!("multipart/form-data; boundary={longest}"),
            longest.as_str(),
        ),
    ] {
        let response = stand
            .gateway
            .ask(&call(&stand.only, content_type, with_boundary(boundary)));
        cases.check(content_type, passed(&response));
    }
    cases.done();
}

#[test]
fn another_media_type_on_an_upload_route_is_not_taken() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for content_type in [
        "multipart/mixed; boundary=XyZ",
        "multipart/form-datax; boundary=XyZ",
        "application/x-www-form-urlencoded",
        "application/json",
        "text/plain",
        "",
        "multipart/form-data; boundary=XyZ, multipart/mixed; boundary=XyZ",
    ] {
        let response = stand
            .gateway
            .ask(&call(&stand.all, content_type, form(&[&model("good")])));
        let status = response.status;
        // A list may also be read as a boundary that no body has.
        let verdict = if content_type.contains(',') && status == 400 {
            is_error(&response, 400, "invalid_multipart")
        } else {
            is_error(&response, 415, "unsupported_media_type")
        };
        cases.check(content_type, verdict);
    }
    let two = upload(&stand.all, form(&[&model("good")]))
        .header("content-type", "multipart/form-data; boundary=XyZ");
    cases.check(
        "two",
        is_error(&stand.gateway.ask(&two), 415, "unsupported_media_type"),
    );
    let encoded =
        upload(&stand.all, form(&[&model("good")])).header("content-encoding", "compress");
    cases.check(
        "encoded",
        is_error(&stand.gateway.ask(&encoded), 415, "unsupported_media_type"),
    );
    let query = Call {
        target: format!("{TRANSCRIBE}?model=bad"),
        ..upload(&stand.all, form(&[&model("good")]))
    };
    cases.check(
        "a model in the query",
        is_error(&stand.gateway.ask(&query), 400, "ambiguous_model"),
    );
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn no_way_to_write_a_name_hides_a_forbidden_model_from_a_restricted_key() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    // Whatever the gateway makes of each of these, it may not be "good" while some parser reads "bad".
    for disposition in [
        "form-data; name=model",
        "form-data; name=\"m\\odel\"",
        "form-data; name=\"%6dodel\"",
        "form-data; name=\" model\"",
        "form-data; name=\"model \"",
        "form-data; name = \"model\"",
        "form-data;name=\"model\"",
        "form-data; x=\"a;b\"; name=\"model\"",
        "form-data; x=\"a\\\"; name=\"model\"",
        "form-data; filename=\"a\\\"; name=\"model\"; x=\"b\"",
        "attachment; name=\"model\"",
        "form-data, name=\"model\"",
        "form-data; name=\"model\";",
        "form-data; name='model'",
    ] {
        for parts in [[disposition, "good"], ["good", disposition]] {
            let parts: Vec<String> = parts
                .iter()
                .map(|part| match *part {
                    "good" => model("good"),
                    disposition => format!("Content-Disposition: {disposition}\r\n\r\nbad"),
                })
                .collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let response = stand.gateway.ask(&upload(&stand.only, form(&parts)));
            let harmless = ["\" model\"", "\"model \"", "%6dodel", "'model'"]
                .iter()
                .any(|name| disposition.contains(name));
            let verdict = response.status == 400
                || response.status == 404
                || (harmless && response.status == 200);
            cases.check(
                disposition,
                verdict
                    .then_some(())
                    .ok_or(format!("{} {}", response.status, response.text())),
            );
        }
    }
    cases.done();
}
