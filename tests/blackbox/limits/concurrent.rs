//! How many requests of a key may run at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

fn limited(most: u64) -> Key {
    Key::all("key_limited").with("limits", json!({"concurrent_requests": most}))
}

fn started(up: &Recorder, key: &Key) -> Gateway {
    Setup::before(up).keys(&[key]).start()
}

/// Waits until no request of the key runs any more.
fn assert_free(gateway: &Gateway, key: &Key) {
    eventually("all places are free", DEADLINE, || {
        let own = gateway.ask(&Call::get("/v1/key", &key.token)).json();
        let limit = &own["limits"][0];
        assert_eq!(limit["name"], "concurrent_requests");
        (limit["remaining"] == limit["limit"]).then_some(())
    });
}

#[test]
fn a_key_has_no_more_requests_running_than_its_limit() {
    let up = Recorder::held();
    let key = limited(2);
    let gateway = started(&up, &key);
    let mut clients = [gateway.client(), gateway.client()];
    let running = clients.each_mut().map(|client| {
        client.send(&Call::chat(&key.token, "good").bytes());
        up.next()
    });
    let refused = gateway.ask(&Call::chat(&key.token, "good"));
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(refused.json()["error"]["type"], "requests");
    assert!(
        refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("at the same time")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    for exchange in running {
        exchange.reply_json("{}");
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_free(&gateway, &key);
}

#[test]
fn a_place_is_free_again_after_every_way_to_end() {
    let up = Recorder::held();
    let key = limited(1);
    let gateway = Setup::before(&up)
        .set("timeouts", "upstream_first_byte = \"1s\"")
        .keys(&[&key])
        .start();
    let chat = Call::chat(&key.token, "good").bytes();
    // The client leaves before the answer, and in the middle of it.
    let mut client = gateway.client();
    client.send(&chat);
    let exchange = up.next();
    drop(client);
    assert_free(&gateway, &key);
    drop(exchange);
    let mut client = gateway.client();
    client.send(&chat);
    let mut exchange = up.next();
    exchange.begin_stream();
    exchange.chunk("data: {}\n\n");
    let _ = client.head();
    drop(client);
    assert_free(&gateway, &key);
    // The upstream breaks off, before its head and behind it.
    let mut client = gateway.client();
    client.send(&chat);
    up.next().answer_raw_and_close("HTTP/1.1 2");
    assert_eq!(client.answer().status, 502);
    assert_free(&gateway, &key);
    let mut client = gateway.client();
    client.send(&chat);
    up.next()
        .answer_raw_and_close("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let _ = client.ends_within(DEADLINE);
    assert_free(&gateway, &key);
    // The upstream says nothing in time.
    let mut client = gateway.client();
    client.send(&chat);
    let exchange = up.next();
    assert_eq!(client.answer().status, 504);
    drop(exchange);
    assert_free(&gateway, &key);
}

#[test]
fn a_revoked_stream_gives_its_place_back() {
    let up = Recorder::held();
    let key = limited(1);
    let gateway = started(&up, &key);
    let mut client = gateway.client();
    client.send(&Call::chat(&key.token, "good").bytes());
    let mut exchange = up.next();
    exchange.begin_stream();
    exchange.chunk("data: {}\n\n");
    let _ = client.head();
    let path = format!("/api/keys/{}", key.id);
    gateway.admin_json("PATCH", &path, Some(&json!({"disabled": true})));
    let _ = client.ends_within(DEADLINE);
    gateway.admin_json("PATCH", &path, Some(&json!({"disabled": false})));
    assert_free(&gateway, &key);
}

/// Bounded: so many clients in all, so many at a time.
#[test]
fn thousands_of_requests_never_have_more_running_than_the_limit() {
    const LIMIT: usize = 20;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let up = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        Recorder::start(move |exchange| {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            running.fetch_sub(1, Ordering::SeqCst);
            exchange.reply_json("{}");
        })
    };
    let key = limited(LIMIT as u64);
    let gateway = started(&up, &key);
    let (passed, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = gateway.client();
                for _ in 0..40 {
                    let answer = client.ask(&Call::chat(&key.token, "good"));
                    let counter = match answer.status {
                        200 => &passed,
                        429 => &refused,
                        other => panic!("{other}"),
                    };
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(
        most.load(Ordering::SeqCst) <= LIMIT,
        "{}",
        most.load(Ordering::SeqCst)
    );
    assert_eq!(
        passed.load(Ordering::SeqCst) + refused.load(Ordering::SeqCst),
        64 * 40
    );
    assert!(passed.load(Ordering::SeqCst) > 0 && refused.load(Ordering::SeqCst) > 0);
    assert_free(&gateway, &key);
}
