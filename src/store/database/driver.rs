//! What each kind of database can do. A second kind is a second implementation of [`Driver`].

use std::collections::{BTreeMap, HashMap};

use crate::policy::audit::{AuditEntry, AuditMark, AuditRow};
use crate::policy::audit_chain::ChainKey;
use crate::store::database::audit::AuditQuery;
use crate::store::database::error::DatabaseError;
use crate::store::database::query::{RecordsQuery, StoredKeyUse, StoredRecord, SumsQuery, SumsRow};
use crate::store::database::record::{Batch, DAY, HOUR, SumsMap, UsageSums};
use crate::store::database::statements::SumsScope;

/// One connection to a database. Its calls wait for the disk.
pub(crate) trait Driver: Send {
    /// Adds a batch in one transaction. A batch that was added before is not added again.
    fn write(&mut self, batch: &Batch) -> Result<(), DatabaseError>;

    /// Deletes at most `most` rows of each kind, and returns how many.
    fn delete_old(&mut self, retention: &Retention, most: u32) -> Result<u64, DatabaseError>;

    fn sums(&mut self, query: &SumsQuery) -> Result<Vec<SumsRow>, DatabaseError>;

    /// The sums, and which batches are in them. A kind that does not know this names none.
    fn sums_and_batches(
        &mut self,
        query: &SumsQuery,
    ) -> Result<(Vec<SumsRow>, WrittenBatches), DatabaseError> {
        Ok((self.sums(query)?, WrittenBatches::new()))
    }

    fn records(&mut self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError>;

    fn key_uses(&mut self) -> Result<Vec<StoredKeyUse>, DatabaseError>;

    /// The first rows that are appended wait from before the start, and may be in the table already. This is told before.
    fn may_have_appended(&mut self) {}

    /// Appends rows in one transaction, and returns when they are on disk. `chain` goes on with them. Rows that were
    /// appended before, where only the answer was lost, are not appended again.
    fn append_audit(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> Result<Vec<AuditMark>, DatabaseError>;

    /// Where the oldest row is older than `due`, deletes the rows that are older than `before`, `most` at a time, and
    /// appends the row that says so. Both are in milliseconds since 1970. Returns how many rows were deleted.
    fn cut_audit(&mut self, cut: &AuditCut, chain: &mut AuditChain) -> Result<u64, DatabaseError>;

    fn audit_rows(&mut self, query: &AuditQuery) -> Result<Vec<AuditRow>, DatabaseError>;

    fn last_audit_row(&mut self) -> Result<Option<AuditRow>, DatabaseError>;

    /// Visits all rows in their order, as they are at one instant.
    fn walk_audit(&mut self, visit: &mut dyn FnMut(AuditRow)) -> Result<(), DatabaseError>;
}

/// The number of the last batch of each writer.
pub(crate) type WrittenBatches = HashMap<String, i64>;

/// Where the chain of the audit rows goes on.
#[derive(Clone, Debug)]
pub(crate) struct AuditChain {
    pub(crate) key: ChainKey,
    /// The last row that was written.
    pub(crate) last: AuditMark,
}

impl AuditChain {
    /// The rows of these entries behind the last one that was written.
    pub(crate) fn rows(&self, entries: &[AuditEntry]) -> Vec<AuditRow> {
        self.rows_behind(entries, &self.last)
    }

    /// The rows of these entries behind another row.
    pub(crate) fn rows_behind(&self, entries: &[AuditEntry], last: &AuditMark) -> Vec<AuditRow> {
        let mut last = last.clone();
        let row = |entry: &AuditEntry| {
            let row = self.key.row(entry, &last);
            last = AuditMark {
                n: row.n,
                hash: row.hash.clone(),
            };
            row
        };
        entries.iter().map(row).collect()
    }
}

/// Which audit rows are deleted. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuditCut {
    pub(crate) now: i64,
    /// Rows from before this are deleted, once the oldest is from before `due`.
    pub(crate) before: i64,
    pub(crate) due: i64,
    /// At most so many at a time.
    pub(crate) most: u32,
}

/// What is old enough to be deleted, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) now: i64,
    pub(crate) records_before: i64,
    pub(crate) sums_before: i64,
}

/// What a row of the sums is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SumsRowKey<'s> {
    pub(crate) scope: SumsScope,
    pub(crate) width: i64,
    pub(crate) start: i64,
    pub(crate) subject: &'s str,
    pub(crate) account: &'s str,
    pub(crate) model: &'s str,
    pub(crate) upstream: &'s str,
}

/// The rows that sums are added to: of the hour and of the day, of the key, the account and all. They are in the
/// table's order, which makes writing them faster.
pub(crate) fn grouped_sums(sums: &SumsMap) -> BTreeMap<SumsRowKey<'_>, UsageSums> {
    let mut rows: BTreeMap<SumsRowKey<'_>, UsageSums> = BTreeMap::new();
    for (key, sums) in sums {
        let account = key.account.as_deref().unwrap_or_default();
        for (scope, subject, account) in [
            (SumsScope::Key, &*key.key_id, account),
            (SumsScope::Account, account, ""),
            (SumsScope::All, "", ""),
        ] {
            for width in [HOUR, DAY] {
                let row = SumsRowKey {
                    scope,
                    width,
                    start: key.hour.div_euclid(width) * width,
                    subject,
                    account,
                    model: &key.model,
                    upstream: &key.upstream,
                };
                rows.entry(row).or_default().add(sums);
            }
        }
    }
    rows
}
