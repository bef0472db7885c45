//! Moves what was written from SQLite's write-ahead log into the database file, on a thread of its own.
//!
//! It has to wait until the disk has the bytes, which may take seconds while other programs write much. The writer
//! would hold up the next records for as long.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, OpenFlags};

/// The log is moved when it is this large, in bytes.
const MAX_LOG: u64 = 16 << 20;
/// What is kept of the log's file once all of it was moved, in bytes.
pub(crate) const KEPT_LOG: i64 = 1 << 20;

/// Tells the thread that something was written. The thread ends with it.
pub(crate) struct Checkpointer {
    written: SyncSender<()>,
}

impl Checkpointer {
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let (written, told) = sync_channel(1);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&path, &told))?;
        Ok(Self { written })
    }

    pub(crate) fn written(&self) {
        // One message is enough, however many transactions came since.
        let _ = self.written.try_send(());
    }
}

fn run(path: &Path, told: &Receiver<()>) {
    let mut log = OsString::from(path);
    log.push("-wal");
    let log = PathBuf::from(log);
    let mut connection = None;
    while told.recv().is_ok() {
        let is_large = log.metadata().is_ok_and(|log| log.len() >= MAX_LOG);
        if !is_large {
            continue;
        }
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
