//! What was spent of budgets, in SQLite.

use rusqlite::params;

use crate::store::database::budgets::{BudgetDriver, BudgetReset};
use crate::store::database::error::DatabaseError;
use crate::store::database::sqlite::{Sqlite, dialect};
use crate::store::database::statements::{self, SqlValue, Statement};

impl BudgetDriver for Sqlite {
    fn reset_budget(&mut self, reset: &BudgetReset) -> Result<(), DatabaseError> {
        let BudgetReset {
            key_id,
            unit,
            period,
            reset_at,
            spent,
        } = reset;
        let values = params![key_id, unit, period, reset_at, spent];
        let written = self
            .connection
            .execute(&dialect(statements::RESET_BUDGET), values);
        written.map(drop).map_err(|error| self.error(error))
    }

    fn budget_reset(
        &mut self,
        key_id: &str,
        unit: &str,
        period: &str,
    ) -> Result<Option<(i64, i64)>, DatabaseError> {
        let statement = Statement {
            sql: statements::BUDGET_RESET.to_owned(),
            values: [key_id, unit, period]
                .map(|value| SqlValue::Text(value.to_owned()))
                .to_vec(),
        };
        let rows = self.rows(&statement, |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().next())
    }
}
