//! What a client, an upstream or another process that simply does nothing must not hold up.

use std::fs::File;
use std::thread;
use std::time::Duration;

use crate::support::DEADLINE;
use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::raw_h2::{HEADERS, Outcome, RawH2, SETTINGS};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{assert_error, eventually};

const SETTINGS_INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

#[test]
fn a_reload_that_brings_a_silent_upstream_refuses_nobody_what_the_others_serve() {
    let (up, silent) = (Recorder::answering(), Recorder::held());
    let key = Key::all("key_all");
    let gateway = Setup::before(&up).keys(&[&key]).start();
    let more = format!(
        "[[upstreams]]\nname = \"silent\"\nurl = \"{}\"\n\n[[upstreams]]",
        silent.url()
    );
    gateway.change_config("[[upstreams]]", &more);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    let _unanswered = silent.next();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", None).status, 200);
}

#[test]
fn an_upstream_whose_settings_change_keeps_the_models_it_named() {
    let up = Recorder::start(|exchange| exchange.serve_models(&["found"]));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &[])
        .keys(&[&key])
        .start();
    eventually("the model is found", DEADLINE, || {
        (gateway.ask(&Call::chat(&key.token, "found")).status == 200).then_some(())
    });
    // Asked again, it says nothing.
    up.script(|exchange| match exchange.seen.target.as_str() {
        "/v1/models" => exchange.keep(),
        _ => exchange.complete(),
    });
    let url = up.url();
    let other = url.replace("127.0.0.1", "localhost");
    gateway.change_config(&url, &other);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "found")).status, 200);
}

#[test]
fn an_idle_http_2_client_that_does_not_answer_does_not_hold_up_the_end() {
    let mut stand = Stand::new();
    let mut client = RawH2::connect(stand.gateway.address);
    client.chat(1, &stand.all.token);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    eventually("the answer is out", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    // From here on the client reads nothing, so that GOAWAY and PING stay unanswered.
    stand.gateway.process.terminate();
    let status = stand.gateway.process.exits_within(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_client_that_keeps_its_window_shut_does_not_keep_the_upstream_past_its_key() {
    let stand = Stand::held();
    let mut client = RawH2::connect_silently(stand.gateway.address);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let shut = [&SETTINGS_INITIAL_WINDOW_SIZE[..], &[0; 4]].concat();
    client.frame(SETTINGS, 0, 0, &shut);
    client.chat(1, &stand.all.token);
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: 1\n\n");
    let head = loop {
        let frame = client.next(DEADLINE).expect("a head");
        if frame.kind == HEADERS {
            break frame;
        }
    };
    assert_eq!(head.stream, 1);
    let path = "/api/keys/key_all";
    assert_eq!(stand.gateway.admin("DELETE", path, None).status, 204);
    assert!(exchange.gone_within(Duration::from_secs(2)));
}

#[test]
fn a_delete_does_not_wait_for_whoever_holds_the_key_files_lock() {
    let stand = Stand::new();
    let lock = File::create(stand.gateway.path(".keys.jsonl.lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let path = "/api/keys/key_all";
        let deleting = scope.spawn(|| stand.gateway.admin("DELETE", path, None));
        let call = Call::chat(&stand.all.token, "good");
        let refused = eventually("the key is refused", Duration::from_secs(2), || {
            let response = stand.gateway.ask(&call);
            (response.status != 200).then_some(response)
        });
        assert_error(&refused, 401, "invalid_api_key");
        drop(lock);
        assert_eq!(deleting.join().unwrap().status, 204);
    });
}

#[test]
fn a_body_that_is_only_announced_takes_no_memory() {
    let stand = Stand::new();
    let status = format!("/proc/{}/status", stand.gateway.process.pid());
    let megabytes = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:"));
        let size = line.and_then(|line| line.split_whitespace().nth(1));
        size.unwrap().parse::<u64>().unwrap() >> 10
    };
    let before = megabytes();
    let head = Call::json("/v1/chat/completions", &stand.all.token, "")
        .without("content-length")
        .header("content-length", "30000000")
        .head_without_length();
    let mut clients: Vec<_> = (0..40).map(|_| stand.gateway.client()).collect();
    for piece in [&head[..], b"{", b"\"", b"x"] {
        for client in &mut clients {
            client.send(piece);
        }
        // An answer to another request says that these bytes were read.
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    assert!(megabytes() - before < 400, "more than was sent is held");
}
