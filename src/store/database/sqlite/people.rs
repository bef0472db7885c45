//! Persons, invitations and sessions in SQLite: any statement that both dialects share.

use rusqlite::TransactionBehavior;
use rusqlite::types::ValueRef;

use crate::store::database::error::DatabaseError;
use crate::store::database::people::{PeopleDriver, SqlRow};
use crate::store::database::sqlite::{Sqlite, dialect};
use crate::store::database::statements::{SqlValue, Statement};

impl PeopleDriver for Sqlite {
    fn ask(&mut self, statement: &Statement) -> Result<Vec<SqlRow>, DatabaseError> {
        self.rows(statement, |row| {
            let count = row.as_ref().column_count();
            let values = (0..count).map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Integer(number) => SqlValue::Integer(number),
                    ValueRef::Text(text) => {
                        SqlValue::Text(String::from_utf8_lossy(text).into_owned())
                    }
                    // No column is of another type.
                    ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => SqlValue::Null,
                })
            });
            values.collect::<rusqlite::Result<Vec<_>>>().map(SqlRow)
        })
    }

    fn change(
        &mut self,
        condition: Option<&Statement>,
        statements: &[Statement],
    ) -> Result<Vec<usize>, DatabaseError> {
        let mut run = || -> rusqlite::Result<Vec<usize>> {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let run = |statement: &Statement| {
                let values = rusqlite::params_from_iter(&statement.values);
                transaction.execute(&dialect(&statement.sql), values)
            };
            let mut changed = Vec::with_capacity(statements.len() + 1);
            changed.extend(condition.map(run).transpose()?);
            if changed != [0] {
                for statement in statements {
                    changed.push(run(statement)?);
                }
            }
            transaction.commit()?;
            Ok(changed)
        };
        let changed = run();
        changed.map_err(|error| self.error(error))
    }
}
