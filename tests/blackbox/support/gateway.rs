//! A gateway for one test: its folder, its config, its process, its log; and the command line.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Call, Client, Response};
use super::h2::H2;
use super::pem::Authority;
use super::recorder::Recorder;
use super::token::{self, Key, key_file};
use super::{DEADLINE, eventually, lock, sweep};

/// The models that [`Setup::before`]'s upstream serves.
pub const MODELS: [&str; 3] = ["good", "bad", "org/name"];

/// A gateway that has not started yet: its folder, and what its config will say.
pub struct Setup {
    folder: TempDir,
    listen: String,
    lines: Vec<String>,
    sections: Vec<(&'static str, Vec<String>)>,
    upstreams: Vec<String>,
    keys: Option<Vec<Key>>,
    environment: Vec<(String, String)>,
    secrets: Vec<String>,
    authority: Option<Authority>,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            listen: "127.0.0.1:0".to_owned(),
            lines: Vec::new(),
            sections: Vec::new(),
            upstreams: Vec::new(),
            keys: Some(Vec::new()),
            environment: Vec::new(),
            secrets: Vec::new(),
            authority: None,
        }
    }

    /// A gateway before one upstream that serves [`MODELS`].
    pub fn before(recorder: &Recorder) -> Self {
        Self::new().upstream("up", &[&recorder.url()], &MODELS)
    }

    /// With an upstream; without models, it is asked for them.
    pub fn upstream(self, name: &str, urls: &[&str], models: &[&str]) -> Self {
        self.upstream_with(name, urls, models, "")
    }

    /// With an upstream and further lines in its table.
    pub fn upstream_with(mut self, name: &str, urls: &[&str], models: &[&str], more: &str) -> Self {
        let mut table = format!("[[upstreams]]\nname = \"{name}\"\n");
        let _ = match urls {
            [url] => writeln!(table, "url = \"{url}\""),
            urls => writeln!(table, "url = {urls:?}"),
        };
        if !models.is_empty() {
            let _ = writeln!(table, "models = {models:?}");
        }
        let _ = writeln!(table, "{more}");
        self.upstreams.push(table);
        self
    }

    /// With upstreams that are not asked for the usage of streams, so that no byte of a body changes, and every piece
    /// of a stream passes at once.
    pub fn reading_usage(mut self) -> Self {
        for table in &mut self.upstreams {
            table.push_str("usage = \"read\"\n");
        }
        self
    }

    /// With a table behind all others, such as `[[tls.more]]`.
    pub fn table(mut self, table: &str) -> Self {
        self.upstreams.push(table.to_owned());
        self
    }

    pub fn keys(mut self, keys: &[&Key]) -> Self {
        let keys: Vec<Key> = keys.iter().copied().cloned().collect();
        self.secrets.extend(
            keys.iter()
                .map(|key| token::hash(&key.token)["blake3:".len()..].to_owned()),
        );
        self.secrets.extend(
            keys.iter()
                .map(|key| key.token.clone())
                .filter(|token| token.len() > 20),
        );
        for key in &keys {
            sweep::secret(&key.token);
        }
        self.keys.get_or_insert_default().extend(keys);
        self
    }

    /// Without a key file.
    pub fn without_key_file(mut self) -> Self {
        self.keys = None;
        self
    }

    /// With a line before the tables.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn listen(mut self, listen: &str) -> Self {
        listen.clone_into(&mut self.listen);
        self
    }

    /// With a line in a table of the config, such as `limits`.
    pub fn set(mut self, table: &'static str, line: &str) -> Self {
        match self.sections.iter_mut().find(|(known, _)| *known == table) {
            Some((_, lines)) => lines.push(line.to_owned()),
            None => self.sections.push((table, vec![line.to_owned()])),
        }
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What must never appear in the log.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secrets.push(secret.to_owned());
        sweep::secret(secret);
        self
    }

    /// With TLS on the data port, by a certificate for localhost.
    pub fn tls(mut self) -> Self {
        let authority = Authority::new();
        authority
            .issue(&["localhost", "127.0.0.1"])
            .write(&self.path("tls.crt"), &self.path("tls.key"));
        self.authority = Some(authority);
        self.set("tls", "certificate = \"tls.crt\"")
            .set("tls", "private_key = \"tls.key\"")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The config file's text.
    pub fn config(&self) -> String {
        let mut config = format!("listen = \"{}\"\n", self.listen);
        for line in &self.lines {
            let _ = writeln!(config, "{line}");
        }
        let mut sections = self.sections.clone();
        for (table, line) in [
            ("keys", "file = \"keys.jsonl\""),
            ("admin", "socket = \"keygate.sock\""),
        ] {
            let name = line.split('=').next().unwrap_or_default();
            match sections.iter_mut().find(|(known, _)| *known == table) {
                Some((_, lines)) if lines.iter().any(|known| known.starts_with(name)) => {}
                Some((_, lines)) => lines.push(line.to_owned()),
                None => sections.push((table, vec![line.to_owned()])),
            }
        }
        for (table, lines) in sections {
            let _ = writeln!(config, "[{table}]\n{}", lines.join("\n"));
        }
        config.push_str(&self.upstreams.join("\n"));
        config
    }

    /// Writes config and key file.
    pub fn write(&self) {
        std::fs::write(self.path("keygate.toml"), self.config()).expect("the config is written");
        if let Some(keys) = &self.keys {
            std::fs::write(self.path("keys.jsonl"), key_file(keys)).expect("the keys are written");
        }
    }

    /// Starts the gateway and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let gateway = self.launch();
        gateway.wait_ready();
        gateway
    }

    /// Starts the gateway and waits until it listens.
    #[track_caller]
    pub fn launch(self) -> Gateway {
        self.write();
        let process = Process::serve(&self);
        Gateway::adopt(process, self)
    }

    /// Starts a gateway that must not start: how it exited and what it said.
    #[track_caller]
    pub fn refused(&self) -> (ExitStatus, String) {
        self.write();
        let mut process = Process::serve(self);
        let status = process.exits_within(DEADLINE);
        (status, process.log().join("\n"))
    }
}

