//! The model of a JSON body: one reading for every parser, and the bytes that were checked are the bytes that go on
//! (contract 4, step 6).

use std::time::Instant;

use crate::support::chat::{chat, passed, same_bytes};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, is_error};

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
        ("MODELS first", r#"{"MODELS":["bad"],"model":"good"}"#),
        ("fallbacks", r#"{"model":"good","fallbacks":[{"bad":"x"}]}"#),
        ("FallBacks", r#"{"model":"good","FallBacks":{"a":"bad"}}"#),
        ("lora_path", r#"{"model":"good","lora_path":"x"}"#),
        ("Lora_Path", r#"{"model":"good","Lora_Path":["x"]}"#),
        ("escaped", r#"{"model":"good","\u006dodels":["bad"]}"#),
        (
            "models with a long s, which folds to s",
            "{\"model\":\"good\",\"model\u{17f}\":[\"bad\"]}",
        ),
        (
            "fallbacks with a Kelvin sign, which folds to k",
            "{\"model\":\"good\",\"fallbac\u{212a}s\":[\"bad\"]}",
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
            r#"{"model":"good","model_":1,"mode":2,"modell":3,"model ":4," model":5,"model[]":6,"loras":7}"#,
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
