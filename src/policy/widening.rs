//! Whether a change of a key gives more access.
//!
//! A change that widens access must be audited before it is in force, and one that takes access away is in force in any
//! case. So the question here is whether a change takes access away for certain. Whatever does not, widens: a new key, a
//! key that is enabled, a model more, a network more, a later expiry, another token, a higher limit or none, and also a new
//! name.

use ipnet::Ipv4Net;

use crate::policy::account::AccountRules;
use crate::policy::budget::{Budget, BudgetMode};
use crate::policy::key::{Key, KeyFields, PreviousToken};
use crate::policy::key_limits::{KeyAllowance, KeyLimits, LimitKind, LimitSetting};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;

/// Whether the change from `before` to `after` may give more access; None: there is no such key. A change that takes
/// nothing away counts as one that gives more. `defaults` are the limits of keys that set none.
#[must_use]
pub fn widens(before: Option<&Key>, after: Option<&Key>, defaults: &KeyLimits) -> bool {
    match (before, after) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(after)) => !narrows(before.fields(), after.fields(), defaults),
    }
}

/// Whether the change of an account may give its keys more access, by the same rule. A new account counts as giving more,
/// since it takes nothing away for certain, and a deleted one leaves its keys without ceilings.
#[must_use]
pub fn account_widens(before: Option<&AccountRules>, after: Option<&AccountRules>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => !account_narrows(before, after),
        (None, _) | (_, None) => true,
    }
}

fn account_narrows(before: &AccountRules, after: &AccountRules) -> bool {
    let AccountRules {
        id: _,
        name: _,
        model_access,
        allow_from,
        max_keys,
        max_key_days,
        allowance: KeyAllowance { limits, budgets },
        disabled,
        created_at: _,
    } = after;
    if *disabled || before.disabled {
        return *disabled && !before.disabled;
    }
    let parts = [
        unless_wider(
            *model_access == before.model_access,
            has_no_more_models(model_access, &before.model_access),
        ),
        unless_wider(
            *allow_from == before.allow_from,
            has_no_more_networks(allow_from, &before.allow_from),
        ),
        lowers_ceiling(*max_keys, before.max_keys),
        lowers_ceiling(*max_key_days, before.max_key_days),
        lowers_budgets(budgets, &before.allowance.budgets),
    ];
    let limits = LimitKind::ALL
        .map(|kind| lowers_limit(limits.get(kind), before.allowance.limits.get(kind), None));
    let parts = [&parts[..], &limits].concat();
    parts.iter().all(Option::is_some) && parts.contains(&Some(true))
}

/// Whether the ceiling is lower; None: it is higher. Without one, anything is allowed.
fn lowers_ceiling<T: Ord>(after: Option<T>, before: Option<T>) -> Option<bool> {
    match (after, before) {
        (None, before) => before.is_none().then_some(false),
        (Some(_), None) => Some(true),
        (Some(after), Some(before)) => (after <= before).then_some(after < before),
    }
}

