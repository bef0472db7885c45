//! What each kind of database can do. A second kind is a second implementation of [`Driver`].

use std::collections::BTreeMap;

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

    fn records(&mut self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError>;

    fn key_uses(&mut self) -> Result<Vec<StoredKeyUse>, DatabaseError>;
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
