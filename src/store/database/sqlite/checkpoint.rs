//! Moves what was written from SQLite's write-ahead log into the database file, on a thread of its own.
//!
//! It has to wait until the disk has the bytes, which may take seconds while other programs write much. The writer
//! would hold up the next records for as long. Only where the log grows faster than it is moved, the writer waits: the
//! log begins anew once all of it was moved, and would else grow without end.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};

/// The log is moved when it is this large, in bytes.
const MAX_LOG: u64 = 16 << 20;
/// While a log of this size, in bytes, is moved, nothing is written.
const TOO_LARGE: u64 = 4 * MAX_LOG;
/// What is kept of the log's file once all of it was moved, in bytes.
pub(crate) const KEPT_LOG: i64 = 1 << 20;

/// Tells the thread that something was written. The thread ends with it.
pub(crate) struct Checkpointer {
    written: SyncSender<()>,
    writing: Arc<Mutex<()>>,
}

impl Checkpointer {
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let (written, told) = sync_channel(1);
        let path = path.to_owned();
        let writing = Arc::new(Mutex::new(()));
        let thread_writing = Arc::clone(&writing);
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&path, &told, &thread_writing))?;
        Ok(Self { written, writing })
    }

    /// Held while something is written. Waits while a log that is too large is moved.
    pub(crate) fn begin_writing(&self) -> MutexGuard<'_, ()> {
        hold(&self.writing)
    }

    pub(crate) fn written(&self) {
        // One message is enough, however many transactions came since.
        let _ = self.written.try_send(());
    }
}

fn hold(writing: &Mutex<()>) -> MutexGuard<'_, ()> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(path: &Path, told: &Receiver<()>, writing: &Mutex<()>) {
    let mut log = OsString::from(path);
    log.push("-wal");
    let log = PathBuf::from(log);
    let mut connection = None;
    while told.recv().is_ok() {
        let size = log.metadata().map_or(0, |log| log.len());
        if size < MAX_LOG {
            continue;
        }
        let _nobody_writes = (size >= TOO_LARGE).then(|| hold(writing));
        if connection.is_none() {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            connection = Connection::open_with_flags(path, flags).ok();
        }
        // It waits for nobody: what a reader still needs is moved the next time. A disk that fails here fails the
        // writer too, which reports it.
        if let Some(connection) = &connection {
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }
}
