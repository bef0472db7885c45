//! Accounts in the database. They are read whole at the start, and written one by one when they are changed.

use serde_json::Value;

use crate::policy::account::AccountRules;
use crate::store::account_json::{account_fields, parse_account};
use crate::store::database::Database;
use crate::store::database::error::DatabaseError;

/// What each kind of database can do for accounts.
pub(crate) trait AccountDriver: Send {
    /// The id and the rules of each account, by id.
    fn accounts(&mut self) -> Result<Vec<(String, String)>, DatabaseError>;

    /// Adds an account, or replaces the one of this id.
    fn put_account(&mut self, id: &str, rules: &str) -> Result<(), DatabaseError>;

    fn delete_account(&mut self, id: &str) -> Result<(), DatabaseError>;

    /// A number that is another one after each change of an account. None: nobody else changes accounts.
    fn accounts_revision(&mut self) -> Result<Option<i64>, DatabaseError>;
}

impl Database {
    /// All accounts. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be read, or a row is not of an account: its keys must not be free of it.
    pub fn accounts(&self) -> Result<Vec<AccountRules>, DatabaseError> {
        let rows = self.of_side(|driver| driver.accounts())?;
        let parsed = rows.into_iter().map(|(id, rules)| {
            let account = parse_account(&rules).map_err(|error| error.to_string());
            let account = account.and_then(|account| match account.id.as_str() == id {
                true => Ok(account),
                false => Err("is of another id".to_owned()),
            });
            account.map_err(|reason| DatabaseError::Account { id, reason })
        });
        parsed.collect()
    }

    /// A number that is another one after each change of an account, also by another gateway. None: no other gateway has this
    /// database. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn accounts_revision(&self) -> Result<Option<i64>, DatabaseError> {
        self.of_side(|driver| driver.accounts_revision())
    }

    /// Adds an account, or replaces the one of its id. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn put_account(&self, account: &AccountRules) -> Result<(), DatabaseError> {
        let rules = Value::from(account_fields(account)).to_string();
        self.of_side(|driver| driver.put_account(account.id.as_str(), &rules))
    }

    /// Deletes an account, if it is there. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn delete_account(&self, id: &str) -> Result<(), DatabaseError> {
        self.of_side(|driver| driver.delete_account(id))
    }
}
