//! What the operator is told by a webhook: signed, at least once, over restarts, and nothing twice.

use data_encoding::BASE64;
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::tls_front;
use crate::support::pem::Authority;
use crate::support::recorder::{Recorder, Reserved, Seen};
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

const PATH: &str = "/a/path-that-is-a-secret?x=1";

fn in_days(days: i64) -> String {
    let second = Timestamp::now().as_second() + days * 86_400;
    Timestamp::from_second(second).unwrap().to_string()
}

/// A gateway that tells this receiver.
fn setup(up: &Recorder, receiver: &str, keys: &[&Key]) -> Setup {
    Setup::before(up)
        .keys(keys)
        .set("alerts", &format!("webhook = \"{receiver}{PATH}\""))
        .set("alerts", "upstream_after = \"1s\"")
}

/// Takes the next alert, and answers it.
fn take(receiver: &Recorder, status: &str) -> Seen {
    let mut exchange = receiver.next();
    exchange.body().expect("the alert is whole");
    let seen = exchange.seen.clone();
    exchange.reply(status, "", "");
    seen
}

/// The alert as JSON, after its signature was checked as a receiver does it.
fn verified(gateway: &Gateway, seen: &Seen) -> Value {
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", PATH));
    let header = |name| seen.header(name).unwrap_or_else(|| panic!("no {name}"));
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let age = Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{age}");
    let secret = std::fs::read_to_string(gateway.path("alerts.secret")).unwrap();
    let secret = secret.trim().strip_prefix("whsec_").unwrap();
    let secret = BASE64.decode(secret.as_bytes()).unwrap();
    let signature = header("webhook-signature").strip_prefix("v1,").unwrap();
    let signature = BASE64.decode(signature.as_bytes()).unwrap();
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &seen.body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    hmac::verify(&key, &signed, &signature).expect("the signature is right");
    assert_eq!(header("content-type"), "application/json");
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert!(body["timestamp"].is_string(), "{body}");
    body
}

fn alerts(gateway: &Gateway) -> Value {
    gateway.admin_json("GET", "/api/status", None)["alerts"].clone()
}

fn all_delivered(gateway: &Gateway) {
    eventually("everything is delivered", DEADLINE, || {
        let alerts = alerts(gateway);
        (alerts["pending"] == 0 && alerts["last_delivered_at"].is_string()).then_some(())
    });
}

#[test]
fn a_key_that_expires_soon_is_told_once_signed_and_without_anything_secret() {
    let (up, receiver) = (Recorder::answering(), Recorder::held());
    let soon = in_days(3);
    let key = Key::all("key_soon").expires(&soon).with("account", "alice");
    let hint = key.token[key.token.len() - 4..].to_owned();
    let key = key.with("hint", hint);
    let later = Key::all("key_later").expires(&in_days(9));
    let off = Key::all("key_off").expires(&soon).disabled();
    let gateway = setup(&up, &receiver.url(), &[&key, &later, &off]).start();
    let seen = take(&receiver, "204 No Content");
    let body = verified(&gateway, &seen);
    assert_eq!(
        (
            &body["type"],
            &body["data"]["key_id"],
            &body["data"]["account"]
        ),
        (&json!("key.expires"), &json!("key_soon"), &json!("alice"))
    );
    assert_eq!(body["data"]["expires_at"], soon);
    let text = String::from_utf8(seen.body).unwrap();
    for secret in [&*key.token, "hint", "hash", "blake3:"] {
        assert!(!text.contains(secret), "{text}");
    }
    all_delivered(&gateway);
    // Neither the same key again, nor the others: the next that comes is the test.
    let mut gateway = gateway;
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    let metrics = gateway.metrics();
    assert!(metrics.contains("keygate_alerts_pending 0"), "{metrics}");
    std::thread::scope(|scope| {
        let test = scope.spawn(|| gateway.admin_json("POST", "/api/alerts/test", None));
        let seen = take(&receiver, "200 OK");
        assert_eq!(verified(&gateway, &seen)["type"], "alert.test");
        let expected = json!({"delivered": true, "status": 200, "error": null});
        assert_eq!(test.join().unwrap(), expected);
        // It changes nothing.
        let audit = gateway.admin_json("GET", "/api/audit", None);
        assert_eq!(audit["rows"], json!([]));
    });
    // Another date is another alert.
    let sooner = in_days(2);
    gateway.write_keys(&[&Key::all("key_soon").expires(&sooner), &later, &off]);
    gateway.change_config("upstream_after = \"1s\"", "upstream_after = \"2s\"");
    assert_eq!(gateway.reload().status, 200);
    let body = verified(&gateway, &take(&receiver, "200 OK"));
    assert_eq!(body["data"]["expires_at"], sooner);
}

