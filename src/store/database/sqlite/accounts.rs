//! Accounts, in SQLite.

use rusqlite::params;

use crate::store::database::accounts::AccountDriver;
use crate::store::database::error::DatabaseError;
use crate::store::database::sqlite::{Sqlite, dialect};
use crate::store::database::statements::{self, Statement};

impl AccountDriver for Sqlite {
    fn accounts(&mut self) -> Result<Vec<(String, String)>, DatabaseError> {
        let statement = Statement {
            sql: statements::ACCOUNTS.to_owned(),
            values: Vec::new(),
        };
        self.rows(&statement, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    fn put_account(&mut self, id: &str, rules: &str) -> Result<(), DatabaseError> {
        let written = self
            .connection
            .execute(&dialect(statements::PUT_ACCOUNT), params![id, rules]);
        written.map(drop).map_err(|error| self.error(error))
    }

    fn delete_account(&mut self, id: &str) -> Result<(), DatabaseError> {
        let deleted = self
            .connection
            .execute(&dialect(statements::DELETE_ACCOUNT), params![id]);
        deleted.map(drop).map_err(|error| self.error(error))
    }

    fn accounts_revision(&mut self) -> Result<Option<i64>, DatabaseError> {
        Ok(None)
    }
}
