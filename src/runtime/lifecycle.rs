//! The phase the process is in: running, announcing its end, or ending. Set by signals, read by whoever accepts.

use std::sync::Arc;

use tokio::sync::watch;

/// A phase of the process's life. They follow one another and never go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Still serving, but /readyz says 503, so that load balancers look elsewhere.
    Announcing,
    /// Listeners are closed; running requests finish.
    Draining,
    /// Everything ends at once.
    Ending,
}

/// The phase, for everybody to read and wait for. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Running)))
    }
}

impl Lifecycle {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to a later phase; an earlier one changes nothing.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let later = phase > *current;
            *current = (*current).max(phase);
            later
        });
    }

    /// Waits until the phase is this one or a later one.
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.0.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = phases.wait_for(|current| *current >= phase).await;
    }
}
