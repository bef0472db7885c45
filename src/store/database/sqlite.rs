//! SQLite: the database inside the gateway. All that is particular to its dialect stands in this folder.

mod accounts;
mod alerts;
mod audit;
mod budgets;
mod checkpoint;
mod gateways;
mod people;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, Value};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, params};

use crate::policy::audit::{AuditEntry, AuditMark, AuditRow};
use crate::policy::usage::{Certainty, RequestCounts};
use crate::store::database::audit::AuditQuery;
use crate::store::database::driver::{AuditChain, AuditCut, Driver, Retention, grouped_sums};
use crate::store::database::error::DatabaseError;
use crate::store::database::query::{RecordsQuery, StoredKeyUse, StoredRecord, SumsQuery, SumsRow};
use crate::store::database::record::{Batch, DAY, HOUR, UsageRecord, UsageSums, whole};
use crate::store::database::sqlite::checkpoint::{Checkpointer, KEPT_LOG};
use crate::store::database::statements::{self, SqlValue, Statement, SumsScope};

/// Each with its number, in their order.
const MIGRATIONS: [(i64, &str); 6] = [
    (1, include_str!("sqlite/0001_usage.sql")),
    (2, include_str!("sqlite/0002_audit.sql")),
    (3, include_str!("sqlite/0003_alerts.sql")),
    (4, include_str!("sqlite/0004_budgets.sql")),
    (5, include_str!("sqlite/0005_accounts.sql")),
    (6, include_str!("sqlite/0006_people.sql")),
];
const DELETE_SUMS: &str = include_str!("sqlite/delete_sums.sql");

/// Marks the file as ours: "kgat".
const APPLICATION_ID: i64 = 0x6b67_6174;
/// How long another program's lock is waited for, and how long while the last write has found it locked: a key that is
/// taken back must not wait behind others that wait for the lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const STILL_BUSY_TIMEOUT: Duration = Duration::from_millis(50);
/// A writer that wrote nothing for so long is gone.
const FORGET_WRITERS_AFTER: i64 = 7 * DAY;

/// A connection to a database file.
pub(crate) struct Sqlite {
    path: PathBuf,
    connection: Connection,
    /// The file that was opened, as the system numbers it.
    file: Option<(u64, u64)>,
    /// Of the connection that writes.
    checkpointer: Option<Checkpointer>,
    was_locked: bool,
}

impl Sqlite {
    /// Opens the file to write it, makes it where it is missing, and brings its schema forward. `now` is in seconds.
    pub(crate) fn open_to_write(path: &Path, now: i64) -> Result<Self, DatabaseError> {
        create(path)?;
        let mut opened = Self::open(path)?;
        opened.prepare(now).map_err(|error| match error {
            PrepareError::Sqlite(error) => opened.error(error),
            PrepareError::Refused(error) => error,
        })?;
        let checkpointer = Checkpointer::start(path).map_err(|source| DatabaseError::Open {
            path: path.to_owned(),
            source,
        })?;
        opened.checkpointer = Some(checkpointer);
        Ok(opened)
    }

