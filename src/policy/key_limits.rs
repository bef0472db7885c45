//! The limits and budgets of a key, as its operator sets them.
//!
//! [`LimitKind`] is the one list of limits: key file, admin API, `GET /v1/key` and `keygate explain` go through it.

use std::num::NonZeroU64;

use crate::policy::budget::Budget;
use crate::policy::rate_limit::RateLimits;

/// The highest limit: whole numbers up to here are exact in every JSON reader (RFC 8259 6).
pub const MAX_LIMIT: u64 = 1 << 53;
/// The most budgets of a key.
pub const MAX_BUDGETS: usize = 8;
/// In place of a limit: the default of the config does not hold either.
pub const UNLIMITED: &str = "unlimited";

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests that start in any 60 seconds.
    RequestsPerMinute,
    /// Tokens of input and output in any 60 seconds.
    TokensPerMinute,
    /// Requests that run at the same time.
    ConcurrentRequests,
}

impl LimitKind {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::RequestsPerMinute,
        Self::TokensPerMinute,
        Self::ConcurrentRequests,
    ];

    /// The name in key file, config and API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::ConcurrentRequests => "concurrent_requests",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a key says about one kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSetting {
    /// The default of the config does not hold for this key.
    Unlimited,
    /// At most so many.
    AtMost(NonZeroU64),
}

impl LimitSetting {
    /// A limit from 1 to [`MAX_LIMIT`].
    #[must_use]
    pub fn at_most(limit: u64) -> Option<Self> {
        let limit = NonZeroU64::new(limit).filter(|limit| limit.get() <= MAX_LIMIT)?;
        Some(Self::AtMost(limit))
    }
}

/// The limits of a key, or the defaults of the config. A kind that is not set has the default, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits([Option<NonZeroU64>; LimitKind::ALL.len()]);

impl KeyLimits {
    /// What is set for a kind.
    #[must_use]
    pub fn get(&self, kind: LimitKind) -> Option<LimitSetting> {
        self.0[kind as usize].map(|limit| match limit {
            NonZeroU64::MAX => LimitSetting::Unlimited,
            limit => LimitSetting::AtMost(limit),
        })
    }

    /// Sets a kind; None clears it.
    pub fn set(&mut self, kind: LimitKind, setting: Option<LimitSetting>) {
        self.0[kind as usize] = setting.map(|setting| match setting {
            LimitSetting::Unlimited => NonZeroU64::MAX,
            LimitSetting::AtMost(limit) => limit,
        });
    }

    /// Whether no kind is set.
    #[must_use]
    pub fn are_unset(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The limits in force for a key with these settings, where `defaults` are the config's.
    #[must_use]
    pub fn in_force(&self, defaults: &Self) -> RateLimits {
        let limit = |kind| match self.get(kind).or_else(|| defaults.get(kind)) {
            Some(LimitSetting::AtMost(limit)) => Some(limit.get()),
            Some(LimitSetting::Unlimited) | None => None,
        };
        RateLimits {
            requests_per_minute: limit(LimitKind::RequestsPerMinute),
            tokens_per_minute: limit(LimitKind::TokensPerMinute),
            concurrent_requests: limit(LimitKind::ConcurrentRequests),
        }
    }
}

/// The limits and budgets of a key. Most keys have none, so a key has room for a pointer to them only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyAllowance {
    /// How fast it may be used.
    pub limits: KeyLimits,
    /// How much of it may be used.
    pub budgets: Box<[Budget]>,
}

impl KeyAllowance {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.limits.are_unset() && self.budgets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_the_key_wins_over_the_default_of_its_kind() {
        let mut defaults = KeyLimits::default();
        defaults.set(LimitKind::RequestsPerMinute, LimitSetting::at_most(60));
        defaults.set(LimitKind::TokensPerMinute, LimitSetting::at_most(1000));
        let mut own = KeyLimits::default();
        assert_eq!(own.in_force(&defaults).requests_per_minute, Some(60));
        own.set(LimitKind::RequestsPerMinute, LimitSetting::at_most(5));
        own.set(LimitKind::TokensPerMinute, Some(LimitSetting::Unlimited));
        let in_force = own.in_force(&defaults);
        assert_eq!(
            (
                in_force.requests_per_minute,
                in_force.tokens_per_minute,
                in_force.concurrent_requests
            ),
            (Some(5), None, None)
        );
        own.set(LimitKind::RequestsPerMinute, None);
        own.set(LimitKind::TokensPerMinute, None);
        assert!(own.are_unset());
    }

    #[test]
    fn a_limit_is_a_whole_number_from_one_to_two_to_the_53rd() {
        assert_eq!(LimitSetting::at_most(0), None);
        assert_eq!(LimitSetting::at_most(MAX_LIMIT + 1), None);
        assert!(LimitSetting::at_most(1).is_some() && LimitSetting::at_most(MAX_LIMIT).is_some());
    }

    #[test]
    fn a_million_keys_with_limits_take_at_most_64_bytes_each() {
        assert!(size_of::<KeyAllowance>() + size_of::<Option<Box<KeyAllowance>>>() <= 64);
    }
}
