//! A kept connection: however long its client is idle between requests, the next request is answered on it, no byte of it
//! is lost, and its timeouts are those of the config.

use std::fs;
use std::time::Duration;

use crate::support::client::{Call, Client, Gone};
use crate::support::gateway::{Gateway, Process, Setup, serve_in};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually};

/// Several times as long as the gateway waits before it releases the buffers of an idle connection.
const IDLE: Duration = Duration::from_millis(450);

/// A plain gateway and one with TLS, with these lines of `[timeouts]`.
fn plain_and_tls(timeouts: &[&str]) -> [Stand; 2] {
    let with = |setup: Setup| {
        let set = |setup: Setup, line: &&str| setup.set("timeouts", line);
        timeouts.iter().fold(setup, set)
    };
    [Stand::with(with), Stand::with(|setup| with(setup).tls())]
}

#[track_caller]
fn stay_idle(client: &mut Client) {
    assert!(client.silent_for(IDLE), "an idle client hears something");
}

/// A client that had an answer and has been idle since.
#[track_caller]
fn idle_client(stand: &Stand) -> Client {
    let mut client = stand.gateway.client();
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(client.ask(&call).status, 200);
    stay_idle(&mut client);
    client
}

#[track_caller]
fn served_after_each_idle_time(gateway: &Gateway, client: &mut Client, key: &Key) {
    let chat = Call::chat(&key.token, "good");
    for _ in 0..3 {
        assert_eq!(client.ask(&chat).status, 200);
        stay_idle(client);
        let refused = client.ask(&Call::get("/v1/models", "kg_wrong"));
        assert_error(&refused, 401, "invalid_api_key");
        stay_idle(client);
        assert_eq!(client.ask(&Call::get("/v1/models", &key.token)).status, 200);
        let one = gateway.metric("keygate_connections");
        assert!(one <= 2.0, "{one} connections of one client and the admin");
    }
}

#[test]
fn a_client_that_is_idle_between_its_requests_is_served_on_the_same_connection() {
    for stand in plain_and_tls(&[]) {
        let mut client = stand.gateway.client();
        served_after_each_idle_time(&stand.gateway, &mut client, &stand.all);
    }
}

#[test]
fn a_client_of_a_unix_socket_that_is_idle_is_served_on_the_same_connection() {
    let (up, key) = (Recorder::answering(), Key::all("key_all"));
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let path = setup.path("data.sock");
    let both = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let config = setup.config().replace("listen = \"127.0.0.1:0\"", &both);
    fs::write(setup.path("keygate.toml"), config).expect("written");
    let gateway = Gateway::adopt(Process::spawn(serve_in(&setup.path(""))), setup);
    gateway.wait_ready();
    let mut client = Client::connect_unix(&path).expect("connected");
    served_after_each_idle_time(&gateway, &mut client, &key);
}

#[test]
fn requests_that_come_together_or_in_pieces_around_idle_times_lose_no_byte() {
    for stand in plain_and_tls(&[]) {
        let call = Call::chat(&stand.all.token, "good");
        let bytes = call.bytes();
        let head = call.head().len();
        let mut client = idle_client(&stand);
        client.send(&bytes.repeat(3));
        for _ in 0..3 {
            assert_eq!(client.answer_to("POST").status, 200);
        }
        stay_idle(&mut client);
        // Cut in the method, in the head, behind the head, and in the body.
        for cut in [1, head / 2, head, head + 3] {
            client.send(&bytes[..cut]);
            stay_idle(&mut client);
            client.send(&bytes[cut..]);
            assert_eq!(client.answer_to("POST").status, 200, "cut at {cut}");
            stay_idle(&mut client);
        }
        // Some of the next request comes with the one before it.
        for cut in [1, head / 2, head - 1] {
            client.send(&[&bytes, &bytes[..cut]].concat());
            assert_eq!(client.answer_to("POST").status, 200);
            stay_idle(&mut client);
            client.send(&bytes[cut..]);
            assert_eq!(client.answer_to("POST").status, 200, "{cut} bytes ahead");
            stay_idle(&mut client);
        }
        let seen = stand.up.requests_for("/v1/chat/completions");
        assert_eq!(seen.len(), 1 + 3 + 4 + 2 * 3);
        assert!(seen.iter().all(|seen| seen.body == call.body));
    }
}

