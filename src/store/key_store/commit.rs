//! Changing the source and the table together: creates, changes, rotations and deletes, in batches.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::account::{AccountRules, KeyCount};
use crate::policy::key::{Account, Hint, Key, KeyFields, KeyId, PreviousToken};
use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::audit::{AuditError, key_entry};
use crate::store::database::{IfNotWritten, KeyPosition, KeyWrites};
use crate::store::key_file::{self, LockedKeyFile};
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_source::database::COPY_TIMEOUT;
use crate::store::key_source::last_good_copy::key_row;
use crate::store::key_source::{
    KeyFileSource, KeySource, LockError, LockedSource, Revision, SourceError,
};
use crate::store::key_store::command::{SubmittedWrite, WriteCommand};
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::key_store::event::{FollowState, KeyStoreEvent};
use crate::store::key_store::prepared_write::{
    BatchChanges, PreparedKind, PreparedWrite, reject, unrevoked,
};
use crate::store::key_store::state::{
    KeyStoreState, PendingChange, PendingRevocation, Restriction,
};
use crate::store::patch::{KeyPatch, NewKey};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

/// Which writes take access away before the source is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RevokedFirst {
    All,
    /// Those that are meant for any revision of the key: the others have to be compared with what other gateways did.
    IfAnyRevision,
}

/// A key before and after a change.
struct Update {
    before: Key,
    after: Key,
    /// The key as the table had it, if this has taken access away there.
    taken_from: Option<Key>,
}

/// A key before and after a rotation.
struct Rotation {
    before: Key,
    after: Key,
    token: BearerToken,
    /// The previous token of before, if it still worked.
    ended: Option<PreviousToken>,
}

impl KeyStoreState {
    /// Runs one batch: load what others wrote, prepare each write, write their audit rows, commit all of them at once,
    /// change the table, reply.
    /// Without writes it commits the pending changes alone.
    pub(crate) fn commit(&mut self, mut writes: Vec<SubmittedWrite>) {
        if matches!(self.source, KeySource::Database(_)) {
            // The database may be far away, or not answer at all.
            self.revoke_without_lock(&mut writes, RevokedFirst::IfAnyRevision);
        }
        let locked = match self.known_away() {
            Some(error) => Err(LockError::Database(error)),
            None => match self.source.lock(Duration::ZERO) {
                Err(LockError::Busy(_) | LockError::Database(SourceError::Busy)) => {
                    self.revoke_without_lock(&mut writes, RevokedFirst::All);
                    self.source.lock(key_file::LOCK_WAIT)
                }
                lock => lock,
            },
        };
        let locked = match locked {
            Ok(lock) => self.merge(&lock).map(|()| lock),
            Err(LockError::Database(error @ SourceError::Busy)) => Err(error.into()),
            Err(LockError::Database(error)) => {
                self.set_follow_state(FollowState::NotFollowed(error.clone()));
                Err(error.into())
            }
            // An error of the content says more than the error that the file cannot be locked.
            Err(error) => self.merge_file().and(Err(error.into())),
        };
        let mut changes = BatchChanges::default();
        let prepared: Vec<PreparedWrite> = writes
            .into_iter()
            .filter_map(|write| self.prepare(write, &mut changes))
            .collect();
        let prepared = match &locked {
            Ok(_) => self.audit(prepared, &mut changes),
            Err(_) => self.audit_revocations(prepared),
        };
        let committed = locked.and_then(|lock| self.commit_changes(&lock, &changes));
        self.source.unlock();
        match &committed {
            Ok(()) => changes.apply_to(&self.table),
            Err(error) => {
                let pending = self.pending.len();
                self.update_status(|status| {
                    status.pending = pending;
                    status.pending_error = Some(error.clone()).filter(|_| pending > 0);
                });
                (self.events)(KeyStoreEvent::WriteFailed { error, pending });
                self.audit_not_written(&prepared);
            }
        }
        self.finish_copy();
        for write in prepared {
            if committed.is_ok() || write.is_in_force() {
                (self.events)(KeyStoreEvent::Changed {
                    entry: &write.entry(),
                    mark: write.mark.as_ref(),
                    is_written: committed.is_ok(),
                });
            }
            write.reply(&self.table, &committed);
        }
    }

    /// Writes the last good copy, and waits for it: what is answered outlives a kill of the process while the database is away.
    fn finish_copy(&self) {
        if let (Some(number), KeySource::Database(source)) = (self.write_copy(), &self.source)
            && let Err(error) = source.copy.wait(number, COPY_TIMEOUT)
        {
            (self.events)(KeyStoreEvent::CopyFailed { error: &error });
        }
    }

