//! Changing the table and the file together.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::key::{Hint, Key, KeyFields, KeyId};
use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::key_file::{self, LockedKeyFile};
use crate::store::key_store::command::{CreatedKey, ReplySender, WriteCommand};
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::key_store::event::KeyStoreEvent;
use crate::store::key_store::state::{KeyStoreState, PendingChange, disabled};
use crate::store::patch::{KeyPatch, NewKey};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

/// What a batch will change once it is on disk.
#[derive(Default)]
struct BatchChanges {
    replaced: HashMap<KeyId, Key>,
    created: Vec<Key>,
}

/// A request that was prepared and waits for the disk.
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
    Deleted {
        entry: Arc<Entry>,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
}

impl KeyStoreState {
    /// One batch: merge, judge each request, write once, change the table, answer. Without a request: only what is
    /// pending.
    pub(crate) fn write(&mut self, requests: Vec<WriteCommand>) {
        let locked = match key_file::lock(&self.file, Duration::ZERO) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {
                self.revoke_without_lock(&requests);
                key_file::lock(&self.file, key_file::LOCK_WAIT)
            }
            lock => lock,
        };
        let locked = match locked {
            Ok(lock) => self.merge().map(|()| lock),
            // What is wrong with the file itself says more than that it can't be locked.
            Err(error) => self.merge().and(Err(error.into())),
        };
        let mut changes = BatchChanges::default();
        let prepared: Vec<PreparedWrite> = requests
            .into_iter()
            .filter_map(|request| self.prepare(request, &mut changes))
            .collect();
        let written = locked.and_then(|lock| self.write_file(&lock, &changes));
        match &written {
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
        for request in prepared {
            request.reply(&self.table, &written);
        }
    }

    /// Whoever else holds the lock may hold it for long, and anybody who may read the folder can take it: what takes
    /// access away does not wait for that.
    fn revoke_without_lock(&mut self, requests: &[WriteCommand]) {
        let mut unused = BatchChanges::default();
        for request in requests {
            match request {
                WriteCommand::Delete { id, .. } => {
                    self.delete(id, &mut unused);
                }
                WriteCommand::Update { id, patch, now, .. } if patch.disables() => {
                    // A fault of it is answered when it is prepared.
                    let _ = self.update(id, patch, *now, &mut unused);
                }
                WriteCommand::Update { .. } | WriteCommand::Create { .. } => {}
            }
        }
    }

    /// Puts into the changes what a request changes, and into force what takes access away. What is rejected is answered.
    fn prepare(
        &mut self,
        request: WriteCommand,
        changes: &mut BatchChanges,
    ) -> Option<PreparedWrite> {
        match request {
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
                now,
                reply,
            } => match self.update(&id, &patch, now, changes) {
                Ok(key) => Some(PreparedWrite::Updated {
                    key,
                    in_force: patch.disables(),
                    reply,
                }),
                Err(error) => reject(reply, error),
            },
            WriteCommand::Delete { id, reply } => match self.delete(&id, changes) {
                Some(entry) => Some(PreparedWrite::Deleted { entry, reply }),
                None => reject(reply, WriteError::NotFound),
            },
        }
    }

    fn new_key(&self, new: NewKey, now: UnixTime) -> Result<(Key, BearerToken), WriteError> {
        check_expiry(new.expires_at, now)?;
        let not_random = |error: getrandom::Error| WriteError::NotWritten {
            in_force: false,
            error: io::Error::other(error).into(),
        };
        let NewKey {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
        } = new;
        loop {
            let token = BearerToken::make(getrandom::fill).map_err(not_random)?;
            let Ok(id) = KeyId::parse(&random_id().map_err(not_random)?) else {
                continue;
            };
            let taken = self.table.by_id(id.as_str()).is_some()
                || self.table.find(&token.hash()).is_some()
                || self.pending.contains_key(&id);
            if taken {
                continue;
            }
            let key = Key::from(KeyFields {
                id,
                name,
                hash: token.hash(),
                hint: Hint::parse(token.hint()).ok(),
                model_access,
                allow_from,
                expires_at,
                created_at: Some(now),
                account,
                disabled: false,
            });
            return Ok((key, token));
        }
    }

    fn update(
        &mut self,
        id: &str,
        patch: &KeyPatch,
        now: UnixTime,
        changes: &mut BatchChanges,
    ) -> Result<Key, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        check_expiry(patch.expires_at.flatten(), now)?;
        let id = entry.key().key_id();
        let wanted = patch.applied_to(changes.replaced.get(&id).unwrap_or(entry.key()));
        let mut in_table = entry;
        if patch.disables() && !in_table.key().disabled() {
            if let Ok(changed) = self.table.replace(disabled(in_table.key())) {
                in_table = changed;
            }
            self.pending.insert(id.clone(), PendingChange::Disabled);
        }
        if wanted == *in_table.key() {
            changes.replaced.remove(&id);
        } else {
            changes.replaced.insert(id, wanted.clone());
        }
        Ok(wanted)
    }

    fn delete(&mut self, id: &str, changes: &mut BatchChanges) -> Option<Arc<Entry>> {
        let id = KeyId::parse(id).ok()?;
        if let Some(entry) = self.table.remove(id.as_str()) {
            changes.replaced.remove(&id);
            let deleted = PendingChange::Deleted(Arc::clone(&entry));
            self.pending.insert(id, deleted);
            return Some(entry);
        }
        match self.pending.get(&id)? {
            PendingChange::Deleted(entry) => Some(Arc::clone(entry)),
            PendingChange::Disabled => None,
        }
    }

    /// Writes the table with the changes on top, where that is not what the file holds already.
    fn write_file(
        &mut self,
        lock: &LockedKeyFile,
        changes: &BatchChanges,
    ) -> Result<(), StoreError> {
        if changes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let entries = self.table.in_file_order(yield_if_due);
        let kept = yield_every(&entries, yield_if_due).map(|entry| changes.current(entry.key()));
        let written = lock.replace(kept.chain(&changes.created));
        drop_incrementally(entries, yield_if_due);
        self.loaded = written?;
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

    fn current<'k>(&'k self, key: &'k Key) -> &'k Key {
        match self.replaced.is_empty() {
            true => key,
            false => self.replaced.get(&key.key_id()).unwrap_or(key),
        }
    }

    /// Ids and hashes were found free when the changes was made, and only the keeper changes the table.
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
    fn reply(self, table: &Table, written: &Result<(), StoreError>) {
        let entry_of = |key: Key| table.by_id(key.id()).unwrap_or_else(|| table.adopt(key));
        let failed = |in_force| {
            written
                .clone()
                .map_err(|error| WriteError::NotWritten { in_force, error })
        };
        // Whoever does not wait for the answer any more does not get one.
        match self {
            Self::Created { key, token, reply } => {
                let created = || CreatedKey {
                    entry: entry_of(key),
                    token,
                };
                let _ = reply.send(failed(false).map(|()| created()));
            }
            Self::Updated {
                key,
                in_force,
                reply,
            } => {
                let _ = reply.send(failed(in_force).map(|()| entry_of(key)));
            }
            Self::Deleted { entry, reply } => {
                let _ = reply.send(failed(true).map(|()| entry));
            }
        }
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

/// `key_` and 22 base62 characters: 130 bits, so that no two are ever alike.
fn random_id() -> Result<String, getrandom::Error> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = "key_".to_owned();
    let mut bytes = [0; 32];
    while id.len() < 26 {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 that fits a byte.
        let digits = bytes.iter().filter(|&&byte| byte < 248).take(26 - id.len());
        id.extend(digits.map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
    }
    Ok(id)
}
