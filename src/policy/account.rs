//! An account: who pays for keys, and what its keys may have at most.
//!
//! A key names its account by the account's id. Its ceilings hold beside the key's own rules, so a change of them
//! changes what every key of it may do. Invariant: what a key may do with its account is asked of [`JudgedKey`] alone,
//! which allows nothing that either of the two refuses.

use std::num::NonZeroU32;

use ipnet::Ipv4Net;

use crate::policy::key::{Key, KeyId, KeyName, KeyState};
use crate::policy::key_limits::KeyAllowance;
use crate::policy::model_access::ModelAccess;
use crate::policy::network::{AllowFrom, ClientAddress};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

/// The most keys that an account can be limited to.
pub const MAX_ACCOUNT_KEYS: u32 = 1_000_000;
/// The longest life of a key that an account can be limited to, in days: a hundred years.
pub const MAX_KEY_DAYS: u32 = 36_500;
const SECONDS_A_DAY: i64 = 86_400;
/// How far ahead of the gateway's clock another machine's may be, in seconds.
const CLOCK_SKEW: i64 = 60;

/// The longest life of a key: from 1 to [`MAX_KEY_DAYS`] days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDays(NonZeroU32);

impl KeyDays {
    /// So many days.
    #[must_use]
    pub fn of(days: u64) -> Option<Self> {
        let days = u32::try_from(days)
            .ok()
            .filter(|days| *days <= MAX_KEY_DAYS)?;
        NonZeroU32::new(days).map(Self)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// When a key ends that was created at this time.
    #[must_use]
    pub fn after(self, created_at: UnixTime) -> UnixTime {
        created_at.plus(i64::from(self.get()) * SECONDS_A_DAY)
    }
}

/// How many keys an account may have: from 0 to [`MAX_ACCOUNT_KEYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyCount(u32);

impl KeyCount {
    /// So many keys.
    #[must_use]
    pub fn of(keys: u64) -> Option<Self> {
        let keys = u32::try_from(keys)
            .ok()
            .filter(|keys| *keys <= MAX_ACCOUNT_KEYS)?;
        Some(Self(keys))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// An account with its ceilings. There is no default: "every model" and "from anywhere" are written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRules {
    /// Unique among accounts. Keys name their account by it.
    pub id: KeyId,
    /// A name for people.
    pub name: Option<KeyName>,
    /// Which models its keys may use at most.
    pub model_access: ModelAccess,
    /// From where its keys may be used at most.
    pub allow_from: AllowFrom,
    /// How many keys it may have. Asked when a key is created or given to it.
    pub max_keys: Option<KeyCount>,
    /// How long each of its keys may live, from its creation on.
    pub max_key_days: Option<KeyDays>,
    /// How fast its keys may be used together, and how much of them.
    pub allowance: KeyAllowance,
    /// Whether all of its keys are refused.
    pub disabled: bool,
    /// When it was created.
    pub created_at: UnixTime,
}

impl AccountRules {
    /// The names of the fields that differ.
    #[must_use]
    pub fn changed_fields(&self, before: &Self) -> Vec<&'static str> {
        let Self {
            id: _,
            name,
            model_access,
            allow_from,
            max_keys,
            max_key_days,
            allowance: KeyAllowance { limits, budgets },
            disabled,
            created_at: _,
        } = self;
        let differs = [
            ("name", *name != before.name),
            ("model_access", *model_access != before.model_access),
            ("allow_from", *allow_from != before.allow_from),
            ("max_keys", *max_keys != before.max_keys),
            ("max_key_days", *max_key_days != before.max_key_days),
            ("limits", *limits != before.allowance.limits),
            ("budgets", *budgets != before.allowance.budgets),
            ("disabled", *disabled != before.disabled),
        ];
        let changed = differs.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(name, _)| name).collect()
    }
}

/// Why an account refuses every request of a key, whatever the key's own rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountRefusal {
    /// The account is disabled.
    Disabled,
    /// The key has lived longer than the account allows.
    Expired,
    /// No network is left that both allow.
    Networks,
    /// No model is left that both allow.
    Models,
}

