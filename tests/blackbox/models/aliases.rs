//! Aliases: a name of an upstream's model that is a name of its own in the catalogue; and the hint for a name without
//! Ollama's default tag (reference 2 and 4).

use std::time::Duration;

use crate::support::chat::chat;
use crate::support::client::{Call, Response};
use crate::support::gateway::Setup;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{Cases, assert_error, eventually};

fn ids(response: &Response) -> Vec<String> {
    let list = response.json();
    let models = list["data"].as_array().expect("a list");
    let id = |model: &serde_json::Value| model["id"].as_str().expect("an id").to_owned();
    models.iter().map(id).collect()
}

fn with_aliases(up: &Recorder, aliases: &str, keys: &[&Key]) -> Setup {
    Setup::new()
        .upstream_with(
            "up",
            &[&up.url()],
            &["llama:latest", "bad"],
            &format!("aliases = {aliases}"),
        )
        .keys(keys)
}

#[test]
fn an_alias_is_judged_by_itself_and_sent_as_the_models_own_name() {
    let up = Recorder::answering();
    let all = Key::all("key_all");
    let only = Key::only("key_only", &["llama"]);
    let other = Key::only("key_other", &["llama:latest"]);
    let but_model = Key::all_but("key_but_model", &["llama:latest"]);
    let but_alias = Key::all_but("key_but_alias", &["llama"]);
    let gateway = with_aliases(
        &up,
        r#"{ "llama" = "llama:latest" }"#,
        &[&all, &only, &other, &but_model, &but_alias],
    )
    .start();
    let mut cases = Cases::new();
    for (key, may_alias, may_model) in [
        (&all, true, true),
        (&only, true, false),
        (&other, false, true),
        (&but_model, false, false),
        (&but_alias, false, true),
    ] {
        for (model, may) in [("llama", may_alias), ("llama:latest", may_model)] {
            let response = gateway.ask(&Call::chat(&key.token, model));
            let shown = gateway.ask(&Call::get(&format!("/v1/models/{model}"), &key.token));
            let listed = ids(&gateway.ask(&Call::get("/v1/models", &key.token)));
            let owned = gateway.ask(&Call::get("/v1/key", &key.token)).json();
            let owned = owned["models"].as_array().expect("a list");
            let explained = gateway.admin_json(
                "POST",
                "/api/explain",
                Some(&serde_json::json!({"key": key.id, "model": model, "from": "127.0.0.1"})),
            );
            let status = if may { 200 } else { 404 };
            let agree = response.status == status
                && shown.status == status
                && listed.iter().any(|id| id == model) == may
                && owned.iter().any(|id| id == model) == may
                && explained["allowed"] == may;
            let found = format!(
                "{} {} {listed:?} {explained}",
                response.text(),
                shown.text()
            );
            cases.check(
                &format!("{} and {model}", key.id),
                agree.then_some(()).ok_or(found),
            );
        }
    }
    cases.done();
    for seen in up.requests() {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
        assert_eq!(body["model"], "llama:latest");
    }
    let models = gateway.admin_json("GET", "/api/models", None);
    let alias = models["models"]
        .as_array()
        .and_then(|models| models.iter().find(|model| model["id"] == "llama"))
        .expect("the alias is listed");
    assert_eq!(
        (&alias["upstream"], &alias["alias_of"], &alias["keys"]),
        (&"up".into(), &"llama:latest".into(), &2.into())
    );
    let access = gateway
        .log()
        .into_iter()
        .find(|line| line.contains(r#""model":"llama""#));
    assert!(access.is_some(), "the log names the alias");
}

#[test]
fn the_bytes_around_an_alias_pass_unchanged_with_the_right_length() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = with_aliases(
        &up,
        r#"{ "a" = "llama:latest", "a-name-that-is-longer" = "llama:latest" }"#,
        &[&key],
    )
    .start();
    let megabyte = "x\\n\u{e4}".repeat(300_000);
    for alias in ["a", "a-name-that-is-longer"] {
        for (before, written, behind) in [
            ("{\"model\":", format!("\"{alias}\""), "}".to_owned()),
            (
                " {\n \"n\" : 1.0e0 , \"model\"\t: ",
                format!("\"\\u0061{}\"", &alias[1..]),
                " , \"x\":{\"model\":\"a\"}} \n".to_owned(),
            ),
            (
                "{\"model\":",
                format!("\"{alias}\""),
                format!(",\"messages\":\"{megabyte}\"}}"),
            ),
        ] {
            let body = format!("{before}{written}{behind}");
            for protocol in BOTH {
                let response = h2::ask(protocol, &gateway, &chat(&key, body.clone()));
                assert_eq!(response.status, 200, "{}", response.text());
                let seen = up.last();
                let expected = format!("{before}\"llama:latest\"{behind}");
                assert!(seen.body == expected.as_bytes(), "{alias} in {before}");
                let length = expected.len().to_string();
                assert_eq!(seen.header("content-length"), Some(&*length));
            }
        }
        for length in ["", "Content-Length: "] {
            let form = |model: &str| {
                let length = match length {
                    "" => String::new(),
                    name => format!("{name}{}\r\n", model.len()),
                };
                format!(
                    "--XyZ\r\n{length}Content-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--XyZ\r\n\
                     Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{megabyte}\r\n--XyZ--\r\n"
                )
            };
            let call = Call::new("POST", "/v1/audio/transcriptions")
                .bearer(&key.token)
                .header("content-type", "multipart/form-data; boundary=XyZ")
                .body(form(alias));
            let response = gateway.ask(&call);
            assert_eq!(response.status, 200, "{}", response.text());
            assert!(
                up.last().body == form("llama:latest").as_bytes(),
                "form with {alias}"
            );
        }
    }
}

#[test]
fn digests_of_a_body_that_is_edited_stay_behind() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let more = "aliases = { \"a\" = \"b\" }\nforward_headers = [\"*\"]";
    let gateway = Setup::new()
        .upstream_with("up", &[&up.url()], &["b"], more)
        .keys(&[&key])
        .start();
    let digests = ["content-digest", "repr-digest", "digest", "content-md5"];
    for (model, passes) in [("a", false), ("b", true)] {
        let mut call = chat(&key, format!("{{\"model\":\"{model}\"}}"));
        for name in digests {
            call = call.header(name, "x=:AA==:");
        }
        for protocol in BOTH {
            assert_eq!(h2::ask(protocol, &gateway, &call).status, 200);
            for name in digests {
                assert_eq!(
                    up.last().all(name).len(),
                    usize::from(passes),
                    "{name} for {model}"
                );
            }
        }
    }
}

