//! The running gateway as a parser: what reaches its upstream is what it read, and what it answers itself it has taken
//! or refused.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::grammar::Credentials;
use crate::outcome::{Outcome, Parser};
use crate::wire::{Address, Exchange, Upstream, exchange};

/// How long the gateway gets to end a connection by itself before it counts as waiting for more.
const PATIENCE: Duration = Duration::from_millis(300);

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token whose checksum is right. It protects nothing but this run.
fn token() -> String {
    let start = format!("kg_{}", "D".repeat(43));
    let mut crc = crc32fast::hash(start.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(crc % 62) as usize];
        crc /= 62;
    }
    format!("{start}{}", String::from_utf8_lossy(&digits))
}

/// A running gateway, killed when dropped.
pub struct Gateway {
    process: Child,
    _folder: TempDir,
}

impl Gateway {
    /// Starts it with so many lanes: models, each with an upstream of its own.
    pub fn start(lanes: usize) -> (Self, Vec<GatewayLane>) {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = port.local_addr().expect("bound");
        drop(port);
        let token = token();
        let hash = blake3::hash(token.as_bytes()).to_hex();
        let mut config = format!(
            "listen = \"{address}\"\n[keys]\nfile = \"keys.jsonl\"\n[admin]\nsocket = \"keygate.sock\"\n"
        );
        let mut upstreams = Vec::new();
        for lane in 0..lanes {
            let (upstream, at) = Upstream::on_a_port();
            upstreams.push(upstream);
            let _ = write!(
                config,
                "[[upstreams]]\nname = \"lane{lane}\"\nurl = \"http://{at}\"\nmodels = [\"model{lane}\"]\n"
            );
        }
        let key = format!(
            "{{\"id\":\"key\",\"name\":\"key\",\"hash\":\"blake3:{hash}\",\"model_access\":{{\"mode\":\"all\"}}}}\n"
        );
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("keygate.toml"), config).expect("the config is written");
        std::fs::write(path("keys.jsonl"), key).expect("the keys are written");
        let log = std::fs::File::create(path("log")).expect("a file");
        let binary = std::env::var("KEYGATE_BIN")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_keygate").to_owned());
        let process = Command::new(binary)
            .args(["serve", "--config"])
            .arg(path("keygate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("keygate is started");
        let mut gateway = Self {
            process,
            _folder: folder,
        };
        let lanes: Vec<GatewayLane> = upstreams
            .into_iter()
            .enumerate()
            .map(|(lane, upstream)| GatewayLane {
                address: Address::Tcp(address),
                upstream: RefCell::new(upstream),
                credentials: Credentials {
                    token: token.clone(),
                    model: format!("model{lane}"),
                },
            })
            .collect();
        gateway.wait_for(&lanes);
        (gateway, lanes)
    }

    /// Waits until every lane forwards.
    fn wait_for(&mut self, lanes: &[GatewayLane]) {
        let deadline = Instant::now() + Duration::from_secs(15);
        for lane in lanes {
            loop {
                if lane.address.connect().is_ok() {
                    let body = format!("{{\"model\":\"{}\"}}", lane.credentials.model);
                    let request = format!(
                        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        lane.credentials.token,
                        body.len()
                    );
                    if matches!(
                        lane.parse(request.as_bytes()).as_slice(),
                        [Outcome::Request(_)]
                    ) {
                        break;
                    }
                }
                let ended = self.process.try_wait().expect("a child");
                assert!(
                    ended.is_none() && Instant::now() < deadline,
                    "keygate doesn't forward ({ended:?}): {}",
                    std::fs::read_to_string(self._folder.path().join("log")).unwrap_or_default()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One model of the gateway and the upstream behind it. Cases go through it one after another.
pub struct GatewayLane {
    address: Address,
    upstream: RefCell<Upstream>,
    /// What the gateway forwards to this lane's upstream.
    pub credentials: Credentials,
}

impl Parser for GatewayLane {
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome> {
        let exchange = exchange(
            &self.address,
            &mut self.upstream.borrow_mut(),
            bytes,
            PATIENCE,
            usize::MAX,
        );
        outcomes(exchange)
    }
}

/// The codes of errors that say that the bytes are no HTTP, or that the request didn't come whole.
const REFUSALS: [&str; 2] = ["invalid_request", "request_timeout"];

fn outcomes(exchange: Exchange) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut requests = exchange.requests.into_iter();
    let texts = answer_texts(&exchange.answered);
    let mut is_refused = false;
    for ((status, recorded), text) in exchange.answers.iter().zip(texts) {
        if *recorded {
            outcomes.extend(requests.next().map(Outcome::Request));
        } else if let Some(code) = refusal(&text) {
            outcomes.push(Outcome::Refused(format!("{status} {code}")));
            is_refused = true;
        } else {
            outcomes.push(Outcome::Answered(*status));
        }
    }
    // Forwarded, and the answer didn't reach the client any more.
    outcomes.extend(requests.map(Outcome::Request));
    if !exchange.ended_first && !is_refused {
        outcomes.push(Outcome::Incomplete);
    }
    outcomes
}

/// The final answers, each with its head and body.
fn answer_texts(bytes: &[u8]) -> Vec<String> {
    let starts: Vec<usize> = memchr::memmem::find_iter(bytes, b"HTTP/1.").collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| String::from_utf8_lossy(&bytes[*start..end]).into_owned())
        .filter(|text| !text.starts_with("HTTP/1.1 1"))
        .collect()
}

/// The code of an answer that refuses the bytes themselves; "bare" where the answer has no body.
fn refusal(answer: &str) -> Option<String> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let Ok(body) = serde_json::from_str::<Value>(body) else {
        return body.is_empty().then(|| "bare".to_owned());
    };
    let code = body["error"]["code"].as_str()?;
    REFUSALS.contains(&code).then(|| code.to_owned())
}
