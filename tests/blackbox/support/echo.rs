//! An upstream for many thousand requests: it answers each with the nonce in its body, whole or as a stream, remembers
//! how often it answered which, and can close idle connections as servers do. It keeps no bytes, unlike the recorder.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::client::{chunk, find};
use super::h2::runtime;
use super::lock;

/// How often a stream repeats its nonce.
pub const PIECES: usize = 4;

/// What an answer to this nonce holds, whole or streamed.
pub fn answer(nonce: usize) -> String {
    piece(nonce).repeat(PIECES)
}

fn piece(nonce: usize) -> String {
    format!("data: n{nonce}.\n\n")
}

/// The upstream; it ends with its test's process.
pub struct Echo {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// How long a connection may be idle, where that is bounded.
    idle: Option<Duration>,
    answered: Mutex<HashMap<usize, u32>>,
    open: AtomicUsize,
    /// Requests that arrived on a connection whose end had been sent already.
    too_late: AtomicUsize,
}

impl Echo {
    pub fn start(idle: Option<Duration>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("non-blocking");
        let shared = Arc::new(Shared {
            idle,
            answered: Mutex::default(),
            open: AtomicUsize::new(0),
            too_late: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::Relaxed);
                    let _ = serve(&shared, stream).await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Requests that came when the connection's end was on its way.
    pub fn too_late(&self) -> usize {
        self.shared.too_late.load(Ordering::Relaxed)
    }

    /// How many nonces were answered, and those that were answered more than once.
    pub fn answered(&self) -> (usize, Vec<usize>) {
        let answered = lock(&self.shared.answered);
        let often = answered.iter().filter(|(_, times)| **times > 1);
        (answered.len(), often.map(|(nonce, _)| *nonce).collect())
    }
}

/// One request after the other, until the gateway leaves or the connection was idle for too long.
async fn serve(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut inbox = Vec::new();
    // As servers do: only a connection that has served counts as idle, and none in the middle of a request.
    let mut idle = None;
    loop {
        if let Some(idle) = idle {
            let arrived = timeout(idle, stream.readable());
            if inbox.is_empty() && arrived.await.is_err() {
                return close(shared, stream).await;
            }
        }
        let body = request(&mut stream, &mut inbox).await?;
        idle = shared.idle;
        let Some(body) = body else { return Ok(()) };
        let asked: serde_json::Value = serde_json::from_slice(&body).expect("a whole JSON body");
        let nonce = asked["nonce"]
            .as_u64()
            .and_then(|nonce| usize::try_from(nonce).ok());
        let nonce = nonce.expect("a nonce");
        *lock(&shared.answered).entry(nonce).or_default() += 1;
        let pause = Duration::from_millis(asked["pause"].as_u64().unwrap_or(0));
        if asked["stream"] == true {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            for _ in 0..PIECES {
                stream.write_all(&chunk(piece(nonce).as_bytes())).await?;
                sleep(pause).await;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        } else {
            sleep(pause).await;
            let body = answer(nonce);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await?;
        }
    }
}

/// The next request's body; None where the gateway has left.
async fn request(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(head) = find(inbox, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&inbox[..head]).to_lowercase();
            let length = text.split("content-length: ").nth(1).expect("a length");
            let digits = length.split("\r\n").next().unwrap_or_default();
            let end = head + 4 + digits.parse::<usize>().expect("a length in digits");
            if inbox.len() >= end {
                let body = inbox[head + 4..end].to_vec();
                inbox.drain(..end);
                return Ok(Some(body));
            }
        }
        if stream.read_buf(inbox).await? == 0 {
            return Ok(None);
        }
    }
}

/// Ends an idle connection: says so first, and looks whether a request was on its way, which nobody answers.
async fn close(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut late = Vec::new();
    // The gateway closes in turn; what it sent before it knew comes first.
    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut late)).await;
    if !late.is_empty() {
        shared.too_late.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
