//! The gateways that share the database: what each reports of itself, and who has reported when.
//!
//! Ages are by the database's clock, so that the clocks of the gateways need not agree. A database that only one gateway
//! has keeps none of this.

use std::sync::atomic::Ordering;

use crate::policy::time::UnixTime;
use crate::store::database::Database;
use crate::store::database::error::DatabaseError;
use crate::store::database::queue::lock;

/// A gateway that has not reported for longer is not seen, in milliseconds. It reports every two seconds.
pub(crate) const NOT_SEEN_AFTER: i64 = 10_000;

/// Which gateway this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayIdentity {
    /// Its name, from the config.
    pub name: String,
    /// A text that no other start of a gateway has.
    pub instance: String,
    /// When it started, by its own clock.
    pub started_at: UnixTime,
}

impl GatewayIdentity {
    /// That of a start.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(name: &str, started_at: UnixTime) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self {
            name: name.to_owned(),
            instance: format!("{:032x}", u128::from_le_bytes(bytes)),
            started_at,
        })
    }
}

/// What a gateway reports of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayReport {
    /// Which one it is.
    pub gateway: GatewayIdentity,
    /// The version that it runs.
    pub version: String,
    /// The database's revision of the keys that is in force there; None where they come from a file.
    pub revision: Option<u64>,
    /// It has seen changes that the database lacks, so that the revision is one of another history.
    pub database_behind: bool,
    /// How long the last change of another gateway took from its commit until it was in force there.
    pub lag_ms: Option<i64>,
    /// Requests that run there.
    pub in_flight: i64,
}

/// A gateway as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenGateway {
    /// Its last report.
    pub report: GatewayReport,
    /// When that came.
    pub seen_at: UnixTime,
    /// How long ago that was, in milliseconds.
    pub unseen_ms: i64,
}

impl SeenGateway {
    /// Whether it has reported of late.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.unseen_ms <= NOT_SEEN_AFTER
    }
}

/// All gateways that have reported within a day, as they are at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayList {
    /// The newest revision of the keys; None where no gateway has its keys from the database.
    pub revision: Option<u64>,
    /// The gateways, by name.
    pub gateways: Vec<SeenGateway>,
}

impl GatewayList {
    /// How many gateways are seen.
    #[must_use]
    pub fn seen(&self) -> usize {
        let seen = self.gateways.iter().filter(|gateway| gateway.is_seen());
        seen.count()
    }

    /// The names of the gateways that are seen and have not put a revision into force, apart from one of them.
    #[must_use]
    pub fn behind(&self, revision: u64, apart_from: &str) -> Vec<&str> {
        let is_behind = |gateway: &&SeenGateway| {
            let report = &gateway.report;
            let has_it =
                !report.database_behind && report.revision.is_some_and(|seen| seen >= revision);
            gateway.is_seen() && !has_it && report.gateway.instance != apart_from
        };
        let behind = self.gateways.iter().filter(is_behind);
        behind
            .map(|gateway| gateway.report.gateway.name.as_str())
            .collect()
    }
}

/// What each kind of database can do for gateways that share it.
pub(crate) trait GatewayDriver: Send {
    /// Notes the report of a gateway in place of its last one, and forgets gateways that have not reported for a day.
    fn report_gateway(&mut self, report: &GatewayReport) -> Result<(), DatabaseError>;

    /// The gateways. None: no other gateway has this database.
    fn gateways(&mut self) -> Result<Option<GatewayList>, DatabaseError>;

    fn remove_gateway(&mut self, instance: &str) -> Result<(), DatabaseError>;
}

impl Database {
    /// Tells the other gateways how this one is. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn report_gateway(&self, report: &GatewayReport) -> Result<(), DatabaseError> {
        let reported = self.of_side(|driver| match self.has_left.load(Ordering::Relaxed) {
            // A report that comes after the leave would keep this gateway in the list.
            true => Ok(()),
            false => driver.report_gateway(report),
        });
        *lock(&self.report_error) = reported.as_ref().err().map(ToString::to_string);
        reported
    }

    /// The gateways that share the database. None: no other gateway has it. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn gateways(&self) -> Result<Option<GatewayList>, DatabaseError> {
        self.of_side(|driver| driver.gateways())
    }

    /// Takes this gateway out of the list, since it ends. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn leave_gateways(&self, instance: &str) -> Result<(), DatabaseError> {
        self.has_left.store(true, Ordering::Relaxed);
        self.of_side(|driver| driver.remove_gateway(instance))
    }
}
