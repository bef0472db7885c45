//! The config as types; every value of them is valid. `deploy/keygate.toml` documents each field.
//!
//! [`parse`] reads a file and the command line, with `sections`, `upstreams`, `usage`, `alerts` and `sign_in` for its
//! parts. `value` parses single
//! values, `tree` finds lines and collects faults, `files` checks the files that the config names, `names` the names in
//! certificates. `warnings` and `restart` compare and judge whole configs.

mod alerts;
mod files;
mod mail;
pub(crate) mod names;
mod overrides;
pub mod parse;
pub(crate) mod restart;
mod sections;
pub(crate) mod secure_url;
mod sign_in;
mod tree;
mod upstreams;
mod usage;
pub(crate) mod value;
mod warnings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::body_fields::FieldRules;
use crate::policy::field_kind::ForwardHeaders;
use crate::policy::fleet_link::LimitsUnavailable;
use crate::policy::key_limits::KeyLimits;
use crate::policy::price::ModelPrice;
pub use crate::store::config::alerts::AlertsConfig;
pub use crate::store::config::mail::{MailAccount, MailConfig, MailTls};
pub use crate::store::config::secure_url::SecureUrl;
pub use crate::store::config::sign_in::{OidcConfig, SignInConfig};
pub use crate::store::config::usage::{AuditConfig, Engine, UsageConfig, UsageMode};
use crate::store::database::DatabaseUrl;
pub use crate::store::inject_secret::{InjectSecret, SaltOwner};

/// The whole config, merged from the file, the environment and the command line. Paths are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file that it was read from, if any.
    pub file: Option<PathBuf>,
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// The gateway's address as users see it, without a trailing slash. None: derived from the first listen address.
    pub public_url: Option<String>,
    /// The number of workers; 0 for one per core.
    pub workers: usize,
    /// Whether /healthz and /readyz are also served on the data port.
    pub public_health: bool,
    /// Browser origins that may call the gateway.
    pub cors_origins: Vec<String>,
    /// TLS on the data port; None: plain HTTP.
    pub tls: Option<Tls>,
    /// The key file.
    pub keys: KeysConfig,
    /// The admin listeners.
    pub admin: AdminConfig,
    /// How a client's address is found.
    pub client_address: ClientAddressSource,
    /// Limits.
    pub limits: LimitsConfig,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// The format of log lines. None: text on a terminal, otherwise JSON.
    pub log_format: Option<LogFormat>,
    /// The servers behind the gateway, in the file's order; at least one.
    pub upstreams: Vec<UpstreamConfig>,
    /// Where the database is; None: there is none.
    pub database: Option<DatabaseUrl>,
    /// By what name other gateways and receivers of alerts know this one.
    pub gateway_name: String,
    /// What is kept of the usage.
    pub usage: UsageConfig,
    /// What is kept of the audit.
    pub audit: AuditConfig,
    /// Prices, in the file's order; each model at most once.
    pub prices: Vec<ModelPrice>,
    /// Where the operator is told what happens; None: nowhere.
    pub alerts: Option<AlertsConfig>,
    /// How persons sign in to the panel.
    pub sign_in: SignInConfig,
}

impl Config {
    /// How many workers there are: what the config says, or one for each core.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }

    /// The gateway's address as users see it, without a trailing slash. `first` is the first listen address as it is
    /// bound: the system may have chosen its port.
    #[must_use]
    pub fn url(&self, first: &Listen) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let https = self.tls.is_some();
        let (host, port) = match first {
            Listen::Tcp(address) if address.ip().is_unspecified() => {
                ("localhost".to_owned(), address.port())
            }
            Listen::Tcp(address) => (address.ip().to_string(), address.port()),
            Listen::Unix(_) => ("localhost".to_owned(), if https { 443 } else { 80 }),
        };
        ReplicaUrl { https, host, port }.to_string()
    }
}

