//! Panics, which no request from outside can cause: this build of the gateway has them where a test asks for one, and
//! no other build has. A whole worker runs, with sockets on both sides.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::IntCounter;
use tempfile::TempDir;

use crate::observe::log::{Form, Log};
use crate::observe::metrics::Metrics;
use crate::policy::token::TokenHash;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::store::config::parse::{self, Overrides};
use crate::store::key_file;
use crate::table::{NO_YIELD, Table};
use crate::upstream::Fleet;

use super::serve::run_worker;
use super::worker::{Gateway, Settings};
use crate::net::listen;

const PANIC: &str = "panic-here";
const TOKEN: &str = "sk-test";
const DEADLINE: Duration = Duration::from_secs(15);

/// Called by the code under test where a request's head is judged and where a piece of its answer passes.
pub(super) fn panic_where_asked(bytes: &[u8]) {
    let found = memchr::memmem::find(bytes, PANIC.as_bytes());
    assert!(found.is_none(), "a test asked for this");
}

/// A worker, and what is counted of it.
struct Stand {
    address: SocketAddr,
    metrics: Metrics,
    lifecycle: Lifecycle,
    /// Connections that the upstream has open.
    at_upstream: Arc<AtomicUsize>,
    worker: Option<thread::JoinHandle<std::io::Result<()>>>,
    _folder: TempDir,
}

impl Stand {
    fn new() -> Self {
        let (upstream, at_upstream) = upstream();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keygate.toml");
        let config = format!(
            "listen = \"127.0.0.1:0\"\n[[upstreams]]\nname = \"up\"\nurl = \"http://{upstream}\"\nmodels = [\"good\"]\n"
        );
        std::fs::write(&path, config).unwrap();
        let config = parse::load(&path, &Overrides::default()).unwrap();
        let keys = folder.path().join("keys.jsonl");
        let hash = TokenHash::of(TOKEN.as_bytes());
        let key = format!(
            "{{\"id\":\"key_1\",\"name\":\"n\",\"hash\":\"{hash}\",\"model_access\":{{\"mode\":\"all\"}}}}\n"
        );
        std::fs::write(&keys, key).unwrap();
        let table = Arc::new(Table::default());
        let loaded = key_file::read(&keys, &table, NO_YIELD).unwrap();
        table.swap(loaded.entries, NO_YIELD);
        let metrics = Metrics::new().unwrap();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let (log, _writer) = Log::start(Form::Json, dropped).unwrap();
        let lifecycle = Lifecycle::default();
        let mut claimed = listen::claim(&config.listen).unwrap();
        let addresses = claimed.addresses();
        let address = addresses[0].to_string().parse().unwrap();
        let gateway = Gateway {
            table,
            fleet: Arc::new(Fleet::new(&config.upstreams, metrics.clone()).unwrap()),
            certificates: None,
            metrics: metrics.clone(),
            log,
            lifecycle: lifecycle.clone(),
            settings: Arc::new(Settings::from(&config)),
            connections: Arc::default(),
        };
        let listeners = claimed.open().unwrap();
        let worker = thread::spawn(move || run_worker(gateway, listeners));
        Self {
            address,
            metrics,
            lifecycle,
            at_upstream,
            worker: Some(worker),
            _folder: folder,
        }
    }

    /// Nothing that panicked is still held or counted, and the worker goes on.
    fn assert_sound(&self) {
        let quiet = || {
            let connections = self.metrics.connections().get();
            (self.metrics.in_flight(), connections) == (0, 0)
        };
        eventually("nothing is in flight", quiet);
        let mut client = self.connect();
        assert!(client.ask("/v1/models", "").starts_with("HTTP/1.1 200"));
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client(stream)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.lifecycle.advance(Phase::Ending);
        if let Some(worker) = self.worker.take() {
            let ended = worker.join();
            assert!(thread::panicking() || ended.is_ok_and(|ended| ended.is_ok()));
        }
    }
}

