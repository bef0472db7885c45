//! The keeper: the one thread that changes the key table and the key file, so that they cannot drift apart.
//!
//! Requests that wait together are taken as one batch: one read answers all reloads, one rewrite of the file all
//! creates, changes and deletes, each judged on its own. An order is never given up: text, fsync, rename, fsync of
//! the folder, then the table, then the answer. Only what takes access away comes to the table first: a delete or a
//! disable is in force before the disk is asked, remembered as *unwritten*, and laid on top of whatever is loaded
//! until a write has brought it to disk.
//!
//! | the file | create, other changes | delete, disable | reload |
//! | --- | --- | --- | --- |
//! | as the keeper left it | written, then in the table, then answered | in the table, written, answered | nothing changes |
//! | changed by others | merged into the table (a reload of its own), then as above | likewise | loaded |
//! | faulty or missing | [`Obstacle::Faulty`], nothing changes | in force, [`WriteError::NotWritten`] | [`Obstacle::Faulty`], the table stays |
//! | would drop too many keys | [`Obstacle::DropsTooMany`], nothing changes | in force, not written | refused unless forced |
//! | full, read-only, a failing disk | [`Obstacle::Io`], file and table as before | in force, not written | loaded, where it can be read |
//! | unwritten changes exist | the next write writes them too | likewise; deleting such a key again tries again | loaded, with them on top |
//! | a reload finds an unwritten change done | it is forgotten | | |
//!
//! A change that both disables a key and changes more of it is taken apart where it can't be written: the disabling
//! is in force, the rest is not. Two changes of one key in a batch are judged in the order they came.
//!
//! Unwritten changes are tried again with every write, and every [`RETRY_EVERY`].

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::policy::key::{Hint, Key, KeyFields, KeyId};
use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::wall_clock;
use crate::table::{Difference, Entry, Table, WITHOUT_PAUSE, forget, paced};

use super::config;
use super::fault::Fault;
use super::key_file::{self, Loaded, Locked, ReadError, Stamp};
use super::patch::{KeyPatch, NewKey};
use super::strict_json::Complaint;
use crate::runtime::give_way::{GIVE_WAY, Haste};

/// How often an unwritten change is tried again.
pub const RETRY_EVERY: Duration = Duration::from_secs(5);
/// How often a watched file is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How many requests one rewrite of the file may answer.
const LARGEST_BATCH: usize = 4096;
/// How willingly the keeper gives way to the threads that serve requests (see `nice(2)`). Reading and laying out a
/// million keys is a second of work on every core, and must not be felt.
const NICENESS: i32 = 5;

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

/// A key that was made, with its token, to be shown once.
#[derive(Debug)]
pub struct Created {
    /// The key.
    pub entry: Arc<Entry>,
    /// Its token, which is kept nowhere.
    pub token: BearerToken,
}

/// What a reload did, or would do.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// What it changed.
    pub difference: Arc<Difference>,
    /// The table's generation now.
    pub generation: u64,
    /// How many keys there are now; after a rehearsal: would be.
    pub keys: usize,
}

/// Whether a reload may drop more keys than `max_drop_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// Then it is refused.
    Guarded,
    /// It may.
    Forced,
}

/// Why a file is not taken over, or not written.
#[derive(Clone, Debug)]
pub enum Obstacle {
    /// What is on disk can't be loaded, so it must not be overwritten either.
    Faulty(Arc<ReadError>),
    /// What is on disk lacks too many of the keys in force.
    DropsTooMany(DropsTooMany),
    /// Reading was fine, or not needed; writing failed.
    Io(Arc<io::Error>),
}

/// How many keys a file would drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropsTooMany {
    /// So many would go,
    pub dropped: usize,
    /// of so many in force,
    pub of: usize,
    /// where at most so many percent may.
    pub max_drop_percent: u8,
}

