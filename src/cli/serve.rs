//! `keygate serve`: puts the floors together and starts them. The running and ending is [`super::life`]'s.
//!
//! The order of the start is a promise: nothing is accepted before config and key file are whole, the addresses are
//! free, and the admin socket is this process's own.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::admin::access::{AdminToken, admin_token};
use crate::admin::{self, ConfigSource, Services, reload};
use crate::gateway::worker::{Gateway, Settings};
use crate::net::listen;
use crate::net::tls::Certificates;
use crate::net::unix_socket;
use crate::observe::log::{Event, Form, Log, Writer};
use crate::observe::metrics::Metrics;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::wall_clock;
use crate::store::config::{Config, Listen, LogFormat, parse};
use crate::store::keeper::Keeper;
use crate::store::key_file;
use crate::store::key_file::Loaded;
use crate::table::{Table, WITHOUT_PAUSE};
use crate::upstream::{Fleet, discovery};

use super::ServeArgs;
use super::harden::{harden, log_panics};
use super::life::{Admin, Life, Signals, Workers, tell_systemd};
use super::start_fault::{StartFault, system};

/// How long the last log lines may take to leave.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the gateway as the command line says.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (file, overrides) = (args.config_file(), args.overrides());
    let source = move || parse::read(file.as_deref(), &overrides);
    let served = Ground::lay().and_then(|ground| {
        let config = source().config.map_err(StartFault::Files)?;
        serve(ground, config, Arc::new(source), async |_, _| ())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// What the process stands on before it reads its first file.
pub struct Ground {
    runtime: Runtime,
    hangup: Signal,
    descriptors: Option<u64>,
}

impl Ground {
    /// From here on SIGHUP means a reload, as soon as there is something to reload; until then it would end the process.
    ///
    /// # Errors
    /// [`StartFault::System`]
    pub fn lay() -> Result<Self, StartFault> {
        let descriptors = harden();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("the runtime"))?;
        let hangup = {
            let _inside = runtime.enter();
            signal(SignalKind::hangup()).map_err(system("the signal handlers"))?
        };
        Ok(Self {
            runtime,
            hangup,
            descriptors,
        })
    }
}

/// Runs the gateway until it is told to end. `started` is called once everything listens, with the address of the
/// admin API where it has one.
///
/// # Errors
/// [`StartFault`], before anything is accepted.
pub fn serve(
    ground: Ground,
    config: Config,
    config_source: ConfigSource,
    started: impl AsyncFnOnce(&Services, Option<SocketAddr>),
) -> Result<(), StartFault> {
    let Ground {
        runtime,
        hangup,
        descriptors,
    } = ground;
    // From here on every signal finds its handler.
    let signals = {
        let _inside = runtime.enter();
        Signals::new(hangup).map_err(system("the signal handlers"))?
    };
    let (parts, loaded) = Parts::prepare(config)?;
    let claimed = listen::claim(&parts.config.listen).map_err(StartFault::Listen)?;
    let (socket, socket_file) =
        unix_socket::claim(&parts.config.admin.socket, unix_socket::PRIVATE)
            .map_err(StartFault::Socket)?;
    let keeper = parts.start_keeper(loaded)?;
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
        certificates: parts.certificates.clone(),
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
        let workers = Workers::start(
            &parts.gateway(descriptors),
            claimed,
            services.config.workers,
        )?;
        tokio::task::spawn_local(discovery::look_after(
            Arc::clone(&services.fleet),
            services.log.clone(),
        ));
        tokio::task::spawn_local(admin::keep_the_hour(Arc::clone(&services)));
        announce(&services, &addresses, admin.address);
        tell_systemd(&[NotifyState::Ready]);
        started(&services, admin.address).await;
        Life {
            services,
            signals,
            admin,
            workers,
        }
        .run()
        .await
    });
    // Log lines of a start that failed are still written.
    parts.writer.finish(LAST_LINES);
    ended
}

/// What is made before anything listens.
struct Parts {
    config: Arc<Config>,
    table: Arc<Table>,
    fleet: Arc<Fleet>,
    certificates: Option<Certificates>,
    metrics: Metrics,
    log: Log,
    writer: Writer,
    lifecycle: Lifecycle,
}

impl Parts {
    fn prepare(config: Config) -> Result<(Self, Loaded), StartFault> {
        let metrics = Metrics::new()
            .map_err(|error| StartFault::System("metrics".into(), io::Error::other(error)))?;
        let table = Arc::new(Table::default());
        let file = &config.keys.file;
        if !config.keys.named && !file.exists() {
            key_file::make(file).map_err(system(file.display().to_string()))?;
        }
        let loaded = key_file::read(file, &table, WITHOUT_PAUSE)
            .map_err(|error| StartFault::Files(error.faults().to_vec()))?;
        let certificates = config.tls.as_ref().map(Certificates::load);
        let certificates = certificates.transpose().map_err(StartFault::Tls)?;
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
        let parts = Self {
            config: Arc::new(config),
            table,
            fleet: Arc::new(fleet),
            certificates,
            metrics,
            log,
            writer,
            lifecycle: Lifecycle::default(),
        };
        Ok((parts, loaded))
    }

    fn start_keeper(&self, loaded: Loaded) -> Result<Keeper, StartFault> {
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

    fn gateway(&self, descriptors: Option<u64>) -> Gateway {
        let mut settings = Settings::from(&*self.config);
        let descriptors = descriptors
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(usize::MAX);
        if settings.fit(descriptors) {
            let what = "the limit of open files leaves room for fewer connections than limits.connections; raise it";
            let event = Event::warn("descriptors").with("message", what);
            self.log.event(
                event
                    .with("limit", descriptors)
                    .with("connections", settings.max_connections()),
            );
        }
        Gateway {
            table: Arc::clone(&self.table),
            fleet: Arc::clone(&self.fleet),
            certificates: self.certificates.clone(),
            metrics: self.metrics.clone(),
            log: self.log.clone(),
            lifecycle: self.lifecycle.clone(),
            settings: Arc::new(settings),
            connections: Arc::new(AtomicUsize::new(0)),
        }
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

/// Says where the process listens, and what an operator should know of its files.
fn announce(services: &Services, addresses: &[Listen], admin: Option<SocketAddr>) {
    let say = |event: Event, name, value: String| services.log.event(event.with(name, value));
    for warning in services.config.warnings() {
        say(Event::warn("config"), "message", warning.to_string());
    }
    if let Some(warning) = key_file::readable_by_others(&services.config.keys.file) {
        say(Event::warn("key_file"), "message", warning.to_string());
    }
    for address in addresses {
        say(Event::info("listening"), "address", address.to_string());
    }
    if let Some(address) = admin {
        say(
            Event::info("admin_listening"),
            "address",
            address.to_string(),
        );
    }
}
