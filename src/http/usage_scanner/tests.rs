//! Responses as the documentation of each server shows them, in any pieces.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::policy::usage::Certainty;

mod recorded;

use recorded::{RECORDED, Recorded};

/// Feeds a response in pieces that end at the given places. Returns what the client gets, and the counts.
fn feed(scanner: &mut UsageScanner, body: &[u8], ends: &[usize]) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut start = 0;
    for end in ends.iter().copied().chain([body.len()]) {
        let end = end.clamp(start, body.len());
        let piece = &body[start..end];
        match scanner.feed(piece) {
            Forward::Whole => sent.extend_from_slice(piece),
            Forward::Instead(bytes) => sent.extend_from_slice(bytes),
        }
        start = end;
    }
    sent.extend_from_slice(scanner.rest());
    sent
}

fn scanner(recorded: &Recorded, filter: StreamFilter) -> UsageScanner {
    match recorded.is_stream {
        true => UsageScanner::events(recorded.kind, filter),
        false => UsageScanner::json(recorded.kind),
    }
}

/// The counts of a response that comes in one piece.
fn at_once(recorded: &Recorded) -> RequestCounts {
    let mut scanner = scanner(recorded, StreamFilter::Nothing);
    assert_eq!(scanner.feed_last(recorded.body.as_bytes()), Forward::Whole);
    scanner.counts()
}

/// The bytes without events that have a usage and an empty list of choices, by serde_json.
fn without_extra_events(body: &str) -> String {
    let mut kept = String::new();
    let separator = if body.contains("\r\n") {
        "\r\n\r\n"
    } else {
        "\n\n"
    };
    for event in body.split_inclusive(separator) {
        let data: Vec<&str> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .collect();
        let document: Option<Value> = serde_json::from_str(&data.join("\n")).ok();
        let is_extra = document.is_some_and(|document| {
            document["usage"].is_object() && document["choices"] == serde_json::json!([])
        });
        if is_extra {
            // Comments before it pass.
            for line in event.split_inclusive('\n') {
                if !line.starts_with(':') {
                    break;
                }
                kept.push_str(line);
            }
        } else {
            kept.push_str(event);
        }
    }
    kept
}

#[test]
fn every_recorded_response_gives_its_counts() {
    for recorded in RECORDED {
        let mut scanner = scanner(recorded, StreamFilter::Nothing);
        let sent = feed(&mut scanner, recorded.body.as_bytes(), &[]);
        assert_eq!(sent, recorded.body.as_bytes(), "{}", recorded.name);
        assert_eq!(scanner.counts(), recorded.counts, "{}", recorded.name);
        assert_eq!(at_once(recorded), recorded.counts, "{}", recorded.name);
        assert_eq!(
            scanner.is_finished(),
            recorded.is_finished,
            "{}",
            recorded.name
        );
    }
}

#[test]
fn every_recorded_response_gives_its_counts_byte_by_byte() {
    for recorded in RECORDED {
        let ends: Vec<usize> = (0..recorded.body.len()).collect();
        let mut scanner = scanner(recorded, StreamFilter::Nothing);
        let sent = feed(&mut scanner, recorded.body.as_bytes(), &ends);
        assert_eq!(sent, recorded.body.as_bytes(), "{}", recorded.name);
        assert_eq!(scanner.counts(), recorded.counts, "{}", recorded.name);
    }
}

#[test]
fn the_event_that_only_the_gateway_asked_for_is_taken_out_in_any_two_pieces() {
    let mut taken_out = 0;
    for recorded in RECORDED {
        if !recorded.is_stream {
            continue;
        }
        let expected = match recorded.kind {
            ResponseKind::Chat => without_extra_events(recorded.body),
            _ => recorded.body.to_owned(),
        };
        taken_out += usize::from(expected.len() < recorded.body.len());
        for end in 0..recorded.body.len() {
            let mut scanner = scanner(recorded, StreamFilter::UsageEvent);
            let sent = feed(&mut scanner, recorded.body.as_bytes(), &[end]);
            let sent = String::from_utf8(sent).unwrap();
            assert_eq!(sent, expected, "{} at {end}", recorded.name);
            assert_eq!(scanner.counts(), recorded.counts, "{}", recorded.name);
        }
    }
    assert!(taken_out >= 5, "only {taken_out} streams have the event");
}

