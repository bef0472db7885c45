//! Accounts, alerts, budgets and people in PostgreSQL.

use crate::policy::alert::{UPSTREAM_DOWN, UPSTREAM_UP, longest_pause};
use crate::store::database::accounts::AccountDriver;
use crate::store::database::alerts::{
    AlertDriver, AlertSummary, AttemptEnd, KEPT_ALERTS, NewAlert, PendingAlert,
};
use crate::store::database::budgets::{BudgetDriver, BudgetReset};
use crate::store::database::error::DatabaseError;
use crate::store::database::people::{PeopleDriver, SqlRow, statement, text};
use crate::store::database::postgres::Postgres;
use crate::store::database::postgres::value::row_values;
use crate::store::database::statements::{self, SqlValue, Statement};

const BUMP_ACCOUNTS: &str = include_str!("bump_accounts.sql");
const ACCOUNTS_REVISION: &str = include_str!("accounts_revision.sql");
const DUE_ALERTS: &str = include_str!("due_alerts.sql");

/// For so long, in seconds, alerts are those of the gateway that has taken them.
const ALERTS_TAKEN_FOR: i64 = 60;
/// A gateway takes no more at once: each takes up to 10 s.
const MOST_TAKEN: u32 = 5;

impl AccountDriver for Postgres {
    fn accounts(&mut self) -> Result<Vec<(String, String)>, DatabaseError> {
        self.ask_rows(&statement(statements::ACCOUNTS, []), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
    }

    fn put_account(&mut self, id: &str, rules: &str) -> Result<(), DatabaseError> {
        let put = statement(statements::PUT_ACCOUNT, [text(id), text(rules)]);
        self.connection
            .change(None, &[put, statement(BUMP_ACCOUNTS, [])])
            .map(drop)
    }

    fn delete_account(&mut self, id: &str) -> Result<(), DatabaseError> {
        let delete = statement(statements::DELETE_ACCOUNT, [text(id)]);
        self.connection
            .change(None, &[delete, statement(BUMP_ACCOUNTS, [])])
            .map(drop)
    }

    fn accounts_revision(&mut self) -> Result<Option<i64>, DatabaseError> {
        let rows = self.ask(&statement(ACCOUNTS_REVISION, []))?;
        // Without the row, each look finds another revision than none.
        Ok(Some(
            rows.first().and_then(|row| row.number(0)).unwrap_or(0),
        ))
    }
}

impl AlertDriver for Postgres {
    fn add_alert(&mut self, alert: &NewAlert) -> Result<bool, DatabaseError> {
        let NewAlert {
            id,
            kind,
            about,
            subject,
            body,
            created_at,
        } = alert;
        let forget = [SqlValue::Integer(created_at.saturating_sub(KEPT_ALERTS))];
        let add = [
            text(id),
            text(kind),
            text(about),
            text(subject),
            text(body),
            SqlValue::Integer(*created_at),
        ];
        let changed = self.connection.change(
            None,
            &[
                statement(statements::DELETE_ALERTS, forget),
                statement(statements::ADD_ALERT, add),
            ],
        )?;
        Ok(changed.last().is_some_and(|added| *added > 0))
    }

    fn due_alerts(&mut self, now: i64, most: u32) -> Result<Vec<PendingAlert>, DatabaseError> {
        // What is due later than any pause ends was noted before the clock was set back.
        let latest = now.saturating_add(longest_pause());
        let taken_until = now.saturating_add(ALERTS_TAKEN_FOR);
        let most = i64::from(most.min(MOST_TAKEN));
        let values = [now, latest, most, taken_until].map(SqlValue::Integer);
        self.ask_rows(&statement(DUE_ALERTS, values), |row| {
            let attempts: i64 = row.try_get(4)?;
            Ok(PendingAlert {
                id: row.try_get(0)?,
                kind: row.try_get(1)?,
                body: row.try_get(2)?,
                created_at: row.try_get(3)?,
                attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            })
        })
    }

    fn end_attempt(
        &mut self,
        alert: &PendingAlert,
        end: &AttemptEnd,
        now: i64,
    ) -> Result<(), DatabaseError> {
        let number = |number: Option<i64>| number.map_or(SqlValue::Null, SqlValue::Integer);
        let (next_at, error) = match end {
            AttemptEnd::Delivered => (None, None),
            AttemptEnd::Failed { error, next_at } => (*next_at, Some(error)),
        };
        let values = [
            text(&alert.id),
            SqlValue::Integer(alert.attempts.saturating_add(1).into()),
            number(next_at),
            number(next_at.is_none().then_some(now)),
            SqlValue::Integer((*end == AttemptEnd::Delivered).into()),
            error.map_or(SqlValue::Null, |error| text(error)),
        ];
        self.connection
            .change(None, &[statement(statements::END_ATTEMPT, values)])
            .map(drop)
    }

    fn alert_summary(&mut self) -> Result<AlertSummary, DatabaseError> {
        let rows = self.ask(&statement(statements::ALERT_SUMMARY, []))?;
        Ok(rows.first().map_or_else(AlertSummary::default, |row| {
            let pending = row.number(0).unwrap_or(0);
            AlertSummary {
                pending: u64::try_from(pending).unwrap_or(0),
                last_delivered_at: row.number(1),
                error: row.text(2),
            }
        }))
    }

    fn told_upstreams(&mut self) -> Result<Vec<(String, String)>, DatabaseError> {
        let kinds = [UPSTREAM_DOWN, UPSTREAM_UP].map(text);
        self.ask_rows(&statement(statements::TOLD_UPSTREAMS, kinds), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
    }
}

impl BudgetDriver for Postgres {
    fn reset_budget(&mut self, reset: &BudgetReset) -> Result<(), DatabaseError> {
        let BudgetReset {
            key_id,
            unit,
            period,
            reset_at,
            spent,
        } = reset;
        let values = [
            text(key_id),
            text(unit),
            text(period),
            SqlValue::Integer(*reset_at),
            SqlValue::Integer(*spent),
        ];
        self.connection
            .change(None, &[statement(statements::RESET_BUDGET, values)])
            .map(drop)
    }

    fn budget_reset(
        &mut self,
        key_id: &str,
        unit: &str,
        period: &str,
    ) -> Result<Option<(i64, i64)>, DatabaseError> {
        let values = [key_id, unit, period].map(text);
        let rows = self.ask_rows(&statement(statements::BUDGET_RESET, values), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })?;
        Ok(rows.into_iter().next())
    }
}

impl PeopleDriver for Postgres {
    fn ask(&mut self, question: &Statement) -> Result<Vec<SqlRow>, DatabaseError> {
        self.ask_rows(question, row_values)
    }

    fn change(
        &mut self,
        condition: Option<&Statement>,
        statements: &[Statement],
    ) -> Result<Vec<usize>, DatabaseError> {
        self.connection.change(condition, statements)
    }
}