#[test]
fn an_alias_is_offered_while_its_model_is_discovered_and_no_other_upstream_takes_its_name() {
    let up = Recorder::start(|exchange| exchange.serve_models(&["llama:latest"]));
    let other = Recorder::start(|exchange| exchange.serve_models(&["llama", "soon", "qwen"]));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("other", &[&other.url()], &[])
        .upstream_with(
            "up",
            &[&up.url()],
            &[],
            r#"aliases = { "llama" = "llama:latest", "soon" = "not-there-yet" }"#,
        )
        .keys(&[&key])
        .start();
    let listed = || {
        let mut ids = ids(&gateway.ask(&Call::get("/v1/models", &key.token)));
        ids.sort_unstable();
        ids
    };
    eventually("both lists", Duration::from_secs(10), || {
        (listed() == ["llama", "llama:latest", "qwen"]).then_some(())
    });
    let response = gateway.ask(&Call::chat(&key.token, "llama"));
    assert_eq!(response.status, 200);
    assert!(up.last().target.ends_with("/chat/completions"));
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "soon")),
        404,
        "model_not_found",
    );
}

#[test]
fn an_alias_that_cannot_be_is_a_fault_with_its_line_and_a_remedy() {
    let up = Recorder::answering();
    for (aliases, told) in [
        (r#"{ "bad" = "llama:latest" }"#, "is a model of line"),
        (
            r#"{ "llama" = "gone" }"#,
            "is not in this upstream's models",
        ),
        (r#"{ "llama:latest" = "llama:latest" }"#, "names itself"),
        (r#"{ "llama" = 3 }"#, "write a text in double quotes"),
        (r#"["llama"]"#, "write a table"),
        (r#"{ "" = "bad" }"#, "is empty; write a name"),
    ] {
        let (status, output) = with_aliases(&up, aliases, &[]).refused();
        assert_eq!(status.code(), Some(1), "{aliases}");
        assert!(
            output.contains("keygate.toml:") && output.contains("aliases") && output.contains(told),
            "{aliases}: {output}"
        );
    }
    let (_, output) = with_aliases(&up, r#"{ "twice" = "bad" }"#, &[])
        .upstream_with(
            "two",
            &[&up.url()],
            &["more"],
            r#"aliases = { "twice" = "more" }"#,
        )
        .refused();
    assert!(output.contains("is an alias of line"), "{output}");
}

#[test]
fn an_alias_added_by_a_reload_is_there_at_once() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = with_aliases(&up, r#"{ "one" = "bad" }"#, &[&key]).start();
    assert_eq!(gateway.ask(&Call::chat(&key.token, "one")).status, 200);
    gateway.change_config(r#""one" ="#, r#""two" ="#);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "two")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&key.token, "one")),
        404,
        "model_not_found",
    );
}

#[test]
fn a_name_without_its_default_tag_is_hinted_at_for_keys_that_may_use_the_model() {
    let up = Recorder::answering();
    let all = Key::all("key_all");
    let only = Key::only("key_only", &["llama3:latest"]);
    let other = Key::only("key_other", &["qwen"]);
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &["llama3:latest", "qwen"])
        .keys(&[&all, &only, &other])
        .start();
    let refused = |key: &Key, model: &str| {
        let response = gateway.ask(&Call::chat(&key.token, model));
        assert_error(&response, 404, "model_not_found");
        let shown = gateway.ask(&Call::get(&format!("/v1/models/{model}"), &key.token));
        assert_eq!(response.body, shown.body);
        response.text()
    };
    for key in [&all, &only] {
        assert!(refused(key, "llama3").contains("Did you mean `llama3:latest`?"));
    }
    assert!(refused(&all, "qwen:latest").contains("Did you mean `qwen`?"));
    let unknown = refused(&all, "never-heard-of");
    for (key, model) in [
        (&other, "llama3"),
        (&only, "qwen:latest"),
        (&other, "llama3:latest"),
        (&all, "llama"),
    ] {
        assert_eq!(refused(key, model), unknown, "{} {model}", key.id);
    }
}
