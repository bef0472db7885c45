//! Audit rows in PostgreSQL: one chain of all gateways. Whoever adds rows holds a lock, and goes on behind the row that is the
//! last in the table.

use tokio_postgres::Row;

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, AuditRow, ChangeOrigin};
use crate::policy::audit_chain::cut_text;
use crate::store::database::driver::{AuditChain, AuditCut};
use crate::store::database::error::DatabaseError;
use crate::store::database::people::statement;
use crate::store::database::postgres::advisory_lock::AdvisoryLock;
use crate::store::database::postgres::connection::Work;
use crate::store::database::postgres::error::CallError;
use crate::store::database::postgres::url::PostgresUrl;
use crate::store::database::postgres::value::ColumnKind::{self, Integer, Text};
use crate::store::database::postgres::{Appended, Postgres};
use crate::store::database::statements::{self, SqlValue};

/// Rows behind the last own one, of the same time, that are looked through for rows whose answer was lost.
const MOST_COMPARED: i64 = 10_000;
/// The columns of a row, in their order.
const ROW: [ColumnKind; 13] = [
    Integer, Integer, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text,
];
/// Rows that are fetched at once.
const FETCHED: u32 = 1_000;

impl Postgres {
    pub(crate) fn append(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> Result<Vec<AuditMark>, DatabaseError> {
        let url = self.connection.url().clone();
        let is_sure = match std::mem::replace(&mut self.appended, Appended::Unsure) {
            Appended::Nothing => true,
            Appended::To(last) => last == chain.last,
            Appended::Unsure => false,
        };
        let marks = self.connection.transaction(async |work| {
            work.lock(AdvisoryLock::Audit).await?;
            let mut marks = match is_sure {
                true => Vec::new(),
                false => written_before(work, entries, chain).await?,
            };
            let last = last_mark(work, chain, &url).await?;
            let rows = chain.rows_behind(&entries[marks.len()..], &last);
            marks.extend(add(work, rows).await?);
            Ok(marks)
        })?;
        if let Some(last) = marks.last() {
            chain.last = last.clone();
        }
        self.appended = Appended::To(chain.last.clone());
        Ok(marks)
    }

    pub(crate) fn cut(
        &mut self,
        cut: &AuditCut,
        chain: &mut AuditChain,
    ) -> Result<u64, DatabaseError> {
        let url = self.connection.url().clone();
        let done = self.connection.transaction(async |work| {
            work.lock(AdvisoryLock::Audit).await?;
            let oldest = work
                .query(&statement(statements::FIRST_AUDIT_TIME, []))
                .await?;
            let oldest: Option<i64> = oldest.first().map(|row| row.try_get(0)).transpose()?;
            if oldest.is_none_or(|at| at >= cut.due) {
                return Ok((0, Vec::new()));
            }
            let values = [cut.before, cut.most.into()].map(SqlValue::Integer);
            let found = work
                .query(&statement(statements::AUDIT_CUT, values))
                .await?;
            let Some(found) = found.first() else {
                return Ok((0, Vec::new()));
            };
            let last = mark(found)?;
            let entry = AuditEntry {
                at: cut.now,
                origin: ChangeOrigin::gateway(),
                action: AuditAction::Cut,
                target: None,
                account: None,
                before: None,
                after: Some(cut_text(&last)),
            };
            let newest = last_mark(work, chain, &url).await?;
            let marks = add(work, chain.rows_behind(&[entry], &newest)).await?;
            let delete = statement(statements::DELETE_AUDIT, [SqlValue::Integer(last.n)]);
            Ok((work.execute(&delete).await?, marks))
        });
        let (deleted, marks) = done?;
        if let Some(last) = marks.into_iter().next_back() {
            chain.last = last;
            self.appended = Appended::To(chain.last.clone());
        }
        Ok(deleted)
    }

    pub(crate) fn walk(&mut self, visit: &mut dyn FnMut(AuditRow)) -> Result<(), DatabaseError> {
        self.connection.transaction(async |work| {
            // A cursor sees the rows of one instant, and holds a part of them in memory.
            let cursor = format!("DECLARE rows CURSOR FOR {}", statements::ALL_AUDIT_ROWS);
            work.execute(&statement(&cursor, [])).await?;
            let fetch = statement(&format!("FETCH {FETCHED} FROM rows"), []);
            loop {
                let rows = work.query(&fetch).await?;
                if rows.is_empty() {
                    return Ok(());
                }
                for found in &rows {
                    visit(row(found)?);
                }
            }
        })
    }
}

/// Where the chain goes on: behind the last row in the table, whichever gateway wrote it. If rows are missing there, it goes on
/// behind the last own one, so that the gap shows.
async fn last_mark(
    work: &Work<'_>,
    chain: &AuditChain,
    url: &PostgresUrl,
) -> Result<AuditMark, CallError> {
    let found = work
        .query(&statement(statements::LAST_AUDIT_ROW, []))
        .await?;
    let found = found.first().map(row).transpose()?;
    let Some(found) = found.filter(|found| found.n > chain.last.n) else {
        return Ok(chain.last.clone());
    };
    // Rows of two keys would make a chain that neither key verifies.
    if !chain.key.admits(&found) {
        return Err(DatabaseError::OtherAuditKey {
            place: url.place(),
            n: found.n,
        }
        .into());
    }
    Ok(AuditMark {
        n: found.n,
        hash: found.hash,
    })
}

/// The first of these entries that are in the table already: their answer was lost. Other gateways may have written rows
/// in between.
async fn written_before(
    work: &Work<'_>,
    entries: &[AuditEntry],
    chain: &AuditChain,
) -> Result<Vec<AuditMark>, CallError> {
    let sql = format!(
        "SELECT * FROM ({}) AS rows WHERE n > $1 AND at BETWEEN $2 AND $3 ORDER BY n LIMIT $4",
        statements::ALL_AUDIT_ROWS
    );
    let times = entries.iter().map(|entry| entry.at);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return Ok(Vec::new());
    };
    let values = [chain.last.n, first, last, MOST_COMPARED].map(SqlValue::Integer);
    let mut marks = Vec::new();
    for found in &work.query(&statement(&sql, values)).await? {
        let Some(entry) = entries.get(marks.len()) else {
            break;
        };
        let found = row(found)?;
        // The row that this entry has at that place.
        let before = AuditMark {
            n: found.n.saturating_sub(1),
            hash: found.previous_hash.clone(),
        };
        if chain.key.row(entry, &before) == found {
            marks.push(AuditMark {
                n: found.n,
                hash: found.hash,
            });
        }
    }
    Ok(marks)
}

