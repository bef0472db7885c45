//! Limits that gateways share, in PostgreSQL. Each call is one statement.

use std::sync::Arc;

use crate::store::database::error::DatabaseError;
use crate::store::database::leases::{
    ChangedLimit, LeaseDriver, SharedLimitId, StoredLimit, StoredLimits,
};
use crate::store::database::people::{statement, text};
use crate::store::database::postgres::connection::{Connection, PostgresServer, Use};
use crate::store::database::postgres::value::ColumnKind::{self, Integer, Text};
use crate::store::database::postgres::value::Columns;
use crate::store::database::statements::SqlValue;

const READ_LEASES: &str = include_str!("read_leases.sql");
const WRITE_LEASES: &str = include_str!("write_leases.sql");
const DELETE_LEASES: &str = include_str!("delete_leases.sql");
/// A state that says nothing: the row stays, so that nobody writes again what he has read before.
const FORGET_LEASES: &str =
    "UPDATE limit_leases SET version = version + 1, state = '' WHERE holder = $1 AND kind = $2";

/// The connection for leases.
pub(crate) struct PostgresLeases(Connection);

impl PostgresServer {
    pub(crate) fn lease_driver(self: &Arc<Self>) -> Box<dyn LeaseDriver> {
        Box::new(PostgresLeases(Connection::new(self, Use::Lease)))
    }
}

impl LeaseDriver for PostgresLeases {
    fn read_limits(&mut self, ids: &[SharedLimitId]) -> Result<StoredLimits, DatabaseError> {
        let rows = ids.iter().map(|id| [text(&id.holder), text(&id.kind)]);
        let columns = all_rows(&[Text, Text], rows);
        let rows = self.0.ask_columns(READ_LEASES, &columns, |row| {
            let (now, gateways): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (holder, kind): (Option<String>, Option<String>) =
                (row.try_get(2)?, row.try_get(3)?);
            let id = holder
                .zip(kind)
                .map(|(holder, kind)| SharedLimitId { holder, kind });
            let version: Option<i64> = row.try_get(4)?;
            let state: Option<String> = row.try_get(5)?;
            Ok((now, gateways, id, version, state))
        })?;
        let mut stored = StoredLimits {
            now: 0,
            gateways: 1,
            limits: Vec::new(),
        };
        for (now, gateways, id, version, state) in rows {
            // Renewals may happen at the latest of them.
            stored.now = stored.now.max(now);
            stored.gateways = u64::try_from(gateways).unwrap_or(1).max(1);
            stored.limits.extend(id.map(|id| StoredLimit {
                id,
                version: version.unwrap_or(0),
                state,
            }));
        }
        Ok(stored)
    }

    fn change_limits(
        &mut self,
        changes: &[ChangedLimit],
    ) -> Result<Vec<SharedLimitId>, DatabaseError> {
        let rows = changes.iter().map(|change| {
            [
                text(&change.id.holder),
                text(&change.id.kind),
                SqlValue::Integer(change.version),
                text(&change.state),
                SqlValue::Integer(change.ends_at),
            ]
        });
        let columns = all_rows(&[Text, Text, Integer, Text, Integer], rows);
        self.0.ask_columns(WRITE_LEASES, &columns, |row| {
            Ok(SharedLimitId {
                holder: row.try_get(0)?,
                kind: row.try_get(1)?,
            })
        })
    }

    fn delete_old_limits(&mut self) -> Result<(), DatabaseError> {
        self.0
            .change(None, &[statement(DELETE_LEASES, [])])
            .map(drop)
    }

    fn forget_limits(&mut self, holder: &str, kinds: &[String]) -> Result<(), DatabaseError> {
        let forget = |kind: &String| statement(FORGET_LEASES, [text(holder), text(kind)]);
        let forget: Vec<_> = kinds.iter().map(forget).collect();
        self.0.change(None, &forget).map(drop)
    }
}

fn all_rows<const N: usize>(
    kinds: &[ColumnKind; N],
    mut rows: impl Iterator<Item = [SqlValue; N]>,
) -> Columns {
    let mut columns = Columns::of(kinds);
    columns.fill(&mut rows, usize::MAX);
    columns
}
