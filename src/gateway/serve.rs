//! Workers: each one thread with a single-threaded runtime, its own listeners and its own upstream connections, so
//! that a request stays on one core from accept to last byte. Here connections begin and end; what happens in between
//! is [`super::request`].

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::time::timeout;

use crate::http::clock::TICK;
use crate::http::io::{ClientIo, Line, Opening, Stream};
use crate::http::lifecycle::Phase;
use crate::http::reply::Refusal;
use crate::http::tls::Certificates;
use crate::observe::log::Event;
use crate::store::wall_clock;

use super::listen::Listeners;
use super::proxied;
use super::request::{self, Origin};
use super::stall::end_when_stalled;
use super::stream::ReplyBody;
use super::worker::{Gateway, Worker};

/// How long accepting rests where it fails, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a failure that goes on is told.
const ACCEPT_TOLD: Duration = Duration::from_secs(10);
/// Requests that one HTTP/2 connection may have open at once.
const HTTP2_STREAMS: u32 = 250;
/// What an HTTP/2 client may send ahead, of one request's body and of all its requests'.
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
const HTTP2_WINDOW: u32 = 1 << 20;
/// What of one answer may wait for an HTTP/2 client to read it; the upstream waits with the rest.
const HTTP2_SEND_BUFFER: usize = 64 << 10;
/// Streams of one HTTP/2 connection that may fail for reasons of its own before it is closed.
const HTTP2_LOCAL_RESETS: usize = 1024;

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
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(&mut accept) => accepted,
            () = worker.lifecycle.reached(Phase::Draining) => return,
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
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        // How a connection ended is told by its requests' lines; a peer that never sent one is not worth one.
        let _ = serve_connection(&worker, stream, peer).await;
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

async fn serve_connection(
    worker: &Rc<Worker>,
    mut stream: Stream,
    peer: Option<IpAddr>,
) -> io::Result<()> {
    let source = proxied::source_of(worker, &mut stream, peer).await?;
    let (stream, opening) = match (stream, &worker.certificates) {
        (Stream::Tcp(socket), Some(certificates)) => {
            // Boxed, as are the connections below: an idle one keeps no room for what it was or could have been.
            let stream = Box::pin(shake_hands(worker, socket, certificates)).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (
                Stream::Tls(Box::new(stream)),
                Some(if is_http2 {
                    Opening::Http2
                } else {
                    Opening::Http1
                }),
            )
        }
        (stream, _) => (stream, None),
    };
    let scheme = if matches!(stream, Stream::Tls(_)) {
        "https"
    } else {
        "http"
    };
    if let Stream::Tcp(socket) = &stream {
        socket.set_nodelay(true)?;
    }
    let line = Line::new(&worker.clock, worker.settings.connection);
    let mut io = ClientIo::new(stream, Rc::clone(&line));
    let opening = match opening {
        Some(opening) => opening,
        None => io.opening().await?,
    };
    let origin = Origin { source, scheme };
    let service = |request: Request<Incoming>| {
        let (worker, in_flight) = (Rc::clone(worker), line.begin());
        let waits = line.has_more_than_its_turn();
        async move {
            if waits {
                tokio::task::yield_now().await;
            }
            Ok::<Response<ReplyBody>, Infallible>(
                request::handle(&worker, origin, in_flight, request).await,
            )
        }
    };
    match opening {
        Opening::Http1 => {
            let connection = Box::pin(
                http1::Builder::new()
                    .header_read_timeout(None)
                    .max_buf_size(worker.settings.head)
                    .serve_connection(TokioIo::new(io), service_fn(service)),
            );
            let running = run(worker, &line, connection, |connection| {
                connection.graceful_shutdown();
            });
            let patience = worker.settings.relay.client_write;
            let ended = end_when_stalled(pin!(running), &worker.clock, patience).await;
            ended.unwrap_or(Ok(()))
        }
        Opening::Http2 => {
            line.set_multiplexed();
            let connection = Box::pin(
                http2::Builder::new(Streams(Rc::clone(worker)))
                    .max_concurrent_streams(HTTP2_STREAMS)
                    .initial_stream_window_size(HTTP2_STREAM_WINDOW)
                    .initial_connection_window_size(HTTP2_WINDOW)
                    .max_header_list_size(u32::try_from(worker.settings.head).unwrap_or(u32::MAX))
                    .max_send_buf_size(HTTP2_SEND_BUFFER)
                    .max_local_error_reset_streams(Some(HTTP2_LOCAL_RESETS))
                    .serve_connection(TokioIo::new(io), service_fn(service)),
            );
            run(worker, &line, connection, |connection| {
                connection.graceful_shutdown();
            })
            .await
        }
    }
}

async fn shake_hands(
    worker: &Worker,
    socket: TcpStream,
    certificates: &Certificates,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    tokio::select! {
        shaken = timeout(worker.settings.tls_handshake, certificates.acceptor().accept(socket)) => shaken?,
        () = worker.lifecycle.reached(Phase::Draining) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Runs a connection to its end, and tells it once when the process drains.
async fn run<C>(
    worker: &Worker,
    line: &Line,
    mut connection: Pin<Box<C>>,
    stop: impl Fn(Pin<&mut C>),
) -> io::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut told = false;
    poll_fn(|cx| {
        line.begin_turn();
        if worker.clock.is_closing() && !told {
            told = true;
            line.close();
            stop(connection.as_mut());
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(io::Error::other)
}

/// Spawns the tasks of an HTTP/2 connection's streams on the thread they came in on.
#[derive(Clone)]
struct Streams(Rc<Worker>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        let patience = self.0.settings.relay.client_write;
        tokio::task::spawn_local(end_when_stalled(Box::pin(task), &self.0.clock, patience));
    }
}