    /// Opens the file to read it.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, DatabaseError> {
        let opened = Self::open(path)?;
        opened
            .connection
            .pragma_update(None, "query_only", true)
            .map_err(|error| opened.error(error))?;
        Ok(opened)
    }

    /// Opens the file for few and small writes, beside the connection of the writer.
    pub(crate) fn open_beside(path: &Path) -> Result<Self, DatabaseError> {
        let opened = Self::open(path)?;
        let set = |name, value: i64| {
            let set = opened.connection.pragma_update(None, name, value);
            set.map_err(|error| opened.error(error))
        };
        // The checkpointer of the writer does this.
        set("wal_autocheckpoint", 0)?;
        // FULL: an alert that was delivered is not delivered again after a crash of the machine.
        set("synchronous", 2)?;
        Ok(opened)
    }

    fn open(path: &Path) -> Result<Self, DatabaseError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |error| error_of(path, error);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            file: file_at(path),
            checkpointer: None,
            was_locked: false,
        })
    }

    /// Checks that the file is ours, and applies the migrations that it does not have yet, all in one transaction.
    fn prepare(&mut self, now: i64) -> Result<(), PrepareError> {
        let is_empty: bool = self.connection.query_row(
            "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)",
            [],
            |row| row.get(0),
        )?;
        let application: i64 =
            self.connection
                .pragma_query_value(None, "application_id", |row| row.get(0))?;
        if application != APPLICATION_ID && !(is_empty && application == 0) {
            return Err(PrepareError::Refused(DatabaseError::OtherProgram {
                place: self.path.display().to_string(),
            }));
        }
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")?;
        // The checkpointer does this.
        self.connection
            .pragma_update(None, "wal_autocheckpoint", 0)?;
        self.connection
            .pragma_update(None, "journal_size_limit", KEPT_LOG)?;
        // In KiB; the rows of the current hour and day stay in memory.
        self.connection.pragma_update(None, "cache_size", -32_768)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
        )?;
        let found: i64 = transaction.query_row(
            "SELECT COALESCE(MAX(version), 0) FROM schema_migrations",
            [],
            |row| row.get(0),
        )?;
        let known = MIGRATIONS.iter().map(|(version, _)| *version).max();
        let known = known.unwrap_or(0);
        if found > known {
            return Err(PrepareError::Refused(DatabaseError::NewerSchema {
                place: self.path.display().to_string(),
                found,
                known,
            }));
        }
        for (version, sql) in MIGRATIONS {
            let is_applied: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM schema_migrations WHERE version = ?1)",
                [version],
                |row| row.get(0),
            )?;
            if !is_applied {
                transaction.execute_batch(sql)?;
                transaction.execute(
                    "INSERT INTO schema_migrations (version, applied_at) VALUES (?1, ?2)",
                    params![version, now],
                )?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Notes whether a write has found the database locked.
    fn wrote<T>(&mut self, written: rusqlite::Result<T>) -> Result<T, DatabaseError> {
        let written = written.map_err(|error| self.error(error));
        let is_locked = matches!(written, Err(DatabaseError::Locked { .. }));
        if is_locked != self.was_locked {
            self.was_locked = is_locked;
            // If this fails, the wait is only as long as before.
            let _ = self.connection.busy_timeout(match is_locked {
                true => STILL_BUSY_TIMEOUT,
                false => BUSY_TIMEOUT,
            });
        }
        written
    }

    /// SQLite would go on to write to a file that has no name any more.
    fn check_file(&self) -> Result<(), DatabaseError> {
        if file_at(&self.path) == self.file {
            return Ok(());
        }
        Err(DatabaseError::Replaced {
            path: self.path.clone(),
        })
    }

    fn error(&self, error: rusqlite::Error) -> DatabaseError {
        error_of(&self.path, error)
    }

    fn write_batch(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let _writing = self.checkpointer.as_ref().map(Checkpointer::begin_writing);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Batch {
            writer,
            gateway,
            number,
            now,
            records,
            sums,
            key_uses,
        } = batch;
        let claimed = transaction.execute(
            &dialect(statements::CLAIM_BATCH),
            params![writer, gateway, number, now],
        )?;
        if claimed == 0 {
            // It was applied before, and only the answer was lost.
            return Ok(());
        }
        add_records(&transaction, gateway, records)?;
        let mut statement =
            transaction.prepare(&dialect(&statements::one_row(statements::ADD_SUMS, 18)))?;
        for (key, sums) in grouped_sums(sums) {
            let UsageSums {
                requests,
                errors,
                at_least,
                unknown,
                input_tokens,
                input_cached_tokens,
                output_tokens,
                output_reasoning_tokens,
                audio_microseconds,
                images,
                cost,
            } = sums;
            statement.execute(params![
                key.scope as i64,
                key.width,
                key.start,
                key.subject,
                key.account,
                key.model,
                key.upstream,
                requests,
                errors,
                at_least,
                unknown,
                input_tokens,
                input_cached_tokens,
                output_tokens,
                output_reasoning_tokens,
                audio_microseconds,
                images,
                cost,
            ])?;
        }
        drop(statement);
        let mut statement =
            transaction.prepare(&dialect(&statements::one_row(statements::ADD_KEY_USE, 3)))?;
        for key_use in key_uses {
            let requests = whole(key_use.requests);
            statement.execute(params![key_use.key_id, key_use.last_used_at, requests])?;
        }
        drop(statement);
        transaction.commit()
    }

    fn rows<T>(
        &self,
        statement: &Statement,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, DatabaseError> {
        let run = || -> rusqlite::Result<Vec<T>> {
            let mut prepared = self.connection.prepare(&dialect(&statement.sql))?;
            let rows = prepared
                .query_map(rusqlite::params_from_iter(&statement.values), |row| {
                    read(row)
                })?;
            rows.collect()
        };
        run().map_err(|error| self.error(error))
    }
}

impl Driver for Sqlite {
    fn write(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        self.check_file()?;
        let written = self.write_batch(batch);
        self.wrote(written)?;
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.written();
        }
        Ok(())
    }

    fn delete_old(&mut self, retention: &Retention, most: u32) -> Result<u64, DatabaseError> {
        let delete = || -> rusqlite::Result<usize> {
            let mut deleted = self.connection.execute(
                &dialect(statements::DELETE_RECORDS),
                params![retention.records_before.saturating_mul(1000), most],
            )?;
            for scope in [SumsScope::All, SumsScope::Account, SumsScope::Key] {
                for width in [HOUR, DAY] {
                    deleted += self.connection.execute(
                        &dialect(DELETE_SUMS),
                        params![scope as i64, width, retention.sums_before, most],
                    )?;
                }
            }
            self.connection.execute(
                &dialect(statements::DELETE_WRITERS),
                params![retention.now.saturating_sub(FORGET_WRITERS_AFTER)],
            )?;
            Ok(deleted)
        };
        delete()
            .map(|deleted| deleted as u64)
            .map_err(|error| self.error(error))
    }

    fn sums(&mut self, query: &SumsQuery) -> Result<Vec<SumsRow>, DatabaseError> {
        self.rows(&statements::sums(query), sums_row)
    }

    fn records(&mut self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError> {
        self.rows(&statements::records(query), stored_record)
    }

    fn key_uses(&mut self) -> Result<Vec<StoredKeyUse>, DatabaseError> {
        let statement = Statement {
            sql: statements::KEY_USES.to_owned(),
            values: Vec::new(),
        };
        self.rows(&statement, |row| {
            Ok(StoredKeyUse {
                key_id: row.get(0)?,
                last_used_at: row.get(1)?,
                requests: count(row.get(2)?).unwrap_or(0),
            })
        })
    }

    fn append_audit(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> Result<Vec<AuditMark>, DatabaseError> {
        self.check_file()?;
        let written = self.append(entries, chain);
        self.wrote(written)
    }

    fn cut_audit(&mut self, cut: &AuditCut, chain: &mut AuditChain) -> Result<u64, DatabaseError> {
        self.check_file()?;
        self.cut(cut, chain).map_err(|error| self.error(error))
    }

    fn audit_rows(&mut self, query: &AuditQuery) -> Result<Vec<AuditRow>, DatabaseError> {
        self.rows(&statements::audit_rows(query), audit::row)
    }

    fn last_audit_row(&mut self) -> Result<Option<AuditRow>, DatabaseError> {
        self.last_row().map_err(|error| self.error(error))
    }

    fn walk_audit(&mut self, visit: &mut dyn FnMut(AuditRow)) -> Result<(), DatabaseError> {
        self.walk(visit).map_err(|error| self.error(error))
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::from(text.as_str()),
            Self::Null => ToSqlOutput::Owned(Value::Null),
        })
    }
}

