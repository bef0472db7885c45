//! The length of audio: what the upstream says, else that of the file that was sent.

use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::gateway::Setup;
use crate::support::recorder::{Exchange, Recorder};
use crate::support::stand::Stand;
use crate::support::usage::last_record;

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";
const TEXT: &str = "content-type: text/plain\r\n";

/// A tone of 0.75 s.
const TONE: &[u8] = include_bytes!("../../fixtures/audio/opus.ogg");

/// A form with a file before its model.
fn form(file: &[u8]) -> Vec<u8> {
    [
        &b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"[..],
        file,
        b"\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--b--\r\n",
    ]
    .concat()
}

fn call(stand: &Stand, path: &str, body: Vec<u8>) -> Call {
    Call::new("POST", path)
        .bearer(&stand.all.token)
        .header("content-type", "multipart/form-data; boundary=b")
        .body(body)
}

fn priced() -> Stand {
    Stand::held_with(|setup: Setup| {
        setup.table("[[prices]]\nmodel = \"good\"\naudio_minute = 0.60\n")
    })
}

/// Sends a file, answers for the upstream, and returns its record.
fn record(
    stand: &Stand,
    client: &mut Client,
    (path, file): (&str, &[u8]),
    count: usize,
    answer: impl FnOnce(Exchange),
) -> Value {
    client.send(&call(stand, path, form(file)).bytes());
    let exchange = stand.up.next();
    answer(exchange);
    client.answer();
    last_record(&stand.gateway, count)
}

fn told(record: &Value) -> Value {
    json!([
        record["audio_microseconds"],
        record["certainty"],
        record["cost"]
    ])
}

/// WAV of so many samples, at 8000 a second.
fn wav(samples: u32) -> Vec<u8> {
    let mut file =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data"
            .to_vec();
    file.extend_from_slice(&samples.to_le_bytes());
    file.resize(file.len() + samples as usize, 0x80);
    file
}

#[test]
fn a_file_counts_by_its_own_length_where_the_upstream_does_not_say_it() {
    let stand = priced();
    let mut client = stand.gateway.client();
    let long = wav(8000 * 90);
    // (path, file, headers of the answer, answer, audio in microseconds, certainty, cost in millionths)
    let cases: [(&str, &[u8], &str, &str, Value); 10] = [
        (
            TRANSCRIPTIONS,
            TONE,
            TEXT,
            "Hello.",
            json!([750_000, "exact", 7_500]),
        ),
        (
            TRANSLATIONS,
            TONE,
            TEXT,
            "1\n00:00:00,000 --> 00:00:00,750\nHello.\n",
            json!([750_000, "exact", 7_500]),
        ),
        (
            TRANSCRIPTIONS,
            TONE,
            "content-type: text/vtt\r\n",
            "WEBVTT\n",
            json!([750_000, "exact", 7_500]),
        ),
        (
            TRANSCRIPTIONS,
            TONE,
            "content-type: application/json\r\n",
            r#"{"text":"Hello."}"#,
            json!([750_000, "exact", 7_500]),
        ),
        // The body is larger than what goes out with the head.
        (
            TRANSCRIPTIONS,
            &long,
            TEXT,
            "Hello.",
            json!([90_000_000, "exact", 900_000]),
        ),
        // The upstream's word counts.
        (
            TRANSCRIPTIONS,
            TONE,
            "content-type: application/json\r\n",
            r#"{"text":"","duration":12.5}"#,
            json!([12_500_000, "exact", 125_000]),
        ),
        (
            TRANSCRIPTIONS,
            TONE,
            "content-type: application/json\r\n",
            r#"{"text":"","usage":{"type":"duration","seconds":3}}"#,
            json!([3_000_000, "exact", 30_000]),
        ),
        // Tokens are no length.
        (
            TRANSCRIPTIONS,
            TONE,
            "content-type: application/json\r\n",
            r#"{"text":"","usage":{"type":"tokens","input_tokens":5,"output_tokens":2}}"#,
            json!([750_000, "exact", 7_500]),
        ),
        (
            TRANSCRIPTIONS,
            b"no audio",
            TEXT,
            "Hello.",
            json!([null, "unknown", null]),
        ),
        (
            TRANSCRIPTIONS,
            b"",
            TEXT,
            "",
            json!([null, "unknown", null]),
        ),
    ];
    for (at, (path, file, headers, answer, expected)) in cases.into_iter().enumerate() {
        let record = record(&stand, &mut client, (path, file), at + 1, |exchange| {
            exchange.reply("200 OK", headers, answer);
        });
        assert_eq!(told(&record), expected, "{path} {answer}");
    }
    let line = stand.gateway.process.line("the access line", |line| {
        line.contains("\"access\"") && line.contains("\"audio_seconds\":90")
    });
    assert!(line.contains("\"certainty\":\"exact\""), "{line}");
}

