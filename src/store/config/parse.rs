//! From config file and command line to a [`Config`], or to everything that is wrong with them.
//!
//! Invariant: a config comes out only where there is no fault at all. What a reload takes, it can take alone: the
//! upstreams do not wait for a faulty certificate, nor the other way round (see [`Reading`]).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::config::tree::{Faults, Place, Placed, Section, Tree};
use crate::store::config::{
    Admin, ClientAddressSource, Config, Credential, Keys, Limits, Listen, LogFormat, Timeouts, Tls,
    TlsFiles, Upstream, files, value,
};
use crate::store::fault::Fault;

/// Where a config is looked for when nobody names one.
const PLACES: [&str; 2] = ["keygate.toml", "/etc/keygate/keygate.toml"];
const DEFAULT_LISTEN: &str = "[::]:8080";
const MAX_DROP_PERCENT: u8 = 50;
const MAX_WORKERS: usize = 1024;
const MAX_CONNECTIONS: usize = 16 << 20;
const HEADERS: std::ops::RangeInclusive<usize> = 8 << 10..=1 << 20;
const MIN_REQUEST_BODY: usize = 1 << 10;

/// What the command line says in place of the file. Relative paths start at the working directory.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`; replaces the file's list where not empty.
    pub listen: Vec<String>,
    /// `--upstream`: one upstream each, named after its host and port; replaces the file's where not empty.
    pub upstreams: Vec<String>,
    /// `--keys`
    pub keys: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}

/// A config as far as it could be read.
#[derive(Debug)]
pub struct Reading {
    /// The whole, or every fault.
    pub config: Result<Config, Vec<Fault>>,
    /// The upstreams, or the faults that concern them.
    pub upstreams: Result<Vec<Upstream>, Vec<Fault>>,
    /// What `[tls]` names, whatever the files hold; or the faults of the section itself.
    pub tls: Result<Option<Tls>, Vec<Fault>>,
    /// The key file, also where the config is faulty elsewhere.
    pub keys: Option<Keys>,
    /// The admin socket, also where the config is faulty elsewhere.
    pub socket: Option<PathBuf>,
}

