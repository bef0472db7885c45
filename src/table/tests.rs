use super::*;
use crate::policy::account::fixture::account;
use crate::policy::key::fixture::key_fields;
use crate::policy::key::{Account, KeyFields, PreviousToken};
use proptest::prelude::*;
use std::collections::HashMap;

fn key(id: u32, token: u32, created_at: Option<i64>) -> Key {
    Key::from(KeyFields {
        hash: hash(token),
        created_at: created_at.map(UnixTime::from_seconds),
        ..key_fields(&format!("key_{id}"))
    })
}

fn swap(table: &Table, keys: Vec<Key>) -> Difference {
    let entries: Vec<_> = keys.into_iter().map(|key| table.adopt(key)).collect();
    let difference = table.compare(&entries, NO_YIELD);
    if difference.changes_table() {
        table.swap(entries, NO_YIELD);
        table.forget_ended_tokens(&difference);
    }
    difference
}

fn hash(token: u32) -> TokenHash {
    TokenHash::of(&token.to_le_bytes())
}

/// A key with a second token, which is its previous one.
fn rotated(id: u32, token: u32, previous: u32) -> Key {
    let end = UnixTime::from_seconds(1_000);
    Key::from(KeyFields {
        previous: Some(PreviousToken::new(hash(previous), None, end)),
        ..key(id, token, None).fields()
    })
}

fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key().id()).collect()
}

#[test]
fn a_removed_key_is_not_found_by_hash_or_id() {
    let table = Table::default();
    table.insert(key(1, 1, None)).unwrap();
    let before = table.generation();
    assert!(table.remove("key_1").is_some());
    assert!(table.find(&hash(1)).is_none() && table.by_id("key_1").is_none() && table.is_empty());
    assert!(table.generation() > before);
    assert!(table.remove("key_1").is_none());
}

#[test]
fn a_suspended_key_is_found_by_its_id_alone_whatever_is_done_to_it_meanwhile() {
    let table = Arc::new(Table::default());
    table.insert(rotated(1, 1, 2)).unwrap();
    table.insert(key(2, 3, None)).unwrap();
    let found = || [1, 2, 3].map(|token| table.find(&hash(token)).is_some());
    let generation = table.generation();
    let previous = table.suspend("key_1", SuspendedTokens::Previous);
    assert_eq!(found(), [true, false, true]);
    assert!(table.generation() > generation);
    let all = [(); 2].map(|()| table.suspend("key_1", SuspendedTokens::All));
    assert_eq!(found(), [false, false, true]);
    assert!(table.by_id("key_1").is_some() && table.len() == 2);
    table.replace(rotated(1, 1, 2)).unwrap();
    assert_eq!(found(), [false, false, true]);
    table.swap(table.in_file_order(NO_YIELD), NO_YIELD);
    assert_eq!(found(), [false, false, true]);
    // It is laid out anew.
    for id in 10..40_000 {
        table.insert(key(id, id, None)).unwrap();
    }
    assert_eq!(found(), [false, false, true]);
    let [first, second] = all;
    drop(first);
    assert_eq!(found(), [false, false, true]);
    drop(second);
    assert_eq!(found(), [true, false, true]);
    drop(previous);
    assert_eq!(found(), [true; 3]);
    let suspension = table.suspend("key_1", SuspendedTokens::All);
    assert!(table.remove("key_1").is_some());
    drop(suspension);
    assert_eq!(found(), [false, false, true]);
    assert!(table.suspend("key_1", SuspendedTokens::All).is_none());
}

#[test]
fn a_disabled_key_is_found_and_refused_if_it_is_enabled_meanwhile() {
    let table = Arc::new(Table::default());
    let disabled = Key::from(KeyFields {
        disabled: true,
        ..key(1, 1, None).fields()
    });
    table.insert(disabled.clone()).unwrap();
    let suspension = table.suspend("key_1", SuspendedTokens::All);
    // Whoever asks why it is refused finds it.
    assert!(table.find(&hash(1)).is_some());
    table.replace(key(1, 1, None)).unwrap();
    assert!(table.find(&hash(1)).is_none());
    table.replace(disabled).unwrap();
    drop(suspension);
    assert!(table.find(&hash(1)).is_some());
}

#[test]
fn a_token_that_another_key_has_by_now_is_that_keys() {
    let table = Arc::new(Table::default());
    table.insert(key(1, 1, None)).unwrap();
    table.insert(key(2, 2, None)).unwrap();
    let owner = || {
        table
            .find(&hash(1))
            .map(|found| found.key().id().to_owned())
    };
    let suspension = table.suspend("key_1", SuspendedTokens::All);
    table.replace(key(2, 1, None)).unwrap();
    assert_eq!(owner().as_deref(), Some("key_2"));
    drop(suspension);
    assert_eq!(owner().as_deref(), Some("key_2"));
    table.remove("key_1").unwrap();
    assert_eq!(owner().as_deref(), Some("key_2"));
}