impl AccountRefusal {
    /// As the admin API shows it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Networks => "networks",
            Self::Models => "models",
        }
    }

    /// In words, about the account.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Disabled => "it is disabled",
            Self::Expired => "the key is older than it allows (max_key_days)",
            Self::Networks => "no network is left that both allow",
            Self::Models => "no model is left that both allow",
        }
    }
}

/// A key together with the account that it names.
#[derive(Clone, Copy, Debug)]
pub struct JudgedKey<'k> {
    key: &'k Key,
    account: Option<&'k AccountRules>,
}

impl<'k> JudgedKey<'k> {
    /// A key and its account; None: it names none, or one that does not exist.
    #[must_use]
    pub fn new(key: &'k Key, account: Option<&'k AccountRules>) -> Self {
        Self { key, account }
    }

    /// The key alone.
    #[must_use]
    pub fn key(self) -> &'k Key {
        self.key
    }

    /// The account's rules, if it has any.
    #[must_use]
    pub fn account(self) -> Option<&'k AccountRules> {
        self.account
    }

    /// Whether the key or its account is disabled.
    #[must_use]
    pub fn disabled(self) -> bool {
        self.key.disabled() || self.account.is_some_and(|account| account.disabled)
    }

    /// The time from which the key is refused: the earlier of its own expiry and the end of the longest life that its
    /// account allows. A key whose creation is not known has lived too long for any account that limits its life.
    #[must_use]
    pub fn expires_at(self) -> Option<UnixTime> {
        let own = self.key.expires_at();
        self.end_of_life().into_iter().chain(own).min()
    }

    /// Whether it has expired at `now`. A creation that is still to come would lengthen the key's life, so it counts as
    /// expired too.
    #[must_use]
    pub fn expired(self, now: UnixTime) -> bool {
        self.key.expires_at().is_some_and(|end| now >= end) || self.has_outlived(now)
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(self, now: UnixTime) -> KeyState {
        match (self.disabled(), self.expired(now)) {
            (true, _) => KeyState::Disabled,
            (false, true) => KeyState::Expired,
            (false, false) => KeyState::Active,
        }
    }

    /// Until when the token with this hash can be used, if neither key nor account changes.
    #[must_use]
    pub fn usable_until(self, hash: &TokenHash) -> Option<UnixTime> {
        let own = self.key.usable_until(hash);
        own.into_iter().chain(self.expires_at()).min()
    }

    /// Whether a client at `address` may use the key.
    #[must_use]
    pub fn admits(self, address: ClientAddress) -> bool {
        let by_account = |account: &AccountRules| account.allow_from.admits(address);
        self.key.allow_from().admits(address) && self.account.is_none_or(by_account)
    }

    /// Whether the key may use the model under this name; see [`ModelAccess::allows_as`].
    #[must_use]
    pub fn allows_as(self, model: &str, sent_as: Option<&str>) -> bool {
        let by_account = |account: &AccountRules| account.model_access.allows_as(model, sent_as);
        self.key.model_access().allows_as(model, sent_as) && self.account.is_none_or(by_account)
    }

    /// Whether every model is allowed.
    #[must_use]
    pub fn allows_all_models(self) -> bool {
        let by_account = |account: &AccountRules| account.model_access.is_all();
        self.key.model_access().is_all() && self.account.is_none_or(by_account)
    }

    /// The networks that both allow; empty for any address, and also where no network is left.
    #[must_use]
    pub fn networks(self) -> Vec<Ipv4Net> {
        let own = self.key.allow_from().networks();
        let ceiling = self
            .account
            .map_or(&[][..], |account| account.allow_from.networks());
        match (own.is_empty(), ceiling.is_empty()) {
            (_, true) => own.to_vec(),
            (true, false) => ceiling.to_vec(),
            (false, false) => own
                .iter()
                .flat_map(|own| ceiling.iter().filter_map(|other| common(*own, *other)))
                .collect(),
        }
    }

    /// Why the account refuses every request of the key at `now`; None: it has none, or allows some. `sent_as` gives a
    /// model's own name where the model is an alias. What is excluded may be the whole catalogue, which is not looked at.
    #[must_use]
    pub fn refused_by_account<'n>(
        self,
        now: UnixTime,
        sent_as: impl Fn(&str) -> Option<&'n str>,
    ) -> Option<AccountRefusal> {
        let account = self.account?;
        if account.disabled {
            return Some(AccountRefusal::Disabled);
        }
        if self.has_outlived(now) {
            return Some(AccountRefusal::Expired);
        }
        let own = self.key.allow_from().networks();
        let is_from_both = !own.is_empty() && !account.allow_from.networks().is_empty();
        if is_from_both && self.networks().is_empty() {
            return Some(AccountRefusal::Networks);
        }
        let models = self.listed_models()?;
        let allows = models
            .iter()
            .any(|model| self.allows_as(model, sent_as(model)));
        (!allows).then_some(AccountRefusal::Models)
    }

    /// An inclusive list of the key or its account: what is not in it is not allowed. None: neither has one.
    #[must_use]
    pub fn listed_models(self) -> Option<&'k [Box<str>]> {
        let own = self.key.model_access();
        let ceiling = self.account.map(|account| &account.model_access);
        [Some(own), ceiling]
            .into_iter()
            .flatten()
            .find_map(|access| match access {
                ModelAccess::Inclusive(models) => Some(models.names()),
                ModelAccess::All | ModelAccess::Exclusive(_) => None,
            })
    }

    /// The end of the longest life that the account allows.
    fn end_of_life(self) -> Option<UnixTime> {
        let days = self.account?.max_key_days?;
        let created_at = self.key.created_at();
        Some(created_at.map_or(UnixTime::from_seconds(0), |begin| days.after(begin)))
    }

    fn has_outlived(self, now: UnixTime) -> bool {
        let is_to_come = |begin: UnixTime| begin > now.plus(CLOCK_SKEW);
        self.end_of_life()
            .is_some_and(|end| now >= end || self.key.created_at().is_some_and(is_to_come))
    }
}