    /// Puts deletes, disables and ends of previous tokens into force before the lock is taken. Another process may hold the lock for long, and a
    /// revoked key or token must not wait for it. Its revision is compared here and not again: the key is another afterwards. Only writes
    /// that do nothing else: another one may still be rejected, when it is known what others did.
    fn revoke_without_lock(&mut self, writes: &mut [SubmittedWrite], which: RevokedFirst) {
        let mut unused = BatchChanges::default();
        let is_first = |expected: &ExpectedRevision| match which {
            RevokedFirst::All => true,
            RevokedFirst::IfAnyRevision => matches!(expected, ExpectedRevision::Any),
        };
        for write in writes {
            if write.revoked_from.is_some() {
                continue;
            }
            let revoked_from = &mut write.revoked_from;
            match &mut write.command {
                // An error is found again, and sent, when the write is prepared.
                WriteCommand::Delete { id, expected, .. } if is_first(expected) => {
                    if let Ok((before, _)) = self.delete(id, expected, &mut unused) {
                        *expected = ExpectedRevision::Any;
                        *revoked_from = before;
                    }
                }
                WriteCommand::Update {
                    id,
                    patch,
                    expected,
                    now,
                    ..
                } if patch.only_revokes() && is_first(expected) => {
                    if let Ok(update) = self.update(id, expected, patch, *now, &mut unused) {
                        *expected = ExpectedRevision::Any;
                        *revoked_from = update.taken_from;
                    }
                }
                WriteCommand::Update { .. }
                | WriteCommand::Delete { .. }
                | WriteCommand::Create { .. }
                | WriteCommand::Rotate { .. } => {}
            }
        }
    }

    /// Adds what a write changes to `changes`, and puts into force what takes access away. A write that fails gets its reply
    /// here.
    fn prepare(
        &mut self,
        write: SubmittedWrite,
        changes: &mut BatchChanges,
    ) -> Option<PreparedWrite> {
        let SubmittedWrite {
            origin,
            command,
            revoked_from,
            // Ends here: the table has the change, or it is rejected.
            suspension: _suspension,
        } = write;
        let (before, kind) = match command {
            WriteCommand::Create { new, now, reply } => match self.new_key(new, now, changes) {
                Ok((key, token)) => {
                    changes.created.push(key.clone());
                    (None, PreparedKind::Created { key, token, reply })
                }
                Err(error) => return reject(reply, error),
            },
            WriteCommand::Update {
                id,
                patch,
                expected,
                now,
                reply,
            } => match self.update(&id, &expected, &patch, now, changes) {
                Ok(update) => {
                    let before = match &revoked_from {
                        Some(revoked) => unrevoked(update.before, patch.revocation(), revoked),
                        None => update.before,
                    };
                    let taken_from = revoked_from.or(update.taken_from).map(Box::new);
                    let kind = PreparedKind::Updated {
                        key: update.after,
                        patch,
                        taken_from,
                        reply,
                    };
                    (Some(before), kind)
                }
                Err(error) => return reject(reply, error),
            },
            WriteCommand::Rotate {
                id,
                grace_seconds,
                expected,
                now,
                reply,
            } => match self.rotate(&id, &expected, grace_seconds, now, changes) {
                Ok(Rotation {
                    before,
                    after: key,
                    token,
                    ended,
                }) => {
                    let kind = PreparedKind::Rotated {
                        key,
                        token,
                        ended,
                        reply,
                    };
                    (Some(before), kind)
                }
                Err(error) => return reject(reply, error),
            },
            WriteCommand::Delete {
                id,
                expected,
                reply,
            } => match self.delete(&id, &expected, changes) {
                Ok((before, entry)) => (
                    revoked_from.or(before),
                    PreparedKind::Deleted { entry, reply },
                ),
                Err(error) => return reject(reply, error),
            },
        };
        Some(PreparedWrite {
            origin,
            before,
            mark: None,
            kind,
        })
    }

    /// Writes the audit rows of a batch, in its order. Where that is not possible, writes that may give access are
    /// refused; the rows of the others wait, and `changes` is made anew of them.
    fn audit(
        &self,
        mut prepared: Vec<PreparedWrite>,
        changes: &mut BatchChanges,
    ) -> Vec<PreparedWrite> {
        let if_not_written = match prepared
            .iter()
            .any(|write| write.widens(&self.default_limits))
        {
            true => IfNotWritten::Refuse,
            false => IfNotWritten::Wait,
        };
        if let Err(error) = self.write_rows(&mut prepared, if_not_written) {
            *changes = BatchChanges::default();
            prepared = prepared
                .into_iter()
                .filter_map(|write| {
                    write.unless_widening(&self.table, &self.default_limits, changes, &error)
                })
                .collect();
            // What may wait is never refused.
            let _ = self.write_rows(&mut prepared, IfNotWritten::Wait);
        }
        prepared
    }

