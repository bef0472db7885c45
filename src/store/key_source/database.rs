//! The keys of a database that several gateways share.
//!
//! Invariant: a database that lacks a change which this gateway has seen is not followed, and not written, until an operator
//! says so: it may be a backup in which deleted keys live.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::key::Key;
use crate::store::database::{
    DatabaseError, KeyChanges, KeyPosition, KeyRow, KeyWrites, PostgresKeys,
};
use crate::store::fault::Fault;
use crate::store::key_file::ReadError;
use crate::store::key_json::{self, Interner};
use crate::store::key_source::last_good_copy::{self, CopyState, FoundCopy, LastGoodCopy};
use crate::table::{Entry, Table};

/// Why a database cannot be followed or written.
#[derive(Clone, Debug)]
pub enum SourceError {
    /// It fails.
    Failed(Arc<DatabaseError>),
    /// It lacks a change that was seen here.
    Behind {
        /// The revision that was seen here.
        seen: u64,
        /// The revision of the database.
        found: u64,
    },
    /// It has all that was seen here, or keys come from a file, so that there is nothing to accept.
    NotBehind,
    /// The database is one that only this gateway has.
    NotShared,
    /// Others have been changing keys for too long.
    Busy,
    /// The answer to a commit was lost, and whether it was done cannot be asked.
    Unsure(Arc<DatabaseError>),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Behind { seen, found } => write!(
                f,
                "the database is at revision {found} of another history, and this gateway has seen revision {seen}; it may \
                 be a backup in which deleted keys live: restore a newer one, or accept it (keygate fleet accept-rollback)"
            ),
            Self::NotBehind => f.write_str(
                "the keys here are those of their source, so that there is no rollback to accept; nothing has to be done",
            ),
            Self::NotShared => f.write_str(
                "the database is not one that gateways share; set [database] url to \"postgres://…\"",
            ),
            Self::Busy => f.write_str(
                "other gateways are changing keys, and this one did not get its turn in time; try again",
            ),
            Self::Unsure(error) => write!(
                f,
                "the database was lost while it wrote the change, which may be made nevertheless; look at the key once the \
                 database is back ({error})"
            ),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) | Self::Unsure(error) => Some(&**error),
            Self::Behind { .. } | Self::NotBehind | Self::NotShared | Self::Busy => None,
        }
    }
}

impl From<DatabaseError> for SourceError {
    fn from(error: DatabaseError) -> Self {
        Self::Failed(Arc::new(error))
    }
}

pub(crate) struct DatabaseKeySource {
    keys: PostgresKeys,
    pub(crate) copy: LastGoodCopy,
}

/// The keys that a gateway starts with.
pub(crate) struct StartKeys {
    pub(crate) source: DatabaseKeySource,
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Keys of the database that are refused.
    pub(crate) unreadable: Vec<UnreadableKey>,
    /// None: there are none, not even a copy.
    pub(crate) position: Option<KeyPosition>,
    /// Without keys: what the database has to have until they are read.
    pub(crate) awaited: Option<KeyPosition>,
    /// What was in force when the copy was written and not in the database.
    pub(crate) copied: CopyState,
    /// The keys that were changed in the database since.
    pub(crate) changed: Vec<KeyRow>,
    /// An instant before they were read.
    pub(crate) looked: Instant,
    /// How long ago the copy was certainly the newest; None: that is not known.
    pub(crate) copy_age: Option<Duration>,
    /// Why the keys are those of the copy.
    pub(crate) not_followed: Option<SourceError>,
    /// A file of the copy that is not there, although the other one is.
    pub(crate) missing_file: Option<PathBuf>,
}

impl StartKeys {
    fn without_keys(source: DatabaseKeySource) -> Self {
        Self {
            source,
            entries: Vec::new(),
            unreadable: Vec::new(),
            position: None,
            awaited: None,
            copied: CopyState::default(),
            changed: Vec::new(),
            looked: Instant::now(),
            copy_age: None,
            not_followed: None,
            missing_file: None,
        }
    }
}

/// Why a gateway cannot start with the keys of a database.
#[derive(Debug)]
pub enum StartKeysError {
    /// The database fails in a way that does not pass by itself.
    Database(DatabaseError),
    /// The last good copy is faulty, a key file of its own, or another gateway's.
    Copy(ReadError),
    /// No thread can be started.
    System(io::Error),
}

