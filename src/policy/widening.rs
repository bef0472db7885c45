//! Whether a change of a key gives more access.
//!
//! A change that widens access must be audited before it is in force, and one that takes access away is in force in any
//! case. So the question here is whether a change takes access away for certain. Whatever does not, widens: a new key, a
//! key that is enabled, a model more, a network more, a later expiry, another token, and also a new name.

use ipnet::Ipv4Net;

use crate::policy::key::{Key, KeyFields};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;

/// Whether the change from `before` to `after` may give more access; None: there is no such key. A change that takes
/// nothing away counts as one that gives more.
#[must_use]
pub fn widens(before: Option<&Key>, after: Option<&Key>) -> bool {
    match (before, after) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(after)) => !narrows(before.fields(), after.fields()),
    }
}

/// Whether all that the key could do after, it could do before, and something is taken away.
fn narrows(before: KeyFields, after: KeyFields) -> bool {
    let KeyFields {
        id: _,
        name: _,
        hash,
        hint: _,
        model_access,
        allow_from,
        expires_at,
        created_at: _,
        account: _,
        disabled,
    } = after;
    if disabled || before.disabled {
        // A disabled key can do nothing.
        return disabled && !before.disabled;
    }
    let expires_earlier = match (expires_at, before.expires_at) {
        (after, before) if after == before => Some(false),
        (Some(_), None) => Some(true),
        (Some(after), Some(before)) => (after < before).then_some(true),
        (None, _) => None,
    };
    let parts = [
        unless_wider(
            model_access == before.model_access,
            has_no_more_models(&model_access, &before.model_access),
        ),
        unless_wider(
            allow_from == before.allow_from,
            has_no_more_networks(&allow_from, &before.allow_from),
        ),
        expires_earlier,
    ];
    hash == before.hash && parts.iter().all(Option::is_some) && parts.contains(&Some(true))
}

/// None: it may be wider. Otherwise whether it differs.
fn unless_wider(is_same: bool, is_within: bool) -> Option<bool> {
    match (is_same, is_within) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    }
}

/// Names are compared as they are. An inclusive list is never taken to be within an exclusive one: it may name an alias
/// of a model that the exclusive list refuses.
fn has_no_more_models(after: &ModelAccess, before: &ModelAccess) -> bool {
    let holds =
        |list: &[Box<str>], names: &[Box<str>]| names.iter().all(|name| list.contains(name));
    match (after, before) {
        (_, ModelAccess::All) => true,
        (ModelAccess::Inclusive(after), ModelAccess::Inclusive(before)) => {
            holds(before.names(), after.names())
        }
        (ModelAccess::Exclusive(after), ModelAccess::Exclusive(before)) => {
            holds(after.names(), before.names())
        }
        (
            ModelAccess::All | ModelAccess::Inclusive(_) | ModelAccess::Exclusive(_),
            ModelAccess::Inclusive(_) | ModelAccess::Exclusive(_),
        ) => false,
    }
}

