//! `keygate serve`: puts the floors together, starts the workers, and ends the process in good order.
//!
//! The order of the start is a promise: nothing is accepted before config and key file are whole, the addresses are
//! free, and the admin socket is this process's own. So is the order of the end: first whoever asks for readiness is
//! told, then listeners close and the admin socket is given up, so that a successor can start while running requests
//! finish.

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle as Task, LocalSet};
use tokio::time::{sleep, timeout};

use crate::admin::access::{AdminToken, admin_token};
use crate::admin::reload::{self, Wish};
use crate::admin::{self, ConfigSource, Services};
use crate::gateway::listen::{self, Claimed, ListenFault};
use crate::gateway::serve::run_worker;
use crate::gateway::worker::{Gateway, Settings};
use crate::http::lifecycle::{Lifecycle, Phase};
use crate::http::tls::{Certificate, TlsFault};
use crate::http::unix_socket::{self, ClaimFault, SocketFile};
use crate::http::upstream::{Fleet, UpstreamFault, discovery};
use crate::observe::log::{Event, Form, Log, Writer};
use crate::observe::metrics::Metrics;
use crate::store::config::{Config, LogFormat, parse};
use crate::store::fault::Fault;
use crate::store::keeper::{Drops, Keeper};
use crate::store::{key_file, wall_clock};
use crate::table::Table;

use super::ServeArgs;

/// setrlimit(2), RLIMIT_FSIZE; the same number on every Linux that Rust knows but MIPS and PA-RISC.
const SIGXFSZ: i32 = 25;
/// How long the last log lines may take to leave.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long running requests may take to notice that the process ends at once.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// What keeps the process from starting.
#[derive(Debug)]
pub enum StartFault {
    /// Something in the config or the key file.
    Files(Vec<Fault>),
    /// An address of the data port.
    Listen(ListenFault),
    /// The admin socket.
    Socket(ClaimFault),
    /// The certificate.
    Tls(TlsFault),
    /// An upstream's CA.
    Upstream(UpstreamFault),
    /// The system: for what, and why not.
    System(String, io::Error),
}

impl fmt::Display for StartFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(faults) => {
                for (at, fault) in faults.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "\n" };
                    write!(f, "{separator}{fault}")?;
                }
                Ok(())
            }
            Self::Listen(fault) => fault.fmt(f),
            Self::Socket(fault) => fault.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Upstream(fault) => write!(f, "upstream {}: {}", fault.upstream, fault.fault),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartFault {}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartFault {
    |error| StartFault::System(what.into(), error)
}

/// Runs the gateway as the command line says.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (file, overrides) = (args.config_file(), args.overrides());
    let source = move || parse::read(file.as_deref(), &overrides);
    let config = source().config.map_err(StartFault::Files);
    match config.and_then(|config| serve(config, Arc::new(source), async |_, _| ())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the gateway until it is told to end. `started` is called once everything listens, with the address of the
/// admin API where it has one.
///
/// # Errors
/// [`StartFault`], before anything is accepted.
pub fn serve(
    config: Config,
    config_source: ConfigSource,
    started: impl AsyncFnOnce(&Services, Option<SocketAddr>),
) -> Result<(), StartFault> {
    harden();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the runtime"))?;
    // From here on a signal finds its handler.
    let signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(system("the signal handlers"))?
    };
    let parts = Parts::prepare(config)?;
    let claimed = listen::claim(&parts.config.listen).map_err(StartFault::Listen)?;
    let (socket, socket_file) =
        unix_socket::claim(&parts.config.admin.socket, unix_socket::PRIVATE)
            .map_err(StartFault::Socket)?;
    let keeper = parts.start_keeper()?;
    let addresses = claimed.addresses();
    let url = addresses
        .first()
        .map(|first| parts.config.url(first) + "/v1")
        .unwrap_or_default();
    let token = parts.admin_token()?;
    let services = Arc::new(Services {
        config: Arc::clone(&parts.config),
        table: Arc::clone(&parts.table),
        keeper,
        fleet: Arc::clone(&parts.fleet),
        certificate: parts.certificate.clone(),
        metrics: parts.metrics.clone(),
        log: parts.log.clone(),
        lifecycle: parts.lifecycle.clone(),
        url,
        config_source,
        token,
        memory: admin::Memory::default(),
    });

    let ended = LocalSet::new().block_on(&runtime, async {
        let admin = Admin::open(&services, socket, socket_file).await?;
        let workers = Workers::start(&parts, &claimed)?;
        tokio::task::spawn_local(discovery::look_after(
            Arc::clone(&services.fleet),
            services.log.clone(),
        ));
        tokio::task::spawn_local(admin::keep_the_hour(Arc::clone(&services)));
        for warning in services.config.warnings() {
            services
                .log
                .event(Event::warn("config").with("message", warning.to_string()));
        }
        if let Some(warning) = key_file::readable_by_others(&services.config.keys.file) {
            services
                .log
                .event(Event::warn("key_file").with("message", warning.to_string()));
        }
        for address in &addresses {
            services
                .log
                .event(Event::info("listening").with("address", address.to_string()));
        }
        if let Some(address) = admin.address {
            services
                .log
                .event(Event::info("admin_listening").with("address", address.to_string()));
        }
        tell_systemd(&[NotifyState::Ready]);
        started(&services, admin.address).await;
        Life {
            services,
            signals,
            admin,
            workers,
        }
        .run()
        .await;
        Ok(())
    });
    // Log lines of a start that failed are still written.
    parts.writer.finish(LAST_LINES);
    ended
}

