//! Makes audit rows of changes of keys, and writes them to the database, where there is one.
//!
//! A row is on disk before its change is. If that is not possible, a change that may give access is not made, and the row
//! of one that takes access away waits. A row never holds a token or a hash of one.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, AuditRow, ChangeOrigin};
use crate::policy::key::{Key, PreviousToken};
use crate::policy::key_limits::KeyLimits;
use crate::policy::widening::widens;
use crate::store::database::{AuditWrite, Database, DatabaseError, IfNotWritten};
use crate::store::key_json::write_line;
use crate::table::{Difference, Table};

/// The most keys that the row of one reload describes, of each kind, and about how many bytes of text.
const MAX_KEYS: usize = 1000;
const MAX_TEXT: usize = 64 << 10;

/// Fields of a key by their names in the key file.
type FieldMap = Map<String, Value>;

/// Where the rows go.
#[derive(Clone, Debug)]
pub struct AuditTrail(Option<Arc<Database>>);

/// A row could not be written, so the change was not made.
#[derive(Clone, Debug)]
pub struct AuditError(Option<Arc<DatabaseError>>);

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the change cannot be audited: ")?;
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("the database's writer has ended; restart the gateway"),
        }
    }
}

impl std::error::Error for AuditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Some(error) => Some(&**error),
            None => None,
        }
    }
}

impl AuditTrail {
    /// Rows go into this database; without one there are none, and every change is made.
    #[must_use]
    pub fn of(database: Option<Arc<Database>>) -> Self {
        Self(database)
    }

    /// Writes the rows of these changes, all or none, and waits until they are on disk. Returns the mark of each; None
    /// where it waits, or where there is no database.
    pub(crate) fn write(
        &self,
        entries: Vec<AuditEntry>,
        if_not_written: IfNotWritten,
    ) -> Result<Vec<Option<AuditMark>>, AuditError> {
        let count = entries.len();
        match &self.0 {
            Some(database) if count > 0 => {
                marks(database.audit(entries, if_not_written).wait(), count)
            }
            Some(_) | None => Ok(vec![None; count]),
        }
    }

    /// The same for one row, inside a runtime.
    pub(crate) async fn record(
        &self,
        entry: AuditEntry,
        if_not_written: IfNotWritten,
    ) -> Result<Option<AuditMark>, AuditError> {
        let Some(database) = &self.0 else {
            return Ok(None);
        };
        let written = database.audit(vec![entry], if_not_written).written().await;
        marks(written, 1).map(|mut marks| marks.pop().flatten())
    }
}

fn marks(
    written: Result<AuditWrite, Option<Arc<DatabaseError>>>,
    count: usize,
) -> Result<Vec<Option<AuditMark>>, AuditError> {
    match written {
        Ok(AuditWrite::Written(marks)) => Ok(marks.into_iter().map(Some).collect()),
        Ok(AuditWrite::Waiting) => Ok(vec![None; count]),
        Err(error) => Err(AuditError(error)),
    }
}

/// A row about something else than a key.
pub(crate) fn entry(action: AuditAction, origin: ChangeOrigin, after: Option<Value>) -> AuditEntry {
    AuditEntry {
        at: now_in_milliseconds(),
        origin,
        action,
        target: None,
        account: None,
        before: None,
        after: after.map(|after| after.to_string()),
    }
}

/// The row of a change of one key; None: there is no such key.
pub(crate) fn key_entry(
    action: AuditAction,
    origin: ChangeOrigin,
    before: Option<&Key>,
    after: Option<&Key>,
) -> AuditEntry {
    let target = after.or(before).map(|key| key.id().to_owned());
    // A key that moves to another account is neither's business.
    let stays = match (before, after) {
        (Some(before), Some(after)) => before.account() == after.account(),
        _ => true,
    };
    let account = after.or(before).and_then(Key::account);
    let account = account.filter(|_| stays).map(str::to_owned);
    let (before, after) = changed_fields(before, after);
    let text = |fields: Option<FieldMap>| fields.map(|fields| Value::from(fields).to_string());
    AuditEntry {
        target,
        account,
        before: text(before),
        after: text(after),
        ..entry(action, origin, None)
    }
}

