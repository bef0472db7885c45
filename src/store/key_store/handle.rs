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
use crate::store::key_file::LoadedKeys;
use crate::store::key_store::command::{Created, Drops, Reload, Reply, Request, Write};
use crate::store::key_store::error::{Gone, Obstacle, ReloadResult, WriteError};
use crate::store::key_store::event::{Event, LastReload, Reloaded, Status, counted};
use crate::store::key_store::state::Desk;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::{Entry, NO_YIELD, Table};

/// A handle to the keeper; clones speak to the same one. When the last is dropped the keeper tries once more to write
/// what is unwritten, and ends.
#[derive(Clone, Debug)]
pub struct Keeper {
    requests: Sender<Request>,
    status: Arc<ArcSwap<Status>>,
}

/// An answer on its way: to be awaited, or waited for. Dropping it does not call the request back.
#[derive(Debug)]
#[must_use]
pub struct Answer<T, E>(oneshot::Receiver<Result<T, E>>);

impl Keeper {
    /// Puts what was loaded into the table and starts the thread that keeps both from now on. `events` is called on
    /// that thread, before the answers it tells of.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        settings: &config::Keys,
        table: Arc<Table>,
        loaded: LoadedKeys,
        events: impl Fn(Event<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        table.swap(loaded.entries, NO_YIELD);
        let status = Arc::new(ArcSwap::from_pointee(Status {
            last_reload: LastReload {
                at: wall_clock::now(),
                result: ReloadResult::Ok,
                message: counted(table.len()),
            },
            unwritten: 0,
            obstacle: None,
        }));
        let (requests, waiting) = mpsc::channel();
        let desk = Desk {
            file: settings.file.clone(),
            max_drop_percent: settings.max_drop_percent,
            watch: settings.watch,
            table,
            loaded: Some(loaded.stamp),
            refused: None,
            unwritten: HashMap::new(),
            status: Arc::clone(&status),
            events: Box::new(events),
        };
        std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || desk.run(&waiting))?;
        Ok(Self { requests, status })
    }

    /// Makes a key and its token. It becomes the file's last.
    pub fn create(&self, new: NewKey, now: UnixTime) -> Answer<Created, WriteError> {
        self.ask(|answer| with_priority(Write::Create { new, now, answer }))
    }

    /// Changes a key.
    pub fn update(
        &self,
        id: &str,
        patch: KeyPatch,
        now: UnixTime,
    ) -> Answer<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.ask(|answer| {
            with_priority(Write::Update {
                id,
                patch,
                now,
                answer,
            })
        })
    }

    /// Deletes a key; the answer is the key that was.
    pub fn delete(&self, id: &str) -> Answer<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.ask(|answer| with_priority(Write::Delete { id, answer }))
    }

    /// Takes the file over as it stands now. Reloads that wait together share one read, and a reload that is asked for
    /// after a read began gets a read of its own.
    pub fn reload(&self, drops: Drops) -> Answer<Reloaded, Obstacle> {
        self.ask(|answer| {
            Request::Reload(Reload {
                drops,
                rehearsal: false,
                answer,
            })
        })
    }

    /// What [`Keeper::reload`] would answer, without doing it.
    pub fn rehearse(&self, drops: Drops) -> Answer<Reloaded, Obstacle> {
        self.ask(|answer| {
            Request::Reload(Reload {
                drops,
                rehearsal: true,
                answer,
            })
        })
    }

    /// How file and table stand.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    fn ask<T, E>(&self, request: impl FnOnce(Reply<T, E>) -> Request) -> Answer<T, E> {
        let (answer, waiting) = oneshot::channel();
        // Where the keeper is gone, the request takes the answer's sender with it, and the answer says so.
        let _ = self.requests.send(request(answer));
        Answer(waiting)
    }
}

impl<T, E: From<Gone>> Answer<T, E> {
    /// Waits for the answer. Not for use within a runtime: await it there.
    ///
    /// # Errors
    /// As the request says.
    pub fn wait(self) -> Result<T, E> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(Gone.into()))
    }
}

impl<T, E: From<Gone>> Future for Answer<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(Gone.into())))
    }
}

fn with_priority(write: Write) -> Request {
    Request::Write(write, priority())
}
