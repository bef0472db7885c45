//! The handle of the key store: it sends commands to the worker's thread.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use crate::policy::audit::ChangeOrigin;
use crate::policy::key::KeyId;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::priority;
use crate::runtime::wall_clock;
use crate::store::audit::AuditTrail;
use crate::store::config;
use crate::store::database::{Database, PostgresKeys};
use crate::store::key_file::LoadedKeys;
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_source::database::{DatabaseKeySource, StartKeys, StartKeysError};
use crate::store::key_source::follower::{self, FollowerHandle};
use crate::store::key_source::last_good_copy::CopyState;
use crate::store::key_source::{KeyFileSource, KeySource, Revision, SourceError};
use crate::store::key_store::command::{
    AcceptRollback, CreatedKey, DropLimit, ReloadCommand, ReplySender, RotatedKey, StoreCommand,
    SubmittedWrite, WriteCommand,
};
use crate::store::key_store::error::{ReloadResult, StoreError, WorkerStoppedError, WriteError};
use crate::store::key_store::event::{
    FollowState, KeyStoreEvent, KeyStoreStatus, LastReload, Reloaded, format_key_count,
};
use crate::store::key_store::state::{KeyStoreState, KnownGateways, PendingRevocation};
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::{Entry, NO_YIELD, SuspendedTokens, Suspension, Table};

/// A handle to the key store. Clones share one worker. When the last handle is dropped, the worker tries once more to
/// write the pending changes, then stops.
#[derive(Clone, Debug)]
pub struct KeyStore {
    commands: Sender<StoreCommand>,
    /// Only for what cannot wait for the worker.
    table: Arc<Table>,
    /// Who asks for the changes that are sent by this handle.
    origin: ChangeOrigin,
    status: Arc<ArcSwap<KeyStoreStatus>>,
    revision: watch::Receiver<Option<u64>>,
    fresh: watch::Receiver<Option<Instant>>,
    known_gateways: u64,
    /// Ends with the last handle.
    _follower: Option<Arc<FollowerHandle>>,
}

/// The reply to a command: await it, or call [`wait`](Self::wait). Dropping it does not cancel the command.
#[derive(Debug)]
#[must_use]
pub struct ReplyFuture<T, E>(oneshot::Receiver<Result<T, E>>);

impl KeyStore {
    /// Puts the loaded keys into the table and starts the worker. `events` is called on the worker's thread, before the
    /// reply to the same command is sent.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        settings: &config::KeysConfig,
        table: Arc<Table>,
        loaded: LoadedKeys,
        events: impl Fn(KeyStoreEvent<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_audited(settings, table, loaded, AuditTrail::of(None), events)
    }

    /// The same, with audit rows of all changes.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start_audited(
        settings: &config::KeysConfig,
        table: Arc<Table>,
        loaded: LoadedKeys,
        audit: AuditTrail,
        events: impl Fn(KeyStoreEvent<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let source = KeySource::File(KeyFileSource::new(settings.file.clone()));
        let revision = Revision::File(loaded.stamp);
        let state = state(settings, table, source, audit, Box::new(events));
        state.table.swap(loaded.entries, NO_YIELD);
        Self::start_worker(state, Some(revision), None)
    }

