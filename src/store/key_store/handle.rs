//! The handle by which the keeper's thread is asked.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::priority;
use crate::runtime::wall_clock;
use crate::store::config;
use crate::store::key_file::{KeyFileSource, LoadedKeys, Revision};
use crate::store::key_store::command::{
    CreatedKey, DropLimit, ReloadCommand, ReplySender, StoreCommand, WriteCommand,
};
use crate::store::key_store::error::{ReloadResult, StoreError, WorkerStoppedError, WriteError};
use crate::store::key_store::event::{
    KeyStoreEvent, KeyStoreStatus, LastReload, Reloaded, format_key_count,
};
use crate::store::key_store::state::KeyStoreState;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::{Entry, NO_YIELD, Table};

/// A handle to the keeper; clones speak to the same one. When the last is dropped the keeper tries once more to write
/// what is pending, and ends.
#[derive(Clone, Debug)]
pub struct KeyStore {
    requests: Sender<StoreCommand>,
    status: Arc<ArcSwap<KeyStoreStatus>>,
}

/// An answer on its way: to be awaited, or waited for. Dropping it does not call the request back.
#[derive(Debug)]
#[must_use]
pub struct ReplyFuture<T, E>(oneshot::Receiver<Result<T, E>>);

impl KeyStore {
    /// Puts what was loaded into the table and starts the thread that keeps both from now on. `events` is called on
    /// that thread, before the answers it tells of.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        settings: &config::Keys,
        table: Arc<Table>,
        loaded: LoadedKeys,
        events: impl Fn(KeyStoreEvent<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        table.swap(loaded.entries, NO_YIELD);
        let status = Arc::new(ArcSwap::from_pointee(KeyStoreStatus {
            last_reload: LastReload {
                at: wall_clock::now(),
                result: ReloadResult::Ok,
                message: format_key_count(table.len()),
            },
            pending: 0,
            pending_error: None,
        }));
        let (requests, waiting) = mpsc::channel();
        let state = KeyStoreState {
            source: KeyFileSource::new(settings.file.clone()),
            max_drop_percent: settings.max_drop_percent,
            watch: settings.watch,
            table,
            loaded: Revision::File(loaded.stamp),
            rejected: None,
            pending: HashMap::new(),
            status: Arc::clone(&status),
            events: Box::new(events),
        };
        std::thread::Builder::new()
            .name("key-store".to_owned())
            .spawn(move || state.run(&waiting))?;
        Ok(Self { requests, status })
    }

    /// Makes a key and its token. It becomes the file's last.
    pub fn create(&self, new: NewKey, now: UnixTime) -> ReplyFuture<CreatedKey, WriteError> {
        self.send(|reply| write_command(WriteCommand::Create { new, now, reply }))
    }

    /// Changes a key.
    pub fn update(
        &self,
        id: &str,
        patch: KeyPatch,
        now: UnixTime,
    ) -> ReplyFuture<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.send(|reply| {
            write_command(WriteCommand::Update {
                id,
                patch,
                now,
                reply,
            })
        })
    }

    /// Deletes a key; the answer is the key that was.
    pub fn delete(&self, id: &str) -> ReplyFuture<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.send(|reply| write_command(WriteCommand::Delete { id, reply }))
    }

    /// Takes the file over as it stands now. Reloads that wait together share one read, and a reload that is asked for
    /// after a read began gets a read of its own.
    pub fn reload(&self, drop_limit: DropLimit) -> ReplyFuture<Reloaded, StoreError> {
        self.send(|reply| {
            StoreCommand::Reload(ReloadCommand {
                drop_limit,
                dry_run: false,
                reply,
            })
        })
    }

    /// What [`KeyStore::reload`] would reply, without doing it.
    pub fn dry_run(&self, drop_limit: DropLimit) -> ReplyFuture<Reloaded, StoreError> {
        self.send(|reply| {
            StoreCommand::Reload(ReloadCommand {
                drop_limit,
                dry_run: true,
                reply,
            })
        })
    }

    /// How file and table stand.
    #[must_use]
    pub fn status(&self) -> Arc<KeyStoreStatus> {
        self.status.load_full()
    }

    fn send<T, E>(
        &self,
        request: impl FnOnce(ReplySender<T, E>) -> StoreCommand,
    ) -> ReplyFuture<T, E> {
        let (reply, waiting) = oneshot::channel();
        // Where the keeper is gone, the request takes the answer's sender with it, and the answer says so.
        let _ = self.requests.send(request(reply));
        ReplyFuture(waiting)
    }
}

impl<T, E: From<WorkerStoppedError>> ReplyFuture<T, E> {
    /// Waits for the answer. Not for use within a runtime: await it there.
    ///
    /// # Errors
    /// As the request says.
    pub fn wait(self) -> Result<T, E> {
        self.0
            .blocking_recv()
            .unwrap_or_else(|_| Err(WorkerStoppedError.into()))
    }
}

impl<T, E: From<WorkerStoppedError>> Future for ReplyFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = Pin::new(&mut self.0).poll(context);
        reply.map(|reply| reply.unwrap_or_else(|_| Err(WorkerStoppedError.into())))
    }
}

fn write_command(write: WriteCommand) -> StoreCommand {
    StoreCommand::Write(write, priority())
}
