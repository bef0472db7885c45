//! The last good copy: a key file with the keys of the database as they are in force here, and beside it a file that says of
//! which revision they are. A gateway that cannot reach the database starts from it.
//!
//! A thread writes it, each time whole. The keys are written first: a process that ends in between leaves keys that are newer
//! than the file beside them says, and what was changed since is applied again, which changes nothing.
//!
//! Invariant: one process alone writes a copy, from before it reads it until it ends. Two would lose each other's pending
//! changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::account::AccountRules;
use crate::policy::key::Key;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::account_json::{account_fields, parse_account};
use crate::store::database::KeyPosition;
use crate::store::fault::Fault;
use crate::store::key_file::{self, LOCK_WAIT, ReadError};
use crate::store::key_json;
use crate::store::lock_file::LockFile;
use crate::table::{Entry, NO_YIELD, Table, yield_every};

/// How often it is noted that the copy is still the newest.
const TOUCH_EVERY: Duration = Duration::from_secs(20);

/// What the file beside the copy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopyState {
    revision: u64,
    change_id: String,
    /// What is in force in the copy and not in the database yet, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pending: BTreeMap<String, PendingNote>,
    /// When each of these was made, in seconds since 1970 by this gateway's clock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pending_at: BTreeMap<String, i64>,
    /// The accounts that the keys name, as the admin API has them; None: they were not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<Value>>,
    /// How many gateways shared the database; 0: that was not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) gateways: u64,
    /// Whether the time of the file says when the keys were certainly those of the database.
    #[serde(skip)]
    is_followed: bool,
}

/// A change that takes access away and is not in the database yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum PendingNote {
    /// The key, as a line of the key file, was deleted.
    Deleted(String),
    /// The key was disabled, or the previous token of this hash ended.
    Restricted {
        disables: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<String>,
    },
}

/// The id of a key, and the key as a line of the key file without its end.
pub(crate) fn key_row(key: &Key) -> (String, String) {
    let mut line = Vec::new();
    key_json::write_line(key, &mut line);
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    (key.id().to_owned(), line)
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is at the path of the copy.
pub(crate) enum FoundCopy {
    None,
    Copy {
        entries: Vec<Arc<Entry>>,
        state: CopyState,
    },
    /// The file that says of which revision the copy is, without the copy.
    Lost(CopyState),
    /// Keys of which nobody knows the revision: a key file of its own, or a copy that has lost the file beside it.
    KeyFile(Vec<Arc<Entry>>),
}

impl CopyState {
    /// The state of a table at this position. `is_followed`: it is certainly that of the database now.
    pub(crate) fn of(
        table: &Table,
        position: KeyPosition,
        pending: impl Iterator<Item = (String, (PendingNote, Option<i64>))>,
        gateways: u64,
        is_followed: bool,
    ) -> Self {
        let accounts = || {
            let accounts = table.accounts();
            let accounts = accounts.iter();
            accounts
                .map(|account| account_fields(account).into())
                .collect()
        };
        let (mut notes, mut pending_at) = (BTreeMap::new(), BTreeMap::new());
        for (id, (note, at)) in pending {
            pending_at.extend(at.map(|at| (id.clone(), at)));
            notes.insert(id, note);
        }
        Self {
            revision: position.n,
            change_id: format!("{:032x}", position.change_id),
            pending: notes,
            pending_at,
            accounts: table.knows_accounts().then(accounts),
            gateways,
            is_followed,
        }
    }

    /// The accounts; None: they are not known, or one of them cannot be read, and its keys must not be free of it.
    pub(crate) fn accounts(&self) -> Option<Vec<AccountRules>> {
        let accounts = self.accounts.as_ref()?.iter();
        accounts
            .map(|account| parse_account(&account.to_string()).ok())
            .collect()
    }

    pub(crate) fn position(&self) -> KeyPosition {
        KeyPosition {
            n: self.revision,
            // A number that is none is of no change, and the database is not followed.
            change_id: u128::from_str_radix(&self.change_id, 16).unwrap_or(0),
        }
    }
}

/// Whether both files of a copy are there.
pub(crate) fn exists(file: &Path) -> bool {
    file.exists() && state_file(file).exists()
}

/// Reads the copy.
///
/// # Errors
/// One of its files is faulty.
pub(crate) fn read(file: &Path, table: &Table) -> Result<FoundCopy, ReadError> {
    let entries = match file.exists() {
        true => Some(key_file::read(file, table, NO_YIELD)?.entries),
        false => None,
    };
    let beside = state_file(file);
    let state = match std::fs::read_to_string(&beside) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(state) => Some(state),
            Err(error) => return Err(unreadable(&beside, &error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&beside, &error)),
    };
    Ok(match (entries, state) {
        (Some(entries), Some(state)) => FoundCopy::Copy { entries, state },
        (None, Some(state)) => FoundCopy::Lost(state),
        (Some(entries), None) if !entries.is_empty() => FoundCopy::KeyFile(entries),
        (Some(_) | None, None) => FoundCopy::None,
    })
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> ReadError {
    ReadError::Unreadable(Fault {
        file: file.to_owned(),
        line: 0,
        field: String::new(),
        message: format!(
            "says of which revision the last good copy is, and cannot be read ({error}); move it and the copy away, and the \
             gateway starts with the keys of the database"
        ),
    })
}

/// How long ago the copy was certainly the newest.
pub(crate) fn age(file: &Path) -> Option<Duration> {
    let noted = std::fs::metadata(state_file(file)).ok()?.modified().ok()?;
    // A time to come is of a clock that was set back.
    noted.elapsed().ok()
}

/// The file that says of which revision the copy is.
pub(crate) fn state_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".revision");
    name.into()
}