#[test]
fn an_id_or_hash_is_taken_once() {
    let table = Table::default();
    table.insert(key(1, 1, None)).unwrap();
    assert_eq!(
        table.insert(key(1, 2, None)).unwrap_err(),
        DuplicateKeyError
    );
    assert_eq!(
        table.insert(key(2, 1, None)).unwrap_err(),
        DuplicateKeyError
    );
    table.insert(key(2, 2, None)).unwrap();
    assert_eq!(
        table.replace(key(2, 1, None)).unwrap_err(),
        DuplicateKeyError
    );
    assert_eq!(
        table.replace(key(3, 3, None)).unwrap_err(),
        DuplicateKeyError
    );
    assert_eq!(table.len(), 2);
}

#[test]
fn a_key_is_found_by_both_of_its_tokens_and_by_none_that_it_no_longer_has() {
    let found = |table: &Table, token| {
        let entry = table.find(&hash(token))?;
        entry.key().token_of(&hash(token))
    };
    let all = |table: &Table| [1, 2, 3].map(|token| found(table, token));
    let (current, previous) = (Some(KeyToken::Current), Some(KeyToken::Previous));
    let table = Table::default();
    table.insert(key(1, 1, None)).unwrap();
    table.replace(rotated(1, 2, 1)).unwrap();
    assert_eq!(all(&table), [previous, current, None]);
    table.replace(rotated(1, 3, 2)).unwrap();
    assert_eq!(all(&table), [None, previous, current]);
    assert_eq!(table.len(), 1);
    // The tokens may change their places, as a restored key file has it.
    table.replace(rotated(1, 2, 3)).unwrap();
    assert_eq!(all(&table), [None, current, previous]);
    table.replace(key(1, 2, None)).unwrap();
    assert_eq!(all(&table), [None, current, None]);
    swap(&table, vec![rotated(1, 1, 3)]);
    assert_eq!(all(&table), [current, None, previous]);
    table.remove("key_1").unwrap();
    assert_eq!(all(&table), [None, None, None]);
    table.insert(rotated(2, 3, 1)).unwrap();
    assert_eq!(all(&table), [previous, None, current]);
}

#[test]
fn a_token_belongs_to_one_key_whether_it_is_the_current_or_the_previous_one() {
    let table = Table::default();
    table.insert(rotated(1, 1, 2)).unwrap();
    for other in [
        key(2, 1, None),
        key(2, 2, None),
        rotated(2, 3, 1),
        rotated(2, 3, 2),
    ] {
        assert_eq!(table.insert(other).unwrap_err(), DuplicateKeyError);
    }
    table.insert(key(2, 3, None)).unwrap();
    for other in [key(2, 2, None), rotated(2, 3, 2), rotated(2, 4, 1)] {
        assert_eq!(table.replace(other).unwrap_err(), DuplicateKeyError);
    }
    assert_eq!(table.find(&hash(2)).unwrap().key().id(), "key_1");
}

#[test]
fn the_last_use_of_the_previous_token_is_that_tokens_own() {
    let at = UnixTime::from_seconds;
    let table = Table::default();
    let entry = table.insert(key(1, 1, None)).unwrap();
    table.count(&entry, KeyToken::Current, at(5));
    let uses = || {
        let uses = table.usage(&table.by_id("key_1").unwrap());
        (uses.requests, uses.last_used_at, uses.previous_last_used_at)
    };
    let entry = table.replace(rotated(1, 2, 1)).unwrap();
    assert_eq!(uses(), (1, Some(at(5)), None));
    table.count(&entry, KeyToken::Previous, at(9));
    assert_eq!(uses(), (2, Some(at(9)), Some(at(9))));
    // Another change of the key keeps it, the next rotation does not.
    swap(
        &table,
        vec![Key::from(KeyFields {
            disabled: true,
            ..rotated(1, 2, 1).fields()
        })],
    );
    assert_eq!(uses(), (2, Some(at(9)), Some(at(9))));
    table.replace(rotated(1, 3, 2)).unwrap();
    assert_eq!(uses(), (2, Some(at(9)), None));
    let entry = table.by_id("key_1").unwrap();
    table.count(&entry, KeyToken::Previous, at(0));
    assert_eq!(uses(), (3, Some(at(9)), Some(at(0))));
    swap(&table, vec![key(1, 3, None)]);
    assert_eq!(uses(), (3, Some(at(9)), None));
}

