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
use crate::store::key_store::command::{Created, Reply, Write};
use crate::store::key_store::error::{Obstacle, WriteError};
use crate::store::key_store::event::Event;
use crate::store::key_store::state::{Desk, Unwritten, disabled};
use crate::store::patch::{KeyPatch, NewKey};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

/// What a batch will change once it is on disk.
#[derive(Default)]
struct Draft {
    replaced: HashMap<KeyId, Key>,
    created: Vec<Key>,
}

/// A request that was judged and waits for the disk.
enum Judged {
    Created {
        key: Key,
        token: BearerToken,
        answer: Reply<Created, WriteError>,
    },
    Updated {
        key: Key,
        in_force: bool,
        answer: Reply<Arc<Entry>, WriteError>,
    },
    Deleted {
        entry: Arc<Entry>,
        answer: Reply<Arc<Entry>, WriteError>,
    },
}

impl Desk {
    /// One batch: merge, judge each request, write once, change the table, answer. Without a request: only what is
    /// unwritten.
    pub(crate) fn write(&mut self, requests: Vec<Write>) {
        let locked = match key_file::lock(&self.file, Duration::ZERO) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {
                self.take_access_away(&requests);
                key_file::lock(&self.file, key_file::LOCK_WAIT)
            }
            lock => lock,
        };
        let locked = match locked {
            Ok(lock) => self.merge().map(|()| lock),
            // What is wrong with the file itself says more than that it can't be locked.
            Err(error) => self.merge().and(Err(error.into())),
        };
        let mut draft = Draft::default();
        let judged: Vec<Judged> = requests
            .into_iter()
            .filter_map(|request| self.judge(request, &mut draft))
            .collect();
        let written = locked.and_then(|lock| self.bring_to_disk(&lock, &draft));
        match &written {
            Ok(()) => draft.apply_to(&self.table),
            Err(obstacle) => {
                let unwritten = self.unwritten.len();
                self.report(|status| {
                    status.unwritten = unwritten;
                    status.obstacle = Some(obstacle.clone()).filter(|_| unwritten > 0);
                });
                (self.events)(Event::WriteFailed {
                    obstacle,
                    unwritten,
                });
            }
        }
        for request in judged {
            request.answer(&self.table, &written);
        }
    }

    /// Whoever else holds the lock may hold it for long, and anybody who may read the folder can take it: what takes
    /// access away does not wait for that.
    fn take_access_away(&mut self, requests: &[Write]) {
        let mut unused = Draft::default();
        for request in requests {
            match request {
                Write::Delete { id, .. } => {
                    self.delete(id, &mut unused);
                }
                Write::Update { id, patch, now, .. } if patch.disables() => {
                    // A fault of it is answered when it is judged.
                    let _ = self.update(id, patch, *now, &mut unused);
                }
                Write::Update { .. } | Write::Create { .. } => {}
            }
        }
    }

    /// Puts into the draft what a request changes, and into force what takes access away. What is refused is answered.
    fn judge(&mut self, request: Write, draft: &mut Draft) -> Option<Judged> {
        match request {
            Write::Create { new, now, answer } => match self.new_key(new, now) {
                Ok((key, token)) => {
                    draft.created.push(key.clone());
                    Some(Judged::Created { key, token, answer })
                }
                Err(error) => refuse(answer, error),
            },
            Write::Update {
                id,
                patch,
                now,
                answer,
            } => match self.update(&id, &patch, now, draft) {
                Ok(key) => Some(Judged::Updated {
                    key,
                    in_force: patch.disables(),
                    answer,
                }),
                Err(error) => refuse(answer, error),
            },
            Write::Delete { id, answer } => match self.delete(&id, draft) {
                Some(entry) => Some(Judged::Deleted { entry, answer }),
                None => refuse(answer, WriteError::NotFound),
            },
        }
    }

    fn new_key(&self, new: NewKey, now: UnixTime) -> Result<(Key, BearerToken), WriteError> {
        check_expiry(new.expires_at, now)?;
        let not_random = |error: getrandom::Error| WriteError::NotWritten {
            in_force: false,
            obstacle: io::Error::other(error).into(),
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
                || self.unwritten.contains_key(&id);
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
        draft: &mut Draft,
    ) -> Result<Key, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        check_expiry(patch.expires_at.flatten(), now)?;
        let id = entry.key().key_id();
        let wanted = patch.applied_to(draft.replaced.get(&id).unwrap_or(entry.key()));
        let mut in_table = entry;
        if patch.disables() && !in_table.key().disabled() {
            if let Ok(changed) = self.table.replace(disabled(in_table.key())) {
                in_table = changed;
            }
            self.unwritten.insert(id.clone(), Unwritten::Disabled);
        }
        if wanted == *in_table.key() {
            draft.replaced.remove(&id);
        } else {
            draft.replaced.insert(id, wanted.clone());
        }
        Ok(wanted)
    }

    fn delete(&mut self, id: &str, draft: &mut Draft) -> Option<Arc<Entry>> {
        let id = KeyId::parse(id).ok()?;
        if let Some(entry) = self.table.remove(id.as_str()) {
            draft.replaced.remove(&id);
            let deleted = Unwritten::Deleted(Arc::clone(&entry));
            self.unwritten.insert(id, deleted);
            return Some(entry);
        }
        match self.unwritten.get(&id)? {
            Unwritten::Deleted(entry) => Some(Arc::clone(entry)),
            Unwritten::Disabled => None,
        }
    }

    /// Writes the table with the draft on top, where that is not what the file holds already.
    fn bring_to_disk(&mut self, lock: &LockedKeyFile, draft: &Draft) -> Result<(), Obstacle> {
        if draft.is_empty() && self.unwritten.is_empty() {
            return Ok(());
        }
        let entries = self.table.in_file_order(yield_if_due);
        let kept = yield_every(&entries, yield_if_due).map(|entry| draft.newest(entry.key()));
        let written = lock.replace(kept.chain(&draft.created));
        drop_incrementally(entries, yield_if_due);
        self.loaded = written?;
        self.unwritten.clear();
        let written = self.status.load().unwritten;
        if written > 0 {
            self.report(|status| (status.unwritten, status.obstacle) = (0, None));
            (self.events)(Event::CaughtUp { written });
        }
        Ok(())
    }
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.created.is_empty()
    }

    fn newest<'k>(&'k self, key: &'k Key) -> &'k Key {
        match self.replaced.is_empty() {
            true => key,
            false => self.replaced.get(&key.key_id()).unwrap_or(key),
        }
    }

    /// Ids and hashes were found free when the draft was made, and only the keeper changes the table.
    fn apply_to(self, table: &Table) {
        for key in self.replaced.into_values() {
            let _ = table.replace(key);
        }
        for key in self.created {
            let _ = table.insert(key);
        }
    }
}

impl Judged {
    fn answer(self, table: &Table, written: &Result<(), Obstacle>) {
        let entry_of = |key: Key| table.by_id(key.id()).unwrap_or_else(|| table.adopt(key));
        let failed = |in_force| {
            written
                .clone()
                .map_err(|obstacle| WriteError::NotWritten { in_force, obstacle })
        };
        // Whoever does not wait for the answer any more does not get one.
        match self {
            Self::Created { key, token, answer } => {
                let created = || Created {
                    entry: entry_of(key),
                    token,
                };
                let _ = answer.send(failed(false).map(|()| created()));
            }
            Self::Updated {
                key,
                in_force,
                answer,
            } => {
                let _ = answer.send(failed(in_force).map(|()| entry_of(key)));
            }
            Self::Deleted { entry, answer } => {
                let _ = answer.send(failed(true).map(|()| entry));
            }
        }
    }
}

fn refuse<T>(answer: Reply<T, WriteError>, error: WriteError) -> Option<Judged> {
    let _ = answer.send(Err(error));
    None
}

fn check_expiry(end: Option<UnixTime>, now: UnixTime) -> Result<(), WriteError> {
    match end {
        Some(end) if end <= now => Err(WriteError::Refused(FieldError {
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
