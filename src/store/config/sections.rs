//! Reads each section of the config from TOML into its type. The upstreams have their own file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::policy::fleet_link::LimitsUnavailable;
use crate::policy::key_limits::{KeyLimits, LimitKind, LimitSetting, MAX_LIMIT};
use crate::store::config::overrides::Overrides;
use crate::store::config::tree::{Faults, Located, Location, Section};
use crate::store::config::{
    AdminConfig, ClientAddressSource, KeysConfig, KeysSource, LimitsConfig, Listen, LogFormat,
    Timeouts, Tls, TlsFiles, files, value,
};
use crate::store::fault::Fault;

const DEFAULT_LISTEN: &str = "[::]:8080";
const MAX_CONNECTIONS: usize = 16 << 20;
const HEADERS: std::ops::RangeInclusive<usize> = 8 << 10..=1 << 20;
const MIN_REQUEST_BODY: usize = 1 << 10;
pub(crate) const MAX_DROP_PERCENT: u8 = 50;

/// What every section's reader needs.
pub(crate) struct ConfigReader<'a> {
    pub(crate) faults: &'a Faults,
    /// Relative paths of the file start here.
    pub(crate) folder: &'a Path,
    pub(crate) environment: &'a dyn Fn(&str) -> Option<OsString>,
    pub(crate) overrides: &'a Overrides,
}