/// The right to read and write a copy, which no other process has meanwhile.
#[derive(Debug)]
pub(crate) struct CopyLock {
    _lock: LockFile,
}

/// Takes a copy for this process.
///
/// # Errors
/// Another process has it, or the folder may not be written.
pub(crate) fn lock(file: &Path) -> Result<CopyLock, ReadError> {
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let found = std::fs::metadata(&target).ok();
    match LockFile::take(&state_file(&target), found.as_ref(), LOCK_WAIT) {
        Ok(lock) => Ok(CopyLock { _lock: lock }),
        Err(error) => {
            let message = match error.kind() {
                ErrorKind::ResourceBusy => format!(
                    "is the last good copy of another gateway that runs ({error}); name a file in keys.file that no other \
                     gateway has"
                ),
                _ => format!(
                    "cannot be kept as the last good copy ({error}); name a file in keys.file whose folder the gateway's user \
                     may write"
                ),
            };
            Err(ReadError::Unreadable(Fault {
                file: file.to_owned(),
                line: 0,
                field: String::new(),
                message,
            }))
        }
    }
}

/// The copy, and the thread that writes it. Dropped, it writes what is asked for and ends.
pub(crate) struct LastGoodCopy(Arc<CopyWriter>);

struct CopyWriter {
    file: PathBuf,
    table: Arc<Table>,
    work: Mutex<CopyWork>,
    changed: Condvar,
    _lock: CopyLock,
}

#[derive(Default)]
struct CopyWork {
    /// The newest state that is to be written, and its number.
    wanted: Option<CopyState>,
    asked: u64,
    written: u64,
    error: Option<String>,
    has_thread: bool,
    is_over: bool,
    touched: Option<Instant>,
}

impl LastGoodCopy {
    pub(crate) fn new(file: &Path, table: &Arc<Table>, lock: CopyLock) -> Self {
        Self(Arc::new(CopyWriter {
            file: file.to_owned(),
            table: Arc::clone(table),
            work: Mutex::default(),
            changed: Condvar::new(),
            _lock: lock,
        }))
    }

    /// Writes the table as it is from now on. The result is a number for [`wait`](Self::wait).
    pub(crate) fn write(&self, state: CopyState) -> u64 {
        let mut work = self.0.work();
        work.wanted = Some(state);
        work.asked += 1;
        if !work.has_thread {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("key-copy".to_owned());
            match thread.spawn(move || shared.run()) {
                Ok(_) => work.has_thread = true,
                Err(error) => work.error = Some(error.to_string()),
            }
        }
        self.0.changed.notify_all();
        work.asked
    }

