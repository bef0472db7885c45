//! A PostgreSQL server for tests: of its own, in a temporary folder, on a free port of this machine. It ends with the test,
//! also where the test is killed.
//!
//! Used by the unit tests of the database and by the black-box tests.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// To make the server, to start it, and to run a statement there.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The role that owns everything.
pub const OWNER: &str = "keygate";

/// Servers that run at the same time in one process of tests. Each has gateways, and there may be only two cores.
const AT_ONCE: usize = 3;

/// A test may have several servers; its first waits for others to end.
struct Seat;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

thread_local! {
    static OF_THIS_TEST: Cell<usize> = const { Cell::new(0) };
}

impl Seat {
    fn take() -> Self {
        if OF_THIS_TEST.replace(OF_THIS_TEST.get() + 1) == 0 {
            let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
            let full = |taken: &mut usize| *taken >= AT_ONCE;
            let mut taken = TAKEN
                .1
                .wait_while(taken, full)
                .unwrap_or_else(PoisonError::into_inner);
            *taken += 1;
        }
        Self
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = OF_THIS_TEST.get().saturating_sub(1);
        OF_THIS_TEST.set(left);
        if left == 0 {
            *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            TAKEN.1.notify_one();
        }
    }
}

/// A server that runs.
pub struct TestServer {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    /// Holds the server's keeper, which ends the server when its input ends.
    keeper: Option<Child>,
    /// Given back last.
    _seat: Seat,
}

