//! Reads the config file and the command line into a [`Config`], or into all their faults.
//!
//! Invariant: there is a config only if there is no fault. Upstreams and certificates can be reloaded one without the
//! other, so a fault in one does not hold up the other (see [`ParsedConfig`]).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::policy::fleet_link::LimitsUnavailable;
use crate::policy::key_limits::KeyLimits;
use crate::policy::price::ModelPrice;
use crate::store::config::sections::{
    ConfigReader, MAX_DROP_PERCENT, client_address, limits, timeouts, values,
};
use crate::store::config::tree::{Faults, Location, Section, TomlDocument};
use crate::store::config::{
    AdminConfig, AlertsConfig, AuditConfig, ClientAddressSource, Config, KeysConfig, KeysSource,
    LimitsConfig, Listen, LogFormat, SignInConfig, Timeouts, Tls, UpstreamConfig, UsageConfig,
    files, usage, value,
};
use crate::store::database::DatabaseUrl;
use crate::store::fault::Fault;

pub use crate::store::config::overrides::Overrides;

const MAX_WORKERS: usize = 1024;

/// The files that are tried if none is named.
const DEFAULT_PATHS: [&str; 2] = ["keygate.toml", "/etc/keygate/keygate.toml"];

/// The result of reading a config, by parts.
#[derive(Debug)]
pub struct ParsedConfig {
    /// The whole config, or all faults.
    pub config: Result<Config, Vec<Fault>>,
    /// The upstreams, or the faults of their fields.
    pub upstreams: Result<Vec<UpstreamConfig>, Vec<Fault>>,
    /// The files that `[tls]` names, whatever their content; or the faults of the section itself.
    pub tls: Result<Option<Tls>, Vec<Fault>>,
    /// The prices, or the faults of their fields.
    pub prices: Result<Vec<ModelPrice>, Vec<Fault>>,
    /// The alerts, or the faults of their section.
    pub alerts: Result<Option<AlertsConfig>, Vec<Fault>>,
    /// The key file, also if other parts have faults.
    pub keys: Option<KeysConfig>,
    /// The admin socket, also if other parts have faults.
    pub socket: Option<PathBuf>,
}

/// The config file to use: the one that a flag names, else the one that the environment names, else the first default
/// path that exists. A named file need not exist; reading it reports that.
#[must_use]
pub fn find(explicit: Option<&Path>, environment: Option<&OsStr>) -> Option<PathBuf> {
    find_among(explicit, environment, &DEFAULT_PATHS.map(Path::new))
}

/// Reads a config file.
///
/// # Errors
/// All faults of the file and of the overrides.
pub fn load(file: &Path, overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    read(Some(file), overrides).config
}

/// A config from the command line alone.
///
/// # Errors
/// All faults of the overrides.
pub fn without_file(overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    read(None, overrides).config
}

/// The key file that a config names, or its default path. None if the config is not TOML or the path is not valid.
#[must_use]
pub fn key_file_of(file: &Path, overrides: &Overrides) -> Option<PathBuf> {
    read(Some(file), overrides).keys.map(|keys| keys.file)
}

/// Reads a config. The result keeps the parts that can be used without the others.
#[must_use]
pub fn read(file: Option<&Path>, overrides: &Overrides) -> ParsedConfig {
    read_with(file, overrides, &|name| std::env::var_os(name))
}

fn find_among(
    explicit: Option<&Path>,
    environment: Option<&OsStr>,
    locations: &[&Path],
) -> Option<PathBuf> {
    let named = explicit.or_else(|| environment.filter(|name| !name.is_empty()).map(Path::new));
    // A file that cannot be read and a dangling link count as existing: they must be reported, not skipped.
    let there = |location: &&&Path| match location.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    named
        .or_else(|| locations.iter().find(there).copied())
        .map(Path::to_owned)
}

