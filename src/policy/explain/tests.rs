use super::*;
use crate::policy::key::KeyFields;
use crate::policy::key::fixture::key_fields;
use crate::policy::model_access::ModelList;
use crate::policy::network::parse_network;

fn key(change: impl FnOnce(&mut KeyFields)) -> Key {
    let mut fields = key_fields("key_1");
    change(&mut fields);
    Key::from(fields)
}

/// A request with the key's own token.
fn subject(key: &Key) -> Subject<'_> {
    Subject::Key(JudgedKey::new(key, None), key.hash())
}

fn ask(subject: Subject<'_>, model: &str, from: &str) -> (Option<&'static str>, String) {
    let explanation = explain(&Question {
        subject,
        model,
        sent_as: None,
        served: model != "unserved",
        address: ClientAddress::of(from.parse().unwrap()),
        at: UnixTime::from_seconds(1_000),
    });
    (explanation.denial.map(Denial::label), explanation.reason)
}

fn list(names: &[&str]) -> ModelList {
    ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
}

#[test]
fn an_allowed_request_names_every_rule_that_let_it_pass() {
    let restricted = key(|fields| {
        fields.allow_from = AllowFrom::from_networks(vec![parse_network("192.0.2.0/24").unwrap()]);
        fields.model_access = ModelAccess::Inclusive(list(&["good"]));
        fields.expires_at = Some(UnixTime::from_seconds(2_000));
    });
    assert_eq!(
        ask(subject(&restricted), "good", "192.0.2.7"),
        (
            None,
            "allowed: active key until 1970-01-01T00:33:20Z, 192.0.2.7 is in 192.0.2.0/24, the model is in its \
             inclusive list and this one is in the catalogue"
                .to_owned()
        )
    );
    let (denial, reason) = ask(subject(&key(|_| ())), "good", "2001:db8::1");
    assert_eq!(denial, None);
    assert!(reason.contains("any address") && reason.contains("every model"));
}

#[track_caller]
fn refused(subject: Subject<'_>, model: &str, from: &str, denial: &str, reason: &str) {
    let (found, sentence) = ask(subject, model, from);
    assert_eq!(found, Some(denial), "{sentence}");
    assert!(
        sentence.starts_with("denied: ") && sentence.contains(reason),
        "{sentence}"
    );
}

#[test]
fn a_refused_request_names_the_rule_that_refused_it() {
    let networks = AllowFrom::from_networks(vec![parse_network("192.0.2.0/24").unwrap()]);
    let here = key(|fields| fields.allow_from = networks.clone());
    let disabled = key(|fields| fields.disabled = true);
    let expired = key(|fields| fields.expires_at = Some(UnixTime::from_seconds(1_000)));
    let only = key(|fields| fields.model_access = ModelAccess::Inclusive(list(&["good"])));
    let but = key(|fields| fields.model_access = ModelAccess::Exclusive(list(&["bad"])));
    let key_or_none = [
        (Subject::NoSuchId, "no key has this id"),
        (Subject::NoSuchToken, "no key has this token"),
        (Subject::MalformedToken, "no bearer token"),
        (subject(&disabled), "is disabled"),
    ];
    for (subject, reason) in key_or_none {
        refused(subject, "good", "::1", "invalid_api_key", reason);
    }
    let expired = subject(&expired);
    let end = "expired at 1970-01-01T00:16:40Z";
    refused(expired, "good", "::1", "expired_api_key", end);
    for (from, reason) in [
        ("198.51.100.1", "198.51.100.1 is in none"),
        ("::1", "is IPv6"),
    ] {
        let subject = subject(&here);
        refused(subject, "good", from, "ip_not_authorized", reason);
    }
    for (key, model, reason) in [
        (&only, "unserved", "no upstream serves"),
        (&only, "bad", "not in the key's inclusive list"),
        (&but, "bad", "in the key's exclusive list"),
    ] {
        refused(subject(key), model, "::1", "model_not_found", reason);
    }
}

#[test]
fn a_request_with_the_previous_token_says_so_and_when_it_ends() {
    let at = |seconds| UnixTime::from_seconds(seconds);
    let before = key(|_| ());
    let rotated = |end| before.rotated(TokenHash::of(b"new"), None, Some(at(end)));
    let (works, ended) = (rotated(1_001), rotated(1_000));
    let (denial, reason) = ask(
        Subject::Key(JudgedKey::new(&works, None), before.hash()),
        "good",
        "::1",
    );
    assert_eq!(denial, None);
    let end = "; this is the key's previous token, which works until 1970-01-01T00:16:41Z";
    assert!(reason.ends_with(end), "{reason}");
    let (_, reason) = ask(subject(&works), "good", "::1");
    assert!(!reason.contains("previous"), "{reason}");
    let old = Subject::Key(JudgedKey::new(&ended, None), before.hash());
    let end = "previous token, which ended at 1970-01-01T00:16:40Z";
    refused(old, "good", "::1", "invalid_api_key", end);
    refused(
        Subject::Key(JudgedKey::new(&works, None), before.hash()),
        "unserved",
        "::1",
        "model_not_found",
        "previous token, which works",
    );
}
