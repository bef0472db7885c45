//! PostgreSQL: one database for several gateways. All that is particular to its dialect stands in this folder.
//!
//! `url` says where it is, `connection` how connections are made and lost, `migrations` the schema. The other files are
//! what a connection does. A statement runs to its end or to its limit; nobody waits longer for a server that is away.

mod advisory_lock;
mod audit;
pub(crate) mod connection;
mod error;
mod gateways;
pub(crate) mod keys;
mod leases;
mod listen;
mod migrations;
mod side;
mod tls;
pub(crate) mod url;
mod usage;
mod value;

use std::sync::Arc;

use crate::policy::audit::{AuditEntry, AuditMark, AuditRow};
use crate::store::database::audit::AuditQuery;
use crate::store::database::driver::{AuditChain, AuditCut, Driver, Retention, WrittenBatches};
use crate::store::database::error::DatabaseError;
use crate::store::database::people::statement;
pub(crate) use crate::store::database::postgres::connection::PostgresServer;
use crate::store::database::postgres::connection::{Connection, Use};
pub(crate) use crate::store::database::postgres::listen::Listening;
use crate::store::database::query::{RecordsQuery, StoredKeyUse, StoredRecord, SumsQuery, SumsRow};
use crate::store::database::record::Batch;
use crate::store::database::statements;

/// A connection to a database of a server.
pub(crate) struct Postgres {
    connection: Connection,
    appended: Appended,
}

/// What became of the last append of audit rows on this connection.
enum Appended {
    /// There was none.
    Nothing,
    /// This was its last row.
    To(AuditMark),
    /// It had no answer, or was before the start, and its rows may be in the table.
    Unsure,
}

impl Postgres {
    /// A connection that writes. It is made when it is used first.
    pub(crate) fn to_write(server: &Arc<PostgresServer>) -> Self {
        Self {
            connection: Connection::new(server, Use::Write),
            appended: Appended::Nothing,
        }
    }

    /// A connection for questions, which may take longer.
    pub(crate) fn to_read(server: &Arc<PostgresServer>) -> Self {
        Self {
            connection: Connection::new(server, Use::Read),
            ..Self::to_write(server)
        }
    }
}

impl Driver for Postgres {
    fn write(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        self.write_batch(batch)
    }

    fn delete_old(&mut self, retention: &Retention, most: u32) -> Result<u64, DatabaseError> {
        self.delete_rows(retention, most)
    }

    fn sums(&mut self, query: &SumsQuery) -> Result<Vec<SumsRow>, DatabaseError> {
        self.ask_rows(&statements::sums(query), usage::sums_row)
    }

    fn sums_and_batches(
        &mut self,
        query: &SumsQuery,
    ) -> Result<(Vec<SumsRow>, WrittenBatches), DatabaseError> {
        self.ask_sums_and_batches(query)
    }

    fn records(&mut self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError> {
        self.ask_rows(&statements::records(query), usage::stored_record)
    }

    fn key_uses(&mut self) -> Result<Vec<StoredKeyUse>, DatabaseError> {
        let all = statement(statements::KEY_USES, []);
        self.ask_rows(&all, usage::key_use)
    }

    fn may_have_appended(&mut self) {
        self.appended = Appended::Unsure;
    }

    fn append_audit(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> Result<Vec<AuditMark>, DatabaseError> {
        self.append(entries, chain)
    }

    fn cut_audit(&mut self, cut: &AuditCut, chain: &mut AuditChain) -> Result<u64, DatabaseError> {
        self.cut(cut, chain)
    }

    fn audit_rows(&mut self, query: &AuditQuery) -> Result<Vec<AuditRow>, DatabaseError> {
        self.ask_rows(&statements::audit_rows(query), audit::row)
    }

    fn last_audit_row(&mut self) -> Result<Option<AuditRow>, DatabaseError> {
        let last = statement(statements::LAST_AUDIT_ROW, []);
        Ok(self.ask_rows(&last, audit::row)?.pop())
    }

    fn walk_audit(&mut self, visit: &mut dyn FnMut(AuditRow)) -> Result<(), DatabaseError> {
        self.walk(visit)
    }
}