/// Why a create, change or delete is not done as asked.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// No key has this id.
    NotFound,
    /// A field's value is fine in itself, but not now.
    Refused(Complaint),
    /// It is not on disk.
    NotWritten {
        /// A delete or disable is in force nevertheless; anything else changed nothing.
        in_force: bool,
        /// What was in the way.
        obstacle: Obstacle,
    },
}

/// How the key file and the key table stand, for status and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// The last load of the whole file, at start or later; rehearsals and merges do not count.
    pub last_reload: LastReload,
    /// How many deletes and disables are in force but not on disk.
    pub unwritten: usize,
    /// Why they are not.
    pub obstacle: Option<Obstacle>,
}

/// How a load of the file went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When.
    pub at: UnixTime,
    /// How it ended.
    pub result: ReloadResult,
    /// The same in a sentence.
    pub message: String,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The file is in force.
    Ok,
    /// Something in the file is wrong; what was in force still is.
    Faulty,
    /// It would have dropped too many keys; what was in force still is.
    Dropped,
    /// The file could not be read; what was in force still is.
    Failed,
}

/// What the keeper did, for whoever logs and counts.
#[derive(Debug)]
pub enum Event<'a> {
    /// A reload took the file over, changed or not.
    Reloaded(&'a Reloaded),
    /// A reload did not.
    ReloadFailed(&'a Obstacle),
    /// A change that others made to the file was merged in before a write.
    Merged(&'a Reloaded),
    /// The file could not be written.
    WriteFailed {
        /// What was in the way.
        obstacle: &'a Obstacle,
        /// How many deletes and disables are in force but not on disk.
        unwritten: usize,
    },
    /// Deletes and disables that were in force but not on disk now are.
    CaughtUp {
        /// How many.
        written: usize,
    },
}

impl Keeper {
    /// Puts what was loaded into the table and starts the thread that keeps both from now on. `events` is called on
    /// that thread, before the answers it tells of.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        settings: &config::Keys,
        table: Arc<Table>,
        loaded: Loaded,
        events: impl Fn(Event<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        table.swap(loaded.entries, WITHOUT_PAUSE);
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
        self.ask(|answer| in_haste(Write::Create { new, now, answer }))
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
            in_haste(Write::Update {
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
        self.ask(|answer| in_haste(Write::Delete { id, answer }))
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

/// The keeper ended before it answered.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl From<Gone> for Obstacle {
    fn from(_: Gone) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, "the keeper has ended").into()
    }
}

impl From<Gone> for WriteError {
    fn from(gone: Gone) -> Self {
        Self::NotWritten {
            in_force: false,
            obstacle: gone.into(),
        }
    }
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<ReadError> for Obstacle {
    fn from(error: ReadError) -> Self {
        Self::Faulty(Arc::new(error))
    }
}

impl Obstacle {
    /// The file's faults, where those are what is in the way.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Faulty(error) => error.faults(),
            Self::DropsTooMany(_) | Self::Io(_) => &[],
        }
    }

    /// How a reload that met it ended.
    #[must_use]
    pub fn result(&self) -> ReloadResult {
        match self {
            Self::Faulty(error) => match **error {
                ReadError::Faulty(_) => ReloadResult::Faulty,
                ReadError::Unreadable(_) => ReloadResult::Failed,
            },
            Self::DropsTooMany(_) => ReloadResult::Dropped,
            Self::Io(_) => ReloadResult::Failed,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faulty(error) => error.fmt(f),
            Self::DropsTooMany(drops) => drops.fmt(f),
            Self::Io(error) => write!(f, "the key file cannot be written: {error}"),
        }
    }
}

impl std::error::Error for Obstacle {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Faulty(error) => Some(&**error),
            Self::DropsTooMany(_) => None,
            Self::Io(error) => Some(&**error),
        }
    }
}