    fn write_rows(
        &self,
        prepared: &mut [PreparedWrite],
        if_not_written: IfNotWritten,
    ) -> Result<(), AuditError> {
        let mut changing: Vec<&mut PreparedWrite> = prepared
            .iter_mut()
            .filter(|write| write.changes_something())
            .collect();
        let entries = changing.iter().map(|write| write.entry()).collect();
        let marks = self.audit.write(entries, if_not_written)?;
        for (write, mark) in changing.iter_mut().zip(marks) {
            write.mark = mark;
        }
        Ok(())
    }

    /// The same where the key file cannot be written: only what takes access away is in force then.
    fn audit_revocations(&self, mut prepared: Vec<PreparedWrite>) -> Vec<PreparedWrite> {
        for write in &mut prepared {
            if !write.is_in_force() || !write.changes_something() {
                continue;
            }
            let entry = match &write.kind {
                PreparedKind::Updated {
                    patch, taken_from, ..
                } => {
                    let Some(before) = taken_from else {
                        continue;
                    };
                    let restriction = Restriction::of(patch.revocation(), before);
                    let after = restriction.applied_to(before);
                    let origin = write.origin.clone();
                    key_entry(write.action(), origin, Some(before), after.as_ref())
                }
                PreparedKind::Created { .. }
                | PreparedKind::Rotated { .. }
                | PreparedKind::Deleted { .. } => write.entry(),
            };
            let marks = self.audit.write(vec![entry], IfNotWritten::Wait);
            write.mark = marks.ok().and_then(|mut marks| marks.pop().flatten());
        }
        prepared
    }

    /// The key file could not be written after the rows were. A further row for each change that is not in force says so.
    fn audit_not_written(&self, prepared: &[PreparedWrite]) {
        let not_written = prepared
            .iter()
            .filter(|write| write.mark.is_some() && !write.is_in_force());
        let entries = not_written.map(PreparedWrite::not_written).collect();
        let _ = self.audit.write(entries, IfNotWritten::Wait);
    }

    fn new_key(
        &self,
        new: NewKey,
        now: UnixTime,
        changes: &BatchChanges,
    ) -> Result<(Key, BearerToken), WriteError> {
        check_expiry(new.expires_at, now)?;
        let account = self.account_of(new.account.as_ref().map(Account::as_str));
        if new.created_by.is_some() && account.is_none() {
            // Without its account the key would be free of all ceilings.
            return Err(WriteError::Invalid(FieldError {
                field: "account".to_owned(),
                message: "does not exist any more; choose another".to_owned(),
            }));
        }
        if let Some(account) = &account {
            check_life(account, Some(now), new.expires_at)?;
            self.check_room(account, changes)?;
        }
        let NewKey {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
            created_by,
            allowance,
        } = new;
        loop {
            let token = self.new_token()?;
            let Ok(id) = KeyId::parse(&random_id().map_err(no_random_bytes)?) else {
                continue;
            };
            let taken = self.table.by_id(id.as_str()).is_some() || self.pending.contains_key(&id);
            if taken {
                continue;
            }
            let key = Key::from(KeyFields {
                hint: Hint::parse(token.hint()).ok(),
                expires_at,
                created_at: Some(now),
                account,
                created_by,
                allowance,
                ..KeyFields::new(id, name, token.hash(), model_access, allow_from)
            });
            return Ok((key, token));
        }
    }

    fn new_token(&self) -> Result<BearerToken, WriteError> {
        loop {
            let token = BearerToken::make(getrandom::fill).map_err(no_random_bytes)?;
            if self.table.find(&token.hash()).is_none() {
                return Ok(token);
            }
        }
    }

