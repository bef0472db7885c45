//! A key's holder asks for its own usage, and sees nobody else's.

use serde_json::{Value, json};

use crate::support::client::{Call, Response};
use crate::support::gateway::Setup;
use crate::support::h2::{BOTH, ask};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, eventually, is_error};
use crate::usage_questions::calls::{an_hour_ago, counted, use_model};

fn own(token: &str, query: &str) -> Call {
    Call::get(&format!("/v1/key/usage?{query}"), token)
}

/// The sums of all buckets of a page, by model.
fn requests_of(page: &Value) -> Vec<(String, i64)> {
    let buckets = page["data"].as_array().expect("buckets");
    let results = buckets
        .iter()
        .flat_map(|bucket| bucket["results"].as_array().expect("results"));
    let count = |result: &Value| {
        let model = result["model"].as_str().unwrap_or("all").to_owned();
        (
            model,
            result["num_model_requests"].as_i64().expect("a count"),
        )
    };
    results.map(count).collect()
}

#[test]
fn a_key_sees_what_it_used_itself_over_both_protocols() {
    let stand = Stand::before(Recorder::start(counted), |setup| setup);
    for (key, model) in [
        (&stand.all, "good"),
        (&stand.all, "bad"),
        (&stand.only, "good"),
    ] {
        use_model(&stand.gateway, key, model);
    }
    let start = format!("start_time={}", an_hour_ago());
    for protocol in BOTH {
        let ask = |key: &Key, query: &str| {
            let call = own(&key.token, &format!("{start}{query}"));
            ask(protocol, &stand.gateway, &call)
        };
        // A request is recorded when its answer has left, and its client may be faster.
        let of_all = eventually("the two requests", DEADLINE, || {
            let page = ask(&stand.all, "&bucket_width=1h&group_by=model").json();
            (requests_of(&page).len() == 2).then_some(page)
        });
        let both = [("bad".to_owned(), 1), ("good".to_owned(), 1)];
        assert_eq!(requests_of(&of_all), both);
        let whole = ask(&stand.all, "&bucket_width=1d");
        assert_eq!(whole.header("cache-control"), Some("no-store"));
        let whole = whole.json();
        assert_eq!(requests_of(&whole), [("all".to_owned(), 2)]);
        assert_eq!(
            (&whole["object"], &whole["has_more"]),
            (&json!("page"), &json!(false))
        );
        let last = &whole["data"]
            .as_array()
            .expect("buckets")
            .last()
            .expect("one")["results"][0];
        for (field, value) in [
            ("input_tokens", json!(24)),
            ("input_cached_tokens", json!(4)),
            ("output_tokens", json!(14)),
            ("num_unknown", json!(0)),
            ("audio_seconds", json!(null)),
            ("cost", json!(null)),
        ] {
            assert_eq!(last[field], value, "{field}");
        }
        let of_only = eventually("the other key's request", DEADLINE, || {
            let page = ask(&stand.only, "").json();
            (!requests_of(&page).is_empty()).then_some(page)
        });
        assert_eq!(requests_of(&of_only), [("all".to_owned(), 1)]);
        let of_none = ask(&stand.all_but, "").json();
        assert_eq!(requests_of(&of_none), []);
    }
}

#[test]
fn a_bad_question_is_refused_with_its_parameter() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let is_refused = |response: &Response, param: Value| {
        let error = response.json()["error"].clone();
        (
            response.status,
            error["code"].clone(),
            error["param"].clone(),
        ) == (400, json!("invalid_request"), param)
    };
    for protocol in BOTH {
        for (query, param) in [
            ("", json!("start_time")),
            ("start_time=yesterday", json!("start_time")),
            ("start_time=1", json!("start_time")),
            (
                "start_time=2001-01-01T00:00:00Z&end_time=2001-03-01T00:00:00Z&bucket_width=1h",
                json!("start_time"),
            ),
            (
                "start_time=1&end_time=2&bucket_width=1m",
                json!("bucket_width"),
            ),
            ("start_time=1&end_time=2&group_by=key", json!("group_by")),
            ("start_time=1&end_time=2&key=key_only", json!("key")),
            ("start_time=1&end_time=2&account=a", json!("account")),
            ("start_time=1&end_time=2&limit=0", json!("limit")),
            ("start_time=1&end_time=2&page=7", json!("page")),
            ("start_time=%ff", Value::Null),
        ] {
            let response = ask(protocol, &stand.gateway, &own(&stand.all.token, query));
            cases.check(
                &format!("{protocol:?} {query}"),
                is_refused(&response, param)
                    .then_some(())
                    .ok_or_else(|| response.text()),
            );
        }
        let response = ask(protocol, &stand.gateway, &own("sk-nobody", "start_time=1"));
        cases.check("without a key", is_error(&response, 401, "invalid_api_key"));
    }
    cases.done();
}

#[test]
fn without_a_database_a_key_is_told_so() {
    let stand = Stand::with(|setup: Setup| setup.set("database", "url = \"\""));
    for protocol in BOTH {
        let response = ask(
            protocol,
            &stand.gateway,
            &own(&stand.all.token, "start_time=1"),
        );
        assert_eq!(response.status, 404);
        assert_eq!(response.json()["error"]["code"], "usage_unavailable");
    }
}

#[test]
fn questions_for_usage_do_not_hold_up_other_requests() {
    let stand = Stand::new();
    let mut asking = Vec::new();
    for _ in 0..64 {
        let mut client = stand.gateway.client();
        client.send(&own(&stand.all.token, &format!("start_time={}", an_hour_ago())).bytes());
        asking.push(client);
    }
    assert_eq!(
        stand
            .gateway
            .ask(&Call::get("/v1/models", &stand.only.token))
            .status,
        200
    );
    // Half of them leave before their answer.
    let staying = asking.split_off(32);
    drop(asking);
    for mut client in staying {
        assert_eq!(client.answer().status, 200);
    }
}
