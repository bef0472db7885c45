use super::*;
use crate::policy::key::fixture::key_fields;
use proptest::prelude::*;

const HASH: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// A minimal line in which this field is replaced or added.
fn line(field: &str, value: &str) -> String {
    let mut fields = vec![
        ("id", "\"key_1\"".to_owned()),
        ("name", "\"web site\"".to_owned()),
        ("hash", format!("\"{HASH}\"")),
        ("model_access", r#"{"mode":"all"}"#.to_owned()),
    ];
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value.to_owned()));
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn parse(line: &str) -> Result<Key, Vec<FieldError>> {
    parse_line(line.as_bytes(), &mut Interner::default())
}

/// The only error of a line.
fn error(line: &str) -> FieldError {
    let mut errors = parse(line).unwrap_err();
    assert_eq!(errors.len(), 1, "{line}: {errors:?}");
    errors.remove(0)
}

#[test]
fn the_line_of_the_documentation_is_read_and_written_back_unchanged() {
    let text = format!(
        r#"{{"id":"key_1","name":"web site","hash":"{HASH}","hint":"x9Qz","previous":{{"hash":"{OLD}","hint":"aB3x","not_after":"2026-12-01T00:00:00Z"}},"model_access":{{"mode":"inclusive","models":["llama-3.3-70b"]}},"allow_from":["192.0.2.0/24"],"expires_at":"2027-02-01T00:00:00Z","created_at":"2026-11-22T10:00:00Z","account":"acme","disabled":false}}"#
    );
    let key = parse(&text).unwrap();
    assert_eq!(
        (key.name(), key.account(), key.disabled()),
        ("web site", Some("acme"), false)
    );
    let mut written = Vec::new();
    write_line(&key, &mut written);
    assert_eq!(String::from_utf8(written).unwrap(), text + "\n");
}

const OLD: &str = "blake3:00000000000000000000000000000000000000000000000000000000000000ff";

#[test]
fn a_previous_token_is_read_and_written_back_with_or_without_its_hint() {
    for hint in ["", r#","hint":"aB3x""#] {
        let text = format!(
            r#"{{"id":"key_1","name":"n","hash":"{HASH}","hint":"x9Qz","previous":{{"hash":"{OLD}"{hint},"not_after":"2027-02-01T00:00:00Z"}},"model_access":{{"mode":"all"}},"allow_from":[],"disabled":false}}"#
        );
        let key = parse(&text).unwrap();
        let previous = key.previous().unwrap();
        assert_eq!(previous.hint(), (!hint.is_empty()).then_some("aB3x"));
        assert_eq!(previous.hash().to_string(), OLD);
        assert_eq!(previous.not_after().to_string(), "2027-02-01T00:00:00Z");
        let mut written = Vec::new();
        write_line(&key, &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), text + "\n");
    }
}

