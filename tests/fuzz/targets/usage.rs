//! A response on its way to the client: in any pieces it gives the same counts and the same bytes, and the client gets
//! all of them but the event that only the gateway asked for.

use keygate::http::usage_scanner::{Forward, ResponseKind, StreamFilter, UsageScanner};
use keygate::policy::usage::{Certainty, RequestCounts};

use super::{Target, bytes_of};

/// See the module. The first byte of an input chooses the kind of response, the second how it is cut.
#[derive(Default)]
pub struct UsageOfResponse;

const KINDS: [ResponseKind; 6] = [
    ResponseKind::Chat,
    ResponseKind::Embeddings,
    ResponseKind::Responses,
    ResponseKind::Messages,
    ResponseKind::Audio,
    ResponseKind::Images,
];
const FILTERS: [StreamFilter; 3] = [
    StreamFilter::Nothing,
    StreamFilter::UsageEvent,
    StreamFilter::RunningUsage,
];

impl Target for UsageOfResponse {
    const NAME: &'static str = "usage";
    const FRAGMENTS: &'static [&'static str] = &[
        "data: ",
        "event: message_delta\n",
        ": comment\n",
        "\n\n",
        "\r\n\r\n",
        "\r",
        "data: [DONE]\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"\"}}]}\n\n",
        "\"usage\":{\"input_tokens\":3,\"output_tokens\":4}",
        "\"timings\":{\"prompt_n\":1,\"cache_n\":2,\"predicted_n\":3}",
        "\"usage\":null",
        "\"choices\":[",
        "\"type\":\"message_stop\"",
        "\"seconds\":1.5",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "\\",
    ];
    const WORDS: &'static [&'static str] = &["exact", "at least", "unknown", "taken out"];

    fn examples(&self) -> Vec<Vec<u8>> {
        bytes_of(&[
            "\0\0data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
            "\u{6}\u{5}data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
            "\u{12}\u{3}{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
            "\u{3}\u{7}data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
            "\u{c}\u{2}data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
        ])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let [choice, cut, body @ ..] = input else {
            return "unknown";
        };
        let kind = KINDS[usize::from(choice % 6)];
        let filter = FILTERS[usize::from(choice / 6 % 3)];
        let make = || match choice / 18 % 2 {
            0 => UsageScanner::events(kind, filter),
            _ => UsageScanner::json(kind),
        };
        let (counts, sent) = feed(make(), body, body.len().max(1));
        let (counts_in_pieces, sent_in_pieces) = feed(make(), body, usize::from(cut % 32) + 1);
        assert_eq!(counts, counts_in_pieces, "the pieces change the counts");
        assert_eq!(sent, sent_in_pieces, "the pieces change the bytes");
        if filter == StreamFilter::Nothing || choice / 18 % 2 == 1 {
            assert_eq!(sent, body, "a byte was changed");
        }
        assert!(sent.len() <= body.len(), "bytes were added");
        check_at_once(kind, body);
        if sent.len() < body.len() {
            return "taken out";
        }
        match counts.certainty {
            Certainty::Exact => "exact",
            Certainty::AtLeast => "at least",
            Certainty::Unknown => "unknown",
        }
    }
}

/// A document that comes at once gives the counts that it gives in pieces.
fn check_at_once(kind: ResponseKind, body: &[u8]) {
    // Written anew, each name stands in it once.
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else {
        return;
    };
    let document = document.to_string().into_bytes();
    let mut scanner = UsageScanner::json(kind);
    assert_eq!(scanner.feed_last(&document), Forward::Whole);
    let (counts, _) = feed(UsageScanner::json(kind), &document, 1);
    assert_eq!(scanner.counts(), counts, "the end alone gives other counts");
}

fn feed(mut scanner: UsageScanner, body: &[u8], length: usize) -> (RequestCounts, Vec<u8>) {
    let mut sent = Vec::new();
    for piece in body.chunks(length) {
        match scanner.feed(piece) {
            Forward::Whole => sent.extend_from_slice(piece),
            Forward::Instead(bytes) => sent.extend_from_slice(bytes),
        }
    }
    sent.extend_from_slice(scanner.rest());
    (scanner.counts(), sent)
}
