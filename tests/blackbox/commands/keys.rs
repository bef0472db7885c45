//! Contract 1: the command line, as people and scripts use it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::gateway::{Gateway, Process, Ran, Setup, keygate, run};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{self, Key, key_file};
use crate::support::{Cases, DEADLINE, assert_error, eventually};

#[track_caller]
fn done(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{} {}", ran.out, ran.err);
    ran.out
}

/// A command in the gateway's folder, where its config and socket are.
#[track_caller]
fn ok(gateway: &Gateway, arguments: &[&str]) -> String {
    done(gateway.run(arguments, ""))
}

/// The bearer token in what a command printed.
fn bearer(text: &str) -> String {
    let at = text
        .find("kg_")
        .unwrap_or_else(|| panic!("no token: {text}"));
    let token: String = text[at..]
        .chars()
        .take_while(|sign| sign.is_ascii_alphanumeric() || *sign == '_')
        .collect();
    assert_eq!(token.len(), 52, "{token}");
    token
}

#[test]
fn a_key_is_made_shown_changed_and_deleted() {
    let stand = Stand::with(|setup| setup.line("public_url = \"https://ai.example.com\""));
    let gateway = &stand.gateway;
    let made = ok(
        gateway,
        &[
            "keys",
            "create",
            "--name",
            "web site",
            "--model-access",
            "inclusive",
            "--model",
            "good",
            "--model",
            "org/name",
            "--allow-from",
            "127.0.0.0/8",
            "--expires",
            "2099-01-31",
            "--account",
            "acme",
        ],
    );
    assert!(
        made.contains("OpenAI Compatible URL") && made.contains("https://ai.example.com/v1"),
        "{made}"
    );
    assert!(made.contains("Bearer Token"), "{made}");
    let token = bearer(&made);
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&token, "bad")),
        404,
        "model_not_found",
    );
    let list: Value =
        serde_json::from_str(&ok(gateway, &["keys", "list", "--json"])).expect("JSON");
    assert_eq!(list["next"], json!(null));
    let key = list["keys"][0].clone();
    assert_eq!(key["name"], "web site", "newest first: {list}");
    // A date is through the end of that day, UTC.
    assert_eq!(key["expires_at"], "2099-02-01T00:00:00Z");
    let id = key["id"].as_str().expect("an id").to_owned();
    for arguments in [
        vec!["keys", "list"],
        vec!["keys", "show", &id],
        vec!["keys", "show", &id, "--json"],
        vec!["status"],
        vec!["keys", "list", "--json"],
    ] {
        let text = ok(gateway, &arguments);
        assert!(
            !text.contains(&token) && !text.contains(&token::hash(&token)["blake3:".len()..]),
            "{arguments:?}: {text}"
        );
    }
    let text = ok(gateway, &["keys", "list"]);
    let line = text
        .lines()
        .find(|line| line.contains(&id))
        .expect("a line");
    for fact in [
        "web site",
        "good",
        "org/name",
        "127.0.0.0/8",
        "2099-02-01",
        "active",
        &token[48..],
    ] {
        assert!(line.contains(fact), "{fact} is not in {line:?}");
    }
    ok(
        gateway,
        &[
            "keys",
            "update",
            &id,
            "--name",
            "renamed",
            "--expires",
            "never",
            "--allow-from",
            "any",
        ],
    );
    let shown: Value =
        serde_json::from_str(&ok(gateway, &["keys", "show", &id, "--json"])).expect("JSON");
    let shown = shown.get("key").unwrap_or(&shown);
    assert_eq!(
        (&shown["name"], &shown["expires_at"], &shown["allow_from"]),
        (&json!("renamed"), &json!(null), &json!([]))
    );
    assert_eq!(shown["model_access"]["models"], json!(["good", "org/name"]));
    ok(gateway, &["keys", "disable", &id]);
    assert_error(
        &gateway.ask(&Call::chat(&token, "good")),
        401,
        "invalid_api_key",
    );
    ok(gateway, &["keys", "enable", &id]);
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    // Without a terminal to ask on, a delete needs --yes.
    let asked = gateway.run(&["keys", "delete", &id], "y\n");
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    ok(gateway, &["keys", "delete", &id, "--yes"]);
    assert_error(
        &gateway.ask(&Call::chat(&token, "good")),
        401,
        "invalid_api_key",
    );
}