#[test]
fn counters_outlive_changes_and_reloads_of_the_key_but_not_its_deletion() {
    let table = Table::default();
    let entry = table.insert(key(1, 1, None)).unwrap();
    table.count(&entry, KeyToken::Current, UnixTime::from_seconds(5));
    table.replace(key(1, 7, None)).unwrap();
    swap(&table, vec![key(1, 8, Some(3))]);
    let entry = table.find(&hash(8)).unwrap();
    table.count(&entry, KeyToken::Current, UnixTime::from_seconds(9));
    let reading = table.usage(&entry);
    assert_eq!(
        (reading.requests, reading.last_used_at),
        (2, Some(UnixTime::from_seconds(9)))
    );
    table.remove("key_1");
    let again = table.insert(key(1, 1, None)).unwrap();
    assert_eq!(table.usage(&again).requests, 0);
}

#[test]
fn the_newest_key_comes_first_and_those_without_a_date_last() {
    let table = Table::default();
    let keys = vec![
        key(1, 1, None),
        key(2, 2, Some(5)),
        key(3, 3, Some(9)),
        key(4, 4, Some(5)),
        key(5, 5, None),
    ];
    swap(&table, keys);
    let first = table.newest_first(None, 3, |_| true);
    assert_eq!(ids(&first.entries), ["key_3", "key_4", "key_2"]);
    table.remove("key_2");
    let second = table.newest_first(first.next, 3, |_| true);
    assert_eq!(
        ids(&second.entries),
        ["key_5", "key_1"],
        "a cursor outlives its key"
    );
    assert_eq!(second.next, None);
    assert_eq!(
        ids(&table.in_file_order(NO_YIELD)),
        ["key_1", "key_3", "key_4", "key_5"]
    );
}

#[test]
fn a_swap_reports_what_it_adds_removes_and_changes_and_keeps_the_rest() {
    let table = Table::default();
    swap(
        &table,
        vec![key(1, 1, None), key(2, 2, None), key(3, 3, None)],
    );
    let kept = table.by_id("key_3").unwrap();
    let next = vec![key(2, 9, None), key(3, 3, None), key(4, 4, None)];
    let difference = swap(&table, next);
    assert_eq!(ids(&difference.added), ["key_4"]);
    assert_eq!(ids(&difference.removed), ["key_1"]);
    assert_eq!(ids(&difference.changed), ["key_2"]);
    assert!(Arc::ptr_eq(&kept, &table.by_id("key_3").unwrap()));
    assert!(table.find(&hash(2)).is_none() && table.find(&hash(9)).is_some());
}

#[test]
fn a_swap_with_the_same_keys_changes_nothing_but_another_order_does() {
    let table = Table::default();
    swap(&table, vec![key(1, 1, None), key(2, 2, None)]);
    let generation = table.generation();
    assert!(swap(&table, vec![key(1, 1, None), key(2, 2, None)]).is_empty());
    assert_eq!(table.generation(), generation);
    assert!(swap(&table, vec![key(2, 2, None), key(1, 1, None)]).is_empty());
    assert_eq!(ids(&table.in_file_order(NO_YIELD)), ["key_2", "key_1"]);
    assert!(table.generation() > generation);
}

#[test]
fn a_use_that_began_before_a_change_of_the_key_is_counted() {
    let table = Table::default();
    let before = table.insert(key(1, 1, None)).unwrap();
    table.replace(key(1, 1, Some(7))).unwrap();
    table.count(&before, KeyToken::Current, UnixTime::from_seconds(5));
    assert_eq!(table.usage(&table.by_id("key_1").unwrap()).requests, 1);
}