impl fmt::Display for DropsTooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dropped,
            of,
            max_drop_percent,
        } = self;
        write!(
            f,
            "the key file would drop {dropped} of {of} keys, more than {max_drop_percent} percent; \
             if that is meant, reload with force (keygate reload --force)"
        )
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no key has this id"),
            Self::Refused(complaint) => complaint.fmt(f),
            Self::NotWritten { in_force, obstacle } => {
                let state = match in_force {
                    true => "in force, but not yet on disk, and tried again until it is",
                    false => "nothing was changed",
                };
                write!(f, "{obstacle} ({state})")
            }
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound | Self::Refused(_) => None,
            Self::NotWritten { obstacle, .. } => Some(obstacle),
        }
    }
}

impl ReloadResult {
    /// The word that metrics and status use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Faulty => "faulty",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

type Reply<T, E> = oneshot::Sender<Result<T, E>>;

enum Request {
    /// In haste until its turn comes: it may take access away, and must not wait for a reload that gives way.
    Write(Write, Haste),
    Reload(Reload),
}

enum Write {
    Create {
        new: NewKey,
        now: UnixTime,
        answer: Reply<Created, WriteError>,
    },
    Update {
        id: String,
        patch: KeyPatch,
        now: UnixTime,
        answer: Reply<Arc<Entry>, WriteError>,
    },
    Delete {
        id: String,
        answer: Reply<Arc<Entry>, WriteError>,
    },
}

struct Reload {
    drops: Drops,
    rehearsal: bool,
    answer: Reply<Reloaded, Obstacle>,
}

/// Where the keeper's thread works: all it knows.
struct Desk {
    file: PathBuf,
    max_drop_percent: u8,
    watch: bool,
    table: Arc<Table>,
    /// The file that the table reflects, save for what is unwritten.
    loaded: Option<Stamp>,
    refused: Option<Refused>,
    unwritten: HashMap<KeyId, Unwritten>,
    status: Arc<ArcSwap<Status>>,
    events: Box<dyn Fn(Event<'_>) + Send>,
}

/// The last file that was not taken over, so that it is not read again and again.
struct Refused {
    /// None: there was no file.
    stamp: Option<Stamp>,
    obstacle: Obstacle,
    /// The table's generation then: whether a file drops too many keys depends on the table too.
    generation: u64,
}

/// A change that is in force but not on disk.
#[derive(Clone, Debug)]
enum Unwritten {
    Deleted(Arc<Entry>),
    Disabled,
}

/// A file's content with what is unwritten on top.
struct Proposal {
    entries: Vec<Arc<Entry>>,
    stamp: Stamp,
    /// What the file lacks of it.
    unwritten: HashMap<KeyId, Unwritten>,
    difference: Arc<Difference>,
    drops_too_many: Option<DropsTooMany>,
}

/// What a batch will change once it is on disk.
#[derive(Default)]
struct Draft {
    replaced: HashMap<KeyId, Key>,
    created: Vec<Key>,
}

/// A request that was judged and waits for the disk.
enum Judged {
    Created {
        key: Key,
        token: BearerToken,
        answer: Reply<Created, WriteError>,
    },
    Updated {
        key: Key,
        in_force: bool,
        answer: Reply<Arc<Entry>, WriteError>,
    },
    Deleted {
        entry: Arc<Entry>,
        answer: Reply<Arc<Entry>, WriteError>,
    },
}

impl Desk {
    fn run(mut self, requests: &Receiver<Request>) {
        // Where this is not permitted the keeper is merely a little more in the way.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut next_look = Instant::now() + WATCH_EVERY;
        let mut next_retry = None;
        loop {
            let retry_wait =
                next_retry.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let wake = match self.watch {
                true => retry_wait.min(next_look),
                false => retry_wait,
            };
            match requests.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    let rest = requests.try_iter().take(LARGEST_BATCH - 1);
                    self.serve(std::iter::once(first).chain(rest));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.watch && Instant::now() >= next_look {
                self.look();
                next_look = Instant::now() + WATCH_EVERY;
            }
            if next_retry.is_some_and(|due| Instant::now() >= due) {
                self.write(Vec::new());
                next_retry = None;
            }
            let due = || next_retry.unwrap_or_else(|| Instant::now() + RETRY_EVERY);
            next_retry = (!self.unwritten.is_empty()).then(due);
        }
        if !self.unwritten.is_empty() {
            self.write(Vec::new());
        }
    }