#[test]
fn an_alert_is_repeated_with_its_id_until_it_arrives_also_over_a_restart() {
    let (up, receiver) = (Recorder::answering(), Recorder::held());
    let key = Key::all("key_soon").expires(&in_days(3));
    let mut gateway = setup(&up, &receiver.url(), &[&key]).start();
    let first = take(&receiver, "500 Internal Server Error");
    verified(&gateway, &first);
    // A redirect is not followed.
    let mut exchange = receiver.next();
    exchange.body().expect("the alert is whole");
    let second = exchange.seen.clone();
    let location = format!("location: {}/elsewhere\r\n", receiver.url());
    exchange.reply("307 Temporary Redirect", &location, "");
    eventually("the failure is told", DEADLINE, || {
        let alerts = alerts(&gateway);
        let error = alerts["error"].as_str().unwrap_or_default();
        (alerts["pending"] == 1 && error.contains("307")).then_some(())
    });
    let status = gateway.run(&["status"], "");
    assert!(
        status.out.contains("none delivered yet, 1 wait"),
        "{}",
        status.out
    );
    assert!(!status.out.contains("path-that-is-a-secret"));
    let log = gateway.process.log().join("\n");
    assert!(
        log.contains("alert_not_delivered") && !log.contains("path-that-is-a-secret"),
        "{log}"
    );
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    let third = take(&receiver, "204 No Content");
    verified(&gateway, &third);
    let ids = [&first, &second, &third].map(|seen| seen.header("webhook-id"));
    assert!(
        ids[0].is_some() && ids[0] == ids[1] && ids[1] == ids[2],
        "{ids:?}"
    );
    assert_eq!(first.body, third.body);
    all_delivered(&gateway);
    let metrics = gateway.metrics();
    assert!(
        metrics.contains("keygate_alerts_total{result=\"delivered\"} 1"),
        "{metrics}"
    );
    assert!(receiver.requests_for("/elsewhere").is_empty());
}

