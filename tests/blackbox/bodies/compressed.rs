//! Compressed request bodies are decoded within the limits, judged by their contents, and forwarded decoded.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compress, Compression, FlushCompress};

use crate::support::client::{Call, End, Response};
use crate::support::h2::{Protocol, ask};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

type Encode = fn(&[u8]) -> Vec<u8>;

/// Each coding as a header names it, and a way to write it.
const CODINGS: [(&str, Encode); 6] = [
    ("gzip", gzip),
    ("X-GZip", gzip),
    ("deflate", zlib),
    ("deflate", deflate),
    ("br", brotli),
    ("zstd", zstd),
];

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("encoded");
    encoder.finish().expect("encoded")
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("encoded");
    encoder.finish().expect("encoded")
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("encoded");
    encoder.finish().expect("encoded")
}

fn brotli(data: &[u8]) -> Vec<u8> {
    brotli_at(1, data)
}

fn brotli_at(quality: u32, data: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, quality, 22);
    encoder.write_all(data).expect("encoded");
    encoder.into_inner()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(data.len())];
    let length = zstd_safe::compress(&mut out[..], data, 3).expect("encoded");
    out.truncate(length);
    out
}

fn chat(key: &Key, coding: &str, body: Vec<u8>) -> Call {
    Call::json("/v1/chat/completions", &key.token, body).header("content-encoding", coding)
}

/// A chat of about this length, of text that shrinks tenfold at most.
fn long_chat(model: &str, length: usize) -> Vec<u8> {
    let mut text = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""#);
    let mut number = 1_u32;
    while text.len() < length {
        number = number.wrapping_mul(2_654_435_761).wrapping_add(1);
        let _ = write!(text, "{} is a number among others; ", number >> 12);
    }
    text.push_str("\"}]}");
    text.into_bytes()
}