/// Answers each request with a stream that holds what the request holds, in its second piece; and counts who is there.
fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let there = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&there);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, there) = (stream.unwrap(), Arc::clone(&counted));
            there.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                let mut bytes = [0_u8; 4096];
                // Requests here are small, and come in one piece.
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..count]);
                    let body = text.split_once("\r\n\r\n").unwrap_or_default().1.to_owned();
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let _ = write!(stream, "{head}5\r\nfirst\r\n");
                    thread::sleep(Duration::from_millis(50));
                    let _ = write!(stream, "{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
                }
                there.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, there)
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, path: &str, word: &str) {
        let body = chat(word);
        let body = if path.starts_with("/v1/models") {
            String::new()
        } else {
            body
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let kind = "content-type: application/json";
        write!(
            self.0,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n{kind}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    }

    /// Reads until this is there, or the end.
    fn until(&mut self, end: &str) -> String {
        let (mut text, mut bytes) = (String::new(), [0_u8; 4096]);
        while !text.contains(end) {
            match self.0.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error} after {text}"),
            }
        }
        text
    }

    fn ask(&mut self, path: &str, word: &str) -> String {
        self.send(path, word);
        self.until("}")
    }
}

fn chat(word: &str) -> String {
    format!(r#"{{"model":"good","text":"{word}"}}"#)
}

fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_panic_in_one_request_is_a_500_for_that_one_alone() {
    let stand = Stand::new();
    let mut other = stand.connect();
    other.send("/v1/chat/completions", "other");
    assert!(other.until("first").starts_with("HTTP/1.1 200"));
    let mut client = stand.connect();
    for _ in 0..3 {
        let answer = client.ask(&format!("/v1/models?{PANIC}"), "");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains("\"code\":\"internal_error\""), "{answer}");
        // The same connection goes on.
        let answer = client.ask("/v1/models", "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let rest = other.until("0\r\n\r\n");
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_eq!(stand.metrics.outcomes().get("internal_error"), Some(&3));
    drop((client, other));
    stand.assert_sound();
}

#[test]
fn a_panic_in_the_middle_of_an_answer_cuts_that_one_and_frees_its_upstream() {
    let stand = Stand::new();
    let mut client = stand.connect();
    client.send("/v1/chat/completions", PANIC);
    let answer = client.until("0\r\n\r\n");
    assert!(answer.contains("first"), "{answer}");
    assert!(!answer.contains("0\r\n\r\n"), "a clean end: {answer}");
    drop(client);
    stand.assert_sound();
    let freed = || stand.at_upstream.load(Ordering::SeqCst) == 0;
    eventually("its upstream is freed", freed);
}

#[test]
fn a_panic_in_one_http_2_stream_leaves_the_others_of_its_connection_alone() {
    let stand = Stand::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = async {
        let stream = tokio::net::TcpStream::connect(stand.address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let ask = |query: &str, word: &str| {
            let mut sender = sender.clone();
            let request =
                http::Request::post(format!("http://localhost/v1/chat/completions?{query}"))
                    .header("authorization", format!("Bearer {TOKEN}"))
                    .header("content-type", "application/json")
                    .body(Full::new(bytes::Bytes::from(chat(word))))
                    .unwrap();
            async move {
                let response = sender.send_request(request).await.unwrap();
                let status = response.status().as_u16();
                let body = response.into_body().collect().await;
                (status, body.ok().map(|body| body.to_bytes()))
            }
        };
        tokio::join!(
            ask("", "other"),
            ask(PANIC, ""),
            ask("", PANIC),
            ask("", "more")
        )
    };
    let asked = async { tokio::time::timeout(DEADLINE, asked).await.unwrap() };
    let (other, in_head, in_body, more) = runtime.block_on(asked);
    assert_eq!(other.0, 200);
    assert!(other.1.is_some_and(|body| body.ends_with(b"}")));
    assert_eq!(in_head.0, 500);
    assert_eq!((in_body.0, in_body.1), (200, None), "cut");
    assert_eq!(more.0, 200);
    assert!(more.1.is_some_and(|body| body.ends_with(b"}")));
    drop(runtime);
    stand.assert_sound();
}
