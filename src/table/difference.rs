//! What a new table changes.

use std::sync::Arc;

use crate::table::entry::Entry;
use crate::table::incremental::{YieldPoint, drop_incrementally};

/// What a new table changes. It may hold the last of many keys, and takes its time to free them.
#[derive(Clone, Debug)]
pub struct Difference {
    /// In the new table only.
    pub added: Vec<Arc<Entry>>,
    /// In the old table only.
    pub removed: Vec<Arc<Entry>>,
    /// In both; the new record.
    pub changed: Vec<Arc<Entry>>,
    /// No key changes, but their order does.
    pub reordered: bool,
    yield_point: YieldPoint,
}

impl Difference {
    pub(crate) fn none(yield_point: YieldPoint) -> Self {
        Self {
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            reordered: false,
            yield_point,
        }
    }

    /// Whether no key changes; their order may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Whether there is something to swap for.
    #[must_use]
    pub fn changes_table(&self) -> bool {
        self.reordered || !self.is_empty()
    }
}

impl Drop for Difference {
    fn drop(&mut self) {
        for keys in [&mut self.added, &mut self.removed, &mut self.changed] {
            drop_incrementally(keys.drain(..), self.yield_point);
        }
    }
}
