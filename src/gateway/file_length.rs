//! The length of the audio file that a request brought, for its record: not every upstream says it. It is read while the
//! upstream works, on a thread that may compute, and nobody waits for it.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::gateway::worker::Worker;
use crate::request_body::audio;
use crate::request_body::collect::SharedBody;

/// A length that is being read, or was. Where it is dropped earlier, the file is not read any more.
#[derive(Debug)]
pub(super) struct FileLength {
    length: Rc<Cell<Option<Duration>>>,
    reading: JoinHandle<()>,
}

impl FileLength {
    /// Begins to read the length of the file that is at this place of a body.
    pub(super) fn read(worker: &Worker, body: Arc<SharedBody>, file: Range<usize>) -> Self {
        let length = Rc::new(Cell::new(None));
        let (turns, result) = (Arc::clone(&worker.file_lengths), Rc::clone(&length));
        let reading = tokio::task::spawn_local(async move {
            let Ok(turn) = turns.acquire_owned().await else {
                return;
            };
            let read = move || {
                // Held until the file is read, also where nobody wants its length any more.
                let _turn = turn;
                audio::length(body.bytes().get(file)?)
            };
            let read = tokio::task::spawn_blocking(read).await;
            result.set(read.ok().flatten());
        });
        Self { length, reading }
    }

    /// Whether it is still being read.
    pub(super) fn is_pending(&self) -> bool {
        !self.reading.is_finished()
    }

    /// Waits until it is read.
    pub(super) async fn wait(&mut self) {
        // It ends in an error only where the process ends.
        let _ = (&mut self.reading).await;
    }

    /// The length; None while it is being read, and where it cannot be read.
    pub(super) fn known(&self) -> Option<Duration> {
        self.length.get()
    }
}

impl Drop for FileLength {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
