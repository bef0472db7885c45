//! The clock that never goes back, which limits count by. The lower floors never read it: their callers pass the time in.

use std::sync::LazyLock;
use std::time::Instant;

use crate::policy::rate_limit::Monotonic;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub(crate) fn monotonic_now() -> Monotonic {
    let start = *START;
    let since = Instant::now().saturating_duration_since(start);
    Monotonic::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
