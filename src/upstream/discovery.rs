//! Background tasks that keep the fleet up to date: they fetch each upstream's list of models, and probe replicas that
//! are down.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::http::buffer::{BufferPool, ReadBuffer};
use crate::http::forwarded_headers::write_line;
use crate::observe::log::{Event, Log};
use crate::runtime::timers::{TickTimer, TimerEntry};
use crate::upstream::connection::{ExchangeError, UpstreamConnection};
use crate::upstream::head::ResponseHead;
use crate::upstream::outbound::OutboundRequest;
use crate::upstream::pool::connect;
use crate::upstream::{Fleet, ModelClash, Replica, Upstream};

/// Time limit for fetching an upstream's list of models.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval between two fetches, after a successful one.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// The interval between two fetches, after a failed one.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Of this many consecutive failures one is logged: about one a minute.
const LOG_EVERY: u32 = 12;
/// The interval between two probes of a replica that is down, and the time limit of a probe.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Limits on a list of models: its bytes, the number of models used, and the bytes of a model's name.
const MAX_LIST_BYTES: usize = 4 << 20;
const MAX_MODELS: usize = 10_000;
const MAX_NAME_BYTES: usize = 512;
/// The most models that one log line names, and the most clashes that are logged at once.
const MAX_LOGGED_MODELS: usize = 20;

/// Runs the background tasks for as long as it is polled. Must be spawned on a `LocalSet`.
pub(crate) async fn maintain(fleet: Arc<Fleet>, log: Log) {
    let mut discovery_tasks: Vec<(Arc<Upstream>, tokio::task::JoinHandle<()>)> = Vec::new();
    let mut probe_tasks: Vec<(Arc<Replica>, tokio::task::JoinHandle<()>)> = Vec::new();
    let mut known_clashes = Vec::new();
    let started = Instant::now();
    loop {
        let routing = fleet.routing();
        if known_clashes != routing.clashes() {
            let known: HashSet<ModelClash> = known_clashes.into_iter().collect();
            let clashes = routing.clashes().iter();
            log_clashes(&log, clashes.filter(|clash| !known.contains(*clash)));
            known_clashes = routing.clashes().to_vec();
        }
        discovery_tasks.retain(|(upstream, task)| {
            let stays = routing
                .upstreams()
                .iter()
                .any(|other| Arc::ptr_eq(other, upstream));
            if !stays {
                task.abort();
            }
            stays
        });
        probe_tasks.retain(|(_, task)| !task.is_finished());
        for upstream in routing.upstreams() {
            if upstream.is_discovered()
                && !discovery_tasks
                    .iter()
                    .any(|(known, _)| Arc::ptr_eq(known, upstream))
            {
                let task =
                    discover_periodically(Arc::clone(&fleet), Arc::clone(upstream), log.clone());
                discovery_tasks.push((Arc::clone(upstream), tokio::task::spawn_local(task)));
            }
            for replica in upstream.replicas() {
                let is_due = !replica.is_up()
                    || (!replica.was_tried() && started.elapsed() > PROBE_INTERVAL);
                if is_due
                    && !probe_tasks
                        .iter()
                        .any(|(known, _)| Arc::ptr_eq(known, replica))
                {
                    let task = probe(
                        Arc::clone(&fleet),
                        Arc::clone(upstream),
                        Arc::clone(replica),
                        log.clone(),
                    );
                    probe_tasks.push((Arc::clone(replica), tokio::task::spawn_local(task)));
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Logs clashes one by one; of very many only the first, and how many are left out.
fn log_clashes<'c>(log: &Log, clashes: impl Iterator<Item = &'c ModelClash>) {
    let mut left_out = 0_u64;
    for (index, clash) in clashes.enumerate() {
        if index >= MAX_LOGGED_MODELS {
            left_out += 1;
            continue;
        }
        log.event(
            Event::warn("model_served_twice")
                .with("model", clash.model.as_str())
                .with("taken", clash.served_by.as_str())
                .with("ignored", clash.ignored.as_str()),
        );
    }
    if left_out > 0 {
        let event = Event::warn("models_served_twice_left_out");
        log.event(event.with("count", left_out));
    }
}

/// Probes a replica that is down until it accepts a connection. One that was never connected to is probed once, so that
/// it is known whether it is up before a request needs it.
async fn probe(fleet: Arc<Fleet>, upstream: Arc<Upstream>, replica: Arc<Replica>, log: Log) {
    if !replica.was_tried() {
        match try_connection(&replica).await {
            // Where this machine lacks what a connection takes, nothing is known.
            None => return,
            Some(is_up) => {
                fleet.set_health(&upstream, &replica, is_up);
            }
        }
        if replica.is_up() {
            return;
        }
    }
    let name = |event: Event| {
        event
            .with("upstream", upstream.name())
            .with("replica", replica.url().to_string())
    };
    log.event(name(Event::warn("replica_down")));
    while Arc::strong_count(&upstream) > 1 {
        sleep(PROBE_INTERVAL).await;
        if try_connection(&replica).await == Some(true) {
            if fleet.set_health(&upstream, &replica, true) {
                log.event(name(Event::info("replica_up")));
            }
            return;
        }
    }
}

/// Whether a replica accepts a connection; None where it was not asked, such as without a free descriptor.
async fn try_connection(replica: &Replica) -> Option<bool> {
    let address = (&*replica.url().host, replica.url().port);
    match timeout(PROBE_INTERVAL, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Some(true),
        Ok(Err(error)) if !is_refusal(&error) => None,
        Ok(Err(_)) | Err(_) => Some(false),
    }
}

/// Whether a failed connection is the replica's fault.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut
    )
}

async fn discover_periodically(fleet: Arc<Fleet>, upstream: Arc<Upstream>, log: Log) {
    let mut failures = 0_u32;
    loop {
        let result = timeout(DISCOVERY_TIMEOUT, fetch_models(&fleet, &upstream))
            .await
            .unwrap_or(Err(DiscoveryError::Silent));
        let wait = match result {
            Ok(models) => {
                let changed = upstream.discovered.load().as_deref() != Some(&models);
                if changed {
                    log.event(
                        Event::info("models_discovered")
                            .with("upstream", upstream.name())
                            .with("count", models.len())
                            .with(
                                "models",
                                models
                                    .iter()
                                    .take(MAX_LOGGED_MODELS)
                                    .cloned()
                                    .collect::<Vec<_>>(),
                            ),
                    );
                    upstream.discovered.store(Some(Arc::new(models)));
                    fleet.refresh_catalogue();
                }
                failures = 0;
                REFRESH_INTERVAL
            }
            Err(error) => {
                if failures.is_multiple_of(LOG_EVERY) {
                    log.event(
                        Event::warn("models_unknown")
                            .with("upstream", upstream.name())
                            .with("reason", error.to_string()),
                    );
                }
                failures = failures.wrapping_add(1);
                RETRY_INTERVAL
            }
        };
        upstream.discovery_attempted.store(true, Ordering::Release);
        sleep(wait).await;
    }
}

/// Why an upstream's models could not be fetched.
#[derive(Debug)]
enum DiscoveryError {
    Unreachable(io::Error),
    Exchange(ExchangeError),
    Status(u16),
    TooLong,
    Malformed(serde_json::Error),
    Silent,
}

impl std::fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "cannot connect: {error}"),
            Self::Exchange(ExchangeError::Broken(broken)) => broken.fmt(f),
            Self::Exchange(ExchangeError::Stale | ExchangeError::Silent) | Self::Silent => {
                f.write_str("no answer to GET /v1/models in time")
            }
            Self::Status(status) => write!(
                f,
                "GET /v1/models answers {status}; is its api_key_env or api_key_file right?"
            ),
            Self::TooLong => f.write_str("its list of models is too long"),
            Self::Malformed(error) => write!(f, "its list of models is not OpenAI's: {error}"),
        }
    }
}

