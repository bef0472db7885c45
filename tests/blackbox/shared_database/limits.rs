//! Limits and budgets hold over all gateways that share a database, each of which decides alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::postgres::TestServer;
use crate::support::client::{Call, Response};
use crate::support::clock::Clock;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::{Exchange, Recorder};
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

const ANSWER: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;

fn server() -> TestServer {
    let server = TestServer::start();
    server.create_database("usage");
    server
}

fn setup(server: &TestServer, up: &Recorder, keys: &[&Key]) -> Setup {
    let setup = Setup::before(up)
        .keys(keys)
        .line("workers = 1")
        .set("database", &format!("url = \"{}\"", server.url("usage")));
    let file = setup.path("audit.key");
    std::fs::write(&file, "7".repeat(64)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    setup
}

/// So many gateways were seen, as far as the database knows.
fn seen(server: &TestServer, gateways: usize) {
    server.query(
        "usage",
        &format!(
            "DELETE FROM gateways; INSERT INTO gateways (instance, name, version, started_at, seen_at, in_flight) \
             SELECT 'i' || n, 'n' || n, 'v', 0, clock_timestamp() + interval '1 hour', 0 FROM generate_series(1, {gateways}) n"
        ),
    );
}

fn limited(limits: Value) -> Key {
    Key::all("key_limited").with("limits", limits)
}

fn ask(gateway: &Gateway, key: &Key) -> Response {
    gateway.ask(&Call::chat(&key.token, "good"))
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, code: &str) {
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, error["code"].as_str()),
        (status, Some(code))
    );
}

/// When the upstream was asked.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<Instant>>>);

impl Starts {
    fn upstream(&self) -> Recorder {
        let starts = self.clone();
        Recorder::start(move |exchange: Exchange| {
            starts.0.lock().unwrap().push(Instant::now());
            exchange.reply_json(ANSWER);
        })
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The most in any span of this length.
    fn most_in(&self, span: Duration) -> usize {
        let mut starts = self.0.lock().unwrap().clone();
        starts.sort_unstable();
        let within = |from: usize| {
            let in_span = starts[from..].iter();
            in_span.take_while(|at| **at < starts[from] + span).count()
        };
        (0..starts.len()).map(within).max().unwrap_or(0)
    }
}

/// A request may take a moment from the decision to the upstream.
const SPAN: Duration = Duration::from_millis(59_300);

/// How far the clock of each of eight gateways is from the real one. The last one's is stepped while it runs.
const CLOCKS: [&str; 8] = ["+0", "+1h", "-1h", "+0", "-1h", "+30m", "+1h", "+1h"];

/// Requests a minute; `KEYGATE_FLEET_LIMIT` for more.
fn fleet_limit() -> usize {
    std::env::var("KEYGATE_FLEET_LIMIT").map_or(200, |limit| limit.parse().unwrap())
}

#[test]
fn no_span_of_a_minute_has_more_than_the_limit_over_eight_gateways_with_clocks_apart_of_which_two_die()
 {
    let limit = fleet_limit();
    let server = server();
    let starts = Starts::default();
    let up = starts.upstream();
    let key = limited(json!({"requests_per_minute": limit}));
    let (clocks, mut gateways): (Vec<Clock>, Vec<Gateway>) = CLOCKS
        .map(|apart| {
            let (clock, setup) = Clock::of(setup(&server, &up, &[&key]));
            clock.step(apart);
            (clock, setup.start())
        })
        .into_iter()
        .unzip();
    seen(&server, 8);
    let ends: Vec<AtomicBool> = (0..8).map(|_| AtomicBool::new(false)).collect();
    let refused = AtomicUsize::new(0);
    let pause = Duration::from_secs(60) * 8 / u32::try_from(10 * limit).unwrap();
    let began = Instant::now();
    let mut addresses = gateways.iter().map(|gateway| gateway.client());
    let clients: Vec<_> = addresses.by_ref().collect();
    drop(addresses);
    std::thread::scope(|scope| {
        for (mut client, end) in clients.into_iter().zip(&ends) {
            let (key, refused) = (&key, &refused);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let answer = client.ask(&Call::chat(&key.token, "good"));
                    if answer.status == 429 {
                        refused.fetch_add(1, Ordering::Relaxed);
                        let remaining = answer.header("x-ratelimit-remaining-requests").unwrap();
                        assert!(remaining.parse::<usize>().unwrap() <= limit, "{remaining}");
                        assert_eq!(
                            answer.header("x-ratelimit-limit-requests"),
                            Some(limit.to_string().as_str())
                        );
                        let millis: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
                        assert!((1..=131_000).contains(&millis), "{millis}");
                    } else {
                        assert_eq!(answer.status, 200, "{}", answer.text());
                    }
                    // All together are asked for ten times the limit.
                    std::thread::sleep(pause);
                }
            });
        }
        let until = |seconds: u64| {
            let at = began + Duration::from_secs(seconds);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
        };
        until(8);
        for at in [0, 1] {
            ends[at].store(true, Ordering::Relaxed);
        }
        until(9);
        for gateway in &gateways[..2] {
            gateway.process.signal(Signal::KILL);
        }
        until(14);
        clocks[7].step("-1h");
        until(20);
        server.freeze();
        until(30);
        clocks[7].step("+1h");
        until(45);
        server.thaw();
        until(62);
        server.freeze();
        until(66);
        server.thaw();
        until(135);
        for end in &ends {
            end.store(true, Ordering::Relaxed);
        }
    });
    let most = starts.most_in(SPAN);
    let all = starts.count();
    eprintln!(
        "{most} in a minute, {all} in all, {} refused",
        refused.load(Ordering::Relaxed)
    );
    assert!(most <= limit, "{most}");
    assert!(most > limit / 2, "{most}");
    assert!(all > limit, "{all}: it went on after the database was back");
    assert!(refused.load(Ordering::Relaxed) > limit);
    gateways.drain(..2).for_each(drop);
    for gateway in &gateways {
        assert_eq!(gateway.metric("keygate_leases_up"), 1.0);
        assert!(gateway.metric("keygate_lease_renewal_seconds_count") > 60.0);
        let log = gateway.log();
        let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
        assert_eq!(
            said("limits are on the local share"),
            said("leases are renewed again")
        );
        assert!((1..=2).contains(&said("leases are renewed again")));
    }
}

