//! Why the database could not be used, with the remedy.

use std::fmt;
use std::path::PathBuf;

/// Why the database could not be opened, read or written.
#[derive(Debug)]
pub enum DatabaseError {
    /// The file could not be made or opened.
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file holds something else than a database.
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is the database of another program.
    OtherProgram {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of this program has changed the database.
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The version of the database.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file of the key for the audit rows cannot be used.
    AuditKey {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The disk is full.
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file or its folder may not be written.
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Another program holds the database locked.
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// An account cannot be read, so nobody knows what its keys may do.
    Account {
        /// The account.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was removed, or another one was put in its place, while it was open.
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    Failed {
        /// The file.
        path: PathBuf,
        /// The driver's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => write!(
                f,
                "{}: the database cannot be opened ({source}); name a file in a folder that the gateway's user may \
                 write, in [database] url",
                path.display()
            ),
            Self::NotADatabase { path } => write!(
                f,
                "{}: is no database; name another file in [database] url, or move this one away",
                path.display()
            ),
            Self::OtherProgram { path } => write!(
                f,
                "{}: is the database of another program; name another file in [database] url",
                path.display()
            ),
            Self::NewerSchema { path, found, known } => write!(
                f,
                "{}: has schema {found}, and this version knows {known} at most; run the newer version, or restore the \
                 backup that was made before it",
                path.display()
            ),
            Self::AuditKey { path, source } => write!(
                f,
                "{}: the key of the audit rows cannot be read or made: {source}; a new key does not verify older rows",
                path.display()
            ),
            Self::Full { path } => write!(
                f,
                "{}: the disk is full; make room, what waits is written then",
                path.display()
            ),
            Self::ReadOnly { path } => write!(
                f,
                "{}: may not be written; give file and folder to the gateway's user",
                path.display()
            ),
            Self::Locked { path } => write!(
                f,
                "{}: is locked by another program; end that program, each gateway needs a database file of its own",
                path.display()
            ),
            Self::Account { id, reason } => write!(
                f,
                "the account {id} in the database cannot be read: {reason}; use a version of keygate that knows it, or \
                 restore the database from a copy"
            ),
            Self::Replaced { path } => write!(
                f,
                "{}: was removed or replaced while it was open, and nothing is written any more; put it back, or stop \
                 the gateway, remove the files beside it that end in -wal and -shm, and start it again",
                path.display()
            ),
            Self::Failed { path, source } => write!(
                f,
                "{}: the database failed ({source}); check the disk, and restore a backup if the file is damaged",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DatabaseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::AuditKey { source, .. } => Some(source),
            Self::Failed { source, .. } => Some(&**source),
            Self::NotADatabase { .. }
            | Self::OtherProgram { .. }
            | Self::NewerSchema { .. }
            | Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Locked { .. }
            | Self::Account { .. }
            | Self::Replaced { .. } => None,
        }
    }
}