/// The config file to use: the one named with a flag, else by the environment, else the first of the usual places
/// that holds one. A named one need not exist; that is the reader's fault to find.
#[must_use]
pub fn find(explicit: Option<&Path>, environment: Option<&OsStr>) -> Option<PathBuf> {
    find_among(explicit, environment, &PLACES.map(Path::new))
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
pub fn read(file: Option<&Path>, overrides: &Overrides) -> Reading {
    read_with(file, overrides, &|name| std::env::var_os(name))
}

fn find_among(
    explicit: Option<&Path>,
    environment: Option<&OsStr>,
    places: &[&Path],
) -> Option<PathBuf> {
    let named = explicit.or_else(|| environment.filter(|name| !name.is_empty()).map(Path::new));
    // What is there but cannot be read, or leads nowhere, is found: it must be complained of, not skipped.
    let there = |place: &&&Path| match place.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    named
        .or_else(|| places.iter().find(there).copied())
        .map(Path::to_owned)
}

fn read_with(
    file: Option<&Path>,
    overrides: &Overrides,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Reading {
    let faults = Faults::default();
    let reader = Reader {
        faults: &faults,
        folder: file.and_then(Path::parent).unwrap_or(Path::new("")),
        environment,
        overrides,
    };
    let parts = match file {
        None => Some(reader.parts(Section::absent(&faults, Place::flag("")))),
        Some(file) => faults
            .take(&Place::file(file), files::read(file))
            .and_then(|text| Tree::parse(file, &text, &faults))
            .map(|tree| reader.parts(tree.root(&faults))),
    };
    match parts {
        Some(parts) => parts.judge(file, &faults.sorted()),
        None => {
            let faults = faults.sorted();
            Reading {
                upstreams: Err(faults.clone()),
                tls: Err(faults.clone()),
                config: Err(faults),
                keys: overrides.keys.clone().map(|file| Keys {
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
struct Parts {
    listen: Vec<Listen>,
    public_url: Option<String>,
    workers: usize,
    public_health: bool,
    cors_origins: Vec<String>,
    tls: Result<Option<Tls>, Vec<Fault>>,
    keys: Option<Keys>,
    admin: Option<Admin>,
    client_address: ClientAddressSource,
    limits: Limits,
    timeouts: Timeouts,
    log_format: Option<LogFormat>,
    upstreams: Vec<Upstream>,
}

impl Parts {
    fn judge(self, file: Option<&Path>, faults: &[Fault]) -> Reading {
        let socket = self.admin.as_ref().map(|admin| admin.socket.clone());
        Reading {
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

/// Reads each part with what they all need.
struct Reader<'a> {
    faults: &'a Faults,
    /// Relative paths of the file start here.
    folder: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    overrides: &'a Overrides,
}

impl Reader<'_> {
    fn parts(&self, mut root: Section<'_>) -> Parts {
        let has_tls = root.has("tls");
        let listen = self.listen(&mut root);
        let parts = Parts {
            public_url: root.text("public_url", |text| {
                value::base_url(text).map(|url| url.to_string())
            }),
            workers: root.number("workers", 0, MAX_WORKERS).unwrap_or(0),
            public_health: root.switch("public_health").unwrap_or(false),
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
        root.finish();
        parts
    }

    /// At least one address, no two of which ask for the same port.
    fn listen(&self, root: &mut Section<'_>) -> Vec<Listen> {
        let mut listen = root
            .text_or_texts("listen", |text| value::listen(text, self.folder))
            .unwrap_or_default();
        if !self.overrides.listen.is_empty() {
            let read = |text: &str| value::listen(text, Path::new(""));
            listen = self.flags("--listen", &self.overrides.listen, read);
        } else if !root.has("listen") {
            listen.extend(
                value::listen(DEFAULT_LISTEN, self.folder).map(|value| Placed {
                    place: root.place("listen"),
                    value,
                }),
            );
        }
        for (index, Placed { place, value }) in listen.iter().enumerate() {
            let others = values(Some(listen[..index].to_vec()));
            self.refuse_taken(place, value, &others);
        }
        values(Some(listen))
    }

    fn refuse_taken(&self, place: &Place, address: &Listen, others: &[Listen]) {
        if let Some(other) = others.iter().find(|other| collide(address, other)) {
            self.faults.add(
                place,
                format!("{address} takes the place of {other}; choose another address or port"),
            );
        }
    }

    /// What the section names is told apart from what the files hold: a reload takes each certificate on its own.
    fn tls(&self, mut section: Section<'_>) -> Result<Option<Tls>, Vec<Fault>> {
        if !section.is_present() {
            return Ok(None);
        }
        let first = self.tls_files(&mut section, "[tls]");
        let client_ca = section.text("client_ca", |text| value::path(text, self.folder));
        let client_ca_place = section.place("client_ca");
        let mut more = Vec::new();
        for mut section in section.sections("more").into_iter().flatten() {
            more.push(self.tls_files(&mut section, "this [[tls.more]]"));
            section.finish();
        }
        section.finish();
        let of_section = self.faults.of_section("tls");
        for files in first.iter().chain(more.iter().flatten()) {
            self.check_certificate(files);
        }
        if let Some(file) = &client_ca {
            let usable = files::certificate_authorities(file);
            self.faults.take(&client_ca_place, usable);
        }
        let paths = |[certificate, private_key]: [Placed<PathBuf>; 2]| TlsFiles {
            certificate: certificate.value,
            private_key: private_key.value,
        };
        match first {
            Some(first) if of_section.is_empty() => Ok(Some(Tls {
                first: paths(first),
                more: more.into_iter().flatten().map(paths).collect(),
                client_ca,
            })),
            _ => Err(of_section),
        }
    }

    /// Certificate and private key, as the section names them.
    fn tls_files(&self, section: &mut Section<'_>, title: &str) -> Option<[Placed<PathBuf>; 2]> {
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
            let place = section.place(name);
            Some(Placed { place, value })
        };
        let (certificate, private_key) = (required("certificate"), required("private_key"));
        Some([certificate?, private_key?])
    }

    fn check_certificate(&self, [certificate, private_key]: &[Placed<PathBuf>; 2]) {
        let chain = files::certificates(&certificate.value);
        let key = files::private_key(&private_key.value);
        let chain = self.faults.take(&certificate.place, chain);
        let key = self.faults.take(&private_key.place, key);
        if let (Some(chain), Some(key)) = (chain, key) {
            let fit = files::belong_together(chain, key).map(drop);
            self.faults.take(&private_key.place, fit);
        }
    }

    fn keys(&self, mut section: Section<'_>) -> Option<Keys> {
        let named = self.overrides.keys.is_some() || section.has("file");
        let written = section.text("file", |text| value::path(text, self.folder));
        let file = match &self.overrides.keys {
            Some(file) => Some(file.clone()),
            None if named => written,
            None => Some(self.folder.join("keys.jsonl")),
        };
        let watch = section.switch("watch").unwrap_or(false);
        let percent = section
            .number("max_drop_percent", 0, 100)
            .and_then(|percent| u8::try_from(percent).ok());
        section.finish();
        Some(Keys {
            file: file?,
            named,
            watch,
            max_drop_percent: percent.unwrap_or(MAX_DROP_PERCENT),
        })
    }

    fn admin(&self, mut section: Section<'_>, listen: &[Listen], has_tls: bool) -> Option<Admin> {
        let socket = self.socket(&mut section);
        let address = section.text("listen", |text| match text {
            "" => Ok(None),
            text => value::socket_address(text).map(Some),
        });
        let token_file = section.text("token_file", |text| value::path(text, self.folder));
        let admin = Admin {
            listen: address.flatten(),
            token_file: token_file.unwrap_or_else(|| self.folder.join("admin.token")),
            hosts: values(section.texts("hosts", value::host)),
            tls: section.switch("tls").unwrap_or(false),
            open_metrics: section.switch("open_metrics").unwrap_or(false),
            socket: socket.clone().unwrap_or_default(),
        };
        if admin.tls && !has_tls {
            section.fault(
                "tls",
                "needs a certificate; add the section [tls], or write false",
            );
        }
        if let Some(address) = admin.listen {
            self.refuse_taken(&section.place("listen"), &Listen::Tcp(address), listen);
        }
        if let Some(socket) = &socket {
            let place = section.place("socket");
            self.refuse_taken(&place, &Listen::Unix(socket.clone()), listen);
        }
        section.finish();
        socket.map(|socket| Admin { socket, ..admin })
    }

    fn socket(&self, section: &mut Section<'_>) -> Option<PathBuf> {
        let written = section.text("socket", |text| value::socket_path(text, self.folder));
        if let Some(socket) = &self.overrides.socket {
            let fits = value::short_enough(socket.clone());
            return self.faults.take(&Place::flag("--socket"), fits);
        }
        if section.has("socket") {
            return written;
        }
        let fits = value::socket_path("keygate.sock", self.folder);
        self.faults.take(&section.place("socket"), fits)
    }

    fn log_format(&self, mut section: Section<'_>) -> Option<LogFormat> {
        let written = section.text("format", value::log_format);
        section.finish();
        self.overrides.log_format.or(written)
    }

    fn upstreams(&self, root: &mut Section<'_>) -> Vec<Upstream> {
        let sections = root.sections("upstreams");
        let from_flags = self.flags("--upstream", &self.overrides.upstreams, named_after_host);
        if self.overrides.upstreams.is_empty() && !root.is_present() {
            self.faults.add(
                &Place::flag("--upstream"),
                "is missing, and there is no config file; add --upstream URL, or name a file with --config",
            );
        } else if self.overrides.upstreams.is_empty()
            && (!root.has("upstreams") || sections.as_ref().is_some_and(Vec::is_empty))
        {
            root.fault(
                "upstreams",
                "names no upstream; add [[upstreams]] with a name and a url",
            );
        }
        let mut models = HashMap::new();
        let from_file: Vec<_> = sections
            .into_iter()
            .flatten()
            .filter_map(|section| self.upstream(section, &mut models))
            .collect();
        self.refuse_same_names(&from_file);
        self.refuse_same_names(&from_flags);
        values(Some(if self.overrides.upstreams.is_empty() {
            from_file
        } else {
            from_flags
        }))
    }

    /// `models`: those that earlier upstreams serve, and the line that says so.
    fn upstream(
        &self,
        mut section: Section<'_>,
        models: &mut HashMap<String, usize>,
    ) -> Option<Placed<Upstream>> {
        if !section.is_present() {
            return None;
        }
        for (required, example) in [("name", "llama"), ("url", "http://127.0.0.1:8000")] {
            if !section.has(required) {
                section.fault(
                    required,
                    format!("is missing; add {required} = {example:?} to this upstream"),
                );
            }
        }
        let name = section.text("name", value::name);
        let replicas = section.text_or_texts("url", value::base_url);
        let served = section.texts("models", value::name);
        if section.is_empty_list("models") {
            section.fault(
                "models",
                "is an empty list; name the models, or leave the field out to ask the upstream for them",
            );
        }
        for Placed { place, value } in served.iter().flatten() {
            if let Some(line) = models.insert(value.clone(), place.line()) {
                self.faults.add(
                    place,
                    format!(
                        "{} is served by line {line} already; name each model once",
                        value::quoted(value)
                    ),
                );
            }
        }
        for (index, Placed { place, value }) in replicas.iter().flatten().enumerate() {
            let mut earlier = replicas.iter().flatten().take(index);
            if earlier.any(|other| other.value == *value) {
                self.faults.add(
                    place,
                    format!("names {value} again; name each replica once"),
                );
            }
        }
        let upstream = Upstream {
            name: name.clone().unwrap_or_default(),
            replicas: values(replicas),
            models: served.map(|served| values(Some(served))),
            credential: self.credential(&mut section),
            ca_file: section.text("ca_file", |text| {
                let path = value::path(text, self.folder)?;
                files::certificate_authorities(&path).map(|()| path)
            }),
        };
        let place = section.place("name");
        section.finish();
        name.map(|_| Placed {
            place,
            value: upstream,
        })
    }

    fn refuse_same_names(&self, upstreams: &[Placed<Upstream>]) {
        let mut names = HashMap::new();
        for Placed { place, value } in upstreams {
            if let Some(line) = names.insert(&value.name, place.line()) {
                let first = match line {
                    0 => "another --upstream".to_owned(),
                    line => format!("the upstream of line {line}"),
                };
                self.faults.add(
                    place,
                    format!(
                        "{} is the name of {first} too; choose another, or make one upstream with a list of urls",
                        value::quoted(&value.name)
                    ),
                );
            }
        }
    }

    /// Messages never repeat what they found: it may be the credential itself, written into the wrong field.
    fn credential(&self, section: &mut Section<'_>) -> Option<Credential> {
        if section.has("api_key_env") && section.has("api_key_file") {
            section.fault(
                "api_key_file",
                "stands beside api_key_env; keep one of the two",
            );
        }
        let from_environment = section.text("api_key_env", |name| {
            let value = (self.environment)(name).ok_or(
                "names an environment variable that is not set; set it for the gateway's process",
            )?;
            credential(Zeroizing::new(value.into_encoded_bytes()))
        });
        let from_file = section.text("api_key_file", |text| {
            credential(files::read(&value::path(text, self.folder)?)?)
        });
        from_environment.or(from_file)
    }

    fn flags<T>(
        &self,
        flag: &'static str,
        texts: &[String],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<Placed<T>> {
        let place = Place::flag(flag);
        let placed = |value| Placed {
            place: place.clone(),
            value,
        };
        texts
            .iter()
            .filter_map(|text| self.faults.take(&place, read(text)))
            .map(placed)
            .collect()
    }
}

/// What `from` in `[client_address]` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Peer,
    XForwardedFor,
    ProxyProtocol,
}

fn client_address(mut section: Section<'_>) -> ClientAddressSource {
    let proxies = section.texts("trusted_proxies", value::network);
    let named = section.text("from", |text| match text {
        "peer" => Ok(Named::Peer),
        "x-forwarded-for" => Ok(Named::XForwardedFor),
        "proxy-protocol" => Ok(Named::ProxyProtocol),
        _ => Err(format!(
            "{} is not a source of addresses; write \"peer\", \"x-forwarded-for\" or \"proxy-protocol\"",
            value::quoted(text)
        )),
    });
    let named = named.unwrap_or(Named::Peer);
    let is_nobody = !section.has("trusted_proxies") || section.is_empty_list("trusted_proxies");
    if named != Named::Peer && is_nobody {
        section.fault(
            "trusted_proxies",
            "names nobody who is believed about clients' addresses; list the load balancers' networks, or write \
             from = \"peer\"",
        );
    }
    section.finish();
    let trusted_proxies = values(proxies);
    match named {
        Named::Peer => ClientAddressSource::Peer,
        Named::XForwardedFor => ClientAddressSource::XForwardedFor { trusted_proxies },
        Named::ProxyProtocol => ClientAddressSource::ProxyProtocol { trusted_proxies },
    }
}

fn limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let mut size = |name, default| section.text_or_number(name, value::size).unwrap_or(default);
    let limits = Limits {
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
    section.finish();
    limits
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
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
        drain: section
            .text("drain", value::duration)
            .unwrap_or(default.drain),
        drain_delay: section
            .text("drain_delay", value::duration)
            .unwrap_or(default.drain_delay),
    };
    section.finish();
    timeouts
}

/// An upstream out of its URL alone.
fn named_after_host(url: &str) -> Result<Upstream, String> {
    let replica = value::base_url(url)?;
    Ok(Upstream {
        name: format!("{}-{}", replica.host, replica.port),
        replicas: vec![replica],
        models: None,
        credential: None,
        ca_file: None,
    })
}

fn credential(bytes: Zeroizing<Vec<u8>>) -> Result<Credential, String> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err("leads to nothing; put the credential there".to_owned());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(u8::is_ascii_graphic) => Ok(Credential(text.to_owned())),
        _ => Err(
            "leads to more than one word of visible ASCII; put the credential there, and nothing else"
                .to_owned(),
        ),
    }
}

/// Whether one address cannot be used while the other is. `[::]` takes IPv4 connections too.
fn collide(one: &Listen, other: &Listen) -> bool {
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

fn values<T>(placed: Option<Vec<Placed<T>>>) -> Vec<T> {
    placed
        .into_iter()
        .flatten()
        .map(|Placed { value, .. }| value)
        .collect()
}

#[cfg(test)]
mod tests;