/// What a restricted key may not have gets by in no coding.
#[test]
fn a_compressed_body_is_judged_by_what_it_holds_and_forwarded_without_its_coding() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let body = long_chat("good", 200_000);
    for (coding, encode) in CODINGS {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let call =
                chat(&stand.only, coding, encode(&body)).header("content-digest", "sha-256=:x:");
            let response = ask(protocol, &stand.gateway, &call);
            let seen = stand.up.last();
            let verdict = if response.status != 200 {
                Err(format!("status {}: {}", response.status, response.text()))
            } else if seen.body != body {
                Err("another body is forwarded".to_owned())
            } else if seen.all("content-length") != [body.len().to_string()]
                || !seen.all("content-encoding").is_empty()
                || !seen.all("content-digest").is_empty()
                || !seen.all("transfer-encoding").is_empty()
            {
                Err(format!("forwarded with {:?}", seen.headers))
            } else {
                Ok(())
            };
            cases.check(&format!("{coding} over {protocol:?}"), verdict);
        }
    }
    stand.up.forget();
    for (coding, encode) in CODINGS {
        for (body, status, code) in [
            (r#"{"model":"bad"}"#, 404, "model_not_found"),
            (r#"{"model":"good","model":"bad"}"#, 400, "ambiguous_model"),
            (r#"{"model":"good"} "x""#, 400, "invalid_json"),
            ("", 400, "invalid_json"),
        ] {
            let call = chat(&stand.only, coding, encode(body.as_bytes()));
            let verdict = is_error(&stand.gateway.ask(&call), status, code);
            cases.check(&format!("{coding} of {body}"), verdict);
        }
    }
    let forwarded = stand.up.requests();
    cases.check(
        "upstream",
        forwarded
            .is_empty()
            .then_some(())
            .ok_or(format!("{forwarded:?}")),
    );
    cases.done();
}

#[test]
fn a_compressed_body_means_the_same_however_it_is_split() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let body = br#"{"model":"good","messages":[{"role":"user","content":"hello hello hello"}]}"#;
    for (coding, encode) in CODINGS {
        let call = chat(&stand.only, coding, encode(body));
        for size in [1, 2, 3, 7] {
            let mut client = stand.gateway.client();
            client.send(&call.chunked(&vec![size; call.body.len() / size]));
            let response = client.answer();
            let right = response.status == 200 && stand.up.last().body == body;
            cases.check(
                &format!("{coding} in pieces of {size}"),
                right.then_some(()).ok_or(response.text()),
            );
        }
    }
    cases.done();
}

#[test]
fn a_compressed_form_is_read_like_a_plain_one() {
    let stand = Stand::new();
    let form = |model: &str| {
        format!(
            "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
             --XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n--XyZ--\r\n",
            "sound".repeat(1000)
        )
    };
    let upload = |model: &str| {
        Call::new("POST", "/v1/audio/transcriptions")
            .bearer(&stand.only.token)
            .header("content-type", "multipart/form-data; boundary=XyZ")
            .header("content-encoding", "gzip")
            .body(gzip(form(model).as_bytes()))
    };
    assert_eq!(stand.gateway.ask(&upload("good")).status, 200);
    assert_eq!(stand.up.last().body, form("good").into_bytes());
    assert_error(&stand.gateway.ask(&upload("bad")), 404, "model_not_found");
}

#[test]
fn identity_is_no_coding_and_several_or_unknown_ones_are_not_taken() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let plain = br#"{"model":"good"}"#;
    let refused = |call: &Call| -> Result<(), String> {
        let response = stand.gateway.ask(call);
        is_error(&response, 415, "unsupported_media_type")?;
        let told = response.all("accept-encoding");
        (told == ["gzip, deflate, br, zstd"])
            .then_some(())
            .ok_or(format!("{told:?}"))
    };
    for coding in [
        "compress",
        "unknown",
        "",
        "identity, gzip",
        "gzip, identity",
        "gzip, gzip",
        "gzip,",
        "identity, identity",
        "gzip;q=1",
    ] {
        for key in [&stand.all, &stand.only] {
            for body in [plain.to_vec(), gzip(plain), gzip(&gzip(plain))] {
                cases.check(coding, refused(&chat(key, coding, body)));
            }
        }
    }
    for (one, other) in [
        ("gzip", "gzip"),
        ("identity", "gzip"),
        ("gzip", "identity"),
        ("identity", "identity"),
    ] {
        let call = chat(&stand.only, one, gzip(plain)).header("content-encoding", other);
        cases.check(&format!("{one}, then {other}"), refused(&call));
    }
    cases.check("upstream", stand.up.untouched());
    for coding in ["identity", "Identity"] {
        let response = stand
            .gateway
            .ask(&chat(&stand.only, coding, plain.to_vec()));
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.last();
        assert_eq!(seen.body, plain);
        assert!(seen.all("content-encoding").is_empty());
    }
    cases.done();
}

