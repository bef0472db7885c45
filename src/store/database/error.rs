//! Why the database could not be used, with the remedy.

use std::fmt;
use std::path::PathBuf;

use crate::store::database::spool::SpoolError;

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
    /// It is the database of another program.
    OtherProgram {
        /// The file or the server's database.
        place: String,
    },
    /// A newer version of this program has changed the database.
    NewerSchema {
        /// The file or the server's database.
        place: String,
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
    /// A key cannot be read, so nobody knows what it may do.
    Key {
        /// The key.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was removed, or another one was put in its place, while it was open.
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The server of the database cannot be reached, or does not answer.
    Unreachable {
        /// The server's database.
        place: String,
        /// The reason.
        why: String,
    },
    /// The server of the database does not let the gateway in.
    Credentials {
        /// The server's database.
        place: String,
        /// The role that it signs in as.
        user: String,
        /// The server's reason.
        why: String,
    },
    /// The server has no such database.
    NoDatabase {
        /// The server's database.
        place: String,
        /// Its name.
        name: String,
        /// The role that needs it.
        user: String,
    },
    /// The gateway's role may not do what it needs to do.
    Denied {
        /// The server's database.
        place: String,
        /// The server's reason.
        why: String,
        /// What allows it.
        remedy: String,
    },
    /// The server or its database cannot be used by the gateway at all.
    Unfit {
        /// The server's database.
        place: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The newest audit row was not written with this gateway's key.
    OtherAuditKey {
        /// The server's database.
        place: String,
        /// The row's number.
        n: i64,
    },
    /// The certificates of the CAs that the server's certificate may be of cannot be read.
    Roots {
        /// The file; None: the system's.
        file: Option<PathBuf>,
        /// The reason.
        source: std::io::Error,
    },
    /// The server refuses a statement for another reason.
    Server {
        /// The server's database.
        place: String,
        /// The server's reason.
        why: String,
    },
    /// The folder in which usage waits cannot be used.
    Spool(SpoolError),
    /// Another gateway uses that folder.
    SpoolInUse(SpoolError),
    /// A thread of the database cannot be started.
    Thread {
        /// The system's reason.
        source: std::io::Error,
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
            Self::OtherProgram { place } => write!(
                f,
                "{place}: is the database of another program; name another one in [database] url"
            ),
            Self::NewerSchema {
                place,
                found,
                known,
            } => write!(
                f,
                "{place}: has schema {found}, and this version knows {known} at most; run the newer version, or restore \
                 the backup that was made before it"
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
            Self::Key { id, reason } => write!(
                f,
                "the key {id} in the database cannot be read: {reason}; use a version of keygate that knows it, or \
                 restore the database from a copy"
            ),
            Self::Replaced { path } => write!(
                f,
                "{}: was removed or replaced while it was open, and nothing is written any more; put it back, or stop \
                 the gateway, remove the files beside it that end in -wal and -shm, and start it again",
                path.display()
            ),
            Self::Unreachable { place, why } => write!(
                f,
                "{place}: the server cannot be reached ({why}); look whether it runs and whether [database] url names it"
            ),
            Self::Credentials { place, user, why } => write!(
                f,
                "{place}: the server does not let {user} in ({why}); set [database] password_file, and look at the \
                 server's pg_hba.conf"
            ),
            Self::NoDatabase { place, name, user } => write!(
                f,
                "{place}: the server has no database {name}; make it with createdb --owner={user} {name}, or name another \
                 one in [database] url"
            ),
            Self::Denied { place, why, remedy } => write!(
                f,
                "{place}: the gateway's role may not do this ({why}); {remedy}"
            ),
            Self::Unfit { place, why, remedy } => write!(f, "{place}: {why}; {remedy}"),
            Self::OtherAuditKey { place, n } => write!(
                f,
                "{place}: audit row {n} was not written with the key in this gateway's [audit] key_file, or was changed; \
                 all gateways of a database need the same key: copy the file from the gateway that wrote the row"
            ),
            Self::Roots { file, source } => write!(
                f,
                "{}: the CA of the database's server cannot be read ({source}); name a PEM file in sslrootcert of \
                 [database] url",
                file.as_ref()
                    .map_or("the system's certificates".into(), |file| file
                        .display()
                        .to_string())
            ),
            Self::Server { place, why } => write!(
                f,
                "{place}: the server refused a statement ({why}); look into the server's log"
            ),
            Self::Spool(error) => write!(
                f,
                "{error}; usage waits there while the database is away: name a folder that the gateway's user may write, in \
                 [usage] spool"
            ),
            Self::SpoolInUse(error) => write!(
                f,
                "{error}; each gateway needs a folder of its own in [usage] spool"
            ),
            Self::Thread { source } => write!(
                f,
                "the database's thread cannot be started ({source}); allow the gateway's user more threads"
            ),
            Self::Failed { path, source } => write!(
                f,
                "{}: the database failed ({source}); check the disk, and restore a backup if the file is damaged",
                path.display()
            ),
        }
    }
}

impl DatabaseError {
    /// Whether a gateway starts in spite of it: the database may be back soon, without anybody changing the config.
    #[must_use]
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The same for a gateway whose keys are in the database. With a copy of them it also starts where the server refuses it:
    /// an operator may have renamed the database or denied the role for a while.
    #[must_use]
    pub(crate) fn is_outlasted(&self, has_copy: bool) -> bool {
        self.passes()
            || has_copy
                && matches!(
                    self,
                    Self::Credentials { .. }
                        | Self::NoDatabase { .. }
                        | Self::Denied { .. }
                        | Self::Server { .. }
                )
    }
}

impl std::error::Error for DatabaseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. }
            | Self::AuditKey { source, .. }
            | Self::Roots { source, .. }
            | Self::Thread { source } => Some(source),
            Self::Failed { source, .. } => Some(&**source),
            Self::Spool(error) | Self::SpoolInUse(error) => Some(error),
            Self::NotADatabase { .. }
            | Self::OtherProgram { .. }
            | Self::NewerSchema { .. }
            | Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Locked { .. }
            | Self::Account { .. }
            | Self::Key { .. }
            | Self::Replaced { .. }
            | Self::Unreachable { .. }
            | Self::Credentials { .. }
            | Self::NoDatabase { .. }
            | Self::Denied { .. }
            | Self::Unfit { .. }
            | Self::OtherAuditKey { .. }
            | Self::Server { .. } => None,
        }
    }
}
