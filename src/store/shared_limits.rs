//! Limits that gateways share through their database: the one thread that has the leases of this gateway renewed.
//!
//! A second after the last renewal, and earlier where somebody asks, it makes the claims of all keys and accounts that are in use,
//! reads what the database has of them, renews it and writes it: two statements for all of them together, without a lock
//! between them. What another gateway has changed meanwhile is read and renewed again. Nothing is asked while no limit is in
//! use.
//!
//! Invariant: requests never wait for this thread, but for [`SharedLimits::renewed`], which has a limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::policy::budget::Budget;
use crate::policy::fleet_link::FleetLink;
use crate::policy::limit_leases::ClaimFacts;
use crate::policy::rate_limit::Monotonic;
use crate::policy::shared_limit::{LeaseClaim, LeaseGrant, RenewalTime, SharedKind, SharedLimit};
use crate::policy::time::UnixTime;
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock;
use crate::store::budgets::owner;
use crate::store::database::{ChangedLimit, Database, DatabaseError, LeaseDriver, SharedLimitId};
use crate::table::{Ceiling, LimitHolder};

/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between the beginnings of two renewals, also where somebody asks for an earlier one.
const RENEW_PAUSE: Duration = Duration::from_millis(50);
/// How long a request waits for a renewal.
const REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How often a limit is read again that others change all the time.
const MOST_TRIES: usize = 8;
/// Limits of one statement.
const LIMITS_AT_ONCE: usize = 2_000;
/// Between two looks for limits that nobody uses any more.
const DELETE_EVERY: Duration = Duration::from_secs(60);
/// How long the end waits for the leases to be given back.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What happened to leases, for logs and metrics. It is told on the thread that renews them.
#[derive(Debug)]
pub(crate) enum LeaseEvent<'e> {
    /// The leases of so many keys and accounts were renewed.
    Renewed {
        /// How many.
        holders: usize,
        /// How long it took.
        took: Duration,
    },
    /// They cannot be renewed.
    Away(&'e DatabaseError),
    /// They can be renewed again.
    Back,
}