    /// Waits until what was asked for up to this number is on disk.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn wait(&self, number: u64, timeout: Duration) -> Result<(), String> {
        let waiting = |work: &mut CopyWork| work.written < number && work.error.is_none();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.work(), timeout, waiting);
        let (work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &work.error {
            _ if work.written >= number => Ok(()),
            Some(error) => Err(error.clone()),
            None => Err("it takes too long".to_owned()),
        }
    }

    /// The keys in the copy are still those of the database. That is noted in the time of the file beside it.
    pub(crate) fn touch(&self) {
        let mut work = self.0.work();
        if work.touched.is_some_and(|at| at.elapsed() < TOUCH_EVERY) {
            return;
        }
        work.touched = Some(Instant::now());
        // Without it, the copy counts as older than it is.
        let _ = File::options()
            .append(true)
            .open(state_file(&self.0.file))
            .and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Keeps the keys in force in a file of their own, before they are those of a backup.
    pub(crate) fn keep_before_rollback(&self) -> io::Result<()> {
        let mut kept = self.0.file.as_os_str().to_owned();
        kept.push(".before-rollback");
        match std::fs::copy(&self.0.file, kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Why the newest state is not on disk.
    pub(crate) fn error(&self) -> Option<String> {
        self.0.work().error.clone()
    }
}

impl Drop for LastGoodCopy {
    fn drop(&mut self) {
        let mut work = self.0.work();
        work.is_over = true;
        self.0.changed.notify_all();
        if work.has_thread {
            // What is asked for is written before the process ends.
            let (asked, timeout) = (work.asked, Duration::from_secs(5));
            let waiting = |work: &mut CopyWork| work.written < asked && work.error.is_none();
            let _ = self.0.changed.wait_timeout_while(work, timeout, waiting);
        }
    }
}

impl CopyWriter {
    fn work(&self) -> MutexGuard<'_, CopyWork> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut work = self.work();
            let (state, number) = loop {
                if let Some(state) = work.wanted.take() {
                    break (state, work.asked);
                }
                if work.is_over {
                    return;
                }
                let woken = self.changed.wait(work);
                work = woken.unwrap_or_else(PoisonError::into_inner);
            };
            drop(work);
            let written = self.write(&state);
            let mut work = self.work();
            match written {
                Ok(()) => (work.written, work.error) = (number, None),
                Err(error) => work.error = Some(error.to_string()),
            }
            drop(work);
            self.changed.notify_all();
        }
    }

    fn write(&self, state: &CopyState) -> io::Result<()> {
        let file = &self.file;
        if !file.exists() {
            key_file::create(file)?;
        }
        let locked = key_file::lock(file, LOCK_WAIT)?;
        let entries = self.table.in_file_order(yield_if_due);
        locked.replace(yield_every(&entries, yield_if_due).map(|entry| entry.key()))?;
        crate::table::drop_incrementally(entries, yield_if_due);
        write_state(&state_file(file), state)
    }
}

/// Replaces the file, as a whole or not at all. The new text has a fixed name until then, so that what a killed process left of
/// it is found and replaced.
fn write_state(path: &Path, state: &CopyState) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut text = serde_json::to_vec(state)?;
    text.push(b'\n');
    let before = std::fs::metadata(path).and_then(|before| before.modified());
    let mut file = key_file::create_private(&new)?;
    let moved = file
        .write_all(&text)
        .and_then(|()| match before {
            Ok(before) if !state.is_followed => file.set_modified(before),
            _ => Ok(()),
        })
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = moved {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_of_the_file_beside_a_copy_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = state_file(&folder.path().join("keys.jsonl"));
        std::fs::write(folder.path().join(".keys.jsonl.revision.new"), "{").unwrap();
        for gateways in [2, 3] {
            let state = CopyState {
                gateways,
                ..CopyState::default()
            };
            write_state(&file, &state).unwrap();
            let found: CopyState = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            assert_eq!(found, state);
        }
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1);
    }
}
