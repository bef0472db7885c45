//! The config as types that cannot be wrong. What each field means stands in `deploy/keygate.toml`.
//!
//! [`parse`] makes one out of a file and the command line; `value` knows the forms of single values, `tree` knows
//! lines and collects faults, `files` looks into what the config names, `names` into what certificates are for.

mod files;
pub(crate) mod names;
mod overrides;
pub mod parse;
pub mod restart;
mod sections;
mod tree;
mod upstreams;
mod value;
mod warnings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// The whole config, after the file, the environment and the command line were put together. Paths are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// What users see as the gateway's address, without a trailing slash; None: made from the first listen address.
    pub public_url: Option<String>,
    /// How many workers; 0: one per core.
    pub workers: usize,
    /// Whether /healthz and /readyz answer on the data port too.
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
    /// The form of log lines; None: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// The servers behind the gateway, in the file's order; at least one.
    pub upstreams: Vec<UpstreamConfig>,
}

impl Config {
    /// What users see as the gateway's address, without a trailing slash. `first` is the first listen address as it is
    /// bound, which may have got its port from the system.
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
    /// The certificate that a client gets who asks for no name, or for one that no certificate holds.
    pub first: TlsFiles,
    /// Certificates for further names, in the file's order.
    pub more: Vec<TlsFiles>,
    /// Who signs the certificates that clients of the data port must show; None: clients show none.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// Every certificate with its field in the config, the first one first.
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
    /// Its private key.
    pub private_key: PathBuf,
}

/// `[keys]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysConfig {
    /// The key file.
    pub file: PathBuf,
    /// Whether a config file or a flag names it: then a missing one is fatal at start.
    pub named: bool,
    /// Whether a change of the file is a reload.
    pub watch: bool,
    /// A reload or merge that drops more of the keys than this is refused unless forced. 0 to 100.
    pub max_drop_percent: u8,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP listener.
    pub listen: Option<SocketAddr>,
    /// The file with the TCP listener's bearer.
    pub token_file: PathBuf,
    /// Host headers taken besides localhost and the listener's own address.
    pub hosts: Vec<String>,
    /// Whether the TCP listener uses `[tls]`'s certificate.
    pub tls: bool,
    /// Whether /metrics over TCP needs no token.
    pub open_metrics: bool,
}

/// `[client_address]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddressSource {
    /// The socket's peer.
    Peer,
    /// X-Forwarded-For, as far as these networks' peers are believed. Not empty.
    XForwardedFor {
        /// Whose header is believed.
        trusted_proxies: Vec<IpNet>,
    },
    /// What these networks' peers say by the PROXY protocol before anything else. Not empty.
    ProxyProtocol {
        /// Who has to say so.
        trusted_proxies: Vec<IpNet>,
    },
}

impl ClientAddressSource {
    /// Who is believed.
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
    /// Request bodies held at once, over all requests, in bytes.
    pub buffered_bodies: usize,
    /// Largest request head, in bytes.
    pub headers: usize,
    /// Connections open at once.
    pub connections: usize,
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept, or from a head's first byte on a kept connection, to the whole head.
    pub header_read: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// How long a connection is kept after its last answer.
    pub keep_alive: Duration,
    /// How long a client may take nothing while there is something to write.
    pub client_write: Duration,
    /// To connect to an upstream, TLS included.
    pub upstream_connect: Duration,
    /// From the request's last byte to the head of the upstream's answer.
    pub upstream_first_byte: Duration,
    /// Between two pieces of an upstream's answer.
    pub stream_idle: Duration,
    /// How long an upstream connection is kept idle.
    pub upstream_keep_alive: Duration,
    /// How long running requests may take after SIGTERM.
    pub drain: Duration,
    /// How long requests are still taken after SIGTERM while /readyz is 503.
    pub drain_delay: Duration,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
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
    /// The models it serves; None: asked of it.
    pub models: Option<Vec<String>>,
    /// What it is sent in place of the client's token.
    pub credential: Option<Credential>,
    /// The CA its certificate must come from; None: the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// Scheme and authority of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaUrl {
    /// Whether it is https.
    pub https: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port, 80 or 443 where none was given.
    pub port: u16,
}

/// An upstream's credential, read from where the config says, without white space around it. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct Credential(String);

impl Credential {
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
            upstream_keep_alive: Duration::from_secs(4),
            drain: Duration::from_secs(300),
            drain_delay: Duration::ZERO,
        }
    }
}
