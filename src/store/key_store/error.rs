//! Why the key file is not loaded, or a change not written.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::store::audit::AuditError;
use crate::store::fault::Fault;
use crate::store::key_file::ReadError;
use crate::store::key_source::{LockError, SourceError};
use crate::store::strict_json::FieldError;

/// Why the key file is not loaded or not written.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// The file on disk cannot be loaded, so it must not be overwritten either.
    Faulty(Arc<ReadError>),
    /// The file on disk lacks too many of the keys in the table.
    DropLimit(DropLimitError),
    /// Its change may give access, and its audit row cannot be written.
    Audit(AuditError),
    /// Writing failed.
    Io(Arc<io::Error>),
    /// The database of the keys cannot be followed or written.
    Database(SourceError),
}

/// A file would drop more keys than `max_drop_percent` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLimitError {
    /// Keys of the table that the file does not hold.
    pub dropped: usize,
    /// Keys in the table.
    pub total: usize,
    /// The limit.
    pub max_drop_percent: u8,
}

/// Why a create, change or delete is not done as asked.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// No key has this id.
    NotFound,
    /// The key is not at the revision that the change is meant for.
    Changed,
    /// A field's value is well-formed but not possible now.
    Invalid(FieldError),
    /// The change is not on disk.
    NotWritten {
        /// Whether it is in force in the table nevertheless: deletes, disables and ends of previous tokens are, other changes
        /// are not.
        in_force: bool,
        /// Why it is not on disk.
        error: StoreError,
    },
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The file's keys are in force.
    Ok,
    /// The file has faults; the table is as before.
    Faulty,
    /// It would have dropped too many keys; the table is as before.
    Dropped,
    /// The file could not be read; the table is as before.
    Failed,
}

/// The worker stopped before it replied.
#[derive(Clone, Copy, Debug)]
pub struct WorkerStoppedError;

impl From<WorkerStoppedError> for StoreError {
    fn from(_: WorkerStoppedError) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, "the key store has stopped").into()
    }
}

impl From<WorkerStoppedError> for WriteError {
    fn from(error: WorkerStoppedError) -> Self {
        Self::NotWritten {
            in_force: false,
            error: error.into(),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        Self::Faulty(Arc::new(error))
    }
}

impl From<SourceError> for StoreError {
    fn from(error: SourceError) -> Self {
        Self::Database(error)
    }
}

impl From<LockError> for StoreError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Busy(error) | LockError::File(error) => error.into(),
            LockError::Database(error) => error.into(),
        }
    }
}

impl From<AuditError> for StoreError {
    fn from(error: AuditError) -> Self {
        Self::Audit(error)
    }
}

impl StoreError {
    /// The file's faults; empty if the error is of another kind.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Faulty(error) => error.faults(),
            Self::DropLimit(_) | Self::Audit(_) | Self::Io(_) | Self::Database(_) => &[],
        }
    }

    /// The result of a reload that failed with this error.
    #[must_use]
    pub fn result(&self) -> ReloadResult {
        match self {
            Self::Faulty(error) => match **error {
                ReadError::Faulty(_) => ReloadResult::Faulty,
                ReadError::Unreadable(_) => ReloadResult::Failed,
            },
            Self::DropLimit(_) => ReloadResult::Dropped,
            Self::Audit(_) | Self::Io(_) | Self::Database(_) => ReloadResult::Failed,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faulty(error) => error.fmt(f),
            Self::DropLimit(error) => error.fmt(f),
            Self::Audit(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the key file cannot be written: {error}"),
            Self::Database(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Faulty(error) => Some(&**error),
            Self::DropLimit(_) => None,
            Self::Audit(error) => Some(error),
            Self::Io(error) => Some(&**error),
            Self::Database(error) => Some(error),
        }
    }
}

impl fmt::Display for DropLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dropped,
            total,
            max_drop_percent,
        } = self;
        write!(
            f,
            "the key file would drop {dropped} of {total} keys, more than {max_drop_percent} percent; \
             if that is meant, reload with force (keygate reload --force)"
        )
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no key has this id"),
            Self::Changed => f.write_str("the key was changed meanwhile"),
            Self::Invalid(error) => error.fmt(f),
            Self::NotWritten { in_force, error } => {
                let state = match (in_force, error) {
                    (true, StoreError::Database(_)) => {
                        "in force here, and carried out once the database takes it"
                    }
                    (true, _) => "in force, but not yet on disk, and tried again until it is",
                    (false, StoreError::Database(SourceError::Unsure(_))) => {
                        "not known whether it was changed"
                    }
                    (false, _) => "nothing was changed",
                };
                write!(f, "{error} ({state})")
            }
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound | Self::Changed | Self::Invalid(_) => None,
            Self::NotWritten { error, .. } => Some(error),
        }
    }
}

impl ReloadResult {
    /// As metrics and status show it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Faulty => "faulty",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}