/// Creates the files of the secrets that the upstreams need and do not have yet.
///
/// # Errors
/// The file that cannot be created, and why.
pub(crate) fn provide_secrets(
    upstreams: &mut [UpstreamConfig],
) -> Result<(), (PathBuf, std::io::Error)> {
    for inject in upstreams
        .iter_mut()
        .filter_map(|upstream| upstream.inject.as_mut())
    {
        let provided = inject.secret.provide();
        provided.map_err(|error| (inject.secret.file().to_owned(), error))?;
    }
    Ok(())
}

/// Creates the file of the secret that alerts are signed with, if there is none yet.
///
/// # Errors
/// The file that cannot be created, and why.
pub(crate) fn provide_alert_secret(
    alerts: Option<&mut AlertsConfig>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let Some(AlertsConfig { secret, .. }) = alerts else {
        return Ok(());
    };
    let provided = secret.provide();
    provided.map_err(|error| (secret.file().to_owned(), error))
}

/// A listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP. An unspecified IPv6 address is dual-stack.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    /// As it is written in the config.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The default certificate, for clients that send no server name, or a name that no certificate contains.
    pub first: TlsFiles,
    /// Certificates for further names, in the file's order.
    pub more: Vec<TlsFiles>,
    /// The CA of the client certificates that the data port requires. None: no client certificates.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// Every certificate with its field in the config, the default one first.
    pub fn certificates(&self) -> impl Iterator<Item = (String, &TlsFiles)> {
        let more = self.more.iter().enumerate();
        let more = more.map(|(index, files)| (format!("tls.more[{index}]"), files));
        std::iter::once(("tls".to_owned(), &self.first)).chain(more)
    }
}

/// PEM files of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key of the leaf.
    pub private_key: PathBuf,
}

/// `[keys]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysConfig {
    /// Where the keys come from.
    pub source: KeysSource,
    /// The key file; where the keys come from a database, the last good copy of them.
    pub file: PathBuf,
    /// For how long the gateway goes on with keys that could not be compared with the database; None: for ever.
    pub max_stale: Option<Duration>,
    /// Whether a config file or a flag names the file. If so, the start fails if it is missing.
    pub named: bool,
    /// Whether a change of the file causes a reload.
    pub watch: bool,
    /// The percentage of the keys that a reload may drop, unless it is forced: 0 to 100.
    pub max_drop_percent: u8,
    /// The limits of keys that have none of that kind.
    pub default_limits: KeyLimits,
    /// What limits do that gateways share, while their database is away.
    pub limits_unavailable: LimitsUnavailable,
}

/// `keys.source`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysSource {
    /// The key file.
    File,
    /// The database that several gateways share.
    Database,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP listener.
    pub listen: Option<SocketAddr>,
    /// The file with the bearer token of the TCP listener.
    pub token_file: PathBuf,
    /// Host headers that are accepted besides localhost and the listener's own address.
    pub hosts: Vec<String>,
    /// Whether the TCP listener uses `[tls]`'s certificate.
    pub tls: bool,
    /// Whether /metrics over TCP is served without a token.
    pub open_metrics: bool,
}

/// `[client_address]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddressSource {
    /// The socket's peer.
    Peer,
    /// X-Forwarded-For, from trusted proxies only.
    XForwardedFor {
        /// The networks of the trusted proxies; at least one.
        trusted_proxies: Vec<IpNet>,
    },
    /// The PROXY protocol, from trusted proxies only.
    ProxyProtocol {
        /// The networks of the trusted proxies; at least one.
        trusted_proxies: Vec<IpNet>,
    },
}

