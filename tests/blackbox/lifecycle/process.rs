//! Other users of the machine can neither look into the process nor hinder it, and it writes only its own files.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::DEADLINE;
use crate::support::client::{Call, Client};
use crate::support::gateway::{Process, Setup, serve_in};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;

/// Nobody in particular.
const NOBODY: u32 = 65_534;

fn all(name: &str) -> serde_json::Value {
    json!({"name": name, "model_access": {"mode": "all"}})
}

/// A folder with config and key file, all of it of this user, and the binary where that user may run it.
fn owned_by(setup: &Setup, user: u32) -> Command {
    let folder = setup.path("");
    let binary = setup.path("keygate");
    // By another process: what this one holds open to write, a child of another test may still hold when it is run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_keygate"))
        .arg(&binary)
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "not copied");
    for entry in fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        std::os::unix::fs::chown(path, Some(user), Some(user)).expect("given away");
    }
    std::os::unix::fs::chown(&folder, Some(user), Some(user)).expect("given away");
    let mut command = Command::new(&binary);
    command
        .current_dir(&folder)
        .args(["serve", "--config", "keygate.toml", "--log-format", "json"])
        .uid(user)
        .gid(user);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn nobody_but_root_may_look_into_the_process() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let user = if is_root() {
        NOBODY
    } else {
        rustix::process::geteuid().as_raw()
    };
    let command = match is_root() {
        true => owned_by(&setup, user),
        false => serve_in(&setup.path("")),
    };
    let mut process = Process::spawn(command);
    let address = process.listening();
    assert_eq!(
        Client::connect(address)
            .ask(&Call::chat(&key.token, "good"))
            .status,
        200
    );
    // What a process that may be dumped has here is its user's (proc(5)); the memory and environment of one that may not
    // be are root's, so that the user's other processes can neither read nor trace it.
    for file in ["mem", "environ", "fd", "maps"] {
        let found = fs::metadata(format!("/proc/{}/{file}", process.pid())).expect("found");
        assert_eq!(found.uid(), 0, "{file} is not root's alone");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("a status");
    assert!(
        status.contains(&format!("Uid:\t{user}\t{user}\t{user}")),
        "{status}"
    );
    // An abort leaves no core behind.
    process.signal(rustix::process::Signal::ABORT);
    let _ = process.exits_within(DEADLINE);
    for entry in fs::read_dir(setup.path("")).expect("the folder") {
        let name = entry.expect("an entry").file_name();
        assert!(!name.to_string_lossy().contains("core"), "{name:?}");
    }
}