/// A process and the lines it has written.
pub struct Process {
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    fn serve(setup: &Setup) -> Self {
        let mut command = serve_in(setup.folder.path());
        command.envs(setup.environment.iter().cloned());
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("keygate is started");
        let lines = Arc::default();
        // The demo shows its token on standard output.
        let streams: [(Box<dyn Read + Send>, bool); 2] = [
            (Box::new(child.stdout.take().expect("piped")), false),
            (Box::new(child.stderr.take().expect("piped")), true),
        ];
        let readers = streams
            .into_iter()
            .map(|(stream, is_log)| {
                let lines: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::clone(&lines);
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut line = Vec::new();
                    while stream
                        .read_until(b'\n', &mut line)
                        .is_ok_and(|count| count > 0)
                    {
                        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                        if is_log {
                            sweep::said("log", &text);
                        }
                        lock(&lines.0).push(text);
                        lines.1.notify_all();
                        line.clear();
                    }
                })
            })
            .collect();
        Self {
            child,
            lines,
            readers,
        }
    }

    /// The address of the first log line that says so.
    #[track_caller]
    pub fn listening(&mut self) -> SocketAddr {
        let mut ended = None;
        let address = eventually("the gateway listens", DEADLINE, || {
            ended = ended.or_else(|| self.child.try_wait().ok().flatten());
            assert!(
                ended.is_none(),
                "the gateway exited ({ended:?}): {}",
                self.log().join("\n")
            );
            self.addresses("listening").into_iter().next()
        });
        address.parse().expect("an address with its port")
    }

    /// The addresses that log lines of this event name.
    fn addresses(&self, event: &str) -> Vec<String> {
        self.log()
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["event"] == event)
            .filter_map(|line| line["address"].as_str().map(str::to_owned))
            .collect()
    }

    pub fn log(&self) -> Vec<String> {
        lock(&self.lines.0).clone()
    }

    /// Waits for a line.
    #[track_caller]
    pub fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = lock(&self.lines.0);
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("no line with {what}:\n{}", lines.join("\n")));
            lines = self
                .lines
                .1
                .wait_timeout(lines, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(lines, _)| lines);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let pid = Pid::from_raw(pid).expect("a process id");
        // It may have exited by itself; its status says so.
        let _ = kill_process(pid, signal);
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    /// Waits for the exit, and for the last line.
    #[track_caller]
    pub fn exits_within(&mut self, within: Duration) -> ExitStatus {
        let status = eventually("keygate exits", within, || {
            self.child.try_wait().expect("a status")
        });
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        status
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running gateway.
pub struct Gateway {
    pub address: SocketAddr,
    pub process: Process,
    folder: Arc<TempDir>,
    environment: Vec<(String, String)>,
    secrets: Vec<String>,
    authority: Option<Authority>,
}

impl Gateway {
    /// Starts the gateway again with the same files. Where it still runs, it is ended first.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch_again();
        self.wait_ready();
    }

    /// Starts the gateway again with the same files, and waits until it listens.
    #[track_caller]
    pub fn launch_again(&mut self) {
        self.process.kill();
        self.process = self.serve();
        self.address = self.process.listening();
    }

    /// Starts a gateway again that must not start: how it exited and what it said.
    #[track_caller]
    pub fn refused_again(&self) -> (ExitStatus, String) {
        let mut process = self.serve();
        let status = process.exits_within(DEADLINE);
        (status, process.log().join("\n"))
    }

    fn serve(&self) -> Process {
        let mut command = serve_in(self.folder.path());
        command.envs(self.environment.iter().cloned());
        Process::spawn(command)
    }

    /// The gateway that this process is, by the setup it was started with, once it listens.
    #[track_caller]
    pub fn adopt(mut process: Process, setup: Setup) -> Self {
        let address = process.listening();
        Self {
            address,
            process,
            folder: Arc::new(setup.folder),
            environment: setup.environment,
            secrets: setup.secrets,
            authority: setup.authority,
        }
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        eventually("the gateway is ready", DEADLINE, || {
            let mut client = Client::connect_unix(&self.socket()).ok()?;
            let ready = client.ask(&Call::new("GET", "/readyz"));
            (ready.status == 200).then_some(())
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("keygate.sock")
    }

    /// A second gateway's setup in the same folder would fight for it; this is for reading and writing files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The TCP address of the admin listener.
    #[track_caller]
    pub fn admin_address(&self) -> SocketAddr {
        let line = self.process.line("the admin listener's address", |line| {
            line.contains("admin_listening")
        });
        let line: Value = serde_json::from_str(&line).expect("JSON");
        line["address"]
            .as_str()
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// A new connection, over TLS where the gateway speaks it.
    pub fn client(&self) -> Client {
        match &self.authority {
            None => Client::connect(self.address),
            Some(authority) => Client::connect_tls(self.address, authority.client(&["http/1.1"]))
                .expect("a TLS connection"),
        }
    }

    pub fn h2(&self) -> H2 {
        match &self.authority {
            None => H2::connect(self.address),
            Some(authority) => H2::connect_tls(self.address, authority.client(&["h2"])),
        }
    }

    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a gateway with TLS")
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, call: &Call) -> Response {
        self.client().ask(call)
    }

    /// A call of the admin API over the Unix socket.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let mut call = Call::new(method, path);
        if let Some(body) = body {
            call = call
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        Client::connect_unix(&self.socket())
            .expect("the admin socket")
            .ask(&call)
    }

    /// The same, for its JSON, where it is done.
    #[track_caller]
    pub fn admin_json(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let response = self.admin(method, path, body);
        assert!(
            (200..300).contains(&response.status),
            "{method} {path}: {} {}",
            response.status,
            response.text()
        );
        response.json()
    }

    /// The metrics' text.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let response = self.admin("GET", "/metrics", None);
        assert_eq!(response.status, 200);
        response.text()
    }

    /// A metric's value; 0 where it has none yet.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics()
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(|value| value.trim().parse().expect("a number"))
            .next()
            .unwrap_or(0.0)
    }

    /// Replaces the key file as an editor would: whole, by a rename.
    pub fn write_keys(&self, keys: &[&Key]) {
        let keys: Vec<Key> = keys.iter().copied().cloned().collect();
        self.write_key_file(&key_file(&keys));
    }

    pub fn write_key_file(&self, text: &str) {
        let beside = self.path("keys.new");
        std::fs::write(&beside, text).expect("the keys are written");
        std::fs::rename(beside, self.path("keys.jsonl")).expect("the keys are replaced");
    }

    pub fn key_file(&self) -> String {
        std::fs::read_to_string(self.path("keys.jsonl")).expect("the key file")
    }

    /// Replaces text in the config.
    pub fn change_config(&self, from: &str, to: &str) {
        let path = self.path("keygate.toml");
        let config = std::fs::read_to_string(&path).expect("the config");
        assert!(
            config.contains(from),
            "the config holds no {from:?}:\n{config}"
        );
        std::fs::write(path, config.replace(from, to)).expect("the config is written");
    }

    /// Every reload is answered with its result.
    #[track_caller]
    pub fn reload(&self) -> Response {
        self.admin("POST", "/api/reload", None)
    }

    /// The access lines so far.
    pub fn log(&self) -> Vec<String> {
        self.process.log()
    }

    /// A command of keygate, run in the gateway's folder.
    pub fn run(&self, arguments: &[&str], input: &str) -> Ran {
        run(self.folder.path(), arguments, input)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for file in ["admin.token", "alerts.secret"] {
            if let Ok(secret) = std::fs::read_to_string(self.path(file)) {
                sweep::secret(secret.trim());
            }
        }
        if self
            .process
            .child
            .try_wait()
            .is_ok_and(|ended| ended.is_none())
        {
            sweep::everything_of(self.process.pid(), &self.socket());
        }
        self.process.kill();
        let log = self.process.log();
        if std::thread::panicking() {
            let from = log.len().saturating_sub(20);
            eprintln!("the gateway's last lines:\n{}", log[from..].join("\n"));
            return;
        }
        // Contract 7: never a token; and no request may panic.
        for line in &log {
            assert!(!line.contains("panicked"), "a panic: {line}");
            for secret in &self.secrets {
                assert!(
                    !line.contains(secret.as_str()),
                    "the log holds a secret: {line}"
                );
            }
        }
    }
}