/// The row of a reload that changes keys. `forced`: it drops more keys than the limit allows.
pub(crate) fn reload_entry(
    origin: ChangeOrigin,
    difference: &Difference,
    forced: bool,
) -> AuditEntry {
    let mut left = MAX_TEXT;
    let mut described = 0;
    let mut describe = |keys: &mut FieldMap, key: &Key, fields: Option<FieldMap>| {
        let fields = Value::from(fields.unwrap_or_default());
        let length = fields.to_string().len() + key.id().len();
        if keys.len() < MAX_KEYS && length <= left {
            left -= length;
            described += 1;
            keys.insert(key.id().to_owned(), fields);
        }
    };
    let [mut removed, mut added, mut was, mut is]: [FieldMap; 4] = Default::default();
    for entry in difference.removed.iter().take(MAX_KEYS) {
        let (before, _) = changed_fields(Some(entry.key()), None);
        describe(&mut removed, entry.key(), before);
    }
    for (entry, old) in difference
        .changed
        .iter()
        .zip(&difference.before)
        .take(MAX_KEYS)
    {
        let (before, after) = changed_fields(Some(old.key()), Some(entry.key()));
        describe(&mut was, old.key(), before);
        describe(&mut is, entry.key(), after);
    }
    for entry in difference.added.iter().take(MAX_KEYS) {
        let (_, after) = changed_fields(None, Some(entry.key()));
        describe(&mut added, entry.key(), after);
    }
    let (add, change, remove) = (
        difference.added.len(),
        difference.changed.len(),
        difference.removed.len(),
    );
    let is_whole = described == add + 2 * change + remove;
    let before = json!({"changed": was, "removed": removed});
    let after = json!({
        "added": added,
        "changed": is,
        "counts": {"added": add, "changed": change, "removed": remove},
        "is_whole": is_whole,
    });
    let action = match forced {
        true => AuditAction::ForcedDrop,
        false => AuditAction::Reload,
    };
    AuditEntry {
        before: Some(before.to_string()),
        ..entry(action, origin, Some(after))
    }
}

/// Whether a reload may give access.
pub(crate) fn reload_widens(difference: &Difference, defaults: &KeyLimits) -> bool {
    let mut changed = difference.changed.iter().zip(&difference.before);
    !difference.added.is_empty()
        || changed.any(|(after, before)| widens(Some(before.key()), Some(after.key()), defaults))
}

/// The most of the newest rows that are compared with the key file at the start.
pub(crate) const COMPARED_ROWS: u32 = 1000;

/// The rows of the keys that the key file has otherwise than their newest rows say: the gateway was killed before the key
/// file was written, or somebody changed the key file while it was stopped. `rows` are newest first. Rows from before a
/// reload are not compared, since the reload may have changed their keys.
pub(crate) fn differences_at_start(rows: &[AuditRow], table: &Table) -> Vec<AuditEntry> {
    let mut seen = HashSet::new();
    let mut differences = Vec::new();
    for row in rows {
        let is_deleted = match AuditAction::of_label(&row.action) {
            Some(AuditAction::Reload | AuditAction::ForcedDrop) => break,
            Some(
                AuditAction::Create
                | AuditAction::Change
                | AuditAction::Rotate
                | AuditAction::ExpirePrevious,
            ) => Some(false),
            Some(AuditAction::Delete) => Some(true),
            // What a key is after these is not known, or known to differ.
            Some(AuditAction::NotWritten | AuditAction::DiffersAtStart) => None,
            Some(
                AuditAction::SignIn
                | AuditAction::SignInFailed
                | AuditAction::SignOut
                | AuditAction::MakeSignInLink
                | AuditAction::ResetBudgets
                | AuditAction::CreateAccount
                | AuditAction::ChangeAccount
                | AuditAction::DeleteAccount
                | AuditAction::Invite
                | AuditAction::RevokeInvitation
                | AuditAction::AcceptInvitation
                | AuditAction::ResetPassword
                | AuditAction::ChangeMember
                | AuditAction::RemoveMember
                | AuditAction::LoseMember
                | AuditAction::Cut
                | AuditAction::RowsLost,
            )
            | None => continue,
        };
        let Some(id) = row.target.as_deref().filter(|id| seen.insert(*id)) else {
            continue;
        };
        let Some(is_deleted) = is_deleted else {
            continue;
        };
        let entry_in_table = table.by_id(id);
        let present = entry_in_table.as_ref().map(|entry| fields(entry.key()));
        let Some(differs) = difference(row, is_deleted, present) else {
            continue;
        };
        differences.push(AuditEntry {
            target: Some(id.to_owned()),
            before: Some(json!({"row": row.n}).to_string()),
            after: differs.map(|fields| Value::from(fields).to_string()),
            ..entry(AuditAction::DiffersAtStart, ChangeOrigin::key_file(), None)
        });
    }
    differences
}

/// None: the key is as its row says. Otherwise the fields that are not; None: the key is missing.
fn difference(
    row: &AuditRow,
    is_deleted: bool,
    present: Option<FieldMap>,
) -> Option<Option<FieldMap>> {
    let Some(mut present) = present else {
        return (!is_deleted).then_some(None);
    };
    present.remove("hash");
    if is_deleted {
        return Some(Some(present));
    }
    let after = row.after.as_deref().unwrap_or_default();
    let after: FieldMap = serde_json::from_str(after).unwrap_or_default();
    let mut differs = FieldMap::new();
    for (name, wanted) in after.iter().filter(|(name, _)| *name != "token") {
        let value = present.remove(name).unwrap_or_default();
        if value != *wanted {
            differs.insert(name.clone(), value);
        }
    }
    (!differs.is_empty()).then_some(Some(differs))
}

