//! The model name out of JSON: accepted only where serde_json accepts, and then the very model that serde_json reads;
//! and refused only where serde_json refuses, or where the contract says why.

use std::fmt;

use keygate::request_body::model::{BodyError, BodyFormat, ExtraModelFields, read};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Target, bytes_of};

/// See the module.
#[derive(Default)]
pub struct JsonModel;

/// How deep a document may be, itself included.
const MAX_DEPTH: usize = 128;

impl Target for JsonModel {
    const NAME: &'static str = "json_model";
    const FRAGMENTS: &'static [&'static str] = &[
        r#""model":"bad""#,
        r#""model":"bad","#,
        r#","model":"bad""#,
        r#""Model":"bad","#,
        r#""MODEL":"bad","#,
        r#""\u006dodel":"bad","#,
        r#""mode\u006c":"bad","#,
        r#""model":null,"#,
        r#""model":["bad"],"#,
        r#""models":[],"#,
        r#""Fallbacks":[],"#,
        r#""lora_path":"x","#,
        "\"model\u{17f}\":1,",
        "\"fallbac\u{212a}s\":1,",
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
        "\\udc00",
        "\\ud83d\\ude00",
        "\\u0022",
        "\u{feff}",
        "\0",
        "//",
        "/*",
        "*/",
        "\n",
        " ",
        "\t",
        "\r",
        "\u{b}",
        "\u{2028}",
        "\u{a0}",
        "NaN",
        "Infinity",
        "1e999",
        "-",
        "+",
        "0",
        "00",
        ".5",
        "1.",
        "1e",
        "true",
        "tru",
        "null",
        "good",
        "bad",
        "{\"model\":\"bad\"}",
        "\u{e4}",
        "'",
        "[[[[[[[[[[[[[[[[",
        "]]]]]]]]]]]]]]]]",
        "{\"a\":{\"a\":{\"a\":{\"a\":",
        "}}}}",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",",
        "\u{1f}",
        "\u{7f}",
        "\\u00",
        "\\x41",
        "\\'",
        "\"a\":1,",
    ];
    const WORDS: &'static [&'static str] = &["read", "ambiguous", "missing", "not JSON"];

    fn examples(&self) -> Vec<Vec<u8>> {
        let mut examples = bytes_of(&[
            r#"{"model":"good","messages":[{"role":"user","content":"bad"}]}"#,
            r#"{"messages":[{"model":"bad"}],"model":"good","stream":true}"#,
            r#"{"model":"bad","model_":"good"}"#,
            "{ \"model\" : \"good\" , \"x\" : { \"model\" : \"bad\" } }",
            r#"{"\u006dodel":"good","a":[1,2.5e3,-0,null,true,"\ud83d\ude00"]}"#,
            r#"{"model":"org\/good\u00e4"}"#,
            r#"{"model":"","a":{}}"#,
            r#"{"model":"good","models":[],"lora":null,"fallbacks":["bad"]}"#,
            r#"{"model":"good","prompt":{"id":null,"a":[{}]},"x\u0000":1}"#,
            r#"{"model":"good","MODEL":"bad"}"#,
            "{}",
            "[]",
        ]);
        for levels in [126, 127, 128] {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            examples.push(format!("{{\"model\":\"good\",\"x\":{open}{close}}}").into_bytes());
        }
        examples
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let restricted = read(&BodyFormat::Json, input, ExtraModelFields::Refused);
        let unrestricted = read(&BodyFormat::Json, input, ExtraModelFields::Allowed);
        let document = Document::of(input);
        for (siblings, verdict) in [(true, &restricted), (false, &unrestricted)] {
            match (verdict, &document) {
                (Ok(name), Ok(document)) => document.assert_names(name, siblings),
                (Ok(_), Err(refusal)) => panic!("taken, and serde_json says: {refusal}"),
                (Err(BodyError::InvalidJson(fault)), Ok(document)) => {
                    let told = fault.to_string();
                    assert!(
                        document.deeper_than(MAX_DEPTH)
                            || told.contains("surrogate") && document.lone_surrogate,
                        "refused, and serde_json takes it: {told}"
                    );
                }
                (Err(BodyError::InvalidJson(_)), Err(_)) => {}
                (Err(BodyError::AmbiguousModel(_)), Ok(document)) => {
                    assert!(
                        document.is_ambiguous(siblings),
                        "not ambiguous: {verdict:?}"
                    );
                }
                (Err(BodyError::AmbiguousField(field)), Ok(document)) => {
                    assert!(document.is_ambiguous_in(field), "not ambiguous: {field}");
                }
                (Err(BodyError::MissingModel), Ok(document)) => {
                    let one = document.model().and_then(Value::as_str);
                    assert!(
                        document.is_ambiguous(siblings) || one.is_none_or(str::is_empty),
                        "not missing: {one:?}"
                    );
                }
                (verdict, document) => panic!("{verdict:?}, and serde_json: {document:?}"),
            }
        }
        match restricted {
            Ok(_) => "read",
            Err(BodyError::AmbiguousModel(_)) => "ambiguous",
            Err(BodyError::MissingModel) => "missing",
            Err(_) => "not JSON",
        }
    }
}