#[test]
fn it_runs_without_privileges_and_writes_nothing_but_its_own_files() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up)
        .keys(&[&key])
        .set("admin", "listen = \"127.0.0.1:0\"");
    setup.write();
    if !is_root() {
        eprintln!("skipped: only root may trace a process that may not be dumped");
        return;
    }
    let trace = setup.path("trace");
    let serve = owned_by(&setup, NOBODY);
    // What it opens to write, makes, moves or removes.
    let calls = "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
                 unlink,unlinkat,truncate,mknod,mknodat";
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-u", "nobody", "-e", calls, "-o"])
        .arg(&trace)
        .arg("--")
        .arg(serve.get_program())
        .args(serve.get_args())
        .current_dir(setup.path(""));
    let mut process = Process::spawn(command);
    let address = process.listening();
    let socket = setup.path("keygate.sock");
    let admin = |method: &str, path: &str, body: Option<&serde_json::Value>| {
        let mut call = Call::new(method, path);
        if let Some(body) = body {
            call = call.body(body.to_string());
        }
        Client::connect_unix(&socket)
            .expect("the admin socket")
            .ask(&call)
    };
    assert_eq!(
        Client::connect(address)
            .ask(&Call::chat(&key.token, "good"))
            .status,
        200
    );
    let made = admin("POST", "/api/keys", Some(&all("made")));
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(admin("DELETE", "/api/keys/key_all", None).status, 204);
    assert_eq!(admin("POST", "/api/reload", None).status, 200);
    // The signal is for the traced process, the tracer's only child.
    let children = format!("/proc/{0}/task/{0}/children", process.pid());
    let children = fs::read_to_string(children).expect("children");
    let child: i32 = children.trim().parse().expect("one child");
    let child = rustix::process::Pid::from_raw(child).expect("a process id");
    rustix::process::kill_process(child, rustix::process::Signal::TERM).expect("told to end");
    let ended = process.exits_within(DEADLINE);
    assert_eq!(ended.code(), Some(0), "{}", process.log().join("\n"));
    let folder = fs::canonicalize(setup.path("")).expect("the folder");
    let trace = fs::read_to_string(&trace).expect("the trace");
    let mut written = Vec::new();
    for line in trace.lines().filter(|line| !line.contains(" = -1 ")) {
        let changes = !line.contains(" open")
            || ["O_WRONLY", "O_RDWR", "O_CREAT"]
                .iter()
                .any(|flag| line.contains(flag));
        for path in line.split('"').skip(1).step_by(2).filter(|_| changes) {
            written.push(path.to_owned());
        }
    }
    assert!(
        written.iter().any(|path| path.ends_with(".keys.jsonl.new")),
        "the trace does not even hold the key file's replacement: {written:?}"
    );
    written.retain(|path| {
        let whole = folder.join(path);
        !whole.starts_with(&folder) && Path::new(path) != Path::new("/dev/null")
    });
    assert!(written.is_empty(), "{written:?}");
    let mut left: Vec<String> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    left.retain(|name| !["keygate", "trace"].contains(&name.as_str()));
    left.sort();
    assert_eq!(
        left,
        [
            "admin.token",
            "keygate.db",
            "keygate.db-audit-key",
            "keygate.toml",
            "keys.jsonl"
        ]
    );
    for name in ["admin.token", "keygate.db", "keys.jsonl"] {
        let mode = fs::metadata(folder.join(name))
            .expect(name)
            .permissions()
            .mode();
        assert!(
            name == "keys.jsonl" || mode & 0o077 == 0,
            "{name}: {mode:o}"
        );
    }
}

#[test]
fn a_stranger_who_may_only_look_stands_in_nobodys_way() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    // All that somebody can lock who may read the folder and what is in it.
    let folder = File::open(setup.path("")).expect("the folder");
    let keys = File::open(setup.path("keys.jsonl")).expect("the key file");
    for locked in [&folder, &keys] {
        locked.lock().expect("locked");
    }
    let gateway = setup.start();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    let made = gateway.admin("POST", "/api/keys", Some(&all("made")));
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(
        gateway.admin("DELETE", "/api/keys/key_all", None).status,
        204
    );
    // The commands that work on the file itself take the same lock.
    let ran = gateway.run(
        &[
            "keys",
            "create",
            "--name",
            "by hand",
            "--keys",
            "keys.jsonl",
        ],
        "",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    drop((folder, keys));
}

#[test]
fn a_lock_that_is_kept_is_told_and_leaves_everything_as_it_was() {
    let stand = Stand::new();
    let before = stand.gateway.key_file();
    // Only the file's owner and root can do this.
    let lock = File::create(stand.gateway.path(".keys.jsonl.lock")).expect("the lock");
    lock.lock().expect("locked");
    let refused = stand.gateway.admin("POST", "/api/keys", Some(&all("made")));
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(
        refused.text().contains(".keys.jsonl.lock"),
        "{}",
        refused.text()
    );
    assert_eq!(stand.gateway.key_file(), before);
    let ran = stand.gateway.run(
        &[
            "keys",
            "create",
            "--name",
            "by hand",
            "--keys",
            "keys.jsonl",
        ],
        "",
    );
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    drop(lock);
    let made = stand.gateway.admin("POST", "/api/keys", Some(&all("made")));
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(!stand.gateway.path(".keys.jsonl.lock").exists());
}

#[test]
fn the_process_leaves_no_core_that_could_hold_a_token() {
    let stand = Stand::new();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", stand.gateway.process.pid()))
        .expect("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("the limit");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
