//! Long work over many keys, in steps. After each step it calls a [`YieldPoint`], by which the caller decides whether the
//! thread yields its core. This module knows neither the clock nor the scheduler.

/// Called between two steps of microseconds each, on every thread that takes part in the work.
pub type YieldPoint = fn();

/// For work that holds up no other thread.
pub const NO_YIELD: YieldPoint = || ();

/// The items, with a yield point at each.
pub fn yield_every<T>(
    items: impl IntoIterator<Item = T>,
    yield_point: YieldPoint,
) -> impl Iterator<Item = T> {
    items.into_iter().inspect(move |_| yield_point())
}

/// Drops the items one by one, with a yield point at each.
pub fn drop_incrementally<T>(items: impl IntoIterator<Item = T>, yield_point: YieldPoint) {
    yield_every(items, yield_point).for_each(drop);
}
