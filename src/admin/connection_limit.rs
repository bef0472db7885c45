//! How many connections a listener of the admin API holds at once, and which of them gives way to a new one.
//!
//! A connection is silent until a call on it was authenticated. A full listener closes its oldest silent connection, so
//! nobody without a token or a session can keep an operator out. One place in four is never taken by silent connections
//! from other machines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections of one listener at once.
const MAX_CONNECTIONS: usize = 256;
/// Silent connections among them that come from other machines.
const MAX_SILENT_REMOTE: usize = MAX_CONNECTIONS / 4 * 3;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locality {
    /// This machine: the Unix socket, or a loopback address.
    ThisMachine,
    /// Another machine.
    OtherMachine,
}

/// The connections of one listener. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionLimit(Arc<Mutex<AdminConnections>>);

/// By number, oldest first.
#[derive(Debug, Default)]
struct AdminConnections {
    next: u64,
    connections: BTreeMap<u64, State>,
}

#[derive(Debug)]
enum State {
    /// No call was authenticated yet. The connection closes when it is notified.
    Silent(Locality, Arc<Notify>),
    Authenticated,
}

/// The place of one open connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    limit: ConnectionLimit,
    number: u64,
    closing: Arc<Notify>,
}

impl ConnectionLimit {
    /// A place for a new connection. None: every other is authenticated.
    pub(super) fn admit(&self, place: Locality) -> Option<ConnectionSlot> {
        let mut open = self.lock();
        let is_full = open.connections.len() >= MAX_CONNECTIONS;
        if (place == Locality::OtherMachine && open.silent_remote().count() >= MAX_SILENT_REMOTE)
            || (is_full && open.silent_remote().next().is_some())
        {
            let oldest = open.silent_remote().next();
            open.close(oldest);
        } else if is_full {
            let oldest = open.silent(|_| true).next();
            open.close(oldest);
        }
        if open.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let (number, closing) = (open.next, Arc::new(Notify::new()));
        open.next += 1;
        let state = State::Silent(place, Arc::clone(&closing));
        open.connections.insert(number, state);
        drop(open);
        Some(ConnectionSlot {
            limit: self.clone(),
            number,
            closing,
        })
    }

    /// Every change of the map is whole.
    fn lock(&self) -> MutexGuard<'_, AdminConnections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdminConnections {
    fn silent(&self, wanted: impl Fn(Locality) -> bool) -> impl Iterator<Item = u64> {
        let connections = self.connections.iter();
        connections.filter_map(move |(number, state)| match state {
            State::Silent(place, _) if wanted(*place) => Some(*number),
            State::Silent(..) | State::Authenticated => None,
        })
    }

    fn silent_remote(&self) -> impl Iterator<Item = u64> {
        self.silent(|place| place == Locality::OtherMachine)
    }

    fn close(&mut self, number: Option<u64>) {
        let state = number.and_then(|number| self.connections.remove(&number));
        if let Some(State::Silent(_, closing)) = state {
            closing.notify_one();
        }
    }
}

impl ConnectionSlot {
    /// A call on the connection was authenticated: it gives way to no other.
    pub(super) fn authenticated(&self) {
        if let Some(state) = self.limit.lock().connections.get_mut(&self.number) {
            *state = State::Authenticated;
        }
    }

    /// Ready when the connection has to give way to another.
    pub(super) async fn must_close(&self) {
        self.closing.notified().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.limit.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn must_close(slot: &ConnectionSlot) -> bool {
        let mut closing = std::pin::pin!(slot.must_close());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        closing.as_mut().poll(&mut context).is_ready()
    }

    fn filled(limit: &ConnectionLimit, place: Locality, count: usize) -> Vec<ConnectionSlot> {
        (0..count).map(|_| limit.admit(place).unwrap()).collect()
    }

    #[test]
    fn the_oldest_silent_connection_gives_way() {
        let limit = ConnectionLimit::default();
        let held = filled(&limit, Locality::ThisMachine, MAX_CONNECTIONS);
        held[0].authenticated();
        let _new = limit.admit(Locality::ThisMachine).unwrap();
        let closing: Vec<usize> = (0..held.len())
            .filter(|at| must_close(&held[*at]))
            .collect();
        assert_eq!(closing, [1]);
    }

    #[test]
    fn authenticated_connections_give_way_to_nobody() {
        let limit = ConnectionLimit::default();
        let mut held = filled(&limit, Locality::ThisMachine, MAX_CONNECTIONS);
        held.iter().for_each(ConnectionSlot::authenticated);
        assert!(limit.admit(Locality::ThisMachine).is_none());
        held.pop();
        assert!(limit.admit(Locality::ThisMachine).is_some());
    }

    #[test]
    fn silent_connections_from_elsewhere_leave_a_quarter_free() {
        let limit = ConnectionLimit::default();
        let far = filled(&limit, Locality::OtherMachine, 10 * MAX_CONNECTIONS);
        assert_eq!(limit.lock().connections.len(), MAX_SILENT_REMOTE);
        let near = filled(&limit, Locality::ThisMachine, MAX_CONNECTIONS / 4);
        assert!(!near.iter().any(must_close));
        assert!(!must_close(far.last().unwrap()), "the newest stay");
        // Those from elsewhere give way first.
        let more = filled(&limit, Locality::ThisMachine, 1);
        assert!(!near.iter().chain(&more).any(must_close));
    }

    #[test]
    fn a_closed_connection_frees_its_place() {
        let limit = ConnectionLimit::default();
        drop(filled(&limit, Locality::ThisMachine, MAX_CONNECTIONS));
        assert!(limit.lock().connections.is_empty());
    }
}
