use proptest::prelude::*;

use super::*;
use crate::policy::account::fixture::account;
use crate::policy::account::{AccountRules, KeyDays};
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

/// A key whose account has no ceilings, since there is none.
fn free(key: &Key) -> Option<JudgedKey<'_>> {
    Some(JudgedKey::new(key, None))
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
        caller(free(&disabled), &token(), from("192.0.2.1"), NOW).unwrap_err(),
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
        caller(free(&all_wrong(true)), &token(), elsewhere, NOW).unwrap_err(),
        Denial::InvalidApiKey
    );
    assert_eq!(
        caller(free(&all_wrong(false)), &token(), elsewhere, NOW).unwrap_err(),
        Denial::ExpiredApiKey
    );
    let early = UnixTime::from_seconds(999);
    assert_eq!(
        caller(free(&all_wrong(false)), &token(), elsewhere, early).unwrap_err(),
        Denial::IpNotAuthorized
    );
    assert!(caller(free(&all_wrong(false)), &token(), from("192.0.2.1"), early).is_ok());
}

#[test]
fn a_model_nobody_serves_and_a_model_not_allowed_are_refused_alike() {
    let good = ModelList::new(vec!["good".into()]).unwrap();
    let key = key(|fields| fields.model_access = ModelAccess::Inclusive(good));
    let caller = caller(free(&key), &token(), from("192.0.2.1"), NOW).unwrap();
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
    let permit = caller(free(&before), &token(), from("192.0.2.1"), NOW)
        .unwrap()
        .for_model("good", None, |_| Some(()))
        .unwrap();
    let changed = |change: fn(&mut KeyFields)| permit.recheck(free(&key(change)), NOW);
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
        let caller = caller(free(&rotated), hash, from("::1"), now);
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
    let permit = caller(free(&before), before.hash(), from("::1"), NOW)
        .and_then(|caller| caller.for_model("good", None, |_| Some(())))
        .unwrap();
    let end = NOW.plus(10);
    let rotated = before.rotated(TokenHash::of(b"new"), None, Some(end));
    assert_eq!(permit.recheck(free(&rotated), end.plus(-1)), Ok(()));
    let gone = Err(Denial::InvalidApiKey);
    assert_eq!(permit.recheck(free(&rotated), end), gone);
    let at_once = before.rotated(TokenHash::of(b"new"), None, None);
    assert_eq!(permit.recheck(free(&at_once), NOW), gone);
    // Disabled and expired keys are refused with either token.
    let mut fields = rotated.fields();
    fields.expires_at = Some(NOW);
    let expired = Key::from(fields.clone());
    assert_eq!(
        permit.recheck(free(&expired), NOW),
        Err(Denial::ExpiredApiKey)
    );
    fields.disabled = true;
    assert_eq!(permit.recheck(free(&Key::from(fields)), NOW), gone);
}

fn ask(
    key: &Key,
    account: Option<&AccountRules>,
    address: &str,
    model: &str,
    now: UnixTime,
) -> Result<(), Denial> {
    let judged = JudgedKey::new(key, account);
    caller(Some(judged), key.hash(), from(address), now)?
        .for_model(model, Some("real".into()), |_| Some(()))
        .map(drop)
}

#[test]
fn each_ceiling_of_an_account_refuses_what_its_key_would_allow() {
    let key = key(|fields| fields.created_at = Some(NOW));
    let list = |name: &str| ModelList::new(vec![name.into()]).unwrap();
    let late = NOW.plus(86_400);
    let asked = |change: fn(&mut AccountRules, ModelList, AllowFrom), now| {
        let mut rules = account("acme");
        change(&mut rules, list("good"), networks());
        let judged = |address, model| ask(&key, Some(&rules), address, model, now);
        [
            judged("192.0.2.1", "good"),
            judged("192.0.2.1", "bad"),
            judged("10.0.0.1", "good"),
        ]
    };
    let (no_model, no_key) = (Err(Denial::ModelNotFound), Err(Denial::InvalidApiKey));
    assert_eq!(asked(|_, _, _| (), NOW), [Ok(()); 3]);
    assert_eq!(asked(|rules, _, _| rules.disabled = true, NOW), [no_key; 3]);
    assert_eq!(
        asked(
            |rules, list, _| rules.model_access = ModelAccess::Inclusive(list),
            NOW
        ),
        [Ok(()), no_model, Ok(())]
    );
    assert_eq!(
        asked(
            |rules, list, _| rules.model_access = ModelAccess::Exclusive(list),
            NOW
        ),
        [no_model, Ok(()), no_model]
    );
    assert_eq!(
        asked(|rules, _, networks| rules.allow_from = networks, NOW),
        [Ok(()), Ok(()), Err(Denial::IpNotAuthorized)]
    );
    let for_a_day = |rules: &mut AccountRules, _, _| rules.max_key_days = KeyDays::of(1);
    assert_eq!(asked(for_a_day, late.plus(-1)), [Ok(()); 3]);
    assert_eq!(asked(for_a_day, late), [Err(Denial::ExpiredApiKey); 3]);
}

