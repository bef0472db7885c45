//! A log that cannot be written stops no request. (On a full disk: `lifecycle/full_disk.rs`.)

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::client::{Call, Client};
use crate::support::gateway::{Setup, serve_in};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

#[test]
fn a_log_that_nobody_reads_or_that_is_closed_stops_no_request() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let mut command = serve_in(setup.path("").as_path());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("keygate is started");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let address = loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).expect("a line") > 0,
            "it never listens"
        );
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if line["event"] == "listening" {
            break line["address"]
                .as_str()
                .expect("an address")
                .parse()
                .expect("an address");
        }
    };
    let call = Call::chat(&key.token, "good");
    let mut client = eventually("it is ready", DEADLINE, || {
        let mut client = Client::connect(address);
        (client.ask(&call).status == 200).then_some(client)
    });
    // Far more lines than a pipe holds.
    for _ in 0..3000 {
        assert_eq!(client.ask(&call).status, 200);
    }
    drop(log);
    for _ in 0..300 {
        assert_eq!(client.ask(&call).status, 200);
    }
    child.kill().expect("killed");
    child.wait().expect("a status");
}