#[test]
fn running_usage_is_taken_out_of_every_event() {
    let with = |usage: &str, last: &str| {
        format!(
            "data: {{\"id\":\"c\",{usage}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}}}}]{last}}}\n\n"
        )
    };
    let plain = with("", "");
    let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}"#;
    let timings = r#""timings":{"cache_n":2,"prompt_n":3,"predicted_n":1}"#;
    for event in [
        with("", &format!(",{usage}")),
        with(&format!("{usage},"), ""),
        with(&format!("{usage} , "), &format!(", {timings}")),
        with("", &format!(",{usage},{timings}")),
        with(&format!("{timings},{usage},"), ""),
    ] {
        let body = format!("{event}{event}");
        for end in 0..body.len() {
            let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::RunningUsage);
            let sent = feed(&mut scanner, body.as_bytes(), &[end]);
            let sent = String::from_utf8(sent).unwrap().replace(", ", ",");
            assert_eq!(
                sent.replace(" ,", ","),
                format!("{plain}{plain}").replace(": ", ": "),
                "{event} at {end}"
            );
            assert_eq!(scanner.counts().output, Some(1));
            assert_eq!(scanner.counts().certainty, Certainty::Exact);
        }
    }
    let alone = format!("data: {{{usage}}}\n\n");
    let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::RunningUsage);
    assert_eq!(feed(&mut scanner, alone.as_bytes(), &[]), b"data: {}\n\n");
}

#[test]
fn a_null_usage_stays_and_says_nothing() {
    let body = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":null}\n\n";
    for filter in [StreamFilter::UsageEvent, StreamFilter::RunningUsage] {
        let mut scanner = UsageScanner::events(ResponseKind::Chat, filter);
        assert_eq!(feed(&mut scanner, body.as_bytes(), &[]), body.as_bytes());
        assert_eq!(scanner.counts().output, Some(1));
        assert_eq!(scanner.counts().certainty, Certainty::AtLeast);
    }
}

#[test]
fn nothing_waits_but_what_may_be_the_extra_event() {
    let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::UsageEvent);
    // A comment passes at once, even in halves.
    assert_eq!(scanner.feed(b": pi"), Forward::Whole);
    assert_eq!(scanner.feed(b"ng\n\n"), Forward::Whole);
    // A choice decides.
    assert_eq!(scanner.feed(b"data: {\"id\":\"x\""), Forward::Instead(b""));
    assert_eq!(
        scanner.feed(b",\"choices\":[{"),
        Forward::Instead(b"data: {\"id\":\"x\",\"choices\":[{")
    );
    assert_eq!(scanner.feed(b"\"index\":0}"), Forward::Whole);
    assert_eq!(scanner.feed(b"]}\n\n"), Forward::Whole);
    assert_eq!(scanner.feed(b"data: [DONE]"), Forward::Whole);
    assert_eq!(scanner.feed(b"\n\n"), Forward::Whole);
    // An event that is too long to wait passes.
    let long = format!("data: {{\"id\":\"{}", "x".repeat(70_000));
    assert_eq!(scanner.feed(long.as_bytes()), Forward::Whole);
    assert_eq!(
        scanner.feed(b"\",\"choices\":[],\"usage\":{}}\n\n"),
        Forward::Whole
    );
}

