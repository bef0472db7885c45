//! What requests and connections share: with all workers, the [`Gateway`] and its [`Settings`]; with those of one
//! worker, its upstream connections, its deadlines and its buffers.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, Semaphore};

use crate::alerts::Alerts;
use crate::gateway::keyless::KeylessConnections;
use crate::gateway::refusal::Refusal;
use crate::http::buffer::BufferPool;
use crate::http::request_id::{RequestId, RequestIds};
use crate::net::tls::Certificates;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::observe::sampler::Sampler;
use crate::policy::key_limits::KeyLimits;
use crate::policy::price::PriceList;
use crate::request_body::budget::BufferBudget;
use crate::request_body::collect::BodyLimits;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::runtime::timers::TickTimer;
use crate::runtime::unauthenticated_queue::UnauthenticatedQueue;
use crate::runtime::wall_clock;
use crate::store::config::{ClientAddressSource, Config};
use crate::store::database::{Database, UsageSender};
use crate::store::shared_limits::SharedLimits;
use crate::table::{KeysState, Table};
use crate::upstream::Fleet;
use crate::upstream::pool::{Pool, UpstreamTimeouts};

/// Descriptors that are not for connections: each of the two admin listeners may take a third, files have the rest.
const KEPT_DESCRIPTORS: usize = 768;

/// Questions for usage that wait for the database at a time, for each worker. More than the database answers at once
/// would only be more threads.
const USAGE_QUESTIONS: usize = 2;

/// Audio files whose length is read at a time, for each worker. One takes some milliseconds at most.
const FILE_LENGTHS: usize = 1;

/// What all workers have in common.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// The keys.
    pub(crate) table: Arc<Table>,
    /// The upstreams.
    pub(crate) fleet: Arc<Fleet>,
    /// The certificates; None: plain HTTP.
    pub(crate) certificates: Option<Certificates>,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Log lines.
    pub(crate) log: Log,
    /// The database; None if the config has none.
    pub(crate) database: Option<Arc<Database>>,
    /// The limits that gateways share; None where there is one gateway alone.
    pub(crate) shared_limits: Option<Arc<SharedLimits>>,
    /// The prices in force.
    pub(crate) prices: Arc<ArcSwap<PriceList>>,
    /// Where the operator is told of budgets.
    pub(crate) alerts: Alerts,
    /// The phase the process is in.
    pub(crate) lifecycle: Lifecycle,
    /// What the config says.
    pub(crate) settings: Arc<Settings>,
    /// Client connections, over all workers.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Those that give way where there is no room for a new one.
    pub(crate) keyless: KeylessConnections,
}

/// What the config says of the data path.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whether /healthz and /readyz answer without a key.
    pub(crate) public_health: bool,
    /// The currency of costs.
    pub(super) currency: String,
    /// Whose days, weeks and months budgets have.
    pub(super) time_zone: TimeZone,
    /// The limits of keys that have none of that kind.
    pub(crate) default_limits: KeyLimits,
    /// Browser origins that may call.
    pub(crate) cors_origins: Vec<String>,
    /// How a client's address is found.
    pub(crate) client_address: ClientAddressSource,
    /// Under which bodies are read.
    pub(crate) bodies: BodyLimits,
    /// When the process started, in seconds since 1970.
    pub(crate) started: u64,
    /// How long clients and streams are waited for.
    pub(super) timeouts: ClientTimeouts,
    upstream: UpstreamTimeouts,
    /// Most bytes of a request's head.
    pub(super) max_head: usize,
    max_connections: usize,
    upstream_connections: UpstreamRoom,
}

/// How many connections to upstreams there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpstreamRoom {
    /// Over all workers.
    pub(super) all: usize,
    /// Of one worker.
    pub(super) per_worker: usize,
}