#[test]
fn readers_find_every_kept_key_while_tables_are_swapped() {
    let table = Table::default();
    swap(&table, (0..100).map(|id| key(id, id, None)).collect());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!((0..100).all(|id| table.find(&hash(id)).is_some()));
            }
        });
        for round in 0..200 {
            let newest = key(100 + round, 100 + round, None);
            let kept = (0..100).map(|id| key(id, id, Some(i64::from(round))));
            swap(&table, kept.chain([newest]).collect());
            assert!(table.find(&hash(99 + round)).is_none() || round == 0);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn whoever_lays_out_compares_or_frees_many_keys_pauses_at_each() {
    static YIELDS: AtomicU64 = AtomicU64::new(0);
    let yield_point: YieldPoint = || _ = YIELDS.fetch_add(1, Ordering::Relaxed);
    let many = 20_000;
    let all = |created_at| (0..many).map(move |id| key(id, id, Some(created_at)));
    let table = Table::default();
    swap(&table, all(1).collect());
    let entries: Vec<_> = all(2).map(|key| table.adopt(key)).collect();
    let yields = || YIELDS.swap(0, Ordering::Relaxed) / u64::from(many);
    assert_eq!(table.compare(&entries, yield_point).changed.len(), 20_000);
    // The old order is read, compared and forgotten.
    assert!(yields() >= 3);
    table.swap(entries, yield_point);
    // Two rounds by hash, one by id and age, one each for what is freed of those two and of what was given.
    assert!(yields() >= 6);
}

#[test]
fn ten_thousand_single_creates_stay_findable() {
    let table = Table::default();
    for id in 0..10_000 {
        table.insert(key(id, id, None)).unwrap();
    }
    assert!((0..10_000).all(|id| {
        table
            .find(&hash(id))
            .is_some_and(|found| found.key().id() == format!("key_{id}"))
    }));
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_map(
        steps in prop::collection::vec((0_u8..4, 0_u32..12, 0_u32..12, prop::option::of(0_u32..12)), 0..60)
    ) {
        let table = Table::default();
        let mut model: HashMap<u32, (u32, Option<u32>)> = HashMap::new();
        let made = |id, (token, previous)| match previous {
            Some(previous) => rotated(id, token, previous),
            None => key(id, token, None),
        };
        for (step, id, token, previous) in steps {
            let tokens = (token, previous.filter(|previous| *previous != token));
            let has = |(one, other): (u32, Option<u32>), token| one == token || other == Some(token);
            let is_free = |token| model.iter().all(|(other, taken)| *other == id || !has(*taken, token));
            let free = is_free(token) && tokens.1.is_none_or(is_free);
            match step {
                0 => {
                    let free = free && !model.contains_key(&id);
                    prop_assert_eq!(table.insert(made(id, tokens)).is_ok(), free);
                    if free { model.insert(id, tokens); }
                }
                1 => {
                    let fits = free && model.contains_key(&id);
                    prop_assert_eq!(table.replace(made(id, tokens)).is_ok(), fits);
                    if fits { model.insert(id, tokens); }
                }
                2 => prop_assert_eq!(table.remove(&format!("key_{id}")).is_some(), model.remove(&id).is_some()),
                _ => {
                    model.retain(|other, _| *other != id);
                    swap(&table, model.iter().map(|(id, tokens)| made(*id, *tokens)).collect());
                }
            }
            prop_assert_eq!(table.len(), model.len());
            for token in 0..12 {
                let expected = model.iter().find(|(_, taken)| has(**taken, token)).map(|(id, _)| format!("key_{id}"));
                prop_assert_eq!(table.find(&hash(token)).map(|found| found.key().id().to_owned()), expected);
            }
        }
    }
}

fn of_account(id: u32, account: &str) -> Key {
    Key::from(KeyFields {
        account: Account::parse(account).ok(),
        ..key(id, id, None).fields()
    })
}

#[test]
fn a_change_of_an_account_is_seen_by_every_key_that_names_it() {
    let table = Table::default();
    let key_rules = |id: &str| table.by_id(id).unwrap().account_rules();
    table.insert(of_account(1, "acme")).unwrap();
    let loading = table.adopt(of_account(2, "acme"));
    let held = table.by_id("key_1").unwrap();
    let before = table.generation();
    table.put_account(account("acme"));
    assert!(table.generation() > before);
    // Those that were there, those that are held, those that are being loaded, and those that come.
    table.insert(of_account(3, "acme")).unwrap();
    assert!(held.account_rules().is_some() && key_rules("key_3").is_some());
    table.swap(vec![held, loading], NO_YIELD);
    assert!(key_rules("key_1").is_some() && key_rules("key_2").is_some());
    table.put_account(AccountRules {
        disabled: true,
        ..account("acme")
    });
    assert!(key_rules("key_2").unwrap().disabled);
    let moved = table.replace(of_account(2, "other")).unwrap();
    assert!(moved.account_rules().is_none());
    assert_eq!(table.keys_of_account("acme"), ["key_1"]);
    table.remove_account("acme");
    assert!(key_rules("key_1").is_none() && table.accounts().is_empty());
}

#[test]
fn an_account_stays_without_keys_and_a_label_does_not() {
    let table = Table::default();
    table.put_account(account("acme"));
    swap(&table, vec![of_account(1, "label"), of_account(2, "acme")]);
    let label = Arc::downgrade(table.by_id("key_1").unwrap().account().unwrap());
    swap(&table, vec![key(3, 3, None)]);
    // The keys of before were held by the comparison until now.
    swap(&table, vec![key(4, 4, None)]);
    assert!(label.upgrade().is_none());
    assert!(table.account("acme").is_some());
    swap(&table, vec![of_account(2, "acme")]);
    assert!(table.by_id("key_2").unwrap().account_rules().is_some());
}

#[test]
fn keys_of_one_account_share_what_its_limits_count() {
    let table = Table::default();
    table.put_account(account("acme"));
    let entries = [1, 2].map(|id| table.insert(of_account(id, "acme")).unwrap());
    let [one, two] = entries.map(|entry| Arc::clone(entry.account().unwrap()));
    assert!(Arc::ptr_eq(&one, &two));
}