#[test]
fn a_stream_cut_before_its_usage_counts_its_pieces() {
    let piece = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{text}}}]}}\n\n");
    let body = [
        piece(r#"{"role":"assistant","content":""}"#),
        piece(r#"{"reasoning_content":"Hm"}"#),
        piece(r#"{"content":"Hel"}"#),
        piece(r#"{"content":"lo \" "}"#),
        piece(r#"{"content":"lo \\"}"#),
        piece(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#),
        piece("{}"),
        "data: {\"choices\":[{\"delta\":{\"content\":\"cut".to_owned(),
    ]
    .concat();
    let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::Nothing);
    feed(&mut scanner, body.as_bytes(), &[]);
    let counts = scanner.counts();
    assert_eq!(
        (counts.output, counts.certainty),
        (Some(5), Certainty::AtLeast)
    );
    assert!(!scanner.is_finished());
    let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::Nothing);
    feed(&mut scanner, &body.as_bytes()[..60], &[]);
    assert_eq!(scanner.counts(), RequestCounts::UNKNOWN);
}

#[test]
fn a_line_that_is_too_long_is_skipped() {
    let long = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1}}}}\n\n",
        "x".repeat(1 << 20)
    );
    let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::UsageEvent);
    let sent = feed(&mut scanner, long.as_bytes(), &[1000, 500_000]);
    assert!(sent == long.as_bytes());
    assert_eq!(scanner.counts(), RequestCounts::UNKNOWN);
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":7}}\n\n";
    feed(&mut scanner, usage.as_bytes(), &[]);
    assert_eq!(scanner.counts().output, Some(7));
}

#[test]
fn a_count_that_no_model_reaches_is_unknown() {
    for count in [
        "-1",
        "1e3",
        "1.5",
        "99999999999999999999",
        "2000000000000",
        "\"\"",
        "true",
        "[]",
    ] {
        let body = format!("{{\"usage\":{{\"prompt_tokens\":{count}}}}}");
        let mut scanner = UsageScanner::json(ResponseKind::Embeddings);
        feed(&mut scanner, body.as_bytes(), &[]);
        assert_eq!(scanner.counts(), RequestCounts::UNKNOWN, "{count}");
    }
}

#[test]
fn names_in_texts_and_in_other_objects_are_no_counts() {
    let body = r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}","usage":{"prompt_tokens":9,"completion_tokens":9}}}],"x":{"usage":{"prompt_tokens":9}},"usage":{"x":{"prompt_tokens":9},"prompt_tokens":3,"completion_tokens":4}}"#;
    let mut scanner = UsageScanner::json(ResponseKind::Chat);
    feed(&mut scanner, body.as_bytes(), &[]);
    assert_eq!(scanner.counts().input, Some(3));
    assert_eq!(scanner.counts().output, Some(4));
}

#[test]
fn running_numbers_beside_the_pieces_change_no_count() {
    let event = |number: usize, text: &str| {
        format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{number},\"item_id\":\"msg_1\",\"delta\":\"{text}\",\"obfuscation\":\"{}\"}}\n\n",
            "x".repeat(number % 9)
        )
    };
    let mut scanner = UsageScanner::events(ResponseKind::Responses, StreamFilter::UsageEvent);
    for number in 0..1000 {
        let text = ["a", "", "\\n", "b\\\"c"][number % 4];
        let event = event(number, text);
        assert_eq!(scanner.feed(event.as_bytes()), Forward::Whole);
    }
    assert_eq!(scanner.counts().output, Some(750));
    let end = "data: {\"type\":\"response.completed\",\"sequence_number\":1000,\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":900}}}\n\n";
    scanner.feed(end.as_bytes());
    assert!(scanner.is_finished());
    assert_eq!(scanner.counts().output, Some(900));
}

#[test]
fn a_large_response_is_read_without_keeping_it() {
    let numbers = "[0.0012,-0.5,1e-9],".repeat(100_000);
    let body = format!(
        "{{\"object\":\"list\",\"data\":[{{\"embedding\":[{}0]}}],\"usage\":{{\"prompt_tokens\":8,\"total_tokens\":8}}}}",
        numbers
    );
    let mut scanner = UsageScanner::json(ResponseKind::Embeddings);
    let ends: Vec<usize> = (0..body.len()).step_by(8_191).collect();
    feed(&mut scanner, body.as_bytes(), &ends);
    assert_eq!(scanner.counts().input, Some(8));
}

fn any_kind() -> impl Strategy<Value = ResponseKind> {
    prop::sample::select(vec![
        ResponseKind::Chat,
        ResponseKind::Embeddings,
        ResponseKind::Responses,
        ResponseKind::Messages,
        ResponseKind::Audio,
        ResponseKind::Images,
    ])
}

fn any_filter() -> impl Strategy<Value = StreamFilter> {
    prop::sample::select(vec![
        StreamFilter::Nothing,
        StreamFilter::UsageEvent,
        StreamFilter::RunningUsage,
    ])
}

