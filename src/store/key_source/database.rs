//! The keys of a database that several gateways share.
//!
//! Invariant: a database that lacks a change which this gateway has seen is not followed, and not written, until an operator
//! says so: it may be a backup in which deleted keys live.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::key::Key;
use crate::store::database::{
    DatabaseError, KeyChanges, KeyPosition, KeyRow, KeyWrites, PostgresKeys,
};
use crate::store::fault::Fault;
use crate::store::key_file::ReadError;
use crate::store::key_json::{self, Interner};
use crate::store::key_source::last_good_copy::{
    self, CopyLock, CopyState, FoundCopy, LastGoodCopy,
};
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
            Self::Behind { .. } | Self::NotBehind | Self::NotShared => None,
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
            FoundCopy::Copy { state, .. } => Some(state.position()),
            FoundCopy::None | FoundCopy::KeyFile(_) => None,
        };
        let looked = Instant::now();
        let read = read_followed(&mut keys, table, seen).map_err(StartKeysError::Database)?;
        let failed = match read {
            Err(failed) => failed,
            Ok((entries, position, changes)) => {
                let mut copied = CopyState::default();
                match found {
                    FoundCopy::KeyFile(own) => refuse_other_keys(&own, &entries, file)?,
                    FoundCopy::Copy { state, .. } => copied = state,
                    FoundCopy::None => {}
                }
                let changed = match changes {
                    KeyChanges::Some { rows, .. } => rows,
                    // Nobody knows what was changed: what was taken away stays so.
                    KeyChanges::Unknown | KeyChanges::None | KeyChanges::Behind { .. } => {
                        Vec::new()
                    }
                };
                return Ok(StartKeys {
                    source: Self::new(keys, file, table, lock),
                    entries,
                    position: Some(position),
                    awaited: None,
                    copied,
                    changed,
                    looked,
                    copy_age: None,
                    not_followed: None,
                });
            }
        };
        let awaited = match &failed {
            SourceError::Behind { seen: n, .. } if seen.is_none() => Some(KeyPosition {
                n: *n,
                change_id: 0,
            }),
            _ => None,
        };
        let (entries, copied, position) = match found {
            FoundCopy::Copy { entries, state } => {
                let position = state.position();
                (entries, state, Some(position))
            }
            FoundCopy::KeyFile(_) => {
                let message = "is no copy of the database's keys, and the database cannot be asked whether it has them; start \
                               again once the database is back, or name another file in keys.file";
                return Err(StartKeysError::Copy(fault(file, message)));
            }
            FoundCopy::None => (Vec::new(), CopyState::default(), None),
        };
        Ok(StartKeys {
            source: Self::new(keys, file, table, lock),
            entries,
            position,
            awaited,
            copied,
            changed: Vec::new(),
            looked,
            copy_age: last_good_copy::age(file),
            not_followed: Some(failed),
        })
    }

    fn new(keys: PostgresKeys, file: &Path, table: &Arc<Table>, lock: CopyLock) -> Self {
        Self {
            keys,
            copy: LastGoodCopy::new(file, table, lock),
        }
    }

    pub(crate) fn load(
        &mut self,
        table: &Table,
    ) -> Result<(Vec<Arc<Entry>>, KeyPosition), SourceError> {
        Ok(load(&mut self.keys, table)?)
    }

    /// Waits for the right to change keys. False: another gateway changes keys, and `wait` is false.
    pub(crate) fn lock(&mut self, wait: bool) -> Result<bool, SourceError> {
        Ok(self.keys.begin(wait)?)
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

/// The keys of the database, their position, and what was changed since one that was seen here. A gateway that has seen none
/// goes by what others have: it would else be the one that takes the keys of a backup.
type FollowedKeys = (Vec<Arc<Entry>>, KeyPosition, KeyChanges);

/// Reads the keys, where the database can be followed. The inner error passes by itself, or when an operator acts.
fn read_followed(
    keys: &mut PostgresKeys,
    table: &Table,
    seen: Option<KeyPosition>,
) -> Result<Result<FollowedKeys, SourceError>, DatabaseError> {
    let mut read = || {
        let (entries, position) = load(keys, table)?;
        let seen = match (seen, keys.newest_seen()?) {
            (Some(seen), _) => seen,
            (None, Some(n)) if n > position.n => KeyPosition { n, change_id: 0 },
            (None, _) => position,
        };
        Ok((entries, position, seen, keys.changes(seen)?))
    };
    match read() {
        Ok((_, _, seen, KeyChanges::Behind { found })) => Ok(Err(SourceError::Behind {
            seen: seen.n,
            found,
        })),
        Ok((entries, position, _, changes)) => Ok(Ok((entries, position, changes))),
        Err(error) if DatabaseError::passes(&error) => Ok(Err(error.into())),
        Err(error) => Err(error),
    }
}

/// All keys in the order of the list.
pub(crate) fn load(
    keys: &mut PostgresKeys,
    table: &Table,
) -> Result<(Vec<Arc<Entry>>, KeyPosition), DatabaseError> {
    let mut interner = Interner::default();
    let mut placed = Vec::new();
    let mut fault = None;
    let position = keys.all(&mut |place, row: KeyRow| match parse(&row, &mut interner) {
        Ok(Some(key)) => placed.push((place, table.adopt(key))),
        Ok(None) => {}
        Err(reason) => fault = Some(DatabaseError::Key { id: row.id, reason }),
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    placed.sort_unstable_by_key(|(place, _)| *place);
    let entries = placed.into_iter().map(|(_, entry)| entry).collect();
    Ok((entries, position))
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

/// The file of the copy is a key file of its own: it would be replaced, and its keys lost.
fn refuse_other_keys(
    own: &[Arc<Entry>],
    entries: &[Arc<Entry>],
    file: &Path,
) -> Result<(), StartKeysError> {
    let known: std::collections::HashSet<&str> =
        entries.iter().map(|entry| entry.key().id()).collect();
    let missing = own
        .iter()
        .filter(|entry| !known.contains(entry.key().id()))
        .count();
    if missing == 0 {
        return Ok(());
    }
    let keys = match missing {
        1 => "a key that is".to_owned(),
        count => format!("{count} keys that are"),
    };
    let message = format!(
        "has {keys} not in the database, and would be replaced by the copy of the database's keys; bring them there (keygate keys \
         import {}), or name another file in keys.file",
        file.display()
    );
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