    /// Reads the keys of a database that several gateways share, or their last good copy, starts the worker, and follows what
    /// other gateways change.
    ///
    /// # Errors
    /// The database fails in a way that does not pass by itself, the copy is faulty or a key file of its own, or no thread can
    /// be started.
    pub fn start_following(
        settings: &config::KeysConfig,
        table: Arc<Table>,
        database: &Database,
        audit: AuditTrail,
        events: impl Fn(KeyStoreEvent<'_>) + Send + 'static,
    ) -> Result<Self, StartKeysError> {
        let (Some(keys), follower_keys) = (database.keys(), database.keys()) else {
            let what = io::Error::other(SourceError::NotShared);
            return Err(StartKeysError::System(what));
        };
        let keys = DatabaseKeySource::start(keys, &settings.file, &table)?;
        Self::start_with(settings, table, keys, follower_keys, audit, events)
            .map_err(StartKeysError::System)
    }

    fn start_with(
        settings: &config::KeysConfig,
        table: Arc<Table>,
        keys: StartKeys,
        follower_keys: Option<PostgresKeys>,
        audit: AuditTrail,
        events: impl Fn(KeyStoreEvent<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let StartKeys {
            source,
            entries,
            unreadable,
            position,
            awaited,
            copied,
            changed,
            looked,
            copy_age,
            not_followed,
            missing_file,
        } = keys;
        let source = KeySource::Database(Box::new(source));
        let mut state = state(settings, table, source, audit, Box::new(events));
        state.watch = false;
        state.is_unchecked = not_followed.is_some();
        state.tell_unreadable(&unreadable);
        if let Some(file) = &missing_file {
            (state.events)(KeyStoreEvent::CopyIncomplete { missing: file });
        }
        match position {
            Some(_) => state.table.keys_are_known(),
            None => state.table.await_keys(),
        }
        let is_behind = matches!(not_followed, Some(SourceError::Behind { .. }));
        state.take_over(&copied, is_behind);
        state.settle_all(&changed, looked);
        let mut entries = entries;
        if not_followed.is_none() {
            // The copy is without what they took away; the database may not be.
            state.pending = state.apply_pending(&mut entries, &unreadable);
        }
        state.table.swap(entries, NO_YIELD);
        let fresh = match &not_followed {
            None => Some(Instant::now()),
            Some(_) => copy_age.and_then(|age| Instant::now().checked_sub(age)),
        };
        state.fresh.send_replace(fresh);
        let revision = position.or(awaited).map(Revision::Database);
        if let Some(revision) = revision {
            state.set_loaded(revision);
        }
        state.set_follow_state(match not_followed {
            None => FollowState::InSync,
            Some(error) => FollowState::NotFollowed(error),
        });
        state.write_copy();
        Self::start_worker(state, revision, follower_keys)
    }

    fn start_worker(
        mut state: KeyStoreState,
        revision: Option<Revision>,
        follower_keys: Option<PostgresKeys>,
    ) -> io::Result<Self> {
        if let Some(revision) = revision {
            state.set_loaded(revision);
        }
        let known_gateways = state.gateways.known;
        let (pending, keys) = (state.pending.len(), state.table.len());
        state.update_status(|status| {
            status.pending = pending;
            status.last_reload.message = format_key_count(keys);
        });
        let (commands, receiver) = mpsc::channel();
        let follower = match follower_keys {
            Some(keys) => {
                let (commands, position) = (commands.clone(), state.position.subscribe());
                let send = move |look| commands.send(StoreCommand::Follow(look)).is_ok();
                Some(Arc::new(follower::start(keys, position, send)?))
            }
            None => None,
        };
        let (table, status, revision, fresh) = (
            Arc::clone(&state.table),
            Arc::clone(&state.status),
            state.revision.subscribe(),
            state.fresh.subscribe(),
        );
        std::thread::Builder::new()
            .name("key-store".to_owned())
            .spawn(move || state.run(&receiver))?;
        Ok(Self {
            commands,
            table,
            origin: ChangeOrigin::key_file(),
            status,
            revision,
            fresh,
            known_gateways,
            _follower: follower,
        })
    }

    /// When the keys in force were certainly those of the database; None: that is not known, or they come from a file.
    #[must_use]
    pub fn fresh(&self) -> watch::Receiver<Option<Instant>> {
        self.fresh.clone()
    }

    /// Has the accounts written into the last good copy, where the keys come from a database.
    pub fn accounts_changed(&self) {
        // If the worker has stopped, there is nothing to write any more.
        let _ = self.commands.send(StoreCommand::AccountsChanged);
    }

    /// Has the number of gateways that share the database written into the last good copy.
    pub fn gateways_seen(&self, gateways: u64) {
        // If the worker has stopped, there is nothing to write any more.
        let _ = self.commands.send(StoreCommand::GatewaysSeen(gateways));
    }

    /// How many gateways shared the database when the last good copy was written before the start; 0: that is not known.
    #[must_use]
    pub fn known_gateways(&self) -> u64 {
        self.known_gateways
    }

    /// Follows the database although it lacks changes that were seen here, and lets the other gateways do so.
    pub fn accept_rollback(&self, dry_run: bool) -> ReplyFuture<Reloaded, StoreError> {
        self.send(|reply| {
            StoreCommand::AcceptRollback(AcceptRollback {
                dry_run,
                origin: self.origin.clone(),
                reply,
            })
        })
    }

    /// The database's revision of the keys in force, and each one that comes. None where they come from a file.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<Option<u64>> {
        self.revision.clone()
    }

    /// A handle that shows the revisions that a test sends.
    #[cfg(test)]
    pub(crate) fn with_revision(self, revision: watch::Receiver<Option<u64>>) -> Self {
        Self { revision, ..self }
    }

    /// A handle whose changes are asked for by somebody else.
    #[must_use]
    pub fn on_behalf_of(&self, origin: ChangeOrigin) -> Self {
        Self {
            origin,
            ..self.clone()
        }
    }

    /// Makes a key and its token. The key becomes the last of the file.
    pub fn create(&self, new: NewKey, now: UnixTime) -> ReplyFuture<CreatedKey, WriteError> {
        self.send(|reply| self.write_command(WriteCommand::Create { new, now, reply }))
    }

    /// Changes the fields of a key that the patch sets.
    pub fn update(
        &self,
        id: &str,
        patch: KeyPatch,
        now: UnixTime,
    ) -> ReplyFuture<Arc<Entry>, WriteError> {
        self.update_revision(id, ExpectedRevision::Any, patch, now)
    }

    /// Changes a key if it is at an expected revision. No other change comes between the comparison and this one.
    pub fn update_revision(
        &self,
        id: &str,
        expected: ExpectedRevision,
        patch: KeyPatch,
        now: UnixTime,
    ) -> ReplyFuture<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.send(|reply| {
            self.write_command(WriteCommand::Update {
                id,
                patch,
                expected,
                now,
                reply,
            })
        })
    }

