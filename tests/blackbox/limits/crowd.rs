//! Ten thousand requests of one key at once, which end in every way there is: never more at the upstream than the key may
//! have running, no place lost when all is quiet, and the database has what the upstream counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::h2::runtime;
use crate::support::process::take_descriptors;
use crate::support::token::Key;
use crate::support::usage::rows;
use crate::support::{DEADLINE, eventually};

const REQUESTS: usize = 10_000;
const RUNNING: usize = 100;
/// Tokens that each whole answer says it used.
const TOKENS: usize = 7;

#[derive(Default)]
struct Counts {
    running: AtomicUsize,
    most: AtomicUsize,
    whole: AtomicUsize,
}

/// An upstream that answers whole, or breaks off before its head or behind it, in turn.
fn upstream(counts: Arc<Counts>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("an address");
    runtime().spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            number += 1;
            let counts = Arc::clone(&counts);
            tokio::spawn(async move {
                // Whichever way the other side leaves is fine here.
                let _ = serve(stream, number, &counts).await;
            });
        }
    });
    address
}

async fn serve(mut stream: TcpStream, number: usize, counts: &Counts) -> std::io::Result<()> {
    let mut bytes = [0_u8; 4096];
    for turn in number.. {
        // A request here is small, and comes in one piece.
        if stream.read(&mut bytes).await? == 0 {
            return Ok(());
        }
        let now = counts.running.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most.fetch_max(now, Ordering::SeqCst);
        // Where the gateway leaves, it has released the upstream.
        let left = tokio::select! {
            biased;
            read = stream.read(&mut bytes) => Some(read),
            () = tokio::time::sleep(Duration::from_millis(5)) => None,
        };
        // From here on another may take its place.
        counts.running.fetch_sub(1, Ordering::SeqCst);
        if left.is_some() {
            return Ok(());
        }
        let body = format!(r#"{{"usage":{{"prompt_tokens":{TOKENS},"completion_tokens":0}}}}"#);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        match turn % 7 {
            0 => return Ok(()),
            1 => {
                stream.write_all(head.as_bytes()).await?;
                return Ok(());
            }
            _ => {
                counts.whole.fetch_add(1, Ordering::SeqCst);
                stream.write_all(format!("{head}{body}").as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// One request: its status; 0 where this client left before it was answered.
async fn ask(number: usize, gateway: SocketAddr, request: Arc<Vec<u8>>) -> std::io::Result<usize> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(number % 8).unwrap_or(0) + 1;
    socket.bind(SocketAddr::from(([127, 0, 3, last], 0)))?;
    let mut stream = socket.connect(gateway).await?;
    stream.write_all(&request).await?;
    if number.is_multiple_of(5) {
        tokio::time::sleep(Duration::from_millis(number as u64 % 11)).await;
        return Ok(0);
    }
    let mut head = [0_u8; 12];
    stream.read_exact(&mut head).await?;
    let status = std::str::from_utf8(&head[9..]).unwrap_or_default();
    Ok(status.parse().unwrap_or(0))
}

#[test]
fn ten_thousand_requests_at_once_never_have_more_running_than_the_limit_and_leave_nothing() {
    take_descriptors();
    let counts = Arc::new(Counts::default());
    let address = upstream(Arc::clone(&counts));
    let key = Key::all("key_crowd")
        .with("limits", json!({"concurrent_requests": RUNNING}))
        .with(
            "budgets",
            json!([{"unit": "tokens", "amount": 1_000_000_000, "per": "total"}]),
        );
    let gateway = Setup::new()
        .upstream("up", &[&format!("http://{address}")], &["good"])
        .keys(&[&key])
        .start();
    let request = Arc::new(Call::chat(&key.token, "good").bytes());
    let at = gateway.address;
    let statuses = runtime().block_on(async move {
        let asking =
            (0..REQUESTS).map(|number| tokio::spawn(ask(number, at, Arc::clone(&request))));
        let mut statuses = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            statuses.push(asked.await.expect("a task").unwrap_or(0));
        }
        statuses
    });
    for status in &statuses {
        assert!([0, 200, 429, 502].contains(status), "{status}");
    }
    for wanted in [200, 429, 502] {
        assert!(statuses.contains(&wanted), "no request was {wanted}");
    }
    let most = counts.most.load(Ordering::SeqCst);
    assert!(most <= RUNNING, "{most} at the upstream");
    let own = || gateway.ask(&Call::get("/v1/key", &key.token)).json();
    eventually("all places are free", DEADLINE, || {
        (own()["limits"][0]["remaining"] == json!(RUNNING)).then_some(())
    });
    // The upstream counts an answer before it is sent, and a client may leave before it comes.
    let whole = counts.whole.load(Ordering::SeqCst);
    let summed = eventually("all records are written", DEADLINE, || {
        let sums = rows(
            &gateway,
            "SELECT SUM(input_tokens) AS tokens, COUNT(*) AS all_of_them FROM usage_records",
        )?;
        let sum = usize::try_from(sums[0]["tokens"].as_u64()?).ok()?;
        let used = own()["budgets"][0]["used"].as_u64()?;
        // What was never known keeps its reservation.
        (used >= sum as u64).then_some(sum)
    });
    assert!(
        summed <= whole * TOKENS && summed % TOKENS == 0,
        "{summed} of {whole} answers"
    );
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        answered > 0 && summed > 0,
        "{answered} answers, {summed} tokens"
    );
}