    fn serve(&mut self, requests: impl Iterator<Item = Request>) {
        let (mut writes, mut reloads, mut hastes) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Write(write, haste) => {
                    writes.push(write);
                    hastes.push(haste);
                }
                Request::Reload(reload) => reloads.push(reload),
            }
        }
        if !reloads.is_empty() {
            self.reload(reloads);
        }
        drop(hastes);
        if !writes.is_empty() {
            self.write(writes);
        }
    }

    /// Reloads where the file is neither the one in force nor the one that was refused last.
    fn look(&mut self) {
        let now = key_file::look(&self.file);
        let refused = self.refused.as_ref();
        if self.loaded.is_some_and(|stamp| stamp.holds(now))
            || refused.is_some_and(|refused| refused.is(now))
        {
            return;
        }
        let (answer, _) = oneshot::channel();
        self.reload(vec![Reload {
            drops: Drops::Guarded,
            rehearsal: false,
            answer,
        }]);
    }

    fn reload(&mut self, asked: Vec<Reload>) {
        let (rehearsals, reloads): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|reload| reload.rehearsal);
        let proposal = self.propose();
        for rehearsal in rehearsals {
            let _ = rehearsal.answer.send(match &proposal {
                Err(obstacle) => Err(obstacle.clone()),
                Ok(proposal) => proposal.judged(rehearsal.drops).map(|()| Reloaded {
                    difference: Arc::clone(&proposal.difference),
                    generation: self.table.generation(),
                    keys: proposal.entries.len(),
                }),
            });
        }
        let Some(drops) = reloads
            .iter()
            .map(|reload| reload.drops)
            .max_by_key(|drops| {
                // One that is forced takes the others along.
                *drops == Drops::Forced
            })
        else {
            return;
        };
        let outcome = proposal.and_then(|proposal| self.take_over(proposal, drops));
        match &outcome {
            Ok(reloaded) => (self.events)(Event::Reloaded(reloaded)),
            Err(obstacle) => (self.events)(Event::ReloadFailed(obstacle)),
        }
        let last_reload = LastReload {
            at: wall_clock::now(),
            result: outcome
                .as_ref()
                .map_or_else(Obstacle::result, |_| ReloadResult::Ok),
            message: match &outcome {
                Ok(reloaded) => counted(reloaded.keys),
                Err(obstacle) => obstacle.to_string(),
            },
        };
        self.report(|status| status.last_reload = last_reload);
        for reload in reloads {
            let _ = reload.answer.send(outcome.clone());
        }
    }

    /// Reads the file and lays on top what is unwritten.
    fn propose(&mut self) -> Result<Proposal, Obstacle> {
        let before = key_file::look(&self.file);
        let Loaded { mut entries, stamp } = key_file::read(&self.file, &self.table, GIVE_WAY)
            .map_err(|error| {
                let obstacle = Obstacle::from(error);
                self.refuse(before, &obstacle);
                obstacle
            })?;
        let mut unwritten = HashMap::new();
        if !self.unwritten.is_empty() {
            entries.retain_mut(|entry| {
                GIVE_WAY();
                let id = entry.key().key_id();
                match self.unwritten.get(&id) {
                    None => true,
                    Some(deleted @ Unwritten::Deleted(_)) => {
                        unwritten.insert(id, deleted.clone());
                        false
                    }
                    Some(Unwritten::Disabled) => {
                        if !entry.key().disabled() {
                            *entry = self.table.adopt(disabled(entry.key()));
                            unwritten.insert(id, Unwritten::Disabled);
                        }
                        true
                    }
                }
            });
        }
        let difference = Arc::new(self.table.compare(&entries, GIVE_WAY));
        let (dropped, of) = (difference.removed.len(), self.table.len());
        let too_many = dropped * 100 > of * usize::from(self.max_drop_percent);
        Ok(Proposal {
            entries,
            stamp,
            unwritten,
            difference,
            drops_too_many: too_many.then_some(DropsTooMany {
                dropped,
                of,
                max_drop_percent: self.max_drop_percent,
            }),
        })
    }

    fn take_over(&mut self, proposal: Proposal, drops: Drops) -> Result<Reloaded, Obstacle> {
        if let Err(obstacle) = proposal.judged(drops) {
            self.refuse(Some(proposal.stamp), &obstacle);
            return Err(obstacle);
        }
        if proposal.difference.changes_table() {
            self.table.swap(proposal.entries, GIVE_WAY);
        } else {
            forget(proposal.entries, GIVE_WAY);
        }
        self.loaded = Some(proposal.stamp);
        self.refused = None;
        self.unwritten = proposal.unwritten;
        let unwritten = self.unwritten.len();
        self.report(|status| {
            status.unwritten = unwritten;
            status.obstacle = status.obstacle.take().filter(|_| unwritten > 0);
        });
        Ok(Reloaded {
            difference: proposal.difference,
            generation: self.table.generation(),
            keys: self.table.len(),
        })
    }

    /// Brings what others wrote into the table, where the file is not the one the table reflects.
    fn merge(&mut self) -> Result<(), Obstacle> {
        let now = key_file::look(&self.file);
        if self.loaded.is_some_and(|stamp| stamp.holds(now)) {
            return Ok(());
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.is(now)) {
            let still = match refused.obstacle {
                Obstacle::Faulty(_) => true,
                Obstacle::DropsTooMany(_) => refused.generation == self.table.generation(),
                Obstacle::Io(_) => false,
            };
            if still {
                return Err(refused.obstacle.clone());
            }
        }
        let proposal = self.propose()?;
        let merged = self.take_over(proposal, Drops::Guarded)?;
        if !merged.difference.is_empty() {
            (self.events)(Event::Merged(&merged));
        }
        Ok(())
    }

    /// One batch: merge, judge each request, write once, change the table, answer. Without a request: only what is
    /// unwritten.
    fn write(&mut self, requests: Vec<Write>) {
        let locked = match key_file::lock(&self.file, Duration::ZERO) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {
                self.take_access_away(&requests);
                key_file::lock(&self.file, key_file::LOCK_WAIT)
            }
            lock => lock,
        };
        let locked = match locked {
            Ok(lock) => self.merge().map(|()| lock),
            // What is wrong with the file itself says more than that it can't be locked.
            Err(error) => self.merge().and(Err(error.into())),
        };
        let mut draft = Draft::default();
        let judged: Vec<Judged> = requests
            .into_iter()
            .filter_map(|request| self.judge(request, &mut draft))
            .collect();
        let written = locked.and_then(|lock| self.bring_to_disk(&lock, &draft));
        match &written {
            Ok(()) => draft.apply_to(&self.table),
            Err(obstacle) => {
                let unwritten = self.unwritten.len();
                self.report(|status| {
                    status.unwritten = unwritten;
                    status.obstacle = Some(obstacle.clone()).filter(|_| unwritten > 0);
                });
                (self.events)(Event::WriteFailed {
                    obstacle,
                    unwritten,
                });
            }
        }
        for request in judged {
            request.answer(&self.table, &written);
        }
    }

    /// Whoever else holds the lock may hold it for long, and anybody who may read the folder can take it: what takes
    /// access away does not wait for that.
    fn take_access_away(&mut self, requests: &[Write]) {
        let mut unused = Draft::default();
        for request in requests {
            match request {
                Write::Delete { id, .. } => {
                    self.delete(id, &mut unused);
                }
                Write::Update { id, patch, now, .. } if patch.disables() => {
                    // A fault of it is answered when it is judged.
                    let _ = self.update(id, patch, *now, &mut unused);
                }
                Write::Update { .. } | Write::Create { .. } => {}
            }
        }
    }

    /// Puts into the draft what a request changes, and into force what takes access away. What is refused is answered.
    fn judge(&mut self, request: Write, draft: &mut Draft) -> Option<Judged> {
        match request {
            Write::Create { new, now, answer } => match self.new_key(new, now) {
                Ok((key, token)) => {
                    draft.created.push(key.clone());
                    Some(Judged::Created { key, token, answer })
                }
                Err(error) => refuse(answer, error),
            },
            Write::Update {
                id,
                patch,
                now,
                answer,
            } => match self.update(&id, &patch, now, draft) {
                Ok(key) => Some(Judged::Updated {
                    key,
                    in_force: patch.disables(),
                    answer,
                }),
                Err(error) => refuse(answer, error),
            },
            Write::Delete { id, answer } => match self.delete(&id, draft) {
                Some(entry) => Some(Judged::Deleted { entry, answer }),
                None => refuse(answer, WriteError::NotFound),
            },
        }
    }

    fn new_key(&self, new: NewKey, now: UnixTime) -> Result<(Key, BearerToken), WriteError> {
        check_expiry(new.expires_at, now)?;
        let not_random = |error: getrandom::Error| WriteError::NotWritten {
            in_force: false,
            obstacle: io::Error::other(error).into(),
        };
        let NewKey {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
        } = new;
        loop {
            let token = BearerToken::make(getrandom::fill).map_err(not_random)?;
            let Ok(id) = KeyId::parse(&random_id().map_err(not_random)?) else {
                continue;
            };
            let taken = self.table.by_id(id.as_str()).is_some()
                || self.table.find(&token.hash()).is_some()
                || self.unwritten.contains_key(&id);
            if taken {
                continue;
            }
            let key = Key::from(KeyFields {
                id,
                name,
                hash: token.hash(),
                hint: Hint::parse(token.hint()).ok(),
                model_access,
                allow_from,
                expires_at,
                created_at: Some(now),
                account,
                disabled: false,
            });
            return Ok((key, token));
        }
    }

    fn update(
        &mut self,
        id: &str,
        patch: &KeyPatch,
        now: UnixTime,
        draft: &mut Draft,
    ) -> Result<Key, WriteError> {
        let entry = self.table.by_id(id).ok_or(WriteError::NotFound)?;
        check_expiry(patch.expires_at.flatten(), now)?;
        let id = entry.key().key_id();
        let wanted = patch.applied_to(draft.replaced.get(&id).unwrap_or(entry.key()));
        let mut in_table = entry;
        if patch.disables() && !in_table.key().disabled() {
            if let Ok(changed) = self.table.replace(disabled(in_table.key())) {
                in_table = changed;
            }
            self.unwritten.insert(id.clone(), Unwritten::Disabled);
        }
        if wanted == *in_table.key() {
            draft.replaced.remove(&id);
        } else {
            draft.replaced.insert(id, wanted.clone());
        }
        Ok(wanted)
    }

    fn delete(&mut self, id: &str, draft: &mut Draft) -> Option<Arc<Entry>> {
        let id = KeyId::parse(id).ok()?;
        if let Some(entry) = self.table.remove(id.as_str()) {
            draft.replaced.remove(&id);
            let deleted = Unwritten::Deleted(Arc::clone(&entry));
            self.unwritten.insert(id, deleted);
            return Some(entry);
        }
        match self.unwritten.get(&id)? {
            Unwritten::Deleted(entry) => Some(Arc::clone(entry)),
            Unwritten::Disabled => None,
        }
    }

    /// Writes the table with the draft on top, where that is not what the file holds already.
    fn bring_to_disk(&mut self, lock: &Locked, draft: &Draft) -> Result<(), Obstacle> {
        if draft.is_empty() && self.unwritten.is_empty() {
            return Ok(());
        }
        let entries = self.table.in_file_order(GIVE_WAY);
        let kept = paced(&entries, GIVE_WAY).map(|entry| draft.newest(entry.key()));
        let written = lock.replace(kept.chain(&draft.created));
        forget(entries, GIVE_WAY);
        self.loaded = written?;
        self.unwritten.clear();
        let written = self.status.load().unwritten;
        if written > 0 {
            self.report(|status| (status.unwritten, status.obstacle) = (0, None));
            (self.events)(Event::CaughtUp { written });
        }
        Ok(())
    }

    fn refuse(&mut self, stamp: Option<Stamp>, obstacle: &Obstacle) {
        self.refused = Some(Refused {
            stamp,
            obstacle: obstacle.clone(),
            generation: self.table.generation(),
        });
    }

    fn report(&self, change: impl FnOnce(&mut Status)) {
        let mut status = Status::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}