async fn add(work: &Work<'_>, rows: Vec<AuditRow>) -> Result<Vec<AuditMark>, CallError> {
    let mark = |row: &AuditRow| AuditMark {
        n: row.n,
        hash: row.hash.clone(),
    };
    let marks = rows.iter().map(mark).collect();
    let rows = rows.into_iter().map(row_values);
    work.add(statements::ADD_AUDIT_ROW, &ROW, rows).await?;
    Ok(marks)
}

fn row_values(row: AuditRow) -> [SqlValue; 13] {
    let AuditRow {
        n,
        at,
        actor,
        via,
        action,
        target,
        account,
        before,
        after,
        address,
        request_id,
        previous_hash,
        hash,
    } = row;
    let optional = |value: Option<String>| value.map_or(SqlValue::Null, SqlValue::Text);
    [
        SqlValue::Integer(n),
        SqlValue::Integer(at),
        SqlValue::Text(actor),
        SqlValue::Text(via),
        SqlValue::Text(action),
        optional(target),
        optional(account),
        optional(before),
        optional(after),
        optional(address),
        optional(request_id),
        SqlValue::Text(previous_hash),
        SqlValue::Text(hash),
    ]
}

fn mark(row: &Row) -> Result<AuditMark, CallError> {
    Ok(AuditMark {
        n: row.try_get(0)?,
        hash: row.try_get(1)?,
    })
}

pub(crate) fn row(row: &Row) -> Result<AuditRow, CallError> {
    Ok(AuditRow {
        n: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        via: row.try_get(3)?,
        action: row.try_get(4)?,
        target: row.try_get(5)?,
        account: row.try_get(6)?,
        before: row.try_get(7)?,
        after: row.try_get(8)?,
        address: row.try_get(9)?,
        request_id: row.try_get(10)?,
        previous_hash: row.try_get(11)?,
        hash: row.try_get(12)?,
    })
}
