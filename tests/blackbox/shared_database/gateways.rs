//! Two gateways with one database: what one knows, the other knows too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::trail::assert_intact;
use crate::postgres::TestServer;
use crate::support::client::{Call, Client, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};
use crate::usage_questions::calls::an_hour_ago;

/// How long a change of an account takes to reach other gateways, as promised, with room for a busy machine.
const FOLLOWED: Duration = Duration::from_secs(5);
const PASSWORD: &str = "correct horse battery staple";

/// A gateway with these keys.
pub fn setup(server: &TestServer, up: &Recorder, keys: &[&Key]) -> Setup {
    shared(server, up).keys(keys)
}

/// A gateway before this upstream. The key of the audit is the same for all.
pub fn shared(server: &TestServer, up: &Recorder) -> Setup {
    shared_at(&server.url("usage"), up)
}

/// The same, with the database at this URL.
pub fn shared_at(url: &str, up: &Recorder) -> Setup {
    let setup = Setup::before(up)
        .set("database", &format!("url = \"{url}\""))
        .set("admin", "listen = \"127.0.0.1:0\"")
        .line("public_health = true");
    let file = setup.path("audit.key");
    std::fs::write(&file, "7".repeat(64)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    setup
}

pub fn server() -> TestServer {
    let server = TestServer::start();
    server.create_database("usage");
    server
}

/// What all gateways have counted, as this one knows it.
pub fn counted(gateway: &Gateway) -> i64 {
    let usage = gateway.admin_json(
        "GET",
        &format!("/api/usage?start_time={}&group_by=key", an_hour_ago()),
        None,
    );
    let text = usage.to_string();
    let rows = usage["data"].as_array().unwrap_or_else(|| panic!("{text}"));
    let results = rows
        .iter()
        .filter_map(|bucket| bucket["results"].as_array());
    results
        .flatten()
        .filter_map(|result| result["num_model_requests"].as_i64())
        .sum()
}

fn from_panel(gateway: &Gateway, call: Call) -> Response {
    let call = call.header("x-keygate-panel", "1");
    Client::connect(gateway.admin_address()).ask(&call)
}

/// Ends the other threads of a test, also where the test fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_key_that_is_used_through_another_gateway_is_not_unused() {
    let server = server();
    let up = Recorder::answering();
    let long_ago = "2001-01-01T00:00:00Z";
    let [used, unused] =
        ["key_used", "key_unused"].map(|id| Key::all(id).with("created_at", long_ago));
    let [one, two] = [(); 2].map(|()| setup(&server, &up, &[&used, &unused]).start());
    let answer = one.ask(&Call::chat(&used.token, "good"));
    assert_eq!(answer.status, 200);
    eventually("the other gateway knows", DEADLINE, || {
        let list = two.admin_json("GET", "/api/keys?unused_for=90d", None);
        let ids: Vec<&str> = list["keys"]
            .as_array()?
            .iter()
            .filter_map(|key| key["id"].as_str())
            .collect();
        (ids == ["key_unused"]).then_some(())
    });
}

