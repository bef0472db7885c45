use super::*;
use crate::policy::key::fixture::key_fields;
use crate::policy::key::{KeyFields, KeyName};
use crate::policy::model_access::{ModelAccess, ModelList};
use crate::policy::network::{AllowFrom, parse_network};

const NOW: UnixTime = UnixTime::from_seconds(1_000);

fn key(change: impl FnOnce(&mut KeyFields)) -> Key {
    let mut fields = key_fields("key_1");
    change(&mut fields);
    Key::from(fields)
}

/// The hash of the token that the key has.
fn token() -> TokenHash {
    *key(|_| ()).hash()
}

fn from(address: &str) -> ClientAddress {
    ClientAddress::of(address.parse().unwrap())
}

fn networks() -> AllowFrom {
    AllowFrom::from_networks(vec![parse_network("192.0.2.0/24").unwrap()])
}

#[test]
fn an_unknown_and_a_disabled_key_are_refused_alike() {
    let disabled = key(|fields| fields.disabled = true);
    assert_eq!(
        caller(None, &token(), from("192.0.2.1"), NOW).unwrap_err(),
        Denial::InvalidApiKey
    );
    assert_eq!(
        caller(Some(&disabled), &token(), from("192.0.2.1"), NOW).unwrap_err(),
        Denial::InvalidApiKey
    );
}

#[test]
fn the_first_broken_rule_answers() {
    let all_wrong = |disabled| {
        key(|fields| {
            fields.disabled = disabled;
            fields.expires_at = Some(NOW);
            fields.allow_from = networks();
        })
    };
    let elsewhere = from("198.51.100.1");
    assert_eq!(
        caller(Some(&all_wrong(true)), &token(), elsewhere, NOW).unwrap_err(),
        Denial::InvalidApiKey
    );
    assert_eq!(
        caller(Some(&all_wrong(false)), &token(), elsewhere, NOW).unwrap_err(),
        Denial::ExpiredApiKey
    );
    let early = UnixTime::from_seconds(999);
    assert_eq!(
        caller(Some(&all_wrong(false)), &token(), elsewhere, early).unwrap_err(),
        Denial::IpNotAuthorized
    );
    assert!(caller(Some(&all_wrong(false)), &token(), from("192.0.2.1"), early).is_ok());
}

#[test]
fn a_model_nobody_serves_and_a_model_not_allowed_are_refused_alike() {
    let good = ModelList::new(vec!["good".into()]).unwrap();
    let key = key(|fields| fields.model_access = ModelAccess::Inclusive(good));
    let caller = caller(Some(&key), &token(), from("192.0.2.1"), NOW).unwrap();
    assert_eq!(
        caller.for_model("bad", None, |_| Some(())).unwrap_err(),
        Denial::ModelNotFound
    );
    assert_eq!(
        caller.for_model("good", None, |_| None::<()>).unwrap_err(),
        Denial::ModelNotFound
    );
    assert_eq!(
        caller
            .for_model("good", None, |_| Some(()))
            .unwrap()
            .model(),
        "good"
    );
}

#[test]
fn a_permit_ends_with_what_it_rests_on() {
    let before = key(|_| ());
    let permit = caller(Some(&before), &token(), from("192.0.2.1"), NOW)
        .unwrap()
        .for_model("good", None, |_| Some(()))
        .unwrap();
    let changed = |change: fn(&mut KeyFields)| permit.recheck(Some(&key(change)), NOW);
    assert_eq!(permit.recheck(None, NOW), Err(Denial::InvalidApiKey));
    assert_eq!(
        changed(|fields| fields.disabled = true),
        Err(Denial::InvalidApiKey)
    );
    assert_eq!(
        changed(|fields| fields.expires_at = Some(NOW)),
        Err(Denial::ExpiredApiKey)
    );
    assert_eq!(
        changed(|fields| fields.allow_from =
            AllowFrom::from_networks(vec![parse_network("10.0.0.0/8").unwrap()])),
        Err(Denial::IpNotAuthorized)
    );
    assert_eq!(
        changed(|fields| {
            fields.model_access =
                ModelAccess::Exclusive(ModelList::new(vec!["good".into()]).unwrap());
        }),
        Err(Denial::ModelNotFound)
    );
    assert_eq!(
        changed(|fields| fields.name = KeyName::parse("renamed").unwrap()),
        Ok(())
    );
}

#[test]
fn a_previous_token_is_taken_until_its_end_and_then_is_as_unknown_as_any_other() {
    let before = key(|_| ());
    let end = NOW.plus(10);
    let rotated = before.rotated(TokenHash::of(b"new"), None, Some(end));
    let ask = |hash: &TokenHash, now| {
        let caller = caller(Some(&rotated), hash, from("::1"), now);
        caller.map(Caller::token)
    };
    assert_eq!(ask(before.hash(), end.plus(-1)), Ok(KeyToken::Previous));
    assert_eq!(ask(before.hash(), end), Err(Denial::InvalidApiKey));
    assert_eq!(ask(rotated.hash(), end), Ok(KeyToken::Current));
    // Whatever the table finds, the key is used only with a token of its own.
    assert_eq!(ask(&TokenHash::of(b"x"), NOW), Err(Denial::InvalidApiKey));
}

#[test]
fn a_permit_given_for_a_token_ends_with_that_token() {
    let before = key(|_| ());
    let permit = caller(Some(&before), before.hash(), from("::1"), NOW)
        .and_then(|caller| caller.for_model("good", None, |_| Some(())))
        .unwrap();
    let end = NOW.plus(10);
    let rotated = before.rotated(TokenHash::of(b"new"), None, Some(end));
    assert_eq!(permit.recheck(Some(&rotated), end.plus(-1)), Ok(()));
    let gone = Err(Denial::InvalidApiKey);
    assert_eq!(permit.recheck(Some(&rotated), end), gone);
    let at_once = before.rotated(TokenHash::of(b"new"), None, None);
    assert_eq!(permit.recheck(Some(&at_once), NOW), gone);
    // Disabled and expired keys are refused with either token.
    let mut fields = rotated.fields();
    fields.expires_at = Some(NOW);
    let expired = Key::from(fields.clone());
    assert_eq!(
        permit.recheck(Some(&expired), NOW),
        Err(Denial::ExpiredApiKey)
    );
    fields.disabled = true;
    assert_eq!(permit.recheck(Some(&Key::from(fields)), NOW), gone);
}
