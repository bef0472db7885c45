//! Contract 4, step 6, for JSON: what is read as a body, which model it names, and that the bytes that were checked
//! are the bytes that go on.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

const CHAT: &str = "/v1/chat/completions";

fn chat(key: &Key, body: impl Into<Vec<u8>>) -> Call {
    Call::json(CHAT, &key.token, body)
}

fn passed(response: &Response) -> Result<(), String> {
    (response.status == 200)
        .then_some(())
        .ok_or(format!("{} {}", response.status, response.text()))
}

/// Each body is refused with this code for every kind of key, and none reaches the upstream.
fn refuses(status: u16, code: &str, bodies: &[(&str, Vec<u8>)]) {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, body) in bodies {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&chat(key, body.clone()));
            cases.check(
                &format!("{name} as {}", key.id),
                is_error(&response, status, code),
            );
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

/// Each body passes for every kind of key, and the upstream gets its very bytes.
fn passes_unchanged(bodies: &[(&str, Vec<u8>)]) {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, body) in bodies {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&chat(key, body.clone()));
            let verdict = passed(&response).and_then(|()| same_bytes(&stand, body));
            cases.check(&format!("{name} as {}", key.id), verdict);
        }
    }
    cases.done();
}

fn same_bytes(stand: &Stand, body: &[u8]) -> Result<(), String> {
    let seen = stand.up.last();
    if blake3::hash(&seen.body) != blake3::hash(body) {
        return Err(format!("{} bytes became {}", body.len(), seen.body.len()));
    }
    let length = body.len().to_string();
    let framed = seen.header("content-length") == Some(&length)
        && seen.header("transfer-encoding").is_none();
    let chunked =
        seen.all("content-length").is_empty() && seen.all("transfer-encoding") == ["chunked"];
    (framed || chunked)
        .then_some(())
        .ok_or("not one clean framing".to_owned())
}

