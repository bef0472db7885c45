//! A key's share of the connections to upstreams, whose number is limited by the descriptors of the process. The last
//! eighth of them is for keys that have no more than a quarter.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::table::Entry;

/// A request that is forwarded. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct UpstreamShare {
    worker: Rc<Worker>,
    entry: Arc<Entry>,
}

impl UpstreamShare {
    /// Counts a request of this key.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]: most connections are used, and the key has its share of them.
    pub(super) fn take(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Result<Self, Refusal> {
        let forwarding = worker.forwarding.get();
        let of_key = entry.forwarding().load(Ordering::Relaxed);
        let room = worker.settings.upstream_connections();
        let is_scarce = forwarding >= room.per_worker - room.per_worker / 8;
        if is_scarce && of_key >= room.all / 4 {
            return Err(Refusal::Overloaded);
        }
        worker.forwarding.set(forwarding + 1);
        entry.forwarding().fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            worker: Rc::clone(worker),
            entry: Arc::clone(entry),
        })
    }
}

impl Drop for UpstreamShare {
    fn drop(&mut self) {
        let forwarding = self.worker.forwarding.get();
        self.worker.forwarding.set(forwarding - 1);
        self.entry.forwarding().fetch_sub(1, Ordering::Relaxed);
    }
}