/// `keygate serve` by the config in this folder.
pub fn serve_in(folder: &Path) -> Command {
    let mut command = keygate(folder);
    command.args(["serve", "--config", "keygate.toml", "--log-format", "json"]);
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The binary, with nothing of this environment that would steer it.
pub fn keygate(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keygate"));
    command
        .current_dir(folder)
        .env_remove("KEYGATE_CONFIG")
        .env_remove("KEYGATE_SOCKET")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(folder: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut command = keygate(folder);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("keygate is started");
    let mut stdin = child.stdin.take().expect("piped");
    // A command that reads nothing may be gone before it is written to.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let mut out = child.stdout.take().expect("piped");
    let mut err = child.stderr.take().expect("piped");
    let out = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = out.read_to_end(&mut text);
        text
    });
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.read_to_end(&mut text);
        text
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if start.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("keygate {arguments:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("read")).into_owned()
    };
    let ran = Ran {
        code: status.code(),
        out: text(out),
        err: text(err),
    };
    sweep::said("cmdline", &arguments.join(" "));
    sweep::said("commands", &ran.err);
    // They print hashes, which is what they are for.
    let prints_hashes = [["keys", "hash"], ["keys", "export"]];
    if !prints_hashes
        .iter()
        .any(|command| arguments.starts_with(command))
    {
        sweep::said("commands", &sweep::without_its_token(&ran.out));
    }
    ran
}
