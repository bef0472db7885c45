//! The wall clock is stepped by an hour and by ten years, back and forth, under a running gateway (libfaketime): expiry
//! dates follow the clock, and timeouts do not notice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Call, Client, End, Response};
use crate::support::clock::Clock;
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::recorder::{Exchange, Recorder};
use crate::support::token::{Key, seconds_from_now};
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

const STEPS: [&str; 7] = ["+1h", "-1h", "+10y", "-10y", "+1h", "+10y", "+0"];

/// A stream that has begun: its answer so far, and its other end.
struct Begun {
    stream: Stream,
    response: Response,
    exchange: Exchange,
}

fn begun(gateway: &Gateway, up: &Recorder, protocol: Protocol, key: &Key) -> Begun {
    let mut stream = Stream::open(protocol, gateway, &Call::chat(&key.token, "good"));
    let mut exchange = up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    Begun {
        stream,
        response,
        exchange,
    }
}

#[test]
fn what_is_dated_follows_the_clock_and_what_lasts_does_not_notice_its_steps() {
    let up = Recorder::held();
    let lasting = Key::all("key_lasting");
    let dated = Key::all("key_dated").expires(&seconds_from_now(1800));
    let revoked = Key::all("key_revoked");
    let setup = Setup::before(&up)
        .keys(&[&lasting, &dated, &revoked])
        .set("timeouts", "header_read = \"1s\"");
    let (clock, setup) = Clock::of(setup);
    let gateway = setup.start();
    let asks = |key: &Key| gateway.ask(&Call::get("/v1/key", &key.token));
    assert_eq!(
        gateway
            .admin("DELETE", "/api/keys/key_revoked", None)
            .status,
        204
    );
    let mut idle = gateway.client();
    let models = Call::get("/v1/models", &lasting.token);
    assert_eq!(idle.ask(&models).status, 200);
    let streams = BOTH.map(|protocol| begun(&gateway, &up, protocol, &lasting));
    for step in STEPS {
        clock.step(step);
        // The verdict follows the clock, forwards and back.
        if step.starts_with('+') && step != "+0" {
            assert_error(&asks(&dated), 401, "expired_api_key");
        } else {
            assert_eq!(asks(&dated).status, 200, "{step}");
        }
        assert_eq!(asks(&lasting).status, 200, "{step}");
        assert_error(&asks(&revoked), 401, "invalid_api_key");
        // Timeouts go by another clock: nothing ends early, nothing hangs.
        assert_eq!(idle.ask(&models).status, 200, "{step}");
        let start = Instant::now();
        let mut silent = Client::connect(gateway.address);
        assert!(silent.ends_within(DEADLINE).is_some(), "{step}: kept");
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(700) && took < Duration::from_secs(4),
            "{step}: closed after {took:?}"
        );
        // And keys are changed, and the file is read, as ever.
        let made = json!({"name": step, "model_access": {"mode": "all"}});
        let made = gateway.admin_json("POST", "/api/keys", Some(&made));
        let token = made["token"].as_str().expect("a token").to_owned();
        assert_eq!(gateway.reload().status, 200, "{step}");
        assert_eq!(gateway.ask(&Call::get("/v1/key", &token)).status, 200);
        assert_eq!(gateway.admin("GET", "/readyz", None).status, 200);
        assert_eq!(gateway.admin("GET", "/api/overview", None).status, 200);
    }
    for mut begun in streams {
        begun.exchange.chunk("data: two\n\n");
        begun.exchange.end_stream();
        begun.stream.finish(&mut begun.response, DEADLINE);
        assert_eq!(begun.response.end, End::Whole, "a running stream noticed");
    }
}

#[test]
fn a_step_past_the_expiry_of_a_running_streams_key_ends_it_within_a_second() {
    for step in ["+1h", "+10y"] {
        let up = Recorder::held();
        let dated = Key::all("key_dated").expires(&seconds_from_now(1800));
        let (clock, setup) = Clock::of(Setup::before(&up).keys(&[&dated]));
        let gateway = setup.start();
        for protocol in BOTH {
            clock.step("+0");
            let begun = begun(&gateway, &up, protocol, &dated);
            assert!(!begun.exchange.gone_within(Duration::from_millis(300)));
            let start = Instant::now();
            clock.step(step);
            assert!(begun.exchange.gone_within(DEADLINE), "{step}: it goes on");
            let took = start.elapsed();
            assert!(took <= WITHIN_A_SECOND, "{step}: ended after {took:?}");
        }
        eventually("nothing is in flight", DEADLINE, || {
            (gateway.metric("keygate_in_flight") == 0.0).then_some(())
        });
    }
}
