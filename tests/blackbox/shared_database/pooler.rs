//! PgBouncer in transaction mode between the gateways and their database: each transaction may have another connection of the
//! server, and no notification arrives.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::gateways::{counted, server, shared_at};
use super::keys::{Made, becomes, make, status};
use crate::audit::trail::assert_intact;
use crate::postgres::{self, OWNER, TestServer};
use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::{DEADLINE, eventually};

/// A PgBouncer that runs. It ends with the test, also where the test is killed.
struct Pooler {
    port: u16,
    keeper: Child,
    _folder: TempDir,
}

impl Pooler {
    /// It has so many connections to the server for all who use it.
    fn start(server: &TestServer, connections: usize) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pgb-")
            .tempdir_in("/tmp")
            .unwrap();
        let port = postgres::free_port();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={} user={OWNER} pool_size={connections}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             server_round_robin = 1\n\
             ignore_startup_parameters = options\n",
            server.port()
        );
        fs::write(&config, text).unwrap();
        for path in [folder.path(), &config] {
            postgres::give_to_server(path);
        }
        let mut keeper = postgres::as_server(Path::new("/bin/sh"))
            .args([
                "-c",
                "\"$@\" < /dev/null & read -r word; kill -KILL $!; wait",
                "keeper",
                "/usr/sbin/pgbouncer",
            ])
            .arg(&config)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(keeper.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let is_up = log.by_ref().map_while(Result::ok).any(|line| {
            let is_up = line.contains("process up");
            said.push(line);
            is_up
        });
        assert!(is_up, "{said:?}");
        // Nobody reads on, and so it would wait.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            port,
            keeper,
            _folder: folder,
        }
    }

    fn url(&self) -> String {
        format!("postgres://{OWNER}@127.0.0.1:{}/usage", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn setup(pooler: &Pooler, up: &Recorder) -> Setup {
    shared_at(&pooler.url(), up)
        .without_key_file()
        .set("keys", "source = \"database\"")
}

#[test]
fn behind_a_pooler_that_shares_connections_and_loses_notifications_all_is_kept() {
    let server = server();
    let pooler = Pooler::start(&server, 3);
    let up = Recorder::answering();
    let [one, mut two] = [(); 2].map(|()| setup(&pooler, &up).start());

    // Keys and what is made of them go to the other gateway by its looks alone.
    let key = make(&one, "first");
    becomes(&two, &key, 200);
    let doomed: Vec<Made> = (0..5).map(|n| make(&two, &format!("n{n}"))).collect();
    for key in &doomed {
        becomes(&one, key, 200);
        let path = format!("/api/keys/{}", key.id);
        assert_eq!(one.admin("DELETE", &path, None).status, 204);
        assert_eq!(status(&one, key), 401);
    }
    for key in &doomed {
        becomes(&two, key, 401);
    }

    // A limit is one for both.
    let body = json!({
        "name": "limited",
        "model_access": {"mode": "all"},
        "limits": {"requests_per_minute": 4}
    });
    let made = one.admin_json("POST", "/api/keys", Some(&body));
    let limited = Made {
        id: made["key"]["id"].as_str().unwrap().to_owned(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    eventually("the other gateway has it", DEADLINE, || {
        (status(&two, &limited) != 401).then_some(())
    });
    let mut taken = 0;
    for _ in 0..6 {
        for gateway in [&one, &two] {
            taken += usize::from(status(gateway, &limited) == 200);
        }
    }
    // The other gateway may have had one before.
    assert!((1..=4).contains(&taken), "{taken} of 4");

    // Usage is written once, and read.
    let before = counted(&one);
    let uses = |gateway: &Gateway| gateway.ask(&Call::chat(&key.token, "good")).status;
    for gateway in [&one, &two, &two] {
        assert_eq!(uses(gateway), 200);
    }
    eventually("all is counted", DEADLINE, || {
        (counted(&one) >= before + 3 && counted(&one) == counted(&two)).then_some(())
    });

    // A restart finds what is there.
    two.start_again();
    becomes(&two, &key, 200);
    assert_eq!(status(&two, &doomed[0]), 401);
    assert_intact(&one);
}