impl Refused {
    fn is(&self, now: Option<Stamp>) -> bool {
        match self.stamp {
            Some(stamp) => stamp.holds(now),
            None => now.is_none(),
        }
    }
}

impl Proposal {
    fn judged(&self, drops: Drops) -> Result<(), Obstacle> {
        match (drops, self.drops_too_many) {
            (Drops::Guarded, Some(too_many)) => Err(Obstacle::DropsTooMany(too_many)),
            (Drops::Guarded, None) | (Drops::Forced, _) => Ok(()),
        }
    }
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.created.is_empty()
    }

    fn newest<'k>(&'k self, key: &'k Key) -> &'k Key {
        match self.replaced.is_empty() {
            true => key,
            false => self.replaced.get(&key.key_id()).unwrap_or(key),
        }
    }

    /// Ids and hashes were found free when the draft was made, and only the keeper changes the table.
    fn apply_to(self, table: &Table) {
        for key in self.replaced.into_values() {
            let _ = table.replace(key);
        }
        for key in self.created {
            let _ = table.insert(key);
        }
    }
}

impl Judged {
    fn answer(self, table: &Table, written: &Result<(), Obstacle>) {
        let entry_of = |key: Key| table.by_id(key.id()).unwrap_or_else(|| table.adopt(key));
        let failed = |in_force| {
            written
                .clone()
                .map_err(|obstacle| WriteError::NotWritten { in_force, obstacle })
        };
        // Whoever does not wait for the answer any more does not get one.
        match self {
            Self::Created { key, token, answer } => {
                let created = || Created {
                    entry: entry_of(key),
                    token,
                };
                let _ = answer.send(failed(false).map(|()| created()));
            }
            Self::Updated {
                key,
                in_force,
                answer,
            } => {
                let _ = answer.send(failed(in_force).map(|()| entry_of(key)));
            }
            Self::Deleted { entry, answer } => {
                let _ = answer.send(failed(true).map(|()| entry));
            }
        }
    }
}