#[test]
fn a_created_keys_json_is_the_apis() {
    let stand = Stand::new();
    let made: Value = serde_json::from_str(&ok(
        &stand.gateway,
        &["keys", "create", "--name", "x", "--json"],
    ))
    .expect("JSON");
    assert!(
        made["token"]
            .as_str()
            .is_some_and(|token| token.starts_with("kg_"))
    );
    assert_eq!(made["key"]["model_access"], json!({"mode": "all"}));
    assert!(made["url"].is_string() && made["warnings"].is_array());
    for (expires, hours) in [("12h", 12), ("30d", 30 * 24)] {
        let made: Value = serde_json::from_str(&ok(
            &stand.gateway,
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--expires",
                expires,
                "--json",
            ],
        ))
        .expect("JSON");
        let at: jiff::Timestamp = made["key"]["expires_at"]
            .as_str()
            .and_then(|at| at.parse().ok())
            .expect("a time");
        let expected = jiff::Timestamp::now().as_second() + hours * 3600;
        assert!((at.as_second() - expected).abs() < 60, "{expires}: {at}");
    }
}

#[test]
fn the_list_shows_all_pages_and_cuts_nothing_off() {
    let long = "a model with a name that is far longer than any column of a table would be, and then some more";
    let keys: Vec<Key> = (0..120)
        .map(|at| Key::only(&format!("key_{at}"), &[long]))
        .collect();
    let stand = Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()));
    let text = ok(&stand.gateway, &["keys", "list"]);
    for key in &keys {
        assert!(
            text.lines()
                .any(|line| line.contains(&key.id) && line.contains(long)),
            "{}",
            key.id
        );
    }
    let list: Value =
        serde_json::from_str(&ok(&stand.gateway, &["keys", "list", "--json"])).expect("JSON");
    assert_eq!(list["keys"].as_array().map(Vec::len), Some(123));
    assert_eq!(list["next"], json!(null));
}

#[test]
fn what_is_refused_exits_1_and_wrong_usage_exits_2() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (arguments, code) in [
        (&["keys", "show", "no_such_key"][..], 1),
        (&["keys", "disable", "no_such_key"], 1),
        (&["keys", "delete", "no_such_key", "--yes"], 1),
        (&["keys", "update", "no_such_key", "--name", "x"], 1),
        (
            &["keys", "create", "--name", "x", "--expires", "2020-01-01"],
            1,
        ),
        (&["keys", "create", "--name", "x", "--allow-from", "::1"], 1),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--allow-from",
                "10.0.0.0/33",
            ],
            1,
        ),
        (&["keys", "create", "--name", "x", "--model", "good"], 1),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--model-access",
                "all",
                "--model",
                "good",
            ],
            1,
        ),
        (
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--model-access",
                "inclusive",
            ],
            1,
        ),
        (&["keys", "create", "--name", "a\nb"], 1),
        (&["keys", "create", "--name", ""], 1),
        (&["keys", "create"], 2),
        (&["keys", "create", "--name", "x", "--expires", "soon"], 2),
        (
            &["keys", "create", "--name", "x", "--model-access", "some"],
            2,
        ),
        (&["keys", "create", "--name", "x", "--unknown"], 2),
        (&["keys"], 2),
        (&["keys", "list", "extra"], 2),
        (&["nonsense"], 2),
        (&[], 2),
        (&["reload", "--nonsense"], 2),
        (&["explain", "--model", "good"], 2),
    ] {
        let ran = stand.gateway.run(arguments, "");
        // What is told apart by the command line alone may be told as wrong usage.
        let right = ran.code == Some(code)
            || (code == 1 && ran.code == Some(2) && arguments[1] == "create");
        let told = !ran.err.trim().is_empty() && ran.out.is_empty();
        cases.check(
            &format!("{arguments:?}"),
            (right && told).then_some(()).ok_or(format!("{ran:?}")),
        );
    }
    let keys = stand.gateway.admin_json("GET", "/api/status", None)["keys"].clone();
    cases.check(
        "nothing was made",
        (keys == 3).then_some(()).ok_or(keys.to_string()),
    );
    cases.done();
}

