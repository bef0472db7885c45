//! Workers: each one thread with a single-threaded runtime, its own listeners and its own upstream connections, so
//! that a request stays on one core from accept to last byte. Here connections are accepted; how one lives is
//! [`super::connection`].

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::LocalOptions;

use crate::gateway::reply::Refusal;
use crate::http::io::Stream;
use crate::observe::log::Event;
use crate::runtime::clock::TICK;
use crate::runtime::lifecycle::Phase;
use crate::runtime::wall_clock;

use super::connection;
use super::worker::{Gateway, Worker};
use crate::net::listen::Listeners;

/// How long accepting rests where it fails, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a failure that goes on is told.
const ACCEPT_TOLD: Duration = Duration::from_secs(10);

/// A worker's whole life: serves until the process drains, and returns once its last connection is done.
///
/// # Errors
/// Where the runtime or a listener cannot be set up.
pub fn run_worker(gateway: Gateway, listeners: Listeners) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    let lifecycle = gateway.lifecycle.clone();
    let life = async {
        tokio::select! {
            done = live(gateway, listeners) => done,
            () = lifecycle.reached(Phase::Ending) => Ok(()),
        }
    };
    runtime.block_on(life)
}

async fn live(gateway: Gateway, listeners: Listeners) -> io::Result<()> {
    let worker = Worker::new(gateway)?;
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    let mut accepting = Vec::new();
    for listener in listeners.tcp {
        let listener = TcpListener::from_std(listener)?;
        let accept = move |cx: &mut Context<'_>| {
            let accepted = ready!(listener.poll_accept(cx));
            Poll::Ready(accepted.map(|(socket, peer)| (Stream::Tcp(socket), Some(peer.ip()))))
        };
        accepting.push(tokio::task::spawn_local(accept_all(
            Rc::clone(&worker),
            accept,
        )));
    }
    for listener in listeners.unix {
        let listener = UnixListener::from_std(listener)?;
        let accept = move |cx: &mut Context<'_>| {
            let accepted = ready!(listener.poll_accept(cx));
            Poll::Ready(accepted.map(|(socket, _)| (Stream::Unix(socket), None)))
        };
        accepting.push(tokio::task::spawn_local(accept_all(
            Rc::clone(&worker),
            accept,
        )));
    }
    for accept in accepting {
        // A task that panicked has no listener left to wait for.
        let _ = accept.await;
    }
    worker.clock.close();
    worker.all_closed().await;
    Ok(())
}

/// Looks at every deadline, and closes upstream connections that were idle for too long.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker
            .clock
            .tick(wall_clock::now().seconds(), worker.table.generation());
        worker.pool.tidy();
        worker.log.tell_left_out();
    }
}

/// Accepts until the process drains, and then what had connected before that. Nothing here waits for a peer.
async fn accept_all<A>(worker: Rc<Worker>, mut accept: A)
where
    A: FnMut(&mut Context<'_>) -> Poll<io::Result<(Stream, Option<IpAddr>)>>,
{
    let mut told: Option<Instant> = None;
    let mut draining = pin!(worker.lifecycle.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(&mut accept) => accepted,
            () = &mut draining => return,
        };
        match accepted {
            Ok((stream, peer)) => begin(&worker, stream, peer),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= ACCEPT_TOLD) {
                    told = Some(Instant::now());
                    let event = Event::error("accept_failed").with("reason", error.to_string());
                    worker.log.event(event);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts a connection's task, where there is room for one more.
fn begin(worker: &Rc<Worker>, stream: Stream, peer: Option<IpAddr>) {
    let open = worker.opened();
    if worker.is_crowded() {
        turn_away(worker, &stream);
        return;
    }
    let serving = connection::serve(Rc::clone(worker), stream, peer);
    tokio::task::spawn_local(async move {
        // How a connection ended is told by its requests' lines; a peer that never sent one is not worth one.
        let _ = serving.await;
        drop(open);
    });
}

/// Says that there is no room, as far as that takes no waiting. A TLS client only sees the connection close.
fn turn_away(worker: &Worker, stream: &Stream) {
    let body = Refusal::Overloaded.body();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\nx-request-id: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        worker.new_request_id().as_str(),
        body.len()
    );
    let answer = [head.as_bytes(), &body].concat();
    // The client may be gone already, and is told nothing then.
    let _ = match stream {
        Stream::Tcp(socket) if worker.certificates.is_none() => socket.try_write(&answer),
        Stream::Unix(socket) => socket.try_write(&answer),
        Stream::Tcp(_) | Stream::Tls(_) => Ok(0),
    };
}
