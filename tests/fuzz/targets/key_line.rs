//! A line of the key file: taken only where it is one whole JSON object that says just this key, and what is written
//! back is read again as the same key.

use ipnet::Ipv4Net;
use keygate::policy::key::Key;
use keygate::policy::time::UnixTime;
use keygate::store::key_json::{Interner, parse_line, write_line};
use serde_json::Value;

use super::{Target, assert_helpful, bytes_of};

/// See the module.
#[derive(Default)]
pub struct KeyLine;

/// What mutations of anything that describes a key insert.
pub const FRAGMENTS: &[&str] = &[
    r#""id":"key_2","#,
    r#""name":"n","#,
    r#""disabled":true,"#,
    r#""account":"acme","#,
    r#""hint":"x9Qz","#,
    r#""previous":null,"#,
    r#""previous":{"hash":"blake3:00000000000000000000000000000000000000000000000000000000000000ff","not_after":"2026-12-01T00:00:00Z"},"#,
    r#""not_after":"2026-12-01T00:00:00Z","#,
    r#""allow_from":["192.0.2.0/24"],"#,
    r#""allow_from":[],"#,
    r#""allow_from":null,"#,
    r#""expires_at":null,"#,
    r#""expires_at":"2027-02-01T00:00:00Z","#,
    r#""created_at":"2026-11-22T10:00:00.5+01:00","#,
    r#""mode":"all""#,
    r#""mode":"exclusive","#,
    r#""models":["a"]"#,
    r#","models":[]"#,
    "2027-01-31",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "-01:00",
    "+23:59",
    "T",
    "Z",
    "z",
    ":60",
    "192.0.2.7",
    "10.1.2.3/8",
    "0.0.0.0/0",
    "/33",
    "/032",
    "/",
    "::ffff:1.2.3.4",
    "::1/128",
    "010.0.0.1",
    "1.2.3/24",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\n",
    "\\ud800",
    "\u{202e}",
    "\u{feff}",
    "\0",
    "\n",
    "\r",
    "\t",
    " ",
    "null",
    "true",
    "false",
    "0",
    "1e999",
    "\u{e4}",
    "blake3:",
    "BLAKE3:",
    "ffff",
    "unknown",
    "\"unknown\":1,",
    "key_",
    "\u{7f}",
    "\u{9b}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

impl Target for KeyLine {
    const NAME: &'static str = "key_line";
    const FRAGMENTS: &'static [&'static str] = FRAGMENTS;
    const WORDS: &'static [&'static str] = &["read", "faulty", "not JSON"];

    fn examples(&self) -> Vec<Vec<u8>> {
        let hash = "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        let full = format!(
            r#"{{"id":"key_1","name":"web site","hash":"{hash}","hint":"x9Qz","model_access":{{"mode":"inclusive","models":["llama-3.3-70b"]}},"allow_from":["192.0.2.0/24"],"expires_at":"2027-02-01T00:00:00Z","created_at":"2026-11-22T10:00:00Z","account":"acme","disabled":false}}"#
        );
        let least = format!(
            r#"{{"model_access":{{"mode":"all"}},"hash":"{hash}","name":"\u00e4 \ud83d\ude00","id":"k"}}"#
        );
        let other = "blake3:00000000000000000000000000000000000000000000000000000000000000FF";
        let rotated = format!(
            r#"{{"id":"key_1","name":"n","hash":"{hash}","previous":{{"hint":"aB3x","hash":"{other}","not_after":"2026-12-01T00:00:00Z"}},"model_access":{{"mode":"all"}}}}"#
        );
        bytes_of(&[&full, &least, &rotated, "{}", "{"])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let value = serde_json::from_slice::<Value>(input);
        match parse_line(input, &mut Interner::default()) {
            Ok(key) => {
                let value = value.expect("what is taken is JSON");
                assert_says(&value, &key);
                assert_eq!(value["id"], key.id());
                assert_eq!(
                    value["hash"].as_str().map(str::to_lowercase),
                    Some(key.hash().to_string())
                );
                assert_eq!(value["hint"].as_str(), key.hint());
                let previous = &value["previous"];
                assert_eq!(previous.is_object(), key.previous().is_some());
                if let Some(known) = key.previous() {
                    let hash = previous["hash"].as_str().map(str::to_lowercase);
                    assert_eq!(hash, Some(known.hash().to_string()));
                    assert_ne!(known.hash(), key.hash());
                    assert_eq!(previous["hint"].as_str(), known.hint());
                    let end = previous["not_after"].as_str().map(seconds);
                    assert_eq!(end, Some(known.not_after().seconds()));
                }
                let created = value["created_at"].as_str().map(seconds);
                assert_eq!(created, key.created_at().map(UnixTime::seconds));
                assert_reads_back(&key);
                "read"
            }
            Err(errors) => {
                assert!(!errors.is_empty(), "refused without a word");
                for error in &errors {
                    assert_helpful(&error.to_string());
                }
                if value.is_ok() { "faulty" } else { "not JSON" }
            }
        }
    }
}

/// What the object says about a key's rules is what the key will do.
pub fn assert_says(value: &Value, key: &Key) {
    assert_eq!(value["name"], key.name());
    assert_eq!(value["account"].as_str(), key.account());
    assert_eq!(value["model_access"]["mode"], key.model_access().mode());
    let models: Vec<&str> = texts(&value["model_access"]["models"]);
    assert!(
        key.model_access()
            .models()
            .iter()
            .map(|name| &**name)
            .eq(models),
        "other models"
    );
    assert_eq!(value["disabled"].as_bool().unwrap_or(false), key.disabled());
    let networks: Vec<Ipv4Net> = texts(&value["allow_from"])
        .into_iter()
        .map(network)
        .collect();
    assert_eq!(networks, key.allow_from().networks());
    let end = value["expires_at"].as_str().filter(|text| text.len() > 10);
    if let Some(end) = end {
        assert_eq!(Some(seconds(end)), key.expires_at().map(UnixTime::seconds));
    } else {
        assert_eq!(value["expires_at"].is_string(), key.expires_at().is_some());
    }
}

/// Written as a line of the key file and read again, it is the same key.
pub fn assert_reads_back(key: &Key) {
    let mut line = Vec::new();
    write_line(key, &mut line);
    let ends = line.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((ends, line.last()), (1, Some(&b'\n')), "not one line");
    assert_eq!(
        parse_line(&line, &mut Interner::default()).as_ref(),
        Ok(key),
        "read back otherwise: {}",
        line.escape_ascii()
    );
}

fn texts(value: &Value) -> Vec<&str> {
    let entries = value.as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().filter_map(Value::as_str).collect()
}

fn network(text: &str) -> Ipv4Net {
    let whole = if text.contains('/') {
        text.to_owned()
    } else {
        format!("{text}/32")
    };
    whole.parse::<Ipv4Net>().expect("a network").trunc()
}

/// The time by jiff's own reading, without its fraction.
fn seconds(text: &str) -> i64 {
    let whole = match text.find('.') {
        Some(point) => {
            let digits = text[point + 1..]
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            format!("{}{}", &text[..point], &text[point + 1 + digits..])
        }
        None => text.to_owned(),
    };
    let time: jiff::Timestamp = whole.parse().expect("a time");
    time.as_second()
}