impl ConfigReader<'_> {
    /// At least one address, no two of which overlap.
    pub(crate) fn listen(&self, root: &mut Section<'_>) -> Vec<Listen> {
        let mut listen = root
            .text_or_texts("listen", |text| value::listen(text, self.folder))
            .unwrap_or_default();
        if !self.overrides.listen.is_empty() {
            let read = |text: &str| value::listen(text, Path::new(""));
            listen = self.flags("--listen", &self.overrides.listen, read);
        } else if !root.has("listen") {
            listen.extend(
                value::listen(DEFAULT_LISTEN, self.folder).map(|value| Located {
                    location: root.location("listen"),
                    value,
                }),
            );
        }
        for (index, Located { location, value }) in listen.iter().enumerate() {
            let others = values(Some(listen[..index].to_vec()));
            self.reject_duplicate_address(location, value, &others);
        }
        values(Some(listen))
    }

    fn reject_duplicate_address(&self, location: &Location, address: &Listen, others: &[Listen]) {
        if let Some(other) = others.iter().find(|other| overlap(address, other)) {
            self.faults.add(
                location,
                format!("{address} takes the place of {other}; choose another address or port"),
            );
        }
    }

    /// The faults of the section itself are separate from those of the files' content, since a reload loads each
    /// certificate on its own.
    pub(crate) fn tls(&self, mut section: Section<'_>) -> Result<Option<Tls>, Vec<Fault>> {
        if !section.is_present() {
            return Ok(None);
        }
        let first = self.tls_files(&mut section, "[tls]");
        let client_ca = section.text("client_ca", |text| value::path(text, self.folder));
        let client_ca_place = section.location("client_ca");
        let mut more = Vec::new();
        for mut section in section.sections("more").into_iter().flatten() {
            more.push(self.tls_files(&mut section, "this [[tls.more]]"));
            section.reject_unknown_fields();
        }
        section.reject_unknown_fields();
        let section_faults = self.faults.section_faults("tls");
        for files in first.iter().chain(more.iter().flatten()) {
            self.check_certificate(files);
        }
        if let Some(file) = &client_ca {
            let usable = files::certificate_authorities(file);
            self.faults.record(&client_ca_place, usable);
        }
        let paths = |[certificate, private_key]: [Located<PathBuf>; 2]| TlsFiles {
            certificate: certificate.value,
            private_key: private_key.value,
        };
        match first {
            Some(first) if section_faults.is_empty() => Ok(Some(Tls {
                first: paths(first),
                more: more.into_iter().flatten().map(paths).collect(),
                client_ca,
            })),
            _ => Err(section_faults),
        }
    }

    /// The paths of certificate and private key.
    fn tls_files(&self, section: &mut Section<'_>, title: &str) -> Option<[Located<PathBuf>; 2]> {
        if !section.is_present() {
            return None;
        }
        let mut required = |name| {
            if !section.has(name) {
                section.fault(
                    name,
                    format!("is missing; add {name} = \"FILE.pem\" to {title}"),
                );
            }
            let value = section.text(name, |text| value::path(text, self.folder))?;
            let location = section.location(name);
            Some(Located { location, value })
        };
        let (certificate, private_key) = (required("certificate"), required("private_key"));
        Some([certificate?, private_key?])
    }

    fn check_certificate(&self, [certificate, private_key]: &[Located<PathBuf>; 2]) {
        let chain = files::certificates(&certificate.value);
        let key = files::private_key(&private_key.value);
        let chain = self.faults.record(&certificate.location, chain);
        let key = self.faults.record(&private_key.location, key);
        if let (Some(chain), Some(key)) = (chain, key) {
            let fit = files::check_key_pair(chain, key).map(drop);
            self.faults.record(&private_key.location, fit);
        }
    }

    /// `has_shared_database`: whether the database is one that several gateways share; None: it is faulty.
    pub(crate) fn keys(
        &self,
        mut section: Section<'_>,
        has_shared_database: Option<bool>,
    ) -> Option<KeysConfig> {
        let named = self.overrides.keys.is_some() || section.has("file");
        let written = section.text("file", |text| value::path(text, self.folder));
        let file = match &self.overrides.keys {
            Some(file) => Some(file.clone()),
            None if named => written,
            None => Some(self.folder.join("keys.jsonl")),
        };
        let source = section.text("source", |text| match text {
            "file" => Ok(KeysSource::File),
            "database" => Ok(KeysSource::Database),
            _ => Err("must be \"file\" or \"database\"".to_owned()),
        });
        let source = source.unwrap_or(KeysSource::File);
        if source == KeysSource::Database && has_shared_database == Some(false) {
            let what = "needs a database that gateways can share; set url in [database] to \"postgres://…\"";
            section.fault("source", what.to_owned());
        }
        let max_stale = section.text("max_stale", value::duration);
        if source == KeysSource::File && section.has("max_stale") {
            let what = "has no effect where keys come from a file; remove it, or set source = \"database\"";
            section.fault("max_stale", what.to_owned());
        }
        let watch = section.boolean("watch").unwrap_or(false);
        if source == KeysSource::Database && watch {
            let what = "has no effect where keys come from a database, which is always followed; remove it";
            section.fault("watch", what.to_owned());
        }
        let percent = section
            .number("max_drop_percent", 0, 100)
            .and_then(|percent| u8::try_from(percent).ok());
        let default_limits = default_limits(section.section("default_limits"));
        let limits_unavailable = section.text("limits_unavailable", value::limits_unavailable);
        section.reject_unknown_fields();
        Some(KeysConfig {
            source,
            file: file?,
            max_stale: max_stale.filter(|most| !most.is_zero()),
            named,
            watch,
            max_drop_percent: percent.unwrap_or(MAX_DROP_PERCENT),
            default_limits,
            limits_unavailable: limits_unavailable.unwrap_or(LimitsUnavailable::LocalShare),
        })
    }

    pub(crate) fn admin(
        &self,
        mut section: Section<'_>,
        listen: &[Listen],
        has_tls: bool,
    ) -> Option<AdminConfig> {
        let socket = self.socket(&mut section);
        let address = section.text("listen", |text| match text {
            "" => Ok(None),
            text => value::socket_address(text).map(Some),
        });
        let token_file = section.text("token_file", |text| value::path(text, self.folder));
        let admin = AdminConfig {
            listen: address.flatten(),
            token_file: token_file.unwrap_or_else(|| self.folder.join("admin.token")),
            hosts: values(section.texts("hosts", value::host)),
            tls: section.boolean("tls").unwrap_or(false),
            open_metrics: section.boolean("open_metrics").unwrap_or(false),
            socket: socket.clone().unwrap_or_default(),
        };
        if admin.tls && !has_tls {
            section.fault(
                "tls",
                "needs a certificate; add the section [tls], or write false",
            );
        }
        if let Some(address) = admin.listen {
            self.reject_duplicate_address(
                &section.location("listen"),
                &Listen::Tcp(address),
                listen,
            );
        }
        if let Some(socket) = &socket {
            let location = section.location("socket");
            self.reject_duplicate_address(&location, &Listen::Unix(socket.clone()), listen);
        }
        section.reject_unknown_fields();
        socket.map(|socket| AdminConfig { socket, ..admin })
    }

    fn socket(&self, section: &mut Section<'_>) -> Option<PathBuf> {
        let written = section.text("socket", |text| value::socket_path(text, self.folder));
        if let Some(socket) = &self.overrides.socket {
            let fits = value::check_socket_path(socket.clone());
            return self.faults.record(&Location::flag("--socket"), fits);
        }
        if section.has("socket") {
            return written;
        }
        let fits = value::socket_path("keygate.sock", self.folder);
        self.faults.record(&section.location("socket"), fits)
    }

    pub(crate) fn log_format(&self, mut section: Section<'_>) -> Option<LogFormat> {
        let written = section.text("format", value::log_format);
        section.reject_unknown_fields();
        self.overrides.log_format.or(written)
    }

    pub(crate) fn flags<T>(
        &self,
        flag: &'static str,
        texts: &[String],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<Located<T>> {
        let location = Location::flag(flag);
        let located = |value| Located {
            location: location.clone(),
            value,
        };
        texts
            .iter()
            .filter_map(|text| self.faults.record(&location, read(text)))
            .map(located)
            .collect()
    }
}

/// The values of `from` in `[client_address]`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AddressSourceName {
    Peer,
    XForwardedFor,
    ProxyProtocol,
}

