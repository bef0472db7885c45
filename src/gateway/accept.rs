//! Workers: each one thread with a single-threaded runtime, its own listeners and its own upstream connections, so
//! that a request stays on one core from accept to last byte. Here connections are accepted, and it is found out who is
//! at their other end and what is spoken: from then on they live in [`crate::gateway::http1`] or
//! [`crate::gateway::http2`].

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::gateway::client_source;
use crate::gateway::error_response::ErrorFormat;
use crate::gateway::http1;
use crate::gateway::http2;
use crate::gateway::keyless::KeylessSlot;
use crate::gateway::refusal::Refusal;
use crate::gateway::request::Origin;
use crate::gateway::worker::{Gateway, Worker};
use crate::http::buffer::ReadBuffer;
use crate::net::listen::Listeners;
use crate::net::tls::Certificates;
use crate::net::transport::Transport;
use crate::observe::log::Event;
use crate::policy::route::ApiStyle;
use crate::runtime::lifecycle::Phase;
use crate::runtime::timers::{TICK, TimerEntry};
use crate::runtime::wall_clock;

/// How long accepting rests where it fails, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a failure that goes on is told.
const ACCEPT_TOLD: Duration = Duration::from_secs(10);

/// A worker's whole life: serves until the process drains, and returns once its last connection is done.
///
/// # Errors
/// Where the runtime or a listener cannot be set up.
pub(crate) fn run_worker(gateway: Gateway, listeners: Listeners) -> io::Result<()> {
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
            Poll::Ready(accepted.map(|(socket, peer)| (Transport::Tcp(socket), Some(peer.ip()))))
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
            Poll::Ready(accepted.map(|(socket, _)| (Transport::Unix(socket), None)))
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
    worker.timer.close();
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
            .timer
            .tick(wall_clock::now().seconds(), worker.table.generation());
        worker.pool.close_idle();
        worker.log.tell_left_out();
    }
}

/// Accepts until the process drains, and then what had connected before that. Nothing here waits for a peer.
async fn accept_all<A>(worker: Rc<Worker>, mut accept: A)
where
    A: FnMut(&mut Context<'_>) -> Poll<io::Result<(Transport, Option<IpAddr>)>>,
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
            Ok((transport, peer)) => begin(&worker, transport, peer),
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
fn begin(worker: &Rc<Worker>, transport: Transport, peer: Option<IpAddr>) {
    let open = worker.opened();
    if worker.is_crowded() && !worker.keyless.close_oldest() {
        turn_away(worker, &transport);
        return;
    }
    let slot = worker.keyless.slot();
    // Each stretch of a connection's life is boxed, so that while it is idle it keeps no room for what it was or could
    // have been.
    let opening = Box::pin(open_connection(
        Rc::clone(worker),
        transport,
        peer,
        Rc::clone(&slot),
    ));
    let task = tokio::task::spawn_local(async move {
        // A peer that never sent a request is not worth a log line.
        if let Ok(opened) = opening.await {
            match opened.protocol {
                Protocol::Http1 => opened.into_http1().serve().await,
                Protocol::Http2 => Box::pin(opened.into_http2().serve()).await,
            }
        }
        drop(open);
    });
    slot.set_task(task.abort_handle());
}

/// A connection of which everything is known that a request has to know.
struct Opened {
    worker: Rc<Worker>,
    origin: Origin,
    transport: Transport,
    protocol: Protocol,
    read: ReadBuffer,
    entry: Rc<TimerEntry>,
    slot: Rc<KeylessSlot>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Opened {
    fn into_http1(self) -> http1::Http1Connection {
        http1::Http1Connection::new(
            self.worker,
            self.origin,
            self.transport,
            self.read,
            self.entry,
            self.slot,
        )
    }

    fn into_http2(self) -> http2::Http2Connection {
        http2::Http2Connection::new(
            self.worker,
            self.origin,
            self.transport,
            self.read,
            self.entry,
            self.slot,
        )
    }
}

/// Finds out who is at the other end, and what is spoken.
async fn open_connection(
    worker: Rc<Worker>,
    mut transport: Transport,
    peer: Option<IpAddr>,
    slot: Rc<KeylessSlot>,
) -> io::Result<Opened> {
    let source = client_source::source_of(&worker, &mut transport, peer).await?;
    let mut transport = match (transport, &worker.certificates) {
        (Transport::Tcp(socket), Some(certificates)) => {
            let stream = shake_hands(&worker, socket, certificates).await?;
            Transport::Tls(Box::new(stream.into()))
        }
        (plain, _) => plain,
    };
    let mut read = ReadBuffer::new(&worker.buffers);
    let entry = worker.timer.entry();
    let (scheme, protocol) = match transport.agreed_on_http2() {
        Some(true) => ("https", Protocol::Http2),
        Some(false) => ("https", Protocol::Http1),
        None => (
            "http",
            spoken(&worker, &mut transport, &mut read, &entry).await?,
        ),
    };
    Ok(Opened {
        worker,
        origin: Origin { source, scheme },
        transport,
        protocol,
        read,
        entry,
        slot,
    })
}

async fn shake_hands(
    worker: &Worker,
    socket: TcpStream,
    certificates: &Certificates,
) -> io::Result<TlsStream<TcpStream>> {
    let accepting = certificates.acceptor().accept(socket);
    tokio::select! {
        accepted = timeout(worker.settings.timeouts.tls_handshake, accepting) => accepted?,
        () = worker.lifecycle.reached(Phase::Draining) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// What every HTTP/2 connection begins with (RFC 9113 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a plain connection speaks: HTTP/2 by prior knowledge (RFC 9113 3.3) where it begins with its preface.
async fn spoken(
    worker: &Worker,
    transport: &mut Transport,
    read: &mut ReadBuffer,
    entry: &TimerEntry,
) -> io::Result<Protocol> {
    let timer = &worker.timer;
    entry.set_deadline(timer.now() + worker.settings.timeouts.header_read);
    poll_fn(|cx| {
        loop {
            let unread = read.unread();
            if unread.starts_with(HTTP2_PREFACE) {
                return Poll::Ready(Ok(Protocol::Http2));
            }
            if !HTTP2_PREFACE.starts_with(unread) {
                return Poll::Ready(Ok(Protocol::Http1));
            }
            match read.poll_fill(transport, cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if entry.is_late(timer.now()) || timer.is_closing() => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => {
                    entry.register(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Says that there is no room, as far as that takes no waiting. A TLS client only sees the connection close.
fn turn_away(worker: &Worker, transport: &Transport) {
    let id = worker.new_request_id();
    // No path is known yet, so no API either.
    let format = ErrorFormat {
        style: ApiStyle::OpenAi,
        request_id: id.as_str(),
    };
    let body = format.body(&Refusal::Overloaded);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\nx-request-id: {}\r\n\
         cache-control: no-store\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        id.as_str(),
        body.len()
    );
    let answer = [head.as_bytes(), &body].concat();
    // The client may be gone already, and is told nothing then.
    let _ = match transport {
        Transport::Tcp(socket) if worker.certificates.is_none() => socket.try_write(&answer),
        Transport::Unix(socket) => socket.try_write(&answer),
        Transport::Tcp(_) | Transport::Tls(_) => Ok(0),
    };
}
