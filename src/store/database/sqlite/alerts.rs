//! Alerts in SQLite.

use rusqlite::params;

use crate::policy::alert::{UPSTREAM_DOWN, UPSTREAM_UP, longest_pause};
use crate::store::database::alerts::{
    AlertDriver, AlertSummary, AttemptEnd, KEPT_ALERTS, NewAlert, PendingAlert,
};
use crate::store::database::error::DatabaseError;
use crate::store::database::sqlite::{Sqlite, count, dialect};
use crate::store::database::statements::{self, SqlValue, Statement};

impl AlertDriver for Sqlite {
    fn add_alert(&mut self, alert: &NewAlert) -> Result<bool, DatabaseError> {
        let NewAlert {
            id,
            kind,
            about,
            subject,
            body,
            created_at,
        } = alert;
        let add = || -> rusqlite::Result<usize> {
            self.connection.execute(
                &dialect(statements::DELETE_ALERTS),
                params![created_at.saturating_sub(KEPT_ALERTS)],
            )?;
            self.connection.execute(
                &dialect(statements::ADD_ALERT),
                params![id, kind, about, subject, body, created_at],
            )
        };
        add()
            .map(|added| added > 0)
            .map_err(|error| self.error(error))
    }

    fn due_alerts(&mut self, now: i64, most: u32) -> Result<Vec<PendingAlert>, DatabaseError> {
        // What is due later than any pause ends was noted before the clock was set back.
        let latest = now.saturating_add(longest_pause());
        let statement = Statement {
            sql: statements::DUE_ALERTS.to_owned(),
            values: [now, latest, i64::from(most)]
                .map(SqlValue::Integer)
                .to_vec(),
        };
        self.rows(&statement, |row| {
            Ok(PendingAlert {
                id: row.get(0)?,
                kind: row.get(1)?,
                body: row.get(2)?,
                created_at: row.get(3)?,
                attempts: row.get(4)?,
            })
        })
    }

    fn end_attempt(
        &mut self,
        alert: &PendingAlert,
        end: &AttemptEnd,
        now: i64,
    ) -> Result<(), DatabaseError> {
        let (next_at, error) = match end {
            AttemptEnd::Delivered => (None, None),
            AttemptEnd::Failed { error, next_at } => (*next_at, Some(error)),
        };
        let ended_at = next_at.is_none().then_some(now);
        let values = params![
            alert.id,
            alert.attempts.saturating_add(1),
            next_at,
            ended_at,
            *end == AttemptEnd::Delivered,
            error
        ];
        self.connection
            .execute(&dialect(statements::END_ATTEMPT), values)
            .map(drop)
            .map_err(|error| self.error(error))
    }

    fn alert_summary(&mut self) -> Result<AlertSummary, DatabaseError> {
        let summary = self
            .connection
            .query_row(&dialect(statements::ALERT_SUMMARY), [], |row| {
                Ok(AlertSummary {
                    pending: count(row.get(0)?).unwrap_or(0),
                    last_delivered_at: row.get(1)?,
                    error: row.get(2)?,
                })
            });
        summary.map_err(|error| self.error(error))
    }

    fn told_upstreams(&mut self) -> Result<Vec<(String, String)>, DatabaseError> {
        let statement = Statement {
            sql: statements::TOLD_UPSTREAMS.to_owned(),
            values: [UPSTREAM_DOWN, UPSTREAM_UP]
                .map(|kind| SqlValue::Text(kind.to_owned()))
                .to_vec(),
        };
        self.rows(&statement, |row| Ok((row.get(0)?, row.get(1)?)))
    }
}