#[test]
fn a_body_that_is_not_what_its_coding_says_is_an_invalid_request() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let body = br#"{"model":"good","messages":[{"role":"user","content":"hello hello hello"}]}"#;
    for (coding, encode) in CODINGS {
        let whole = encode(body);
        let mut damaged = whole.clone();
        damaged[0] ^= 0xff;
        damaged[1] ^= 0xff;
        let trailing = |after: &[u8]| [&whole[..], after].concat();
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("the plain body", body.to_vec()),
            ("all but the last byte", whole[..whole.len() - 1].to_vec()),
            ("the first half", whole[..whole.len() / 2].to_vec()),
            ("another beginning", damaged.clone()),
            ("one byte more", trailing(b"\0")),
            ("a line end more", trailing(b"\r\n")),
            ("a document more", trailing(br#"{"model":"bad"}"#)),
        ] {
            let response = stand.gateway.ask(&chat(&stand.only, coding, bytes));
            cases.check(
                &format!("{coding}: {what}"),
                is_error(&response, 400, "invalid_request"),
            );
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

/// A window that encoders use only where they are told to, and far more members than any tool makes.
#[test]
fn what_a_small_body_asks_a_decoder_for_beyond_any_need_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let windowed = |window: u32| {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 1, window);
        encoder
            .write_all(&long_chat("good", 6 << 20))
            .expect("encoded");
        encoder.into_inner()
    };
    let members = |encode: Encode, count: usize| {
        let body = encode(br#"{"model":"good"}"#);
        [encode(b"").repeat(count - 1), body].concat()
    };
    for (coding, what, taken, refused) in [
        ("br", "window", windowed(22), windowed(24)),
        ("gzip", "members", members(gzip, 1024), members(gzip, 1025)),
        ("zstd", "frames", members(zstd, 1024), members(zstd, 1025)),
    ] {
        let response = stand.gateway.ask(&chat(&stand.only, coding, taken));
        let is_taken = response.status == 200;
        let verdict = is_taken.then_some(()).ok_or(response.text());
        cases.check(&format!("{coding}: {what}"), verdict);
        let response = stand.gateway.ask(&chat(&stand.only, coding, refused));
        let verdict = is_error(&response, 400, "invalid_request");
        cases.check(&format!("{coding}: more {what}"), verdict);
    }
    cases.check(
        "upstream",
        (stand.up.requests().len() == 3)
            .then_some(())
            .ok_or("more went on".into()),
    );
    cases.done();
}

/// What unpacks to ten gigabytes and more: blocks that repeat, each decodable behind the others.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let mut compress = Compress::new(Compression::best(), false);
    let zeros = vec![b' '; 1 << 20];
    let mut block = Vec::with_capacity(1 << 20);
    compress
        .compress_vec(&zeros, &mut block, FlushCompress::Full)
        .expect("compressed");
    let deflated = block.repeat((10 << 30) / zeros.len());
    let gzip_head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    // A frame with an 8 MiB window, and blocks that say: 128 KiB of this byte (RFC 8878 3.1.1.2).
    let zstd_head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3];
    let size = 128_u32 << 10;
    let [low, middle, high, _] = (size << 3 | 1 << 1).to_le_bytes();
    let zstd_blocks = [low, middle, high, b' '].repeat((10 << 30) / (128 << 10));
    vec![
        ("gzip", [&gzip_head[..], &deflated].concat()),
        ("deflate", deflated),
        ("zstd", [&zstd_head[..], &zstd_blocks].concat()),
        ("br", brotli(&vec![b' '; 40 << 20])),
    ]
}

/// What the gateway's process says of its memory.
fn megabytes(stand: &Stand, field: &str) -> u64 {
    let status = format!("/proc/{}/status", stand.gateway.process.pid());
    let status = std::fs::read_to_string(status).expect("a status");
    let line = status.lines().find(|line| line.starts_with(field));
    let size = line.and_then(|line| line.split_whitespace().nth(1));
    size.expect("a size").parse::<u64>().expect("a number") >> 10
}

/// Each fills a window of 4 MiB before it hands anything over.
#[test]
fn a_crowd_of_bombs_shares_what_all_bodies_may_take() {
    let stand = Stand::with(|setup| {
        setup
            .line("workers = 1")
            .set("limits", "request_body = \"8MiB\"")
            .set("limits", "buffered_bodies = \"16MiB\"")
    });
    let call = chat(&stand.only, "br", brotli_at(5, &vec![b' '; 24 << 20]));
    assert!(call.body.len() < 1000);
    let before = megabytes(&stand, "VmRSS:");
    let mut clients: Vec<_> = (0..40).map(|_| stand.gateway.client()).collect();
    for client in &mut clients {
        client.send(&call.bytes());
    }
    for client in &mut clients {
        let response = client.answer();
        let refused = is_error(&response, 413, "request_too_large");
        refused
            .or_else(|_| is_error(&response, 503, "overloaded"))
            .expect("refused");
    }
    let most = megabytes(&stand, "VmHWM:");
    assert!(
        most - before < 80,
        "{} MB for forty small bombs",
        most - before
    );
    stand.up.untouched().expect("nothing goes on");
}

