//! `keygate serve`: creates all parts of the gateway and starts them. [`crate::cli::supervisor`] runs and ends them.
//!
//! The order of the start is a guarantee: no connection is accepted before config and key file are valid, the addresses
//! are free, and this process owns the admin socket.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::admin::token::{AdminToken, admin_token};
use crate::admin::{self, ConfigSource, Services, reload};
use crate::alerts::{self, Alerts};
use crate::cli::ServeArgs;
use crate::cli::process_limits::{log_panics, set_process_limits};
use crate::cli::start_error::{StartError, system};
use crate::cli::supervisor::{AdminListeners, Signals, Supervisor, Workers, tell_systemd};
use crate::cli::{stale_keys, usage_database};
use crate::gateway::keyless::KeylessConnections;
use crate::gateway::worker::{Gateway, Settings};
use crate::net::listen;
use crate::net::tls::Certificates;
use crate::net::unix_socket;
use crate::observe::log::{Event, Log, LogWriterHandle};
use crate::observe::metrics::Metrics;
use crate::oidc::Provider;
use crate::policy::fleet_link::FleetLink;
use crate::policy::price::PriceList;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::wall_clock;
use crate::store::audit::AuditTrail;
use crate::store::config::{
    Config, KeysConfig, KeysSource, Listen, LogFormat, parse, provide_alert_secret, provide_secrets,
};
use crate::store::database::{Database, GatewayIdentity};
use crate::store::key_file;
use crate::store::key_file::LoadedKeys;
use crate::store::key_store::{self, KeyStore, KeyStoreEvent, StartKeysError};
use crate::store::shared_limits::SharedLimits;
use crate::table::{NO_YIELD, Table};
use crate::upstream::{Fleet, discovery};