/// Fields that name further models, as a key that is restricted to some may not send them.
const SIBLINGS: [&str; 17] = [
    "models",
    "route",
    "preset",
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "router_settings_override",
    "model_list",
    "user_config",
    "lora_path",
    "lora",
    "lora_request",
    "adapters",
    "draft_model",
    "adapter_path",
    "adapter_id",
    "adapter_source",
];

fn names_nothing(value: &str) -> bool {
    let inner = value
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    matches!(value, "null" | "false" | "\"\"") || inner.is_some_and(|inner| inner.trim().is_empty())
}

/// A document as serde_json sees it.
#[derive(Debug)]
struct Document<'d> {
    text: &'d str,
    names: Vec<String>,
    values: Vec<Box<RawValue>>,
    /// The value of the one name `model`; unknown where it holds what no [`Value`] can.
    model: Option<Value>,
    lone_surrogate: bool,
}

impl<'d> Document<'d> {
    fn of(input: &'d [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(input).map_err(|error| error.to_string())?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let names = (&mut reader)
            .deserialize_map(Names)
            .and_then(|names| reader.end().map(|()| names));
        // A name with half a surrogate pair is the one thing that serde_json refuses and a document may hold.
        match names {
            Ok((names, values)) => {
                let model = serde_json::Deserializer::from_str(text)
                    .deserialize_map(Model)
                    .ok()
                    .flatten();
                Ok(Self {
                    text,
                    lone_surrogate: model.is_none(),
                    names,
                    values,
                    model,
                })
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn model(&self) -> Option<&Value> {
        self.model.as_ref()
    }

    fn is_ambiguous(&self, siblings: bool) -> bool {
        let like_model = |name: &&String| folded(name) == "model";
        let sibling = |(name, value): (&String, &str)| {
            siblings && SIBLINGS.contains(&folded(name).as_str()) && !names_nothing(value)
        };
        self.names.iter().filter(like_model).count() > 1
            || self
                .names
                .iter()
                .any(|name| name != "model" && folded(name) == "model")
            || self.names.iter().any(|name| name.contains('\0'))
            || self
                .names
                .iter()
                .zip(self.values.iter().map(|value| value.get()))
                .any(sibling)
    }

    /// Whether a field about the stream comes twice, or in another case.
    fn is_ambiguous_in(&self, field: &str) -> bool {
        let like = || self.names.iter().filter(|name| folded(name) == field);
        like().count() > 1 || like().any(|name| name != field)
    }

    fn assert_names(&self, name: &str, siblings: bool) {
        assert!(!self.is_ambiguous(siblings), "ambiguous: {:?}", self.names);
        for field in ["stream", "stream_options"] {
            assert!(!self.is_ambiguous_in(field), "ambiguous: {:?}", self.names);
        }
        assert_eq!(
            self.model().and_then(Value::as_str),
            Some(name),
            "another model"
        );
        assert!(!self.deeper_than(MAX_DEPTH), "too deep");
    }

    fn deeper_than(&self, most: usize) -> bool {
        let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
        for byte in self.text.bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth -= 1,
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest > most
    }
}

/// A name without its case, over both tables, as parsers fold that do not mind it.
fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

/// Every name of an object and its value as it is written, in order.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = (Vec<String>, Vec<Box<RawValue>>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        while let Some((name, value)) = map.next_entry()? {
            names.push(name);
            values.push(value);
        }
        Ok((names, values))
    }
}

/// The last value of the name `model`.
struct Model;

impl<'de> Visitor<'de> for Model {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut model = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "model" {
                model = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(model)
    }
}
