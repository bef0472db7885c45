//! The usage of streams: asked for where the client did not, read as it passes, and never seen by a client that did not
//! ask.

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::h2::{BOTH, Stream};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::usage::last_record;
use crate::support::{Cases, DEADLINE, is_error};

const CHUNK: &str =
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const EXTRA: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A gateway before an upstream with these lines in its table.
fn stand_with(lines: &str) -> Stand {
    let up = Recorder::held();
    let all = Key::all("key_all");
    let gateway = Setup::new()
        .upstream_with("up", &[&up.url()], &["good"], lines)
        .keys(&[&all])
        .start();
    Stand {
        gateway,
        up,
        all,
        only: Key::all("key_2"),
        all_but: Key::all("key_3"),
    }
}

/// Sends a chat whose answer is this stream: the body that reached the upstream, and the body that reached the client.
fn relayed(stand: &Stand, path: &str, body: &str, pieces: &[&str]) -> (String, String) {
    let mut client = stand.gateway.client();
    client.send(&Call::json(path, &stand.all.token, body).bytes());
    let mut exchange = stand.up.next();
    let sent = exchange.body().unwrap_or_default();
    exchange.begin_stream();
    for piece in pieces {
        exchange.chunk(piece);
    }
    exchange.end_stream();
    let response = client.answer();
    assert_eq!(response.status, 200);
    (String::from_utf8_lossy(&sent).into_owned(), response.text())
}

fn counted(record: &Value) -> (Option<i64>, Option<i64>, &str) {
    (
        record["input_tokens"].as_i64(),
        record["output_tokens"].as_i64(),
        record["certainty"].as_str().unwrap_or_default(),
    )
}