#[test]
fn without_a_gateway_the_commands_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["status"][..],
        &["keys", "list"],
        &["reload"],
        &["keys", "create", "--name", "x"],
    ] {
        let ran = run(folder.path(), arguments, "");
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("keygate.sock"), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn the_socket_is_found_by_flag_environment_and_config() {
    let stand = Stand::new();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let socket = stand.gateway.socket();
    let socket = socket.to_str().expect("a path");
    done(run(elsewhere.path(), &["status", "--socket", socket], ""));
    let config = stand.gateway.path("keygate.toml");
    done(run(
        elsewhere.path(),
        &["status", "--config", config.to_str().expect("a path")],
        "",
    ));
    let by_environment = keygate(elsewhere.path())
        .arg("status")
        .env("KEYGATE_SOCKET", socket)
        .output()
        .expect("run");
    assert!(by_environment.status.success(), "{by_environment:?}");
    let by_config = keygate(elsewhere.path())
        .arg("status")
        .env("KEYGATE_CONFIG", &config)
        .output()
        .expect("run");
    assert!(by_config.status.success(), "{by_config:?}");
    done(stand.gateway.run(&["status"], ""));
}

#[test]
fn a_key_file_is_worked_on_without_a_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let on = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--keys", "mine.jsonl"]);
        run(folder.path(), &all, "")
    };
    std::fs::write(folder.path().join("mine.jsonl"), "").expect("written");
    let token = bearer(&done(on(&["keys", "create", "--name", "offline"])));
    let list: Value = serde_json::from_str(&done(on(&["keys", "list", "--json"]))).expect("JSON");
    let id = list["keys"][0]["id"].as_str().expect("an id").to_owned();
    done(on(&["keys", "update", &id, "--name", "renamed"]));
    done(on(&["keys", "disable", &id]));
    let file = std::fs::read_to_string(folder.path().join("mine.jsonl")).expect("the file");
    assert!(
        file.contains("renamed") && file.contains(&token::hash(&token)) && !file.contains(&token)
    );
    done(on(&["keys", "delete", &id, "--yes"]));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine.jsonl"))
            .expect("the file")
            .trim(),
        ""
    );
    std::fs::write(folder.path().join("mine.jsonl"), "nonsense\n").expect("written");
    let faulty = on(&["keys", "create", "--name", "x"]);
    assert_eq!(faulty.code, Some(1));
    assert!(faulty.err.contains("mine.jsonl:1"), "{faulty:?}");
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine.jsonl")).expect("the file"),
        "nonsense\n"
    );
}

#[test]
fn a_token_made_elsewhere_is_hashed_for_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    for (input, token) in [
        ("sk-elsewhere\n", "sk-elsewhere"),
        ("sk-elsewhere", "sk-elsewhere"),
        ("sk-elsewhere\r\n", "sk-elsewhere"),
    ] {
        let hashed = done(run(folder.path(), &["keys", "hash"], input));
        assert_eq!(hashed.trim(), token::hash(token), "{input:?}");
    }
    for input in ["", "\n", "two words\n", "kg_tooshort\n"] {
        let ran = run(folder.path(), &["keys", "hash"], input);
        assert_eq!(ran.code, Some(1), "{input:?}: {ran:?}");
    }
}

#[test]
fn reload_and_status_and_explain_speak() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let stand = Stand::with(|setup| setup.keys(&[&old]));
    let gateway = &stand.gateway;
    let kept = [stand.all.clone(), stand.only.clone(), stand.all_but.clone()];
    let with = |more: &Key| {
        key_file(&[
            kept[0].clone(),
            kept[1].clone(),
            kept[2].clone(),
            more.clone(),
        ])
    };
    gateway.write_key_file(&with(&new));
    let dry = ok(gateway, &["reload", "--dry-run"]);
    assert!(dry.contains('1'), "{dry}");
    assert_eq!(gateway.ask(&Call::chat(&old.token, "good")).status, 200);
    ok(gateway, &["reload"]);
    assert_eq!(gateway.ask(&Call::chat(&new.token, "good")).status, 200);
    gateway.write_key_file("nonsense\n");
    let faulty = gateway.run(&["reload"], "");
    assert_eq!(faulty.code, Some(1));
    assert!(faulty.err.contains("keys.jsonl:1"), "{faulty:?}");
    gateway.write_key_file(&key_file(std::slice::from_ref(&new)));
    let dropping = gateway.run(&["reload"], "");
    assert_eq!(dropping.code, Some(1), "{dropping:?}");
    ok(gateway, &["reload", "--force"]);
    let status = ok(gateway, &["status"]);
    for fact in ["up", &stand.up.url()] {
        assert!(status.contains(fact), "{status}");
    }
    let status: Value = serde_json::from_str(&ok(gateway, &["status", "--json"])).expect("JSON");
    assert_eq!(status["keys"], 1);
    let allowed = ok(
        gateway,
        &[
            "explain",
            "--model",
            "good",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
        ],
    );
    assert!(allowed.to_lowercase().contains("allow"), "{allowed}");
    // Exit 0 either way, and the token is never an argument.
    let denied = done(gateway.run(
        &["explain", "--model", "none", "--from", "127.0.0.1"],
        &format!("{}\n", new.token),
    ));
    assert!(denied.to_lowercase().contains("den"), "{denied}");
    assert!(!denied.contains(&new.token));
    let denied: Value = serde_json::from_str(&ok(
        gateway,
        &[
            "explain",
            "--model",
            "none",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
            "--json",
        ],
    ))
    .expect("JSON");
    assert_eq!(
        (&denied["allowed"], &denied["denial"]),
        (&json!(false), &json!("model_not_found"))
    );
    let unknown = done(gateway.run(
        &["explain", "--model", "good", "--from", "127.0.0.1"],
        "sk-unknown\n",
    ));
    assert!(unknown.to_lowercase().contains("den"), "{unknown}");
    let later = ok(
        gateway,
        &[
            "explain",
            "--model",
            "good",
            "--from",
            "127.0.0.1",
            "--key",
            "key_new",
            "--at",
            "2090-01-01T00:00:00Z",
        ],
    );
    assert!(later.to_lowercase().contains("allow"), "{later}");
}

