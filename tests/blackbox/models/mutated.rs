//! Mutated requests with a key that may use only one model: whatever reaches the upstream names that model to every
//! parser, in one clean framing, and the gateway keeps running.
//!
//! A case that fails prints the seed of its mutations; `KEYGATE_FUZZ_SEED` runs it again, and `KEYGATE_FUZZ_CASES` runs
//! more cases.

use serde_json::Value;

use crate::dice::{Dice, mutate, number, seed};
use crate::lazy_form::parts_that_name_a_model;
use crate::support::client::{Call, Client};
use crate::support::gateway::Setup;
use crate::support::recorder::Seen;
use crate::support::stand::Stand;

pub fn cases() -> u64 {
    number("KEYGATE_FUZZ_CASES", 1500)
}

const BODIES: [&str; 5] = [
    r#"{"model":"good","messages":[{"role":"user","content":"bad"}]}"#,
    r#"{"messages":[{"model":"bad"}],"model":"good","stream":true}"#,
    r#"{"model":"bad","model_":"good"}"#,
    "{ \"model\" : \"good\" , \"x\" : { \"model\" : \"bad\" } }",
    r#"{"\u006dodel":"good","a":[1,2.5e3,-0,null,true,"\ud83d\ude00"]}"#,
];

const JSON: [&str; 40] = [
    r#""model":"bad""#,
    r#""model":"bad","#,
    r#","model":"bad""#,
    r#""Model":"bad","#,
    r#""MODEL":"bad","#,
    r#""\u006dodel":"bad","#,
    r#""mode\u006c":"bad","#,
    r#""model":null,"#,
    r#""model":["bad"],"#,
    r#""model\u0000":"bad","#,
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\\"",
    "\\u",
    "\\ud800",
    "\\u0022",
    "\u{feff}",
    "\0",
    "//",
    "/*",
    "*/",
    "\n",
    " ",
    "\u{2028}",
    "NaN",
    "1e999",
    "-",
    "0",
    "null",
    "bad",
    "good",
    "{\"model\":\"bad\"}",
    "\u{17f}",
    "\"a\":{\"model\":\"bad\"},",
];

/// What each kind of parser would read as the model; an error where one takes what another refuses.
fn models_read(body: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("not UTF-8: {error}"))?;
    let text = &without_surrogates(text);
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // What serde_json alone refuses: numbers beyond a float.
        Err(error) if error.to_string().contains("out of range") => return Ok(Vec::new()),
        Err(error) => return Err(format!("not JSON: {error}")),
    };
    let object = value.as_object().ok_or("not an object")?;
    // Parsers that fold names, such as Go's, and those that do not.
    Ok(object
        .iter()
        .filter(|(name, _)| name.to_lowercase() == "model")
        .map(|(_, model)| {
            model
                .as_str()
                .map_or_else(|| model.to_string(), str::to_owned)
        })
        .collect())
}

/// The text with every escaped surrogate as an x: pairs mean nothing here, and lone ones, which JSON may hold in places
/// that do not matter, are what serde_json refuses.
fn without_surrogates(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        let surrogate = escape
            .strip_prefix("\\u")
            .and_then(|digits| u16::from_str_radix(digits.get(..4)?, 16).ok())
            .is_some_and(|unit| (0xd800..0xe000).contains(&unit));
        let length = if surrogate {
            6
        } else {
            1 + escape[1..].chars().next().map_or(0, char::len_utf8)
        };
        kept.push_str(&rest[..at]);
        kept.push_str(if surrogate { "x" } else { &escape[..length] });
        rest = &escape[length..];
    }
    kept + rest
}

fn clean(seen: &Seen) -> Result<(), String> {
    let head = String::from_utf8_lossy(&seen.head).into_owned();
    let framings = seen.all("content-length").len() + seen.all("transfer-encoding").len();
    let one_host = seen.all("host").len() == 1;
    let crlf_only = !head.replace("\r\n", "").contains(['\r', '\n', '\0']);
    let names = seen.headers.iter().all(|(name, _)| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-!#$%&'*+.^`|~".contains(&byte))
    });
    let origin_form = seen.target.starts_with("/v1/") && seen.version == "HTTP/1.1";
    (framings <= 1 && one_host && crlf_only && names && origin_form)
        .then_some(())
        .ok_or(format!("not clean: {head:?}"))
}

#[test]
fn no_mutated_json_body_reaches_the_upstream_with_another_model() {
    let stand = Stand::with(Setup::reading_usage);
    let seed = seed();
    let mut dice = Dice(seed);
    let mut client = stand.gateway.client();
    let mut passed = 0;
    for case in 0..cases() {
        let mut body = dice.pick(&BODIES).as_bytes().to_vec();
        mutate(&mut dice, &mut body, &JSON);
        let response = client.ask(&Call::json(
            "/v1/chat/completions",
            &stand.only.token,
            body.clone(),
        ));
        let told = format!(
            "case {case} of seed {seed}: {:?}",
            String::from_utf8_lossy(&body)
        );
        assert!(
            matches!(response.status, 200 | 400 | 404),
            "{told}: {}",
            response.text()
        );
        if response.status == 200 {
            passed += 1;
            let seen = stand.up.last();
            assert_eq!(seen.body, body, "{told}");
            clean(&seen).unwrap_or_else(|failure| panic!("{told}: {failure}"));
            let models = models_read(&body).unwrap_or_else(|failure| panic!("{told}: {failure}"));
            assert!(
                models.iter().all(|model| model == "good"),
                "{told}: read as {models:?}"
            );
        }
        if response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            client = stand.gateway.client();
        }
    }
    assert!(
        passed * 50 > cases(),
        "only {passed} passed: the mutations are too wild to mean anything"
    );
}