pub(crate) fn client_address(mut section: Section<'_>) -> ClientAddressSource {
    let proxies = section.texts("trusted_proxies", value::network);
    let named = section.text("from", |text| match text {
        "peer" => Ok(AddressSourceName::Peer),
        "x-forwarded-for" => Ok(AddressSourceName::XForwardedFor),
        "proxy-protocol" => Ok(AddressSourceName::ProxyProtocol),
        _ => Err(format!(
            "{} is not a source of addresses; write \"peer\", \"x-forwarded-for\" or \"proxy-protocol\"",
            value::quoted(text)
        )),
    });
    let named = named.unwrap_or(AddressSourceName::Peer);
    let is_nobody = !section.has("trusted_proxies") || section.is_empty_list("trusted_proxies");
    if named != AddressSourceName::Peer && is_nobody {
        section.fault(
            "trusted_proxies",
            "names nobody who is believed about clients' addresses; list the load balancers' networks, or write \
             from = \"peer\"",
        );
    }
    section.reject_unknown_fields();
    let trusted_proxies = values(proxies);
    match named {
        AddressSourceName::Peer => ClientAddressSource::Peer,
        AddressSourceName::XForwardedFor => ClientAddressSource::XForwardedFor { trusted_proxies },
        AddressSourceName::ProxyProtocol => ClientAddressSource::ProxyProtocol { trusted_proxies },
    }
}

pub(crate) fn limits(mut section: Section<'_>) -> LimitsConfig {
    let default = LimitsConfig::default();
    let mut size = |name, default| section.text_or_number(name, value::size).unwrap_or(default);
    let limits = LimitsConfig {
        request_body: size("request_body", default.request_body),
        buffered_bodies: size("buffered_bodies", default.buffered_bodies),
        headers: size("headers", default.headers),
        connections: section
            .number("connections", 1, MAX_CONNECTIONS)
            .unwrap_or(default.connections),
    };
    if !HEADERS.contains(&limits.headers) {
        section.fault("headers", "is out of bounds; write \"8KiB\" to \"1MiB\"");
    }
    if limits.request_body < MIN_REQUEST_BODY {
        section.fault("request_body", "is too small; write \"1KiB\" or more");
    }
    if limits.request_body > limits.buffered_bodies {
        let name = if section.has("buffered_bodies") {
            "buffered_bodies"
        } else {
            "request_body"
        };
        section.fault(
            name,
            "leaves no room for one request body; buffered_bodies must be at least request_body",
        );
    }
    section.reject_unknown_fields();
    limits
}

pub(crate) fn timeouts(mut section: Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut positive = |name, default| {
        section
            .text(name, value::positive_duration)
            .unwrap_or(default)
    };
    let timeouts = Timeouts {
        header_read: positive("header_read", default.header_read),
        body_idle: positive("body_idle", default.body_idle),
        tls_handshake: positive("tls_handshake", default.tls_handshake),
        keep_alive: positive("keep_alive", default.keep_alive),
        client_write: positive("client_write", default.client_write),
        upstream_connect: positive("upstream_connect", default.upstream_connect),
        upstream_first_byte: positive("upstream_first_byte", default.upstream_first_byte),
        stream_idle: positive("stream_idle", default.stream_idle),
        upstream_keep_alive: positive("upstream_keep_alive", default.upstream_keep_alive),
        sse_ping: section
            .text("sse_ping", value::duration)
            .unwrap_or(default.sse_ping),
        drain: section
            .text("drain", value::duration)
            .unwrap_or(default.drain),
        drain_delay: section
            .text("drain_delay", value::duration)
            .unwrap_or(default.drain_delay),
    };
    section.reject_unknown_fields();
    timeouts
}

/// Whether the two addresses cannot be bound at the same time. `[::]` accepts IPv4 connections too.
fn overlap(one: &Listen, other: &Listen) -> bool {
    let covers = |wide: &SocketAddr, narrow: &SocketAddr| {
        wide.ip() == narrow.ip()
            || (wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4()))
    };
    match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            one.port() == other.port()
                && one.port() != 0
                && (covers(one, other) || covers(other, one))
        }
        (Listen::Unix(_), Listen::Tcp(_)) | (Listen::Tcp(_), Listen::Unix(_)) => false,
    }
}

pub(crate) fn values<T>(located: Option<Vec<Located<T>>>) -> Vec<T> {
    located
        .into_iter()
        .flatten()
        .map(|Located { value, .. }| value)
        .collect()
}

/// `[keys.default_limits]`
fn default_limits(mut section: Section<'_>) -> KeyLimits {
    let mut limits = KeyLimits::default();
    for kind in LimitKind::ALL {
        let most = usize::try_from(MAX_LIMIT).unwrap_or(usize::MAX);
        let limit = section
            .number(kind.name(), 1, most)
            .and_then(|limit| u64::try_from(limit).ok());
        limits.set(kind, limit.and_then(LimitSetting::at_most));
    }
    section.reject_unknown_fields();
    limits
}