    /// Gives a key at an expected revision a new token. The one that it has works on for `grace_seconds`; the one before
    /// that ends.
    pub fn rotate(
        &self,
        id: &str,
        expected: ExpectedRevision,
        grace_seconds: u32,
        now: UnixTime,
    ) -> ReplyFuture<RotatedKey, WriteError> {
        let id = id.to_owned();
        self.send(|reply| {
            self.write_command(WriteCommand::Rotate {
                id,
                grace_seconds,
                expected,
                now,
                reply,
            })
        })
    }

    /// Deletes a key. The reply is the deleted key.
    pub fn delete(&self, id: &str) -> ReplyFuture<Arc<Entry>, WriteError> {
        self.delete_revision(id, ExpectedRevision::Any)
    }

    /// Deletes a key if it is at an expected revision.
    pub fn delete_revision(
        &self,
        id: &str,
        expected: ExpectedRevision,
    ) -> ReplyFuture<Arc<Entry>, WriteError> {
        let id = id.to_owned();
        self.send(|reply| {
            self.write_command(WriteCommand::Delete {
                id,
                expected,
                reply,
            })
        })
    }

    /// Loads the key file as it is now. Reloads that wait together share one read; a reload that is sent after that read
    /// began gets its own.
    pub fn reload(&self, drop_limit: DropLimit) -> ReplyFuture<Reloaded, StoreError> {
        self.send(|reply| {
            StoreCommand::Reload(ReloadCommand {
                drop_limit,
                dry_run: false,
                origin: self.origin.clone(),
                reply,
            })
        })
    }

    /// What [`KeyStore::reload`] would reply, without changing anything.
    pub fn dry_run(&self, drop_limit: DropLimit) -> ReplyFuture<Reloaded, StoreError> {
        self.send(|reply| {
            StoreCommand::Reload(ReloadCommand {
                drop_limit,
                dry_run: true,
                origin: self.origin.clone(),
                reply,
            })
        })
    }

