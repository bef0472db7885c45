//! The gateway survives that it has no descriptor left, and idle clients leave some for what must go on.

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::support::client::{Call, Client};
use crate::support::gateway::{Gateway, Process, Setup};
use crate::support::process::{descriptors, processor_time};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually};

/// Lets a running process have no more descriptors than this; returns what it may have had.
fn allow_descriptors(process: &Process, count: u64) -> u64 {
    let pid = Pid::from_raw(i32::try_from(process.pid()).expect("a process id"));
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(count),
        maximum: hard,
    };
    let before = prlimit(pid, Resource::Nofile, limit).expect("a limit may be lowered");
    before.current.unwrap_or(count)
}

#[test]
fn without_a_descriptor_left_nothing_spins_and_once_there_is_one_the_waiting_are_served() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let process = &stand.gateway.process;
    let models = Call::get("/v1/models", &stand.all.token);
    let chat = Call::chat(&stand.all.token, "good");
    let mut held = stand.gateway.client();
    assert_eq!(held.ask(&models).status, 200);
    eventually(
        "the admin socket's connections are closed",
        DEADLINE,
        || (stand.gateway.metric("keygate_connections") == 1.0).then_some(()),
    );
    // What waits behind the limit is on the kernel's list, as far as anybody can see connected.
    let plenty = allow_descriptors(process, 3);
    let waiting: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(stand.gateway.address).expect("connected"))
        .collect();
    process.line("why nobody is accepted", |line| {
        line.contains("accept_failed")
    });
    let before = processor_time(process.pid());
    for _ in 0..20 {
        // Whoever is connected is served, though not by an upstream that is not connected yet.
        assert_eq!(held.ask(&models).status, 200);
        assert_error(&held.ask(&chat), 503, "overloaded");
        thread::sleep(Duration::from_millis(100));
    }
    let spent = processor_time(process.pid()) - before;
    assert!(spent < 60, "{spent} hundredths of two seconds: it spins");
    allow_descriptors(process, plenty);
    for stream in waiting {
        let mut client = Client::over_tcp(stream);
        assert_eq!(client.ask(&models).status, 200);
    }
    assert_eq!(held.ask(&chat).status, 200);
    assert_eq!(stand.gateway.admin("GET", "/healthz", None).status, 200);
    let told = stand.gateway.log();
    let told = told.iter().filter(|line| line.contains("accept_failed"));
    assert!(told.count() <= 3, "the shortage fills the log");
}

#[test]
fn idle_clients_in_every_place_leave_descriptors_for_upstreams_the_admin_socket_and_the_key_file() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]).line("workers = 1");
    setup.write();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 120; exec \"$0\" serve --config keygate.toml --log-format json",
        ])
        .arg(env!("CARGO_BIN_EXE_keygate"))
        .current_dir(setup.path(""));
    let gateway = Gateway::adopt(Process::spawn(command), setup);
    gateway.wait_ready();
    let models = Call::get("/v1/models", &key.token);
    // As many as there are places; who comes later is turned away.
    let mut held = Vec::new();
    loop {
        let mut client = gateway.client();
        client.send(&models.bytes());
        match client.answer_or_end() {
            Some(response) if response.status == 200 => held.push(client),
            Some(response) => {
                assert_error(&response, 503, "overloaded");
                break;
            }
            None => break,
        }
        assert!(held.len() < 120, "there is no limit");
    }
    assert!(held.len() > 40, "only {} places", held.len());
    // A quarter of the descriptors is for upstreams: so many requests run at once.
    let upstreams = 16;
    up.script(|exchange| {
        thread::sleep(Duration::from_millis(300));
        exchange.complete();
    });
    for client in &mut held[..upstreams] {
        client.send(&Call::chat(&key.token, "good").bytes());
    }
    let made = json!({"name": "new", "model_access": {"mode": "all"}});
    let made = gateway.admin("POST", "/api/keys", Some(&made));
    assert_eq!(made.status, 201, "{}", made.text());
    for client in &mut held[..upstreams] {
        let response = client.answer_to("POST");
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // The limit is of what is open, and was never reached.
    let open = descriptors(gateway.process.pid());
    assert!(open < 120, "{open} descriptors");
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]).line("workers = 1");
    setup.write();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 80; exec \"$0\" serve --config keygate.toml --log-format json",
        ])
        .arg(env!("CARGO_BIN_EXE_keygate"))
        .current_dir(setup.path(""));
    let mut process = Process::spawn(command);
    let address = process.listening();
    let call = Call::chat(&key.token, "good");
    eventually("it is ready", DEADLINE, || {
        (Client::connect(address).ask(&call).status == 200).then_some(())
    });
    let held: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(address).expect("queued by the kernel"))
        .collect();
    let before = processor_time(process.pid());
    thread::sleep(Duration::from_secs(1));
    let spent = processor_time(process.pid()) - before;
    assert!(
        spent < 30,
        "{spent} ticks of processor time in a second: it spins"
    );
    drop(held);
    let start = Instant::now();
    assert_eq!(Client::connect(address).ask(&call).status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(process.log().len() < 400, "the shortage fills the log");
    process.terminate();
    process.exits_within(DEADLINE);
}

#[test]
fn a_key_that_fills_the_upstreams_leaves_connections_for_the_others() {
    let up = Recorder::held();
    let (greedy, other) = (Key::all("key_greedy"), Key::all("key_other"));
    let setup = Setup::before(&up)
        .keys(&[&greedy, &other])
        .line("workers = 1");
    // A quarter of what is not kept goes to upstreams: 56 connections, of which the last 7 are for others.
    setup.write();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 300; exec \"$0\" serve --config keygate.toml --log-format json",
        ])
        .arg(env!("CARGO_BIN_EXE_keygate"))
        .current_dir(setup.path(""));
    let gateway = Gateway::adopt(Process::spawn(command), setup);
    gateway.wait_ready();
    let connection = gateway.h2();
    let streams: Vec<_> = (0..49)
        .map(|_| connection.open(&Call::chat(&greedy.token, "good")))
        .collect();
    let held: Vec<_> = (0..49).map(|_| up.next()).collect();
    let refused = connection.ask(&Call::chat(&greedy.token, "good"));
    assert_error(&refused, 503, "overloaded");
    assert_eq!(refused.all("retry-after"), ["1"]);
    let served = connection.open(&Call::chat(&other.token, "good"));
    up.next().complete();
    drop((served, streams, held));
    eventually("its share is given back", DEADLINE, || {
        up.script(|exchange| exchange.complete());
        (connection.ask(&Call::chat(&greedy.token, "good")).status == 200).then_some(())
    });
}
