//! Faults between gateways and database: connections that are cut in the middle of a change, notifications that are lost, and a
//! server whose replica takes over.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::gateways::{server, shared_at};
use super::keys::{Made, becomes, is_in, make, setup, status};
use crate::postgres::TestServer;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::{DEADLINE, eventually, lock};

/// Stands between gateways and a server, and cuts connections.
struct Proxy {
    address: SocketAddr,
    state: Arc<ProxyState>,
}

struct ProxyState {
    /// The server's port.
    port: AtomicU16,
    /// How many more commits are cut, and whether the server gets them first.
    cuts: AtomicUsize,
    cut: Mutex<Cut>,
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never gets the commit.
    Before,
    /// The server commits, and the gateway gets no answer.
    After,
}

impl Proxy {
    fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ProxyState {
            port: AtomicU16::new(port),
            cuts: AtomicUsize::new(0),
            cut: Mutex::new(Cut::Before),
            open: Mutex::default(),
        });
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                thread::spawn(move || state.relay(client));
            }
        });
        Self { address, state }
    }

    /// Cuts the next commits.
    fn cut(&self, commits: usize, cut: Cut) {
        *lock(&self.state.cut) = cut;
        self.state.cuts.store(commits, Ordering::Release);
    }

    /// Lets no connection through from now on.
    fn shut(&self) {
        // Nobody listens at the port 1.
        self.switch(1);
    }

    /// Sends all connections to another server from now on.
    fn switch(&self, port: u16) {
        self.state.port.store(port, Ordering::Release);
        for stream in lock(&self.state.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl ProxyState {
    fn relay(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.port.load(Ordering::Acquire)))
        else {
            return;
        };
        let copies = [&client, &server].map(|stream| stream.try_clone().unwrap());
        lock(&self.open).extend(copies);
        let (mut from_server, mut to_client) =
            (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let (mut from_client, mut to_server) = (client, server);
        let mut bytes = [0; 64 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut bytes) {
            let is_commit = bytes[..count].windows(6).any(|word| word == b"COMMIT");
            let is_cut = is_commit
                && self
                    .cuts
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok();
            if is_cut {
                let _ = from_client.shutdown(Shutdown::Read);
                if *lock(&self.cut) == Cut::After {
                    // The server's answer is not passed on: the gateway's side is closed first.
                    let _ = from_client.shutdown(Shutdown::Both);
                    let _ = to_server.write_all(&bytes[..count]);
                }
                break;
            }
            if to_server.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = from_client.shutdown(Shutdown::Both);
        let _ = to_server.shutdown(Shutdown::Write);
    }
}

/// Holds the right to change keys.
struct HeldLock<'s> {
    server: &'s TestServer,
    holder: Child,
}

impl<'s> HeldLock<'s> {
    const SQL: &'static str =
        "SELECT pg_advisory_lock((1801937268::bigint << 32) | 5), pg_sleep(600)";

    fn take(server: &'s TestServer) -> Self {
        let holder = server
            .program("psql")
            .args(["-X", "-d", "usage", "-c", Self::SQL])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the lock is held", DEADLINE, || {
            let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5 AND granted";
            (server.query("usage", held) != "0").then_some(())
        });
        Self { server, holder }
    }
}

impl Drop for HeldLock<'_> {
    fn drop(&mut self) {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE query LIKE 'SELECT pg_advisory_lock((%'";
        self.server.query("usage", end);
        let _ = self.holder.wait();
    }
}

/// A gateway whose database is behind a proxy.
fn behind(proxy: &Proxy, up: &Recorder) -> Setup {
    let url = format!("postgres://keygate@{}/usage", proxy.address);
    shared_at(&url, up)
        .without_key_file()
        .set("keys", "source = \"database\"")
}

