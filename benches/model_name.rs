//! How long the gateway looks at a chat body for its model, beside serde_json reading the same field. Times, and so
//! comparable on one machine only.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keygate::request_body::model::{self, BodyFormat, ExtraModelFields};

/// What a careful gateway would write with serde alone: strict on `model`, blind to the other dangers.
#[derive(serde::Deserialize)]
struct ChatRequest {
    model: String,
}

/// A conversation as clients send it: compact, a few parameters, the model first.
fn chat(bytes: usize, sentence: &str) -> String {
    let mut messages = String::new();
    let mut turn = 0;
    while messages.len() < bytes {
        let role = ["user", "assistant"][turn % 2];
        // Long conversations have long turns: attached files, retrieved documents.
        let sentences = (bytes / 20 / sentence.len()).clamp(3, 40);
        let content = sentence.repeat(sentences);
        messages.push_str(&format!(r#",{{"role":"{role}","content":"{content}"}}"#));
        turn += 1;
    }
    format!(
        r#"{{"model":"llama-3.3-70b","messages":[{{"role":"system","content":"You are a helpful assistant."}}{messages}],"temperature":0.7,"max_tokens":1024,"stream":true,"stream_options":{{"include_usage":true}}}}"#
    )
}

/// An escape every hundred bytes or so.
const PROSE: &str = r#"Please summarise the report below in a few paragraphs. Where it is silent, say that the figures are unknown; do not guess.\n"#;
/// An escape every twenty bytes: source code, markdown, JSON within JSON.
const CODE: &str = r#"    if name == \"model\" {\n\t\treturn Err(Fault::Twice);\n    }\n"#;
/// Beyond ASCII.
const GERMAN: &str = r#"Bitte fasse den folgenden Bericht über Käfer zusammen; schreibe „unbekannt“, wo er schweigt.\n"#;

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model_name");
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(250));
    group.sample_size(20);
    for (size, bytes) in [("2kB", 1_600), ("64kB", 63_500), ("2MB", 2_000_000)] {
        for (language, sentence) in [("prose", PROSE), ("code", CODE), ("german", GERMAN)] {
            let body = chat(bytes, sentence).into_bytes();
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(
                BenchmarkId::new(format!("keygate/{language}"), size),
                &body,
                |bencher, body| {
                    bencher.iter(|| {
                        model::read(
                            &BodyFormat::Json,
                            black_box(body),
                            ExtraModelFields::Refused,
                        )
                        .is_ok_and(|name| !black_box(name).is_empty())
                    });
                },
            );
            group.bench_with_input(
                BenchmarkId::new(format!("serde_json/{language}"), size),
                &body,
                |bencher, body| {
                    bencher.iter(|| {
                        serde_json::from_slice::<ChatRequest>(black_box(body))
                            .is_ok_and(|request| !black_box(request.model).is_empty())
                    });
                },
            );
        }
    }
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
