//! The attacks of slowhttptest, with slow heads, slow bodies and slow readers, are all given up within seconds.

use std::process::{Command, Stdio};

use crate::support::client::Call;
use crate::support::recorder::{Exchange, Recorder};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually, plain};

/// A tool that attacks this gateway for at most so many seconds.
fn slowhttptest(stand: &Stand, token: &str, seconds: u32, mode: &[&str]) -> Command {
    let url = format!("http://{}/v1/chat/completions", stand.gateway.address);
    // It has no flag for a header of one's own, but sends this one as it is.
    let cookie = format!("a=b\r\nAuthorization: Bearer {token}");
    let mut command = Command::new("slowhttptest");
    command
        .args(mode)
        .args(["-c", "150", "-r", "150", "-i", "3", "-v", "1"])
        .args(["-l", &seconds.to_string(), "-u", &url, "-j", &cookie])
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn impatient(up: Recorder) -> Stand {
    Stand::before(up, |setup| {
        setup
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "body_idle = \"1s\"")
            .set("timeouts", "keep_alive = \"1s\"")
            .set("timeouts", "client_write = \"1s\"")
    })
}

/// Runs the tool to its end, while others are served; what it printed.
fn attack(stand: &Stand, mut command: Command) -> String {
    let tool = command.spawn().expect("slowhttptest is installed");
    // A refused one is closed before the next is open, and only counted.
    let refused = "keygate_requests_total{outcome=\"invalid_api_key\"}";
    eventually("its connections are seen", DEADLINE, || {
        let open = stand.gateway.metric("keygate_connections");
        (open > 20.0 || stand.gateway.metric(refused) > 20.0).then_some(())
    });
    let call = Call::chat(&stand.all.token, "good");
    eventually("its connections are closed", DEADLINE, || {
        let response = stand.gateway.ask(&call);
        assert_eq!(response.status, 200, "{}", response.text());
        (stand.gateway.metric("keygate_connections") <= 1.0).then_some(())
    });
    let output = tool.wait_with_output().expect("it ends");
    plain(&output.stdout) + &plain(&output.stderr)
}

#[test]
fn slow_heads_are_all_closed_and_nobody_else_notices() {
    let stand = impatient(Recorder::answering());
    for token in ["kg_nobody", &stand.all.token] {
        let told = attack(&stand, slowhttptest(&stand, token, 12, &["-H"]));
        assert!(told.contains("No open connections left"), "{told}");
        assert!(!told.contains("service available:   NO"), "{told}");
    }
}

#[test]
fn slow_bodies_are_all_closed_and_nobody_else_notices() {
    let stand = impatient(Recorder::answering());
    for token in ["kg_nobody", &stand.all.token] {
        let mode = ["-B", "-f", "application/json"];
        let told = attack(&stand, slowhttptest(&stand, token, 12, &mode));
        assert!(told.contains("No open connections left"), "{told}");
        assert!(!told.contains("service available:   NO"), "{told}");
    }
}

#[test]
fn slow_readers_are_all_given_up_and_nobody_else_notices() {
    let up = Recorder::start(|exchange: Exchange| {
        // Far more than a socket holds, for those who read slowly.
        if exchange.seen.header("content-length") == Some("16") {
            let text = "x".repeat(8 << 20);
            exchange.reply("200 OK", "content-type: text/plain\r\n", text);
        } else {
            exchange.complete();
        }
    });
    let stand = impatient(up);
    // What it sends itself when it reads slowly is a GET; the request that matters stands behind that.
    let call = Call::json(
        "/v1/chat/completions",
        &stand.all.token,
        r#"{"model":"good"}"#,
    );
    let call = call.header("connection", "close");
    let token = format!("kg_nobody\r\n\r\n{}", plain(&call.bytes()));
    let mode = [
        "-X", "-t", "POST", "-w", "1", "-y", "512", "-z", "1", "-n", "3",
    ];
    attack(&stand, slowhttptest(&stand, &token, 6, &mode));
    let long = stand.up.requests();
    let long = long
        .iter()
        .filter(|seen| seen.header("content-length") == Some("16"));
    assert!(long.count() > 50, "few of its requests went through");
}