/// What is made before anything listens.
struct Parts {
    config: Arc<Config>,
    table: Arc<Table>,
    loaded: std::cell::Cell<Option<key_file::Loaded>>,
    fleet: Arc<Fleet>,
    certificate: Option<Certificate>,
    metrics: Metrics,
    log: Log,
    writer: Writer,
    lifecycle: Lifecycle,
}

impl Parts {
    fn prepare(config: Config) -> Result<Self, StartFault> {
        let metrics = Metrics::new()
            .map_err(|error| StartFault::System("metrics".into(), io::Error::other(error)))?;
        let table = Arc::new(Table::default());
        let file = &config.keys.file;
        if !config.keys.named && !file.exists() {
            key_file::make(file).map_err(system(file.display().to_string()))?;
        }
        let loaded = key_file::read(file, &table)
            .map_err(|error| StartFault::Files(error.faults().to_vec()))?;
        let certificate = match &config.tls {
            Some(files) => Some(
                Certificate::load(&files.certificate, &files.private_key)
                    .map_err(StartFault::Tls)?,
            ),
            None => None,
        };
        let fleet = Fleet::new(&config.upstreams, metrics.clone()).map_err(StartFault::Upstream)?;
        let form = match config.log_format {
            Some(LogFormat::Text) => Form::Text,
            Some(LogFormat::Json) => Form::Json,
            None if io::stderr().is_terminal() => Form::Text,
            None => Form::Json,
        };
        let (log, writer) = Log::start(form, metrics.log_lines_dropped().clone())
            .map_err(system("the log's thread"))?;
        log_panics(log.clone());
        Ok(Self {
            config: Arc::new(config),
            table,
            loaded: Some(loaded).into(),
            fleet: Arc::new(fleet),
            certificate,
            metrics,
            log,
            writer,
            lifecycle: Lifecycle::default(),
        })
    }

    fn start_keeper(&self) -> Result<Keeper, StartFault> {
        let Some(loaded) = self.loaded.take() else {
            return Err(StartFault::System(
                "the key table".into(),
                io::ErrorKind::NotFound.into(),
            ));
        };
        let (log, metrics) = (self.log.clone(), self.metrics.clone());
        let keeper = Keeper::start(
            &self.config.keys,
            Arc::clone(&self.table),
            loaded,
            move |event| {
                reload::note(&log, &metrics, wall_clock::now(), &event);
            },
        );
        let keeper = keeper.map_err(system("the keeper's thread"))?;
        self.metrics
            .last_reload(keeper.status().last_reload.at.seconds());
        Ok(keeper)
    }

    fn admin_token(&self) -> Result<Option<AdminToken>, StartFault> {
        let file = &self.config.admin.token_file;
        match self.config.admin.listen {
            Some(_) => admin_token(file)
                .map(Some)
                .map_err(system(file.display().to_string())),
            None => Ok(None),
        }
    }
}

/// The admin API's listeners.
struct Admin {
    tasks: Vec<Task<()>>,
    address: Option<SocketAddr>,
    socket_file: SocketFile,
}

impl Admin {
    async fn open(
        services: &Arc<Services>,
        socket: std::os::unix::net::UnixListener,
        socket_file: SocketFile,
    ) -> Result<Self, StartFault> {
        let listener = socket
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(socket));
        let listener = listener.map_err(system("the admin socket"))?;
        let mut tasks = vec![tokio::task::spawn_local(admin::serve_unix(
            listener,
            Arc::clone(services),
        ))];
        let mut address = None;
        if let Some(wanted) = services.config.admin.listen {
            let listener = TcpListener::bind(wanted)
                .await
                .map_err(system(format!("admin.listen {wanted}")))?;
            address = listener.local_addr().ok();
            tasks.push(tokio::task::spawn_local(admin::serve_tcp(
                listener,
                Arc::clone(services),
            )));
        }
        Ok(Self {
            tasks,
            address,
            socket_file,
        })
    }

    /// Closes both, so that a successor can have them.
    fn give_up(self) {
        for task in self.tasks {
            task.abort();
        }
        self.socket_file.release();
    }
}

