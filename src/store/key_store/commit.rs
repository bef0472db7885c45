//! Changing the source and the table together: creates, changes, rotations and deletes, in batches.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::key::{Hint, Key, KeyFields, KeyId, PreviousToken};
use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::key_file::{self, KeyFileSource, LockedKeyFile};
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_store::command::{CreatedKey, ReplySender, RotatedKey, WriteCommand};
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::key_store::event::KeyStoreEvent;
use crate::store::key_store::state::{KeyStoreState, PendingChange, Restriction};
use crate::store::patch::{KeyPatch, NewKey};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

/// What a batch changes in the table once it is committed.
#[derive(Default)]
struct BatchChanges {
    replaced: HashMap<KeyId, Key>,
    created: Vec<Key>,
}

/// A write that is valid and waits for the commit.
enum PreparedWrite {
    Created {
        key: Key,
        token: BearerToken,
        reply: ReplySender<CreatedKey, WriteError>,
    },
    Updated {
        key: Key,
        in_force: bool,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
    Rotated {
        key: Key,
        token: BearerToken,
        ended: Option<PreviousToken>,
        reply: ReplySender<RotatedKey, WriteError>,
    },
    Deleted {
        entry: Arc<Entry>,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
}

impl KeyStoreState {
    /// Runs one batch: load what others wrote, prepare each write, commit all of them at once, change the table, reply.
    /// Without writes it commits the pending changes alone.
    pub(crate) fn commit(&mut self, mut writes: Vec<WriteCommand>) {
        let locked = match self.source.lock(Duration::ZERO) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {
                self.revoke_without_lock(&mut writes);
                self.source.lock(key_file::LOCK_WAIT)
            }
            lock => lock,
        };
        let locked = match locked {
            Ok(lock) => self.merge().map(|()| lock),
            // An error of the content says more than the error that the file cannot be locked.
            Err(error) => self.merge().and(Err(error.into())),
        };
        let mut changes = BatchChanges::default();
        let prepared: Vec<PreparedWrite> = writes
            .into_iter()
            .filter_map(|write| self.prepare(write, &mut changes))
            .collect();
        let committed = locked.and_then(|lock| self.commit_changes(&lock, &changes));
        match &committed {
            Ok(()) => changes.apply_to(&self.table),
            Err(error) => {
                let pending = self.pending.len();
                self.update_status(|status| {
                    status.pending = pending;
                    status.pending_error = Some(error.clone()).filter(|_| pending > 0);
                });
                (self.events)(KeyStoreEvent::WriteFailed { error, pending });
            }
        }
        for write in prepared {
            write.reply(&self.table, &committed);
        }
    }

    /// Puts deletes, disables and ends of previous tokens into force before the lock is taken. Another process may hold the lock for long, and a
    /// revoked key or token must not wait for it. Its revision is compared here and not again: the key is another afterwards.
    fn revoke_without_lock(&mut self, writes: &mut [WriteCommand]) {
        let mut unused = BatchChanges::default();
        for write in writes {
            match write {
                // An error is found again, and sent, when the write is prepared.
                WriteCommand::Delete { id, expected, .. } => {
                    if self.delete(id, expected, &mut unused).is_ok() {
                        *expected = ExpectedRevision::Any;
                    }
                }
                WriteCommand::Update {
                    id,
                    patch,
                    expected,
                    now,
                    ..
                } if patch.revocation().is_any() => {
                    if self.update(id, expected, patch, *now, &mut unused).is_ok() {
                        *expected = ExpectedRevision::Any;
                    }
                }
                WriteCommand::Update { .. }
                | WriteCommand::Create { .. }
                | WriteCommand::Rotate { .. } => {}
            }
        }
    }

    /// Adds what a write changes to `changes`, and puts into force what takes access away. A write that fails gets its reply
    /// here.
    fn prepare(
        &mut self,
        write: WriteCommand,
        changes: &mut BatchChanges,
    ) -> Option<PreparedWrite> {
        match write {
            WriteCommand::Create { new, now, reply } => match self.new_key(new, now) {
                Ok((key, token)) => {
                    changes.created.push(key.clone());
                    Some(PreparedWrite::Created { key, token, reply })
                }
                Err(error) => reject(reply, error),
            },
            WriteCommand::Update {
                id,
                patch,
                expected,
                now,
                reply,
            } => match self.update(&id, &expected, &patch, now, changes) {
                Ok(key) => Some(PreparedWrite::Updated {
                    key,
                    in_force: patch.revocation().is_any(),
                    reply,
                }),
                Err(error) => reject(reply, error),
            },
            WriteCommand::Rotate {
                id,
                grace_seconds,
                expected,
                now,
                reply,
            } => match self.rotate(&id, &expected, grace_seconds, now, changes) {
                Ok((key, token, ended)) => Some(PreparedWrite::Rotated {
                    key,
                    token,
                    ended,
                    reply,
                }),
                Err(error) => reject(reply, error),
            },
            WriteCommand::Delete {
                id,
                expected,
                reply,
            } => match self.delete(&id, &expected, changes) {
                Ok(entry) => Some(PreparedWrite::Deleted { entry, reply }),
                Err(error) => reject(reply, error),
            },
        }
    }

    fn new_key(&self, new: NewKey, now: UnixTime) -> Result<(Key, BearerToken), WriteError> {
        check_expiry(new.expires_at, now)?;
        let NewKey {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
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

    /// Returns the key with its new token, and the previous token of before if it still worked.
    fn rotate(
        &self,
        id: &str,
        expected: &ExpectedRevision,
        grace_seconds: u32,
        now: UnixTime,
        changes: &mut BatchChanges,
    ) -> Result<(Key, BearerToken, Option<PreviousToken>), WriteError> {
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
        changes.replaced.insert(rotated.key_id(), rotated.clone());
        Ok((rotated, token, ended))
    }

    fn update(
        &mut self,
        id: &str,
        expected: &ExpectedRevision,
        patch: &KeyPatch,
        now: UnixTime,
        changes: &mut BatchChanges,
    ) -> Result<Key, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        let id = entry.key().key_id();
        let current = changes.current(entry.key());
        if !expected.admits(current) {
            return Err(WriteError::Changed);
        }
        check_expiry(patch.expires_at.flatten(), now)?;
        let wanted = patch.applied_to(current);
        let mut in_table = entry;
        let restriction = Restriction::of(patch.revocation(), in_table.key());
        if let Some(restricted) = restriction.applied_to(in_table.key()) {
            if let Ok(changed) = self.table.replace(restricted) {
                in_table = changed;
            }
            let both = match self.pending.get(&id) {
                Some(PendingChange::Restricted(before)) => restriction.and(*before),
                Some(PendingChange::Deleted(_)) | None => restriction,
            };
            let restricted = PendingChange::Restricted(both);
            self.pending.insert(id.clone(), restricted);
        }
        if wanted == *in_table.key() {
            changes.replaced.remove(&id);
        } else {
            changes.replaced.insert(id, wanted.clone());
        }
        Ok(wanted)
    }

    fn delete(
        &mut self,
        id: &str,
        expected: &ExpectedRevision,
        changes: &mut BatchChanges,
    ) -> Result<Arc<Entry>, WriteError> {
        let id = KeyId::parse(id).map_err(|_| WriteError::NotFound)?;
        if let Some(entry) = self.table.by_id(id.as_str()) {
            if !expected.admits(changes.current(entry.key())) {
                return Err(WriteError::Changed);
            }
            self.table.remove(id.as_str());
            changes.replaced.remove(&id);
            let deleted = PendingChange::Deleted(Arc::clone(&entry));
            self.pending.insert(id, deleted);
            return Ok(entry);
        }
        match self.pending.get(&id) {
            Some(PendingChange::Deleted(entry)) => Ok(Arc::clone(entry)),
            Some(PendingChange::Restricted(_)) | None => Err(WriteError::NotFound),
        }
    }

    /// Commits the table's keys with `changes` applied, unless the source holds exactly that already.
    fn commit_changes(
        &mut self,
        lock: &LockedKeyFile,
        changes: &BatchChanges,
    ) -> Result<(), StoreError> {
        if changes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let entries = self.table.in_file_order(yield_if_due);
        let kept = yield_every(&entries, yield_if_due).map(|entry| changes.current(entry.key()));
        let committed = KeyFileSource::commit(lock, kept.chain(&changes.created));
        drop_incrementally(entries, yield_if_due);
        self.loaded = committed?;
        self.pending.clear();
        let written = self.status.load().pending;
        if written > 0 {
            self.update_status(|status| (status.pending, status.pending_error) = (0, None));
            (self.events)(KeyStoreEvent::PendingWritten { written });
        }
        Ok(())
    }
}

impl BatchChanges {
    fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.created.is_empty()
    }

    /// The key as it is after the batch.
    fn current<'k>(&'k self, key: &'k Key) -> &'k Key {
        match self.replaced.is_empty() {
            true => key,
            false => self.replaced.get(&key.key_id()).unwrap_or(key),
        }
    }

    /// Errors are ignored, since there are none: `prepare` found the ids and hashes unused, and only this thread changes
    /// the table.
    fn apply_to(self, table: &Table) {
        for key in self.replaced.into_values() {
            let _ = table.replace(key);
        }
        for key in self.created {
            let _ = table.insert(key);
        }
    }
}

impl PreparedWrite {
    fn reply(self, table: &Table, committed: &Result<(), StoreError>) {
        let entry_of = |key: Key| table.by_id(key.id()).unwrap_or_else(|| table.adopt(key));
        let outcome = |in_force| {
            committed
                .clone()
                .map_err(|error| WriteError::NotWritten { in_force, error })
        };
        // Sending fails only where the caller stopped waiting.
        match self {
            Self::Created { key, token, reply } => {
                let created = || CreatedKey {
                    entry: entry_of(key),
                    token,
                };
                let _ = reply.send(outcome(false).map(|()| created()));
            }
            Self::Updated {
                key,
                in_force,
                reply,
            } => {
                let _ = reply.send(outcome(in_force).map(|()| entry_of(key)));
            }
            Self::Rotated {
                key,
                token,
                ended,
                reply,
            } => {
                let rotated = || RotatedKey {
                    entry: entry_of(key),
                    token,
                    ended,
                };
                let _ = reply.send(outcome(false).map(|()| rotated()));
            }
            Self::Deleted { entry, reply } => {
                let _ = reply.send(outcome(true).map(|()| entry));
            }
        }
    }
}

fn no_random_bytes(error: getrandom::Error) -> WriteError {
    WriteError::NotWritten {
        in_force: false,
        error: io::Error::other(error).into(),
    }
}

fn reject<T>(reply: ReplySender<T, WriteError>, error: WriteError) -> Option<PreparedWrite> {
    let _ = reply.send(Err(error));
    None
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
