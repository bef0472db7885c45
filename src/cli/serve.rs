//! `keygate serve`: puts the floors together, starts the workers, and ends the process in good order.
//!
//! The order of the start is a promise: nothing is accepted before the config and the key file are whole, the addresses
//! are free, and the admin socket is this process's own. The order of the end is another: first whoever asks for
//! readiness is told, then listeners close and the admin socket is given up, so that a successor can start while
//! running requests finish.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::gateway::listen::{self, ListenFault};
use crate::gateway::serve::{Gateway, Settings, run_worker};
use crate::http::lifecycle::{Lifecycle, Phase};
use crate::http::tls::{Certificate, TlsFault};
use crate::http::upstream::{Fleet, UpstreamFault, discovery};
use crate::observe::log::{Event, Log, Writer};
use crate::observe::metrics::Metrics;
use crate::store::config::{Config, Listen, LogFormat};
use crate::store::fault::Fault;
use crate::store::keeper::{Drops, Keeper};
use crate::store::key_file;
use crate::table::Table;

/// How the config is read again on reload.
pub type Reread = Arc<dyn Fn() -> Result<Config, Vec<Fault>> + Send + Sync>;

/// What keeps the process from starting.
#[derive(Debug)]
pub enum StartFault {
    /// Of the config or the key file.
    Files(Vec<Fault>),
    /// Of an address.
    Listen(ListenFault),
    /// Of the certificate.
    Tls(TlsFault),
    /// Of an upstream's CA.
    Upstream(UpstreamFault),
    /// Of the system.
    System(&'static str, io::Error),
}

/// Runs the gateway until it is told to end.
///
/// # Errors
/// [`StartFault`], before anything is accepted.
pub fn serve(config: Config, reread: Reread) -> Result<(), StartFault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartFault::System("the runtime", error))?;
    // From here on a signal finds its handler.
    let signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(|error| StartFault::System("signal handlers", error))?
    };
    let metrics =
        Metrics::new().map_err(|error| StartFault::System("metrics", io::Error::other(error)))?;
    let format = config.log_format.unwrap_or(if io::stderr().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let (log, writer) = Log::start(format, metrics.log_lines_dropped().clone())
        .map_err(|error| StartFault::System("the log's thread", error))?;

    let table = Arc::new(Table::default());
    if !config.keys.named && key_file::look(&config.keys.file).is_none() {
        key_file::make(&config.keys.file)
            .map_err(|error| StartFault::System("the key file", error))?;
    }
    let loaded = key_file::read(&config.keys.file, &table)
        .map_err(|error| StartFault::Files(error.faults().to_vec()))?;
    let certificate = config
        .tls
        .as_ref()
        .map(|files| Certificate::load(&files.certificate, &files.private_key));
    let certificate = certificate.transpose().map_err(StartFault::Tls)?;
    let fleet =
        Arc::new(Fleet::new(&config.upstreams, metrics.clone()).map_err(StartFault::Upstream)?);
    let claimed = listen::claim(&config.listen).map_err(StartFault::Listen)?;
    let keeper = Keeper::start(&config.keys, Arc::clone(&table), loaded, |_| {})
        .map_err(|error| StartFault::System("the keeper's thread", error))?;

    let lifecycle = Lifecycle::default();
    let gateway = Gateway {
        table,
        fleet: Arc::clone(&fleet),
        certificate,
        metrics,
        log: log.clone(),
        lifecycle: lifecycle.clone(),
        settings: Arc::new(Settings::from(&config)),
        connections: Arc::new(AtomicUsize::new(0)),
    };
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let mut workers = Vec::new();
    for index in 0..count {
        let listeners = claimed.open().map_err(StartFault::Listen)?;
        let gateway = gateway.clone();
        let worker = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || run_worker(gateway, listeners));
        workers.push(worker.map_err(|error| StartFault::System("a worker's thread", error))?);
    }
    for address in claimed.addresses() {
        log.event(Event::info("listening").with("address", address.to_string()));
    }
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(discovery::look_after(fleet, log.clone()));
        let mut signals = signals;
        loop {
            tokio::select! {
                _ = signals.hangup.recv() => { let _ = keeper.reload(Drops::Guarded).await; }
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
            }
        }
        lifecycle.advance(Phase::Draining);
    });
    for worker in workers {
        let _ = worker.join();
    }
    writer.finish(Duration::from_secs(1));
    Ok(())
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}