/// Parts of responses in any order, and any bytes between them.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => prop::sample::select(RECORDED).prop_map(|recorded| recorded.body.as_bytes().to_vec()),
        4 => prop::sample::select(recorded::PARTS).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

/// JSON with the names that matter, in any place, and texts that look like them.
fn any_json() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 12] = [
        "usage",
        "timings",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "prompt_tokens_details",
        "cached_tokens",
        "prompt_n",
        "cache_n",
        "predicted_n",
        "choices",
    ];
    let texts = [
        "\"usage\":{\"prompt_tokens\":1}}",
        "usage",
        "\\",
        "x\\\"usage\":",
        "",
    ];
    let leaf = prop_oneof![
        3 => (0_u64..100).prop_map(Value::from),
        1 => prop::sample::select(texts.to_vec()).prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    let members = |value: BoxedStrategy<Value>| {
        let name = prop::sample::select(NAMES.to_vec());
        prop::collection::vec((name, value), 0..6)
            .prop_map(|members| {
                members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
            })
            .prop_map(Value::Object)
    };
    let inner = leaf.prop_recursive(3, 40, 6, move |value| {
        prop_oneof![
            3 => members(value.clone().boxed()),
            1 => prop::collection::vec(value, 0..3).prop_map(Value::Array),
        ]
    });
    members(inner.boxed())
}

#[test]
fn only_the_usage_of_the_document_itself_counts() {
    let counts = |body: &str| {
        let mut scanner = UsageScanner::json(ResponseKind::Chat);
        scanner.feed_last(body.as_bytes());
        let counts = scanner.counts();
        (counts.input, counts.input_cached, counts.output)
    };
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":4}"#;
    let known = (Some(3), None, Some(4));
    assert_eq!(counts(&format!("{{\"id\":\"x\",{usage}}}")), known);
    assert_eq!(
        counts(&format!("{{\"id\":\"x\",{usage},\"g\":\"g\"}}\n ")),
        known
    );
    assert_eq!(
        counts(&format!(
            "{{{usage},\"message\":{{\"usage\":{{\"prompt_tokens\":7}}}}}}"
        )),
        known
    );
    assert_eq!(
        counts(&format!("{{\"message\":{{{usage}}}}}")),
        (None, None, None)
    );
    let in_a_text = serde_json::json!({"text": format!("{{{usage}}}")}).to_string();
    assert_eq!(counts(&in_a_text), (None, None, None));
    let timings = r#""timings":{"prompt_n":1,"cache_n":2,"predicted_n":4}"#;
    let with_cached = (Some(3), Some(2), Some(4));
    assert_eq!(counts(&format!("{{{timings},{usage}}}")), with_cached);
    assert_eq!(counts(&format!("{{{usage},{timings}}}")), with_cached);
}

