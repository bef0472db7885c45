use super::*;
use crate::policy::body_fields::{
    FIELDS, FieldDenial, FieldRules, NotedFields, Reach, Salt, Taken, judge,
};
use crate::policy::route::ENDPOINTS;
use crate::request_body::edit::{BodyEdits, json_string};
use crate::request_body::model::corpus;
use crate::request_body::model::name::{Ambiguity, ModelError};
use proptest::prelude::*;

/// The result of reading the document, with only the kind of an error.
fn verdict(
    body: &[u8],
    extra_fields: ExtraModelFields,
) -> Result<Result<String, ModelError>, JsonErrorKind> {
    read(body, extra_fields, None)
        .map(|findings| findings.into_model().map(Cow::into_owned))
        .map_err(|error| error.kind)
}

fn model(body: impl AsRef<[u8]>) -> Result<Result<String, ModelError>, JsonErrorKind> {
    verdict(body.as_ref(), ExtraModelFields::Refused)
}

fn named(name: &str) -> Result<Result<String, ModelError>, JsonErrorKind> {
    Ok(Ok(name.to_owned()))
}

fn ambiguous(ambiguity: Ambiguity) -> Result<Result<String, ModelError>, JsonErrorKind> {
    Ok(Err(ModelError::Ambiguous(ambiguity)))
}

fn missing() -> Result<Result<String, ModelError>, JsonErrorKind> {
    Ok(Err(ModelError::Missing))
}

#[test]
fn the_model_is_read_wherever_it_stands() {
    for body in [
        r#"{"model":"good"}"#,
        r#"{"model":"good","messages":[{"role":"user","content":"hi"}]}"#,
        r#"{"messages":[{"model":"bad"}],"x":{"model":"bad"},"model":"good"}"#,
        " \t\r\n{ \"model\" : \"good\" , \"n\" : 1 }\n ",
        r#"{"a":"\"model\":\"bad\"","model":"good"}"#,
        r#"{"model":"good","":0,"x":{"":[]}}"#,
    ] {
        assert_eq!(model(body), named("good"), "{body}");
    }
}

#[test]
fn a_model_without_escapes_is_borrowed_from_the_body() {
    let body = br#"{"\u0061":1,"model":"good"}"#;
    let name = read(body, ExtraModelFields::Refused, None)
        .unwrap()
        .into_model()
        .unwrap();
    assert!(matches!(name, Cow::Borrowed("good")));
}