/// Whether all that the key could do after, it could do before, and something is taken away.
fn narrows(before: KeyFields, after: KeyFields, defaults: &KeyLimits) -> bool {
    let KeyFields {
        id: _,
        name: _,
        hash,
        hint: _,
        previous,
        model_access,
        allow_from,
        expires_at,
        created_at: _,
        account,
        created_by: _,
        allowance: KeyAllowance { limits, budgets },
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
        ends_previous(previous.as_ref(), before.previous.as_ref()),
        lowers_budgets(&budgets, &before.allowance.budgets),
    ];
    let limits = LimitKind::ALL.map(|kind| {
        let before = before.allowance.limits.get(kind);
        lowers_limit(limits.get(kind), before, defaults.get(kind))
    });
    let parts = [&parts[..], &limits].concat();
    // Another account, or none, may allow more.
    let stays = hash == before.hash && account == before.account;
    stays && parts.iter().all(Option::is_some) && parts.contains(&Some(true))
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

/// Whether the previous token ends, or ends earlier; None: another token may be used, or this one longer.
fn ends_previous(after: Option<&PreviousToken>, before: Option<&PreviousToken>) -> Option<bool> {
    match (after, before) {
        (None, before) => Some(before.is_some()),
        (Some(after), Some(before)) if after.hash() == before.hash() => {
            let (after, before) = (after.not_after(), before.not_after());
            (after <= before).then_some(after < before)
        }
        (Some(_), _) => None,
    }
}

/// Whether the limit is lower; None: it may be higher. A limit that is removed is never taken to be lower, whatever the
/// default.
fn lowers_limit(
    after: Option<LimitSetting>,
    before: Option<LimitSetting>,
    default: Option<LimitSetting>,
) -> Option<bool> {
    let highest = |setting: Option<LimitSetting>| match setting.or(default) {
        Some(LimitSetting::AtMost(limit)) => limit.get(),
        Some(LimitSetting::Unlimited) | None => u64::MAX,
    };
    match (after, before) {
        (after, before) if after == before => Some(false),
        (Some(LimitSetting::Unlimited), _) | (None, Some(LimitSetting::AtMost(_))) => None,
        (None, _) | (Some(LimitSetting::AtMost(_)), _) => {
            let (after, before) = (highest(after), highest(before));
            (after <= before).then_some(after < before)
        }
    }
}

/// Whether less may be used; None: more may. Every budget of before must still be there, since each has sums of its own.
/// One that is only observed refuses nothing.
fn lowers_budgets(after: &[Budget], before: &[Budget]) -> Option<bool> {
    let same = |budgets: &[Budget], wanted: &Budget| {
        let is_same = |budget: &&Budget| {
            let Budget {
                unit,
                amount: _,
                period,
                mode: _,
            } = budget;
            *unit == wanted.unit && *period == wanted.period
        };
        budgets.iter().find(is_same).copied()
    };
    let is_enforced = |budget: &Budget| budget.mode == BudgetMode::Enforce;
    for budget in before {
        let wanted = same(after, budget)?;
        if wanted.amount > budget.amount || is_enforced(budget) && !is_enforced(&wanted) {
            return None;
        }
    }
    let takes_away =
        |budget: &&Budget| is_enforced(budget) && same(before, budget).as_ref() != Some(*budget);
    Some(after.iter().any(|budget| takes_away(&budget)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::account::fixture::account;
    use crate::policy::account::{KeyCount, KeyDays};
    use crate::policy::budget::{BudgetPeriod, BudgetUnit};
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

    fn at_most(limit: u64) -> Option<LimitSetting> {
        LimitSetting::at_most(limit)
    }

    fn limits(settings: &[(LimitKind, Option<LimitSetting>)]) -> KeyLimits {
        let mut limits = KeyLimits::default();
        for (kind, setting) in settings {
            limits.set(*kind, *setting);
        }
        limits
    }

    /// Of tokens alone.
    fn defaults() -> KeyLimits {
        limits(&[(LimitKind::TokensPerMinute, at_most(1000))])
    }

    fn tokens(amount: u64) -> Budget {
        Budget {
            unit: BudgetUnit::Tokens,
            amount,
            period: BudgetPeriod::Day,
            mode: BudgetMode::Enforce,
        }
    }

    fn tokens_a_month(amount: u64) -> Budget {
        Budget {
            period: BudgetPeriod::Month,
            ..tokens(amount)
        }
    }

    fn observed(budget: Budget) -> Budget {
        Budget {
            mode: BudgetMode::Observe,
            ..budget
        }
    }

    fn previous(token: &str, not_after: i64) -> PreviousToken {
        let not_after = UnixTime::from_seconds(not_after);
        PreviousToken::new(TokenHash::of(token.as_bytes()), None, not_after)
    }

    fn some() -> KeyFields {
        KeyFields {
            model_access: ModelAccess::Inclusive(models(&["a", "b"])),
            allow_from: networks(&["10.0.0.0/8"]),
            expires_at: Some(UnixTime::from_seconds(1000)),
            previous: Some(previous("old", 500)),
            allowance: KeyAllowance {
                limits: limits(&[(LimitKind::RequestsPerMinute, at_most(60))]),
                budgets: [tokens(100), observed(tokens_a_month(100))].into(),
            },
            ..key_fields("key_1")
        }
    }

    #[test]
    fn an_account_is_judged_by_the_same_rule_as_a_key() {
        let account = || AccountRules {
            model_access: ModelAccess::Inclusive(models(&["a", "b"])),
            max_keys: KeyCount::of(5),
            max_key_days: KeyDays::of(90),
            ..account("acme")
        };
        let widened = |change: fn(&mut AccountRules)| {
            let mut after = account();
            change(&mut after);
            account_widens(Some(&account()), Some(&after))
        };
        assert!(account_widens(None, Some(&account())));
        assert!(account_widens(Some(&account()), None));
        assert!(widened(|_| ()));
        assert!(widened(|account| account.max_keys = None));
        assert!(widened(|account| account.max_key_days = KeyDays::of(91)));
        assert!(widened(|account| account.model_access = ModelAccess::All));
        assert!(widened(|account| {
            account.max_keys = KeyCount::of(4);
            account.max_key_days = KeyDays::of(91);
        }));
        assert!(!widened(|account| account.disabled = true));
        assert!(!widened(|account| account.max_keys = KeyCount::of(4)));
        assert!(!widened(|account| account.max_key_days = KeyDays::of(89)));
        assert!(!widened(
            |account| account.allow_from = networks(&["10.0.0.0/8"])
        ));
        assert!(!widened(|account| {
            account.allowance.limits = limits(&[(LimitKind::RequestsPerMinute, at_most(1))]);
        }));
        assert!(!widened(
            |account| account.allowance.budgets = [tokens(1)].into()
        ));
    }

    fn widened(change: impl FnOnce(&mut KeyFields)) -> bool {
        let mut fields = some();
        change(&mut fields);
        widens(Some(&some().into()), Some(&fields.into()), &defaults())
    }

    #[test]
    fn a_new_key_widens_and_a_deleted_one_does_not() {
        let key = Key::from(some());
        assert!(widens(None, Some(&key), &defaults()));
        assert!(!widens(Some(&key), None, &defaults()));
        assert!(!widens(None, None, &defaults()));
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
        // The other account may allow more.
        assert!(widened(|key| {
            key.account = Account::parse("a").ok();
            key.expires_at = Some(UnixTime::from_seconds(999));
        }));
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
            widens(Some(&before), Some(&fields.into()), &defaults())
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

    #[test]
    fn a_token_that_ends_is_taken_away_and_another_one_widens() {
        assert!(!widened(|key| key.previous = None));
        assert!(!widened(|key| key.previous = Some(previous("old", 499))));
        assert!(widened(|key| key.previous = Some(previous("old", 501))));
        assert!(widened(|key| key.previous = Some(previous("other", 1))));
        // A rotation, whatever its grace.
        for not_after in [None, Some(UnixTime::from_seconds(1))] {
            let key = Key::from(some());
            let rotated = key.rotated(TokenHash::of(b"new"), None, not_after);
            assert!(widens(Some(&key), Some(&rotated), &defaults()));
        }
    }

    #[test]
    fn a_lower_limit_takes_access_away_and_a_higher_one_or_none_widens() {
        use LimitKind::{ConcurrentRequests, RequestsPerMinute, TokensPerMinute};
        let set =
            |kind, setting| widened(|key: &mut KeyFields| key.allowance.limits.set(kind, setting));
        assert!(!set(RequestsPerMinute, at_most(59)));
        assert!(!set(ConcurrentRequests, at_most(1)));
        assert!(set(RequestsPerMinute, at_most(61)));
        assert!(set(RequestsPerMinute, None));
        let unlimited = Some(LimitSetting::Unlimited);
        for kind in LimitKind::ALL {
            assert!(set(kind, unlimited));
        }
        // In place of the default.
        assert!(!set(TokensPerMinute, at_most(999)));
        assert!(set(TokensPerMinute, at_most(1000)));
        assert!(set(TokensPerMinute, at_most(1001)));
        let (mut before, after) = (some(), Key::from(some()));
        before.allowance.limits.set(TokensPerMinute, unlimited);
        assert!(!widens(Some(&before.into()), Some(&after), &defaults()));
        // A removed limit is not compared with the default.
        let mut before = some();
        before.allowance.limits.set(TokensPerMinute, at_most(2000));
        assert!(widens(Some(&before.into()), Some(&after), &defaults()));
        assert!(widened(|key| {
            key.allowance.limits.set(RequestsPerMinute, at_most(1));
            key.allowance.budgets = [tokens(101), observed(tokens_a_month(100))].into();
        }));
    }

    #[test]
    fn a_lower_budget_takes_access_away_and_a_higher_one_or_none_widens() {
        let set = |budgets: &[Budget]| {
            widened(|key: &mut KeyFields| key.allowance.budgets = budgets.into())
        };
        let month = tokens_a_month(100);
        assert!(!set(&[tokens(99), observed(month)]));
        assert!(!set(&[observed(month), tokens(99)]));
        // From now on it is enforced.
        assert!(!set(&[tokens(100), month]));
        let requests = Budget {
            unit: BudgetUnit::Requests,
            ..tokens(1)
        };
        assert!(!set(&[tokens(100), observed(month), requests]));
        // What is only observed takes nothing away.
        assert!(set(&[tokens(100), observed(month), observed(requests)]));
        assert!(set(&[tokens(100), observed(tokens_a_month(99))]));
        assert!(set(&[observed(month), tokens(100)]));
        assert!(set(&[tokens(101), observed(month)]));
        assert!(set(&[observed(tokens(100)), observed(month)]));
        assert!(set(&[observed(tokens(99)), observed(month)]));
        assert!(set(&[tokens(99)]));
        assert!(set(&[tokens(99), observed(tokens_a_month(101))]));
        assert!(set(&[observed(month)]));
        assert!(set(&[]));
        // Another period has other sums.
        let week = Budget {
            period: BudgetPeriod::Week,
            ..tokens(1)
        };
        assert!(set(&[week, observed(month)]));
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

    /// With which tokens, and when.
    fn may_come_with(key: &Key) -> Vec<(&'static str, i64)> {
        let mut may = Vec::new();
        for token in TOKENS {
            for now in 0..4 {
                let hash = TokenHash::of(token.as_bytes());
                let is_known = key.token_of(&hash).is_some();
                let end = key.usable_until(&hash);
                if is_known && end.is_none_or(|end| UnixTime::from_seconds(now) < end) {
                    may.push((token, now));
                }
            }
        }
        may
    }

    /// Each kind of limit with the number that is let in, and each budget's sums with the amount that may be used.
    fn may_use(key: &Key, defaults: &KeyLimits) -> Vec<(usize, u64)> {
        let rates = key.limits().in_force(defaults);
        let budgets = UNITS.into_iter().flat_map(|unit| {
            PERIODS.map(|period| {
                let mut budgets = key.budgets().iter();
                let budget = budgets.find(|one| one.unit == unit && one.period == period);
                budget
                    .filter(|budget| budget.mode == BudgetMode::Enforce)
                    .map(|budget| budget.amount)
            })
        });
        let rates = [
            rates.requests_per_minute,
            rates.tokens_per_minute,
            rates.concurrent_requests,
        ];
        let most = rates.into_iter().chain(budgets);
        let most = most.map(|most| most.unwrap_or(u64::MAX));
        most.enumerate().collect()
    }

    const TOKENS: [&str; 3] = ["one", "two", "three"];
    const UNITS: [BudgetUnit; 2] = [BudgetUnit::Tokens, BudgetUnit::Cost];
    const PERIODS: [BudgetPeriod; 2] = [BudgetPeriod::Day, BudgetPeriod::Total];

    fn any_limits() -> impl Strategy<Value = KeyLimits> {
        let setting = proptest::option::weighted(0.3, 0_u64..4);
        proptest::array::uniform3(setting).prop_map(|settings| {
            let settings = settings.map(|setting| {
                setting.map(|limit| at_most(limit).unwrap_or(LimitSetting::Unlimited))
            });
            limits(&[0, 1, 2].map(|at| (LimitKind::ALL[at], settings[at])))
        })
    }

    fn any_budgets() -> impl Strategy<Value = Box<[Budget]>> {
        let one = proptest::option::weighted(0.3, (1_u64..4, proptest::bool::ANY));
        proptest::array::uniform4(one).prop_map(|settings| {
            let budgets = settings
                .into_iter()
                .enumerate()
                .filter_map(|(at, setting)| {
                    setting.map(|(amount, is_observed)| Budget {
                        unit: UNITS[at / 2],
                        amount,
                        period: PERIODS[at % 2],
                        mode: BudgetMode::ALL[usize::from(is_observed)],
                    })
                });
            budgets.collect()
        })
    }

    /// The hash of its token, and the previous token.
    fn any_tokens() -> impl Strategy<Value = (TokenHash, Option<PreviousToken>)> {
        let old = proptest::option::weighted(0.3, (1_usize..3, 0_i64..4));
        (proptest::bool::weighted(0.2), old).prop_map(|(is_rotated, old)| {
            let token = usize::from(is_rotated);
            let old = old.filter(|(old, _)| *old != token);
            (
                TokenHash::of(TOKENS[token].as_bytes()),
                old.map(|(old, not_after)| previous(TOKENS[old], not_after)),
            )
        })
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
        let allowance = (any_limits(), any_budgets());
        let disabled = proptest::bool::weighted(0.2);
        (access, places, end, disabled, any_tokens(), allowance).prop_map(
            |(model_access, places, end, disabled, (hash, previous), (limits, budgets))| {
                Key::from(KeyFields {
                    hash,
                    previous,
                    allowance: KeyAllowance { limits, budgets },
                    model_access,
                    allow_from: networks(&places),
                    expires_at: end.map(UnixTime::from_seconds),
                    disabled,
                    ..key_fields("key_1")
                })
            },
        )
    }

    /// The key with some of another key's fields: keys that differ in all of them say little.
    fn with_some(key: &Key, other: &Key, changes: [bool; 6]) -> Key {
        let (mut fields, other) = (key.fields(), other.fields());
        let [access, from, end, token, limits, budgets] = changes;
        if access {
            fields.model_access = other.model_access;
        }
        if from {
            fields.allow_from = other.allow_from;
        }
        if end {
            fields.expires_at = other.expires_at;
            fields.disabled = other.disabled;
        }
        if token {
            (fields.hash, fields.previous) = (other.hash, other.previous);
        }
        if limits {
            fields.allowance.limits = other.allowance.limits;
        }
        if budgets {
            fields.allowance.budgets = other.allowance.budgets;
        }
        Key::from(fields)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_change_that_does_not_widen_lets_nothing_in_that_was_refused(
            before in any_key(),
            changed in any_key(),
            changes in proptest::array::uniform6(proptest::bool::weighted(0.3)),
            defaults in any_limits(),
        ) {
            let after = with_some(&before, &changed, changes);
            if !widens(Some(&before), Some(&after), &defaults) {
                let could = can_do(&before);
                for one in can_do(&after) {
                    prop_assert!(could.contains(&one), "{:?}", one);
                }
                if !after.disabled() {
                    let could = may_come_with(&before);
                    for one in may_come_with(&after) {
                        prop_assert!(could.contains(&one), "{:?}", one);
                    }
                    let least = may_use(&before, &defaults).into_iter().zip(may_use(&after, &defaults));
                    for (before, after) in least {
                        prop_assert!(after.1 <= before.1, "{:?} {:?}", before, after);
                    }
                }
            }
        }
    }
}