impl fmt::Display for StartKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => error.fmt(f),
            Self::Copy(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartKeysError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Database(error) => Some(error),
            Self::Copy(error) => Some(error),
            Self::System(error) => Some(error),
        }
    }
}

impl DatabaseKeySource {
    /// Reads the keys of the database, or the last good copy where the database is away or lacks what the copy has.
    ///
    /// # Errors
    /// The database fails in a way that does not pass by itself; the copy is faulty, a key file of its own, or another gateway's.
    pub(crate) fn start(
        mut keys: PostgresKeys,
        file: &Path,
        table: &Arc<Table>,
    ) -> Result<StartKeys, StartKeysError> {
        let lock = last_good_copy::lock(file).map_err(StartKeysError::Copy)?;
        let found = last_good_copy::read(file, table).map_err(StartKeysError::Copy)?;
        let seen = match &found {
            FoundCopy::Copy { state, .. } | FoundCopy::Lost(state) => Some(state.position()),
            FoundCopy::None | FoundCopy::KeyFile(_) => None,
        };
        let missing_file = match &found {
            FoundCopy::Lost(_) => Some(file.to_owned()),
            FoundCopy::KeyFile(_) => Some(last_good_copy::state_file(file)),
            FoundCopy::Copy { .. } | FoundCopy::None => None,
        };
        let looked = Instant::now();
        let has_copy = matches!(found, FoundCopy::Copy { .. });
        let read = read_followed(&mut keys, table, seen, has_copy);
        let read = read.map_err(StartKeysError::Database)?;
        let source = Self {
            keys,
            copy: LastGoodCopy::new(file, table, lock),
        };
        let mut start = match read {
            Ok(followed) => Self::followed(source, found, followed, file)?,
            Err(failed) => Self::not_followed(source, found, failed, file)?,
        };
        (start.looked, start.missing_file) = (looked, missing_file);
        Ok(start)
    }

    /// A start with the keys of the database.
    fn followed(
        source: Self,
        found: FoundCopy,
        followed: FollowedKeys,
        file: &Path,
    ) -> Result<StartKeys, StartKeysError> {
        let mut start = StartKeys::without_keys(source);
        match found {
            FoundCopy::KeyFile(own) => refuse_other_keys(&own, &followed, file)?,
            FoundCopy::Copy { state, .. } | FoundCopy::Lost(state) => start.copied = state,
            FoundCopy::None => {}
        }
        (start.entries, start.position) = (followed.keys.entries, Some(followed.keys.position));
        start.unreadable = followed.keys.unreadable;
        if let KeyChanges::Some { rows, .. } = followed.changes {
            start.changed = rows;
        }
        Ok(start)
    }

    /// A start with the keys of the copy.
    fn not_followed(
        source: Self,
        found: FoundCopy,
        failed: SourceError,
        file: &Path,
    ) -> Result<StartKeys, StartKeysError> {
        let mut start = StartKeys::without_keys(source);
        start.copy_age = last_good_copy::age(file);
        if let SourceError::Behind { seen, .. } = failed {
            start.awaited = Some(KeyPosition {
                n: seen,
                change_id: 0,
            });
        }
        start.not_followed = Some(failed);
        match found {
            FoundCopy::Copy { entries, state } => {
                start.position = Some(state.position());
                (start.entries, start.copied) = (entries, state);
            }
            FoundCopy::Lost(state) => {
                start.awaited = Some(state.position());
                start.copied = state;
            }
            FoundCopy::KeyFile(_) => {
                let beside = last_good_copy::state_file(file);
                let message = format!(
                    "is no copy of the database's keys, since {} is missing, and the database cannot be asked whether it has \
                     them; put that file back, start again once the database is back, or name another file in keys.file",
                    beside.display()
                );
                return Err(StartKeysError::Copy(fault(file, &message)));
            }
            FoundCopy::None => {}
        }
        Ok(start)
    }

    pub(crate) fn load(&mut self, table: &Table) -> Result<DatabaseKeys, SourceError> {
        Ok(load(&mut self.keys, table)?)
    }

    /// Waits for the right to change keys.
    ///
    /// # Errors
    /// [`SourceError::Busy`] where other gateways change keys, for too long or without `wait` at all.
    pub(crate) fn lock(&mut self, wait: bool) -> Result<(), SourceError> {
        lock(&mut self.keys, wait)
    }

