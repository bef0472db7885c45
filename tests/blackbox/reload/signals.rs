//! SIGHUP before there is anything to reload, and thousands of them at once, neither end the gateway nor pile up.

use std::fs::OpenOptions;
use std::io::Write;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::client::Call;
use crate::support::gateway::{Process, Setup, serve_in};
use crate::support::process::{has_handler, resident};
use crate::support::recorder::Recorder;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, client::Client, eventually};

const SIGHUP: u32 = 1;

#[test]
fn a_sighup_before_the_config_is_read_ends_nothing_and_is_a_reload_once_there_is_something_to_reload()
 {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let config = setup.path("keygate.toml");
    let kept = setup.path("kept.toml");
    std::fs::rename(&config, &kept).expect("renamed");
    // The gateway waits here for its config, so that what comes meanwhile comes before everything else.
    mknodat(CWD, &config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let mut process = Process::spawn(serve_in(setup.path("").as_path()));
    let pid = process.pid();
    eventually("SIGHUP has a handler", DEADLINE, || {
        has_handler(pid, SIGHUP).then_some(())
    });
    for _ in 0..10 {
        process.hang_up();
    }
    let mut pipe = OpenOptions::new()
        .write(true)
        .open(&config)
        .expect("it reads its config");
    let text = std::fs::read(&kept).expect("the config");
    std::fs::rename(&kept, &config).expect("renamed back");
    pipe.write_all(&text).expect("the config is sent");
    drop(pipe);
    let address = process.listening();
    process.line("the reload", |line| {
        line.contains("\"reload\"") && line.contains("SIGHUP")
    });
    let call = Call::chat(&key.token, "good");
    eventually("it answers", DEADLINE, || {
        (Client::connect(address).ask(&call).status == 200).then_some(())
    });
    assert!(process.is_running());
}

#[test]
fn thousands_of_sighups_are_few_reloads_and_take_no_memory() {
    let up = Recorder::answering();
    let (first, last) = (Key::all("key_first"), Key::all("key_last"));
    let crowd: Vec<Key> = (0..20_000)
        .map(|at| {
            Key::with_token(
                &format!("key_{at}"),
                &format!("sk-{at}"),
                serde_json::json!({"mode": "all"}),
            )
        })
        .collect();
    let text = |more: &Key| key_file(&crowd) + &key_file(std::slice::from_ref(more));
    let gateway = Setup::before(&up).keys(&[&first]).start();
    let reloads = || gateway.metric("keygate_reloads_total{result=\"ok\"}");
    let loaded = |key: &Key| {
        let before = reloads();
        gateway.process.hang_up();
        eventually("the file is in force", DEADLINE, || {
            let status = gateway.ask(&Call::get("/v1/key", &key.token)).status;
            (reloads() > before && status == 200).then_some(())
        });
    };
    // Two whole tables, the old one and the new, are what any reload may hold.
    for key in [&first, &last, &first, &last] {
        gateway.write_key_file(&text(key));
        loaded(key);
    }
    let before = resident(gateway.process.pid());
    let so_far = reloads();
    for at in 0..5000 {
        if at == 4999 {
            gateway.write_key_file(&text(&first));
        }
        gateway.process.hang_up();
    }
    eventually("the last file is in force", DEADLINE, || {
        let status = gateway.ask(&Call::get("/v1/key", &first.token)).status;
        (status == 200).then_some(())
    });
    assert_eq!(
        gateway.ask(&Call::get("/v1/key", &last.token)).status,
        401,
        "the key that the last file leaves out"
    );
    let done = reloads() - so_far;
    assert!(done < 1000.0, "{done} reloads of 5000 signals");
    let grown = resident(gateway.process.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}