enum PrepareError {
    Sqlite(rusqlite::Error),
    Refused(DatabaseError),
}

impl From<rusqlite::Error> for PrepareError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes an empty file that only its owner may read; SQLite gives the files beside it the same mode.
fn create(path: &Path) -> Result<(), DatabaseError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(DatabaseError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The device and the number of the file at a path.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let file = path.metadata().ok()?;
    Some((file.dev(), file.ino()))
}

/// SQLite numbers `?1`, where the shared statements have `$1`.
fn dialect(sql: &str) -> String {
    sql.replace('$', "?")
}

fn add_records(
    transaction: &Transaction<'_>,
    gateway: &str,
    records: &[UsageRecord],
) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare(&dialect(&statements::one_row(statements::ADD_RECORD, 24)))?;
    for record in records {
        let UsageRecord {
            request_id,
            started_at,
            ended_at,
            key_id,
            account,
            model,
            upstream,
            route,
            status,
            end,
            client_address,
            first_byte_ms,
            duration_ms,
            bytes_in,
            bytes_out,
            counts,
            cost,
        } = record;
        let RequestCounts {
            input,
            input_cached,
            output,
            output_reasoning,
            audio_microseconds,
            images,
            certainty,
        } = *counts;
        statement.execute(params![
            request_id,
            gateway,
            started_at,
            ended_at,
            key_id,
            account,
            model,
            upstream,
            route,
            status,
            end.label(),
            client_address.map(|address| address.to_string()),
            first_byte_ms,
            duration_ms,
            whole(*bytes_in),
            whole(*bytes_out),
            input.map(whole),
            input_cached.map(whole),
            output.map(whole),
            output_reasoning.map(whole),
            audio_microseconds.map(whole),
            images.map(whole),
            certainty.label(),
            cost.map(|cost| whole(cost.millionths())),
        ])?;
    }
    Ok(())
}

