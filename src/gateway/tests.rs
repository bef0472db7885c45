//! Panics, which no request from outside can cause: an exchange of the tests' own has them, and everything behind it is
//! real: the table, the judgement, and an upstream on a socket.

use std::cell::RefCell;
use std::io;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;
use prometheus::IntCounter;
use tempfile::TempDir;
use tokio::task::LocalSet;

use crate::alerts::Alerts;
use crate::gateway::client_source::ClientSource;
use crate::gateway::exchange::{BodyLength, BodyPart, Exchange};
use crate::gateway::keyless::KeylessConnections;
use crate::gateway::request::{self, Origin};
use crate::gateway::worker::{Gateway, Settings, Worker};
use crate::http::buffer::BodyBuffer;
use crate::http::fields::Fields;
use crate::http::head::{HeadScan, RequestHead};
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::policy::token::TokenHash;
use crate::request_body::collect::{BodyReadError, BodySource};
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::timers::TimerEntry;
use crate::store::config::LogFormat;
use crate::store::config::parse::{self, Overrides};
use crate::store::key_file;
use crate::table::{NO_YIELD, Table};
use crate::upstream::Fleet;

const TOKEN: &str = "sk-test";
const DEADLINE: Duration = Duration::from_secs(15);

/// Where an exchange panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PanicAt {
    Nowhere,
    Body,
    Begin,
    /// When the second part of the response is sent.
    SecondPart,
}

/// An exchange that keeps what it is given, and panics where it is told.
struct FakeExchange {
    head: RequestHead,
    body: Option<Vec<u8>>,
    panic_at: PanicAt,
    entry: Rc<TimerEntry>,
    status: Option<StatusCode>,
    parts: usize,
    response: Vec<u8>,
    is_complete: bool,
    is_aborted: bool,
}

impl FakeExchange {
    fn new(worker: &Worker, body: &str, panic_at: PanicAt) -> Self {
        let text = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut head = RequestHead::default();
        let parsed = head.parse(text.as_bytes(), 64 << 10, &mut HeadScan::default());
        assert_eq!(parsed, Ok(Some(text.len())));
        Self {
            head,
            body: Some(body.into()),
            panic_at,
            entry: worker.timer.entry(),
            status: None,
            parts: 0,
            response: Vec::new(),
            is_complete: false,
            is_aborted: false,
        }
    }

    fn panic_if(&self, at: PanicAt) {
        assert!(self.panic_at != at, "a test asked for this");
    }
}

impl BodySource for FakeExchange {
    fn declared_length(&self) -> Option<u64> {
        None
    }

    fn poll_body(
        &mut self,
        _: &mut Context<'_>,
        into: &mut BodyBuffer,
    ) -> Poll<Result<usize, BodyReadError>> {
        self.panic_if(PanicAt::Body);
        let body = self.body.take().unwrap_or_default();
        into.append(&body);
        Poll::Ready(Ok(body.len()))
    }
}

impl Exchange for FakeExchange {
    fn authenticated(&self) {}

    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn release_head(&mut self) {}

    fn timer_entry(&self) -> &Rc<TimerEntry> {
        &self.entry
    }

    fn close_after(&mut self) {}

    fn begin(&mut self, status: StatusCode, _: &Fields, _: BodyLength) {
        if status == StatusCode::OK {
            self.panic_if(PanicAt::Begin);
        }
        self.status = Some(status);
    }

    fn has_begun(&self) -> bool {
        self.status.is_some()
    }

    fn poll_send(&mut self, _: &mut Context<'_>, part: BodyPart<'_>) -> Poll<io::Result<()>> {
        self.parts += usize::from(!part.bytes().is_empty());
        if self.parts == 2 {
            self.panic_if(PanicAt::SecondPart);
        }
        self.response.extend_from_slice(part.bytes());
        self.is_complete |= part.is_last();
        Poll::Ready(Ok(()))
    }

    fn sent(&self) -> u64 {
        self.response.len() as u64
    }

