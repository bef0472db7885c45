//! What gateways share of limits, in a database that they share: read by a gateway, renewed in its memory, and written where
//! nobody else has changed it meanwhile. No lock is held between the two.

use crate::store::database::error::DatabaseError;
use crate::store::database::{Connections, Database};

/// Which limit: of a key or an account, and of which kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedLimitId {
    /// `key/` or `account/` with the id.
    pub holder: String,
    /// The label of the kind.
    pub kind: String,
}

/// What the database has of a limit.
#[derive(Clone, Debug)]
pub struct StoredLimit {
    /// Which one.
    pub id: SharedLimitId,
    /// 0: there is nothing yet.
    pub version: i64,
    /// A [`SharedLimit`](crate::policy::shared_limit::SharedLimit) as JSON.
    pub state: Option<String>,
}

/// The answer to a question for limits.
#[derive(Debug)]
pub struct StoredLimits {
    /// The database's clock, in milliseconds since 1970.
    pub now: i64,
    /// The gateways that were seen in the last 10 s.
    pub gateways: u64,
    /// Those that were asked for.
    pub limits: Vec<StoredLimit>,
}

/// A limit that is changed.
#[derive(Clone, Debug)]
pub struct ChangedLimit {
    /// Which one.
    pub id: SharedLimitId,
    /// The version that was read.
    pub version: i64,
    /// What it is from now on.
    pub state: String,
    /// When nothing of it matters any more, in milliseconds since 1970.
    pub ends_at: i64,
}

/// What a database that gateways share can do for limits.
pub trait LeaseDriver: Send {
    /// What is known of these limits.
    ///
    /// # Errors
    /// The database cannot be read.
    fn read_limits(&mut self, ids: &[SharedLimitId]) -> Result<StoredLimits, DatabaseError>;

    /// Returns those that nobody else has changed since they were read, and that are changed now.
    ///
    /// # Errors
    /// The database cannot be written. It may have been, where the answer was lost.
    fn change_limits(
        &mut self,
        changes: &[ChangedLimit],
    ) -> Result<Vec<SharedLimitId>, DatabaseError>;

    /// Deletes limits of which nothing matters any more.
    ///
    /// # Errors
    /// The database cannot be written.
    fn delete_old_limits(&mut self) -> Result<(), DatabaseError>;

    /// Forgets what is known of a key's or an account's limits of these kinds.
    ///
    /// # Errors
    /// The database cannot be written.
    fn forget_limits(&mut self, holder: &str, kinds: &[String]) -> Result<(), DatabaseError>;
}

impl Database {
    /// What gateways share of a key's budgets is read from the sums again.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn forget_shared(
        &self,
        holder: &str,
        kinds: &[String],
    ) -> Result<(), DatabaseError> {
        match self.lease_driver() {
            Some(mut driver) => driver.forget_limits(holder, kinds),
            None => Ok(()),
        }
    }

    /// A connection for limits of its own; None where other gateways do not share the database.
    #[must_use]
    pub fn lease_driver(&self) -> Option<Box<dyn LeaseDriver>> {
        match &self.connections {
            Connections::Sqlite(_) => None,
            Connections::Postgres(server) => Some(server.lease_driver()),
        }
    }
}