#[test]
fn a_permit_ends_where_its_account_is_narrowed() {
    let key = key(|fields| fields.created_at = Some(NOW));
    let rules = account("acme");
    let permit = caller(
        Some(JudgedKey::new(&key, Some(&rules))),
        key.hash(),
        from("192.0.2.1"),
        NOW,
    )
    .and_then(|caller| caller.for_model("good", None, |_| Some(())))
    .unwrap();
    let narrowed = |change: fn(&mut AccountRules)| {
        let mut rules = rules.clone();
        change(&mut rules);
        permit.recheck(Some(JudgedKey::new(&key, Some(&rules))), NOW)
    };
    assert_eq!(narrowed(|_| ()), Ok(()));
    assert_eq!(
        narrowed(|rules| rules.disabled = true),
        Err(Denial::InvalidApiKey)
    );
    assert_eq!(
        narrowed(|rules| {
            let other = ModelList::new(vec!["other".into()]).unwrap();
            rules.model_access = ModelAccess::Inclusive(other);
        }),
        Err(Denial::ModelNotFound)
    );
    assert_eq!(
        narrowed(|rules| {
            let network = parse_network("10.0.0.0/8").unwrap();
            rules.allow_from = AllowFrom::from_networks(vec![network]);
        }),
        Err(Denial::IpNotAuthorized)
    );
}

fn some_models() -> impl Strategy<Value = ModelAccess> {
    let names = prop::collection::vec(prop::sample::select(vec!["good", "bad", "real"]), 1..3);
    let list = |names: Vec<&str>| {
        ModelList::new(names.into_iter().map(ToOwned::to_owned).collect()).unwrap()
    };
    prop_oneof![
        Just(ModelAccess::All),
        names
            .clone()
            .prop_map(move |names| ModelAccess::Inclusive(list(names))),
        names.prop_map(move |names| ModelAccess::Exclusive(list(names))),
    ]
}

fn some_networks() -> impl Strategy<Value = AllowFrom> {
    let network = prop::sample::select(vec!["192.0.2.0/24", "192.0.2.1", "10.0.0.0/8"]);
    prop::collection::vec(network, 0..3).prop_map(|networks| {
        let parsed = networks
            .into_iter()
            .map(|text| parse_network(text).unwrap());
        AllowFrom::from_networks(parsed.collect())
    })
}

prop_compose! {
    fn some_key()(
        model_access in some_models(),
        allow_from in some_networks(),
        expires_at in prop::option::of(990_i64..1_010),
        created_at in prop::option::of(-100_000_i64..2_000),
        disabled in prop::bool::weighted(0.1),
    ) -> Key {
        key(|fields| {
            fields.model_access = model_access;
            fields.allow_from = allow_from;
            fields.expires_at = expires_at.map(UnixTime::from_seconds);
            fields.created_at = created_at.map(UnixTime::from_seconds);
            fields.disabled = disabled;
        })
    }
}

prop_compose! {
    fn some_account()(
        model_access in some_models(),
        allow_from in some_networks(),
        max_key_days in prop::option::of(1_u64..3),
        disabled in prop::bool::weighted(0.1),
    ) -> AccountRules {
        AccountRules {
            model_access,
            allow_from,
            max_key_days: max_key_days.and_then(KeyDays::of),
            disabled,
            ..account("acme")
        }
    }
}

proptest! {
    #[test]
    fn no_key_passes_what_its_account_does_not(
        key in some_key(),
        rules in some_account(),
        address in prop::sample::select(vec!["192.0.2.1", "192.0.2.9", "10.0.0.1", "::1"]),
        model in prop::sample::select(vec!["good", "bad", "real"]),
    ) {
        // A key that nothing limits stands for the account alone.
        let free_key = Key::from(KeyFields {
            created_at: key.created_at(),
            ..key_fields("key_1")
        });
        let both = ask(&key, Some(&rules), address, model, NOW).is_ok();
        let by_key = ask(&key, None, address, model, NOW).is_ok();
        let by_account = ask(&free_key, Some(&rules), address, model, NOW).is_ok();
        prop_assert_eq!(both, by_key && by_account);
        // And the account by its own words, without the judgement.
        let passes = !rules.disabled
            && rules.allow_from.admits(from(address))
            && rules.model_access.allows_as(model, Some("real"));
        prop_assert!(passes || !both);
    }
}
