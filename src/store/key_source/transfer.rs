//! Brings keys from a key file into the database, and from there into a key file.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::policy::audit::ChangeOrigin;
use crate::store::audit::{AuditError, AuditTrail, reload_entry};
use crate::store::database::{
    Database, DatabaseError, IfNotWritten, KeyChanges, KeyPosition, KeyWrites, PostgresKeys,
};
use crate::store::key_file::{self, ReadError};
use crate::store::key_json;
use crate::store::key_source::database::{self, SourceError};
use crate::store::key_source::last_good_copy::key_row;
use crate::table::{Difference, Entry, NO_YIELD, Table};

/// How often an import is begun again because a gateway changed a key meanwhile.
const ATTEMPTS: u32 = 10;
/// So many keys are named in an error.
const NAMED: usize = 10;

/// Why keys are not imported.
#[derive(Debug)]
pub enum ImportError {
    /// The file has faults.
    File(ReadError),
    /// The database fails.
    Source(SourceError),
    /// The file lacks too many of the keys in the database.
    TooMany {
        /// Keys that the file lacks.
        dropped: usize,
        /// Keys in the database.
        total: usize,
        /// The limit.
        max_drop_percent: u8,
    },
    /// It would make keys work again that were deleted in the database.
    Revives {
        /// Their ids.
        ids: Vec<String>,
    },
    /// It may give access, and its audit row cannot be written.
    Audit(AuditError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::TooMany {
                dropped,
                total,
                max_drop_percent,
            } => write!(
                f,
                "the file lacks {dropped} of the {total} keys in the database, more than {max_drop_percent} percent; if these \
                 are to be deleted, import with --force"
            ),
            Self::Revives { ids } => {
                let named = ids.iter().take(NAMED).map(String::as_str);
                let named = named.collect::<Vec<_>>().join(", ");
                let more = match ids.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                write!(
                    f,
                    "keys of the file were deleted in the database: {named}{more}; take their lines out of the file, or import with \
                     --force if they are to work again"
                )
            }
            Self::Audit(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Source(error) => Some(error),
            Self::TooMany { .. } | Self::Revives { .. } => None,
            Self::Audit(error) => Some(error),
        }
    }
}

impl From<SourceError> for ImportError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<DatabaseError> for ImportError {
    fn from(error: DatabaseError) -> Self {
        Self::Source(error.into())
    }
}

/// What an import does.
pub struct ImportSettings<'s> {
    /// The key file.
    pub file: &'s Path,
    /// The percentage of the keys in the database that the file may lack; None: any number, and keys that were deleted there
    /// may come again.
    pub max_drop_percent: Option<u8>,
    /// Only tell what it would change.
    pub dry_run: bool,
    /// Who asks for it.
    pub origin: ChangeOrigin,
}

/// What an import changes.
#[derive(Debug)]
pub struct Imported {
    /// In the keys of the database.
    pub difference: Difference,
    /// The ids of those that are added and were deleted in the database.
    pub revived: Vec<String>,
}

/// Makes the keys of the database those of a key file. Returns what changes.
///
/// # Errors
/// Nothing is changed.
pub fn import(
    database: &Arc<Database>,
    settings: ImportSettings<'_>,
) -> Result<Imported, ImportError> {
    let ImportSettings {
        file,
        max_drop_percent,
        dry_run,
        origin,
    } = settings;
    let mut keys = keys_of(database)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let table = Table::default();
        let loaded = database::load(&mut keys, &table)?.all_readable()?;
        let (entries, position) = (loaded.entries, loaded.position);
        table.swap(entries, NO_YIELD);
        let loaded = key_file::read(file, &table, NO_YIELD).map_err(ImportError::File)?;
        let difference = table.compare(&loaded.entries, NO_YIELD);
        let (dropped, total) = (difference.removed.len(), table.len());
        let is_too_many = |percent: u8| dropped * 100 > total * usize::from(percent);
        let limit = max_drop_percent.filter(|percent| is_too_many(*percent));
        if let Some(max_drop_percent) = limit {
            return Err(ImportError::TooMany {
                dropped,
                total,
                max_drop_percent,
            });
        }
        let revived = revived(&mut keys, &difference)?;
        if dry_run || difference.is_empty() {
            return Ok(Imported {
                difference,
                revived,
            });
        }
        if max_drop_percent.is_some() && !revived.is_empty() {
            return Err(ImportError::Revives { ids: revived });
        }
        database::lock(&mut keys, true)?;
        if !matches!(keys.changes_in_change(position)?, KeyChanges::None) && attempt < ATTEMPTS {
            keys.rollback();
            continue;
        }
        let forced = max_drop_percent.is_none();
        let entry = reload_entry(origin.clone(), &difference, forced);
        AuditTrail::of(Some(Arc::clone(database)))
            .write(vec![entry], IfNotWritten::Refuse)
            .map_err(ImportError::Audit)?;
        commit(&mut keys, &difference, position)?;
        return Ok(Imported {
            difference,
            revived,
        });
    }
}

/// The ids of keys that are added and were deleted before.
fn revived(keys: &mut PostgresKeys, difference: &Difference) -> Result<Vec<String>, ImportError> {
    if difference.added.is_empty() {
        return Ok(Vec::new());
    }
    let deleted: HashSet<String> = keys.deleted()?.into_iter().collect();
    let added = difference.added.iter().map(|entry| entry.key().id());
    Ok(added
        .filter(|id| deleted.contains(*id))
        .map(str::to_owned)
        .collect())
}

fn commit(
    keys: &mut PostgresKeys,
    difference: &Difference,
    position: KeyPosition,
) -> Result<(), ImportError> {
    let row = |entry: &Arc<Entry>| key_row(entry.key());
    let changed = difference.changed.iter().chain(&difference.added);
    let writes = KeyWrites {
        put: changed.map(row).collect(),
        deleted: difference
            .removed
            .iter()
            .map(|entry| entry.key().id().to_owned())
            .collect(),
    };
    database::commit(keys, &writes, position, None).map_err(ImportError::Source)?;
    Ok(())
}

fn keys_of(database: &Database) -> Result<PostgresKeys, SourceError> {
    database.keys().ok_or(SourceError::NotShared)
}

/// The keys of the database as a key file.
///
/// # Errors
/// The database cannot be read.
pub fn export(database: &Database) -> Result<Vec<u8>, SourceError> {
    let mut keys = keys_of(database)?;
    let loaded = database::load(&mut keys, &Table::default())?.all_readable()?;
    let mut text = Vec::new();
    for entry in &loaded.entries {
        key_json::write_line(entry.key(), &mut text);
    }
    Ok(text)
}
