//! The system's clock. Keys expire by it. The lower floors never read it: their callers pass the time in.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::policy::time::UnixTime;

pub(crate) fn now() -> UnixTime {
    unix_time(SystemTime::now())
}

/// A time in whole seconds, rounded down also before 1970.
pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX - 1);
            -before - 1
        }
    };
    UnixTime::from_seconds(seconds)
}
