use super::*;
use crate::policy::key::fixture::key_fields;
use crate::policy::token::TokenHash;
use crate::store::key_json::parse_line;

#[test]
fn a_new_key_needs_a_name_and_its_models_and_takes_no_more_than_it_may() {
    let new = parse_new(
        br#"{"name":"n","model_access":{"mode":"all"},"allow_from":["10.1.2.3/8"],"expires_at":"2027-01-31","account":"a"}"#,
    )
    .unwrap();
    assert_eq!(new.allow_from.networks()[0].to_string(), "10.0.0.0/8");
    assert_eq!(new.expires_at.unwrap().to_string(), "2027-02-01T00:00:00Z");
    for (body, field) in [
        (r#"{"model_access":{"mode":"all"}}"#, "name"),
        (r#"{"name":"n"}"#, "model_access"),
        (
            r#"{"name":"n","model_access":{"mode":"all"},"id":"key_1"}"#,
            "id",
        ),
        (
            r#"{"name":"n","model_access":{"mode":"all"},"disabled":true}"#,
            "disabled",
        ),
        (
            r#"{"name":"n","model_access":{"mode":"all"},"name":"m"}"#,
            "name",
        ),
        (r#"[]"#, ""),
        (r#""name""#, ""),
    ] {
        match parse_new(body.as_bytes()) {
            Err(KeyJsonError::Invalid(error)) => assert_eq!(error.field, field),
            other => panic!("{body}: {other:?}"),
        }
    }
    for body in [
        &b""[..],
        b"{",
        b"name=n",
        b"[1",
        b"{}{}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
    ] {
        assert!(
            matches!(parse_new(body), Err(KeyJsonError::NotJson(_))),
            "{body:?}"
        );
    }
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_clears_what_is_null_or_empty() {
    let key = parse_line(
        br#"{"id":"key_1","name":"web site","hash":"blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262","model_access":{"mode":"all"},"allow_from":["10.0.0.0/8"],"expires_at":"2027-01-31T00:00:00Z","account":"acme"}"#,
        &mut Interner::default(),
    )
    .unwrap();
    let changed = |body: &str| parse_patch(body.as_bytes()).unwrap().applied_to(&key);
    assert_eq!(changed("{}"), key);
    let cleared = changed(r#"{"allow_from":[],"expires_at":null,"account":null}"#);
    assert_eq!(
        cleared,
        changed(r#"{"allow_from":null,"expires_at":null,"account":null}"#)
    );
    assert_eq!((cleared.expires_at(), cleared.account()), (None, None));
    assert!(cleared.allow_from().networks().is_empty());
    assert!(changed(r#"{"disabled":true}"#).disabled());
    let patch = parse_patch(br#"{"disabled":true,"name":"other"}"#).unwrap();
    assert!(patch.revocation().disables);
    assert_eq!(patch.fields(), ["name", "disabled"]);
    for body in [
        r#"{"name":null}"#,
        r#"{"model_access":null}"#,
        r#"{"disabled":null}"#,
        r#"{"hash":"x"}"#,
        r#"{"created_at":null}"#,
    ] {
        assert!(
            matches!(parse_patch(body.as_bytes()), Err(KeyJsonError::Invalid(_))),
            "{body}"
        );
    }
}

#[test]
fn a_change_keeps_the_previous_token_and_no_body_can_set_or_end_it() {
    let end = UnixTime::from_seconds(10);
    let before = Key::from(key_fields("key_1"));
    let key = before.rotated(TokenHash::of(b"new"), None, Some(end));
    let patch = parse_patch(br#"{"name":"another","disabled":true}"#).unwrap();
    assert_eq!(patch.applied_to(&key).previous(), key.previous());
    assert!(patch.revocation().disables && !patch.revocation().ends_previous);
    for body in [r#"{"previous":null}"#, r#"{"ends_previous":true}"#] {
        assert!(parse_patch(body.as_bytes()).is_err(), "{body}");
    }
    let ends = KeyPatch {
        ends_previous: true,
        ..KeyPatch::default()
    };
    assert_eq!(ends.applied_to(&key).previous(), None);
    assert_eq!(ends.applied_to(&key).hash(), key.hash());
    assert_eq!(ends.fields(), ["previous"]);
}