#[test]
fn a_bomb_is_refused_and_its_memory_is_bounded() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let bombs = bombs();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let before = megabytes(&stand, "VmRSS:");
    thread::scope(|scope| {
        for (coding, bomb) in &bombs {
            for key in [&stand.all, &stand.only] {
                scope.spawn(|| {
                    let mut client = stand.gateway.client();
                    // The gateway answers and closes in the middle of it.
                    let _ = client.try_send(&chat(key, coding, bomb.clone()).bytes());
                    assert_error(&client.answer(), 413, "request_too_large");
                });
            }
        }
    });
    let most = megabytes(&stand, "VmHWM:");
    assert!(most - before < 64, "{} MB for eight bombs", most - before);
    assert_eq!(stand.up.requests().len(), 1);
}

#[test]
fn a_body_that_unpacks_to_more_than_the_limit_is_too_large_and_one_to_the_limit_is_not() {
    let stand = Stand::with(|setup| setup.set("limits", "request_body = \"300KB\""));
    let at = |length: usize| {
        let mut body = long_chat("good", 290_000);
        body.resize(length, b' ');
        body
    };
    let mut cases = Cases::new();
    for (coding, encode) in CODINGS {
        let response = stand
            .gateway
            .ask(&chat(&stand.only, coding, encode(&at(300_000))));
        let right = response.status == 200;
        cases.check(coding, right.then_some(()).ok_or(response.text()));
        let response = stand
            .gateway
            .ask(&chat(&stand.only, coding, encode(&at(300_001))));
        cases.check(coding, is_error(&response, 413, "request_too_large"));
    }
    // What comes is bounded too, though it unpacks to nothing: a skippable frame of 390 000 bytes (RFC 8878 3.1.2).
    let mut nothing = vec![0; 390_000];
    nothing[..4].copy_from_slice(&[0x50, 0x2a, 0x4d, 0x18]);
    nothing[4..8].copy_from_slice(&389_992_u32.to_le_bytes());
    let call = chat(&stand.only, "zstd", nothing);
    let mut client = stand.gateway.client();
    let _ = client.try_send(&call.chunked(&vec![10_000; 39]));
    cases.check(
        "nothing",
        is_error(&client.answer(), 413, "request_too_large"),
    );
    cases.done();
}

#[test]
fn decoded_bodies_count_among_the_buffered_ones() {
    let stand = Stand::with(|setup| {
        setup
            .set("limits", "request_body = \"3MB\"")
            .set("limits", "buffered_bodies = \"3MB\"")
    });
    let call = chat(&stand.only, "gzip", gzip(&long_chat("good", 2_000_000)));
    let bytes = call.bytes();
    let (most, rest) = bytes.split_at(bytes.len() - 10);
    // Of two bodies that come at once the later one is refused: here it must not be the one that is to be held.
    let mut holding = eventually("what it unpacked to is held", DEADLINE, || {
        let mut holding = stand.gateway.client();
        holding.send(most);
        let is_held = holding.silent_for(Duration::from_millis(300));
        (is_held && stand.gateway.ask(&call).status == 503).then_some(holding)
    });
    holding.send(rest);
    assert_eq!(holding.answer().status, 200);
    eventually("the room is given back", DEADLINE, || {
        (stand.gateway.ask(&call).status == 200).then_some(())
    });
}