fn texts(bodies: &[(&'static str, &str)]) -> Vec<(&'static str, Vec<u8>)> {
    bodies
        .iter()
        .map(|(name, body)| (*name, body.as_bytes().to_vec()))
        .collect()
}

#[test]
fn a_body_that_two_parsers_could_read_as_two_models_is_ambiguous() {
    refuses(
        400,
        "ambiguous_model",
        &texts(&[
            ("twice, good then bad", r#"{"model":"good","model":"bad"}"#),
            ("twice, bad then good", r#"{"model":"bad","model":"good"}"#),
            ("twice the same", r#"{"model":"good","model":"good"}"#),
            ("good then null", r#"{"model":"good","model":null}"#),
            ("null then good", r#"{"model":null,"model":"good"}"#),
            (
                "far apart",
                r#"{"model":"good","messages":[{"model":"x"}],"n":1,"model":"bad"}"#,
            ),
            ("escaped last", r#"{"model":"good","\u006dodel":"bad"}"#),
            ("escaped first", r#"{"\u006dodel":"bad","model":"good"}"#),
            (
                "escaped throughout",
                r#"{"\u006d\u006f\u0064\u0065\u006c":"good","model":"good"}"#,
            ),
            ("Model last", r#"{"model":"good","Model":"bad"}"#),
            ("Model first", r#"{"Model":"bad","model":"good"}"#),
            ("MODEL alone", r#"{"MODEL":"good"}"#),
            ("moDeL", r#"{"model":"good","moDeL":1}"#),
            ("escaped Model", r#"{"model":"good","\u004dodel":"bad"}"#),
        ]),
    );
}

#[test]
fn a_restricted_key_may_not_name_further_models_and_a_key_for_all_may() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, body) in [
        ("models", r#"{"model":"good","models":["bad"]}"#),
        ("Models", r#"{"model":"good","Models":["bad"]}"#),
        ("MODELS first", r#"{"MODELS":[],"model":"good"}"#),
        ("fallbacks", r#"{"model":"good","fallbacks":[{"bad":"x"}]}"#),
        ("FallBacks", r#"{"model":"good","FallBacks":null}"#),
        ("lora_path", r#"{"model":"good","lora_path":"x"}"#),
        ("Lora_Path", r#"{"model":"good","Lora_Path":["x"]}"#),
        ("escaped", r#"{"model":"good","\u006dodels":["bad"]}"#),
        (
            "models with a long s, which folds to s",
            "{\"model\":\"good\",\"model\u{17f}\":[\"bad\"]}",
        ),
        (
            "fallbacks with a Kelvin sign, which folds to k",
            "{\"model\":\"good\",\"fallbac\u{212a}s\":[]}",
        ),
    ] {
        for key in [&stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&chat(key, body));
            cases.check(
                &format!("{name} as {}", key.id),
                is_error(&response, 400, "ambiguous_model"),
            );
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
    passes_unchanged(&texts(&[
        (
            "nested names",
            r#"{"model":"good","x":{"models":[],"model":"bad","Model":1,"fallbacks":2,"lora_path":3}}"#,
        ),
        (
            "other names",
            r#"{"model":"good","model_":1,"mode":2,"modell":3,"model ":4," model":5,"model[]":6,"lora":7}"#,
        ),
        (
            "nested twice",
            r#"{"model":"good","tools":[{"model":"bad","model":"worse"}]}"#,
        ),
    ]));
    let body = r#"{"model":"good","models":["bad"],"fallbacks":[],"lora_path":"x"}"#;
    let response = stand.gateway.ask(&chat(&stand.all, body));
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn a_body_that_is_not_one_json_object_is_invalid() {
    let mut bodies = texts(&[
        ("nothing", ""),
        ("white space", " \r\n\t"),
        ("an array", r#"[{"model":"good"}]"#),
        ("an empty array", "[]"),
        ("a string", r#""model""#),
        ("a number", "1"),
        ("null", "null"),
        ("true", "true"),
        ("two objects", r#"{"model":"good"}{"model":"bad"}"#),
        (
            "two objects, a line each",
            "{\"model\":\"good\"}\n{\"model\":\"bad\"}",
        ),
        ("trailing bytes", r#"{"model":"good"} x"#),
        ("a trailing comma", r#"{"model":"good",}"#),
        ("a leading comma", r#"{,"model":"good"}"#),
        ("a doubled comma", r#"{"model":"good",,"x":1}"#),
        (
            "a trailing comma in an array",
            r#"{"model":"good","x":[1,]}"#,
        ),
        ("NUL behind it", "{\"model\":\"good\"}\0"),
        (
            "NUL and a document behind it",
            "{\"model\":\"good\"}\0{\"model\":\"bad\"}",
        ),
        ("a comment", r#"{"model":"good"/* x */}"#),
        ("a line comment", "{\"model\":\"good\" // x\n}"),
        ("NaN", r#"{"model":"good","x":NaN}"#),
        ("Infinity", r#"{"model":"good","x":Infinity}"#),
        ("-Infinity", r#"{"model":"good","x":-Infinity}"#),
        ("single quotes", "{'model':'good'}"),
        ("no quotes", r#"{model:"good"}"#),
        ("a number with a leading zero", r#"{"model":"good","x":01}"#),
        ("a number with a plus", r#"{"model":"good","x":+1}"#),
        ("hexadecimal", r#"{"model":"good","x":0x1}"#),
        ("a bare point", r#"{"model":"good","x":1.}"#),
        ("a bare exponent", r#"{"model":"good","x":1e}"#),
        ("True", r#"{"model":"good","x":True}"#),
        ("cut off", r#"{"model":"good""#),
        ("cut off in a name", r#"{"model":"good","x"#),
        ("an unclosed array", r#"{"model":"good","x":[1}"#),
        ("a bracket of the other kind", r#"{"model":"good","x":[1}}"#),
        (
            "a raw line feed in a string",
            "{\"model\":\"good\",\"x\":\"a\nb\"}",
        ),
        (
            "a raw tab in a string",
            "{\"model\":\"good\",\"x\":\"a\tb\"}",
        ),
        (
            "a raw NUL in a string",
            "{\"model\":\"good\",\"x\":\"a\0b\"}",
        ),
        ("a raw NUL in the model", "{\"model\":\"good\0\"}"),
        ("an unknown escape", r#"{"model":"good","x":"\q"}"#),
        ("half an escape", r#"{"model":"good","x":"\u00"}"#),
        ("a lone surrogate in the model", r#"{"model":"good\ud800"}"#),
        (
            "a lone low surrogate in the model",
            r#"{"model":"\udc00good"}"#,
        ),
        (
            "surrogates in the wrong order in the model",
            r#"{"model":"\udc00\ud800"}"#,
        ),
        (
            "a lone surrogate in a top-level name",
            r#"{"model":"good","\ud800":1}"#,
        ),
        (
            "a lone surrogate in a name like model",
            r#"{"model":"good","model\ud800":1}"#,
        ),
        ("a byte-order mark", "\u{feff}{\"model\":\"good\"}"),
        ("a no-break space", "\u{a0}{\"model\":\"good\"}"),
        ("a form feed", "\u{c}{\"model\":\"good\"}"),
        ("urlencoded", "model=good"),
    ]);
    let with =
        |start: &str, middle: &[u8], end: &str| [start.as_bytes(), middle, end.as_bytes()].concat();
    for (name, bytes) in [
        ("a lone continuation byte", &b"\x80"[..]),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("a surrogate in UTF-8", b"\xed\xa0\x80"),
        ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
        ("0xFF", b"\xff"),
        ("a cut-off sequence", b"\xe2\x82"),
    ] {
        bodies.push((name, with(r#"{"model":"good","x":""#, bytes, r#""}"#)));
        bodies.push((
            name,
            with(r#"{"model":"good","#, &with("\"", bytes, "\":1"), "}"),
        ));
    }
    let utf16 = |little: bool| -> Vec<u8> {
        r#"{"model":"good"}"#
            .encode_utf16()
            .flat_map(|unit| {
                if little {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            })
            .collect()
    };
    bodies.push(("UTF-16, little endian", utf16(true)));
    bodies.push(("UTF-16, big endian", utf16(false)));
    bodies.push((
        "UTF-16 with its mark",
        [b"\xff\xfe".to_vec(), utf16(true)].concat(),
    ));
    let utf32 = r#"{"model":"good"}"#
        .chars()
        .flat_map(|sign| u32::from(sign).to_le_bytes());
    bodies.push(("UTF-32", utf32.collect()));
    refuses(400, "invalid_json", &bodies);
}

#[test]
fn a_model_that_is_no_name_is_missing() {
    refuses(
        400,
        "missing_model",
        &texts(&[
            ("absent", r#"{"messages":[]}"#),
            ("an empty object", "{}"),
            ("null", r#"{"model":null}"#),
            ("empty", r#"{"model":""}"#),
            ("a number", r#"{"model":1}"#),
            ("true", r#"{"model":true}"#),
            ("an array", r#"{"model":["good"]}"#),
            ("an object", r#"{"model":{"id":"good"}}"#),
            ("only nested", r#"{"x":{"model":"good"}}"#),
        ]),
    );
}

#[test]
fn what_json_may_hold_passes_byte_for_byte() {
    let digits = "7".repeat(5000);
    let long_name = "n".repeat(100_000);
    let mut bodies = texts(&[
        (
            "white space everywhere",
            " \t\r\n{ \"model\" \n:\t\"good\" \r, \"x\" : [ ] } \n",
        ),
        ("an escaped name", r#"{"\u006dodel":"good"}"#),
        ("an escaped value", r#"{"model":"g\u006F\u006fd"}"#),
        (
            "numbers that no float holds",
            r#"{"model":"good","a":1e400,"b":-0.0,"c":1E-9999,"d":123456789012345678901234567890}"#,
        ),
        (
            "repeated names elsewhere",
            r#"{"model":"good","x":1,"x":2}"#,
        ),
        (
            "lone surrogates elsewhere",
            r#"{"model":"good","messages":["\ud800","\udc00x"],"x":{"\ud800":1}}"#,
        ),
        (
            "escapes",
            r#"{"model":"good","x":"\"\\\/\b\f\n\r\t\u0000\uD83D\uDE00"}"#,
        ),
        (
            "raw text",
            "{\"model\":\"good\",\"x\":\"日本語 \u{1f600} \u{7f} \u{2028}\"}",
        ),
        ("a mark within", "{\"model\":\"good\",\"x\":\"\u{feff}\"}"),
        (
            "model last",
            r#"{"z":[{"model":"bad"}],"a":null,"model":"good"}"#,
        ),
    ]);
    bodies.push((
        "5 000 digits",
        format!(r#"{{"model":"good","x":{digits}}}"#).into_bytes(),
    ));
    bodies.push((
        "a long name",
        format!(r#"{{"{long_name}":1,"model":"good"}}"#).into_bytes(),
    ));
    passes_unchanged(&bodies);
}

#[test]
fn nesting_is_taken_to_128_levels_the_document_being_the_first() {
    let nested = |levels: usize, open: &str, close: &str| {
        let inner = levels - 1;
        format!(
            r#"{{"model":"good","x":{}{}{}}}"#,
            open.repeat(inner),
            if open == "[" { "" } else { "1" },
            close.repeat(inner)
        )
        .into_bytes()
    };
    passes_unchanged(&[
        ("128 arrays", nested(128, "[", "]")),
        ("128 objects", nested(128, "{\"a\":", "}")),
    ]);
    let start = Instant::now();
    refuses(
        400,
        "invalid_json",
        &[
            ("129 arrays", nested(129, "[", "]")),
            ("129 objects", nested(129, "{\"a\":", "}")),
            ("200 000 arrays", nested(200_000, "[", "]")),
            ("200 000 objects", nested(200_000, "{\"a\":", "}")),
            (
                "200 000 opened",
                format!(r#"{{"model":"good","x":{}"#, "[".repeat(200_000)).into_bytes(),
            ),
            (
                "200 000 opened before the model",
                format!(r#"{{"x":{}"#, "{\"a\":".repeat(200_000)).into_bytes(),
            ),
        ],
    );
    assert!(start.elapsed() < DEADLINE);
}

#[test]
fn a_model_behind_megabytes_gets_the_same_verdict_as_in_front() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let filler = format!(
        r#"{{"role":"user","content":"{}"}}"#,
        "lorem ipsum \\n \u{e4} ".repeat(1 << 16)
    );
    let messages = vec![filler; 12].join(",");
    for (key, model, status) in [
        (&stand.only, "good", 200),
        (&stand.only, "bad", 404),
        (&stand.all_but, "bad", 404),
        (&stand.all, "good", 200),
    ] {
        for body in [
            format!(r#"{{"messages":[{messages}],"model":"{model}"}}"#),
            format!(r#"{{"model":"{model}","messages":[{messages}]}}"#),
        ] {
            assert!(body.len() > 10 << 20);
            for protocol in BOTH {
                let response = h2::ask(protocol, &stand.gateway, &chat(key, body.as_str()));
                let mut verdict = (response.status == status)
                    .then_some(())
                    .ok_or(response.text());
                if status == 200 && verdict.is_ok() {
                    verdict = same_bytes(&stand, body.as_bytes());
                }
                cases.check(&format!("{model} as {} over {protocol:?}", key.id), verdict);
            }
        }
    }
    cases.done();
}

/// Every such connection was closed: hyper does not say of a chunked body that it has ended.
#[test]
fn a_connection_serves_on_after_a_chunked_body_that_was_read_to_its_end() {
    let stand = Stand::new();
    let mut client = stand.gateway.client();
    for model in ["good", "bad", "good"] {
        let call = chat(&stand.only, format!(r#"{{"model":"{model}"}}"#));
        for splits in [&[][..], &[5]] {
            client.send(&call.chunked(splits));
            let response = client.answer();
            assert_eq!(response.status, if model == "good" { 200 } else { 404 });
            assert!(response.header("connection").is_none(), "{response:?}");
        }
    }
}

#[test]
fn a_chunked_body_is_judged_the_same_wherever_it_is_split() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (key, model, status) in [
        (&stand.only, "bad", 404),
        (&stand.all_but, "bad", 404),
        (&stand.only, "good", 200),
    ] {
        let call = chat(key, format!(r#"{{"model":"{model}","x":"ä"}}"#));
        for split in 0..=call.body.len() {
            let mut client = stand.gateway.client();
            client.send(&call.chunked(&[split]));
            let response = client.answer();
            let mut verdict = (response.status == status)
                .then_some(())
                .ok_or(response.text());
            if status == 200 && verdict.is_ok() {
                verdict = same_bytes(&stand, &call.body);
            }
            cases.check(&format!("{model} as {} split at {split}", key.id), verdict);
        }
        let mut client = stand.gateway.client();
        client.send(&call.chunked(&vec![1; call.body.len()]));
        let response = client.answer();
        cases.check(
            "byte by byte",
            (response.status == status)
                .then_some(())
                .ok_or(response.text()),
        );
    }
    let seen = stand.up.requests();
    assert!(
        seen.iter()
            .all(|seen| !String::from_utf8_lossy(&seen.body).contains("bad"))
    );
    cases.done();
}

#[test]
fn a_body_that_comes_in_many_segments_is_judged_as_one() {
    let stand = Stand::new();
    let call = chat(&stand.only, r#"{"model":"good","messages":[]}"#);
    let mut client = stand.gateway.client();
    for byte in call.bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.answer().status, 200);
    assert_eq!(stand.up.last().body, call.body);
    let connection = stand.gateway.h2();
    let (mut stream, sending) = connection.begin(&call);
    for byte in &call.body {
        sending.data(&[*byte]);
    }
    drop(sending);
    assert_eq!(stream.head().status, 200);
    assert_eq!(stand.up.last().body, call.body);
}

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
    ] {
        let response = stand
            .gateway
            .ask(&bare(&stand.only).header("content-type", taken));
        cases.check(
            taken,
            passed(&response).and_then(|()| {
                let seen = stand.up.last();
                (seen.all("content-type") == [taken])
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

#[test]
fn a_query_that_names_a_model_is_ambiguous_and_every_other_passes_unchanged() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let ask = |key: &Key, query: &str| {
        let target = format!("{CHAT}?{query}");
        stand
            .gateway
            .ask(&Call::json(&target, &key.token, r#"{"model":"good"}"#))
    };
    for query in [
        "model=bad",
        "model=good",
        "model=",
        "model",
        "Model=bad",
        "MODEL=bad",
        "m%6fdel=bad",
        "m%6Fdel=bad",
        "%6d%6f%64%65%6c=bad",
        "M%4fDEL=bad",
        "a&model=bad",
        "a=1&model=bad",
        "a;model=bad",
        "a=1;model=bad",
        "model[]=bad",
        "Model[]=bad",
        "model%5b%5d=bad",
        "model%5B%5D",
        "&model=x",
        "&&model=x",
        ";model",
        "a=b&c=d;e=f&model=x&g",
        "x=%26&model=x",
    ] {
        for key in [&stand.all, &stand.only] {
            let response = ask(key, query);
            cases.check(
                &format!("{query} as {}", key.id),
                is_error(&response, 400, "ambiguous_model"),
            );
        }
    }
    let mut many = String::new();
    for at in 0..700 {
        let _ = write!(many, "p{at}&");
    }
    let response = ask(&stand.only, &format!("{many}model=bad"));
    cases.check(
        "behind 700 others",
        is_error(&response, 400, "ambiguous_model"),
    );
    cases.check("upstream", stand.up.untouched());
    for query in [
        "",
        "stream=true",
        "x=model",
        "x=model=bad",
        "models=bad",
        "model_=x",
        "xmodel=1",
        "model%20=x",
        "+model=x",
        "model.x=1",
        "model[0]=x",
        "model%00=x",
        "m%256fdel=bad",
        "x=%26model=bad",
        "x%3Dmodel=bad",
        "%zz=%",
        "a=%ff",
        "&&;;==",
        "model%5b%5d%5b%5d=x",
    ] {
        let response = ask(&stand.only, query);
        let target = format!("{CHAT}?{query}");
        cases.check(
            query,
            passed(&response).and_then(|()| {
                let seen = stand.up.last();
                (seen.target == target)
                    .then_some(())
                    .ok_or(format!("the upstream saw {}", seen.target))
            }),
        );
    }
    cases.done();
}

#[test]
fn ten_thousand_parameters_before_the_model_do_not_hide_it() {
    let stand = Stand::new();
    let target = format!("{CHAT}?{}model=bad", "a&".repeat(10_001));
    let response = stand.gateway.ask(&Call::json(
        &target,
        &stand.only.token,
        r#"{"model":"good"}"#,
    ));
    assert!(matches!(response.status, 400 | 414), "{}", response.status);
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_body_over_the_limit_is_too_large_and_one_at_the_limit_is_not() {
    let stand = Stand::with(|setup| setup.set("limits", "request_body = \"64KiB\""));
    let limit = 64 << 10;
    let sized = |size: usize| {
        let frame = r#"{"model":"good","x":""}"#.len();
        format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(size - frame))
    };
    let mut cases = Cases::new();
    for protocol in BOTH {
        let ask = |size: usize| h2::ask(protocol, &stand.gateway, &chat(&stand.only, sized(size)));
        cases.check(
            &format!("at the limit over {protocol:?}"),
            passed(&ask(limit)),
        );
        for size in [limit + 1, limit * 3] {
            let verdict = is_error(&ask(size), 413, "request_too_large");
            cases.check(&format!("{size} over {protocol:?}"), verdict);
        }
    }
    let mut client = stand.gateway.client();
    client.send(&chat(&stand.only, sized(limit)).chunked(&[10_000, 20_000]));
    cases.check("chunked at the limit", passed(&client.answer()));
    stand.up.forget();
    let mut client = stand.gateway.client();
    let _ = client.try_send(&chat(&stand.only, sized(limit + 1)).chunked(&[10_000, 20_000]));
    cases.check(
        "chunked over the limit",
        is_error(&client.answer(), 413, "request_too_large"),
    );
    // Content-Length alone is enough to know.
    let mut client = stand.gateway.client();
    let mut head = chat(&stand.only, "").head_without_length();
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"content-length: 999999999999\r\n\r\n");
    client.send(&head);
    cases.check(
        "by its length",
        is_error(&client.answer(), 413, "request_too_large"),
    );
    let call = chat(&stand.only, "").header("content-length", "65537");
    let (mut stream, _sending) = stand.gateway.h2().begin(&call);
    let mut response = stream.head();
    stream.finish(&mut response, DEADLINE);
    cases.check(
        "by its length in HTTP/2",
        is_error(&response, 413, "request_too_large"),
    );
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

#[test]
fn bodies_held_at_once_are_bounded_and_past_it_the_gateway_is_overloaded() {
    let stand = Stand::with(|setup| {
        setup
            .set("limits", "request_body = \"200KiB\"")
            .set("limits", "buffered_bodies = \"256KiB\"")
    });
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(150_000));
    let call = chat(&stand.only, body.as_str());
    let bytes = call.bytes();
    let (most, rest) = bytes.split_at(bytes.len() - 1000);
    // There is room for one of them, whichever is read first.
    let mut held: Vec<Client> = (0..4).map(|_| stand.gateway.client()).collect();
    for client in &mut held {
        client.send(most);
    }
    let mut refused = Vec::new();
    eventually("the others are refused", DEADLINE, || {
        if let Some(at) = held
            .iter_mut()
            .position(|client| !client.silent_for(Duration::from_millis(1)))
        {
            refused.push(held.remove(at));
        }
        (held.len() == 1).then_some(())
    });
    for mut client in refused {
        assert_error(&client.answer(), 503, "overloaded");
    }
    assert_error(&stand.gateway.ask(&call), 503, "overloaded");
    let small = stand.gateway.ask(&Call::chat(&stand.only.token, "good"));
    assert_eq!(
        small.status,
        200,
        "there is room for a small one: {}",
        small.text()
    );
    let mut holding = held.remove(0);
    holding.send(rest);
    assert_eq!(holding.answer().status, 200);
    for _ in 0..5 {
        let response = stand.gateway.ask(&call);
        assert_eq!(
            response.status,
            200,
            "the room is given back: {}",
            response.text()
        );
    }
}

#[test]
fn a_stalled_body_is_timed_out_and_a_slow_one_is_not() {
    let stand = Stand::with(|setup| setup.set("timeouts", "body_idle = \"1s\""));
    let call = chat(
        &stand.only,
        r#"{"model":"good","messages":["hello","world"]}"#,
    );
    let bytes = call.bytes();
    let half = bytes.len() - 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            let mut client = stand.gateway.client();
            client.send(&bytes[..half]);
            let response = client.answer();
            assert_error(&response, 408, "request_timeout");
            let took = start.elapsed();
            assert!(
                took >= Duration::from_millis(900) && took < Duration::from_secs(4),
                "{took:?}"
            );
            client.assert_closed();
        });
        scope.spawn(|| {
            let mut client = stand.gateway.client();
            let mut head = call.head_without_length();
            head.truncate(head.len() - 2);
            head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n5\r\n{\"mod");
            client.send(&head);
            assert_error(&client.answer(), 408, "request_timeout");
        });
        scope.spawn(|| {
            let (mut stream, sending) = stand.gateway.h2().begin(&call);
            sending.data(&call.body[..10]);
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            assert_error(&response, 408, "request_timeout");
        });
        scope.spawn(|| {
            // Two seconds in all, but never one without a byte.
            let mut client = stand.gateway.client();
            client.send(&call.head());
            for piece in call.body.chunks(6) {
                thread::sleep(Duration::from_millis(250));
                client.send(piece);
            }
            assert_eq!(client.answer().status, 200);
        });
    });
    let seen = stand.up.requests();
    assert_eq!(seen.len(), 1, "only the slow one goes on");
}

#[test]
fn a_body_that_ends_early_is_not_forwarded() {
    let stand = Stand::new();
    let call = chat(&stand.only, r#"{"model":"good","messages":[]}"#);
    let mut client = stand.gateway.client();
    let bytes = call.bytes();
    client.send(&bytes[..bytes.len() - 5]);
    client.shut_write();
    if let Some(response) = client.answer_or_end() {
        assert_eq!(response.status, 400, "{}", response.text());
    }
    client.assert_closed();
    let mut client = stand.gateway.client();
    let mut chunked = call.chunked(&[7]);
    chunked.truncate(chunked.len() - 5);
    client.send(&chunked);
    client.shut_write();
    if let Some(response) = client.answer_or_end() {
        assert_eq!(response.status, 400, "{}", response.text());
    }
    let (stream, sending) = stand.gateway.h2().begin(&call);
    sending.data(&call.body[..10]);
    drop(stream);
    drop(sending);
    // A request behind it on a fresh connection shows that all was read.
    assert_eq!(
        Client::connect(stand.gateway.address).ask(&call).status,
        200
    );
    assert_eq!(stand.up.requests().len(), 1);
}
