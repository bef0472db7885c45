//! The admin API's bodies, for a new key and for a change: not JSON exactly where serde_json says so, and what is
//! taken becomes the key that the body says, on disk too. The running API is fed in `tests/blackbox/admin/mutated.rs`.

use keygate::policy::key::{Key, KeyFields, KeyId};
use keygate::policy::token::TokenHash;
use keygate::store::key_json::KeyJsonError;
use keygate::store::patch::{NewKey, parse_new, parse_patch};
use serde_json::Value;

use super::key_line::{FRAGMENTS, assert_reads_back, assert_says};
use super::{Target, assert_helpful, bytes_of};

/// See the module.
#[derive(Default)]
pub struct AdminBody;

impl Target for AdminBody {
    const NAME: &'static str = "admin_body";
    const FRAGMENTS: &'static [&'static str] = FRAGMENTS;
    const WORDS: &'static [&'static str] = &["a key", "a change", "faulty", "not JSON"];

    fn examples(&self) -> Vec<Vec<u8>> {
        bytes_of(&[
            r#"{"name":"web","model_access":{"mode":"inclusive","models":["good","org/name"]},"allow_from":["192.0.2.0/24"],"expires_at":"2027-01-31","account":"acme"}"#,
            r#"{"model_access":{"mode":"all"},"name":"n"}"#,
            r#"{"disabled":true}"#,
            r#"{"allow_from":[],"expires_at":null,"account":null,"name":"other"}"#,
            r#"{"name":1}"#,
            "{}",
            "{",
        ])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let value = serde_json::from_slice::<Value>(input);
        let known_to_be_json = value.is_ok();
        let told = |fault: KeyJsonError| match fault {
            KeyJsonError::NotJson(error) => {
                assert!(!known_to_be_json, "it is JSON: {error}");
                assert_helpful(&error.to_string());
            }
            KeyJsonError::Invalid(error) => assert_helpful(&error.to_string()),
        };
        let new = parse_new(input).map_err(told);
        let patch = parse_patch(input).map_err(told);
        if let Ok(new) = &new {
            let key = key_of(new.clone(), "key_new", input);
            assert_says(value.as_ref().expect("what is taken is JSON"), &key);
            assert_reads_back(&key);
        }
        if let Ok(patch) = &patch {
            let before = before();
            let after = patch.applied_to(&before);
            assert_reads_back(&after);
            let value = value.as_ref().expect("what is taken is JSON");
            assert_says(&merged(value), &after);
            assert_eq!((after.id(), after.hash()), (before.id(), before.hash()));
            for field in patch.fields() {
                assert!(value.get(field).is_some(), "{field} was not named");
            }
        }
        match (new, patch) {
            (Ok(_), Ok(_)) => "a key",
            (Ok(_), Err(())) => panic!("a key can be made so, but not be changed to it"),
            (Err(()), Ok(_)) => "a change",
            (Err(()), Err(())) if known_to_be_json => "faulty",
            (Err(()), Err(())) => "not JSON",
        }
    }
}

const BEFORE: &str = r#"{"name":"before","model_access":{"mode":"exclusive","models":["bad"]},"allow_from":["198.51.100.0/24"],"expires_at":"2030-01-01T00:00:00Z","account":"acme"}"#;

fn before() -> Key {
    let new = parse_new(BEFORE.as_bytes()).expect("a key");
    key_of(new, "key_before", b"before")
}

fn key_of(new: NewKey, id: &str, token: &[u8]) -> Key {
    let NewKey {
        name,
        model_access,
        allow_from,
        expires_at,
        account,
        created_by,
        allowance,
    } = new;
    let id = KeyId::parse(id).expect("an id");
    Key::from(KeyFields {
        expires_at,
        account,
        created_by,
        allowance,
        ..KeyFields::new(id, name, TokenHash::of(token), model_access, allow_from)
    })
}

/// The key before, as JSON, with what the change names in its place.
fn merged(change: &Value) -> Value {
    let mut merged: Value = serde_json::from_str(BEFORE).expect("JSON");
    for (name, value) in change.as_object().expect("an object") {
        merged[name] = value.clone();
    }
    merged
}
