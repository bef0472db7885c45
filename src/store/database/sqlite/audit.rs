//! Audit rows in SQLite. A transaction that adds some waits until the disk has them, unlike one of usage records.

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, AuditRow, ChangeOrigin};
use crate::policy::audit_chain::cut_text;
use crate::store::database::driver::{AuditChain, AuditCut};
use crate::store::database::sqlite::{Sqlite, dialect};
use crate::store::database::statements;

impl Sqlite {
    pub(crate) fn append(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> rusqlite::Result<Vec<AuditMark>> {
        let marks = self.durably(|transaction| add(transaction, entries, chain))?;
        if let Some(last) = marks.last() {
            chain.last = last.clone();
        }
        Ok(marks)
    }

    pub(crate) fn cut(&mut self, cut: &AuditCut, chain: &mut AuditChain) -> rusqlite::Result<u64> {
        let oldest: Option<i64> = self
            .connection
            .query_row(statements::FIRST_AUDIT_TIME, [], |row| row.get(0))
            .optional()?;
        if oldest.is_none_or(|at| at >= cut.due) {
            return Ok(0);
        }
        let done = self.durably(|transaction| {
            let last = transaction
                .query_row(
                    &dialect(statements::AUDIT_CUT),
                    params![cut.before, cut.most],
                    |row| {
                        Ok(AuditMark {
                            n: row.get(0)?,
                            hash: row.get(1)?,
                        })
                    },
                )
                .optional()?;
            let Some(last) = last else {
                return Ok((0, Vec::new()));
            };
            let entry = AuditEntry {
                at: cut.now,
                origin: ChangeOrigin::gateway(),
                action: AuditAction::Cut,
                target: None,
                account: None,
                before: None,
                after: Some(cut_text(&last)),
            };
            let marks = add(transaction, &[entry], chain)?;
            let deleted =
                transaction.execute(&dialect(statements::DELETE_AUDIT), params![last.n])?;
            Ok((deleted as u64, marks))
        });
        let (deleted, marks) = done?;
        if let Some(last) = marks.into_iter().next_back() {
            chain.last = last;
        }
        Ok(deleted)
    }

    pub(crate) fn last_row(&self) -> rusqlite::Result<Option<AuditRow>> {
        self.connection
            .query_row(statements::LAST_AUDIT_ROW, [], row)
            .optional()
    }

    pub(crate) fn walk(&self, visit: &mut dyn FnMut(AuditRow)) -> rusqlite::Result<()> {
        // One statement sees the rows of one instant.
        let mut statement = self.connection.prepare(statements::ALL_AUDIT_ROWS)?;
        for row in statement.query_map([], row)? {
            visit(row?);
        }
        Ok(())
    }

    /// Runs a transaction that is on disk when this returns. Others are, on this connection, only written.
    fn durably<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let run = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let done = run();
        // If this fails, later transactions only take longer.
        let _ = self.connection.pragma_update(None, "synchronous", "NORMAL");
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.written();
        }
        done
    }
}

fn add(
    transaction: &Transaction<'_>,
    entries: &[AuditEntry],
    chain: &AuditChain,
) -> rusqlite::Result<Vec<AuditMark>> {
    let found = transaction
        .query_row(statements::LAST_AUDIT_ROW, [], row)
        .optional()?;
    let found = found.map_or_else(AuditMark::origin, |row| AuditMark {
        n: row.n,
        hash: row.hash,
    });
    // If rows are missing at the end of the table, the chain goes on behind the last row that was written, so that the
    // gap shows.
    let mut rows = chain.rows(entries);
    let mut marks = Vec::with_capacity(entries.len());
    if found.n > chain.last.n {
        for row in &rows {
            let hash: Option<String> = transaction
                .query_row(&dialect(statements::AUDIT_HASH), params![row.n], |row| {
                    row.get(0)
                })
                .optional()?;
            if hash.as_ref() != Some(&row.hash) {
                break;
            }
            marks.push(AuditMark {
                n: row.n,
                hash: row.hash.clone(),
            });
        }
        // Another gateway may have written more.
        rows = chain.rows_behind(&entries[marks.len()..], &found);
    }
    let mut statement = transaction.prepare(&dialect(&statements::one_row(
        statements::ADD_AUDIT_ROW,
        13,
    )))?;
    for row in rows {
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
        statement.execute(params![
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
        ])?;
        marks.push(AuditMark { n, hash });
    }
    Ok(marks)
}

pub(crate) fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        n: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        via: row.get(3)?,
        action: row.get(4)?,
        target: row.get(5)?,
        account: row.get(6)?,
        before: row.get(7)?,
        after: row.get(8)?,
        address: row.get(9)?,
        request_id: row.get(10)?,
        previous_hash: row.get(11)?,
        hash: row.get(12)?,
    })
}
