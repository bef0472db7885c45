//! Only the listed paths and methods are served, and they are forwarded as they were sent (contract 4, step 5).

use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::{Cases, is_error};

#[test]
fn only_the_paths_and_methods_of_the_contract_are_served() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let unserved = [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/Chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/../v1/chat/completions",
        "/v1/%63hat/completions",
        "/v1/chat%2Fcompletions",
        "/v1%2Fchat%2Fcompletions",
        "/v1/chat/completions%00",
        "/v1/chat/completions%20",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/chat/%zz",
        "/v1/chat/completions%252f",
        "/v1/chat/completions;x=1",
        "/v1;x/chat/completions",
        "/v1\\chat\\completions",
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/invocations",
        "/inference/v1/generate",
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/score",
        "/rerank",
        "/classify",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/slots",
        "/props",
        "/models",
        "/models/load",
        "/api/generate",
        "/api/chat",
        "/api/tags",
        "/api/keys",
        "/api/status",
        "/healthz",
        "/readyz",
        "/health",
        "/v1/batches",
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/assistants",
        "/v1/threads",
        "/v1/realtime",
        "/v1/realtime/client_secrets",
        "/v1/responses/resp_1",
        "/v1/chat/completions/chatcmpl-1",
        "/v1/engines/good/completions",
        "/openai/deployments/good/chat/completions",
        "/v1beta/models/good:generateContent",
        "/model/good/invoke",
        "/v2/rerank",
        "/v1/keys",
        "/v1/key/",
        "/v1/key/usage/",
    ];
    for path in unserved {
        for key in [&stand.all, &stand.only] {
            let call = Call::json(path, &key.token, r#"{"model":"good"}"#);
            let verdict = is_error(&stand.gateway.ask(&call), 404, "unknown_url");
            cases.check(&format!("POST {path} as {}", key.id), verdict);
        }
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        cases.check(
            &format!("GET {path}"),
            is_error(&response, 404, "unknown_url"),
        );
    }
    let post_only = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/variations",
    ];
    for path in post_only {
        for method in [
            "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "FOO",
        ] {
            let response = stand
                .gateway
                .ask(&Call::new(method, path).bearer(&stand.all.token));
            let verdict = is_error(&response, 405, "method_not_allowed").and_then(|()| {
                let allow = response.header("allow") == Some("POST");
                allow
                    .then_some(())
                    .ok_or(format!("Allow: {:?}", response.all("allow")))
            });
            cases.check(&format!("{method} {path}"), verdict);
        }
    }
    for path in [
        "/v1/models",
        "/v1/models/good",
        "/v1/models/org/name",
        "/v1/key",
        "/v1/key/usage",
    ] {
        for method in ["POST", "DELETE", "PUT"] {
            let response = stand
                .gateway
                .ask(&Call::new(method, path).bearer(&stand.all.token));
            let verdict = is_error(&response, 405, "method_not_allowed").and_then(|()| {
                let allow = response
                    .header("allow")
                    .is_some_and(|allow| allow.starts_with("GET"));
                allow
                    .then_some(())
                    .ok_or(format!("Allow: {:?}", response.all("allow")))
            });
            cases.check(&format!("{method} {path}"), verdict);
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn every_served_path_is_forwarded_as_it_was_sent() {
    let stand = Stand::new();
    let json = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/messages",
    ];
    let mut cases = Cases::new();
    for path in json {
        let target = format!("{path}?stream=1&x=%20y&&z");
        for protocol in BOTH {
            let call = Call::json(&target, &stand.only.token, r#"{"model":"good"}"#);
            let response = h2::ask(protocol, &stand.gateway, &call);
            let verdict = (response.status == 200)
                .then_some(())
                .ok_or(response.text());
            cases.check(
                path,
                verdict.and_then(|()| {
                    let seen = stand.up.last();
                    (seen.target == target && seen.method == "POST" && seen.version == "HTTP/1.1")
                        .then_some(())
                        .ok_or(format!("the upstream saw {} {}", seen.method, seen.target))
                }),
            );
        }
    }
    cases.done();
}