#[test]
fn two_models_are_ambiguous_in_either_order_equal_or_not() {
    for (first, second) in [
        (r#""good""#, r#""bad""#),
        (r#""bad""#, r#""good""#),
        (r#""good""#, r#""good""#),
        (r#""bad""#, "null"),
        ("null", r#""bad""#),
        ("{}", "[]"),
    ] {
        let body = format!(r#"{{"model":{first},"x":[],"model":{second}}}"#);
        assert_eq!(model(&body), ambiguous(Ambiguity::Twice), "{body}");
    }
}

#[test]
fn an_escaped_name_is_the_name_it_stands_for() {
    assert_eq!(model(r#"{"\u006dodel":"good"}"#), named("good"));
    assert_eq!(
        model(r#"{"\u006D\u006f\u0064\u0065\u006C":"good"}"#),
        named("good")
    );
    for body in [
        r#"{"\u006dodel":"good","model":"bad"}"#,
        r#"{"model":"good","mod\u0065l":"bad"}"#,
    ] {
        assert_eq!(model(body), ambiguous(Ambiguity::Twice), "{body}");
    }
    assert_eq!(
        model(r#"{"\u004dodel":"x","model":"good"}"#),
        ambiguous(Ambiguity::LikeModel)
    );
    assert_eq!(
        model(r#"{"model\u017f":["bad"],"model":"good"}"#),
        ambiguous(Ambiguity::ExtraField("models"))
    );
}

#[test]
fn a_name_equal_to_model_but_for_case_is_ambiguous_alone_and_beside_it() {
    for name in ["Model", "MODEL", "moDeL"] {
        for body in [
            format!(r#"{{"{name}":"bad"}}"#),
            format!(r#"{{"model":"good","{name}":"bad"}}"#),
            format!(r#"{{"{name}":"bad","model":"good"}}"#),
        ] {
            assert_eq!(model(&body), ambiguous(Ambiguity::LikeModel), "{body}");
            assert_eq!(
                verdict(body.as_bytes(), ExtraModelFields::Allowed),
                ambiguous(Ambiguity::LikeModel)
            );
        }
    }
}

#[test]
fn extra_fields_are_ambiguous_at_the_top_and_for_restricted_keys_only() {
    for name in [
        "models",
        "fallbacks",
        "lora_path",
        "Models",
        "FALLBACKS",
        "fallbac\u{212A}s",
    ] {
        let body = format!(r#"{{"{name}":["bad"],"model":"good"}}"#);
        assert!(
            matches!(
                model(&body),
                Ok(Err(ModelError::Ambiguous(Ambiguity::ExtraField(_))))
            ),
            "{body}"
        );
        assert_eq!(
            verdict(body.as_bytes(), ExtraModelFields::Allowed),
            named("good"),
            "{body}"
        );
        let nested = format!(r#"{{"x":{{"{name}":["bad"]}},"model":"good"}}"#);
        assert_eq!(model(&nested), named("good"), "{nested}");
    }
}

#[test]
fn a_model_that_is_not_a_filled_string_is_missing() {
    for value in [
        "null",
        "\"\"",
        "1",
        "-0.5e7",
        "true",
        "false",
        "[]",
        "[\"good\"]",
        "{}",
        r#"{"id":"good"}"#,
    ] {
        let body = format!(r#"{{"model":{value},"x":1}}"#);
        assert_eq!(model(&body), missing(), "{body}");
    }
    assert_eq!(model("{}"), missing());
    assert_eq!(model(r#"{"x":{"model":"good"}}"#), missing());
}

#[test]
fn values_are_compared_as_they_decode_and_nothing_is_trimmed() {
    assert_eq!(model(r#"{"model":"\u0062ad"}"#), named("bad"));
    assert_eq!(model(r#"{"model":"org\/bad"}"#), named("org/bad"));
    assert_eq!(model(r#"{"model":"good\u0000bad"}"#), named("good\0bad"));
    assert_eq!(model(r#"{"model":"bad "}"#), named("bad "));
    assert_eq!(
        model(r#"{"model":"\"\\\/\b\f\n\r\t\u00e4ä\ud83d\ude00\uFFFF😀"}"#),
        named("\"\\/\u{8}\u{c}\n\r\tää😀\u{FFFF}😀")
    );
}

#[test]
fn an_invalid_document_is_reported_before_an_ambiguous_model_and_that_before_a_missing_one() {
    assert_eq!(
        model(r#"{"model":"a","model":"b",}"#),
        Err(JsonErrorKind::NoName)
    );
    assert_eq!(
        model(r#"{"model":"a","model":"b"} x"#),
        Err(JsonErrorKind::Trailing)
    );
    assert_eq!(model(r#"{"Model":null}"#), ambiguous(Ambiguity::LikeModel));
}

#[test]
fn a_byte_order_mark_is_refused() {
    assert_eq!(
        model(b"\xEF\xBB\xBF{\"model\":\"good\"}"),
        Err(JsonErrorKind::ByteOrderMark)
    );
    assert_eq!(model(b"\xEF\xBB\xBF"), Err(JsonErrorKind::ByteOrderMark));
}

#[test]
fn utf_16_and_utf_32_are_refused_with_and_without_a_mark() {
    let text = r#"{"model":"good"}"#;
    let wide: Vec<u16> = text.encode_utf16().collect();
    let bodies: [Vec<u8>; 6] = [
        wide.iter().flat_map(|unit| unit.to_le_bytes()).collect(),
        wide.iter().flat_map(|unit| unit.to_be_bytes()).collect(),
        text.chars()
            .flat_map(|c| u32::from(c).to_le_bytes())
            .collect(),
        text.chars()
            .flat_map(|c| u32::from(c).to_be_bytes())
            .collect(),
        [
            &b"\xFF\xFE"[..],
            &text
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
        ]
        .concat(),
        [
            &b"\xFE\xFF"[..],
            &text
                .encode_utf16()
                .flat_map(u16::to_be_bytes)
                .collect::<Vec<_>>(),
        ]
        .concat(),
    ];
    for body in bodies {
        assert!(model(&body).is_err(), "{body:?}");
    }
}

#[test]
fn invalid_utf_8_is_refused_everywhere_and_its_place_is_told() {
    for bad in [
        &b"\x80"[..],
        b"\xFF",
        b"\xC0\xAF",
        b"\xE0\x80\xAF",
        b"\xED\xA0\x80",
        b"\xF4\x90\x80\x80",
        b"\xC3",
    ] {
        let cases = [
            [b"{\"model\":\"".as_slice(), bad, b"\"}"].concat(),
            [b"{\"".as_slice(), bad, b"\":1,\"model\":\"good\"}"].concat(),
            [b"{\"model\":\"good\",\"x\":[\"".as_slice(), bad, b"\"]}"].concat(),
            [b"{\"model\":\"good\"}".as_slice(), bad].concat(),
        ];
        for body in cases {
            assert_eq!(model(&body), Err(JsonErrorKind::NotUtf8), "{body:?}");
        }
    }
    let fault = read(b"{\"model\":\"\xFF\"}", ExtraModelFields::Allowed, None).unwrap_err();
    assert_eq!(fault.at, 10);
}

#[test]
fn a_lone_surrogate_is_refused_in_a_top_level_name_and_in_the_model_and_passes_elsewhere() {
    for lone in [
        r"\ud800",
        r"\uDFFF",
        r"\ud83dx",
        r"\ud83d\n",
        r"\ud83d\u0041",
        r"\ude00\ud83d",
        r"\ud800\ud800",
    ] {
        for body in [
            format!(r#"{{"model":"good{lone}"}}"#),
            format!(r#"{{"model":"{lone}good"}}"#),
            format!(r#"{{"model":"good","x{lone}":1}}"#),
            format!(r#"{{"{lone}":1,"model":"good"}}"#),
            format!(
                r#"{{"a name longer than all the names that are known {lone}":1,"model":"good"}}"#
            ),
        ] {
            assert_eq!(model(&body), Err(JsonErrorKind::LoneSurrogate), "{body}");
        }
        for body in [
            format!(r#"{{"model":"good","x":"{lone}"}}"#),
            format!(r#"{{"x":[{{"{lone}":"{lone}"}}],"model":"good"}}"#),
        ] {
            assert_eq!(model(&body), named("good"), "{body}");
        }
    }
}

#[test]
fn a_long_escaped_name_is_not_decoded_into_memory() {
    let long = r"\u006d".repeat(100_000);
    assert_eq!(
        model(format!(r#"{{"{long}":1,"model":"good"}}"#)),
        named("good")
    );
    assert_eq!(
        model(format!(r#"{{"model{long}":1,"model":"good"}}"#)),
        named("good")
    );
}

#[test]
fn anything_but_one_object_is_refused() {
    for body in [
        "",
        " ",
        "\n\t",
        "[]",
        "[{\"model\":\"good\"}]",
        "\"model\"",
        "1",
        "null",
        "true",
        "model=good",
    ] {
        assert_eq!(model(body), Err(JsonErrorKind::NotAnObject), "{body:?}");
    }
}

#[test]
fn nothing_may_follow_the_document_but_whitespace() {
    for behind in [
        "x",
        "{}",
        " {\"model\":\"bad\"}",
        "\0",
        "\0{\"model\":\"bad\"}",
        ",",
        "}",
        "//",
        "/**/",
        "\u{a0}",
        "\x0c",
    ] {
        let body = format!(r#"{{"model":"good"}}{behind}"#);
        assert_eq!(model(&body), Err(JsonErrorKind::Trailing), "{body:?}");
    }
    assert_eq!(model("{\"model\":\"good\"} \n\r\t"), named("good"));
}

#[test]
fn depth_128_is_taken_and_129_refused() {
    for (open, close) in [("[", "]"), (r#"{"x":"#, "}")] {
        for (levels, taken) in [(127, true), (128, false)] {
            // The document adds one level. The innermost list is empty or not.
            for inside in ["1", ""] {
                let inner = if inside.is_empty() {
                    "[]".to_owned()
                } else {
                    format!("[{inside}]")
                };
                let value = open.repeat(levels - 1) + &inner + &close.repeat(levels - 1);
                let body = format!(r#"{{"x":{value},"model":"good"}}"#);
                let expected = if taken {
                    named("good")
                } else {
                    Err(JsonErrorKind::TooDeep)
                };
                assert_eq!(model(&body), expected, "{levels} {inside}");
            }
        }
    }
}

#[test]
fn two_hundred_thousand_levels_are_refused_at_once() {
    let began = std::time::Instant::now();
    for open in ["[", r#"{"x":"#] {
        let body = format!(r#"{{"model":"good","x":{}"#, open.repeat(200_000));
        assert_eq!(model(&body), Err(JsonErrorKind::TooDeep));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn every_prefix_of_a_document_is_refused() {
    let body = r#"{"model":"go\u00f6d","x":[1.5e-3,true,{"y":null,"z":"ä"}],"n":-0}"#;
    assert_eq!(model(body), named("goöd"));
    for end in 0..body.len() {
        assert!(model(&body.as_bytes()[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_model_after_five_megabytes_is_read_like_one_before() {
    let text = "All work and no play makes Jack a dull boy.\\n \\\"ä\\\" ".repeat(100_000);
    let messages = format!(r#""messages":[{{"role":"user","content":"{text}"}}]"#);
    assert!(messages.len() > 5_000_000);
    assert_eq!(
        model(format!(r#"{{{messages},"model":"good"}}"#)),
        named("good")
    );
    assert_eq!(
        model(format!(r#"{{"model":"good",{messages}}}"#)),
        named("good")
    );
    assert_eq!(
        model(format!(r#"{{"model":"good",{messages},"model":"bad"}}"#)),
        ambiguous(Ambiguity::Twice)
    );
}

#[test]
fn a_control_character_in_a_string_is_refused_at_every_place_of_every_length() {
    for length in 1..150 {
        for place in 0..length {
            let mut text = vec![b'x'; length];
            text[place] = 0x1F;
            let body = [b"{\"model\":\"good\",\"x\":\"".as_slice(), &text, b"\"}"].concat();
            assert_eq!(
                model(&body),
                Err(JsonErrorKind::ControlCharacter),
                "{place} of {length}"
            );
        }
    }
}

#[test]
fn the_corpus_is_parsed_as_rfc_8259_says_at_every_place_of_a_value() {
    assert!(corpus::VALID.len() + corpus::INVALID.len() >= 150);
    for value in corpus::VALID {
        for (before, after) in AROUND {
            let body = [before.as_bytes(), value, after.as_bytes()].concat();
            let text = String::from_utf8_lossy(&body);
            assert_eq!(model(&body), named("good"), "{text}");
            assert!(
                reference(&body, ExtraModelFields::Refused).is_ok(),
                "serde_json refuses {text}"
            );
        }
    }
    for value in corpus::INVALID {
        for (before, after) in AROUND {
            let body = [before.as_bytes(), value, after.as_bytes()].concat();
            let text = String::from_utf8_lossy(&body);
            assert!(model(&body).is_err(), "{text}");
            assert!(
                reference(&body, ExtraModelFields::Refused).is_err(),
                "serde_json takes {text}"
            );
        }
    }
}

const AROUND: [(&str, &str); 5] = [
    (r#"{"model":"good","x":"#, "}"),
    (r#"{"x":"#, r#","model":"good"}"#),
    (r#"{"x":[1,"#, r#",2],"model":"good"}"#),
    (r#"{"x":{"a":"#, r#","b":[]},"model":"good"}"#),
    ("{ \"x\" : [ [ 0 , ", " ] ] , \"model\" : \"good\" }"),
];

fn names_models(name: &str) -> bool {
    let folded = name.to_lowercase().replace('ſ', "s").replace('ı', "i");
    let mut fields = FIELDS.iter().filter(|field| field.reach == Reach::Models);
    fields.any(|field| field.name == folded)
}

/// The same result from serde_json, which reads a map field by field. Depth and UTF-8 are checked separately.
fn reference(
    body: &[u8],
    extra_fields: ExtraModelFields,
) -> Result<Result<String, ModelError>, ()> {
    use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

    /// A text, and whether the value names nothing.
    struct Value(Option<String>, bool);
    impl<'de> Deserialize<'de> for Value {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;
            impl<'de> Visitor<'de> for Text {
                type Value = Value;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a value")
                }
                fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                    Ok(Value(Some(text.to_owned()), false))
                }
                fn visit_unit<E>(self) -> Result<Value, E> {
                    Ok(Value(None, false))
                }
                fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
                    Ok(Value(None, false))
                }
                fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
                    Ok(Value(None, false))
                }
                fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
                    Ok(Value(None, false))
                }
                fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                    Ok(Value(None, false))
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                    while seq.next_element::<IgnoredAny>()?.is_some() {}
                    Ok(Value(None, false))
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    Ok(Value(None, false))
                }
            }
            deserializer.deserialize_any(Text)
        }
    }

    struct Document(Vec<(String, Value)>);
    impl<'de> Deserialize<'de> for Document {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Fields;
            impl<'de> Visitor<'de> for Fields {
                type Value = Document;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                    let mut fields = Vec::new();
                    while let Some(name) = map.next_key::<String>()? {
                        let value = if name == "model" {
                            map.next_value()?
                        } else {
                            let raw = map.next_value::<Box<serde_json::value::RawValue>>()?;
                            let text: String = raw.get().split_ascii_whitespace().collect();
                            let nothing = ["null", "false", "\"\"", "[]"].contains(&&*text);
                            Value(
                                None,
                                nothing && text.len() == raw.get().len() || text == "[]",
                            )
                        };
                        fields.push((name, value));
                    }
                    Ok(Document(fields))
                }
            }
            deserializer.deserialize_map(Fields)
        }
    }

    std::str::from_utf8(body).map_err(drop)?;
    let Document(fields) = serde_json::from_slice(body).map_err(drop)?;
    if depth(body) > 128 {
        return Err(());
    }
    let refused = |(name, Value(_, is_nothing)): &(String, Value)| {
        name != "model" && name.to_lowercase() == "model"
            || name.contains('\0')
            || extra_fields == ExtraModelFields::Refused && names_models(name) && !is_nothing
    };
    let models: Vec<_> = fields.iter().filter(|(name, _)| name == "model").collect();
    Ok(if models.len() > 1 || fields.iter().any(refused) {
        // The tests do not compare which ambiguity is found first.
        Err(ModelError::Ambiguous(Ambiguity::Twice))
    } else {
        let name = models.first().and_then(|(_, Value(name, _))| name.clone());
        name.filter(|name| !name.is_empty())
            .ok_or(ModelError::Missing)
    })
}

fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at, mut quoted) = (0_usize, 0, 0, false);
    while let Some(byte) = body.get(at) {
        match (byte, quoted) {
            (b'\\', true) => at += 1,
            (b'"', _) => quoted = !quoted,
            (b'{' | b'[', false) => depth += 1,
            (b'}' | b']', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
        at += 1;
    }
    deepest
}

fn agrees(body: &[u8], extra_fields: ExtraModelFields) -> bool {
    let ours = match verdict(body, extra_fields) {
        Ok(Err(ModelError::Ambiguous(_))) => Ok(Err(ModelError::Ambiguous(Ambiguity::Twice))),
        other => other.map_err(drop),
    };
    ours == reference(body, extra_fields)
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"]
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zäöü€😀 .:/{}\\[\\],-]{0,40}",
        1 => prop::sample::select(vec![r#"\""#, r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t"])
            .prop_map(str::to_owned),
        1 => any::<char>().prop_map(|c| {
            c.encode_utf16(&mut [0; 2]).iter().fold(String::new(), |text, unit| text + &format!("\\u{unit:04X}"))
        }),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?"
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => string(),
        2 => number(),
        1 => prop::sample::select(vec!["true", "false", "null", "[]", "{}"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![r#""\ud800""#, "1e999", "-0", "[ ]", "{\n}"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        let list =
            prop::collection::vec((space(), inner.clone(), space()), 0..4).prop_map(|items| {
                let items: Vec<_> = items.into_iter().map(|(a, b, c)| a + &b + &c).collect();
                format!("[{}]", items.join(","))
            });
        let object = prop::collection::vec((space(), string(), space(), inner, space()), 0..4)
            .prop_map(|fields| {
                let fields: Vec<_> = fields
                    .into_iter()
                    .map(|(a, b, c, d, e)| a + &b + ":" + &c + &d + &e)
                    .collect();
                format!("{{{}}}", fields.join(","))
            });
        prop_oneof![list, object]
    })
}

fn top_level_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "model",
        "Model",
        "MODEL",
        "models",
        "fallbacks",
        "lora_path",
        "Adapters",
        "draft_model",
        r"x\u0000",
        r"model\u0000",
        "messages",
        "mode",
        "modelſ",
        "fallbacKs",
        r"\u006dodel",
        r"mod\u0045l",
        r"\ud800",
    ]);
    prop_oneof![
        3 => known.prop_map(|name| format!("\"{name}\"")),
        2 => string(),
    ]
}

/// Values of `model`, without numbers that serde_json would convert and find out of range.
fn model_value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec![
            r#""good""#, r#""b\u0061d""#, r#""""#, "null", "1", "-2.5e3", "[]", r#"{"a":[1,{}]}"#, "true",
            r#""\ud83d\ude00""#, r#""\ud83d""#, "[1,",
        ]).prop_map(str::to_owned),
        4 => string(),
    ]
}

fn document() -> impl Strategy<Value = String> {
    let field = (
        space(),
        top_level_name(),
        space(),
        value(),
        model_value(),
        space(),
    )
        .prop_map(|(before, name, between, value, model, after)| {
            let is_model = name == "\"model\"" || name == r#""\u006dodel""#;
            let value = match model.as_str() {
                _ if is_model => model,
                // Values that name nothing, for the fields that name further models.
                "null" | "[]" | "\"\"" => model,
                _ => value,
            };
            format!("{before}{name}:{between}{value}{after}")
        });
    (space(), prop::collection::vec(field, 0..5), space())
        .prop_map(|(before, fields, after)| format!("{before}{{{}}}{after}", fields.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn serde_json_reads_the_same_in_every_document(document in document(), restricted in any::<bool>()) {
        let extra_fields = if restricted { ExtraModelFields::Refused } else { ExtraModelFields::Allowed };
        prop_assert!(agrees(document.as_bytes(), extra_fields));
    }

    #[test]
    fn serde_json_reads_the_same_in_every_damaged_document(
        document in document(),
        at in any::<prop::sample::Index>(),
        how in 0..4,
        byte in prop_oneof![
            prop::sample::select(br#"{}[]",:\0123456789-+.eEtfnu/ "#.to_vec()),
            any::<u8>(),
        ],
    ) {
        let mut body = document.into_bytes();
        let at = at.index(body.len());
        match how {
            0 => body[at] = byte,
            1 => body.insert(at, byte),
            2 => { body.remove(at); }
            _ => body.truncate(at),
        }
        // The mutation may create a number that is out of range for serde_json; the gateway's parser has no such
        // limit.
        let number_out_of_range = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok()
            && serde_json::from_slice::<serde_json::Value>(&body)
                .is_err_and(|fault| fault.to_string().contains("out of range"));
        prop_assume!(!number_out_of_range);
        prop_assert!(agrees(&body, ExtraModelFields::Refused));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(agrees(&body, ExtraModelFields::Refused));
    }
}

/// The names of the listed fields that a body has with an effect, for a key that may use every model.
fn noted(body: &str) -> NotedFields {
    read(body.as_bytes(), ExtraModelFields::Allowed, None)
        .unwrap()
        .noted
}

fn denial(body: &str) -> Option<FieldDenial> {
    judge(&noted(body), FieldRules::USUAL).err()
}

#[test]
fn a_stored_prompt_is_found_by_its_id_and_a_text_is_none() {
    for prompt in [
        r#"{"id":"pmpt_1"}"#,
        r#"{ "version" : "2" , "id" : "pmpt_1" }"#,
        r#"{"variables":{"a":[{}]},"ID":1}"#,
        r#"{"\u0069d":{}}"#,
        r#"{"id\u0000x":"pmpt_1"}"#,
        r#"{"id":null,"id":"pmpt_1"}"#,
    ] {
        let body = format!(r#"{{"model":"good","prompt":{prompt}}}"#);
        assert_eq!(denial(&body), Some(FieldDenial::State("prompt")), "{body}");
    }
    for prompt in [
        r#""text""#,
        r#"["a","b"]"#,
        "[1,2]",
        "null",
        "{}",
        r#"{"id":null}"#,
        r#"{"x":{"id":"y"},"ids":1}"#,
        r#"{"\ud800":1}"#,
    ] {
        let body = format!(r#"{{"model":"good","prompt":{prompt}}}"#);
        assert_eq!(denial(&body), None, "{body}");
    }
}

#[test]
fn an_object_under_prompt_obeys_the_same_rules_of_json() {
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        model(format!(
            r#"{{"model":"good","prompt":{{"a":{open}{close}}}}}"#
        ))
    };
    assert_eq!(deep(126), named("good"));
    assert_eq!(deep(127), Err(JsonErrorKind::TooDeep));
    for (prompt, error) in [
        ("{,}", JsonErrorKind::NoName),
        (r#"{"a"}"#, JsonErrorKind::NoColon),
        (r#"{"a":1,}"#, JsonErrorKind::NoName),
        (r#"{"a":1 "b":2}"#, JsonErrorKind::NoCommaOrEnd),
        (r#"{"a":1]"#, JsonErrorKind::NoCommaOrEnd),
    ] {
        assert_eq!(
            model(format!(r#"{{"model":"good","prompt":{prompt}}}"#)),
            Err(error),
            "{prompt}"
        );
    }
}

#[test]
fn a_field_that_takes_effect_is_noted_in_any_case_and_null_is_none() {
    for (field, refused) in [
        (
            r#""background":true"#,
            Some(FieldDenial::State("background")),
        ),
        (
            r#""background":"yes""#,
            Some(FieldDenial::State("background")),
        ),
        (r#""background":false"#, None),
        (
            r#""background":false,"background":true"#,
            Some(FieldDenial::State("background")),
        ),
        (
            r#""Conversation":{}"#,
            Some(FieldDenial::State("conversation")),
        ),
        (r#""conversation":null"#, None),
        (
            r#""\u0070riority":0"#,
            Some(FieldDenial::Engine("priority")),
        ),
        (r#""priority":null"#, None),
        (
            r#""ran\u212a":1,"data_parallel_ran\u212a":1"#,
            Some(FieldDenial::Engine("data_parallel_rank")),
        ),
        (r#""store":true,"metadata":{"priority":1}"#, None),
    ] {
        let body = format!(r#"{{"model":"good",{field}}}"#);
        assert_eq!(denial(&body), refused, "{body}");
    }
}

#[test]
fn a_name_with_a_zero_character_is_ambiguous_at_the_top_alone() {
    for name in [
        r"model\u0000",
        r"\u0000",
        r"x\u0000y",
        r"a long name of many letters, longer than every name that is known here, and then \u0000",
    ] {
        assert_eq!(
            model(format!(r#"{{"model":"good","{name}":1}}"#)),
            ambiguous(Ambiguity::ZeroInName),
            "{name}"
        );
    }
    assert_eq!(
        model(r#"{"model":"good","x":{"y\u0000":"\u0000"}}"#),
        named("good")
    );
}

#[test]
fn the_first_name_that_is_not_documented_is_noted_where_it_stands() {
    let chat = Documented::of(
        ENDPOINTS
            .into_iter()
            .find(|endpoint| endpoint.path() == "/v1/chat/completions")
            .unwrap(),
    );
    let unknown = |body: &str| {
        let noted = read(body.as_bytes(), ExtraModelFields::Allowed, Some(chat))
            .unwrap()
            .noted;
        let rules = FieldRules {
            unknown_fields: Taken::Refuse,
            ..FieldRules::USUAL
        };
        match judge(&noted, rules) {
            Ok(()) => None,
            Err(FieldDenial::Unknown(place)) => Some(body[place].to_owned()),
            Err(denial) => panic!("{denial:?}"),
        }
    };
    assert_eq!(
        unknown(r#"{"model":"good","mess\u0061ges":[],"top_k":1}"#),
        None
    );
    assert_eq!(
        unknown(r#"{"model":"good","x\u0020y":[],"z":1}"#).as_deref(),
        Some(r"x\u0020y")
    );
    assert_eq!(
        unknown(r#"{"model":"good","Messages":[]}"#).as_deref(),
        Some("Messages")
    );
}

/// The members of a document in order, each name with its value as it is written.
fn members(body: &[u8]) -> Vec<(String, String)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, String)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) =
                map.next_entry::<String, Box<serde_json::value::RawValue>>()?
            {
                members.push((name, value.get().to_owned()));
            }
            Ok(members)
        }
    }
    use serde::de::Deserializer;
    serde_json::Deserializer::from_slice(body)
        .deserialize_map(Members)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn edits_at_the_scanned_places_change_the_model_and_the_salt_alone(
        document in document(),
        name in "[a-z:\"\\\\ä]{1,9}",
        with_salt in any::<bool>(),
    ) {
        let document = match with_salt {
            true => document.replacen('{', "{\"cache_salt\":null ,", 1),
            false => document,
        };
        let body = document.as_bytes();
        let Ok(Ok(facts)) = read(body, ExtraModelFields::Allowed, None).map(Findings::into_facts)
        else {
            return Ok(());
        };
        let mut edits = BodyEdits::default();
        let text = json_string(&name);
        edits.replace(facts.places.model, text.clone());
        match facts.noted.salt() {
            Salt::Absent => edits.insert_member(facts.places.first_member.unwrap(), CACHE_SALT, "\"s\""),
            Salt::Once(place) => edits.replace(place.clone(), "\"s\"".to_owned()),
            Salt::Several => return Ok(()),
        }
        let edited: Vec<u8> = edits.slices(body).flatten().copied().collect();
        prop_assert_eq!(edited.len(), edits.edited_length(body.len()));
        let mut expected = members(body);
        expected.retain(|(name, _)| name != CACHE_SALT);
        expected.insert(0, (CACHE_SALT.to_owned(), "\"s\"".to_owned()));
        for (member, value) in &mut expected {
            if member == "model" {
                value.clone_from(&text);
            }
        }
        prop_assert_eq!(members(&edited), expected);
        let again = read(&edited, ExtraModelFields::Allowed, None).map(Findings::into_model);
        prop_assert_eq!(again.unwrap().unwrap(), name);
    }
}