    fn poll_flushed(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_closed(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn abort(&mut self) {
        self.is_aborted = true;
    }
}

/// A worker, and what is counted of it.
struct Stand {
    worker: Rc<Worker>,
    metrics: Metrics,
    /// Connections that the upstream has open.
    at_upstream: Arc<AtomicUsize>,
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
        let (log, _writer) = Log::start(LogFormat::Json, dropped).unwrap();
        let alerts = Alerts::new(None, None, String::new(), metrics.clone(), log.clone());
        let gateway = Gateway {
            alerts,
            table,
            fleet: Arc::new(Fleet::new(&config.upstreams, metrics.clone()).unwrap()),
            certificates: None,
            metrics: metrics.clone(),
            log,
            database: None,
            shared_limits: None,
            prices: Arc::default(),
            lifecycle: Lifecycle::default(),
            settings: Arc::new(Settings::from(&config)),
            connections: Arc::default(),
            keyless: KeylessConnections::default(),
        };
        Self {
            worker: Worker::new(gateway).unwrap(),
            metrics,
            at_upstream,
            _folder: folder,
        }
    }

    /// Handles requests at the same time, as connections of one worker do.
    async fn handle<const N: usize>(&self, panics: [PanicAt; N]) -> [FakeExchange; N] {
        let body = r#"{"model":"good"}"#;
        let tasks = panics.map(|panic_at| {
            let worker = Rc::clone(&self.worker);
            let mut exchange = FakeExchange::new(&worker, body, panic_at);
            tokio::task::spawn_local(async move {
                let source = ClientSource {
                    address: Some([127, 0, 0, 1].into()),
                    identity: None,
                };
                let origin = Origin {
                    source,
                    scheme: "http",
                };
                request::handle(&worker, origin, &mut exchange).await;
                exchange
            })
        });
        let done = RefCell::new(Vec::new());
        for task in tasks {
            let exchange = tokio::time::timeout(DEADLINE, task).await.unwrap();
            done.borrow_mut().push(exchange.unwrap());
        }
        done.into_inner().try_into().ok().unwrap()
    }
}

fn run(test: impl AsyncFnOnce(Stand)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async { test(Stand::new()).await });
}

/// Answers each request with a stream of two pieces, and counts who is there.
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
                while let Ok(1..) = stream.read(&mut bytes) {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let _ = write!(stream, "{head}5\r\nfirst\r\n");
                    thread::sleep(Duration::from_millis(50));
                    let _ = write!(stream, "6\r\nsecond\r\n0\r\n\r\n");
                }
                there.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, there)
}

async fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn assert_whole(exchange: &FakeExchange) {
    assert_eq!(exchange.status, Some(StatusCode::OK));
    assert_eq!(exchange.response, b"firstsecond");
    assert!(exchange.is_complete && !exchange.is_aborted);
}

#[test]
fn a_panic_before_the_response_is_a_500_for_that_request_alone() {
    run(async |stand: Stand| {
        let at = [
            PanicAt::Nowhere,
            PanicAt::Body,
            PanicAt::Begin,
            PanicAt::Nowhere,
        ];
        let [first, body, begin, last] = stand.handle(at).await;
        for panicked in [body, begin] {
            assert_eq!(panicked.status, Some(StatusCode::INTERNAL_SERVER_ERROR));
            let text = String::from_utf8(panicked.response).unwrap();
            assert!(text.contains("\"code\":\"internal_error\""), "{text}");
            assert!(panicked.is_complete && !panicked.is_aborted);
        }
        assert_whole(&first);
        assert_whole(&last);
        assert_eq!(stand.metrics.outcomes().get("internal_error"), Some(&2));
        assert_eq!(stand.metrics.in_flight(), 0);
    });
}

#[test]
fn a_panic_in_the_middle_of_a_response_breaks_that_one_off_and_frees_its_upstream() {
    run(async |stand: Stand| {
        let [panicked, other] = stand.handle([PanicAt::SecondPart, PanicAt::Nowhere]).await;
        assert_eq!(panicked.response, b"first");
        assert!(panicked.is_aborted && !panicked.is_complete);
        assert_whole(&other);
        assert_eq!(stand.metrics.in_flight(), 0);
        // What is kept for later is closed by and by.
        let worker = Rc::clone(&stand.worker);
        let freed = || {
            worker.timer.tick(0, 0);
            worker.pool.close_idle();
            stand.at_upstream.load(Ordering::SeqCst) == 0
        };
        eventually("its upstream is freed", freed).await;
        let [again] = stand.handle([PanicAt::Nowhere]).await;
        assert_whole(&again);
    });
}