fn in_haste(write: Write) -> Request {
    Request::Write(write, Haste::default())
}

fn refuse<T>(answer: Reply<T, WriteError>, error: WriteError) -> Option<Judged> {
    let _ = answer.send(Err(error));
    None
}

fn check_expiry(end: Option<UnixTime>, now: UnixTime) -> Result<(), WriteError> {
    match end {
        Some(end) if end <= now => Err(WriteError::Refused(Complaint {
            field: "expires_at".to_owned(),
            message: format!("{end} has passed already; name a time to come"),
        })),
        _ => Ok(()),
    }
}

fn disabled(key: &Key) -> Key {
    let mut fields = key.fields();
    fields.disabled = true;
    Key::from(fields)
}

/// `key_` and 22 base62 characters: 130 bits, so that no two are ever alike.
fn random_id() -> Result<String, getrandom::Error> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = "key_".to_owned();
    let mut bytes = [0; 32];
    while id.len() < 26 {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 that fits a byte.
        let digits = bytes.iter().filter(|&&byte| byte < 248).take(26 - id.len());
        id.extend(digits.map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
    }
    Ok(id)
}

/// So many keys, in words.
#[must_use]
pub fn counted(keys: usize) -> String {
    match keys {
        1 => "1 key".to_owned(),
        keys => format!("{keys} keys"),
    }
}