#[test]
fn gateways_share_usage_accounts_sessions_and_one_chain_of_audit_rows() {
    let server = server();
    let up = Recorder::answering();
    let key = Key::all("key_all").with("account", "acme");
    let free = Key::all("key_free");
    let [one, two] = [(); 2].map(|()| setup(&server, &up, &[&key, &free]).start());
    let status = one.admin_json("GET", "/api/status", None);
    assert_eq!(status["database"]["kind"], "postgres");
    assert!(one.run(&["status"], "").out.contains("postgres, up"));

    // Usage.
    for gateway in [&one, &two, &two] {
        assert_eq!(gateway.ask(&Call::chat(&free.token, "good")).status, 200);
    }
    for gateway in [&one, &two] {
        eventually("all is counted", DEADLINE, || {
            (counted(gateway) == 3).then_some(())
        });
    }

    // Accounts.
    one.admin_json("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    assert_eq!(two.ask(&Call::chat(&key.token, "good")).status, 200);
    let again = two.admin("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    assert_eq!(again.status, 409, "{}", again.text());
    eventually("the other gateway has it", FOLLOWED, || {
        (two.admin("GET", "/api/accounts/acme", None).status == 200).then_some(())
    });
    one.admin_json(
        "PATCH",
        "/api/accounts/acme",
        Some(&json!({"disabled": true})),
    );
    eventually("the key is refused on the other gateway", FOLLOWED, || {
        (two.ask(&Call::chat(&key.token, "good")).status == 401).then_some(())
    });
    two.admin_json(
        "PATCH",
        "/api/accounts/acme",
        Some(&json!({"disabled": false})),
    );
    eventually("the key is taken again", FOLLOWED, || {
        (one.ask(&Call::chat(&key.token, "good")).status == 200).then_some(())
    });

    // People.
    let invitation = one.admin_json(
        "POST",
        "/api/accounts/acme/invitations",
        Some(&json!({"email": "alice@example.com", "role": "member"})),
    );
    let link = invitation["link"].as_str().unwrap();
    let code = link.split_once("/#invitation=").unwrap().1;
    let body = json!({"invitation": code, "password": PASSWORD}).to_string();
    let call = Call::new("POST", "/api/session").header("content-type", "application/json");
    let signed_in = from_panel(&one, call.body(body));
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    let cookie = signed_in.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let secret = signed_in.json()["secret"].as_str().unwrap().to_owned();
    let shown = |gateway: &Gateway| {
        let call = Call::new("GET", "/api/session")
            .header("cookie", &cookie)
            .header("x-keygate-session", &secret);
        from_panel(gateway, call)
    };
    for gateway in [&one, &two] {
        let shown = shown(gateway);
        assert_eq!(shown.status, 200, "{}", shown.text());
        assert_eq!(shown.json()["principal"]["email"], "alice@example.com");
    }

    // A device that one gateway knows is known to the other, where somebody guesses from the same address.
    let by_password = |password: &str, cookie: &str| {
        let body = json!({"email": "alice@example.com", "password": password}).to_string();
        let call = Call::new("POST", "/api/session").header("content-type", "application/json");
        from_panel(&two, call.header("cookie", cookie).body(body)).status
    };
    let device = signed_in.all("set-cookie")[1];
    let device = device.split(';').next().unwrap();
    eventually("guesses are slowed", Duration::from_secs(60), || {
        let is_slowed = by_password("a guess", "") == 429 && by_password(PASSWORD, "") == 429;
        is_slowed.then_some(())
    });
    assert_eq!(by_password(PASSWORD, device), 200);

    // The audit.
    for gateway in [&one, &two] {
        assert_intact(gateway);
        let ran = gateway.run(&["audit", "verify"], "");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
    let rows = two.admin_json("GET", "/api/audit?action=change_account", None);
    assert_eq!(rows["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn a_gateway_without_the_audit_key_of_the_others_makes_no_change() {
    let server = server();
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let one = setup(&server, &up, &[&key]).start();
    one.admin_json("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    let other = setup(&server, &up, &[&key]);
    std::fs::write(other.path("audit.key"), "8".repeat(64)).unwrap();
    let other = other.start();
    let refused = other.admin("POST", "/api/accounts", Some(&json!({"id": "b"})));
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("key_file"), "{}", refused.text());
    assert_eq!(other.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_intact(&one);
}

#[test]
fn while_the_server_is_dead_or_stands_still_no_request_is_refused_and_each_counts_once() {
    let mut server = server();
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let gateways = [(); 2].map(|()| setup(&server, &up, &[&key]).start());
    let sent = Arc::new(AtomicUsize::new(0));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&ends);
        for gateway in &gateways {
            let (sent, ends, key) = (&sent, &ends, &key);
            scope.spawn(move || {
                let mut client = gateway.client();
                while !ends.load(Ordering::Relaxed) {
                    let answer = client.ask(&Call::chat(&key.token, "good"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let all_are = |up: bool| {
            for gateway in &gateways {
                eventually("the gateway notices", DEADLINE, || {
                    let status = gateway.admin_json("GET", "/api/status", None);
                    (status["database"]["up"] == up).then_some(())
                });
                // Load balancers go on sending it requests.
                let ready = gateway.ask(&Call::new("GET", "/readyz"));
                assert_eq!(ready.status, 200);
            }
        };
        all_are(true);
        server.kill();
        all_are(false);
        server.run();
        all_are(true);
        server.freeze();
        all_are(false);
        server.thaw();
        all_are(true);
    });
    let sent = i64::try_from(sent.load(Ordering::Relaxed)).unwrap();
    eventually("all is counted", DEADLINE, || {
        (counted(&gateways[0]) == sent).then_some(())
    });
    // What waits is in the sums at once, and among the records once it is written.
    eventually("all is written", DEADLINE, || {
        let records = server.query("usage", "SELECT count(*) FROM usage_records");
        (records == sent.to_string()).then_some(())
    });
    for gateway in &gateways {
        assert_eq!(gateway.metric("keygate_usage_records_dropped_total"), 0.0);
    }
}

#[test]
fn a_start_without_the_server_serves_keys_without_an_account_and_no_others_until_it_is_back() {
    let mut server = server();
    let up = Recorder::answering();
    let key = Key::all("key_acme").with("account", "acme");
    let free = Key::all("key_free");
    let mut gateway = setup(&server, &up, &[&key, &free]).start();
    gateway.admin_json(
        "POST",
        "/api/accounts",
        Some(&json!({"id": "acme", "disabled": true})),
    );
    assert_eq!(gateway.ask(&Call::chat(&free.token, "good")).status, 200);
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    server.kill();
    gateway.launch_again();
    let ready = gateway.admin("GET", "/readyz", None);
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("accounts"), "{}", ready.text());
    // A load balancer that asks on the data port is told the same.
    let on_the_data_port = || gateway.ask(&Call::new("GET", "/readyz")).status;
    assert_eq!(on_the_data_port(), 503);
    let asked = |key: &Key| gateway.ask(&Call::chat(&key.token, "good")).status;
    // Nobody knows whether the account allows it.
    assert_eq!((asked(&key), asked(&free)), (503, 200));
    let warned = gateway.process.line("what waits", |line| {
        line.contains("the accounts cannot be read") && line.contains("cannot be reached")
    });
    let warned: Value = serde_json::from_str(&warned).unwrap();
    assert_eq!(warned["level"], "error");
    server.run();
    gateway.wait_ready();
    assert_eq!(on_the_data_port(), 200);
    assert_eq!((asked(&key), asked(&free)), (401, 200));
    eventually("all is counted", DEADLINE, || {
        (counted(&gateway) == 3).then_some(())
    });
    let keys = gateway.admin_json("GET", "/api/keys/key_free", None);
    assert_eq!(keys["requests"], 3, "{keys}");
}

#[test]
fn faults_of_the_url_are_named_by_check_and_at_the_start_and_show_no_password() {
    let server = server();
    let up = Recorder::answering();
    let with_url = |url: &str| Setup::before(&up).set("database", &format!("url = \"{url}\""));
    let setup = with_url("postgres://keygate:hunter22@db.example.com/usage?sslmode=disable");
    setup.write();
    let checked = crate::support::gateway::run(
        setup.path("").as_path(),
        &["check", "--config", "keygate.toml"],
        "",
    );
    assert_eq!(checked.code, Some(1));
    assert!(checked.err.contains("database.url") || checked.out.contains("database.url"));
    assert!(!format!("{}{}", checked.out, checked.err).contains("hunter22"));
    let setup = with_url(&server.url("nowhere"));
    let (status, said) = setup.refused();
    assert!(!status.success() && said.contains("createdb"), "{said}");
}