impl ClientAddressSource {
    /// The networks of the trusted proxies; empty for [`Self::Peer`].
    #[must_use]
    pub fn trusted_proxies(&self) -> &[IpNet] {
        match self {
            Self::Peer => &[],
            Self::XForwardedFor { trusted_proxies } | Self::ProxyProtocol { trusted_proxies } => {
                trusted_proxies
            }
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Largest request body, in bytes.
    pub request_body: usize,
    /// All request bodies in memory at once, in bytes.
    pub buffered_bodies: usize,
    /// Largest request head, in bytes.
    pub headers: usize,
    /// Connections open at once.
    pub connections: usize,
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept, or from a head's first byte on a reused connection, to the end of the head.
    pub header_read: Duration,
    /// Between two reads of a request body.
    pub body_idle: Duration,
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// How long an idle connection is kept after its last response.
    pub keep_alive: Duration,
    /// How long a client may read nothing while there is data to write.
    pub client_write: Duration,
    /// To connect to an upstream, including TLS.
    pub upstream_connect: Duration,
    /// From the request's last byte to the head of the upstream's response.
    pub upstream_first_byte: Duration,
    /// Between two reads of an upstream's response.
    pub stream_idle: Duration,
    /// How long an event stream is silent before its client is sent a comment; zero: never.
    pub sse_ping: Duration,
    /// How long an idle upstream connection is kept.
    pub upstream_keep_alive: Duration,
    /// How long running requests may take after SIGTERM.
    pub drain: Duration,
    /// How long requests are still accepted after SIGTERM, while /readyz is 503.
    pub drain_delay: Duration,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[[upstreams]]`: one kind of server, with its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Its name in logs, metrics and the admin API.
    pub name: String,
    /// Its replicas; at least one.
    pub replicas: Vec<ReplicaUrl>,
    /// The models that it serves. None: it is asked for them.
    pub models: Option<Vec<String>>,
    /// The credential that is sent in place of the client's token.
    pub credential: Option<Credential>,
    /// The CA of its certificate. None: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// How the usage of its streams is learned.
    pub usage: UsageMode,
    /// The server that it runs, if the config says so.
    pub engine: Option<Engine>,
    /// Which of a client's header fields it gets besides those that every upstream gets.
    pub forward_headers: ForwardHeaders,
    /// Further names of its models, each with the model's own name.
    pub aliases: Vec<(String, String)>,
    /// What the gateway puts into bodies that it sends there.
    pub inject: Option<Inject>,
    /// Which fields of a body it takes.
    pub fields: FieldRules,
}

/// `inject`: what the gateway puts into the bodies that an upstream gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// Whose prompts share the upstream's prefix cache.
    pub cache_salt: SaltOwner,
    /// What the salts are derived from.
    pub secret: InjectSecret,
}

/// Scheme and authority of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaUrl {
    /// Whether the scheme is https.
    pub https: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port; 80 or 443 if the URL has none.
    pub port: u16,
}

/// The credential that another server knows the gateway by, without surrounding white space. Its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct Credential(String);

impl Credential {
    /// Messages never contain the credential.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() {
            return Err("leads to nothing; put the credential there".to_owned());
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.iter().all(u8::is_ascii_graphic) => Ok(Self(text.to_owned())),
            _ => Err(
                "leads to more than one word of visible ASCII; put the credential there, and nothing else"
                    .to_owned(),
            ),
        }
    }

    /// The credential, for the header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl std::fmt::Display for ReplicaUrl {
    /// As a URL; the default port is left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl ReplicaUrl {
    /// Host and port as in a Host header (RFC 9110 7.2): IPv6 in brackets, the default port left out.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            request_body: 32 << 20,
            buffered_bodies: 1 << 30,
            headers: 64 << 10,
            connections: 65_536,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            tls_handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            client_write: Duration::from_secs(60),
            upstream_connect: Duration::from_secs(5),
            upstream_first_byte: Duration::from_secs(600),
            stream_idle: Duration::from_secs(600),
            sse_ping: Duration::ZERO,
            upstream_keep_alive: Duration::from_secs(4),
            drain: Duration::from_secs(300),
            drain_delay: Duration::ZERO,
        }
    }
}