    /// What others have changed since a position, as far as it can be seen without the lock.
    pub(crate) fn look(&mut self, seen: KeyPosition) -> Result<KeyChanges, SourceError> {
        Ok(self.keys.changes(seen)?)
    }

    /// What others have changed since a position, under the lock.
    pub(crate) fn changes(&mut self, seen: KeyPosition) -> Result<KeyChanges, SourceError> {
        Ok(self.keys.changes_in_change(seen)?)
    }

    /// Writes a change as the next revision, and ends the lock.
    pub(crate) fn commit(
        &mut self,
        writes: &KeyWrites,
        seen: KeyPosition,
        accepts_rollback_from: Option<u64>,
    ) -> Result<KeyPosition, SourceError> {
        commit(&mut self.keys, writes, seen, accepts_rollback_from)
    }

    /// Ends the lock without a change.
    pub(crate) fn unlock(&mut self) {
        self.keys.rollback();
    }

    /// The newest revision that a gateway of the last seconds has in force.
    pub(crate) fn newest_seen(&mut self) -> Result<Option<u64>, SourceError> {
        Ok(self.keys.newest_seen()?)
    }
}

/// Waits for the right to change keys, as [`DatabaseKeySource::lock`].
pub(crate) fn lock(keys: &mut PostgresKeys, wait: bool) -> Result<(), SourceError> {
    match keys.begin(wait)? {
        true => Ok(()),
        false => Err(SourceError::Busy),
    }
}

/// Writes a change as the next revision behind `seen`, and ends the lock.
pub(crate) fn commit(
    keys: &mut PostgresKeys,
    writes: &KeyWrites,
    seen: KeyPosition,
    accepts_rollback_from: Option<u64>,
) -> Result<KeyPosition, SourceError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|source| DatabaseError::Thread {
        source: std::io::Error::other(source),
    })?;
    let next = KeyPosition {
        n: seen.n.max(accepts_rollback_from.unwrap_or(0)) + 1,
        change_id: u128::from_le_bytes(id),
    };
    let Err(error) = keys.commit(writes, next, accepts_rollback_from) else {
        return Ok(next);
    };
    // The server is not asked again at once after it was lost.
    std::thread::sleep(ASK_AGAIN_AFTER);
    match keys.is_committed(next) {
        Ok(true) => Ok(next),
        Ok(false) => Err(error.into()),
        Err(_) => Err(SourceError::Unsure(Arc::new(error))),
    }
}

/// The keys of the database, where it lacks nothing that was seen.
struct FollowedKeys {
    keys: DatabaseKeys,
    /// What was changed since the position that was seen here.
    changes: KeyChanges,
    /// The newest revision that a gateway of the last seconds has in force.
    newest_seen: Option<u64>,
}

/// Reads the keys, where the database can be followed. A gateway that has seen none goes by what others have: it would else be
/// the one that takes the keys of a backup. The inner error passes by itself, or when an operator acts.
fn read_followed(
    keys: &mut PostgresKeys,
    table: &Table,
    seen: Option<KeyPosition>,
    has_copy: bool,
) -> Result<Result<FollowedKeys, SourceError>, DatabaseError> {
    let mut read = || {
        let loaded = load(keys, table)?;
        let newest_seen = keys.newest_seen()?;
        let seen = match (seen, newest_seen) {
            (Some(seen), _) => seen,
            (None, Some(n)) if n > loaded.position.n => KeyPosition { n, change_id: 0 },
            (None, _) => loaded.position,
        };
        let followed = FollowedKeys {
            keys: loaded,
            changes: keys.changes(seen)?,
            newest_seen,
        };
        Ok((seen, followed))
    };
    match read() {
        Ok((seen, followed)) => Ok(match followed.changes {
            KeyChanges::Behind { found } => Err(SourceError::Behind {
                seen: seen.n,
                found,
            }),
            KeyChanges::None | KeyChanges::Some { .. } | KeyChanges::Unknown => Ok(followed),
        }),
        Err(error) if DatabaseError::is_outlasted(&error, has_copy) => Ok(Err(error.into())),
        Err(error) => Err(error),
    }
}

/// The keys of a database.
pub(crate) struct DatabaseKeys {
    /// In the order of the list.
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) position: KeyPosition,
    /// Nobody knows what these may do, so they are refused.
    pub(crate) unreadable: Vec<UnreadableKey>,
}

/// A key in the database that cannot be read.
#[derive(Debug)]
pub(crate) struct UnreadableKey {
    pub(crate) id: String,
    pub(crate) reason: String,
}

