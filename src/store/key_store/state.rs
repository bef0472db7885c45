//! What the keeper's thread knows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::key::{Key, KeyId};
use crate::store::key_file::Stamp;
use crate::store::key_store::error::Obstacle;
use crate::store::key_store::event::{Event, Status};
use crate::table::{Entry, Table};

/// Where the keeper's thread works: all it knows.
pub(crate) struct Desk {
    pub(crate) file: PathBuf,
    pub(crate) max_drop_percent: u8,
    pub(crate) watch: bool,
    pub(crate) table: Arc<Table>,
    /// The file that the table reflects, save for what is unwritten.
    pub(crate) loaded: Option<Stamp>,
    pub(crate) refused: Option<Refused>,
    pub(crate) unwritten: HashMap<KeyId, Unwritten>,
    pub(crate) status: Arc<ArcSwap<Status>>,
    pub(crate) events: Box<dyn Fn(Event<'_>) + Send>,
}

/// The last file that was not taken over, so that it is not read again and again.
pub(crate) struct Refused {
    /// None: there was no file.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) obstacle: Obstacle,
    /// The table's generation then: whether a file drops too many keys depends on the table too.
    pub(crate) generation: u64,
}

/// A change that is in force but not on disk.
#[derive(Clone, Debug)]
pub(crate) enum Unwritten {
    Deleted(Arc<Entry>),
    Disabled,
}

impl Desk {
    pub(crate) fn refuse(&mut self, stamp: Option<Stamp>, obstacle: &Obstacle) {
        self.refused = Some(Refused {
            stamp,
            obstacle: obstacle.clone(),
            generation: self.table.generation(),
        });
    }

    pub(crate) fn report(&self, change: impl FnOnce(&mut Status)) {
        let mut status = Status::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}

impl Refused {
    pub(crate) fn is(&self, now: Option<Stamp>) -> bool {
        match self.stamp {
            Some(stamp) => stamp.is_unchanged(now),
            None => now.is_none(),
        }
    }
}

pub(crate) fn disabled(key: &Key) -> Key {
    let mut fields = key.fields();
    fields.disabled = true;
    Key::from(fields)
}
