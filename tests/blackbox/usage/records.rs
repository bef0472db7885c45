//! One usage record for each request that passed all checks, with the counts that its upstream said.

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::usage::{last_record, records, rows};
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

/// The counts of a record.
fn counts(record: &Value) -> Value {
    let names = [
        "input_tokens",
        "input_cached_tokens",
        "output_tokens",
        "output_reasoning_tokens",
        "audio_microseconds",
        "images",
        "certainty",
    ];
    let known = names
        .into_iter()
        .filter(|name| !record[*name].is_null())
        .map(|name| (name.to_owned(), record[name].clone()));
    Value::Object(known.collect())
}

#[test]
fn each_route_is_counted_by_what_its_upstream_says() {
    let stand = Stand::held();
    let cases = [
        (
            "/v1/chat/completions",
            r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":7}}}"#,
            json!({"input_tokens":12,"input_cached_tokens":5,"output_tokens":34,"output_reasoning_tokens":7,"certainty":"exact"}),
        ),
        (
            "/v1/completions",
            r#"{"choices":[{"text":"a"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
            json!({"input_tokens":1,"output_tokens":2,"certainty":"exact"}),
        ),
        (
            "/v1/embeddings",
            r#"{"data":[],"usage":{"total_tokens":9}}"#,
            json!({"input_tokens":9,"certainty":"exact"}),
        ),
        (
            "/v1/rerank",
            r#"{"results":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            json!({"input_tokens":8,"certainty":"exact"}),
        ),
        (
            "/v1/score",
            r#"{"data":[],"usage":{"prompt_tokens":6,"total_tokens":6}}"#,
            json!({"input_tokens":6,"certainty":"exact"}),
        ),
        (
            "/v1/responses",
            r#"{"output":[],"usage":{"input_tokens":20,"input_tokens_details":{"cached_tokens":4},"output_tokens":10,"output_tokens_details":{"reasoning_tokens":3}}}"#,
            json!({"input_tokens":20,"input_cached_tokens":4,"output_tokens":10,"output_reasoning_tokens":3,"certainty":"exact"}),
        ),
        (
            "/v1/messages",
            r#"{"type":"message","content":[],"usage":{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":30,"output_tokens":4}}"#,
            json!({"input_tokens":60,"input_cached_tokens":20,"output_tokens":4,"certainty":"exact"}),
        ),
        (
            "/v1/images/generations",
            r#"{"created":1,"data":[{"url":"a"},{"url":"b"}]}"#,
            json!({"images":2,"certainty":"exact"}),
        ),
        (
            "/v1/moderations",
            r#"{"results":[]}"#,
            json!({"certainty":"unknown"}),
        ),
    ];
    for (at, (path, answer, expected)) in cases.iter().enumerate() {
        let mut client = stand.gateway.client();
        let body = r#"{"model":"good","input":"a"}"#;
        client.send(&Call::json(path, &stand.all.token, body).bytes());
        stand.up.next().reply_json(answer);
        let response = client.answer();
        assert_eq!(response.text(), *answer, "{path}");
        let record = last_record(&stand.gateway, at + 1);
        assert_eq!(counts(&record), *expected, "{path}");
        let facts = json!({
            "key_id": "key_all", "model": "good", "upstream": "up", "route": path, "status": 200,
            "end_kind": "complete", "client_address": "127.0.0.1", "bytes_in": body.len(),
            "bytes_out": answer.len(), "account": null, "cost": null,
        });
        for (name, value) in facts.as_object().into_iter().flatten() {
            assert_eq!(record[name], *value, "{name} of {path}");
        }
        for name in [
            "request_id",
            "started_at",
            "ended_at",
            "first_byte_ms",
            "duration_ms",
        ] {
            assert!(!record[name].is_null(), "{name} of {path}");
        }
    }
    let metrics = stand.gateway.metrics();
    for line in [
        "keygate_tokens_total{kind=\"output\",model=\"good\"} 50",
        "keygate_usage_records_total{certainty=\"exact\"} 8",
        "keygate_usage_records_total{certainty=\"unknown\"} 1",
        "keygate_database_up 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[test]
fn a_transcription_is_counted_by_its_length() {
    let stand = Stand::held();
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--b--\r\n";
    let call = Call::new("POST", "/v1/audio/transcriptions")
        .bearer(&stand.all.token)
        .header("content-type", "multipart/form-data; boundary=b")
        .body(form);
    let mut client = stand.gateway.client();
    client.send(&call.bytes());
    stand
        .up
        .next()
        .reply_json(r#"{"text":"a","usage":{"type":"duration","seconds":12}}"#);
    assert_eq!(client.answer().status, 200);
    let record = last_record(&stand.gateway, 1);
    assert_eq!(
        counts(&record),
        json!({"audio_microseconds": 12_000_000, "certainty": "exact"})
    );
}

#[test]
fn only_requests_that_passed_all_checks_are_recorded_however_they_end() {
    let stand = Stand::held();
    // Refused: nothing is recorded.
    assert_error(
        &stand.gateway.ask(&Call::chat("kg_wrong", "good")),
        401,
        "invalid_api_key",
    );
    let refused = stand.gateway.ask(&Call::chat(&stand.only.token, "bad"));
    assert_error(&refused, 404, "model_not_found");
    // An error of the upstream.
    let mut client = stand.gateway.client();
    client.send(&Call::chat(&stand.all.token, "good").bytes());
    stand.up.next().reply(
        "429 Too Many Requests",
        "content-type: application/json\r\n",
        r#"{"error":{},"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
    );
    assert_eq!(client.answer().status, 429);
    let record = last_record(&stand.gateway, 1);
    assert_eq!(record["status"], 429);
    assert_eq!(counts(&record), json!({"certainty": "unknown"}));
    // The upstream does not answer.
    let mut client = stand.gateway.client();
    client.send(&Call::chat(&stand.all.token, "good").bytes());
    stand.up.next().answer_raw_and_close("HTTP/1.1 2");
    assert_eq!(client.answer().status, 502);
    let record = last_record(&stand.gateway, 2);
    assert_eq!(
        (&record["status"], &record["end_kind"]),
        (&json!(502), &json!("upstream_failed"))
    );
    // The client leaves before there is an answer.
    let mut client = stand.gateway.client();
    client.send(&Call::chat(&stand.all.token, "good").bytes());
    let exchange = stand.up.next();
    drop(client);
    let record = last_record(&stand.gateway, 3);
    assert_eq!(record["end_kind"], "client_left");
    drop(exchange);
    // An encoded answer cannot be read.
    let mut client = stand.gateway.client();
    client.send(&Call::chat(&stand.all.token, "good").bytes());
    stand.up.next().reply(
        "200 OK",
        "content-type: application/json\r\ncontent-encoding: x\r\n",
        r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
    );
    assert_eq!(client.answer().status, 200);
    let record = last_record(&stand.gateway, 4);
    assert_eq!(counts(&record), json!({"certainty": "unknown"}));
}

#[test]
fn a_cost_is_fixed_by_the_price_at_that_time_and_prices_are_reloaded() {
    let up = Recorder::start(|exchange| {
        exchange.reply_json(r#"{"usage":{"prompt_tokens":1000000,"completion_tokens":500000}}"#);
    });
    let prices = "[[prices]]\nmodel = \"good\"\ninput = 0.20\noutput = 0.60\n";
    let stand = Stand::before(up, |setup| setup.table(prices));
    let ask = |model: &str| {
        let response = stand.gateway.ask(&Call::chat(&stand.all.token, model));
        assert_eq!(response.status, 200);
    };
    ask("good");
    assert_eq!(last_record(&stand.gateway, 1)["cost"], 500_000);
    ask("bad");
    assert_eq!(last_record(&stand.gateway, 2)["cost"], Value::Null);
    stand.gateway.change_config("input = 0.20", "input = 2");
    assert_eq!(stand.gateway.reload().status, 200);
    ask("good");
    let all = records(&stand.gateway, 3);
    assert_eq!(
        (&all[0]["cost"], &all[2]["cost"]),
        (&json!(500_000), &json!(2_300_000))
    );
}

#[test]
fn uses_of_a_key_are_kept_over_a_restart() {
    let stand = Stand::new();
    for _ in 0..3 {
        let response = stand.gateway.ask(&Call::chat(&stand.only.token, "good"));
        assert_eq!(response.status, 200);
    }
    let before = stand.gateway.admin_json("GET", "/api/keys/key_only", None);
    let mut gateway = stand.gateway;
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    // A stop loses nothing.
    let written = rows(&gateway, "SELECT * FROM usage_records").map_or(0, |rows| rows.len());
    assert_eq!(written, 3);
    gateway.start_again();
    let after = gateway.admin_json("GET", "/api/keys/key_only", None);
    assert_eq!(after["requests"], 3);
    assert_eq!(after["last_used_at"], before["last_used_at"]);
    assert!(after["last_used_at"].is_string(), "{after}");
}

#[test]
fn without_a_database_requests_pass_and_counts_stand_in_log_and_metrics() {
    let up = Recorder::start(|exchange| {
        exchange.reply_json(r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#);
    });
    let stand = Stand::before(up, |setup| setup.set("database", "url = \"\""));
    let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
    assert_eq!(response.status, 200);
    let line = stand
        .gateway
        .process
        .line("the access line", |line| line.contains("\"access\""));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (
            &line["input_tokens"],
            &line["output_tokens"],
            &line["certainty"]
        ),
        (&json!(3), &json!(4), &json!("exact"))
    );
    assert!(!stand.gateway.path("keygate.db").exists());
    assert!(!stand.gateway.metrics().contains("keygate_database_up"));
    let status = stand.gateway.admin_json("GET", "/api/status", None);
    assert_eq!(status["database"], Value::Null);
}

#[test]
fn a_database_that_cannot_be_opened_ends_the_start_and_is_named_with_the_remedy() {
    let up = Recorder::answering();
    let setup = Setup::before(&up);
    std::fs::write(
        setup.path("keygate.db"),
        "no database, but a text that is long enough",
    )
    .unwrap();
    let (status, said) = setup.refused();
    assert!(!status.success());
    for word in [
        "keygate.db",
        "is no database",
        "name another file in [database] url",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    let setup = Setup::before(&up).set("database", "url = \"sqlite:none/keygate.db\"");
    let (status, said) = setup.refused();
    assert!(!status.success());
    assert!(
        said.contains("none/keygate.db") && said.contains("may write"),
        "{said}"
    );
    // A newer version has been here.
    let mut gateway = Setup::before(&up).start();
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    let database = rusqlite::Connection::open(gateway.path("keygate.db")).unwrap();
    database
        .execute_batch("INSERT INTO schema_migrations VALUES (1000, 0)")
        .unwrap();
    drop(database);
    let (status, said) = gateway.refused_again();
    assert!(!status.success());
    assert!(said.contains("run the newer version"), "{said}");
}

#[test]
fn a_database_that_fails_later_is_a_warning_and_never_an_error_of_a_request() {
    let stand = Stand::new();
    let ask = || {
        let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200);
    };
    ask();
    records(&stand.gateway, 1);
    let other = rusqlite::Connection::open(stand.gateway.path("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    ask();
    let status = eventually("the database is said to be down", DEADLINE, || {
        let status = stand.gateway.admin_json("GET", "/api/status", None);
        (status["database"]["up"] == false).then_some(status)
    });
    let error = status["database"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("locked"), "{status}");
    assert!(stand.gateway.metrics().contains("keygate_database_up 0"));
    stand.gateway.process.line("a warning", |line| {
        line.contains("\"database\"") && line.contains("\"warn\"")
    });
    ask();
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(records(&stand.gateway, 3).len(), 3);
    eventually(
        "the database is up again",
        DEADLINE + WITHIN_A_SECOND,
        || {
            let status = stand.gateway.admin_json("GET", "/api/status", None);
            (status["database"]["up"] == true).then_some(())
        },
    );
}

#[test]
fn a_stop_that_cannot_write_the_usage_says_of_how_many_requests_it_is_lost() {
    let mut stand = Stand::new();
    let ask = |stand: &Stand| {
        let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200);
    };
    ask(&stand);
    records(&stand.gateway, 1);
    let other = rusqlite::Connection::open(stand.gateway.path("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    ask(&stand);
    ask(&stand);
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    stand.gateway.process.line("the loss", |line| {
        line.contains("\"error\"") && line.contains("the usage of 2 requests is lost")
    });
}
