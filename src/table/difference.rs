//! The difference between the current table and a new one.

use std::sync::Arc;

use crate::table::entry::Entry;
use crate::table::incremental::{YieldPoint, drop_incrementally};

/// What a new table changes. It may hold the last reference to many keys, so it drops them incrementally.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Only in the new table.
    pub added: Vec<Arc<Entry>>,
    /// Only in the old table.
    pub removed: Vec<Arc<Entry>>,
    /// In both, with different fields; this is the new entry.
    pub changed: Vec<Arc<Entry>>,
    /// The old entries of `changed`, in the same order.
    pub before: Vec<Arc<Entry>>,
    /// No key changes, but the order of the keys does.
    pub reordered: bool,
    yield_point: YieldPoint,
}

impl Difference {
    pub(crate) fn none(yield_point: YieldPoint) -> Self {
        Self {
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            before: Vec::new(),
            reordered: false,
            yield_point,
        }
    }

    /// Whether no key changes. The order may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Whether a swap is needed.
    #[must_use]
    pub fn changes_table(&self) -> bool {
        self.reordered || !self.is_empty()
    }
}

impl Drop for Difference {
    fn drop(&mut self) {
        let Self {
            added,
            removed,
            changed,
            before,
            reordered: _,
            yield_point: _,
        } = self;
        for keys in [added, removed, changed, before] {
            drop_incrementally(keys.drain(..), self.yield_point);
        }
    }
}
