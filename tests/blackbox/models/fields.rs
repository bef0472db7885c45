//! Fields of a body that reach beyond the request: further models, what an upstream stored, its engine; and fields that
//! nobody documents (reference 4, steps 6 and 7).

use crate::support::chat::{chat, passed, same_bytes};
use crate::support::client::{Call, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, assert_error, is_error};

const STATE: [(&str, &str); 9] = [
    ("previous_response_id", r#""resp_1""#),
    ("Previous_Response_Id", r#""resp_1""#),
    (r"previous_respon\u0073e_id", r#""resp_1""#),
    ("conversation", r#"{"id":"conv_1"}"#),
    ("background", "true"),
    ("background", r#""true""#),
    ("prompt", r#"{"id":"pmpt_1"}"#),
    ("prompt", r#"{"version":"1","Id":"pmpt_1"}"#),
    ("container", r#""container_1""#),
];

const ENGINE: [(&str, &str); 21] = [
    ("cache_salt", r#""x""#),
    ("CACHE_SALT", r#""x""#),
    ("extra_key", r#""x""#),
    ("priority", "-1"),
    ("priority", "0"),
    ("kv_transfer_params", "{}"),
    ("vllm_xargs", r#"{"kv_transfer_params":{}}"#),
    ("ec_transfer_params", "{}"),
    ("disaggregated_params", "{}"),
    ("session_params", "{}"),
    ("session_id", r#""x""#),
    ("rid", r#""x""#),
    ("request_id", r#""x""#),
    ("id_slot", "0"),
    ("slot_id", "0"),
    ("bootstrap_host", r#""x""#),
    ("bootstrap_port", "1"),
    ("bootstrap_room", "1"),
    ("data_parallel_rank", "0"),
    ("routed_dp_rank", "0"),
    ("custom_logit_processor", r#""x""#),
];

const MODELS: [&str; 17] = [
    "models",
    "fallbacks",
    "lora_path",
    "lora",
    "lora_request",
    "adapters",
    "adapter_id",
    "adapter_source",
    "adapter_path",
    "draft_model",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "router_settings_override",
    "model_list",
    "user_config",
    "route",
    "preset",
];

fn with(field: &str, value: &str) -> String {
    format!(r#"{{"model":"good","{field}":{value}}}"#)
}

/// An error of one of the field codes that names the field.
fn names(response: &Response, code: &str, field: &str) -> Result<(), String> {
    is_error(response, 400, code)?;
    let error = &response.json()["error"];
    let told = error["message"]
        .as_str()
        .is_some_and(|message| message.contains(&format!("`{field}`")));
    (error["param"] == field && told)
        .then_some(())
        .ok_or_else(|| response.text())
}

/// A gateway before one upstream with these lines in its table.
fn before(up: &Recorder, key: &Key, lines: &str) -> Gateway {
    Setup::new()
        .upstream_with("up", &[&up.url()], &["good", "bad"], lines)
        .keys(&[key])
        .start()
}

fn form(field: &str, value: &str) -> Vec<u8> {
    format!(
        "--XyZ\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n--XyZ\r\nContent-Disposition: \
         form-data; name=\"model\"\r\n\r\ngood\r\n--XyZ--\r\n"
    )
    .into_bytes()
}

fn transcribe(key: &Key, body: Vec<u8>) -> Call {
    Call::new("POST", "/v1/audio/transcriptions")
        .bearer(&key.token)
        .header("content-type", "multipart/form-data; boundary=XyZ")
        .body(body)
}

#[test]
fn a_restricted_key_cannot_choose_further_models_by_any_field_and_nothing_named_passes() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for field in MODELS {
        for name in [field.to_owned(), field.to_ascii_uppercase()] {
            for value in [r#"["bad"]"#, r#"{"a":"bad"}"#, r#""bad""#, "true", "[[]]"] {
                let body = with(&name, value);
                for key in [&stand.only, &stand.all_but] {
                    let response = stand.gateway.ask(&chat(key, body.clone()));
                    cases.check(&body, is_error(&response, 400, "ambiguous_model"));
                }
            }
        }
        for value in ["null", "false", r#""""#, "[]", "[ \n]"] {
            let body = with(field, value);
            let response = stand.gateway.ask(&chat(&stand.only, body.clone()));
            let verdict = passed(&response).and_then(|()| same_bytes(&stand, body.as_bytes()));
            cases.check(&body, verdict);
        }
        let response = stand
            .gateway
            .ask(&chat(&stand.all, with(field, r#"["bad"]"#)));
        cases.check(field, passed(&response));
    }
    cases.done();
}

#[test]
fn what_a_server_keeps_is_not_used_by_any_key_unless_the_upstream_is_stateful() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (field, value) in STATE {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let body = with(field, value);
            let call = Call::json("/v1/responses", &key.token, body.clone());
            let plain = field.to_ascii_lowercase().replace(r"\u0073", "s");
            for protocol in BOTH {
                let response = h2::ask(protocol, &stand.gateway, &call);
                cases.check(&body, names(&response, "state_not_allowed", &plain));
            }
        }
    }
    cases.check("upstream", stand.up.untouched());
    for (field, value) in [
        ("previous_response_id", "null"),
        ("conversation", "null"),
        ("background", "false"),
        ("background", "null"),
        ("prompt", r#""the id of a text""#),
        ("prompt", r#"["a"]"#),
        ("prompt", r#"{"id":null}"#),
        ("store", "true"),
        ("metadata", r#"{"conversation":"x","background":true}"#),
    ] {
        let body = with(field, value);
        let call = Call::json("/v1/responses", &stand.only.token, body.clone());
        let response = stand.gateway.ask(&call);
        let verdict = passed(&response).and_then(|()| same_bytes(&stand, body.as_bytes()));
        cases.check(&body, verdict);
    }
    cases.done();

    let (up, key) = (Recorder::answering(), Key::all("key_all"));
    let gateway = before(&up, &key, "stateful = true");
    for (field, value) in STATE {
        let body = with(field, value);
        let response = gateway.ask(&Call::json("/v1/responses", &key.token, body.clone()));
        assert_eq!(response.status, 200, "{body}");
        assert_eq!(up.last().body, body.as_bytes());
    }
    let response = gateway.ask(&chat(&key, with("priority", "1")));
    assert_error(&response, 400, "field_not_allowed");
}

#[test]
fn no_key_steers_the_engine_unless_the_upstream_lets_its_clients() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (field, value) in ENGINE {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let body = with(field, value);
            let response = stand.gateway.ask(&chat(key, body.clone()));
            let plain = field.to_ascii_lowercase();
            cases.check(&body, names(&response, "field_not_allowed", &plain));
        }
    }
    cases.check("upstream", stand.up.untouched());
    for (field, _) in ENGINE {
        let body = with(field, "null");
        let response = stand.gateway.ask(&chat(&stand.only, body.clone()));
        cases.check(&body, passed(&response));
    }
    cases.done();

    let (up, key) = (Recorder::answering(), Key::all("key_all"));
    let gateway = before(&up, &key, "client_fields = \"pass\"");
    for (field, value) in ENGINE {
        let body = with(field, value);
        assert_eq!(gateway.ask(&chat(&key, body.clone())).status, 200, "{body}");
        assert_eq!(up.last().body, body.as_bytes());
    }
    let response = gateway.ask(&chat(&key, with("background", "true")));
    assert_error(&response, 400, "state_not_allowed");
}

#[test]
fn a_forms_fields_are_judged_like_those_of_json() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (field, value, code, named) in [
        ("priority", "1", "field_not_allowed", "priority"),
        ("Cache_Salt", "x", "field_not_allowed", "cache_salt"),
        ("background", "true", "state_not_allowed", "background"),
        ("prompt[id]", "pmpt_1", "state_not_allowed", "prompt"),
        ("conversation", "c", "state_not_allowed", "conversation"),
    ] {
        for key in [&stand.all, &stand.only] {
            let response = stand.gateway.ask(&transcribe(key, form(field, value)));
            cases.check(field, names(&response, code, named));
        }
    }
    let response = stand
        .gateway
        .ask(&transcribe(&stand.only, form("lora_request", "x")));
    cases.check("lora", is_error(&response, 400, "ambiguous_model"));
    cases.check("upstream", stand.up.untouched());
    for (field, value) in [("prompt", "names"), ("background", "false"), ("models", "")] {
        let body = form(field, value);
        let response = stand.gateway.ask(&transcribe(&stand.only, body.clone()));
        let verdict = passed(&response).and_then(|()| same_bytes(&stand, &body));
        cases.check(field, verdict);
    }
    cases.done();
}

#[test]
fn a_field_that_nobody_documents_is_named_where_the_upstream_refuses_such() {
    let (up, key) = (Recorder::answering(), Key::all("key_all"));
    let gateway = before(&up, &key, "unknown_fields = \"refuse\"");
    let long = "x".repeat(500);
    let shown = format!("{}…", &long[..64]);
    let mut cases = Cases::new();
    for (field, told) in [
        ("api_base", "api_base"),
        ("Messages", "Messages"),
        ("max_tokens ", "max_tokens "),
        (r"a\u000ab", r"a\u000ab"),
        ("a\u{7f}\u{202e}b\u{85}", "a\u{fffd}\u{fffd}b\u{fffd}"),
        ("", ""),
        (&long, &shown),
    ] {
        let body = with(field, "1");
        let response = gateway.ask(&chat(&key, body.clone()));
        cases.check(&body, names(&response, "unknown_field", told));
    }
    // A part whose name cannot be told has no place in the form.
    for name in ["name*=\"m\"", "name*0=\"m\"", "name=\"\""] {
        let nameless =
            format!("--B\r\nContent-Disposition: form-data; {name}\r\n\r\nx\r\n--B--\r\n");
        let call = Call::json("/v1/audio/transcriptions", &key.token, nameless)
            .without("content-type")
            .header("content-type", "multipart/form-data; boundary=B");
        let status = gateway.ask(&call).status;
        cases.check(
            name,
            (status == 400).then_some(()).ok_or(status.to_string()),
        );
    }
    let response = gateway.ask(&transcribe(&key, form("lang", "de")));
    cases.check("form", names(&response, "unknown_field", "lang"));
    cases.check("upstream", up.untouched());
    for (path, body) in [
        (
            "/v1/chat/completions",
            r#"{"model":"good","messages":[{"x":1}],"stream_options":{"y":1},"top_k":1,"min_p":0,"mirostat":1,"separate_reasoning":true,"tem\u0070erature":1}"#,
        ),
        (
            "/v1/completions",
            r#"{"model":"good","prompt":"x","suffix":"y","best_of":1,"ebnf":"x"}"#,
        ),
        (
            "/v1/embeddings",
            r#"{"model":"good","input":"x","dimensions":3,"encoding_format":"float"}"#,
        ),
        (
            "/v1/responses",
            r#"{"model":"good","input":"x","instructions":"y","reasoning":{},"store":false}"#,
        ),
        (
            "/v1/messages",
            r#"{"model":"good","messages":[],"max_tokens":1,"system":"x","thinking":{}}"#,
        ),
    ] {
        let response = gateway.ask(&Call::json(path, &key.token, body));
        cases.check(path, passed(&response));
    }
    let response = gateway.ask(&transcribe(&key, form("timestamp_granularities[]", "word")));
    cases.check("form with a list", passed(&response));
    cases.done();
}

#[test]
fn each_upstreams_rules_are_told_only_to_keys_that_may_use_it() {
    let (closed, open) = (Recorder::answering(), Recorder::answering());
    let (all, only) = (Key::all("key_all"), Key::only("key_only", &["opened"]));
    let gateway = Setup::new()
        .upstream_with(
            "closed",
            &[&closed.url()],
            &["hidden"],
            "unknown_fields = \"refuse\"",
        )
        .upstream_with(
            "open",
            &[&open.url()],
            &["opened"],
            "stateful = true\nclient_fields = \"pass\"",
        )
        .keys(&[&all, &only])
        .start();
    let ask = |key: &Key, model: &str| {
        let body = format!(r#"{{"model":"{model}","background":true,"rid":"x","nobody":1}}"#);
        gateway.ask(&chat(key, body))
    };
    assert_eq!(ask(&all, "opened").status, 200);
    assert_eq!(ask(&only, "opened").status, 200);
    assert_error(&ask(&all, "hidden"), 400, "state_not_allowed");
    assert_error(&ask(&all, "nowhere"), 404, "model_not_found");
    assert_error(&ask(&only, "hidden"), 404, "model_not_found");
    assert_eq!(
        ask(&only, "hidden").json()["error"],
        ask(&only, "nowhere").json()["error"]
    );
    closed.untouched().expect("nothing went to it");
    gateway.change_config(
        "unknown_fields = \"refuse\"",
        "stateful = true\nclient_fields = \"pass\"",
    );
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(ask(&all, "hidden").status, 200);
}

#[test]
fn a_name_with_a_zero_character_is_refused_for_every_key() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for name in [r"model\u0000", r"\u0000model", r"x\u0000", r"\u0000"] {
        for key in [&stand.all, &stand.only] {
            let response = stand.gateway.ask(&chat(key, with(name, r#""bad""#)));
            cases.check(name, is_error(&response, 400, "ambiguous_model"));
        }
    }
    cases.check("upstream", stand.up.untouched());
    let body = with("x", r#"{"model\u0000":"\u0000"}"#);
    let response = stand.gateway.ask(&chat(&stand.only, body));
    cases.check("below the top", passed(&response));
    cases.done();
}