#[test]
fn check_prints_every_fault_of_config_and_key_file_and_starts_nothing() {
    let setup = Setup::new()
        .upstream("up", &["http://127.0.0.1:9"], &["good"])
        .keys(&[&Key::all("key_one")]);
    setup.write();
    let private = |setup: &Setup| {
        std::fs::set_permissions(
            setup.path("keys.jsonl"),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("private");
    };
    private(&setup);
    let folder = setup.path("");
    let sound = run(&folder, &["check"], "");
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(!setup.path("keygate.sock").exists());
    // Warnings alone are no fault.
    std::fs::set_permissions(
        setup.path("keys.jsonl"),
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("a mode");
    let excluding = Key::all_but("key_two", &["no-such-model"]);
    std::fs::write(setup.path("keys.jsonl"), key_file(&[excluding])).expect("written");
    let warned = run(&folder, &["check"], "");
    assert_eq!(warned.code, Some(0), "{warned:?}");
    let said = format!("{}{}", warned.out, warned.err);
    assert!(
        said.contains("no-such-model") && said.contains("keys.jsonl"),
        "{said}"
    );
    // Every fault of both files at once, each with its place.
    std::fs::write(
        setup.path("keygate.toml"),
        "listen = \"nowhere\"\nworkerz = 1\n[limits]\nrequest_body = \"x\"\n[keys]\nfile = \"keys.jsonl\"\n[[upstreams]]\nname = \"up\"\nurl = \"http://127.0.0.1:9/v1\"\n",
    )
    .expect("written");
    std::fs::write(setup.path("keys.jsonl"), "nonsense\n{\"id\":\"x\"}\n").expect("written");
    private(&setup);
    let faulty = run(&folder, &["check", "--config", "keygate.toml"], "");
    assert_eq!(faulty.code, Some(1), "{faulty:?}");
    let said = format!("{}{}", faulty.out, faulty.err);
    for place in [
        "keygate.toml:1: listen: ",
        "keygate.toml:2: workerz: ",
        "keygate.toml:4: limits.request_body: ",
        "keygate.toml:9: upstreams",
        "keys.jsonl:1: ",
        "keys.jsonl:2: ",
    ] {
        assert!(said.contains(place), "{place} is not in:\n{said}");
    }
    let missing = run(&folder, &["check", "--config", "none.toml"], "");
    assert_eq!(missing.code, Some(1), "{missing:?}");
}

#[test]
fn version_help_completions_and_manual_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(done(run(folder.path(), &["--version"], "")).contains(env!("CARGO_PKG_VERSION")));
    assert!(done(run(folder.path(), &["--help"], "")).contains("serve"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(run(folder.path(), &["completions", shell], "")).contains("keygate"));
    }
    assert!(done(run(folder.path(), &["man"], "")).contains(".TH"));
    assert_eq!(
        run(folder.path(), &["completions", "nonsense"], "").code,
        Some(2)
    );
}

#[test]
fn the_demo_runs_its_curl_line_works_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = tempfile::tempdir().expect("a folder");
    let mut command = keygate(folder.path());
    command.arg("demo").env("TMPDIR", temporary.path());
    let mut demo = Process::spawn(command);
    let printed = eventually("the demo tells how to use it", DEADLINE, || {
        let text = demo.log().join("\n");
        (text.contains("curl ") && text.contains("kg_")).then_some(text)
    });
    assert!(
        printed.contains("OpenAI Compatible URL") && printed.contains("Bearer Token"),
        "{printed}"
    );
    let token = bearer(&printed);
    let url = printed
        .split_whitespace()
        .find(|word| word.starts_with("http://") && word.ends_with("/v1"))
        .expect("a URL");
    assert!(
        url.starts_with("http://127.0.0.1:") || url.starts_with("http://localhost:"),
        "{url}"
    );
    // Lines of the command that go on end in a backslash.
    let mut line = String::new();
    let mut taking = false;
    for printed in demo
        .log()
        .iter()
        .flat_map(|line| line.lines().map(str::to_owned).collect::<Vec<_>>())
    {
        taking |= printed.trim_start().starts_with("curl ");
        if taking {
            let goes_on = printed.trim_end().ends_with('\\');
            line.push_str(printed.trim().trim_end_matches('\\'));
            line.push(' ');
            if !goes_on {
                break;
            }
        }
    }
    let curl = Command::new("sh")
        .arg("-c")
        .arg(format!("timeout 20 {line}"))
        .env_remove("http_proxy")
        .output()
        .expect("sh");
    let answer = String::from_utf8_lossy(&curl.stdout).into_owned();
    assert!(
        curl.status.success() && answer.contains("choices"),
        "{line}\n{answer}\n{}",
        String::from_utf8_lossy(&curl.stderr)
    );
    // It streams like a model.
    let port: u16 = url
        .trim_end_matches("/v1")
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let models = Client::connect(address)
        .ask(&Call::get("/v1/models", &token))
        .json();
    let model = models["data"][0]["id"]
        .as_str()
        .expect("a model")
        .to_owned();
    let body =
        json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}]})
            .to_string();
    let streamed = Client::connect(address).ask(&Call::json("/v1/chat/completions", &token, body));
    assert_eq!(streamed.status, 200);
    assert!(
        streamed.text().starts_with("data: ")
            && streamed.text().trim_end().ends_with("data: [DONE]"),
        "{}",
        streamed.text()
    );
    assert_error(
        &Client::connect(address).ask(&Call::chat("sk-x", &model)),
        401,
        "invalid_api_key",
    );
    let start = Instant::now();
    demo.terminate();
    assert_eq!(demo.exits_within(DEADLINE).code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    for kept in [folder.path(), temporary.path()] {
        let left: Vec<_> = std::fs::read_dir(kept).expect("the folder").collect();
        assert!(left.is_empty(), "it leaves {left:?}");
    }
}