#[test]
fn a_wrong_previous_token_says_which_of_its_fields_is_wrong() {
    let end = r#""not_after":"2027-02-01T00:00:00Z""#;
    for (value, field, what) in [
        ("\"x\"".to_owned(), "previous", "must be an object"),
        ("[]".to_owned(), "previous", "must be an object, not a list"),
        (format!("{{{end}}}"), "previous.hash", "is missing"),
        (
            format!(r#"{{"hash":"{OLD}"}}"#),
            "previous.not_after",
            "is missing",
        ),
        (
            format!(r#"{{"hash":"{OLD}","not_after":null}}"#),
            "previous.not_after",
            "must be a string",
        ),
        (
            format!(r#"{{"hash":"{OLD}","not_after":"2027-02-01"}}"#),
            "previous.not_after",
            "is not an RFC 3339 time",
        ),
        (
            format!(r#"{{"hash":"kg_x",{end}}}"#),
            "previous.hash",
            "must be blake3:",
        ),
        (
            format!(r#"{{"hash":"{OLD}","hint":"toolong",{end}}}"#),
            "previous.hint",
            "must be the token's last 4",
        ),
        (
            format!(r#"{{"hash":"{HASH}",{end}}}"#),
            "previous.hash",
            "is that of the key's own token too",
        ),
        (
            format!(r#"{{"hash":"{OLD}",{end},"grace":1}}"#),
            "previous",
            "holds grace, which is unknown",
        ),
        (
            format!(r#"{{"hash":"{OLD}",{end},{end}}}"#),
            "previous",
            "names not_after twice",
        ),
    ] {
        let error = error(&line("previous", &value));
        assert_eq!(error.field, field, "{value}");
        assert!(error.message.starts_with(what), "{error}");
    }
}

#[test]
fn required_fields_alone_make_a_key_and_each_of_them_must_be_there() {
    let key = parse(&line("disabled", "true")).unwrap();
    assert!(key.disabled() && key.hint().is_none() && key.expires_at().is_none());
    for missing in ["id", "name", "hash", "model_access"] {
        let text = line("disabled", "false").replace(&format!("\"{missing}\":"), "\"x\":");
        let fields: Vec<_> = parse(&text)
            .unwrap_err()
            .into_iter()
            .map(|c| c.field)
            .collect();
        assert_eq!(fields, ["x", missing]);
    }
}

#[test]
fn null_is_absent_where_absence_is_allowed() {
    for field in [
        "hint",
        "previous",
        "allow_from",
        "expires_at",
        "created_at",
        "account",
    ] {
        assert!(parse(&line(field, "null")).is_ok(), "{field}");
    }
    for field in ["id", "name", "hash", "model_access", "disabled"] {
        assert_eq!(error(&line(field, "null")).field, field);
    }
}

#[test]
fn every_fault_of_a_line_is_told_at_once() {
    let text = r#"{"id":"a b","name":"","hash":"sha256:00","model_access":{"mode":"some"},"allow_from":"10.0.0.0/8","expires_at":"soon","disabled":"no","colour":1,"name":"twice"}"#;
    let fields: Vec<_> = parse(text)
        .unwrap_err()
        .into_iter()
        .map(|c| c.field)
        .collect();
    assert_eq!(
        fields,
        [
            "colour",
            "name",
            "id",
            "hash",
            "model_access.mode",
            "allow_from",
            "expires_at",
            "disabled"
        ]
    );
}

#[test]
fn a_field_of_another_type_says_what_it_must_be() {
    for (field, value, what) in [
        ("name", "1", "must be a string, not a number"),
        ("hint", "[]", "must be a string, not a list"),
        ("expires_at", "1800000000", "must be a string, not a number"),
        ("account", "{}", "must be a string, not an object"),
        (
            "allow_from",
            "{}",
            "must be a list of networks, not an object",
        ),
        ("allow_from", "[1]", "holds a number"),
        ("model_access", "\"all\"", "must be an object, not a string"),
        ("disabled", "0", "must be true or false, not a number"),
    ] {
        let error = error(&line(field, value));
        assert_eq!(error.field, field);
        assert!(error.message.starts_with(what), "{error}");
    }
}

#[test]
fn modes_take_models_as_their_meaning_asks() {
    for (access, field) in [
        (r#"{"mode":"all","models":["a"]}"#, "model_access.models"),
        (r#"{"mode":"all","models":[]}"#, "model_access.models"),
        (r#"{"mode":"inclusive"}"#, "model_access.models"),
        (r#"{"mode":"inclusive","models":[]}"#, "model_access.models"),
        (
            r#"{"mode":"exclusive","models":[""]}"#,
            "model_access.models",
        ),
        (
            r#"{"mode":"exclusive","models":["a",1]}"#,
            "model_access.models",
        ),
        (
            r#"{"mode":"exclusive","models":"a"}"#,
            "model_access.models",
        ),
        (
            r#"{"mode":"exclusive","models":null}"#,
            "model_access.models",
        ),
        (r#"{"mode":"All"}"#, "model_access.mode"),
        (r#"{"models":["a"]}"#, "model_access.mode"),
        ("{}", "model_access.mode"),
        (r#"{"mode":"all","mode":"all"}"#, "model_access"),
        (r#"{"mode":"all","deny":[]}"#, "model_access"),
    ] {
        assert_eq!(
            error(&line("model_access", access)).field,
            field,
            "{access}"
        );
    }
    assert!(parse(&line("model_access", r#"{"mode":"all","models":null}"#)).is_ok());
    let key = parse(&line(
        "model_access",
        r#"{"models":["a","b"],"mode":"exclusive"}"#,
    ));
    assert_eq!(key.unwrap().model_access().models().len(), 2);
}

#[test]
fn an_ipv6_entry_says_that_it_is_not_possible() {
    for entry in ["::1", "::ffff:192.0.2.7", "2001:db8::/32"] {
        let error = error(&line("allow_from", &format!("[\"{entry}\"]")));
        assert!(
            error
                .message
                .contains("restricting a key to IPv6 networks is not possible"),
            "{error}"
        );
    }
    assert!(
        parse(&line("allow_from", "[]"))
            .unwrap()
            .allow_from()
            .networks()
            .is_empty()
    );
}

#[test]
fn the_file_takes_a_past_expiry_but_no_bare_date() {
    assert!(parse(&line("expires_at", "\"1999-01-01T00:00:00Z\"")).is_ok());
    for bad in ["2027-01-31", "2027-01-31T00:00:00", "9999999999", ""] {
        let text = line("expires_at", &format!("\"{bad}\""));
        assert_eq!(error(&text).field, "expires_at");
    }
}

#[test]
fn what_is_not_one_whole_object_is_a_fault() {
    let whole = line("disabled", "false");
    for end in 0..whole.len() {
        assert!(parse(&whole[..end]).is_err(), "{}", &whole[..end]);
    }
    for bad in [
        format!("{whole}{whole}"),
        format!("{whole},"),
        format!("\u{feff}{whole}"),
        format!("[{whole}]"),
        "null".to_owned(),
        "\0\0\0\0".to_owned(),
        "{\"a\":".repeat(100_000),
        "[".repeat(100_000),
    ] {
        assert!(parse(&bad).is_err());
    }
    assert!(parse_line(b"{\"id\":\"\xff\"}", &mut Interner::default()).is_err());
}

#[test]
fn no_error_repeats_a_value_that_may_be_a_token() {
    for field in [
        "id",
        "hash",
        "hint",
        "expires_at",
        "token",
        "disabled",
        "account",
    ] {
        let text = line(field, "\"kg_secret\\u0000 and more than four\"");
        assert!(
            !format!("{:?}", parse(&text)).contains("kg_secret"),
            "{field}"
        );
    }
}

#[test]
fn field_names_are_shown_short_and_without_control_characters() {
    let name = format!("\\u001b[31m{}", "x".repeat(100));
    let error = error(&line(&name, "1"));
    assert!(error.field.starts_with("\\u{1b}[31mxxx") && error.field.len() < 60);
}

#[test]
fn keys_with_equal_lists_and_accounts_share_their_memory() {
    let mut interner = Interner::default();
    let mut read = |models: &str| {
        let access = format!(r#"{{"mode":"inclusive","models":{models}}},"account":"acme""#);
        parse_line(line("model_access", &access).as_bytes(), &mut interner).unwrap()
    };
    let (one, other, same) = (
        read(r#"["a","b"]"#),
        read(r#"["ab"]"#),
        read(r#"["a","b"]"#),
    );
    assert!(std::ptr::eq(
        one.model_access().models(),
        same.model_access().models()
    ));
    assert_eq!(&*other.model_access().models()[0], "ab");
    assert!(std::ptr::eq(
        one.account().unwrap(),
        same.account().unwrap()
    ));
}

proptest! {
    #[test]
    fn whatever_can_be_a_key_survives_its_line(
        name in "\\PC{1,100}", account in prop::option::of("\\PC{1,100}"),
        models in prop::collection::vec("(?s).{1,20}", 0..4), networks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4),
        seconds in prop::option::of(0_i64..253_402_300_799), disabled: bool, hint in prop::option::of("[!-~]{4}"),
        previous in prop::option::of(("[a-z]{4}", prop::option::of("[!-~]{4}"), 0_i64..253_402_300_799)),
    ) {
        let networks = networks.into_iter().map(|(address, prefix)| Ipv4Net::new(address.into(), prefix).unwrap().trunc());
        let key = Key::from(KeyFields {
            name: KeyName::parse(&name).unwrap(),
            hash: TokenHash::of(name.as_bytes()),
            hint: hint.map(|hint| Hint::parse(&hint).unwrap()),
            previous: previous.map(|(token, hint, not_after)| {
                let hint = hint.map(|hint| Hint::parse(&hint).unwrap());
                let hash = TokenHash::of(format!("previous {token}").as_bytes());
                PreviousToken::new(hash, hint, UnixTime::from_seconds(not_after))
            }),
            model_access: ModelList::new(models).map_or(ModelAccess::All, ModelAccess::Inclusive),
            allow_from: AllowFrom::from_networks(networks.collect()),
            expires_at: seconds.map(UnixTime::from_seconds),
            account: account.map(|account| Account::parse(&account).unwrap()),
            disabled,
            ..key_fields("key_1")
        });
        let mut text = Vec::new();
        write_line(&key, &mut text);
        prop_assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(parse_line(&text, &mut Interner::default()), Ok(key));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_line(&bytes, &mut Interner::default());
    }

    #[test]
    fn no_flipped_bit_panics(at in 0_usize..120, bit in 0_u8..8) {
        let mut bytes = line("allow_from", r#"["10.0.0.0/8"]"#).into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = parse_line(&bytes, &mut Interner::default());
    }
}
