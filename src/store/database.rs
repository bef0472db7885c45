//! What outlives the process beside the key file: usage records, their sums, the uses of keys, and the audit rows.
//!
//! [`Database::open`] opens it and starts the one thread that writes. Each worker has a [`UsageSender`] and hands its
//! finished requests over without waiting. [`Database::sums`] and its siblings answer questions; they wait for the disk,
//! so they are asked off the workers' threads. [`Database::audit`] writes rows about changes, and answers when they are
//! on disk.
//!
//! `accounts` are those of the keys' owners, `people` the persons in them with their invitations, `sessions` those of
//! persons. `alerts` is what is kept of alerts, `gateways` who shares the database. All of these are read and written where
//! they are needed, off the workers' threads.
//!
//! `record` says what is kept, `query` what can be asked. `driver` is what each kind of database can do, `sqlite` the
//! kind that is built in, `postgres` the one that several gateways share; `sql/` and `statements` are what both kinds share.
//! `queue` holds what waits, `writer` writes it. `spool` is where it waits on disk while a shared database is away, `pending`
//! knows what waits where.
//!
//! Invariants: a request counts once in the sums, whatever fails. A request that ended over a second ago is written,
//! where the database can be written. Nobody waits for the database but those who ask it.

mod accounts;
mod alerts;
mod audit;
mod budgets;
mod driver;
mod error;
mod gateways;
mod leases;
mod pending;
mod people;
mod postgres;
mod query;
mod queue;
mod record;
mod sessions;
mod spool;
mod sqlite;
mod statements;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::policy::audit::{AuditEntry, AuditMark, AuditRow};
use crate::policy::audit_chain::{ChainCheck, ChainKey, ChainReport};
use crate::store::database::accounts::AccountDriver;
use crate::store::database::alerts::AlertDriver;
use crate::store::database::budgets::BudgetDriver;
use crate::store::database::driver::{AuditChain, Driver, grouped_sums};
use crate::store::database::gateways::GatewayDriver;
use crate::store::database::people::PeopleDriver;
use crate::store::database::postgres::{Postgres, PostgresServer};
use crate::store::database::queue::{Queues, lock};
use crate::store::database::record::SumsMap;
use crate::store::database::spool::{AuditSpool, Spool};
use crate::store::database::sqlite::Sqlite;
use crate::store::database::statements::SumsScope;
use crate::store::database::writer::{WriterHandle, WriterSettings, WriterSpool};

pub use crate::store::database::alerts::{AlertSummary, AttemptEnd, NewAlert, PendingAlert};
pub use crate::store::database::audit::{
    AuditQuery, AuditStatus, AuditWrite, IfNotWritten, audit_key_beside,
};
pub use crate::store::database::budgets::BudgetOwner;
pub use crate::store::database::error::DatabaseError;
pub use crate::store::database::gateways::{
    GatewayIdentity, GatewayList, GatewayReport, SeenGateway,
};
pub use crate::store::database::leases::{
    ChangedLimit, LeaseDriver, SharedLimitId, StoredLimit, StoredLimits,
};
pub use crate::store::database::people::{
    Invitation, Member, Membership, NewInvitation, NewPerson, Person, PersonIdentity,
};
pub(crate) use crate::store::database::postgres::Listening;
pub use crate::store::database::postgres::connection::SchemaStatus;
pub use crate::store::database::postgres::keys::KeyPosition;
pub(crate) use crate::store::database::postgres::keys::{
    KeyChanges, KeyRow, KeyWrites, PostgresKeys,
};
pub use crate::store::database::postgres::url::{PostgresTls, PostgresUrl};
pub use crate::store::database::query::{
    Bucket, GroupBy, RecordsQuery, StoredKeyUse, StoredRecord, SumsQuery, SumsRow,
};
pub use crate::store::database::queue::{MAX_WAITING, UsageSender};
pub use crate::store::database::record::{
    DAY, HOUR, KeyUse, RecordEnd, SumsKey, UsageRecord, UsageSums,
};
pub use crate::store::database::sessions::{
    NewSession, PersonSession, SessionLimits, StoredSession,
};
pub use crate::store::database::spool::{SpoolConfig, SpoolError};
pub use crate::store::database::writer::{
    AuditReply, DatabaseEvent, DatabaseObserver, DatabaseStatus, KeepFor,
};