    fn rotate(
        &self,
        id: &str,
        expected: &ExpectedRevision,
        grace_seconds: u32,
        now: UnixTime,
        changes: &mut BatchChanges,
    ) -> Result<Rotation, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        let current = changes.current(entry.key());
        if !expected.admits(current) {
            return Err(WriteError::Changed);
        }
        let token = self.new_token()?;
        let not_after = (grace_seconds > 0).then(|| now.plus(grace_seconds.into()));
        let rotated = current.rotated(token.hash(), Hint::parse(token.hint()).ok(), not_after);
        let ended = current.previous().filter(|previous| !previous.ended(now));
        let ended = ended.cloned();
        let before = current.clone();
        changes.replaced.insert(rotated.key_id(), rotated.clone());
        Ok(Rotation {
            before,
            after: rotated,
            token,
            ended,
        })
    }

    fn update(
        &mut self,
        id: &str,
        expected: &ExpectedRevision,
        patch: &KeyPatch,
        now: UnixTime,
        changes: &mut BatchChanges,
    ) -> Result<Update, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        let id = entry.key().key_id();
        let current = changes.current(entry.key());
        if !expected.admits(current) {
            return Err(WriteError::Changed);
        }
        check_expiry(patch.expires_at.flatten(), now)?;
        let (before, wanted) = (current.clone(), patch.applied_to(current));
        self.check_ceilings(&before, &wanted, changes)?;
        let mut in_table = entry;
        let mut taken_from = None;
        let restriction = Restriction::of(patch.revocation(), in_table.key());
        if let Some(restricted) = restriction.applied_to(in_table.key()) {
            taken_from = Some(in_table.key().clone());
            if let Ok(changed) = self.table.replace(restricted) {
                in_table = changed;
            }
            let both = match self.pending.get(&id).map(|pending| &pending.change) {
                Some(PendingChange::Restricted(before)) => restriction.and(*before),
                Some(PendingChange::Deleted(_)) | None => restriction,
            };
            let restricted = PendingChange::Restricted(both);
            self.pending
                .insert(id.clone(), PendingRevocation::now(restricted));
        }
        if wanted == *in_table.key() {
            changes.replaced.remove(&id);
        } else {
            changes.replaced.insert(id, wanted.clone());
        }
        Ok(Update {
            before,
            after: wanted,
            taken_from,
        })
    }

    /// Refuses a change that takes a key beyond what its account allows. One that leaves account and expiry as they are is
    /// never refused: the account may have been narrowed since, and the judgement holds in any case.
    fn check_ceilings(
        &self,
        before: &Key,
        after: &Key,
        changes: &BatchChanges,
    ) -> Result<(), WriteError> {
        let is_moved = after.account() != before.account();
        if !is_moved && after.expires_at() == before.expires_at() {
            return Ok(());
        }
        let Some(account) = self.account_of(after.account()) else {
            return Ok(());
        };
        check_life(&account, after.created_at(), after.expires_at())?;
        match is_moved {
            true => self.check_room(&account, changes),
            false => Ok(()),
        }
    }

    fn account_of(&self, id: Option<&str>) -> Option<Arc<AccountRules>> {
        self.table.account(id?)
    }

    /// Refuses one key more than the account may have.
    fn check_room(&self, account: &AccountRules, changes: &BatchChanges) -> Result<(), WriteError> {
        let Some(most) = account.max_keys.map(KeyCount::get) else {
            return Ok(());
        };
        let id = account.id.as_str();
        let is_of = |key: &Key| key.account() == Some(id);
        let is_moved = |key: &&Key| {
            let before = self.table.by_id(key.id());
            is_of(key) && !before.is_some_and(|before| is_of(before.key()))
        };
        let created = changes.created.iter().filter(|key| is_of(key)).count();
        let moved = changes.replaced.values().filter(is_moved).count();
        let keys = self.table.keys_of_account(id).len() + created + moved;
        match u32::try_from(keys).is_ok_and(|keys| keys < most) {
            true => Ok(()),
            false => Err(WriteError::Invalid(FieldError {
                field: "account".to_owned(),
                message: format!(
                    "{id} allows {most} keys at most (max_keys) and has {keys}; delete one of them, or raise max_keys of the \
                     account"
                ),
            })),
        }
    }

    /// The key before, unless it was deleted already, and its entry.
    fn delete(
        &mut self,
        id: &str,
        expected: &ExpectedRevision,
        changes: &mut BatchChanges,
    ) -> Result<(Option<Key>, Arc<Entry>), WriteError> {
        let id = KeyId::parse(id).map_err(|_| WriteError::NotFound)?;
        if let Some(entry) = self.table.by_id(id.as_str()) {
            let before = changes.current(entry.key()).clone();
            if !expected.admits(&before) {
                return Err(WriteError::Changed);
            }
            self.table.remove(id.as_str());
            changes.replaced.remove(&id);
            let deleted = PendingChange::Deleted(Arc::clone(&entry));
            self.pending.insert(id, PendingRevocation::now(deleted));
            return Ok((Some(before), entry));
        }
        match self.pending.get(&id).map(|pending| &pending.change) {
            Some(PendingChange::Deleted(entry)) => Ok((None, Arc::clone(entry))),
            Some(PendingChange::Restricted(_)) | None => Err(WriteError::NotFound),
        }
    }

    /// Commits the table's keys with `changes` applied, unless the source holds exactly that already.
    fn commit_changes(
        &mut self,
        lock: &LockedSource,
        changes: &BatchChanges,
    ) -> Result<(), StoreError> {
        if changes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let committed = match (lock, &mut self.source) {
            (LockedSource::File(lock), _) => self.commit_to_file(lock, changes)?,
            (LockedSource::Database, KeySource::Database(source)) => {
                let writes = key_writes(&self.table, &self.pending, changes);
                let seen = match self.loaded {
                    Revision::Database(position) => position,
                    Revision::Unknown | Revision::Absent | Revision::File(_) => {
                        KeyPosition::default()
                    }
                };
                match writes.is_empty() {
                    true => self.loaded,
                    false => Revision::Database(source.commit(&writes, seen, None)?),
                }
            }
            (LockedSource::Database, KeySource::File(_)) => return Ok(()),
        };
        self.set_loaded(committed);
        // What was taken of a key that cannot be read here cannot be written either.
        let table = &self.table;
        self.pending.retain(|id, pending| {
            matches!(pending.change, PendingChange::Restricted(_))
                && table.by_id(id.as_str()).is_none()
        });
        let left = self.pending.len();
        let written = self.status.load().pending.saturating_sub(left);
        if written > 0 {
            self.update_status(|status| (status.pending, status.pending_error) = (left, None));
            (self.events)(KeyStoreEvent::PendingWritten { written });
        }
        Ok(())
    }

    fn commit_to_file(
        &self,
        lock: &LockedKeyFile,
        changes: &BatchChanges,
    ) -> Result<Revision, StoreError> {
        let entries = self.table.in_file_order(yield_if_due);
        let kept = yield_every(&entries, yield_if_due).map(|entry| changes.current(entry.key()));
        let committed = KeyFileSource::commit(lock, kept.chain(&changes.created));
        drop_incrementally(entries, yield_if_due);
        Ok(committed?)
    }
}