proptest! {
    #[test]
    fn a_whole_document_gives_the_same_counts_as_its_pieces(
        document in any_json(),
        kind in any_kind(),
        is_pretty in any::<bool>(),
    ) {
        let body = match is_pretty {
            true => serde_json::to_string_pretty(&document).unwrap(),
            false => document.to_string(),
        };
        let (mut whole, mut split) = (UsageScanner::json(kind), UsageScanner::json(kind));
        whole.feed_last(body.as_bytes());
        for byte in body.as_bytes() {
            split.feed(std::slice::from_ref(byte));
        }
        prop_assert_eq!(whole.counts(), split.counts(), "{}", body);
        prop_assert_eq!(whole.is_finished(), split.is_finished());
    }

    #[test]
    fn any_split_gives_the_same_counts_and_the_same_bytes(
        body in any_body(),
        mut ends in prop::collection::vec(0_usize..6000, 0..24),
        kind in any_kind(),
        filter in any_filter(),
        is_stream in any::<bool>(),
    ) {
        ends.sort_unstable();
        // Byte by byte, no event comes whole, and so each one is parsed.
        let bytes: Vec<usize> = (0..body.len()).collect();
        let make = || match is_stream {
            true => UsageScanner::events(kind, filter),
            false => UsageScanner::json(kind),
        };
        let (mut whole, mut split) = (make(), make());
        let sent_whole = feed(&mut whole, &body, &[]);
        let sent_split = feed(&mut split, &body, &ends);
        let mut parsed = make();
        let sent_parsed = feed(&mut parsed, &body, &bytes);
        prop_assert_eq!(whole.counts(), parsed.counts());
        prop_assert!(sent_parsed == sent_whole);
        prop_assert_eq!(whole.counts(), split.counts());
        prop_assert_eq!(whole.is_finished(), split.is_finished());
        prop_assert_eq!(
            String::from_utf8_lossy(&sent_whole),
            String::from_utf8_lossy(&sent_split)
        );
        if filter == StreamFilter::Nothing || !is_stream {
            prop_assert!(sent_split == body);
        }
    }

    #[test]
    fn events_that_differ_in_a_word_are_read_as_if_each_were_parsed(
        (template, words) in any_words(),
        kind in any_kind(),
    ) {
        let events = words.iter().map(|word| template.replace('@', word));
        let events: Vec<String> = events.collect();
        let mut by_event = UsageScanner::events(kind, StreamFilter::UsageEvent);
        let mut parsed = UsageScanner::events(kind, StreamFilter::UsageEvent);
        for event in events {
            by_event.feed(event.as_bytes());
            for byte in event.as_bytes() {
                parsed.feed(std::slice::from_ref(byte));
            }
            prop_assert_eq!(by_event.counts(), parsed.counts(), "{} {:?}", template, words);
            prop_assert_eq!(by_event.is_finished(), parsed.is_finished());
        }
    }
}

#[test]
fn what_is_no_object_is_not_read_in_one_piece_either() {
    for before in ["\u{feff}", "x ", "["] {
        let body = format!("{before}{{\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":2}}}}");
        let mut in_pieces = UsageScanner::json(ResponseKind::Chat);
        feed(&mut in_pieces, body.as_bytes(), &[1, 9]);
        let mut at_once = UsageScanner::json(ResponseKind::Chat);
        at_once.feed_last(body.as_bytes());
        assert_eq!(at_once.counts(), in_pieces.counts(), "{body}");
        assert_eq!(at_once.counts(), RequestCounts::UNKNOWN);
    }
}

/// An event with a place for a word, and words of one kind that stand there one after another.
fn any_words() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
    let templates = vec![
        "data: {\"type\":\"x.delta\",\"n\":@,\"delta\":\"hi\"}\n\n",
        "data: {\"type\":\"x.delta\",\"delta\":\"hi\",\"o\":\"@\"}\n\n",
        "data: {\"type\":\"@\",\"delta\":{\"text\":\"hi\"}}\n\n",
        "data: {\"delta\":{\"text\":\"hi\"},\"type\":\"@\"}\n\n",
        "data: {\"delta\":\"hi\",\"type\":\"@\"}\n\n",
        "data: {\"delta\":\"hi\",\"duration\":@}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"@\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"@\" : {\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
        "data: {\"@\":{\"prompt_tokens\":1,\"completion_tokens\":2},\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"@\":\"hi\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"@\":\"hi\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"@\"}}],\"a\":\"b\"}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"a\":\"b @\",\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":@}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":{\"prompt_tokens\":@,\"completion_tokens\":@}}\n\n",
        "@: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n",
        "id: @\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n",
    ];
    let word_lists: Vec<Vec<&'static str>> = vec![
        vec!["1", "2", "33", "null", "4.5", "", "1e3"],
        vec!["abc", "d", "e-f", "", "x\\\"y", "\\\\", "\\n", "n"],
        vec!["foo", "usage", "timings", "bar"],
        vec!["role", "content", "reasoning", "name"],
        vec![
            "message_stop",
            "response.completed",
            "ping",
            "content_block_delta",
        ],
        vec!["data", "date", "dat", "event"],
        vec!["\"usage\":{\"prompt_tokens\":1}", "a"],
    ];
    let words = prop::sample::select(word_lists)
        .prop_flat_map(|words| prop::collection::vec(prop::sample::select(words), 1..9));
    (prop::sample::select(templates), words)
}
