//! Tells the key store what other gateways have changed. The server says so at once; without a word from it the database is
//! looked at every two seconds, so that a lost notification costs no more than that.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::store::database::{DatabaseError, KeyChanges, KeyPosition, Listening, PostgresKeys};

/// How often the database is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What one look at the database has found.
pub(crate) struct Look {
    pub(crate) changes: Result<KeyChanges, Arc<DatabaseError>>,
    /// When it was begun.
    pub(crate) began: Instant,
    /// Dropped once the key store is done with it.
    _done: SyncSender<()>,
}

/// Ends the follower when it is dropped.
pub(crate) struct FollowerHandle {
    _wake: SyncSender<()>,
    _listening: Listening,
}

impl std::fmt::Debug for FollowerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FollowerHandle")
    }
}

/// Starts the thread. `position` is what is in force here, `send` hands what was found to the key store; false ends it.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn start(
    mut keys: PostgresKeys,
    position: watch::Receiver<Option<KeyPosition>>,
    send: impl Fn(Look) -> bool + Send + 'static,
) -> io::Result<FollowerHandle> {
    let (wake, woken) = sync_channel(1);
    let notified = wake.clone();
    let listening = keys.listen(move || {
        // One message is enough, however many changes came since.
        let _ = notified.try_send(());
    });
    std::thread::Builder::new()
        .name("key-follower".to_owned())
        .spawn(move || {
            while wait(&woken) {
                let began = Instant::now();
                let seen = position.borrow().unwrap_or_default();
                let (done, is_done) = sync_channel(1);
                let changes = keys.changes(seen).map_err(Arc::new);
                let sent = send(Look {
                    changes,
                    began,
                    _done: done,
                });
                if !sent {
                    return;
                }
                // Nothing is sent; the other end is dropped.
                let _ = is_done.recv();
            }
        })?;
    Ok(FollowerHandle {
        _wake: wake,
        _listening: listening,
    })
}

/// False: it is over.
fn wait(woken: &Receiver<()>) -> bool {
    !matches!(
        woken.recv_timeout(LOOK_EVERY),
        Err(RecvTimeoutError::Disconnected)
    )
}