#[cfg(test)]
pub(crate) use crate::store::database::tests::fixture::Fixture;

/// How long a question waits for what is not written yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a question is asked again, since what waited was written meanwhile.
const MOST_TRIES: u32 = 3;

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, which several gateways may share.
    Postgres(PostgresUrl),
}

impl DatabaseUrl {
    /// The kind of the database.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// A database of a server that several gateways share, without a writer: for commands that work on it directly.
pub struct SharedDatabase(Arc<PostgresServer>);

impl SharedDatabase {
    /// Does not connect yet.
    ///
    /// # Errors
    /// The certificates of the config cannot be read, or no thread can be started.
    pub fn new(url: &PostgresUrl, gateway: &str) -> Result<Self, DatabaseError> {
        Ok(Self(Arc::new(PostgresServer::new(url, gateway)?)))
    }

    /// How far the schema is. It changes nothing.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn schema(&self) -> Result<SchemaStatus, DatabaseError> {
        self.0.schema()
    }

    /// Brings the schema forward.
    ///
    /// # Errors
    /// The database cannot be changed.
    pub fn migrate(&self) -> Result<(), DatabaseError> {
        self.0.migrate()
    }

    /// What messages call the database.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.url().place()
    }
}

/// Makes connections.
enum Connections {
    Sqlite(PathBuf),
    Postgres(Arc<PostgresServer>),
}

impl Connections {
    fn of(url: &DatabaseUrl, gateway: &str) -> Result<Self, DatabaseError> {
        Ok(match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(path.clone()),
            DatabaseUrl::Postgres(url) => {
                Self::Postgres(Arc::new(PostgresServer::new(url, gateway)?))
            }
        })
    }

    fn open_to_write(&self) -> Result<Box<dyn Driver>, DatabaseError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open_to_write(path, writer::now())?),
            Self::Postgres(server) => Box::new(Postgres::to_write(server)),
        })
    }

    fn open_to_read(&self) -> Result<Box<dyn Driver>, DatabaseError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open_to_read(path)?),
            Self::Postgres(server) => Box::new(Postgres::to_read(server)),
        })
    }

    fn open_beside(&self) -> Result<Box<dyn SideDriver>, DatabaseError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open_beside(path)?),
            Self::Postgres(server) => Box::new(Postgres::to_write(server)),
        })
    }
}

/// What a connection does that stands beside the writer's.
pub(crate) trait SideDriver:
    AccountDriver + AlertDriver + BudgetDriver + GatewayDriver + PeopleDriver
{
}

impl<D: AccountDriver + AlertDriver + BudgetDriver + GatewayDriver + PeopleDriver> SideDriver
    for D
{
}

/// An open database, with its writer.
pub struct Database {
    url: DatabaseUrl,
    /// This gateway's name.
    gateway: String,
    connections: Connections,
    queues: Arc<Queues>,
    writer: WriterHandle,
    chain_key: ChainKey,
    /// Opened by the first question.
    reader: Mutex<Option<Box<dyn Driver>>>,
    /// Reads and writes what is no usage. Opened by the first call.
    side: Mutex<Option<Box<dyn SideDriver>>>,
    /// Whether this gateway was taken out of the list of gateways.
    has_left: AtomicBool,
    /// Why the last report of this gateway failed.
    report_error: Mutex<Option<String>>,
}