#[test]
fn two_demos_run_beside_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let urls: Vec<(Process, String)> = (0..2)
        .map(|_| {
            let mut command = keygate(folder.path());
            command.arg("demo").env("TMPDIR", folder.path());
            let demo = Process::spawn(command);
            let url = eventually("the demo tells its address", DEADLINE, || {
                let text = demo.log().join("\n");
                text.split_whitespace()
                    .find(|word| word.starts_with("http://") && word.ends_with("/v1"))
                    .map(str::to_owned)
            });
            (demo, url)
        })
        .collect();
    assert_ne!(urls[0].1, urls[1].1);
}

#[test]
fn names_from_the_key_file_cannot_steer_the_terminal() {
    // No control characters are in a name; what looks like one may be.
    let key = Key::all("key_odd").with("name", "a\u{202e}b\u{9b}31m\u{200b}");
    let up = Recorder::answering();
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let folder = setup.path("");
    let listed = run(&folder, &["keys", "list", "--keys", "keys.jsonl"], "");
    // U+009B is a control character: the file may be refused for it, but it is never printed.
    for text in [&listed.out, &listed.err] {
        assert!(
            !text.contains('\u{9b}') && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }
}

#[test]
fn no_answer_of_the_admin_api_can_steer_a_terminal() {
    let name = "a\u{202e}b\u{2028}c\u{e0041}\u{200b}";
    let key = Key::all("key_odd").with("name", name);
    let stand = Stand::with(|setup| setup.keys(&[&key]));
    let list = stand.gateway.admin("GET", "/api/keys", None);
    let explained = json!({"key": "key_odd", "model": "x\u{202e}y\u{7f}", "from": "192.0.2.1"});
    let fault = json!({"name": "x", "model_access": {"mode": "all"}, "odd\u{202e}\u{85}": 1});
    for answer in [
        list,
        stand.gateway.admin("GET", "/api/keys/key_odd", None),
        stand
            .gateway
            .admin("POST", "/api/explain", Some(&explained)),
        stand.gateway.admin("POST", "/api/keys", Some(&fault)),
        stand.gateway.admin("GET", "/api/\u{202e}", None),
    ] {
        let text = answer.text();
        let steers = |sign: &char| !matches!(sign, ' '..='~');
        assert_eq!(text.chars().find(steers), None, "{text:?}");
        serde_json::from_slice::<Value>(&answer.body).expect("JSON");
    }
    let shown = stand.gateway.admin("GET", "/api/keys/key_odd", None);
    assert_eq!(shown.json()["name"], name);
}
