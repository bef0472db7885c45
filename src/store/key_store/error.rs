//! Why a file is not taken over, or a change not written.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::store::fault::Fault;
use crate::store::key_file::ReadError;
use crate::store::strict_json::FieldError;

/// Why a file is not taken over, or not written.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// What is on disk can't be loaded, so it must not be overwritten either.
    Faulty(Arc<ReadError>),
    /// What is on disk lacks too many of the keys in force.
    DropLimit(DropLimitError),
    /// Reading was fine, or not needed; writing failed.
    Io(Arc<io::Error>),
}

/// How many keys a file would drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLimitError {
    /// So many would go,
    pub dropped: usize,
    /// of so many in force,
    pub total: usize,
    /// where at most so many percent may.
    pub max_drop_percent: u8,
}

/// Why a create, change or delete is not done as asked.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// No key has this id.
    NotFound,
    /// A field's value is fine in itself, but not now.
    Invalid(FieldError),
    /// It is not on disk.
    NotWritten {
        /// A delete or disable is in force nevertheless; anything else changed nothing.
        in_force: bool,
        /// What was in the way.
        error: StoreError,
    },
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The file is in force.
    Ok,
    /// Something in the file is wrong; what was in force still is.
    Faulty,
    /// It would have dropped too many keys; what was in force still is.
    Dropped,
    /// The file could not be read; what was in force still is.
    Failed,
}

/// The keeper ended before it answered.
#[derive(Clone, Copy, Debug)]
pub struct WorkerStoppedError;

impl From<WorkerStoppedError> for StoreError {
    fn from(_: WorkerStoppedError) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, "the key store has stopped").into()
    }
}

impl From<WorkerStoppedError> for WriteError {
    fn from(gone: WorkerStoppedError) -> Self {
        Self::NotWritten {
            in_force: false,
            error: gone.into(),
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

impl StoreError {
    /// The file's faults, where those are what is in the way.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Faulty(error) => error.faults(),
            Self::DropLimit(_) | Self::Io(_) => &[],
        }
    }

    /// How a reload that met it ended.
    #[must_use]
    pub fn result(&self) -> ReloadResult {
        match self {
            Self::Faulty(error) => match **error {
                ReadError::Faulty(_) => ReloadResult::Faulty,
                ReadError::Unreadable(_) => ReloadResult::Failed,
            },
            Self::DropLimit(_) => ReloadResult::Dropped,
            Self::Io(_) => ReloadResult::Failed,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faulty(error) => error.fmt(f),
            Self::DropLimit(drop_limit) => drop_limit.fmt(f),
            Self::Io(error) => write!(f, "the key file cannot be written: {error}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Faulty(error) => Some(&**error),
            Self::DropLimit(_) => None,
            Self::Io(error) => Some(&**error),
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
            Self::Invalid(complaint) => complaint.fmt(f),
            Self::NotWritten { in_force, error } => {
                let state = match in_force {
                    true => "in force, but not yet on disk, and tried again until it is",
                    false => "nothing was changed",
                };
                write!(f, "{error} ({state})")
            }
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound | Self::Invalid(_) => None,
            Self::NotWritten { error, .. } => Some(error),
        }
    }
}

impl ReloadResult {
    /// The word that metrics and status use.
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
