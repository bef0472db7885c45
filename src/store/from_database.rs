//! What the key table takes over from the database: the accounts, and how often each key was used.

use std::collections::BTreeSet;

use crate::policy::account::AccountRules;
use crate::policy::time::UnixTime;
use crate::store::database::{Database, DatabaseError};
use crate::table::{Table, UsageCounts};

/// Puts all accounts into force. Waits for the disk.
///
/// # Errors
/// The database cannot be read, or an account in it cannot.
pub(crate) fn load_accounts(database: &Database, table: &Table) -> Result<(), DatabaseError> {
    for account in database.accounts()? {
        table.put_account(account);
    }
    Ok(())
}

/// Counts on where the last start ended: how often each key was used, and when last. To be done once, and before
/// [`Table::accounts_are_known`]: what is counted at the same instant may be missing. Waits for the disk.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn restore_key_uses(database: &Database, table: &Table) -> Result<(), DatabaseError> {
    for known in database.key_uses()? {
        // What was counted here meanwhile is among them.
        let counted = table.by_id(&known.key_id);
        let counted = counted.map_or(0, |entry| table.usage(&entry).requests);
        let before = UsageCounts {
            requests: known.requests.saturating_sub(counted),
            last_used_at: Some(UnixTime::from_seconds(known.last_used_at)),
            // The database counts by key, not by token.
            previous_last_used_at: None,
        };
        table.restore_usage(&known.key_id, before);
    }
    Ok(())
}

/// Takes over when each key was used last, through whichever gateway. Waits for the disk.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn last_key_uses(database: &Database, table: &Table) -> Result<(), DatabaseError> {
    for known in database.key_uses()? {
        let last = UsageCounts {
            last_used_at: Some(UnixTime::from_seconds(known.last_used_at)),
            ..UsageCounts::default()
        };
        table.restore_usage(&known.key_id, last);
    }
    Ok(())
}

/// What taking over the accounts of another gateway has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FollowedAccounts {
    /// Accounts that are new or other ones now.
    pub(crate) changed: Vec<String>,
    /// Accounts that are gone.
    pub(crate) removed: Vec<String>,
    /// Accounts that are gone while keys here still name them: those keys are refused. Without the account they would be
    /// free of its ceilings.
    pub(crate) closed: Vec<String>,
}

/// Puts the accounts of the database into force as they are now. `unwritten`: accounts that are in force otherwise than the
/// database has them, and stay so.
pub(crate) fn follow_accounts(
    accounts: Vec<AccountRules>,
    table: &Table,
    unwritten: &BTreeSet<String>,
) -> FollowedAccounts {
    let mut followed = FollowedAccounts::default();
    let ids: BTreeSet<String> = accounts
        .iter()
        .map(|account| account.id.as_str().to_owned())
        .collect();
    for account in accounts {
        let id = account.id.as_str();
        let is_known = table.account(id).is_some_and(|known| *known == account);
        if !is_known && !unwritten.contains(id) {
            followed.changed.push(id.to_owned());
            table.put_account(account);
        }
    }
    for known in table.accounts() {
        let id = known.id.as_str();
        if ids.contains(id) || unwritten.contains(id) {
            continue;
        }
        if table.keys_of_account(id).is_empty() {
            table.remove_account(id);
            followed.removed.push(id.to_owned());
        } else if !known.disabled {
            table.put_account(AccountRules {
                disabled: true,
                ..AccountRules::clone(&known)
            });
            followed.closed.push(id.to_owned());
        }
    }
    followed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, Key, KeyFields};
    use crate::store::account_json::parse_account;

    fn account(id: &str, rest: &str) -> AccountRules {
        let text = format!(r#"{{"id":"{id}","created_at":"2027-01-01T00:00:00Z"{rest}}}"#);
        parse_account(&text).unwrap()
    }

    #[test]
    fn the_accounts_of_another_gateway_are_taken_over_and_none_is_set_free() {
        let table = Table::default();
        for id in ["changes", "goes", "has_keys", "unwritten"] {
            table.put_account(account(id, ""));
        }
        let key = KeyFields {
            account: Account::parse("has_keys").ok(),
            ..key_fields("key_1")
        };
        table.insert(Key::from(key)).unwrap();
        let now = vec![
            account("changes", r#","disabled":true"#),
            account("is_new", ""),
            account("unwritten", r#","disabled":true"#),
        ];
        let unwritten = BTreeSet::from(["unwritten".to_owned()]);
        let followed = follow_accounts(now.clone(), &table, &unwritten);
        let owned =
            |ids: &[&str]| -> Vec<String> { ids.iter().map(|id| (*id).to_owned()).collect() };
        assert_eq!(
            followed,
            FollowedAccounts {
                changed: owned(&["changes", "is_new"]),
                removed: owned(&["goes"]),
                closed: owned(&["has_keys"]),
            }
        );
        let is_disabled = |id| table.account(id).map(|account| account.disabled);
        assert_eq!(is_disabled("changes"), Some(true));
        assert_eq!(is_disabled("goes"), None);
        assert_eq!(is_disabled("has_keys"), Some(true));
        assert_eq!(is_disabled("unwritten"), Some(false));
        assert_eq!(
            follow_accounts(now, &table, &unwritten),
            FollowedAccounts::default()
        );
    }
}