#[test]
fn a_change_whose_connection_is_cut_at_the_commit_is_made_everywhere_or_nowhere() {
    let server = server();
    let up = Recorder::answering();
    let proxy = Proxy::before(server.port());
    let cut_off = behind(&proxy, &up).start();
    let other = setup(&server, &up).start();
    let mut keys: Vec<Made> = Vec::new();
    for round in 0..6 {
        let key = make(&other, &format!("key {round}"));
        becomes(&cut_off, &key, 200);
        let cut = if round % 2 == 0 {
            Cut::Before
        } else {
            Cut::After
        };
        // The usage of the requests is committed too, and cut as well.
        proxy.cut(3, cut);
        let path = format!("/api/keys/{}", key.id);
        let answer = match round % 3 {
            0 => cut_off.admin("DELETE", &path, None),
            1 => cut_off.admin("PATCH", &path, Some(&json!({"disabled": true}))),
            _ => cut_off.admin("PATCH", &path, Some(&json!({"name": "renamed"}))),
        };
        proxy.cut(0, cut);
        assert!(
            [200, 204, 503, 507].contains(&answer.status),
            "{}",
            answer.text()
        );
        is_in(&cut_off, "in_sync");
        let takes_away = round % 3 != 2;
        if takes_away {
            // Whatever the answer was: it is in force here, and carried out.
            assert_eq!(status(&cut_off, &key), 401);
            becomes(&other, &key, 401);
        } else {
            let name = |gateway: &Gateway| gateway.admin_json("GET", &path, None)["name"].clone();
            eventually("both know the same", DEADLINE, || {
                (name(&cut_off) == name(&other)).then_some(())
            });
            if answer.status == 200 {
                assert_eq!(name(&other), "renamed");
            }
        }
        keys.push(key);
    }
    let gapless = server.query("usage", "SELECT count(*) = max(n) AND max(n) = (SELECT value FROM revisions WHERE name = 'keys') FROM key_revisions");
    assert_eq!(gapless, "t");
}

#[test]
fn without_a_word_from_the_server_a_change_is_in_force_all_the_same() {
    let server = server();
    let up = Recorder::answering();
    let [one, two] = [(); 2].map(|()| setup(&server, &up).start());
    let key = make(&one, "first");
    becomes(&two, &key, 200);
    // As a pooler in transaction mode does: who has asked for notifications gets none.
    let stop =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let stopped = server.query("usage", stop);
    assert_eq!(stopped, "2");
    assert_eq!(
        one.admin("DELETE", &format!("/api/keys/{}", key.id), None)
            .status,
        204
    );
    becomes(&two, &key, 401);
}

#[test]
fn when_a_replica_takes_over_no_request_is_refused_and_no_answered_change_is_lost() {
    let mut server = server();
    let up = Recorder::answering();
    let proxy = Proxy::before(server.port());
    let [one, two] = [(); 2].map(|()| behind(&proxy, &up).start());
    let [kept, deleted] = ["kept", "deleted"].map(|name| make(&one, name));
    let replica = server.replica();
    assert_eq!(
        one.admin("DELETE", &format!("/api/keys/{}", deleted.id), None)
            .status,
        204
    );
    let after = make(&one, "after");
    // The other one cannot hear of it later.
    becomes(&two, &after, 200);
    eventually("the replica has all", DEADLINE, || {
        let seen = replica.query("usage", "SELECT max(n) FROM key_revisions");
        (seen == server.query("usage", "SELECT max(n) FROM key_revisions")).then_some(())
    });
    server.kill();
    for gateway in [&one, &two] {
        is_in(gateway, "database_away");
        assert_eq!(
            [&kept, &after, &deleted].map(|key| status(gateway, key)),
            [200, 200, 401]
        );
    }
    replica.query("postgres", "SELECT pg_promote()");
    proxy.switch(replica.port());
    for gateway in [&one, &two] {
        is_in(gateway, "in_sync");
        assert_eq!(
            [&kept, &after, &deleted].map(|key| status(gateway, key)),
            [200, 200, 401]
        );
    }
    assert_eq!(
        two.admin("DELETE", &format!("/api/keys/{}", kept.id), None)
            .status,
        204
    );
    becomes(&one, &kept, 401);
}