fn read_with(
    file: Option<&Path>,
    overrides: &Overrides,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> ParsedConfig {
    let faults = Faults::default();
    let reader = ConfigReader {
        faults: &faults,
        folder: file.and_then(Path::parent).unwrap_or(Path::new("")),
        environment,
        overrides,
    };
    let parts = match file {
        None => Some(reader.parts(Section::absent(&faults, Location::flag("")))),
        Some(file) => faults
            .record(&Location::file(file), files::read(file))
            .and_then(|text| TomlDocument::parse(file, &text, &faults))
            .map(|tree| reader.parts(tree.root(&faults))),
    };
    match parts {
        Some(parts) => parts.into_parsed(file, &faults.into_sorted()),
        None => {
            let faults = faults.into_sorted();
            ParsedConfig {
                upstreams: Err(faults.clone()),
                tls: Err(faults.clone()),
                prices: Err(faults.clone()),
                alerts: Err(faults.clone()),
                config: Err(faults),
                keys: overrides.keys.clone().map(|file| KeysConfig {
                    source: KeysSource::File,
                    file,
                    max_stale: None,
                    named: true,
                    watch: false,
                    max_drop_percent: MAX_DROP_PERCENT,
                    default_limits: KeyLimits::default(),
                    limits_unavailable: LimitsUnavailable::LocalShare,
                }),
                socket: overrides.socket.clone(),
            }
        }
    }
}

/// The parts of a config. A faulty part has added its fault, and is None or has its default value here.
struct ConfigParts {
    listen: Vec<Listen>,
    public_url: Option<String>,
    workers: usize,
    public_health: bool,
    cors_origins: Vec<String>,
    tls: Result<Option<Tls>, Vec<Fault>>,
    keys: Option<KeysConfig>,
    admin: Option<AdminConfig>,
    client_address: ClientAddressSource,
    limits: LimitsConfig,
    timeouts: Timeouts,
    log_format: Option<LogFormat>,
    upstreams: Vec<UpstreamConfig>,
    database: Option<Option<DatabaseUrl>>,
    gateway_name: String,
    usage: UsageConfig,
    audit: AuditConfig,
    prices: Vec<ModelPrice>,
    alerts: Option<AlertsConfig>,
    sign_in: Option<SignInConfig>,
}

impl ConfigParts {
    fn into_parsed(self, file: Option<&Path>, faults: &[Fault]) -> ParsedConfig {
        let socket = self.admin.as_ref().map(|admin| admin.socket.clone());
        ParsedConfig {
            upstreams: unless_faulty(faults, &["upstreams", "--upstream"], self.upstreams.clone()),
            tls: self.tls.clone(),
            prices: unless_faulty(faults, &["prices"], self.prices.clone()),
            alerts: unless_faulty(faults, &["alerts"], self.alerts.clone()),
            keys: self.keys.clone(),
            socket,
            config: self.whole(file, faults).ok_or_else(|| faults.to_vec()),
        }
    }

    fn whole(self, file: Option<&Path>, faults: &[Fault]) -> Option<Config> {
        let Self {
            listen,
            public_url,
            workers,
            public_health,
            cors_origins,
            tls,
            keys,
            admin,
            client_address,
            limits,
            timeouts,
            log_format,
            upstreams,
            database,
            gateway_name,
            usage,
            audit,
            prices,
            alerts,
            sign_in,
        } = self;
        if !faults.is_empty() {
            return None;
        }
        Some(Config {
            file: file.map(Path::to_owned),
            listen,
            public_url,
            workers,
            public_health,
            cors_origins,
            tls: tls.ok()?,
            keys: keys?,
            admin: admin?,
            client_address,
            limits,
            timeouts,
            log_format,
            upstreams,
            database: database?,
            gateway_name,
            usage,
            audit,
            prices,
            alerts,
            sign_in: sign_in?,
        })
    }
}

impl ConfigReader<'_> {
    fn parts(&self, mut root: Section<'_>) -> ConfigParts {
        let has_tls = root.has("tls");
        let listen = self.listen(&mut root);
        let mut database = root.section("database");
        let gateway_name = usage::gateway_name(&mut database);
        let database = self.database(database);
        let has_database = database.as_ref().map(Option::is_some);
        let is_shared = |url: &Option<DatabaseUrl>| matches!(url, Some(DatabaseUrl::Postgres(_)));
        let keys = self.keys(root.section("keys"), database.as_ref().map(is_shared));
        let upstreams = self.upstreams(&mut root, keys.as_ref());
        let usage = self.usage(
            root.section("usage"),
            database.as_ref().and_then(Option::as_ref),
            keys.as_ref().map_or(self.folder, |keys| &keys.file),
        );
        let parts = ConfigParts {
            public_url: root.text("public_url", |text| {
                value::base_url(text).map(|url| url.to_string())
            }),
            workers: root.number("workers", 0, MAX_WORKERS).unwrap_or(0),
            public_health: root.boolean("public_health").unwrap_or(false),
            cors_origins: values(root.texts("cors_origins", value::origin)),
            keys,
            admin: self.admin(root.section("admin"), &listen, has_tls),
            client_address: client_address(root.section("client_address")),
            limits: limits(root.section("limits")),
            timeouts: timeouts(root.section("timeouts")),
            log_format: self.log_format(root.section("log")),
            upstreams,
            alerts: self.alerts(root.section("alerts"), has_database),
            sign_in: self.sign_in(root.section("sign_in"), has_database),
            audit: self.audit(
                root.section("audit"),
                database.as_ref().and_then(Option::as_ref),
            ),
            database,
            gateway_name,
            usage,
            prices: self.prices(&mut root),
            tls: self.tls(root.section("tls")),
            listen,
        };
        root.reject_unknown_fields();
        parts
    }
}

/// The value, or the faults of the sections and flags that it was read from.
fn unless_faulty<T>(faults: &[Fault], sources: &[&str], value: T) -> Result<T, Vec<Fault>> {
    let concerns = |fault: &&Fault| sources.contains(&fault.section());
    let faults: Vec<Fault> = faults.iter().filter(concerns).cloned().collect();
    if faults.is_empty() {
        Ok(value)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests;
