//! From config file and command line to a [`Config`], or to everything that is wrong with them.
//!
//! Invariant: a config comes out only where there is no fault at all. What a reload takes, it can take alone: the
//! upstreams do not wait for a faulty certificate, nor the other way round (see [`Reading`]).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::store::config::sections::{
    ConfigReader, MAX_DROP_PERCENT, client_address, limits, timeouts, values,
};
use crate::store::config::tree::{Faults, Location, Section, TomlDocument};
use crate::store::config::{
    AdminConfig, ClientAddressSource, Config, KeysConfig, LimitsConfig, Listen, LogFormat,
    Timeouts, Tls, UpstreamConfig, files, value,
};
use crate::store::fault::Fault;

pub use crate::store::config::overrides::Overrides;

const MAX_WORKERS: usize = 1024;

/// Where a config is looked for when nobody names one.
const DEFAULT_PATHS: [&str; 2] = ["keygate.toml", "/etc/keygate/keygate.toml"];

/// A config as far as it could be read.
#[derive(Debug)]
pub struct ParsedConfig {
    /// The whole, or every fault.
    pub config: Result<Config, Vec<Fault>>,
    /// The upstreams, or the faults that concern them.
    pub upstreams: Result<Vec<UpstreamConfig>, Vec<Fault>>,
    /// What `[tls]` names, whatever the files hold; or the faults of the section itself.
    pub tls: Result<Option<Tls>, Vec<Fault>>,
    /// The key file, also where the config is faulty elsewhere.
    pub keys: Option<KeysConfig>,
    /// The admin socket, also where the config is faulty elsewhere.
    pub socket: Option<PathBuf>,
}

/// The config file to use: the one named with a flag, else by the environment, else the first of the usual places
/// that holds one. A named one need not exist; that is the reader's fault to find.
#[must_use]
pub fn find(explicit: Option<&Path>, environment: Option<&OsStr>) -> Option<PathBuf> {
    find_among(explicit, environment, &DEFAULT_PATHS.map(Path::new))
}

/// Reads a config file.
///
/// # Errors
/// Every fault of the file and of the overrides.
pub fn load(file: &Path, overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    read(Some(file), overrides).config
}

/// A config of the command line alone.
///
/// # Errors
/// Every fault of the overrides.
pub fn without_file(overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    read(None, overrides).config
}

/// The key file that a config names, or its default place; None where the file is no TOML or names none that could
/// be one.
#[must_use]
pub fn key_file_of(file: &Path, overrides: &Overrides) -> Option<PathBuf> {
    read(Some(file), overrides).keys.map(|keys| keys.file)
}

/// Reads a config, and keeps apart what can be used alone.
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
    // What is there but cannot be read, or leads nowhere, is found: it must be complained of, not skipped.
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
                config: Err(faults),
                keys: overrides.keys.clone().map(|file| KeysConfig {
                    file,
                    named: true,
                    watch: false,
                    max_drop_percent: MAX_DROP_PERCENT,
                }),
                socket: overrides.socket.clone(),
            }
        }
    }
}

/// A config's parts. What was faulty has left its fault, and is missing here or at its default.
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
}

impl ConfigParts {
    fn into_parsed(self, file: Option<&Path>, faults: &[Fault]) -> ParsedConfig {
        let socket = self.admin.as_ref().map(|admin| admin.socket.clone());
        ParsedConfig {
            upstreams: unless_faulty(faults, &["upstreams", "--upstream"], self.upstreams.clone()),
            tls: self.tls.clone(),
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
        })
    }
}

impl ConfigReader<'_> {
    fn parts(&self, mut root: Section<'_>) -> ConfigParts {
        let has_tls = root.has("tls");
        let listen = self.listen(&mut root);
        let parts = ConfigParts {
            public_url: root.text("public_url", |text| {
                value::base_url(text).map(|url| url.to_string())
            }),
            workers: root.number("workers", 0, MAX_WORKERS).unwrap_or(0),
            public_health: root.boolean("public_health").unwrap_or(false),
            cors_origins: values(root.texts("cors_origins", value::origin)),
            keys: self.keys(root.section("keys")),
            admin: self.admin(root.section("admin"), &listen, has_tls),
            client_address: client_address(root.section("client_address")),
            limits: limits(root.section("limits")),
            timeouts: timeouts(root.section("timeouts")),
            log_format: self.log_format(root.section("log")),
            upstreams: self.upstreams(&mut root),
            tls: self.tls(root.section("tls")),
            listen,
        };
        root.reject_unknown_fields();
        parts
    }
}

/// The value, or the faults of the sections and flags it was read from.
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
