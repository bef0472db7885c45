//! Connections on which no request with a valid key has come yet. Where no room is left for a new connection, the oldest
//! of them gives way: whoever has no key can keep nobody out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// The keyless connections of all workers. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeylessConnections(Arc<Mutex<KeylessTasks>>);

/// By number, oldest first.
#[derive(Debug, Default)]
struct KeylessTasks {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
    /// Connections that were told to close and have not yet.
    closing: usize,
}

/// A connection's place among the keyless ones, which it leaves with its first valid key or its end.
#[derive(Debug)]
pub(super) struct KeylessSlot {
    connections: KeylessConnections,
    number: u64,
    is_left: Cell<bool>,
}

impl KeylessConnections {
    /// The place of a new connection.
    pub(super) fn slot(&self) -> Rc<KeylessSlot> {
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        Rc::new(KeylessSlot {
            connections: self.clone(),
            number,
            is_left: Cell::new(false),
        })
    }

    /// Closes the oldest, whichever worker has it. Returns whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let mut all = self.lock();
        let Some((_, task)) = all.tasks.pop_first() else {
            return false;
        };
        all.closing += 1;
        drop(all);
        task.abort();
        true
    }

    /// Connections that were told to close and have not yet: their places are free already.
    pub(super) fn closing(&self) -> usize {
        self.lock().closing
    }

    /// Every change of the map is whole.
    fn lock(&self) -> MutexGuard<'_, KeylessTasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeylessSlot {
    /// The connection's task, which ends when the connection has to give way.
    pub(super) fn set_task(&self, task: AbortHandle) {
        self.connections.lock().tasks.insert(self.number, task);
    }

    /// A request with a valid key has come.
    pub(super) fn authenticated(&self) {
        if !self.is_left.replace(true) {
            let mut all = self.connections.lock();
            if all.tasks.remove(&self.number).is_none() {
                all.closing = all.closing.saturating_sub(1);
            }
        }
    }
}

impl Drop for KeylessSlot {
    fn drop(&mut self) {
        self.authenticated();
    }
}