/// One worker, one body that takes it a while, and a request that came after it.
#[test]
fn a_large_body_that_is_decoded_holds_up_nobody() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    for (coding, encode) in [("gzip", gzip as Encode), ("br", brotli), ("zstd", zstd)] {
        stand.up.forget();
        let large = chat(&stand.all, coding, encode(&long_chat("good", 8 << 20)));
        let mut small = stand.gateway.client();
        assert_eq!(small.ask(&Call::chat(&stand.all.token, "good")).status, 200);
        let mut client = stand.gateway.client();
        client.send(&large.bytes());
        assert_eq!(small.ask(&Call::chat(&stand.all.token, "bad")).status, 200);
        assert_eq!(client.answer().status, 200);
        let order: Vec<bool> = stand
            .up
            .requests()
            .iter()
            .map(|seen| seen.body.len() > 1000)
            .collect();
        assert_eq!(order, [false, false, true], "{coding}");
    }
}

/// An upstream that answers when it has read a head, and leaves the body where it is.
struct Hasty {
    socket: socket2::Socket,
    url: String,
}

impl Hasty {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket
            .set_recv_buffer_size(64 << 10)
            .expect("a small buffer");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        socket.listen(16).expect("listens");
        let bound = socket.local_addr().expect("an address").as_socket();
        let url = format!("http://{}", bound.expect("an IPv4 address"));
        Self { socket, url }
    }

    /// Answers the next request with the beginning of a stream.
    fn begin_stream(&self) -> TcpStream {
        // The gateway may connect once before, to see whether the upstream is up.
        let mut stream = loop {
            let (stream, _) = self.socket.accept().expect("a connection");
            let mut stream = TcpStream::from(stream);
            if stream.read_exact(&mut [0; 64]).is_ok() {
                break stream;
            }
        };
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                      b\r\ndata: one\n\n\r\n";
        stream.write_all(answer.as_bytes()).expect("an answer");
        stream
    }
}

#[test]
fn an_answer_before_the_body_is_sent_leaves_the_body_on_its_account() {
    let hasty = Hasty::new();
    let stand = Stand::with(|setup| {
        setup
            .upstream("hasty", &[&hasty.url], &["hasty"])
            .set("limits", "buffered_bodies = \"40MB\"")
    });
    let call = |model: &str, length| {
        let body = long_chat(model, length);
        Call::json("/v1/chat/completions", &stand.all.token, body)
    };
    let mut client = stand.gateway.client();
    client.send(&call("hasty", 30_000_000).bytes());
    let upstream = hasty.begin_stream();
    let mut response = client.head();
    client.until(&mut response, b"one");
    let other = call("good", 20_000_000);
    let mut refused = stand.gateway.client();
    // The gateway answers and closes in the middle of it.
    let _ = refused.try_send(&other.bytes());
    assert_error(&refused.answer(), 503, "overloaded");
    drop(upstream);
    client.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Cut);
    eventually("the room is given back", DEADLINE, || {
        let mut client = stand.gateway.client();
        let _ = client.try_send(&other.bytes());
        (client.answer().status == 200).then_some(())
    });
}

/// A byte now and then, within every pause that is allowed.
#[test]
fn a_body_that_only_trickles_is_timed_out_and_a_slow_one_is_not() {
    let stand = Stand::with(|setup| setup.set("timeouts", "body_idle = \"1s\""));
    let body = long_chat("good", 24_000);
    let call = Call::json("/v1/chat/completions", &stand.only.token, body);
    let slowly = |call: &Call, size: usize| -> Response {
        let mut client = stand.gateway.client();
        client.send(&call.head());
        for piece in call.body.chunks(size) {
            if !client.silent_for(Duration::from_millis(100)) {
                break;
            }
            let _ = client.try_send(piece);
        }
        client.answer()
    };
    thread::scope(|scope| {
        scope.spawn(|| assert_error(&slowly(&call, 20), 408, "request_timeout"));
        scope.spawn(|| {
            let compressed = chat(&stand.only, "gzip", gzip(&call.body));
            assert_error(&slowly(&compressed, 20), 408, "request_timeout");
        });
        // 4 KB a second, for six seconds.
        scope.spawn(|| assert_eq!(slowly(&call, 400).status, 200));
    });
    assert_eq!(stand.up.requests().len(), 1);
}
