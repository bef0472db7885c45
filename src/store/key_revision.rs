//! The revision of a key: a short text that changes whenever the key changes, and stays the same over reloads and
//! restarts. A client sends back the one that it saw, so that it cannot overwrite a change that it did not see.

use std::fmt;

use crate::policy::key::Key;
use crate::store::key_json::write_line;

/// The revision of a key: a hash of its line in the key file, so that it needs no memory and no counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRevision(String);

impl KeyRevision {
    /// The revision of this key.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        let mut line = Vec::with_capacity(256);
        write_line(key, &mut line);
        Self(blake3::hash(&line).to_hex()[..16].to_owned())
    }
}

impl fmt::Display for KeyRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The revisions of a key that a change is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedRevision {
    /// Whatever the key is now.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

impl ExpectedRevision {
    /// Whether the key is at an expected revision.
    #[must_use]
    pub fn admits(&self, key: &Key) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(expected) => {
                let revision = KeyRevision::of(key);
                expected.contains(&revision.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::{Budget, BudgetMode, BudgetPeriod, BudgetUnit};
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, Hint, KeyFields, KeyName, PreviousToken};
    use crate::policy::key_limits::{KeyAllowance, KeyLimits, LimitKind, LimitSetting};
    use crate::policy::model_access::{ModelAccess, ModelList};
    use crate::policy::network::{AllowFrom, parse_network};
    use crate::policy::time::UnixTime;
    use crate::policy::token::TokenHash;

    #[test]
    fn every_field_of_a_key_changes_its_revision_and_is_named_as_changed() {
        let fields = || key_fields("key_1");
        let time = Some(UnixTime::from_seconds(1_800_000_000));
        let models = || ModelList::new(vec!["m".into()]).unwrap();
        let keys = [
            fields(),
            key_fields("key_2"),
            KeyFields {
                name: KeyName::parse("another").unwrap(),
                ..fields()
            },
            KeyFields {
                hash: TokenHash::of(b"another"),
                ..fields()
            },
            KeyFields {
                hint: Hint::parse("abcd").ok(),
                ..fields()
            },
            KeyFields {
                previous: Some(PreviousToken::new(
                    TokenHash::of(b"old"),
                    None,
                    UnixTime::from_seconds(1_800_000_000),
                )),
                ..fields()
            },
            KeyFields {
                model_access: ModelAccess::Inclusive(models()),
                ..fields()
            },
            KeyFields {
                model_access: ModelAccess::Exclusive(models()),
                ..fields()
            },
            KeyFields {
                allow_from: AllowFrom::from_networks(vec![parse_network("10.0.0.0/8").unwrap()]),
                ..fields()
            },
            KeyFields {
                expires_at: time,
                ..fields()
            },
            KeyFields {
                created_at: time,
                ..fields()
            },
            KeyFields {
                account: Account::parse("a").ok(),
                ..fields()
            },
            KeyFields {
                allowance: KeyAllowance {
                    limits: {
                        let mut limits = KeyLimits::default();
                        limits.set(LimitKind::TokensPerMinute, LimitSetting::at_most(7));
                        limits
                    },
                    ..KeyAllowance::default()
                },
                ..fields()
            },
            KeyFields {
                allowance: KeyAllowance {
                    budgets: Box::new([Budget {
                        unit: BudgetUnit::Cost,
                        amount: 1,
                        period: BudgetPeriod::Day,
                        mode: BudgetMode::Observe,
                    }]),
                    ..KeyAllowance::default()
                },
                ..fields()
            },
            KeyFields {
                disabled: true,
                ..fields()
            },
        ];
        let first = Key::from(fields());
        let changed = keys
            .each_ref()
            .map(|fields| Key::from(fields.clone()).changed_fields(&first));
        let names = "name hash hint previous model_access model_access allow_from expires_at created_at account limits budgets disabled";
        let names: Vec<Vec<&str>> = names.split(' ').map(|name| vec![name]).collect();
        assert_eq!(changed[0], [""; 0]);
        assert_eq!(changed[1], ["id", "hash"]);
        assert_eq!(changed[2..], names);
        let mut revisions: Vec<String> = keys
            .map(|fields| KeyRevision::of(&Key::from(fields)).to_string())
            .to_vec();
        let again = KeyRevision::of(&Key::from(fields())).to_string();
        assert_eq!(revisions[0], again);
        assert_eq!(again.len(), 16);
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), 15);
    }
}
