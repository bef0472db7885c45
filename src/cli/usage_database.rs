//! Opens the database of usage at start, closes it at the end, and logs what happens to it.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::cli::start_error::StartError;
use crate::observe::log::{Event, Log};
use crate::observe::metrics::Metrics;
use crate::policy::fleet_link::{FleetLink, LimitsUnavailable};
use crate::runtime::wall_clock;
use crate::store::audit::{COMPARED_ROWS, differences_at_start};
use crate::store::config::{AuditConfig, Config, UsageConfig};
use crate::store::database::{
    AuditQuery, Database, DatabaseEvent, DatabaseUrl, GatewayIdentity, GatewayStart, IfNotWritten,
    KeepFor,
};
use crate::store::from_database;
use crate::store::shared_limits::{LeaseEvent, SharedLimits};
use crate::table::Table;

/// The longest time to write what waits at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the database, and makes it where it is missing.
pub(super) fn open(
    url: &DatabaseUrl,
    gateway: &GatewayIdentity,
    (usage, audit): (&UsageConfig, &AuditConfig),
    has_key_copy: bool,
    log: &Log,
    metrics: &Metrics,
) -> Result<Database, StartError> {
    let keep_for = KeepFor {
        records: usage.records,
        sums: usage.sums,
        audit: audit.keep,
    };
    metrics
        .has_database()
        .map_err(|error| StartError::System("metrics".into(), std::io::Error::other(error)))?;
    let (log, metrics) = (log.clone(), metrics.clone());
    let observer = Box::new(move |event: DatabaseEvent<'_>| record_event(&log, &metrics, &event));
    let GatewayIdentity { name, instance, .. } = gateway;
    let start = GatewayStart {
        spool: usage.spool.as_ref(),
        has_key_copy,
    };
    Database::open_for_gateway(
        url,
        &audit.key_file,
        start,
        name,
        instance,
        keep_for,
        observer,
    )
    .map_err(StartError::Database)
}

/// Shares the limits of keys and accounts with the other gateways of the database, where there can be any.
pub(super) fn share_limits(
    database: &Arc<Database>,
    instance: &str,
    link: FleetLink,
    zone: &TimeZone,
    log: &Log,
    metrics: &Metrics,
) -> Result<Option<Arc<SharedLimits>>, StartError> {
    let failed = |error| StartError::System("shared limits".into(), error);
    let observer = {
        let (log, metrics, unavailable) = (log.clone(), metrics.clone(), link.unavailable());
        Box::new(move |event: LeaseEvent<'_>| record_leases(&log, &metrics, unavailable, &event))
    };
    let shared = SharedLimits::start(database, instance.to_owned(), link, zone.clone(), observer)
        .map_err(failed)?;
    if shared.is_some() {
        let registered = metrics.has_shared_limits();
        registered.map_err(|error| failed(std::io::Error::other(error)))?;
    }
    Ok(shared)
}

fn record_leases(
    log: &Log,
    metrics: &Metrics,
    unavailable: LimitsUnavailable,
    event: &LeaseEvent<'_>,
) {
    match event {
        LeaseEvent::Renewed { holders, took } => {
            metrics.leases_renewed(*holders, took.as_secs_f64());
        }
        LeaseEvent::Away(error) => {
            metrics.leases_up(false);
            let message = match unavailable {
                LimitsUnavailable::LocalShare => {
                    "leases cannot be renewed; once they are used up, limits are on the local share"
                }
                LimitsUnavailable::Refuse => {
                    "leases cannot be renewed; once they are used up, requests of limited keys are refused"
                }
            };
            log.event(
                Event::warn("limits")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
        LeaseEvent::Back => {
            metrics.leases_up(true);
            let message = "leases are renewed again";
            log.event(Event::info("limits").with("message", message));
        }
    }
}

/// Opens the database for a command that works on it directly, without a gateway.
pub(super) fn open_for_command(config: &Config) -> Result<Database, StartError> {
    let url = config.database.as_ref().ok_or_else(|| {
        StartError::System(
            "the database".into(),
            std::io::Error::other("there is none"),
        )
    })?;
    let keep_for = KeepFor {
        records: config.usage.records,
        sums: config.usage.sums,
        audit: config.audit.keep,
    };
    let command = GatewayIdentity::new(&config.gateway_name, wall_clock::now());
    let command = command.map_err(|error| {
        StartError::System("random numbers".into(), std::io::Error::other(error))
    })?;
    Database::open(
        url,
        &config.audit.key_file,
        &command.name,
        &command.instance,
        keep_for,
        Box::new(|_| {}),
    )
    .map_err(StartError::Database)
}

/// Ends the writer of a command's database. What it was asked to write is written or was refused by then.
pub(super) fn stop_quietly(database: &Database) {
    database.stop(STOP_TIMEOUT);
}

/// Puts the accounts into force, before the first key can be used. Where the server of the database cannot be reached,
/// keys with an account wait until it can; with a copy of the keys also where it refuses the gateway.
pub(super) fn load_accounts(
    database: &Database,
    table: &Table,
    has_key_copy: bool,
    log: &Log,
) -> Result<(), StartError> {
    match from_database::load_accounts(database, table) {
        Ok(()) => Ok(()),
        Err(error) if error.is_outlasted(has_key_copy) => {
            table.await_accounts();
            let message = "the accounts cannot be read; until they are, the gateway is not ready, and keys with an account \
                           are refused";
            log.event(
                Event::error("database")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
            Ok(())
        }
        Err(error) => Err(StartError::Database(error)),
    }
}

/// Counts on where the last start ended. Returns whether all was read of what a start takes over; the rest is read later.
pub(super) fn restore_key_uses(
    database: &Database,
    table: &Table,
    has_key_copy: bool,
) -> Result<bool, StartError> {
    if !table.knows_accounts() {
        return Ok(false);
    }
    match from_database::restore_key_uses(database, table) {
        Ok(()) => Ok(true),
        Err(error) if error.is_outlasted(has_key_copy) => Ok(false),
        Err(error) => Err(StartError::Database(error)),
    }
}

/// Compares the key file with the newest audit rows. What differs is logged and has a row. In a database that gateways
/// share, the newest row of a key may be about the key file of another gateway, and nothing is compared.
pub(super) fn compare_keys(
    database: &Database,
    table: &Table,
    log: &Log,
) -> Result<(), StartError> {
    if database.is_shared() {
        return Ok(());
    }
    let query = AuditQuery {
        limit: COMPARED_ROWS,
        ..AuditQuery::default()
    };
    let rows = database.audit_rows(&query).map_err(StartError::Database)?;
    let differences = differences_at_start(&rows, table);
    for difference in &differences {
        let message = "the key file has not what the newest audit row of this key says; the gateway was killed before it \
                       wrote the file, or the file was changed while the gateway was stopped";
        log.event(
            Event::warn("audit")
                .with("message", message)
                .with("key_id", difference.target.clone()),
        );
    }
    if !differences.is_empty() {
        // What may wait is never refused.
        let _ = database.audit(differences, IfNotWritten::Wait).wait();
    }
    Ok(())
}

/// Takes this gateway out of the list of those that share the database, writes what waits, and ends the writer.
pub(super) fn stop(database: &Database, gateway: &GatewayIdentity, log: &Log) {
    if database.status().up {
        // If it fails, the others see a gateway that does not report any more.
        let _ = database.leave_gateways(&gateway.instance);
    }
    if !database.stop(STOP_TIMEOUT) {
        let reason = database.status().error.unwrap_or_default();
        let spooled = database.spooled_requests();
        let lost = database.unwritten_requests() - spooled;
        let of = |requests| match requests {
            1 => "1 request".to_owned(),
            requests => format!("{requests} requests"),
        };
        if spooled > 0 {
            let message = format!(
                "could not be written; the usage of {} waits in the spool, and is written after the next start",
                of(spooled)
            );
            log.event(
                Event::warn("database")
                    .with("message", message)
                    .with("reason", reason.clone()),
            );
        }
        if lost > 0 || spooled == 0 {
            let message = format!("could not be written; the usage of {} is lost", of(lost));
            log.event(
                Event::error("database")
                    .with("message", message)
                    .with("reason", reason),
            );
        }
    }
}

fn record_event(log: &Log, metrics: &Metrics, event: &DatabaseEvent<'_>) {
    match event {
        DatabaseEvent::Written { took, .. } => metrics.database_write(took.as_secs_f64()),
        DatabaseEvent::Up => {
            log.event(Event::info("database").with("message", "can be written again"))
        }
        DatabaseEvent::Down(error) => {
            let message =
                "cannot be written; usage waits, and changes that give access are refused";
            log.event(
                Event::warn("database")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
        DatabaseEvent::AuditWritten { rows } => {
            let message = "audit rows that waited are written";
            log.event(
                Event::info("audit")
                    .with("message", message)
                    .with("rows", *rows),
            );
        }
        DatabaseEvent::AuditBroken { n } => {
            let message = "the newest audit row is not as it was written, or the file of the audit key is another one; \
                           run keygate audit verify";
            log.event(Event::error("audit").with("message", message).with("n", *n));
        }
        DatabaseEvent::SpoolDown(error) => {
            let message = "the spool cannot be read or written; what cannot be written there waits in memory: make room on \
                           its disk, and give the folder to the gateway's user";
            log.event(
                Event::warn("spool")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
        DatabaseEvent::SpoolUp => {
            log.event(Event::info("spool").with("message", "can be written again"))
        }
        DatabaseEvent::SpoolDamaged { file, lines } => {
            let message =
                "lines in a file of the spool were cut short or changed, and are left out";
            log.event(
                Event::warn("spool")
                    .with("message", message)
                    .with("file", file.display().to_string())
                    .with("lines", *lines),
            );
        }
        DatabaseEvent::NotDeleted(error) => {
            let message = "old rows could not be deleted";
            log.event(
                Event::warn("database")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
    }
}
