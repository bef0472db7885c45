//! What the database keeps of alerts: which were told, which wait to be delivered, and what became of them.
//!
//! Alerts are rare, so they have a connection of their own and no batches: what a call returns is on the disk.

use crate::policy::alert::Alert;
use crate::policy::time::UnixTime;
use crate::store::database::error::DatabaseError;
use crate::store::database::record::DAY;

/// How long an alert is kept after its end, in seconds: as long, it is not told again.
pub(crate) const KEPT_ALERTS: i64 = 400 * DAY;

/// An alert that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAlert {
    /// Its id, which its receivers see.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// The key or the upstream that it is about.
    pub about: String,
    /// A second alert of the same subject is not told.
    pub subject: String,
    /// What receivers get.
    pub body: String,
    /// In seconds since 1970.
    pub created_at: i64,
}

impl NewAlert {
    /// An alert with its id. `gateway` is this gateway's name.
    #[must_use]
    pub fn of(alert: &Alert, id: String, gateway: &str, now: UnixTime) -> Self {
        Self {
            id,
            kind: alert.kind(),
            about: alert.about().to_owned(),
            subject: alert.subject(),
            body: alert.body(gateway, now),
            created_at: now.seconds(),
        }
    }
}

/// An alert that is not delivered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAlert {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// What receivers get.
    pub body: String,
    /// In seconds since 1970.
    pub created_at: i64,
    /// Attempts that failed.
    pub attempts: u32,
}

/// What became of an attempt to deliver an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// It was delivered.
    Delivered,
    /// It was not.
    Failed {
        /// Why not.
        error: String,
        /// When it is tried again, in seconds since 1970; None: it is given up.
        next_at: Option<i64>,
    },
}

/// How the alerts are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSummary {
    /// Alerts that wait to be delivered.
    pub pending: u64,
    /// When one was delivered last, in seconds since 1970.
    pub last_delivered_at: Option<i64>,
    /// Why the newest of those that wait is not delivered.
    pub error: Option<String>,
}

/// What each kind of database can do for alerts.
pub(crate) trait AlertDriver: Send {
    /// Adds an alert, unless there is one of its subject. Returns whether it was added.
    fn add_alert(&mut self, alert: &NewAlert) -> Result<bool, DatabaseError>;

    /// The alerts that are due at this time, the longest due first.
    fn due_alerts(&mut self, now: i64, most: u32) -> Result<Vec<PendingAlert>, DatabaseError>;

    /// Notes the end of an attempt to deliver an alert.
    fn end_attempt(
        &mut self,
        alert: &PendingAlert,
        end: &AttemptEnd,
        now: i64,
    ) -> Result<(), DatabaseError>;

    fn alert_summary(&mut self) -> Result<AlertSummary, DatabaseError>;

    /// The names of the upstreams that alerts were about, with the kind of each alert, the oldest first.
    fn told_upstreams(&mut self) -> Result<Vec<(String, String)>, DatabaseError>;
}