/// How long clients and streams are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientTimeouts {
    /// For the end of a TLS handshake.
    pub(super) tls_handshake: Duration,
    /// From accept, or from a head's first byte on a kept connection, to the whole head.
    pub(super) header_read: Duration,
    /// From the end of a response to the next head's first byte.
    pub(super) keep_alive: Duration,
    /// While a client takes nothing of what is to be written.
    pub(super) client_write: Duration,
    /// For the next piece of an upstream's response.
    pub(super) stream_idle: Duration,
    /// Silence of an event stream after which its client is sent a comment.
    pub(super) sse_ping: Option<Duration>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        Self {
            public_health: config.public_health,
            currency: config.usage.currency.clone(),
            time_zone: config.usage.time_zone.clone(),
            default_limits: config.keys.default_limits,
            cors_origins: config.cors_origins.clone(),
            client_address: config.client_address.clone(),
            bodies: BodyLimits {
                size: limits.request_body,
                budget: BufferBudget::new(limits.buffered_bodies, limits.request_body),
                idle: timeouts.body_idle,
            },
            started: u64::try_from(wall_clock::now().seconds()).unwrap_or(0),
            timeouts: ClientTimeouts {
                tls_handshake: timeouts.tls_handshake,
                header_read: timeouts.header_read,
                keep_alive: timeouts.keep_alive,
                client_write: timeouts.client_write,
                stream_idle: timeouts.stream_idle,
                sse_ping: Some(timeouts.sse_ping).filter(|pause| !pause.is_zero()),
            },
            upstream: UpstreamTimeouts {
                connect: timeouts.upstream_connect,
                first_byte: timeouts.upstream_first_byte,
                keep_alive: timeouts.upstream_keep_alive,
            },
            max_head: limits.headers,
            max_connections: limits.connections,
            upstream_connections: UpstreamRoom {
                all: usize::MAX,
                per_worker: usize::MAX,
            },
        }
    }
}

impl Settings {
    /// Takes no more connections than `descriptors` have room for: some are kept for the admin socket, the key file and
    /// the log, and a quarter of the others for connections to upstreams, which idle clients do not need. Returns
    /// whether that is fewer than the config says.
    pub(crate) fn fit(&mut self, descriptors: usize, workers: usize) -> bool {
        let kept = KEPT_DESCRIPTORS.min(descriptors / 4);
        let quarter = (descriptors - kept) / 4;
        self.upstream_connections = UpstreamRoom {
            all: quarter,
            per_worker: quarter / workers.max(1),
        };
        let room = (quarter * 3).max(1);
        let is_tight = room < self.max_connections;
        self.max_connections = self.max_connections.min(room);
        is_tight
    }

    /// Connections to upstreams that descriptors are kept for.
    #[must_use]
    pub(super) fn upstream_connections(&self) -> UpstreamRoom {
        self.upstream_connections
    }

    /// Connections that may be open at once, over all workers.
    #[must_use]
    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections
    }
}

/// One worker, as its requests see it.
#[derive(Debug)]
pub(crate) struct Worker {
    gateway: Gateway,
    /// Its connections to upstreams.
    pub(crate) pool: Rc<Pool>,
    /// Its deadlines.
    pub(crate) timer: TickTimer,
    /// Its way to the database; None if there is none.
    pub(super) usage: Option<UsageSender>,
    /// One for each question for usage that the database is asked at a time.
    pub(super) usage_questions: Arc<Semaphore>,
    /// One for each audio file whose length is read at a time.
    pub(super) file_lengths: Arc<Semaphore>,
    /// Its free buffers.
    pub(crate) buffers: BufferPool,
    /// Of the lines about load balancers that do not say for whom they speak.
    pub(super) refused_proxies: Sampler,
    /// Where requests without a good credential wait for their answer.
    pub(super) unauthenticated: UnauthenticatedQueue,
    date: RefCell<Date>,
    request_ids: RefCell<RequestIds>,
    open: Cell<usize>,
    /// Requests that are being forwarded.
    pub(super) forwarding: Cell<usize>,
    /// Requests that have ended, whose records wait for the length of a file.
    late_records: Cell<usize>,
    all_closed: Notify,
}

impl std::ops::Deref for Worker {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Worker {
    /// A worker without connections.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub(super) fn new(mut gateway: Gateway) -> io::Result<Rc<Self>> {
        gateway.log = gateway.log.with_own_buffer();
        gateway.metrics = gateway.metrics.with_own_counters();
        let (mut random, mut seed) = ([0; 8], [0; 32]);
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let (timer, buffers) = (TickTimer::default(), BufferPool::default());
        let pool = Pool::new(
            Arc::clone(&gateway.fleet),
            timer.clone(),
            gateway.settings.upstream,
            buffers.clone(),
            u64::from_le_bytes(random),
        );
        let usage = gateway.database.as_deref().map(Database::sender);
        let (open, all_closed) = (Cell::new(0), Notify::new());
        Ok(Rc::new(Self {
            gateway,
            pool,
            timer,
            usage,
            usage_questions: Arc::new(Semaphore::new(USAGE_QUESTIONS)),
            file_lengths: Arc::new(Semaphore::new(FILE_LENGTHS)),
            buffers,
            refused_proxies: Sampler::default(),
            unauthenticated: UnauthenticatedQueue::default(),
            date: RefCell::default(),
            request_ids: RefCell::new(RequestIds::new(seed)),
            open,
            forwarding: Cell::new(0),
            late_records: Cell::new(0),
            all_closed,
        }))
    }