/// The fields that differ, before and after, as the key file has them. An absent field is null.
fn changed_fields(
    before: Option<&Key>,
    after: Option<&Key>,
) -> (Option<FieldMap>, Option<FieldMap>) {
    let (Some(before), Some(after)) = (before, after) else {
        let whole = |key: &Key| {
            let mut fields = fields(key);
            fields.remove("hash");
            fields
        };
        return (before.map(whole), after.map(whole));
    };
    let (mut old, mut new) = (fields(before), fields(after));
    let is_same_token = old.remove("hash") == new.remove("hash");
    let previous = |key: &Key| key.previous().map(PreviousToken::hash).copied();
    let is_same_previous = previous(before) == previous(after);
    let names: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    for name in names {
        // Two tokens may have the same hint.
        let may_differ = name == "previous" && !is_same_previous;
        if old.get(&name) == new.get(&name) && !may_differ {
            old.remove(&name);
            new.remove(&name);
        } else {
            old.entry(name.clone()).or_insert(Value::Null);
            new.entry(name).or_insert(Value::Null);
        }
    }
    if !is_same_token {
        new.insert("token".to_owned(), "replaced".into());
    }
    (Some(old), Some(new))
}

/// All fields of the key's line but its id. The hash of its token is still among them.
fn fields(key: &Key) -> FieldMap {
    let mut line = Vec::with_capacity(256);
    write_line(key, &mut line);
    let mut fields: FieldMap = serde_json::from_slice(&line).unwrap_or_default();
    fields.remove("id");
    for value in fields.values_mut() {
        remove_hashes(value);
    }
    fields
}

/// Removes the hashes of tokens inside a field.
fn remove_hashes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("hash");
            fields.values_mut().for_each(remove_hashes);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_hashes),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn now_in_milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{KeyFields, KeyName};
    use crate::policy::token::TokenHash;
    use crate::table::{Entry, NO_YIELD};

    fn value(text: &Option<String>) -> Value {
        serde_json::from_str(text.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn a_row_has_the_fields_that_changed_and_never_a_hash() {
        let before = Key::from(key_fields("key_1"));
        let after = Key::from(KeyFields {
            name: KeyName::parse("other").unwrap(),
            hash: TokenHash::of(b"another"),
            account: crate::policy::key::Account::parse("a").ok(),
            ..key_fields("key_1")
        });
        let row =
            |before, after| key_entry(AuditAction::Change, ChangeOrigin::gateway(), before, after);
        let changed = row(Some(&before), Some(&after));
        assert_eq!(changed.target.as_deref(), Some("key_1"));
        assert_eq!(
            (value(&changed.before), value(&changed.after)),
            (
                json!({"account": null, "name": "name"}),
                json!({"account": "a", "name": "other", "token": "replaced"})
            )
        );
        let created = row(None, Some(&after));
        assert_eq!(created.before, None);
        assert_eq!(value(&created.after)["name"], "other");
        let deleted = row(Some(&after), None);
        assert_eq!(deleted.after, None);
        for entry in [&changed, &created, &deleted] {
            let text = format!("{entry:?}");
            assert!(!text.contains("hash") && !text.contains("blake3"), "{text}");
        }
        let mut nested = json!([{"previous": {"hash": "blake3:1", "hint": "abcd"}}]);
        remove_hashes(&mut nested);
        assert_eq!(nested, json!([{"previous": {"hint": "abcd"}}]));
    }

    #[test]
    fn the_row_of_a_reload_counts_all_keys_and_describes_as_many_as_fit() {
        let table = Table::default();
        let entries = |from: usize, to: usize| -> Vec<Arc<Entry>> {
            let key = |at| Arc::new(Entry::from(Key::from(key_fields(&format!("key_{at}")))));
            (from..to).map(key).collect()
        };
        table.swap(entries(0, 2), NO_YIELD);
        let mut wanted = entries(1, 2000);
        let renamed = Key::from(KeyFields {
            name: KeyName::parse("other").unwrap(),
            ..key_fields("key_1")
        });
        wanted[0] = Arc::new(Entry::from(renamed));
        let difference = table.compare(&wanted, NO_YIELD);
        assert!(reload_widens(&difference, &KeyLimits::default()));
        let row = reload_entry(ChangeOrigin::key_file(), &difference, true);
        assert_eq!(row.action, AuditAction::ForcedDrop);
        let (before, after) = (value(&row.before), value(&row.after));
        assert_eq!(before["changed"], json!({"key_1": {"name": "name"}}));
        assert_eq!(before["removed"]["key_0"]["name"], "name");
        assert_eq!(after["changed"], json!({"key_1": {"name": "other"}}));
        assert_eq!(
            after["counts"],
            json!({"added": 1998, "changed": 1, "removed": 1})
        );
        assert_eq!(after["is_whole"], false);
        assert!(row.after.unwrap().len() < 2 * MAX_TEXT);
        let difference = table.compare(&entries(0, 1), NO_YIELD);
        assert!(!reload_widens(&difference, &KeyLimits::default()));
        let row = reload_entry(ChangeOrigin::key_file(), &difference, false);
        assert_eq!(value(&row.after)["is_whole"], true);
    }
}