#[test]
fn what_a_gateway_that_was_cut_off_revoked_is_revoked_unless_the_key_was_changed_after_that() {
    let server = server();
    let up = Recorder::answering();
    let proxy = Proxy::before(server.port());
    let mut cut_off = behind(&proxy, &up).start();
    let other = setup(&server, &up).start();
    let [deleted, disabled, changed] =
        ["deleted", "disabled", "changed"].map(|name| make(&other, name));
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    for key in [&deleted, &disabled, &changed] {
        becomes(&cut_off, key, 200);
    }
    proxy.shut();
    is_in(&cut_off, "database_away");
    // Changes that the gateway cannot know when it is asked to revoke.
    for key in [&deleted, &disabled] {
        other.admin_json("PATCH", &path(key), Some(&json!({"name": "renamed"})));
    }
    let answer = cut_off.admin("DELETE", &path(&deleted), None);
    assert_eq!(answer.status, 507, "{}", answer.text());
    let disable = json!({"disabled": true});
    let answer = cut_off.admin("PATCH", &path(&disabled), Some(&disable));
    assert_eq!(answer.status, 507, "{}", answer.text());
    proxy.switch(server.port());
    for key in [&deleted, &disabled] {
        becomes(&other, key, 401);
        assert_eq!(status(&cut_off, key), 401);
    }
    let kept = other.admin_json("GET", &path(&disabled), None);
    assert_eq!(kept["name"], "renamed", "{kept}");
    cut_off.process.line("both changes", |line| {
        line.contains(&disabled.id) && line.contains("is taken away")
    });
    // One that was revoked an hour ago, and changed since.
    proxy.shut();
    is_in(&cut_off, "database_away");
    let answer = cut_off.admin("DELETE", &path(&changed), None);
    assert_eq!(answer.status, 507, "{}", answer.text());
    cut_off.process.signal(rustix::process::Signal::KILL);
    cut_off.process.exits_within(DEADLINE);
    let file = cut_off.path("keys.jsonl.revision");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let at = state["pending_at"][&changed.id].as_i64().unwrap();
    state["pending_at"][&changed.id] = json!(at - 3600);
    std::fs::write(&file, state.to_string()).unwrap();
    other.admin_json(
        "PATCH",
        &path(&changed),
        Some(&json!({"name": "still needed"})),
    );
    proxy.switch(server.port());
    cut_off.start_again();
    assert_eq!(status(&cut_off, &changed), 200);
    cut_off
        .process
        .line("it is said", |line| line.contains("is not carried out"));
    assert_eq!(status(&other, &changed), 200);
}

#[test]
fn a_change_that_waits_too_long_for_others_is_refused_and_no_outage() {
    let server = server();
    let up = Recorder::answering();
    let gateway = setup(&server, &up).start();
    let [kept, deleted] = ["kept", "deleted"].map(|name| make(&gateway, name));
    let held = HeldLock::take(&server);
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    let answer = gateway.admin("PATCH", &path(&kept), Some(&json!({"name": "x"})));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "database_failed");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("try again"), "{}", answer.text());
    // What is in force already is never taken back.
    let answer = gateway.admin("DELETE", &path(&deleted), None);
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(status(&gateway, &deleted), 401);
    drop(held);
    eventually("it is carried out", DEADLINE, || {
        let left = "SELECT count(*) FROM keys WHERE deleted_at IS NULL";
        (server.query("usage", left) == "1").then_some(())
    });
    let renamed = gateway.admin_json("PATCH", &path(&kept), Some(&json!({"name": "x"})));
    assert_eq!(renamed["name"], "x", "{renamed}");
    let log = gateway.log().join("\n");
    assert!(!log.contains("cannot be followed"), "{log}");
    assert!(!log.contains("leases cannot be renewed"), "{log}");
}