    /// An id that no other request has and nobody can foretell.
    #[must_use]
    pub(crate) fn new_request_id(&self) -> RequestId {
        self.request_ids.borrow_mut().make()
    }

    /// A time as a Date header's value (RFC 9110 5.6.7), written out once a second.
    pub(super) fn date(&self, time: SystemTime) -> [u8; DATE_LENGTH] {
        let second = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.second != second {
            *date = Date::of(second);
        }
        date.text
    }

    /// Whether keys, accounts and catalogue are loaded and the process is not about to end.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.fleet.is_ready()
            && self.table.knows_accounts()
            && self.table.keys_state() != KeysState::Awaited
            && self.lifecycle.phase() == Phase::Running
    }

    /// Whether requests are taken at all.
    ///
    /// # Errors
    /// [`Refusal::ShuttingDown`], [`Refusal::NotReady`], [`Refusal::StaleTable`]
    pub(super) fn check_open(&self) -> Result<(), Refusal> {
        if self.lifecycle.phase() >= Phase::Draining {
            return Err(Refusal::ShuttingDown);
        }
        match self.table.keys_state() {
            KeysState::Known if self.fleet.is_ready() => Ok(()),
            KeysState::Known | KeysState::Awaited => Err(Refusal::NotReady),
            KeysState::Stale => Err(Refusal::StaleTable),
        }
    }

    /// Counts a connection for as long as what is returned lives.
    pub(super) fn opened(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections().inc();
        Open(Rc::clone(self))
    }

    /// Whether more connections are open, over all workers, than may be.
    pub(super) fn is_crowded(&self) -> bool {
        let open = self.connections.load(Ordering::Relaxed);
        let most = self.settings.max_connections;
        open > most && open - self.keyless.closing().min(open) > most
    }

    /// Keeps this worker alive until what is returned is dropped, for a record that is written later than its request
    /// ends.
    pub(super) fn late_record(self: &Rc<Self>) -> LateRecord {
        self.late_records.set(self.late_records.get() + 1);
        LateRecord(Rc::clone(self))
    }

    /// Waits until this worker's last connection is closed and its last record written.
    pub(super) async fn all_closed(&self) {
        while self.is_in_use() {
            self.all_closed.notified().await;
        }
    }

    fn is_in_use(&self) -> bool {
        self.open.get() > 0 || self.late_records.get() > 0
    }
}

/// Bytes of a Date header's value.
const DATE_LENGTH: usize = 29;

/// A second, and its text.
#[derive(Debug)]
struct Date {
    second: u64,
    text: [u8; DATE_LENGTH],
}

impl Default for Date {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Date {
    fn of(second: u64) -> Self {
        let time = i64::try_from(second)
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .unwrap_or_default();
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time);
        let text = text.unwrap_or_default();
        Self {
            second,
            text: text.as_bytes().try_into().unwrap_or([b' '; DATE_LENGTH]),
        }
    }
}

/// Counts a connection while it is open.
#[derive(Debug)]
pub(super) struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections().dec();
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.open.set(self.0.open.get() - 1);
        if !self.0.is_in_use() {
            self.0.all_closed.notify_one();
        }
    }
}

/// See [`Worker::late_record`].
#[derive(Debug)]
pub(super) struct LateRecord(Rc<Worker>);

impl Drop for LateRecord {
    fn drop(&mut self) {
        self.0.late_records.set(self.0.late_records.get() - 1);
        if !self.0.is_in_use() {
            self.0.all_closed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::config::parse::{self, Overrides};

    #[test]
    fn a_date_is_written_as_http_writes_it() {
        assert_eq!(
            &Date::of(784_111_777).text,
            b"Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }

    #[test]
    fn connections_leave_descriptors_for_upstreams_and_for_the_admin_socket() {
        let overrides = Overrides {
            upstreams: vec!["http://127.0.0.1:1".into()],
            ..Overrides::default()
        };
        let mut settings = Settings::from(&parse::without_file(&overrides).unwrap());
        assert!(!settings.fit(1 << 20, 2));
        assert_eq!(settings.max_connections(), 65_536);
        assert!(settings.fit(1024, 2));
        assert_eq!(settings.max_connections(), 576);
        assert!(settings.fit(60, 2));
        assert_eq!(settings.max_connections(), 33);
    }
}