/// What a commit changes in the database.
fn key_writes(
    table: &Table,
    pending: &HashMap<KeyId, PendingRevocation>,
    changes: &BatchChanges,
) -> KeyWrites {
    let mut writes = KeyWrites::default();
    for (id, pending) in pending {
        match &pending.change {
            PendingChange::Deleted(_) => writes.deleted.push(id.as_str().to_owned()),
            PendingChange::Restricted(_) if changes.replaced.contains_key(id) => {}
            PendingChange::Restricted(_) => {
                let restricted = table.by_id(id.as_str());
                writes
                    .put
                    .extend(restricted.map(|entry| key_row(entry.key())));
            }
        }
    }
    writes.put.extend(changes.replaced.values().map(key_row));
    writes.put.extend(changes.created.iter().map(key_row));
    writes
}

fn no_random_bytes(error: getrandom::Error) -> WriteError {
    WriteError::NotWritten {
        in_force: false,
        error: io::Error::other(error).into(),
    }
}

/// Refuses a life that is longer than the account allows.
fn check_life(
    account: &AccountRules,
    created_at: Option<UnixTime>,
    expires_at: Option<UnixTime>,
) -> Result<(), WriteError> {
    let Some(days) = account.max_key_days else {
        return Ok(());
    };
    let id = account.id.as_str();
    let (field, what) = match (created_at, expires_at) {
        (None, _) => (
            "account",
            "the time when this key was created is not known".to_owned(),
        ),
        (Some(begin), Some(end)) if end <= days.after(begin) => return Ok(()),
        (Some(begin), _) => (
            "expires_at",
            format!("name a time up to {}", days.after(begin)),
        ),
    };
    let days = days.get();
    Err(WriteError::Invalid(FieldError {
        field: field.to_owned(),
        message: format!("{id} allows its keys {days} days at most (max_key_days); {what}"),
    }))
}

fn check_expiry(end: Option<UnixTime>, now: UnixTime) -> Result<(), WriteError> {
    match end {
        Some(end) if end <= now => Err(WriteError::Invalid(FieldError {
            field: "expires_at".to_owned(),
            message: format!("{end} has passed already; name a time to come"),
        })),
        _ => Ok(()),
    }
}

/// `key_` and 22 base62 characters: 130 random bits, so that two ids are never equal.
fn random_id() -> Result<String, getrandom::Error> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = "key_".to_owned();
    let mut bytes = [0; 32];
    while id.len() < 26 {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 in a byte: beyond it, the remainder would not be uniform.
        let digits = bytes.iter().filter(|&&byte| byte < 248).take(26 - id.len());
        id.extend(digits.map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
    }
    Ok(id)
}