const FORMS: [&str; 3] = [
    "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFFbad\r\n--XyZ--\r\n",
    "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--XyZ\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--XyZ--",
    "--XyZ\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nbad\r\n--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain\r\n\r\ngood\r\n--XyZ--\r\n",
];

const MULTIPART: [&str; 30] = [
    "\r\n--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbad",
    "\n--XyZ\nContent-Disposition: form-data; name=\"model\"\n\nbad",
    "--XyZ",
    "--XyZ--",
    "\r\n--XyZ--\r\n",
    "\r\n",
    "\n",
    "\r",
    "; name=\"model\"",
    "; name=model",
    "; name*=UTF-8''model",
    "; name*0=\"mo\"; name*1=\"del\"",
    "; filename=\"\"",
    "; filename=\"x\"",
    "Content-Transfer-Encoding: base64\r\n",
    "Content-Disposition: form-data; name=\"model\"\r\n",
    "\"",
    "\\",
    ";",
    ":",
    "=",
    " ",
    "\t",
    "model",
    "Model",
    "bad",
    "good",
    "\0",
    "--",
    "\u{e4}",
];

#[test]
fn no_mutated_upload_reaches_the_upstream_with_another_model() {
    let stand = Stand::with(Setup::reading_usage);
    let seed = seed();
    let mut dice = Dice(seed);
    let mut client = stand.gateway.client();
    let mut passed = 0;
    for case in 0..cases() {
        let mut body = dice.pick(&FORMS).as_bytes().to_vec();
        mutate(&mut dice, &mut body, &MULTIPART);
        let call = Call::new("POST", "/v1/audio/transcriptions")
            .bearer(&stand.only.token)
            .header("content-type", "multipart/form-data; boundary=XyZ")
            .body(body.clone());
        let response = client.ask(&call);
        let told = format!(
            "case {case} of seed {seed}: {:?}",
            String::from_utf8_lossy(&body)
        );
        assert!(
            matches!(response.status, 200 | 400 | 404),
            "{told}: {}",
            response.text()
        );
        if response.status == 200 {
            passed += 1;
            let seen = stand.up.last();
            assert_eq!(seen.body, body, "{told}");
            let named = parts_that_name_a_model(&body);
            // Content of another part may quote anything; what decides is that no part that a strict parser sees, and
            // none that a lazy one does, gives "bad" as the model's whole value.
            assert!(
                named.iter().all(|value| value != "bad"),
                "{told}: read as {named:?}"
            );
        }
        if response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            client = stand.gateway.client();
        }
    }
    assert!(
        passed * 50 > cases(),
        "only {passed} passed: the mutations are too wild to mean anything"
    );
}

const LINES: [&str; 44] = [
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    "\0",
    "content-length: 0\r\n",
    "content-length: 5\r\n",
    "Content-Length: 16\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer_encoding: chunked\r\n",
    "host: evil.example\r\n",
    "Host: localhost\r\n",
    "authorization: Bearer sk-x\r\n",
    "connection: close\r\n",
    "connection: content-length\r\n",
    "connection: authorization, host\r\n",
    "expect: 100-continue\r\n",
    "upgrade: h2c\r\n",
    "content-type: text/plain\r\n",
    "content-encoding: gzip\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "GET /v1/models HTTP/1.1\r\n",
    "POST /v1/chat/completions HTTP/1.1\r\n",
    "http://evil.example",
    "//",
    "/../",
    "%2e",
    "?model=bad",
    "#",
    ";",
    "\u{ff}",
    "x-http-method-override: DELETE\r\n",
    "trailer: x\r\n",
    "te: trailers\r\n",
    "\u{b}",
    "@",
];

#[test]
fn no_mutated_head_reaches_the_upstream_but_clean_and_judged() {
    let stand = Stand::with(Setup::reading_usage);
    let seed = seed();
    let mut dice = Dice(seed);
    let good = Call::json(
        "/v1/chat/completions",
        &stand.only.token,
        r#"{"model":"good"}"#,
    );
    let bad = Call::json(
        "/v1/chat/completions",
        &stand.only.token,
        r#"{"model":"bad"}"#,
    );
    let originals = [
        good.bytes(),
        good.chunked(&[5]),
        bad.bytes(),
        [bad.bytes(), good.bytes()].concat(),
        [good.bytes(), bad.chunked(&[3])].concat(),
    ];
    for case in 0..cases() {
        let mut bytes = originals[dice.roll(originals.len())].clone();
        mutate(&mut dice, &mut bytes, &LINES);
        let mut client = Client::connect(stand.gateway.address);
        let _ = client.try_send(&bytes);
        client.shut_write_or_leave();
        let told = format!(
            "case {case} of seed {seed}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(
            client.ends_within(crate::support::DEADLINE).is_some(),
            "{told}: never ends"
        );
        for seen in stand.up.requests() {
            clean(&seen).unwrap_or_else(|failure| panic!("{told}: {failure}"));
            assert!(
                seen.all("authorization").is_empty(),
                "{told}: a credential went on"
            );
            if seen.complete {
                let models =
                    models_read(&seen.body).unwrap_or_else(|failure| panic!("{told}: {failure}"));
                assert!(
                    models.iter().all(|model| model == "good"),
                    "{told}: read as {models:?}"
                );
            }
        }
        stand.up.forget();
    }
    assert_eq!(stand.gateway.ask(&good).status, 200);
}