/// What a gateway has when its database fails at the start.
#[derive(Clone, Copy, Debug)]
pub struct GatewayStart<'s> {
    /// Where on disk waits what cannot be written.
    pub spool: Option<&'s SpoolConfig>,
    /// It has a last good copy of the keys.
    pub has_key_copy: bool,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database, makes it where it is missing, brings its schema forward, and starts the writer. `audit_key` is the
    /// file of the audit rows' key, which is made where it is missing. `gateway` is this gateway's name, `instance` a text
    /// that no other start of a gateway has.
    ///
    /// # Errors
    /// The database cannot be used; the error says why and what to do. A server that cannot be reached is none: what is to
    /// be written waits for it.
    pub fn open(
        url: &DatabaseUrl,
        audit_key: &Path,
        gateway: &str,
        instance: &str,
        keep_for: KeepFor,
        observer: DatabaseObserver,
    ) -> Result<Self, DatabaseError> {
        let start = GatewayStart {
            spool: None,
            has_key_copy: false,
        };
        Self::open_for_gateway(url, audit_key, start, gateway, instance, keep_for, observer)
    }

    /// The same for a gateway that serves.
    ///
    /// # Errors
    /// Those of [`Self::open`], and the spool cannot be used.
    pub fn open_for_gateway(
        url: &DatabaseUrl,
        audit_key: &Path,
        start: GatewayStart<'_>,
        gateway: &str,
        instance: &str,
        keep_for: KeepFor,
        observer: DatabaseObserver,
    ) -> Result<Self, DatabaseError> {
        let connections = Connections::of(url, gateway)?;
        let mut driver = connections.open_to_write()?;
        let key = audit::chain_key(audit_key)?;
        let spool = start
            .spool
            .map(|spool| open_spool(spool, &observer))
            .transpose()?;
        let (newest, failed) = match driver.last_audit_row() {
            Ok(newest) => (newest, None),
            Err(error) if error.is_outlasted(start.has_key_copy) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let is_broken = newest.as_ref().is_some_and(|row| !key.admits(row));
        if let Some(row) = newest.as_ref().filter(|_| is_broken) {
            observer(DatabaseEvent::AuditBroken { n: row.n });
        }
        let behind = spool
            .as_ref()
            .and_then(|spool| spool.waiting.behind.clone());
        if behind.is_some() {
            driver.may_have_appended();
        }
        let last = match (newest, behind) {
            // Where other gateways write too, each row behind it is refused.
            (Some(_), _) if is_broken && matches!(url, DatabaseUrl::Postgres(_)) => {
                AuditMark::origin()
            }
            // Rows that wait are looked for from where the chain stood when they began to.
            (_, Some(behind)) => behind,
            (Some(AuditRow { n, hash, .. }), None) => AuditMark { n, hash },
            (None, None) => AuditMark::origin(),
        };
        let queues = Arc::<Queues>::default();
        let writer = WriterHandle::start(
            driver,
            AuditChain { key, last },
            Arc::clone(&queues),
            WriterSettings {
                gateway,
                instance,
                keep_for,
                failed,
                spool,
            },
            observer,
        )
        .map_err(|source| DatabaseError::Thread { source })?;
        Ok(Self {
            url: url.clone(),
            gateway: gateway.to_owned(),
            connections,
            queues,
            writer,
            chain_key: key,
            reader: Mutex::new(None),
            side: Mutex::new(None),
            has_left: AtomicBool::new(false),
            report_error: Mutex::default(),
        })
    }

    /// The kind of the database.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.url.kind()
    }

    /// A connection of its own for the keys of several gateways. None: the database is one that only this gateway has.
    #[must_use]
    pub(crate) fn keys(&self) -> Option<PostgresKeys> {
        match &self.connections {
            Connections::Sqlite(_) => None,
            Connections::Postgres(server) => Some(PostgresKeys::new(server, &self.gateway)),
        }
    }

    /// Whether other gateways may write to the database too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.url, DatabaseUrl::Postgres(_))
    }

    /// A worker's way to the database. Each worker has its own.
    #[must_use]
    pub fn sender(&self) -> UsageSender {
        self.queues.sender()
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> DatabaseStatus {
        let status = self.writer.status();
        // Without requests nothing is written, but a shared database is reported to all the time.
        let error = status.error.or_else(|| lock(&self.report_error).clone());
        DatabaseStatus {
            up: error.is_none(),
            error,
            ..status
        }
    }

    /// Of how many requests the usage is not written yet, those included whose records were dropped.
    #[must_use]
    pub fn unwritten_requests(&self) -> i64 {
        self.writer.unwritten_requests().0
    }

    /// Of how many of these the usage is in the spool, and outlives the process.
    #[must_use]
    pub fn spooled_requests(&self) -> i64 {
        self.writer.unwritten_requests().1
    }

    /// Writes all that waits. Returns whether it was written in this time.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.writer.flush(timeout)
    }

    /// Writes all that waits, and ends the writer. Returns whether all was written in this time; what was not is in the
    /// spool, where there is one. What is added later is lost.
    pub fn stop(&self, timeout: Duration) -> bool {
        // SQLite's log is moved into the file and removed with the last connection. That is the writer's, which is waited
        // for; what still holds this database may end with the process. A connection in use stays open, and the next
        // start reads the log.
        if let Ok(mut reader) = self.reader.try_lock() {
            *reader = None;
        }
        if let Ok(mut side) = self.side.try_lock() {
            *side = None;
        }
        self.writer.stop(timeout)
    }

    /// The sums that a question asks for, by bucket and group. They include every request that has ended: what waits is
    /// written first, or added from memory where the database cannot be written.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn sums(&self, query: &SumsQuery) -> Result<Vec<SumsRow>, DatabaseError> {
        if self.flush_if_needed() {
            return self.read(|reader| reader.sums(query));
        }
        let (mut rows, waiting, is_certain) = self.sums_and_waiting(query)?;
        for (key, sums) in grouped_sums(&waiting) {
            if key.scope != SumsScope::Key || key.width != query.bucket.width() {
                continue;
            }
            let Some(row) =
                query.row_of(key.start, key.subject, key.account, key.model, key.upstream)
            else {
                continue;
            };
            match rows.iter_mut().find(|known| known.is_of_group(&row)) {
                Some(known) => known.sums.add(&sums),
                None => rows.push(SumsRow { sums, ..row }),
            }
        }
        if !is_certain && self.flush_if_needed() {
            // It was written meanwhile, and may be counted twice in these rows.
            return self.read(|reader| reader.sums(query));
        }
        rows.sort_by(SumsRow::compare);
        Ok(rows)
    }

    /// The sums in the database, those of what waits, and whether nothing is counted in both.
    fn sums_and_waiting(
        &self,
        query: &SumsQuery,
    ) -> Result<(Vec<SumsRow>, SumsMap, bool), DatabaseError> {
        let mut tries_left = MOST_TRIES;
        loop {
            tries_left -= 1;
            let waiting = self.writer.waiting();
            let (rows, written) = self.read(|reader| reader.sums_and_batches(query))?;
            let waiting = waiting.and_then(|waiting| self.writer.sums_without(waiting, &written));
            match waiting {
                Some(waiting) => return Ok((rows, waiting, !written.is_empty())),
                None if tries_left == 0 => return Ok((rows, SumsMap::new(), false)),
                None => {}
            }
        }
    }

    /// Single records, newest first. They include every request that has ended, where the database can be written.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn records(&self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError> {
        self.flush_if_needed();
        self.read(|reader| reader.records(query))
    }

    /// How often each key was used in all, and when last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn key_uses(&self) -> Result<Vec<StoredKeyUse>, DatabaseError> {
        self.flush_if_needed();
        self.read(|reader| reader.key_uses())
    }

    /// Writes audit rows in one transaction, behind all that were asked for before.
    pub fn audit(&self, entries: Vec<AuditEntry>, if_not_written: IfNotWritten) -> AuditReply {
        self.writer.audit(entries, if_not_written)
    }

    /// Audit rows that wait for the database, or were lost.
    #[must_use]
    pub fn audit_status(&self) -> AuditStatus {
        self.writer.audit_status()
    }

    /// Audit rows, newest first. Rows that wait are not among them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, DatabaseError> {
        self.read(|reader| reader.audit_rows(query))
    }

    /// Looks at every audit row, and finds the first that is wrong.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn verify_audit(&self) -> Result<ChainReport, DatabaseError> {
        // Read first: a row that is written meanwhile is not missed.
        let head = self.writer.audit_head();
        self.read(|reader| {
            let mut check = ChainCheck::new(self.chain_key);
            reader.walk_audit(&mut |row| check.visit(row))?;
            Ok(check.finish(&head))
        })
    }

    fn flush_if_needed(&self) -> bool {
        self.writer.status().up && self.writer.flush(FLUSH_TIMEOUT)
    }

    fn read<T>(
        &self,
        ask: impl FnOnce(&mut dyn Driver) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        ask_with(
            &self.reader,
            || self.connections.open_to_read(),
            |driver| ask(driver),
        )
    }

    fn of_side<T>(
        &self,
        ask: impl FnOnce(&mut dyn SideDriver) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        ask_with(
            &self.side,
            || self.connections.open_beside(),
            |driver| ask(driver),
        )
    }

    /// Adds an alert, unless there is one of its subject. Returns whether it was added.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn add_alert(&self, alert: &NewAlert) -> Result<bool, DatabaseError> {
        self.of_side(|driver| driver.add_alert(alert))
    }

    /// The alerts that are due at this time, in seconds since 1970; the longest due first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn due_alerts(&self, now: i64, most: u32) -> Result<Vec<PendingAlert>, DatabaseError> {
        self.of_side(|driver| driver.due_alerts(now, most))
    }

    /// Notes the end of an attempt to deliver an alert.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_attempt(
        &self,
        alert: &PendingAlert,
        end: &AttemptEnd,
        now: i64,
    ) -> Result<(), DatabaseError> {
        self.of_side(|driver| driver.end_attempt(alert, end, now))
    }

    /// How the alerts are.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn alert_summary(&self) -> Result<AlertSummary, DatabaseError> {
        self.of_side(|driver| driver.alert_summary())
    }

    /// The names of the upstreams that alerts were about, with the kind of each alert, the oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn told_upstreams(&self) -> Result<Vec<(String, String)>, DatabaseError> {
        self.of_side(|driver| driver.told_upstreams())
    }
}