/// The longest time to write the last log lines.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the gateway as the arguments say.
#[must_use]
pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let served = Bootstrap::new().and_then(|bootstrap| {
        let file = args
            .config_file()
            .map_err(|fault| StartError::Files(vec![fault]))?;
        let overrides = args.overrides();
        let source = move || parse::read(file.as_deref(), &overrides);
        let config = source().config.map_err(StartError::Files)?;
        serve(bootstrap, config, Arc::new(source), async |_| ())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// What the process needs before it reads its first file.
pub(super) struct Bootstrap {
    runtime: Runtime,
    hangup: Signal,
    descriptors: Option<u64>,
}

impl Bootstrap {
    /// Creates the runtime and handles SIGHUP: it means a reload from now on. Without a handler it would end the process.
    ///
    /// # Errors
    /// [`StartError::System`]
    pub(super) fn new() -> Result<Self, StartError> {
        let descriptors = set_process_limits();
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

/// Runs the gateway until a signal ends it. Calls `started` when everything listens.
///
/// # Errors
/// The gateway cannot start; no connection was accepted yet. Or a worker failed later.
pub(super) fn serve(
    bootstrap: Bootstrap,
    config: Config,
    config_source: ConfigSource,
    started: impl AsyncFnOnce(&Arc<Services>),
) -> Result<(), StartError> {
    let Bootstrap {
        runtime,
        hangup,
        descriptors,
    } = bootstrap;
    // From now on every signal has a handler.
    let signals = {
        let _inside = runtime.enter();
        Signals::new(hangup).map_err(system("the signal handlers"))?
    };
    let (mut components, loaded) = Components::prepare(config)?;
    let claimed = listen::claim(&components.config.listen).map_err(StartError::Listen)?;
    let (socket, socket_file) =
        unix_socket::claim(&components.config.admin.socket, unix_socket::PRIVATE)
            .map_err(StartError::Socket)?;
    // After the admin socket, so that a second start by mistake changes nothing; before the keys, whose changes it records.
    components.open_database()?;
    let key_store = components.start_key_store(loaded)?;
    let is_loaded = components.restore_key_uses()?;
    let addresses = claimed.addresses();
    let url = addresses
        .first()
        .map(|first| components.config.url(first) + "/v1")
        .unwrap_or_default();
    components.share_limits(key_store.known_gateways())?;
    let token = components.admin_token()?;
    let alerts = components.alerts();
    let services = Arc::new(Services {
        config: Arc::clone(&components.config),
        table: Arc::clone(&components.table),
        key_store,
        fleet: Arc::clone(&components.fleet),
        certificates: components.certificates.clone(),
        metrics: components.metrics.clone(),
        log: components.log.clone(),
        gateway: components.gateway.clone(),
        database: components.database.clone(),
        shared_limits: components.shared_limits.clone(),
        alerts: alerts.clone(),
        prices: Arc::clone(&components.prices),
        lifecycle: components.lifecycle.clone(),
        url,
        config_source,
        provider: components.config.sign_in.oidc.as_ref().map(Provider::new),
        token,
        state: admin::AdminState::default(),
    });

    let ended = LocalSet::new().block_on(&runtime, async {
        let admin = AdminListeners::open(&services, socket, socket_file).await?;
        let workers = Workers::start(
            &components.gateway(descriptors, alerts.clone()),
            claimed,
            services.config.worker_count(),
        )?;
        tokio::task::spawn_local(discovery::maintain(
            Arc::clone(&services.fleet),
            services.log.clone(),
        ));
        tokio::task::spawn_local(alerts::maintain(
            services.alerts.clone(),
            Arc::clone(&services.table),
            Arc::clone(&services.fleet),
        ));
        tokio::task::spawn_local(admin::record_history(Arc::clone(&services)));
        tokio::task::spawn_local(admin::follow_accounts(Arc::clone(&services), is_loaded));
        if let Some(max_stale) = services.config.keys.max_stale {
            let (table, fresh) = (Arc::clone(&services.table), services.key_store.fresh());
            tokio::task::spawn_local(stale_keys::watch(table, fresh, max_stale));
        }
        tokio::task::spawn_local(admin::report_gateway(Arc::clone(&services)));
        announce(&services, &addresses, admin.address);
        tell_systemd(&[NotifyState::Ready]);
        started(&services).await;
        Supervisor {
            services,
            signals,
            admin,
            workers,
        }
        .run()
        .await
    });
    // The workers have ended, and their requests with them. What could not be kept is found again at the next start.
    alerts.flush();
    if let Some(shared) = &components.shared_limits {
        shared.stop();
    }
    if let Some(database) = &components.database {
        usage_database::stop(database, &components.gateway, &components.log);
    }
    // This also writes the log lines of a failed start.
    components.log_writer.finish(LOG_FLUSH_TIMEOUT);
    ended
}

/// What is created before anything listens.
struct Components {
    config: Arc<Config>,
    gateway: GatewayIdentity,
    table: Arc<Table>,
    fleet: Arc<Fleet>,
    certificates: Option<Certificates>,
    metrics: Metrics,
    log: Log,
    log_writer: LogWriterHandle,
    database: Option<Arc<Database>>,
    shared_limits: Option<Arc<SharedLimits>>,
    prices: Arc<ArcSwap<PriceList>>,
    lifecycle: Lifecycle,
}

/// The keys of the key file, which is made where nobody has named it.
fn load_key_file(keys: &KeysConfig, table: &Table) -> Result<LoadedKeys, StartError> {
    let file = &keys.file;
    if !keys.named && !file.exists() {
        key_file::create(file).map_err(system(file.display().to_string()))?;
    }
    key_file::read(file, table, NO_YIELD)
        .map_err(|error| StartError::Files(error.faults().to_vec()))
}

impl Components {
    /// The keys are those of the key file; None: they come from the database.
    fn prepare(mut config: Config) -> Result<(Self, Option<LoadedKeys>), StartError> {
        let metrics = Metrics::new()
            .map_err(|error| StartError::System("metrics".into(), io::Error::other(error)))?;
        let table = Arc::new(Table::default());
        let loaded = match config.keys.source {
            KeysSource::File => Some(load_key_file(&config.keys, &table)?),
            KeysSource::Database => None,
        };
        let certificates = config.tls.as_ref().map(Certificates::load);
        let certificates = certificates.transpose().map_err(StartError::Tls)?;
        provide_secrets(&mut config.upstreams)
            .and_then(|()| provide_alert_secret(config.alerts.as_mut()))
            .map_err(|(file, error)| StartError::System(file.display().to_string(), error))?;
        let fleet = Fleet::new(&config.upstreams, metrics.clone()).map_err(StartError::Upstream)?;
        let format = config
            .log_format
            .unwrap_or(match io::stderr().is_terminal() {
                true => LogFormat::Text,
                false => LogFormat::Json,
            });
        let (log, log_writer) = Log::start(format, metrics.log_lines_dropped().clone())
            .map_err(system("the log's thread"))?;
        log_panics(log.clone());
        let prices = Arc::new(ArcSwap::from_pointee(PriceList::new(&config.prices)));
        let gateway = GatewayIdentity::new(&config.gateway_name, wall_clock::now());
        let gateway = gateway.map_err(|error| {
            StartError::System("random numbers".into(), io::Error::other(error))
        })?;
        let components = Self {
            config: Arc::new(config),
            gateway,
            table,
            fleet: Arc::new(fleet),
            certificates,
            metrics,
            log,
            log_writer,
            database: None,
            shared_limits: None,
            prices,
            lifecycle: Lifecycle::default(),
        };
        Ok((components, loaded))
    }

    fn open_database(&mut self) -> Result<(), StartError> {
        if let Some(url) = &self.config.database {
            let database = usage_database::open(
                url,
                &self.gateway,
                (&self.config.usage, &self.config.audit),
                self.has_key_copy(),
                &self.log,
                &self.metrics,
            )?;
            usage_database::load_accounts(&database, &self.table, self.has_key_copy(), &self.log)?;
            self.database = Some(Arc::new(database));
        }
        Ok(())
    }

    /// Whether there are keys to serve without the database.
    fn has_key_copy(&self) -> bool {
        let keys = &self.config.keys;
        keys.source == KeysSource::Database && key_store::has_copy(&keys.file)
    }

    /// `gateways`: as many are known from before the start.
    fn share_limits(&mut self, gateways: u64) -> Result<(), StartError> {
        if let Some(database) = &self.database {
            let config = &self.config;
            self.shared_limits = usage_database::share_limits(
                database,
                &self.gateway.instance,
                FleetLink::new(config.keys.limits_unavailable, gateways),
                &config.usage.time_zone,
                &self.log,
                &self.metrics,
            )?;
        }
        Ok(())
    }

    fn alerts(&self) -> Alerts {
        Alerts::new(
            self.config.alerts.as_ref(),
            self.database.clone(),
            self.gateway.name.clone(),
            self.metrics.clone(),
            self.log.clone(),
        )
    }

    /// Whether all was read of what the start takes over from the database.
    fn restore_key_uses(&self) -> Result<bool, StartError> {
        let Some(database) = &self.database else {
            return Ok(true);
        };
        let is_loaded =
            usage_database::restore_key_uses(database, &self.table, self.has_key_copy())?;
        usage_database::compare_keys(database, &self.table, &self.log)?;
        Ok(is_loaded)
    }

    fn start_key_store(&self, loaded: Option<LoadedKeys>) -> Result<KeyStore, StartError> {
        let (log, metrics) = (self.log.clone(), self.metrics.clone());
        let (settings, table) = (&self.config.keys, Arc::clone(&self.table));
        let audit = AuditTrail::of(self.database.clone());
        let events = move |event: KeyStoreEvent<'_>| {
            reload::record_event(&log, &metrics, wall_clock::now(), &event);
        };
        let system = system("the key store's threads");
        let key_store = match (loaded, &self.database) {
            (Some(loaded), _) => {
                KeyStore::start_audited(settings, table, loaded, audit, events).map_err(system)?
            }
            (None, Some(database)) => {
                let started = KeyStore::start_following(settings, table, database, audit, events);
                started.map_err(|error| match error {
                    StartKeysError::Database(error) => StartError::Database(error),
                    StartKeysError::Copy(error) => StartError::Files(error.faults().to_vec()),
                    StartKeysError::System(error) => system(error),
                })?
            }
            (None, None) => {
                let what = "keys.source needs a database that gateways share";
                return Err(system(io::Error::other(what)));
            }
        };
        self.metrics
            .last_reload(key_store.status().last_reload.at.seconds());
        Ok(key_store)
    }

    fn gateway(&self, descriptors: Option<u64>, alerts: Alerts) -> Gateway {
        let mut settings = Settings::from(&*self.config);
        let descriptors = descriptors
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(usize::MAX);
        if settings.fit(descriptors, self.config.worker_count()) {
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
            database: self.database.clone(),
            shared_limits: self.shared_limits.clone(),
            prices: Arc::clone(&self.prices),
            alerts,
            lifecycle: self.lifecycle.clone(),
            settings: Arc::new(settings),
            connections: Arc::new(AtomicUsize::new(0)),
            keyless: KeylessConnections::default(),
        }
    }

    fn admin_token(&self) -> Result<Option<AdminToken>, StartError> {
        let file = &self.config.admin.token_file;
        match self.config.admin.listen {
            Some(_) => admin_token(file)
                .map(Some)
                .map_err(system(file.display().to_string())),
            None => Ok(None),
        }
    }
}

/// Logs the addresses, and warnings about the config and the key file.
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
