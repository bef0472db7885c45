//! `keygate demo` works as it prints and leaves nothing behind.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::commands::ran::bearer;
use crate::people::panel::{PASSWORD, Person, from_panel};
use crate::support::client::{Call, Client};
use crate::support::gateway::{Process, keygate};
use crate::support::{DEADLINE, assert_error, eventually};

/// A demo looks for its ports before it opens them. Two that begin in the same millisecond may find the same one, so these
/// tests begin one after the other.
static BEGINNING: Mutex<()> = Mutex::new(());

#[test]
fn the_demo_runs_its_curl_line_works_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = tempfile::tempdir().expect("a folder");
    let mut command = keygate(folder.path());
    command.arg("demo").env("TMPDIR", temporary.path());
    let beginning = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Process::spawn(command);
    let printed = eventually("the demo tells how to use it", DEADLINE, || {
        let text = demo.log().join("\n");
        (text.contains("curl ") && text.contains("kg_")).then_some(text)
    });
    drop(beginning);
    for told in [
        "as an invited owner sees it: http://127.0.0.1:",
        "owner@example.com the owner of the account demo-team",
    ] {
        assert!(printed.contains(told), "{printed}");
    }
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
    // The stand-in is asked for the usage of the stream, and the client sees nothing of that.
    assert!(!answer.contains("usage"), "{answer}");
    eventually("the stream is counted", DEADLINE, || {
        let log = demo.log();
        log.iter()
            .any(|line| line.contains("certainty=exact"))
            .then_some(())
    });
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
    // The second link: an owner signs in and makes a key in the account, which works.
    let link = printed
        .split_whitespace()
        .find(|word| word.contains("/#invitation="))
        .expect("an invitation");
    let (panel, code) = link.split_once("/#invitation=").expect("a code");
    let panel: SocketAddr = panel
        .strip_prefix("http://")
        .and_then(|address| address.parse().ok())
        .expect("an address");
    let accepted = json!({"invitation": code, "password": PASSWORD});
    let accepted = Client::connect(panel).ask(&from_panel("POST", "/api/session", &accepted));
    let owner = Person::of(&accepted);
    assert_eq!(owner.session["principal"]["email"], "owner@example.com");
    assert_eq!(
        owner.session["accounts"],
        json!([{"id": "demo-team", "name": "Demo team", "role": "owner"}])
    );
    let new = json!({"name": "mine", "model_access": {"mode": "all"}});
    let created = Client::connect(panel).ask(&owner.call("POST", "/api/keys", &new));
    let created = created.json();
    assert_eq!(created["key"]["account"], "demo-team");
    let own = created["token"].as_str().expect("a token");
    let answered = Client::connect(address).ask(&Call::chat(own, &model));
    assert_eq!(answered.status, 200, "{}", answered.text());
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
            let beginning = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
            let demo = Process::spawn(command);
            let url = eventually("the demo tells its address", DEADLINE, || {
                let text = demo.log().join("\n");
                text.split_whitespace()
                    .find(|word| word.starts_with("http://") && word.ends_with("/v1"))
                    .map(str::to_owned)
            });
            drop(beginning);
            (demo, url)
        })
        .collect();
    assert_ne!(urls[0].1, urls[1].1);
}