#[test]
fn a_file_whose_answer_fails_counts_nothing_and_one_whose_answer_breaks_off_at_least_its_length() {
    let stand = priced();
    let record = |count: usize, answer: &dyn Fn(Exchange)| {
        let mut client = stand.gateway.client();
        client.send(&call(&stand, TRANSCRIPTIONS, form(TONE)).bytes());
        answer(stand.up.next());
        client.answer_or_end();
        last_record(&stand.gateway, count)
    };
    let failed = record(1, &|exchange| exchange.reply("400 Bad Request", TEXT, "no"));
    assert_eq!(told(&failed), json!([null, "unknown", null]));
    let gone = record(2, &|exchange| exchange.answer_raw_and_close("HTTP/1.1 2"));
    assert_eq!(told(&gone), json!([null, "unknown", null]));
    let cut = record(3, &|exchange| {
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 99\r\n\r\nHello";
        exchange.answer_raw_and_close(answer);
    });
    assert_eq!(told(&cut), json!([750_000, "at_least", 7_500]));
}

#[test]
fn a_form_with_two_files_and_a_body_that_is_no_form_have_no_length() {
    let stand = priced();
    let part = [
        &b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"b\"\r\n\r\n"[..],
        TONE,
        b"\r\n",
    ]
    .concat();
    let two = [&part[..], &form(TONE)].concat();
    let mut client = stand.gateway.client();
    client.send(&call(&stand, TRANSCRIPTIONS, two).bytes());
    stand.up.next().reply("200 OK", TEXT, "Hello.");
    assert_eq!(client.answer().status, 200);
    let record = last_record(&stand.gateway, 1);
    assert_eq!(told(&record), json!([null, "unknown", null]));
    let speech = r#"{"model":"good","input":"a","file":"b"}"#;
    client.send(&Call::json("/v1/audio/speech", &stand.all.token, speech).bytes());
    stand
        .up
        .next()
        .reply("200 OK", "content-type: audio/mpeg\r\n", "a");
    assert_eq!(client.answer().status, 200);
    let record = last_record(&stand.gateway, 2);
    assert_eq!(told(&record), json!([null, "unknown", null]));
}

#[test]
fn hostile_files_end_no_worker_and_are_no_panic_in_the_log() {
    let stand = priced();
    let mut client = stand.gateway.client();
    // `lofty` panics at the first: the head of Opus is too short.
    let mut short =
        b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x08\x01OpusHeada".to_vec();
    short.resize(128, b'a');
    let zeros = [&b"\xff\xfb\x10\xc4"[..], &vec![0; 4 << 20]].concat();
    for (at, file) in [
        &short[..],
        &zeros,
        b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff",
    ]
    .into_iter()
    .enumerate()
    {
        let record = record(
            &stand,
            &mut client,
            (TRANSCRIPTIONS, file),
            at + 1,
            |exchange| {
                exchange.reply("200 OK", TEXT, "Hello.");
            },
        );
        assert_eq!(told(&record), json!([null, "unknown", null]));
    }
    let last = record(&stand, &mut client, (TRANSCRIPTIONS, TONE), 4, |exchange| {
        exchange.reply("200 OK", TEXT, "Hello.");
    });
    assert_eq!(told(&last), json!([750_000, "exact", 7_500]));
    let log = stand.gateway.process.log();
    assert!(
        !log.iter().any(|line| line.contains("\"panic\"")),
        "{log:#?}"
    );
}

#[test]
fn a_file_gives_its_share_of_the_buffers_back_when_its_length_is_read() {
    // Room for one such file at a time.
    let stand = Stand::before(Recorder::held(), |setup| {
        setup.set(
            "limits",
            "request_body = \"1MiB\"\nbuffered_bodies = \"1MiB\"",
        )
    });
    let mut client = stand.gateway.client();
    let file = wav(900_000);
    for count in 1..=5 {
        let record = record(
            &stand,
            &mut client,
            (TRANSCRIPTIONS, &file),
            count,
            |exchange| exchange.reply("200 OK", TEXT, "Hello."),
        );
        assert_eq!(record["status"], 200);
        assert_eq!(record["audio_microseconds"], 112_500_000);
    }
}