fn has_no_more_networks(after: &AllowFrom, before: &AllowFrom) -> bool {
    let is_within = |network: &Ipv4Net, networks: &[Ipv4Net]| {
        networks.iter().any(|other| other.contains(network))
    };
    match (after, before) {
        (_, AllowFrom::Anywhere) => true,
        (AllowFrom::Anywhere, AllowFrom::Networks(_)) => false,
        (AllowFrom::Networks(after), AllowFrom::Networks(before)) => {
            after.iter().all(|network| is_within(network, before))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, KeyName};
    use crate::policy::model_access::ModelList;
    use crate::policy::network::{ClientAddress, parse_network};
    use crate::policy::time::UnixTime;
    use crate::policy::token::TokenHash;

    fn models(names: &[&str]) -> ModelList {
        ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    fn networks(texts: &[&str]) -> AllowFrom {
        AllowFrom::from_networks(
            texts
                .iter()
                .map(|text| parse_network(text).unwrap())
                .collect(),
        )
    }

    fn some() -> KeyFields {
        KeyFields {
            model_access: ModelAccess::Inclusive(models(&["a", "b"])),
            allow_from: networks(&["10.0.0.0/8"]),
            expires_at: Some(UnixTime::from_seconds(1000)),
            ..key_fields("key_1")
        }
    }

    fn widened(change: impl FnOnce(&mut KeyFields)) -> bool {
        let mut fields = some();
        change(&mut fields);
        widens(Some(&some().into()), Some(&fields.into()))
    }

    #[test]
    fn a_new_key_widens_and_a_deleted_one_does_not() {
        let key = Key::from(some());
        assert!(widens(None, Some(&key)));
        assert!(!widens(Some(&key), None));
        assert!(!widens(None, None));
    }

    #[test]
    fn what_takes_access_away_does_not_widen() {
        assert!(!widened(|key| key.disabled = true));
        assert!(!widened(|key| {
            key.model_access = ModelAccess::Inclusive(models(&["b"]));
        }));
        assert!(!widened(
            |key| key.allow_from = networks(&["10.1.0.0/16", "10.2.0.1"])
        ));
        assert!(!widened(
            |key| key.expires_at = Some(UnixTime::from_seconds(999))
        ));
        // With others that give nothing.
        assert!(!widened(|key| {
            key.name = KeyName::parse("other").unwrap();
            key.account = Account::parse("a").ok();
            key.expires_at = Some(UnixTime::from_seconds(999));
        }));
        assert!(!widened(|key| {
            key.disabled = true;
            key.model_access = ModelAccess::All;
        }));
    }

    #[test]
    fn whatever_is_not_certain_to_take_access_away_widens() {
        assert!(widened(|_| ()));
        assert!(widened(|key| key.name = KeyName::parse("other").unwrap()));
        assert!(widened(|key| key.account = Account::parse("a").ok()));
        assert!(widened(|key| key.hash = TokenHash::of(b"another")));
        assert!(widened(|key| {
            key.hash = TokenHash::of(b"another");
            key.expires_at = Some(UnixTime::from_seconds(1));
        }));
        assert!(widened(|key| key.model_access = ModelAccess::All));
        assert!(widened(|key| {
            key.model_access = ModelAccess::Inclusive(models(&["a", "b", "c"]));
        }));
        assert!(widened(|key| {
            key.model_access = ModelAccess::Exclusive(models(&["c"]));
        }));
        assert!(widened(|key| key.allow_from = AllowFrom::Anywhere));
        assert!(widened(|key| key.allow_from = networks(&["10.0.0.0/7"])));
        assert!(widened(|key| key.expires_at = None));
        assert!(widened(
            |key| key.expires_at = Some(UnixTime::from_seconds(1001))
        ));
        // One thing less, another more.
        assert!(widened(|key| {
            key.model_access = ModelAccess::Inclusive(models(&["a"]));
            key.allow_from = networks(&["11.0.0.0/8"]);
        }));
        let disabled = |change: fn(&mut KeyFields)| {
            let mut fields = some();
            fields.disabled = true;
            let before = Key::from(fields.clone());
            change(&mut fields);
            widens(Some(&before), Some(&fields.into()))
        };
        assert!(disabled(|key| key.disabled = false));
        assert!(disabled(|key| {
            key.disabled = false;
            key.model_access = ModelAccess::Inclusive(models(&["a"]));
        }));
        assert!(disabled(
            |key| key.model_access = ModelAccess::Inclusive(models(&["a"]))
        ));
    }

    /// An alias that is sent as `a`: an exclusive list that names `a` refuses it too.
    const ASKED: [(&str, Option<&str>); 4] =
        [("a", None), ("b", None), ("c", None), ("alias", Some("a"))];

    /// All that a key can do, tried out.
    fn can_do(key: &Key) -> Vec<(usize, u8, i64)> {
        let mut can = Vec::new();
        for (at, (model, sent_as)) in ASKED.iter().enumerate() {
            for host in 0..4 {
                for now in 0..4 {
                    let address = ClientAddress::Known([10, 0, 0, host].into());
                    let may = !key.disabled()
                        && !key.expired(UnixTime::from_seconds(now))
                        && key.allow_from().admits(address)
                        && key.model_access().allows_as(model, *sent_as);
                    if may {
                        can.push((at, host, now));
                    }
                }
            }
        }
        can
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let names = proptest::sample::subsequence(vec!["a", "b", "c", "alias"], 1..=4);
        let access = (0..3, names).prop_map(|(mode, names)| match mode {
            0 => ModelAccess::All,
            1 => ModelAccess::Inclusive(models(&names)),
            _ => ModelAccess::Exclusive(models(&names)),
        });
        let places = vec!["10.0.0.0/31", "10.0.0.2/31", "10.0.0.0/30", "10.0.0.3"];
        let places = proptest::sample::subsequence(places, 0..=3);
        let end = proptest::option::of(0_i64..4);
        (access, places, end, proptest::bool::weighted(0.2)).prop_map(
            |(model_access, places, end, disabled)| {
                Key::from(KeyFields {
                    model_access,
                    allow_from: networks(&places),
                    expires_at: end.map(UnixTime::from_seconds),
                    disabled,
                    ..key_fields("key_1")
                })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_change_that_does_not_widen_lets_nothing_in_that_was_refused(
            before in any_key(),
            after in any_key(),
        ) {
            if !widens(Some(&before), Some(&after)) {
                let before = can_do(&before);
                for one in can_do(&after) {
                    prop_assert!(before.contains(&one), "{:?}", one);
                }
            }
        }
    }
}