/// The workers' threads.
struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Each ends when its worker does, however it does.
    ends: Vec<oneshot::Receiver<()>>,
}

impl Workers {
    fn start(parts: &Parts, claimed: &Claimed) -> Result<Self, StartFault> {
        let gateway = Gateway {
            table: Arc::clone(&parts.table),
            fleet: Arc::clone(&parts.fleet),
            certificate: parts.certificate.clone(),
            metrics: parts.metrics.clone(),
            log: parts.log.clone(),
            lifecycle: parts.lifecycle.clone(),
            settings: Arc::new(Settings::from(&*parts.config)),
            connections: Arc::new(AtomicUsize::new(0)),
        };
        let count = match parts.config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let mut workers = Self {
            threads: Vec::new(),
            ends: Vec::new(),
        };
        for index in 0..count {
            let listeners = claimed.open().map_err(StartFault::Listen)?;
            let (gateway, (end, ended)) = (gateway.clone(), oneshot::channel::<()>());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let _end = end;
                    run_worker(gateway, listeners)
                });
            workers
                .threads
                .push(thread.map_err(system("a worker's thread"))?);
            workers.ends.push(ended);
        }
        Ok(workers)
    }

    async fn all_ended(&mut self) {
        for end in self.ends.drain(..) {
            // An error is what tells that the worker is gone.
            let _ = end.await;
        }
    }
}

/// The running process, up to its end.
struct Life {
    services: Arc<Services>,
    signals: Signals,
    admin: Admin,
    workers: Workers,
}

impl Life {
    async fn run(mut self) {
        // Holds one wish at most: signals that come while a reload runs share the next one.
        let wish = Rc::new(Notify::new());
        tokio::task::spawn_local(reload_when_told(
            Arc::clone(&self.services),
            Rc::clone(&wish),
        ));
        while let Told::Reload = self.signals.next().await {
            wish.notify_one();
        }
        let (services, log) = (&self.services, &self.services.log);
        let timeouts = &services.config.timeouts;
        log.event(Event::info("shutting_down"));
        tell_systemd(&[NotifyState::Stopping]);
        services.lifecycle.advance(Phase::Announcing);
        let at_once = tokio::select! {
            () = sleep(timeouts.drain_delay) => false,
            () = self.signals.told_to_end() => true,
        };
        services.lifecycle.advance(Phase::Draining);
        self.admin.give_up();
        if !at_once {
            tokio::select! {
                _ = timeout(timeouts.drain, self.workers.all_ended()) => {}
                () = self.signals.told_to_end() => {}
            }
        }
        services.lifecycle.advance(Phase::Ending);
        // A worker that does not even notice this is ended with the process.
        let _ = timeout(LAST_BREATH, self.workers.all_ended()).await;
        for worker in self
            .workers
            .threads
            .into_iter()
            .filter(JoinHandle::is_finished)
        {
            if let Ok(Err(error)) = worker.join() {
                log.event(Event::error("worker_failed").with("reason", error.to_string()));
            }
        }
        log.event(Event::info("stopped"));
    }
}

/// Reloads at each wish, one after the other.
async fn reload_when_told(services: Arc<Services>, wish: Rc<Notify>) {
    loop {
        wish.notified().await;
        let since = NotifyState::monotonic_usec_now().into_iter();
        tell_systemd(
            &[NotifyState::Reloading]
                .into_iter()
                .chain(since)
                .collect::<Vec<_>>(),
        );
        reload::reload(&services, "SIGHUP", Wish::Reload(Drops::Guarded)).await;
        tell_systemd(&[NotifyState::Ready]);
    }
}

/// What a signal says.
enum Told {
    Reload,
    End,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Has no meaning here but that a write past a file size limit fails instead of killing the process.
    _file_too_large: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_too_large: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }

    async fn told_to_end(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}

/// No core dump may hold a token; every descriptor the system grants is for connections.
fn harden() {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    // Where the system refuses, the gateway is no less a gateway.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    );
}

/// A panic is a line like any other; what it says holds no client's data, since none is ever formatted into one.
fn log_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        log.event(Event::error("panic").with("place", place));
    }));
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(state);
}