#[test]
fn a_key_on_one_of_eight_gateways_gets_its_limit_and_a_changed_limit_counts_at_once() {
    let server = server();
    let up = Recorder::answering();
    let key = limited(json!({"requests_per_minute": 40}));
    let free = Key::all("key_free");
    let gateways = [(); 2].map(|()| setup(&server, &up, &[&key, &free]).start());
    seen(&server, 8);
    let mut client = gateways[0].client();
    for left in (0..40).rev() {
        let answer = client.ask(&Call::chat(&key.token, "good"));
        assert_eq!(answer.status, 200, "{left}: {}", answer.text());
        let remaining = answer.header("x-ratelimit-remaining-requests");
        assert_eq!(remaining, Some(&*left.to_string()));
    }
    for gateway in &gateways {
        let refused = ask(gateway, &key);
        assert_refused(&refused, 429, "rate_limit_exceeded");
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=62).contains(&seconds), "{seconds}");
        let own = gateway.ask(&Call::get("/v1/key", &key.token)).json();
        assert_eq!(own["limits"][0]["remaining"], 0, "{own}");
        assert_eq!(ask(gateway, &free).status, 200);
    }
    let limits = json!({"limits": {"requests_per_minute": 42}});
    let path = format!("/api/keys/{}", key.id);
    gateways[0].admin_json("PATCH", &path, Some(&limits));
    for status in [200, 200, 429] {
        assert_eq!(client.ask(&Call::chat(&key.token, "good")).status, status);
    }
}

#[test]
fn an_account_has_its_limit_once_over_all_gateways_and_keys() {
    let server = server();
    let up = Recorder::answering();
    let keys = ["key_a", "key_b"].map(|id| Key::all(id).with("account", "acme"));
    let gateways = [(); 2].map(|()| setup(&server, &up, &[&keys[0], &keys[1]]).start());
    seen(&server, 2);
    let account = json!({"id": "acme", "limits": {"requests_per_minute": 20}});
    gateways[0].admin_json("POST", "/api/accounts", Some(&account));
    eventually("the other gateway has it", DEADLINE, || {
        (gateways[1].admin("GET", "/api/accounts/acme", None).status == 200).then_some(())
    });
    let mut taken = 0;
    for round in 0..60 {
        let answer = ask(&gateways[round % 2], &keys[round / 2 % 2]);
        taken += usize::from(answer.status == 200);
        assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
    }
    assert!((10..=20).contains(&taken), "{taken}");
    eventually("what one does not use the other has", DEADLINE, || {
        taken += usize::from(ask(&gateways[0], &keys[0]).status == 200);
        (taken == 20).then_some(())
    });
    assert_eq!(up.requests().len(), 20);
}

#[test]
fn two_gateways_run_no_more_requests_at_the_same_time_than_the_limit() {
    let server = server();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let up = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        Recorder::start(move |exchange: Exchange| {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            running.fetch_sub(1, Ordering::SeqCst);
            exchange.reply_json(ANSWER);
        })
    };
    let key = limited(json!({"concurrent_requests": 5}));
    let gateways = [(); 2].map(|()| setup(&server, &up, &[&key]).start());
    seen(&server, 2);
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (gateways, key, taken) = (&gateways, &key, &taken);
            scope.spawn(move || {
                let mut client = gateways[number % 2].client();
                for _ in 0..60 {
                    let answer = client.ask(&Call::chat(&key.token, "good"));
                    assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
                    taken.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
            });
        }
    });
    let most = most.load(Ordering::SeqCst);
    assert!((2..=5).contains(&most), "{most}");
    assert!(taken.load(Ordering::Relaxed) > 20);
    eventually("all places are free", DEADLINE, || {
        let own = gateways[0].ask(&Call::get("/v1/key", &key.token)).json();
        (own["limits"][0]["remaining"].as_u64()? >= 3).then_some(())
    });
}

