//! What reading the usage of a response costs, beside doing nothing. With `--instructions NAME` it only feeds 1000 events of
//! one stream (vllm, openai), or 1000 whole responses (chat), for callgrind:
//! `valgrind --tool=callgrind --toggle-collect='*feed_stream*' BENCH --instructions vllm`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group};
use keygate::http::usage_scanner::{Forward, ResponseKind, StreamFilter, UsageScanner};

/// One event of vLLM, with another piece of output each time.
fn vllm(number: usize) -> String {
    let text = [" the", " Käfer", " \\n\\n", " in", "."][number % 5];
    format!(
        "data: {{\"id\":\"chatcmpl-0a1b2c3d4e5f\",\"object\":\"chat.completion.chunk\",\"created\":1750000000,\"model\":\"llama-3.3-70b\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    )
}

/// One event of OpenAI: its last text has another length each time.
fn openai(number: usize) -> String {
    let padding = "x".repeat(1 + number % 7);
    vllm(number).replace(
        "}]}\n",
        &format!("}}],\"usage\":null,\"obfuscation\":\"{padding}\"}}\n"),
    )
}

/// A whole response of OpenAI's form, as short as they get.
const CHAT: &str = "{\"id\":\"chatcmpl-0a1b2c3d4e5f\",\"object\":\"chat.completion\",\"created\":1750000000,\"model\":\"llama-3.3-70b\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello! How can I help?\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}";

/// 1000 whole responses.
#[inline(never)]
fn feed_streams_of_one_document() -> Option<u64> {
    let mut sum = Some(0);
    for _ in 0..1000 {
        let mut scanner = UsageScanner::json(ResponseKind::Chat);
        scanner.feed_last(black_box(CHAT.as_bytes()));
        sum = sum.and_then(|sum| Some(sum + scanner.counts().output?));
    }
    sum
}

#[inline(never)]
fn feed_stream(scanner: &mut UsageScanner, events: &[String]) -> usize {
    let mut whole = 0;
    for event in events {
        whole += usize::from(scanner.feed(black_box(event.as_bytes())) == Forward::Whole);
    }
    whole
}

fn streams() -> [(&'static str, Vec<String>); 2] {
    [
        ("vllm", (0..1000).map(vllm).collect()),
        ("openai", (0..1000).map(openai).collect()),
    ]
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("usage_scanner");
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1000));
    for (name, events) in streams() {
        group.bench_function(name, |bencher| {
            let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::UsageEvent);
            bencher.iter(|| feed_stream(&mut scanner, &events));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("usage_scanner_json");
    group.bench_function("chat", |bencher| bencher.iter(feed_streams_of_one_document));
    let body = format!(
        "{{\"data\":[{{\"embedding\":[{}0]}}],\"usage\":{{\"prompt_tokens\":8}}}}",
        "0.0023064255,".repeat(80_000)
    );
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("embeddings", |bencher| {
        bencher.iter(|| {
            let mut scanner = UsageScanner::json(ResponseKind::Embeddings);
            for piece in black_box(body.as_bytes()).chunks(16 << 10) {
                scanner.feed(piece);
            }
            scanner.counts()
        });
    });
    group.finish();
}

criterion_group!(benches, reading);

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--instructions");
    if arguments.next().is_none() {
        return benches();
    }
    let which = arguments.next().unwrap_or_default();
    if which == "chat" {
        assert_eq!(black_box(feed_streams_of_one_document()), Some(12_000));
    }
    for (name, events) in streams() {
        if name == which {
            let mut scanner = UsageScanner::events(ResponseKind::Chat, StreamFilter::UsageEvent);
            black_box(feed_stream(&mut scanner, &events));
        }
    }
}
