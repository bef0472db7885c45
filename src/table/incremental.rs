//! Long work in steps.

/// Called by each thread that does long work here, between steps of microseconds: the place to let other threads run.
pub type Pause = fn();

/// For whoever is in nobody's way.
pub const WITHOUT_PAUSE: Pause = || ();

/// The items, with a pause at each.
pub fn paced<T>(items: impl IntoIterator<Item = T>, pause: Pause) -> impl Iterator<Item = T> {
    items.into_iter().inspect(move |_| pause())
}

/// Drops the items, with a pause at each.
pub fn forget<T>(items: impl IntoIterator<Item = T>, pause: Pause) {
    paced(items, pause).for_each(drop);
}
