//! Connections on which no request with a valid key has come yet. Where no room is left for a new connection, the oldest
//! of them gives way: whoever has no key can keep nobody out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::AbortHandle;

/// The keyless connections of one worker, oldest first.
#[derive(Debug, Default)]
pub(super) struct KeylessConnections {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

/// A connection's place among the keyless ones, which it leaves with its first valid key or its end.
#[derive(Debug)]
pub(super) struct KeylessSlot {
    connections: Rc<RefCell<KeylessConnections>>,
    number: u64,
    is_left: Cell<bool>,
}

impl KeylessSlot {
    /// The place of a new connection.
    pub(super) fn new(connections: &Rc<RefCell<KeylessConnections>>) -> Rc<Self> {
        let mut all = connections.borrow_mut();
        let number = all.next;
        all.next += 1;
        Rc::new(Self {
            connections: Rc::clone(connections),
            number,
            is_left: Cell::new(false),
        })
    }

    /// The connection's task, which ends when the connection has to give way.
    pub(super) fn set_task(&self, task: AbortHandle) {
        let mut all = self.connections.borrow_mut();
        all.tasks.insert(self.number, task);
    }

    /// A request with a valid key has come.
    pub(super) fn authenticated(&self) {
        if !self.is_left.replace(true) {
            self.connections.borrow_mut().tasks.remove(&self.number);
        }
    }
}

impl Drop for KeylessSlot {
    fn drop(&mut self) {
        self.authenticated();
    }
}

impl KeylessConnections {
    /// Closes the oldest. Returns whether there was one.
    pub(super) fn close_oldest(&mut self) -> bool {
        let oldest = self.tasks.pop_first();
        if let Some((_, task)) = &oldest {
            task.abort();
        }
        oldest.is_some()
    }
}