/// RFC 9112 2.2. They were taken for the beginning of a head, which must be whole within `header_read`.
#[test]
fn line_ends_behind_a_request_do_not_shorten_the_idle_time_after_it() {
    for stand in plain_and_tls(&["header_read = \"500ms\""]) {
        let call = Call::get("/v1/models", &stand.all.token);
        let mut client = stand.gateway.client();
        for _ in 0..2 {
            client.send(&[&call.bytes(), &b"\r\n"[..]].concat());
            assert_eq!(client.answer().status, 200);
            let longer = Duration::from_millis(1200);
            assert!(client.silent_for(longer), "the connection is closed");
        }
        assert_eq!(client.ask(&call).status, 200);
    }
}

#[test]
fn a_request_is_answered_however_long_its_client_was_idle_before() {
    for stand in plain_and_tls(&[]) {
        let call = Call::get("/v1/models", &stand.all.token);
        let mut client = stand.gateway.client();
        // The gateway looks ten times a second, so that some of these meet it.
        for pause in (180..320).step_by(7) {
            assert_eq!(client.ask(&call).status, 200);
            assert!(client.silent_for(Duration::from_millis(pause)));
        }
    }
}

#[test]
fn a_client_that_says_close_or_speaks_http_1_0_is_closed_as_it_asks_after_idle_time() {
    for stand in plain_and_tls(&[]) {
        let call = Call::get("/v1/models", &stand.all.token);
        let mut client = idle_client(&stand);
        let last = client.ask(&call.clone().header("connection", "close"));
        assert_eq!(last.status, 200);
        client.assert_closed();
        let old = String::from_utf8(call.bytes()).expect("text");
        let old = old.replace(" HTTP/1.1\r\n", " HTTP/1.0\r\n");
        let kept = old.replace("\r\n\r\n", "\r\nconnection: keep-alive\r\n\r\n");
        let mut client = idle_client(&stand);
        for _ in 0..2 {
            client.send(kept.as_bytes());
            assert_eq!(client.answer().status, 200);
            stay_idle(&mut client);
        }
        client.send(old.as_bytes());
        assert_eq!(client.answer().status, 200);
        client.assert_closed();
    }
}

#[test]
fn half_a_head_after_idle_time_or_behind_the_last_request_ends_after_header_read() {
    for stand in plain_and_tls(&["header_read = \"1s\""]) {
        let bytes = Call::get("/v1/models", &stand.all.token).bytes();
        let mut after = idle_client(&stand);
        after.send(&bytes[..20]);
        let mut behind = idle_client(&stand);
        behind.send(&[&bytes, &bytes[..20]].concat());
        assert_eq!(behind.answer().status, 200);
        for client in [&mut after, &mut behind] {
            // As opposed to keep_alive, which is a minute and more.
            client.assert_closed();
        }
        idle_client(&stand);
    }
}

#[test]
fn an_idle_connection_ends_in_good_order_after_keep_alive() {
    for stand in plain_and_tls(&["keep_alive = \"2s\""]) {
        let mut client = idle_client(&stand);
        assert!(client.silent_for(Duration::from_millis(600)));
        assert_eq!(client.ends_within(DEADLINE), Some(Gone::Fin));
    }
}

#[test]
fn the_end_of_the_gateway_ends_idle_connections_at_once_and_in_good_order() {
    for mut stand in plain_and_tls(&[]) {
        let mut clients = [idle_client(&stand), idle_client(&stand)];
        stand.gateway.process.terminate();
        for client in &mut clients {
            assert_eq!(client.ends_within(DEADLINE), Some(Gone::Fin));
            assert!(client.unread().is_empty());
        }
        // Far sooner than keep_alive, or what running requests would have.
        let status = stand.gateway.process.exits_within(DEADLINE);
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn an_idle_client_that_leaves_is_forgotten() {
    for stand in plain_and_tls(&[]) {
        let (closed, reset, mut ended) = (
            idle_client(&stand),
            idle_client(&stand),
            idle_client(&stand),
        );
        assert!(stand.gateway.metric("keygate_connections") >= 3.0);
        drop(closed);
        reset.reset();
        ended.shut_write();
        eventually("they are forgotten", DEADLINE, || {
            (stand.gateway.metric("keygate_connections") == 0.0).then_some(())
        });
        assert_eq!(ended.ends_within(DEADLINE), Some(Gone::Fin));
    }
}

#[test]
fn a_client_that_says_close_is_answered_and_closed() {
    let stand = Stand::new();
    let mut client = stand.gateway.client();
    let response = client.ask(&Call::chat(&stand.all.token, "good").header("connection", "close"));
    assert_eq!(response.status, 200);
    client.assert_closed();
}