/// Only `data[].id` is used (OpenAI's API, List models). An entry without an id is ignored. Ollama without a model answers
/// `"data": null`.
#[derive(Deserialize)]
struct ModelsResponse {
    #[serde(deserialize_with = "Option::deserialize")]
    data: Option<Vec<Value>>,
}

async fn fetch_models(fleet: &Fleet, upstream: &Upstream) -> Result<Vec<String>, DiscoveryError> {
    let mut last = DiscoveryError::Silent;
    for replica in upstream.replicas() {
        match fetch_models_from(upstream, replica).await {
            Ok(models) => return Ok(models),
            Err(error) => {
                // As for any other connection: a replica that refuses connections is marked down, and status and
                // metrics show it.
                if let DiscoveryError::Unreachable(cause) = &error
                    && is_refusal(cause)
                {
                    fleet.set_health(upstream, replica, false);
                }
                last = error;
            }
        }
    }
    Err(last)
}

async fn fetch_models_from(
    upstream: &Upstream,
    replica: &Replica,
) -> Result<Vec<String>, DiscoveryError> {
    let mut head = b"GET /v1/models HTTP/1.1\r\n".to_vec();
    write_line(&mut head, "host", replica.authority().as_bytes());
    if let Some(credential) = upstream.credential() {
        write_line(
            &mut head,
            "authorization",
            format!("Bearer {credential}").as_bytes(),
        );
    }
    head.extend_from_slice(b"accept: application/json\r\nconnection: close\r\n\r\n");
    let connected = connect(replica).await;
    let mut connection = UpstreamConnection::new(connected.map_err(DiscoveryError::Unreachable)?);
    replica.note_tried();
    // The caller sets the time limit.
    let (timer, entry) = (TickTimer::default(), TimerEntry::default());
    let buffers = BufferPool::default();
    let mut request = OutboundRequest::from_text(&buffers, head);
    let mut read = ReadBuffer::new(&buffers);
    let mut response = ResponseHead::awaited(buffers.take_fields());
    connection
        .exchange(&mut request, &mut read, &mut response, &timer, &entry)
        .await
        .map_err(DiscoveryError::Exchange)?;
    if !response.status.is_success() {
        return Err(DiscoveryError::Status(response.status.as_u16()));
    }
    let mut body = Vec::new();
    while let Some(piece) =
        poll_fn(|cx| connection.poll_piece(cx, &mut read, &mut response.framing)).await
    {
        let piece =
            piece.map_err(|broken| DiscoveryError::Exchange(ExchangeError::Broken(broken)))?;
        body.extend_from_slice(read.at(piece));
        if body.len() > MAX_LIST_BYTES {
            return Err(DiscoveryError::TooLong);
        }
    }
    connection.end_exchange();
    let list: ModelsResponse = serde_json::from_slice(&body).map_err(DiscoveryError::Malformed)?;
    let models = list.data.unwrap_or_default();
    let ids = models.iter().filter_map(|model| model["id"].as_str());
    // Parsers in C end a text at U+0000: a request for such a model would name another one to them.
    let usable = ids.filter(|id| (1..=MAX_NAME_BYTES).contains(&id.len()) && !id.contains('\0'));
    Ok(usable.take(MAX_MODELS).map(str::to_owned).collect())
}