    /// The state of file and table, for status and metrics.
    #[must_use]
    pub fn status(&self) -> Arc<KeyStoreStatus> {
        self.status.load_full()
    }

    fn send<T, E>(
        &self,
        command: impl FnOnce(ReplySender<T, E>) -> StoreCommand,
    ) -> ReplyFuture<T, E> {
        let (reply, receiver) = oneshot::channel();
        // If the worker has stopped, the reply's sender is dropped here, and the future returns WorkerStoppedError.
        let _ = self.commands.send(command(reply));
        ReplyFuture(receiver)
    }

    fn write_command(&self, command: WriteCommand) -> StoreCommand {
        let write = SubmittedWrite {
            origin: self.origin.clone(),
            suspension: self.suspend_at_once(&command),
            command,
            revoked_from: None,
        };
        StoreCommand::Write(Box::new(write), priority())
    }

    /// Suspends tokens that the worker is about to revoke, whatever it waits for before that: a lock, a disk, a database.
    /// A change that is meant for a certain revision, or changes something else too, is left to the worker, which may refuse it.
    fn suspend_at_once(&self, command: &WriteCommand) -> Option<Suspension> {
        let any = &ExpectedRevision::Any;
        let (id, tokens) = match command {
            WriteCommand::Delete { id, expected, .. } if expected == any => {
                (id, SuspendedTokens::All)
            }
            WriteCommand::Update {
                id,
                patch,
                expected,
                ..
            } if expected == any && patch.only_revokes() => match patch.revocation().disables {
                true => (id, SuspendedTokens::All),
                false => (id, SuspendedTokens::Previous),
            },
            WriteCommand::Create { .. }
            | WriteCommand::Update { .. }
            | WriteCommand::Rotate { .. }
            | WriteCommand::Delete { .. } => return None,
        };
        self.table.suspend(id, tokens)
    }
}

impl KeyStoreState {
    /// Takes over what the last good copy has beside the keys. `is_behind`: the accounts of the database are those of a backup.
    fn take_over(&mut self, copied: &CopyState, is_behind: bool) {
        self.gateways = KnownGateways::of(copied.gateways);
        if (is_behind || !self.table.knows_accounts())
            && let Some(accounts) = copied.accounts()
        {
            // Of the same instant as the keys; they are read anew once the database is back. Those of a backup hold no more
            // than its keys do.
            for account in accounts {
                self.table.put_account(account);
            }
            self.table.accounts_are_known();
        }
        let restored = copied.pending.iter().filter_map(|(id, note)| {
            let at = copied.pending_at.get(id).copied();
            let pending = PendingRevocation::restored(note, at, &self.table)?;
            Some((KeyId::parse(id).ok()?, pending))
        });
        self.pending = restored.collect();
    }
}

/// A state without keys.
fn state(
    settings: &config::KeysConfig,
    table: Arc<Table>,
    source: KeySource,
    audit: AuditTrail,
    events: Box<dyn Fn(KeyStoreEvent<'_>) + Send>,
) -> KeyStoreState {
    KeyStoreState {
        source,
        max_drop_percent: settings.max_drop_percent,
        watch: settings.watch,
        default_limits: settings.default_limits,
        table,
        audit,
        loaded: Revision::Unknown,
        rejected: None,
        pending: HashMap::new(),
        is_unchecked: false,
        gateways: KnownGateways::default(),
        status: Arc::new(ArcSwap::from_pointee(KeyStoreStatus {
            last_reload: LastReload {
                at: wall_clock::now(),
                result: ReloadResult::Ok,
                message: format_key_count(0),
            },
            pending: 0,
            pending_error: None,
            database: None,
        })),
        position: watch::channel(None).0,
        revision: watch::channel(None).0,
        fresh: watch::channel(None).0,
        events,
    }
}

impl<T, E: From<WorkerStoppedError>> ReplyFuture<T, E> {
    /// Blocks until the reply is there. Inside a runtime, await the future instead.
    ///
    /// # Errors
    /// Those of the command.
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