#[test]
fn usage_is_asked_for_and_its_extra_event_is_not_passed_on() {
    let stand = Stand::held();
    let whole = [CHUNK, CHUNK, EXTRA, DONE].concat();
    let asked = r#""stream_options":{"include_usage":true}"#;
    let bodies = [
        (
            r#"{"model":"good","stream":true}"#,
            format!(r#"{{{asked},"model":"good","stream":true}}"#),
        ),
        (
            "{ \"stream\" : true, \"model\":\"good\",\"stream_options\": {} }",
            "{ \"stream\" : true, \"model\":\"good\",\"stream_options\": {\"include_usage\":true} }".to_owned(),
        ),
        (
            r#"{"model":"good","stream_options":null,"stream":true}"#,
            format!(r#"{{"model":"good",{asked},"stream":true}}"#),
        ),
        (
            r#"{"model":"good","stream":true,"stream_options":{"include_usage":false}}"#,
            format!(r#"{{"model":"good","stream":true,{asked}}}"#),
        ),
        (
            r#"{"model":"good","stream":true,"stream_options":{ "x":{"include_usage":true}}}"#,
            r#"{"model":"good","stream":true,"stream_options":{"include_usage":true, "x":{"include_usage":true}}}"#.to_owned(),
        ),
    ];
    let mut count = 0;
    for (body, expected) in &bodies {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            for size in [1, 7, whole.len()] {
                let pieces: Vec<&str> = whole
                    .as_bytes()
                    .chunks(size)
                    .map(|piece| std::str::from_utf8(piece).unwrap())
                    .collect();
                let (sent, got) = relayed(&stand, path, body, &pieces);
                assert_eq!(sent, *expected, "{body}");
                assert_eq!(got, [CHUNK, CHUNK, DONE].concat(), "in pieces of {size}");
                count += 1;
                let record = last_record(&stand.gateway, count);
                assert_eq!(counted(&record), (Some(7), Some(3), "exact"));
            }
        }
    }
}

#[test]
fn a_client_that_asks_itself_gets_every_byte_and_sends_every_byte() {
    let stand = Stand::held();
    let pieces = [CHUNK, EXTRA, DONE];
    let bodies = [
        r#"{"model":"good","stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"model":"good","stream":true,"stream_options":{"include_usage":1}}"#,
        r#"{"model":"good","stream":true,"stream_options":{"Include_usage":false}}"#,
        r#"{"model":"good","stream":true,"stream_options":{"include_usage":false,"include_usage":true}}"#,
        r#"{"model":"good","stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
        r#"{"model":"good","stream":true,"stream_options":[]}"#,
        r#"{"model":"good","stream":false}"#,
        r#"{"model":"good","stream":"true"}"#,
        r#"{"model":"good"}"#,
    ];
    for (at, body) in bodies.iter().enumerate() {
        let (sent, got) = relayed(&stand, "/v1/chat/completions", body, &pieces);
        assert_eq!(sent, *body);
        assert_eq!(got, pieces.concat(), "{body}");
        let record = last_record(&stand.gateway, at + 1);
        assert_eq!(counted(&record), (Some(7), Some(3), "exact"), "{body}");
    }
}

#[test]
fn other_routes_are_not_changed() {
    let stand = Stand::held();
    let body = r#"{"model":"good","stream":true}"#;
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":6,\"output_tokens\":1}}}\n\n";
    let text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let pieces = [start, text, end];
    let (sent, got) = relayed(&stand, "/v1/messages", body, &pieces);
    assert_eq!((sent, got), (body.to_owned(), pieces.concat()));
    let record = last_record(&stand.gateway, 1);
    assert_eq!(counted(&record), (Some(11), Some(9), "exact"));
    let done = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":2,\"output_tokens\":3}}}\n\n";
    let (sent, got) = relayed(&stand, "/v1/responses", body, &[done]);
    assert_eq!((sent, got), (body.to_owned(), done.to_owned()));
    let record = last_record(&stand.gateway, 2);
    assert_eq!(counted(&record), (Some(2), Some(3), "exact"));
}

#[test]
fn with_usage_read_not_a_byte_is_changed() {
    let stand = stand_with("usage = \"read\"");
    let body = r#"{"model":"good","stream":true}"#;
    let last = "data: {\"choices\":[{\"delta\":{}}],\"timings\":{\"prompt_n\":4,\"cache_n\":6,\"predicted_n\":2}}\n\n";
    for (at, (pieces, expected)) in [
        ([CHUNK, EXTRA, DONE], (Some(7), Some(3), "exact")),
        // llama.cpp says it by itself.
        ([CHUNK, last, DONE], (Some(10), Some(2), "exact")),
        ([CHUNK, CHUNK, DONE], (None, Some(2), "at_least")),
    ]
    .into_iter()
    .enumerate()
    {
        let (sent, got) = relayed(&stand, "/v1/chat/completions", body, &pieces);
        assert_eq!((sent, got), (body.to_owned(), pieces.concat()));
        let record = last_record(&stand.gateway, at + 1);
        assert_eq!(counted(&record), expected);
    }
}

#[test]
fn a_stream_that_is_cut_has_counts_that_are_at_least_so_high() {
    let stand = Stand::held();
    let mut count = 0;
    for protocol in BOTH {
        for (chunks, expected) in [
            (0, (None, None, "unknown")),
            (3, (None, Some(3), "at_least")),
        ] {
            // The client leaves.
            let body = r#"{"model":"good","stream":true}"#;
            let call = Call::json("/v1/chat/completions", &stand.all.token, body);
            let mut stream = Stream::open(protocol, &stand.gateway, &call);
            let mut exchange = stand.up.next();
            exchange.begin_stream();
            let mut response = stream.head();
            let sent = CHUNK.repeat(chunks);
            exchange.chunk(if chunks == 0 { ": a\n\n" } else { &sent });
            stream.until(&mut response, if chunks == 0 { ": a\n\n" } else { &sent });
            drop(stream);
            exchange.assert_freed();
            count += 1;
            let record = last_record(&stand.gateway, count);
            assert_eq!(counted(&record), expected);
            assert_eq!(record["end_kind"], "client_left");
            // The upstream breaks off.
            let mut stream = Stream::open(protocol, &stand.gateway, &call);
            let mut exchange = stand.up.next();
            exchange.begin_stream();
            exchange.chunk(if chunks == 0 { ": a\n\n" } else { &sent });
            exchange.reset();
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            count += 1;
            let record = last_record(&stand.gateway, count);
            assert_eq!(record["end_kind"], "upstream_failed");
            assert!(counted(&record).1.unwrap_or(0) <= chunks as i64);
        }
    }
}

#[test]
fn running_usage_is_asked_for_and_taken_out_of_every_event() {
    let running = |output: u32| {
        format!(
            "data: {{\"id\":\"c\",\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{output},\"total_tokens\":{}}}}}\n\n",
            7 + output
        )
    };
    let plain = "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let body = r#"{"model":"good","stream":true}"#;
    let stand = stand_with("usage = \"running\"");
    let (one, two) = (running(1), running(5));
    let (sent, got) = relayed(
        &stand,
        "/v1/chat/completions",
        body,
        &[&one, &two, EXTRA, DONE],
    );
    assert_eq!(
        sent,
        r#"{"stream_options":{"include_usage":true,"continuous_usage_stats":true},"model":"good","stream":true}"#
    );
    assert_eq!(got, [plain, plain, DONE].concat());
    let record = last_record(&stand.gateway, 1);
    assert_eq!(counted(&record), (Some(7), Some(3), "exact"));
    // Cut: what was made is known exactly.
    let mut client = stand.gateway.client();
    client.send(&Call::json("/v1/chat/completions", &stand.all.token, body).bytes());
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk(&two);
    let mut response = client.head();
    client.until(&mut response, plain.as_bytes());
    drop(client);
    let record = last_record(&stand.gateway, 2);
    assert_eq!(counted(&record), (Some(7), Some(5), "exact"));
    let stand = stand_with("usage = \"running\"\nengine = \"llama.cpp\"");
    let timed = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"timings\":{\"prompt_n\":4,\"cache_n\":6,\"predicted_n\":2}}\n\n";
    let (sent, got) = relayed(&stand, "/v1/chat/completions", body, &[timed, DONE]);
    assert_eq!(
        serde_json::from_str::<Value>(&sent).unwrap(),
        json!({"model":"good","stream":true,"stream_options":{"include_usage":true},"timings_per_token":true})
    );
    assert_eq!(
        got,
        [
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            DONE
        ]
        .concat()
    );
    let record = last_record(&stand.gateway, 1);
    assert_eq!(counted(&record), (Some(10), Some(2), "exact"));
}

#[test]
fn stream_and_its_options_may_come_once_and_spelled_exactly_so() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for members in [
        r#""stream":true,"stream":true"#,
        r#""stream":true,"str\u0065am":false"#,
        r#""stream":false,"Stream":true"#,
        r#""STREAM":true"#,
        "\"\u{17F}tream\":true",
        r#""stream_options":{},"stream_options":{}"#,
        r#""stream_options":null,"stream":true,"stream_options":null"#,
        r#""Stream_Options":{}"#,
        r#""stream_option\u0073":{},"STREAM_OPTIONS":1"#,
        "\"stream_option\u{17F}\":{}",
    ] {
        let body = format!(r#"{{"model":"good",{members}}}"#);
        for key in [&stand.all, &stand.only, &stand.all_but] {
            for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses"] {
                let response = stand
                    .gateway
                    .ask(&Call::json(path, &key.token, body.clone()));
                cases.check(&body, is_error(&response, 400, "ambiguous_body"));
            }
        }
    }
    cases.done();
    assert!(stand.up.untouched().is_ok());
    // Inside another value these names say nothing.
    let body = r#"{"model":"good","metadata":{"Stream":1,"stream":2,"stream":3}}"#;
    let response = stand
        .gateway
        .ask(&Call::json("/v1/chat/completions", &stand.all.token, body));
    assert_eq!(response.status, 200);
}
