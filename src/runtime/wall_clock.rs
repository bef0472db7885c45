//! The system's clock, by which keys expire. Lower floors never ask it: they are told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::policy::time::UnixTime;

/// The time now.
#[must_use]
pub fn now() -> UnixTime {
    unix_time(SystemTime::now())
}

/// A time in whole seconds; times before 1970 are rounded down too.
#[must_use]
pub fn unix_time(time: SystemTime) -> UnixTime {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX - 1);
            -before - 1
        }
    };
    UnixTime::from_seconds(seconds)
}