fn open_spool(
    config: &SpoolConfig,
    observer: &DatabaseObserver,
) -> Result<WriterSpool, DatabaseError> {
    let failed = |error: SpoolError| match error.source.kind() {
        std::io::ErrorKind::ResourceBusy => DatabaseError::SpoolInUse(error),
        _ => DatabaseError::Spool(error),
    };
    let usage = Spool::open(config).map_err(failed)?;
    let (audit, waiting, damaged) = AuditSpool::open(&config.folder).map_err(failed)?;
    if let Some(damaged) = damaged {
        observer(DatabaseEvent::SpoolDamaged {
            file: &damaged.path,
            lines: damaged.count,
        });
    }
    Ok(WriterSpool {
        usage,
        audit,
        waiting,
    })
}

/// Asks a connection, which is opened where there is none. One that failed is not used again.
fn ask_with<D: ?Sized, T>(
    connection: &Mutex<Option<Box<D>>>,
    open: impl FnOnce() -> Result<Box<D>, DatabaseError>,
    ask: impl FnOnce(&mut D) -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let mut connection = lock(connection);
    let mut driver = match connection.take() {
        Some(driver) => driver,
        None => open()?,
    };
    let answer = ask(&mut *driver)?;
    *connection = Some(driver);
    Ok(answer)
}

#[cfg(test)]
mod tests;
