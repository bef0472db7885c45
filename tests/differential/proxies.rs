//! nginx and HAProxy as parsers: what they forward is what they read.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::outcome::{Outcome, Parser};
use crate::wire::{Address, Exchange, Upstream, exchange};

/// How long a proxy gets to end a connection by itself before it counts as waiting for more.
const PATIENCE: Duration = Duration::from_millis(500);

/// A running nginx or HAProxy, killed when dropped.
pub struct Proxy {
    process: Child,
    folder: TempDir,
    name: &'static str,
}

impl Proxy {
    /// Starts nginx with so many lanes, each with a listening socket and an upstream of its own.
    pub fn nginx(lanes: usize) -> (Self, Vec<Lane>) {
        Self::start("nginx", include_str!("nginx.conf"), lanes, |config| {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(config.with_file_name(""));
            command.arg("-c").arg(config).arg("-e").arg("stderr");
            command
        })
    }

    /// The same with HAProxy.
    pub fn haproxy(lanes: usize) -> (Self, Vec<Lane>) {
        Self::start("haproxy", include_str!("haproxy.cfg"), lanes, |config| {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(config);
            command
        })
    }

    fn start(
        name: &'static str,
        template: &str,
        lanes: usize,
        command: impl FnOnce(&Path) -> Command,
    ) -> (Self, Vec<Lane>) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        let text = filled(template, folder.path(), lanes);
        std::fs::write(&config, text).expect("the config is written");
        let upstreams: Vec<Upstream> = (0..lanes)
            .map(|lane| Upstream::at(&folder.path().join(format!("{name}-up-{lane}.sock"))))
            .collect();
        let complaints = std::fs::File::create(folder.path().join("stderr")).expect("a file");
        // Debian has nginx and HAProxy in a folder that only root's PATH names.
        let path = std::env::var("PATH").unwrap_or_default();
        let process = command(&config)
            .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{name} can't be started ({error}); `bash tests/tools` installs it")
            });
        let mut proxy = Self {
            process,
            folder,
            name,
        };
        let lanes = upstreams
            .into_iter()
            .enumerate()
            .map(|(lane, upstream)| {
                let path = proxy.folder.path().join(format!("{name}-{lane}.sock"));
                let address = Address::Unix(path);
                proxy.wait_for(&address);
                Lane {
                    address,
                    upstream: RefCell::new(upstream),
                }
            })
            .collect();
        (proxy, lanes)
    }

    fn wait_for(&mut self, address: &Address) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while address.connect().is_err() {
            let ended = self.process.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} doesn't listen ({ended:?}): {}",
                self.name,
                std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The template with its repeated part once for each lane.
fn filled(template: &str, folder: &Path, lanes: usize) -> String {
    let (before, rest) = template.split_once("# EACH LANE\n").expect("the mark");
    let (each, after) = rest.split_once("# END\n").expect("the mark");
    let each: String = (0..lanes)
        .map(|lane| each.replace("{lane}", &lane.to_string()))
        .collect();
    let folder = folder.to_str().expect("a plain path");
    format!("{before}{each}{after}").replace("{folder}", folder)
}

/// One listening socket of a proxy and the upstream behind it. Cases go through it one after another.
pub struct Lane {
    address: Address,
    upstream: RefCell<Upstream>,
}

impl Lane {
    /// Like `parse`, but the sending side ends at once: an incomplete request may then look refused.
    pub fn parse_in_haste(&self, bytes: &[u8]) -> Vec<Outcome> {
        self.read(bytes, Duration::ZERO, usize::MAX)
    }

    /// Like `parse`, but nothing is waited for behind so many requests.
    pub fn parse_requests(&self, bytes: &[u8], count: usize) -> Vec<Outcome> {
        self.read(bytes, PATIENCE, count)
    }

    fn read(&self, bytes: &[u8], patience: Duration, enough: usize) -> Vec<Outcome> {
        let mut upstream = self.upstream.borrow_mut();
        let exchange = exchange(&self.address, &mut upstream, bytes, patience, enough);
        drop(upstream);
        outcomes(exchange)
    }
}

impl Parser for Lane {
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome> {
        self.read(bytes, PATIENCE, usize::MAX)
    }
}

/// The last answer that is the proxy's own is a refusal; one before others belongs to a request that it didn't forward.
pub fn outcomes(exchange: Exchange) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut requests = exchange.requests.into_iter();
    let mut refused = None;
    let last = exchange.answers.len().saturating_sub(1);
    for (at, (status, recorded)) in exchange.answers.into_iter().enumerate() {
        if recorded {
            outcomes.extend(requests.next().map(Outcome::Request));
        } else if at == last {
            refused = Some(Outcome::Refused(status.to_string()));
        } else {
            outcomes.push(Outcome::Answered(status));
        }
    }
    // Forwarded, and the answer didn't reach the client any more.
    outcomes.extend(requests.map(Outcome::Request));
    if exchange.ended_first {
        outcomes.extend(refused);
    } else {
        outcomes.push(Outcome::Incomplete);
    }
    outcomes
}