#[test]
fn a_gateway_that_died_holds_its_places_until_its_lease_ends() {
    let server = server();
    let up = Recorder::held();
    let key = limited(json!({"concurrent_requests": 1}));
    let [one, two] = [(); 2].map(|()| setup(&server, &up, &[&key]).start());
    seen(&server, 2);
    let mut client = one.client();
    client.send(&Call::chat(&key.token, "good").bytes());
    let exchange = up.next();
    assert_refused(&ask(&two, &key), 429, "rate_limit_exceeded");
    let died = Instant::now();
    one.process.signal(Signal::KILL);
    drop((client, exchange));
    up.script(|exchange| exchange.reply_json(ANSWER));
    eventually("its place is free", DEADLINE, || {
        (ask(&two, &key).status == 200).then_some(())
    });
    let took = died.elapsed();
    assert!(took < Duration::from_secs(16), "{took:?}");
}

#[test]
fn a_burst_on_two_gateways_does_not_overspend_a_budget_and_both_show_what_is_spent() {
    let server = server();
    let up = Recorder::start(|exchange| exchange.reply_json(ANSWER));
    let budgets = json!([{"unit": "requests", "amount": 30, "per": "month"}]);
    let key = Key::all("key_budget").with("budgets", budgets);
    let gateways = [(); 2].map(|()| setup(&server, &up, &[&key]).start());
    seen(&server, 2);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (gateways, key) = (&gateways, &key);
            scope.spawn(move || {
                for _ in 0..12 {
                    let answer = ask(&gateways[number % 2], key);
                    assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
                }
            });
        }
    });
    let taken = || up.requests().len();
    assert!((15..=30).contains(&taken()), "{}", taken());
    eventually("one has what the other does not use", DEADLINE, || {
        let _ = ask(&gateways[1], &key);
        (taken() == 30).then_some(())
    });
    assert_refused(&ask(&gateways[0], &key), 429, "insufficient_quota");
    for gateway in &gateways {
        eventually("the gateway shows it", DEADLINE, || {
            let own = gateway.ask(&Call::get("/v1/key", &key.token)).json();
            (own["budgets"][0]["used"] == 30 && own["budgets"][0]["remaining"] == 0).then_some(())
        });
        let shown = gateway.admin_json("GET", "/api/keys/key_budget", None);
        assert_eq!(shown["budgets_left"][0]["used"], 30, "{shown}");
    }
    // Begun anew on one, it is begun anew on the other.
    let ran = gateways[0].run(&["keys", "update", "key_budget", "--reset-budget"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    eventually("the other takes requests again", DEADLINE, || {
        (ask(&gateways[1], &key).status == 200).then_some(())
    });
}

#[test]
fn without_the_database_limited_keys_are_refused_where_the_config_says_so() {
    let mut server = server();
    let up = Recorder::answering();
    let key = limited(json!({"requests_per_minute": 1000}));
    let free = Key::all("key_free");
    let gateway = setup(&server, &up, &[&key, &free])
        .set("keys", "limits_unavailable = \"refuse\"")
        .start();
    assert_eq!(ask(&gateway, &key).status, 200);
    server.kill();
    let refused = eventually("it refuses", DEADLINE, || {
        let answer = ask(&gateway, &key);
        (answer.status != 200).then_some(answer)
    });
    assert_refused(&refused, 503, "limits_unavailable");
    assert_eq!(ask(&gateway, &free).status, 200);
    assert_eq!(gateway.metric("keygate_leases_up"), 0.0);
    server.run();
    eventually("it takes requests again", DEADLINE, || {
        (ask(&gateway, &key).status == 200).then_some(())
    });
    assert_eq!(gateway.metric("keygate_leases_up"), 1.0);
}

#[test]
fn keys_without_limits_and_gateways_without_requests_ask_for_no_leases() {
    let server = server();
    let up = Recorder::answering();
    let key = limited(json!({"requests_per_minute": 1000}));
    let free = Key::all("key_free");
    let gateway = setup(&server, &up, &[&key, &free]).start();
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &free).status, 200);
    }
    assert_eq!(gateway.metric("keygate_lease_renewal_seconds_count"), 0.0);
    assert_eq!(ask(&gateway, &key).status, 200);
    assert!(gateway.metric("keygate_lease_renewal_seconds_count") >= 1.0);
    let held = "SELECT state LIKE '%amount%' FROM limit_leases";
    assert_eq!(server.query("usage", held), "t");
    eventually(
        "a key that is not used gives its lease back",
        DEADLINE,
        || (server.query("usage", held) == "f").then_some(()),
    );
}