impl TestServer {
    /// A server without TLS.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// A server with further options; they may name files that are put into its folder first.
    pub fn start_with(options: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let seat = Seat::take();
        let folder = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir_in("/tmp")
            .unwrap();
        let options = options(folder.path());
        give_to_server(folder.path());
        for file in fs::read_dir(folder.path()).unwrap() {
            give_to_server(&file.unwrap().path());
        }
        let mut server = Self {
            port: free_port(),
            folder,
            options,
            keeper: None,
            _seat: seat,
        };
        let made = as_server(&program("initdb"))
            .args([
                "--username",
                OWNER,
                "--auth",
                "trust",
                "--no-sync",
                "--no-instructions",
            ])
            .args(["--encoding", "UTF8", "--locale", "C", "--pgdata"])
            .arg(server.data())
            .current_dir(server.folder.path())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        server.run();
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server, again after [`Self::kill`]. Returns when it answers.
    pub fn run(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut keeper = as_server(Path::new("/bin/sh"));
        keeper
            // When nobody holds the input any more, the server ends at once, and its folder goes.
            .args([
                "-c",
                "folder=$1; shift; \"$@\" < /dev/null & read -r word; kill -QUIT $! 2> /dev/null; wait; \
                 [ \"$word\" = keep ] || rm -rf \"$folder\"",
                "keeper",
            ])
            .arg(self.folder.path())
            .arg(program("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k"])
            .arg(self.folder.path())
            .args([
                "-F",
                "-c",
                "max_connections=200",
                "-c",
                "log_statement=none",
            ])
            .args(self.options.iter().flat_map(|option| ["-c", option]))
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        self.keeper = Some(keeper.spawn().unwrap());
        let until = Instant::now() + TIMEOUT;
        while !self
            .psql("postgres", "SELECT 1")
            .status()
            .unwrap()
            .success()
        {
            let log = self.folder.path().join("log");
            assert!(
                Instant::now() < until,
                "{}",
                fs::read_to_string(log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(program("psql"));
        psql.env_clear()
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", OWNER])
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-d",
                database,
                "-c",
                sql,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        psql
    }

    /// What a statement answers, as text.
    pub fn query(&self, database: &str, sql: &str) -> String {
        let answer = self.psql(database, sql).output().unwrap();
        let error = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{sql}: {error}");
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }

    /// Makes a database of this name.
    pub fn create_database(&self, name: &str) {
        // Two at a time are refused, since they have the same template.
        let until = Instant::now() + TIMEOUT;
        let sql = format!("CREATE DATABASE \"{name}\"");
        loop {
            let made = self.psql("postgres", &sql).output().unwrap();
            let error = String::from_utf8_lossy(&made.stderr);
            if made.status.success() {
                return;
            }
            assert!(
                error.contains("being accessed") && Instant::now() < until,
                "{error}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A second server that takes over all that this one commits, until it is promoted.
    pub fn replica(&self) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir_in("/tmp")
            .unwrap();
        give_to_server(folder.path());
        let mut replica = Self {
            port: free_port(),
            folder,
            options: self.options.clone(),
            keeper: None,
            _seat: Seat::take(),
        };
        let copied = as_server(&program("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", OWNER])
            .args([
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
                "-D",
            ])
            .arg(replica.data())
            .current_dir(replica.folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&copied.stderr);
        assert!(copied.status.success(), "{error}");
        replica.run();
        replica
    }

    /// A program of PostgreSQL that connects to the server as its owner.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env_clear()
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", OWNER)
            .stdin(Stdio::null());
        command
    }

    /// The URL of a database, for the gateway.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{OWNER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server and all processes that it has started.
    fn processes(&self) -> Vec<i32> {
        let Ok(first) = fs::read_to_string(self.data().join("postmaster.pid")) else {
            return Vec::new();
        };
        let first: i32 = first.lines().next().unwrap().parse().unwrap();
        let parent = |pid: i32| -> Option<i32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
        };
        let mut all = vec![first];
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let pid = process.file_name().to_string_lossy().parse();
            all.extend(pid.ok().filter(|pid| parent(*pid) == Some(first)));
        }
        all
    }

    /// The processor time that the server has used so far.
    pub fn cpu(&self) -> Duration {
        let processes = self.processes();
        processes.iter().map(|pid| cpu_of(&pid.to_string())).sum()
    }

    fn signal(&self, name: &str) {
        for pid in self.processes() {
            // One that has ended meanwhile is no fault.
            let pid = pid.to_string();
            let _ = Command::new("kill")
                .args([name, &pid])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// The server dies as if the machine had lost its power.
    pub fn kill(&mut self) {
        // One that stands still starts no further process, which would live on.
        self.freeze();
        let processes = self.processes();
        self.signal("-KILL");
        if let Some(mut keeper) = self.keeper.take() {
            keeper.stdin.take().unwrap().write_all(b"keep\n").unwrap();
            keeper.wait().unwrap();
        }
        // They share memory, and while one of them has it, the server does not start again.
        let until = Instant::now() + TIMEOUT;
        while processes.iter().any(|pid| is_running(*pid)) {
            assert!(Instant::now() < until, "a process of the server lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// The server stands still: its connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.thaw();
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// Whether a process has not ended; one that nobody has waited for has.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// The processor time of a process, and of its children that have ended.
pub fn cpu_of(process: &str) -> Duration {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
        return Duration::ZERO;
    };
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| {
            rest.split(' ')
                .map(|field| field.parse().unwrap_or(0))
                .collect()
        })
        .unwrap_or_default();
    // utime, stime, cutime and cstime, in hundredths of a second.
    Duration::from_millis(fields.iter().skip(11).take(4).sum::<u64>() * 10)
}

/// The newest version that Debian has installed.
fn program(name: &str) -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("bash tests/tools installs PostgreSQL");
    let number = |path: &PathBuf| -> u32 {
        let name = path.file_name().unwrap().to_string_lossy();
        name.parse().unwrap_or(0)
    };
    let newest = versions
        .map(|version| version.unwrap().path())
        .max_by_key(number);
    newest.unwrap().join("bin").join(name)
}

/// The server refuses to run as root.
pub fn as_server(program: &Path) -> Command {
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Gives a file to the user that the server runs as.
pub fn give_to_server(path: &Path) {
    if is_root() {
        let id = |option: &str| -> u32 {
            let mut answer = String::new();
            let mut id = Command::new("id")
                .args([option, "nobody"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            id.stdout
                .take()
                .unwrap()
                .read_to_string(&mut answer)
                .unwrap();
            id.wait().unwrap();
            answer.trim().parse().unwrap()
        };
        chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
    }
    if path.is_file() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A port that was free a moment ago: the server takes no 0.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}