impl DatabaseKeys {
    /// # Errors
    /// One of them cannot be read.
    pub(crate) fn all_readable(self) -> Result<Self, DatabaseError> {
        match self.unreadable.into_iter().next() {
            Some(UnreadableKey { id, reason }) => Err(DatabaseError::Key { id, reason }),
            None => Ok(Self {
                unreadable: Vec::new(),
                ..self
            }),
        }
    }
}

/// Why a key is refused that cannot be told from another one.
pub(crate) const TAKEN: &str = "another key has its id or one of its tokens";

/// All keys.
pub(crate) fn load(keys: &mut PostgresKeys, table: &Table) -> Result<DatabaseKeys, DatabaseError> {
    let mut interner = Interner::default();
    let (mut placed, mut unreadable) = (Vec::new(), Vec::new());
    let position = keys.all(&mut |place, row: KeyRow| match parse(&row, &mut interner) {
        Ok(Some(key)) => placed.push((place, table.adopt(key))),
        Ok(None) => {}
        Err(reason) => unreadable.push(UnreadableKey { id: row.id, reason }),
    })?;
    placed.sort_unstable_by_key(|(place, _)| *place);
    let mut entries: Vec<Arc<Entry>> = placed.into_iter().map(|(_, entry)| entry).collect();
    let mut hashes = HashSet::with_capacity(entries.len());
    entries.retain(|entry| {
        let key = entry.key();
        let is_taken = key.hashes().any(|hash| hashes.contains(hash));
        if is_taken {
            unreadable.push(UnreadableKey {
                id: key.id().to_owned(),
                reason: TAKEN.to_owned(),
            });
        } else {
            hashes.extend(key.hashes().copied());
        }
        !is_taken
    });
    Ok(DatabaseKeys {
        entries,
        position,
        unreadable,
    })
}

/// The key of a row; None: it is deleted.
pub(crate) fn parse(row: &KeyRow, interner: &mut Interner) -> Result<Option<Key>, String> {
    let Some(line) = &row.line else {
        return Ok(None);
    };
    let key = key_json::parse_line(line.as_bytes(), interner).map_err(|errors| {
        errors.first().map_or_else(String::new, |error| {
            format!("{}: {}", error.field, error.message)
        })
    })?;
    match key.id() == row.id {
        true => Ok(Some(key)),
        false => Err("its line is of another id".to_owned()),
    }
}

/// Keys of which nobody knows the revision are replaced only by the same ones, or where another gateway has seen what the
/// database has. They may be of a key file of its own, whose keys would be lost, or of a copy that has seen more than a database
/// that was restored from a backup.
fn refuse_other_keys(
    own: &[Arc<Entry>],
    followed: &FollowedKeys,
    file: &Path,
) -> Result<(), StartKeysError> {
    let entries = followed.keys.entries.iter();
    let known: HashMap<&str, &Key> = entries
        .map(|entry| (entry.key().id(), entry.key()))
        .collect();
    let missing = own
        .iter()
        .filter(|entry| !known.contains_key(entry.key().id()))
        .count();
    let is_same = |entry: &Arc<Entry>| known.get(entry.key().id()) == Some(&entry.key());
    let are_same = own.len() == known.len() && own.iter().all(is_same);
    let place = file.display();
    let message = match missing {
        0 if are_same || followed.newest_seen.is_some() => return Ok(()),
        0 => format!(
            "has other keys than the database, and {} is missing, so that nobody knows which are newer: the database may be a \
             backup in which deleted keys live; put that file back, or move {place} away where the keys of the database are \
             the right ones",
            last_good_copy::state_file(file).display()
        ),
        count => {
            let keys = match count {
                1 => "a key that is".to_owned(),
                count => format!("{count} keys that are"),
            };
            format!(
                "has {keys} not in the database, and would be replaced by the copy of the database's keys; bring them there \
                 (keygate keys import {place}), or name another file in keys.file"
            )
        }
    };
    Err(StartKeysError::Copy(fault(file, &message)))
}

fn fault(file: &Path, message: &str) -> ReadError {
    ReadError::Unreadable(Fault {
        file: file.to_owned(),
        line: 0,
        field: String::new(),
        message: message.to_owned(),
    })
}

const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// How long the answer to a change waits until the last good copy has it.
pub(crate) const COPY_TIMEOUT: Duration = Duration::from_secs(10);