/// The narrower of two networks where one holds the other; otherwise they have no address in common.
fn common(one: Ipv4Net, other: Ipv4Net) -> Option<Ipv4Net> {
    match (one.contains(&other), other.contains(&one)) {
        (true, _) => Some(other),
        (false, true) => Some(one),
        (false, false) => None,
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! The account that unit tests start from.

    use super::*;

    /// Without any ceiling.
    pub(crate) fn account(id: &str) -> AccountRules {
        AccountRules {
            id: KeyId::parse(id).unwrap(),
            name: None,
            model_access: ModelAccess::All,
            allow_from: AllowFrom::Anywhere,
            max_keys: None,
            max_key_days: None,
            allowance: KeyAllowance::default(),
            disabled: false,
            created_at: UnixTime::from_seconds(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::account;
    use super::*;
    use crate::policy::key::KeyFields;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::model_access::ModelList;
    use crate::policy::network::parse_network;

    fn networks(texts: &[&str]) -> AllowFrom {
        let parsed = texts.iter().map(|text| parse_network(text).unwrap());
        AllowFrom::from_networks(parsed.collect())
    }

    #[test]
    fn the_days_of_a_key_are_counted_from_its_creation() {
        let day = UnixTime::from_seconds(SECONDS_A_DAY);
        let ceiling = AccountRules {
            max_key_days: KeyDays::of(1),
            ..account("a")
        };
        let key = Key::from(KeyFields {
            created_at: Some(UnixTime::from_seconds(0)),
            ..key_fields("k")
        });
        let judged = JudgedKey::new(&key, Some(&ceiling));
        assert_eq!(judged.expires_at(), Some(day));
        assert!(!judged.expired(day.plus(-1)) && judged.expired(day));
        assert_eq!(judged.usable_until(key.hash()), Some(day));
        let earlier = Key::from(KeyFields {
            expires_at: Some(UnixTime::from_seconds(9)),
            ..key.fields()
        });
        let judged = JudgedKey::new(&earlier, Some(&ceiling));
        assert_eq!(judged.expires_at(), Some(UnixTime::from_seconds(9)));
    }

    #[test]
    fn a_creation_that_is_unknown_or_to_come_does_not_lengthen_a_life() {
        let now = UnixTime::from_seconds(1_000_000);
        let ceiling = AccountRules {
            max_key_days: KeyDays::of(90),
            ..account("a")
        };
        let with = |created_at| {
            Key::from(KeyFields {
                created_at,
                ..key_fields("k")
            })
        };
        for (created_at, is_expired) in [
            (None, true),
            (Some(now), false),
            (Some(now.plus(CLOCK_SKEW)), false),
            (Some(now.plus(CLOCK_SKEW + 1)), true),
        ] {
            let key = with(created_at);
            let judged = JudgedKey::new(&key, Some(&ceiling));
            assert_eq!(judged.expired(now), is_expired, "{created_at:?}");
            assert!(!JudgedKey::new(&key, None).expired(now));
        }
    }

    #[test]
    fn the_networks_that_are_shown_are_those_of_both() {
        let key = Key::from(KeyFields {
            allow_from: networks(&["10.0.0.0/8", "192.0.2.0/24"]),
            ..key_fields("k")
        });
        let ceiling = AccountRules {
            allow_from: networks(&["10.1.0.0/16", "192.0.0.0/8"]),
            ..account("a")
        };
        let shown = JudgedKey::new(&key, Some(&ceiling)).networks();
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.1.0.0/16", "192.0.2.0/24"]);
    }

    #[test]
    fn an_account_that_leaves_nothing_of_a_key_says_why() {
        let list = |names: &[&str]| {
            ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
        };
        let only = |names: &[&str]| ModelAccess::Inclusive(list(names));
        let but = |names: &[&str]| ModelAccess::Exclusive(list(names));
        let now = UnixTime::from_seconds(SECONDS_A_DAY);
        let sent_as = |model: &str| (model == "alias").then_some("real");
        let refusal = |access: &ModelAccess, from: &[&str], account: &AccountRules| {
            let key = Key::from(KeyFields {
                model_access: access.clone(),
                allow_from: networks(from),
                created_at: Some(UnixTime::from_seconds(0)),
                ..key_fields("k")
            });
            JudgedKey::new(&key, Some(account)).refused_by_account(now, sent_as)
        };
        let all = ModelAccess::All;
        for (model_access, own, refused) in [
            (only(&["a"]), &all, false),
            (only(&["a"]), &only(&["a", "b"]), false),
            (only(&["a"]), &only(&["b"]), true),
            (only(&["a"]), &but(&["a"]), true),
            (only(&["a", "b"]), &but(&["a"]), false),
            (but(&["a"]), &only(&["a"]), true),
            (but(&["a"]), &but(&["b"]), false),
            (but(&["real"]), &only(&["alias"]), true),
        ] {
            let account = AccountRules {
                model_access,
                ..account("a")
            };
            let refused = refused.then_some(AccountRefusal::Models);
            assert_eq!(refusal(own, &[], &account), refused, "{account:?} {own:?}");
        }
        let away = AccountRules {
            allow_from: networks(&["192.0.2.0/24"]),
            ..account("a")
        };
        assert_eq!(refusal(&all, &[], &away), None);
        assert_eq!(refusal(&all, &["192.0.0.0/16"], &away), None);
        let refused = refusal(&all, &["10.0.0.0/8"], &away);
        assert_eq!(refused, Some(AccountRefusal::Networks));
        let short = AccountRules {
            max_key_days: KeyDays::of(1),
            ..away
        };
        let refused = refusal(&all, &["10.0.0.0/8"], &short);
        assert_eq!(refused, Some(AccountRefusal::Expired));
        let closed = AccountRules {
            disabled: true,
            ..short
        };
        assert_eq!(refusal(&all, &[], &closed), Some(AccountRefusal::Disabled));
        let key = Key::from(key_fields("k"));
        assert_eq!(
            JudgedKey::new(&key, None).refused_by_account(now, sent_as),
            None
        );
    }

    #[test]
    fn ceilings_have_bounds() {
        assert_eq!(KeyDays::of(0), None);
        assert_eq!(KeyDays::of(u64::from(MAX_KEY_DAYS) + 1), None);
        assert_eq!(KeyCount::of(0).map(KeyCount::get), Some(0));
        assert_eq!(KeyCount::of(u64::from(MAX_ACCOUNT_KEYS) + 1), None);
    }
}