fn sums_row(row: &Row<'_>) -> rusqlite::Result<SumsRow> {
    Ok(SumsRow {
        start: row.get(0)?,
        key_id: row.get(1)?,
        account: row.get(2)?,
        model: row.get(3)?,
        upstream: row.get(4)?,
        sums: UsageSums {
            requests: row.get(5)?,
            errors: row.get(6)?,
            at_least: row.get(7)?,
            unknown: row.get(8)?,
            input_tokens: row.get(9)?,
            input_cached_tokens: row.get(10)?,
            output_tokens: row.get(11)?,
            output_reasoning_tokens: row.get(12)?,
            audio_microseconds: row.get(13)?,
            images: row.get(14)?,
            cost: row.get(15)?,
        },
    })
}

fn stored_record(row: &Row<'_>) -> rusqlite::Result<StoredRecord> {
    let certainty: String = row.get(23)?;
    Ok(StoredRecord {
        id: row.get(0)?,
        request_id: row.get(1)?,
        gateway: row.get(2)?,
        started_at: row.get(3)?,
        ended_at: row.get(4)?,
        key_id: row.get(5)?,
        account: row.get(6)?,
        model: row.get(7)?,
        upstream: row.get(8)?,
        route: row.get(9)?,
        status: row.get(10)?,
        end: row.get(11)?,
        client_address: row.get(12)?,
        first_byte_ms: row.get(13)?,
        duration_ms: row.get(14)?,
        bytes_in: row.get(15)?,
        bytes_out: row.get(16)?,
        counts: RequestCounts {
            input: count(row.get(17)?),
            input_cached: count(row.get(18)?),
            output: count(row.get(19)?),
            output_reasoning: count(row.get(20)?),
            audio_microseconds: count(row.get(21)?),
            images: count(row.get(22)?),
            certainty: Certainty::of_label(&certainty).unwrap_or(Certainty::Unknown),
        },
        cost: row.get(24)?,
    })
}

fn count(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

fn error_of(path: &Path, error: rusqlite::Error) -> DatabaseError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => DatabaseError::Full { path },
        Some(ErrorCode::ReadOnly) => DatabaseError::ReadOnly { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => DatabaseError::Locked { path },
        Some(ErrorCode::NotADatabase) => DatabaseError::NotADatabase { path },
        _ => DatabaseError::Failed {
            path,
            source: Box::new(error),
        },
    }
}