#[test]
fn a_receiver_that_is_down_gets_its_alert_when_it_is_up() {
    let (up, receiver) = (Recorder::answering(), Reserved::new());
    let key = Key::all("key_soon").expires(&in_days(3));
    let gateway = setup(&up, &receiver.url(), &[&key]).start();
    eventually("the failure is told", DEADLINE, || {
        let error = alerts(&gateway)["error"].as_str()?.to_owned();
        error.contains("cannot connect").then_some(())
    });
    let receiver = receiver.open(|exchange| exchange.reply("200 OK", "", "thanks"));
    all_delivered(&gateway);
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn an_upstream_is_told_down_and_up_again_once_each() {
    let (up, receiver) = (Recorder::answering(), Recorder::held());
    let mut gateway = setup(&up, &receiver.url(), &[]).start();
    let address = up.down();
    // Nobody has to send a request: the upstream is asked for its models.
    let down = verified(&gateway, &take(&receiver, "200 OK"));
    assert_eq!(
        (&down["type"], &down["data"]["upstream"]),
        (&json!("upstream.down"), &json!("up"))
    );
    all_delivered(&gateway);
    // What was told is known after a restart.
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    let _up = address.open(|exchange| exchange.reply_json("{}"));
    let up = verified(&gateway, &take(&receiver, "200 OK"));
    assert_eq!(
        (&up["type"], &up["data"]["upstream"]),
        (&json!("upstream.up"), &json!("up"))
    );
    all_delivered(&gateway);
}

#[test]
fn a_test_says_what_became_of_it() {
    let (up, receiver) = (Recorder::answering(), Reserved::new());
    let gateway = setup(&up, &receiver.url(), &[]).start();
    let ran = gateway.run(&["alerts", "test"], "");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("not delivered: cannot connect"),
        "{}",
        ran.out
    );
    let _receiver =
        receiver.open(|exchange| exchange.reply("202 Accepted", "", "x".repeat(1 << 20)));
    let ran = gateway.run(&["alerts", "test"], "");
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.out, "delivered: the receiver answers 202\n");
    // It is not tried again.
    assert_eq!(alerts(&gateway)["pending"], 0);
    // Without alerts there is nothing to try.
    let config = std::fs::read_to_string(gateway.path("keygate.toml")).unwrap();
    let without: String = config
        .lines()
        .filter(|line| {
            !["[alerts]", "webhook", "upstream_after"]
                .iter()
                .any(|start| line.starts_with(start))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(gateway.path("keygate.toml"), without).unwrap();
    assert_eq!(gateway.reload().status, 200);
    let ran = gateway.run(&["alerts", "test"], "");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("The config has no alerts"), "{}", ran.err);
    assert_eq!(alerts(&gateway), Value::Null);
}

#[test]
fn alerts_need_a_database_and_a_receiver_that_nobody_can_listen_to() {
    let up = Recorder::answering();
    for (table, line, word) in [
        ("database", "url = \"\"", "needs a database"),
        ("alerts", "secret_file = \"keygate.toml\"", "chmod 600"),
        ("alerts", "upstream_after = \"10ms\"", "too short"),
        ("alerts", "webhok = \"\"", "webhok"),
    ] {
        let setup = Setup::before(&up)
            .set("alerts", "webhook = \"http://127.0.0.1:9/\"")
            .set(table, line);
        let (status, said) = setup.refused();
        assert!(!status.success() && said.contains(word), "{word}: {said}");
    }
    let setup = Setup::before(&up).set("alerts", "webhook = \"http://example.com/secret-path\"");
    let (status, said) = setup.refused();
    assert!(
        !status.success() && said.contains("write https://"),
        "{said}"
    );
    assert!(!said.contains("secret-path"), "{said}");
}

#[test]
fn over_tls_the_receiver_has_a_certificate_of_the_systems_roots_for_its_name() {
    let (up, receiver) = (
        Recorder::answering(),
        Recorder::start(|exchange| exchange.reply("200 OK", "", "")),
    );
    let authority = Authority::new();
    let front = tls_front(&authority.issue(&["localhost"]), receiver.address);
    for (host, roots, delivered) in [
        ("localhost", &authority, true),
        ("127.0.0.1", &authority, false),
        ("localhost", &Authority::new(), false),
    ] {
        let url = format!("https://{host}:{}", front.port());
        let setup = setup(&up, &url, &[]);
        let file = setup.path("roots.pem");
        std::fs::write(&file, roots.pem()).unwrap();
        let gateway = setup
            .environment("SSL_CERT_FILE", file.to_str().unwrap())
            .start();
        let told = gateway.admin_json("POST", "/api/alerts/test", None);
        assert_eq!(told["delivered"], delivered, "{told}");
        let error = told["error"].as_str().unwrap_or_default();
        assert!(delivered || error.contains("certificate"), "{told}");
    }
    let seen = receiver.last();
    assert_eq!(
        seen.header("host"),
        Some(&*format!("localhost:{}", front.port()))
    );
    assert_eq!(receiver.requests().len(), 1);
}