/// Is told what happened.
pub(crate) type LeaseObserver = Box<dyn Fn(LeaseEvent<'_>) + Send>;

/// The limits that this gateway shares with others.
#[derive(Debug)]
pub(crate) struct SharedLimits {
    link: Mutex<FleetLink>,
    /// Those in use, by what the database calls them.
    holders: Mutex<HashMap<String, Ceiling>>,
    wake: SyncSender<Wake>,
    /// Renewals that have begun.
    begun: AtomicU64,
    /// The number of the last one that has ended.
    ended: watch::Sender<u64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Wake {
    Renew,
    Stop,
}

impl SharedLimits {
    /// Starts the thread. None where no other gateway shares the database.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(
        database: &Arc<Database>,
        instance: String,
        link: FleetLink,
        zone: TimeZone,
        observer: LeaseObserver,
    ) -> std::io::Result<Option<Arc<Self>>> {
        let Some(driver) = database.lease_driver() else {
            return Ok(None);
        };
        // One waiting word is enough; a second one would ask for the same.
        let (wake, woken) = sync_channel(1);
        let shared = Arc::new(Self {
            link: Mutex::new(link),
            holders: Mutex::default(),
            wake,
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            thread: Mutex::new(None),
        });
        let renewer = LeaseRenewer {
            shared: Arc::clone(&shared),
            database: Arc::clone(database),
            driver,
            instance,
            zone,
            observer,
            last_delete: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("leases".to_owned())
            .spawn(move || renewer.run(&woken))?;
        *lock(&shared.thread) = Some(thread);
        Ok(Some(shared))
    }

    /// The way to the other gateways.
    pub(crate) fn link(&self) -> FleetLink {
        *lock(&self.link)
    }

    /// So many gateways share the database, also where no limit is in use here.
    pub(crate) fn see_gateways(&self, gateways: u64) {
        lock(&self.link).see_gateways(gateways);
    }

    /// Has the leases of a key or an account renewed soon and from now on, until it is not used for a while.
    pub(crate) fn renew(&self, ceiling: &Ceiling) {
        let id = holder_id(&ceiling.holder);
        lock(&self.holders).insert(id, ceiling.clone());
        if let Some(leases) = ceiling.holder.limiter().leases() {
            leases.begin_renewals();
        }
        // Full: it was told already.
        let _ = self.wake.try_send(Wake::Renew);
    }

    /// The same, and waits for it, but not for long, and not where the database is known to be away. Returns whether it was
    /// renewed.
    pub(crate) async fn renewed(&self, ceiling: &Ceiling) -> bool {
        let mut ended = self.ended.subscribe();
        let next = self.begun.load(Ordering::SeqCst) + 1;
        self.renew(ceiling);
        if self.link().is_away() {
            return false;
        }
        let renewed = ended.wait_for(|ended| *ended >= next);
        timeout(REQUEST_WAIT, renewed).await.is_ok()
    }

    /// How long a request waits at most until more is lent.
    pub(crate) fn longest_wait() -> Duration {
        REQUEST_WAIT
    }

    /// Gives all leases back and ends the thread.
    pub(crate) fn stop(&self) {
        // Where it was woken before, it takes this at once after.
        let until = Instant::now() + STOP_TIMEOUT;
        while self.wake.try_send(Wake::Stop).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let thread = lock(&self.thread).take();
        while let Some(thread) = &thread
            && !thread.is_finished()
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The thread's state.
struct LeaseRenewer {
    shared: Arc<SharedLimits>,
    database: Arc<Database>,
    driver: Box<dyn LeaseDriver>,
    instance: String,
    zone: TimeZone,
    observer: LeaseObserver,
    last_delete: Instant,
}

/// A claim, with what it is about.
struct OpenClaim {
    id: SharedLimitId,
    ceiling: Ceiling,
    claim: LeaseClaim,
}

impl LeaseRenewer {
    fn run(mut self, woken: &Receiver<Wake>) {
        let mut began = Instant::now();
        loop {
            let pause = (began + RENEW_EVERY).saturating_duration_since(Instant::now());
            match woken.recv_timeout(pause) {
                Ok(Wake::Renew) => {
                    let pause = (began + RENEW_PAUSE).saturating_duration_since(Instant::now());
                    std::thread::sleep(pause);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.round(true);
                    return;
                }
            }
            began = Instant::now();
            self.round(false);
        }
    }

    /// One renewal of all that is due.
    fn round(&mut self, ends: bool) {
        let number = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let was_away = self.shared.link().is_away();
        let began = Instant::now();
        let (own, claims, idle) = self.claims(ends);
        if !claims.is_empty() || was_away {
            let holders = lock(&self.shared.holders).len();
            match self.renew(own, claims) {
                Ok(()) => {
                    self.forget(&idle);
                    if was_away {
                        (self.observer)(LeaseEvent::Back);
                    }
                    let took = began.elapsed();
                    (self.observer)(LeaseEvent::Renewed { holders, took });
                    self.delete_old();
                }
                Err(error) => {
                    lock(&self.shared.link).fail(monotonic_now());
                    if !was_away {
                        (self.observer)(LeaseEvent::Away(&error));
                    }
                }
            }
        }
        self.shared.ended.send_replace(number);
    }

    /// All claims that are due, from before which instant they are, and who is not used any more.
    fn claims(&self, ends: bool) -> (Monotonic, Vec<OpenClaim>, Vec<String>) {
        let holders: Vec<(String, Ceiling)> = {
            let holders = lock(&self.shared.holders);
            let all = holders.iter();
            all.map(|(id, ceiling)| (id.clone(), ceiling.clone()))
                .collect()
        };
        let gateways = self.shared.link().gateways();
        let now = monotonic_now();
        let (mut claims, mut idle) = (Vec::new(), Vec::new());
        for (id, ceiling) in holders {
            let mut limiter = ceiling.holder.limiter();
            let running = limiter.running();
            let Some(leases) = limiter.leases() else {
                continue;
            };
            let is_idle = leases.are_idle(running, now);
            let facts = ClaimFacts {
                gateways,
                now,
                running,
                ends: is_idle || ends,
            };
            let made = leases.claims(&ceiling.rates, ceiling.holder.budgets(), facts);
            drop(limiter);
            if is_idle {
                idle.push(id.clone());
            }
            claims.extend(made.into_iter().map(|claim| OpenClaim {
                id: SharedLimitId {
                    holder: id.clone(),
                    kind: claim.kind.label(),
                },
                ceiling: ceiling.clone(),
                claim,
            }));
        }
        (now, claims, idle)
    }

    fn renew(&mut self, own: Monotonic, mut claims: Vec<OpenClaim>) -> Result<(), DatabaseError> {
        claims.sort_by(|one, other| one.id.cmp(&other.id));
        if claims.is_empty() {
            // Whether it is back.
            let read = self.driver.read_limits(&[])?;
            self.answered(own, read.gateways, read.now);
            return Ok(());
        }
        let mut chunks = Vec::new();
        while !claims.is_empty() {
            let rest = claims.split_off(claims.len().min(LIMITS_AT_ONCE));
            chunks.push(std::mem::replace(&mut claims, rest));
        }
        for mut open in chunks {
            for _ in 0..MOST_TRIES {
                open = self.renew_once(own, open)?;
                if open.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns the claims that have to be tried again: another gateway has changed what was read.
    fn renew_once(
        &mut self,
        own: Monotonic,
        mut open: Vec<OpenClaim>,
    ) -> Result<Vec<OpenClaim>, DatabaseError> {
        let ids: Vec<SharedLimitId> = open.iter().map(|open| open.id.clone()).collect();
        let read = self.driver.read_limits(&ids)?;
        let mut known: HashMap<SharedLimitId, (i64, Option<String>)> = read
            .limits
            .into_iter()
            .map(|stored| (stored.id, (stored.version, stored.state)))
            .collect();
        let mut grants: Vec<LeaseGrant> = Vec::with_capacity(open.len());
        let mut changes = Vec::with_capacity(open.len());
        for one in &mut open {
            let (version, state) = known.remove(&one.id).unwrap_or_default();
            let (mut limit, time) = self.stored(one, state.as_deref(), read.now, own)?;
            let grant = limit.renew(&self.instance, &one.claim, time);
            changes.push(ChangedLimit {
                id: one.id.clone(),
                version,
                state: serde_json::to_string(&limit).unwrap_or_default(),
                ends_at: limit.ends_at(),
            });
            grants.push(grant);
        }
        // From here on the database may have it, whatever is answered.
        for (one, grant) in open.iter_mut().zip(&grants) {
            if let Some(leases) = one.ceiling.holder.limiter().leases() {
                leases.send(one.claim.kind, grant);
            }
            one.claim.available = one.claim.available.saturating_sub(grant.lost);
        }
        let changed = self.driver.change_limits(&changes)?;
        let mut again = Vec::new();
        for (one, grant) in open.into_iter().zip(grants) {
            if !changed.contains(&one.id) {
                again.push(one);
                continue;
            }
            let holder = &one.ceiling.holder;
            let mut limiter = holder.limiter();
            if let Some(leases) = limiter.leases() {
                leases.confirm(&one.claim, grant, own);
            }
            if matches!(one.claim.kind, SharedKind::Budget(..)) {
                limiter.learn_spent(holder.budgets());
            }
        }
        self.answered(own, read.gateways, read.now);
        Ok(again)
    }

    /// What the database has of a limit, and the time of its renewal. Of a budget, what was spent is read from the sums where
    /// nobody else knows it.
    fn stored(
        &self,
        open: &OpenClaim,
        state: Option<&str>,
        now: i64,
        own: Monotonic,
    ) -> Result<(SharedLimit, RenewalTime), DatabaseError> {
        let mut time = RenewalTime {
            now,
            own: own.millis(),
            period_start: 0,
        };
        // One that another version has written in another way is begun anew.
        let known: Option<SharedLimit> = state.and_then(|state| serde_json::from_str(state).ok());
        let kind = open.claim.kind;
        let holder = &open.ceiling.holder;
        let of_kind = |budget: &&Budget| kind == SharedKind::Budget(budget.unit, budget.period);
        let Some(budget) = holder.budgets().iter().find(of_kind) else {
            return Ok((known.unwrap_or_default(), time));
        };
        let at = UnixTime::from_seconds(now.div_euclid(1000));
        time.period_start = budget.period.around(at, &self.zone).start.seconds().max(0);
        let spent = || {
            self.database
                .budget_spent(owner(holder), budget, at, &self.zone)
        };
        let limit = match known {
            None => SharedLimit::of_budget(spent()?, time.period_start),
            Some(mut limit) => {
                if limit.end_leases(kind, time) {
                    limit.raise_to(spent()?);
                }
                limit
            }
        };
        Ok((limit, time))
    }

    fn answered(&self, sent: Monotonic, gateways: u64, now: i64) {
        let ahead = now.div_euclid(1000) - wall_clock::now().seconds();
        lock(&self.shared.link).answer(sent, gateways, ahead);
    }

    /// Renews those no more that are not used any more. One that is used again meanwhile stays.
    fn forget(&self, idle: &[String]) {
        let mut holders = lock(&self.shared.holders);
        for id in idle {
            let Some(ceiling) = holders.get(id) else {
                continue;
            };
            let mut limiter = ceiling.holder.limiter();
            let running = limiter.running();
            let is_idle = limiter.leases().is_none_or(|leases| {
                let is_idle = leases.are_idle(running, monotonic_now());
                if is_idle {
                    leases.end_renewals();
                }
                is_idle
            });
            drop(limiter);
            if is_idle {
                holders.remove(id);
            }
        }
    }

    fn delete_old(&mut self) {
        if self.last_delete.elapsed() >= DELETE_EVERY {
            self.last_delete = Instant::now();
            // The next look does what this one could not.
            let _ = self.driver.delete_old_limits();
        }
    }
}

/// What the database calls a key or an account.
pub(crate) fn holder_id(holder: &LimitHolder) -> String {
    match holder {
        LimitHolder::Key(entry) => format!("key/{}", entry.key().id()),
        LimitHolder::Account(entry, _) => format!("account/{}", entry.id()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
