//! Opens the database of usage at start, closes it at the end, and logs what happens to it.

use std::time::Duration;

use crate::cli::start_error::StartError;
use crate::observe::log::{Event, Log};
use crate::store::config::UsageConfig;
use crate::store::database::{Database, DatabaseEvent, DatabaseUrl, KeepFor};

/// The longest time to write what waits at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the database, and makes it where it is missing.
pub(super) fn open(
    url: &DatabaseUrl,
    usage: &UsageConfig,
    log: &Log,
) -> Result<Database, StartError> {
    let keep_for = KeepFor {
        records: usage.records,
        sums: usage.sums,
    };
    let gateway = rustix::system::uname();
    let gateway = gateway.nodename().to_string_lossy();
    let instance = random_name().map_err(|error| {
        StartError::System("random numbers".into(), std::io::Error::other(error))
    })?;
    let log = log.clone();
    let observer = Box::new(move |event: DatabaseEvent<'_>| record_event(&log, &event));
    Database::open(url, &gateway, &instance, keep_for, observer).map_err(StartError::Database)
}

/// Writes what waits, and ends the writer.
pub(super) fn stop(database: &Database, log: &Log) {
    if !database.stop(STOP_TIMEOUT) {
        let status = database.status();
        let message = "usage that was not written yet is lost";
        log.event(
            Event::error("database")
                .with("message", message)
                .with("reason", status.error.unwrap_or_default()),
        );
    }
}

/// A text that no other start of a gateway has.
fn random_name() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

fn record_event(log: &Log, event: &DatabaseEvent<'_>) {
    match event {
        DatabaseEvent::Written { .. } => {}
        DatabaseEvent::Up => {
            log.event(Event::info("database").with("message", "can be written again"))
        }
        DatabaseEvent::Down(error) => {
            let message = "cannot be written; usage waits in memory";
            log.event(
                Event::warn("database")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
        DatabaseEvent::NotDeleted(error) => {
            let message = "old usage could not be deleted";
            log.event(
                Event::warn("database")
                    .with("message", message)
                    .with("reason", error.to_string()),
            );
        }
    }
}
