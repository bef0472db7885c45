//! A client connection's life, from accept to its end: who is at its other end, TLS, HTTP/1 or HTTP/2. What happens to its
//! requests is [`super::request`].
//!
//! An HTTP/1 connection without a request is *folded*: hyper keeps two buffers of 8 KiB for as long as its connection
//! lives, so it is ended, without the socket being touched, and another is made when something comes.
//! [`Line`] knows when; invariant: only where hyper holds nothing unsent, and what it had read is read again.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::headers::X_REQUEST_ID;
use crate::http::io::{ClientIo, Line, Opening, Stream};
use crate::net::tls::Certificates;
use crate::runtime::lifecycle::Phase;

use super::proxied;
use super::request::{self, Origin};
use super::stall::end_when_stalled;
use super::stream::ReplyBody;
use super::worker::Worker;

/// Beside a head as long as it may be, hyper has room for this part of as much again: a body of 64 KiB then comes whole
/// behind a usual head, in one piece that needs no copy. By about so much a head may also be too long in what the parser
/// drops, like spaces around a value; the rest of it is counted by [`crate::http::headers::check_size`].
const PART_BEHIND_HEAD: usize = 8;
/// Requests that one HTTP/2 connection may have open at once.
const HTTP2_STREAMS: u32 = 250;
/// What an HTTP/2 client may send ahead, of one request's body and of all its requests'.
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
const HTTP2_WINDOW: u32 = 1 << 20;
/// What of one answer may wait for an HTTP/2 client to read it; the upstream waits with the rest.
const HTTP2_SEND_BUFFER: usize = 64 << 10;
/// Streams of one HTTP/2 connection that may fail for reasons of its own before it is closed.
const HTTP2_LOCAL_RESETS: usize = 1024;

/// Serves a connection until either side ends it. Fails where its end was not a good one; its requests have told of
/// themselves.
pub(super) fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    peer: Option<IpAddr>,
) -> impl Future<Output = io::Result<()>> {
    // All stretches of its life are boxed, so that while it is idle it keeps no room for what it was or could have been.
    let beginning = Box::pin(begin(worker, stream, peer));
    async move {
        let (opening, mut folded) = beginning.await?;
        if opening == Opening::Http2 {
            return Box::pin(serve_http2(*folded)).await;
        }
        while let Some(idle) = Box::pin(serve_http1(*folded)).await? {
            folded = idle;
            folded.io.wait().await;
        }
        Ok(())
    }
}

/// Finds out who is at the other end, and what is spoken.
async fn begin(
    worker: Rc<Worker>,
    mut stream: Stream,
    peer: Option<IpAddr>,
) -> io::Result<(Opening, Box<Folded>)> {
    let source = proxied::source_of(&worker, &mut stream, peer).await?;
    let stream = match (stream, &worker.certificates) {
        (Stream::Tcp(socket), Some(certificates)) => {
            Stream::Tls(Box::new(shake_hands(&worker, socket, certificates).await?))
        }
        (plain, _) => plain,
    };
    let (scheme, agreed) = match &stream {
        Stream::Tls(secured) if secured.get_ref().1.alpn_protocol() == Some(b"h2") => {
            ("https", Some(Opening::Http2))
        }
        Stream::Tls(_) => ("https", Some(Opening::Http1)),
        Stream::Tcp(_) | Stream::Unix(_) => ("http", None),
    };
    let line = Line::new(&worker.clock, worker.settings.connection);
    let mut io = ClientIo::new(stream, Rc::clone(&line));
    let opening = match agreed {
        Some(opening) => opening,
        None => io.opening().await?,
    };
    let origin = Origin { source, scheme };
    let served = Served {
        worker,
        line,
        origin,
    };
    Ok((opening, Box::new(Folded { served, io })))
}

async fn shake_hands(
    worker: &Worker,
    socket: TcpStream,
    certificates: &Certificates,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    tokio::select! {
        shaken = timeout(worker.settings.tls_handshake, certificates.acceptor().accept(socket)) => shaken?,
        () = worker.lifecycle.reached(Phase::Draining) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// All there is of an idle connection.
struct Folded {
    served: Served,
    io: ClientIo,
}

/// What is known of a connection that is served.
struct Served {
    worker: Rc<Worker>,
    line: Rc<Line>,
    origin: Origin,
}

impl Served {
    /// Answers a request that came by this connection.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> + use<> {
        let worker = Rc::clone(&self.worker);
        request::handle(worker, self.origin, self.line.begin(), request)
    }

    /// The same where the connection remembers headers, to send them again by number (RFC 7541): not this one, which is
    /// another in each answer and would only push out what does come again.
    fn answer_by_http2(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> + use<> {
        let answer = self.answer(request);
        async move {
            let mut response = answer.await?;
            if let Some(id) = response.headers_mut().get_mut(&X_REQUEST_ID) {
                id.set_sensitive(true);
            }
            Ok(response)
        }
    }

    /// Polls hyper's connection in a turn of its own, and has it stop once the process drains.
    fn poll<C>(
        &self,
        cx: &mut Context<'_>,
        mut connection: Pin<&mut C>,
        told: &mut bool,
        stop: impl FnOnce(Pin<&mut C>),
    ) -> Poll<io::Result<()>>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        self.line.begin_turn();
        if self.worker.clock.is_closing() && !*told {
            *told = true;
            self.line.close();
            stop(connection.as_mut());
        }
        connection.poll(cx).map_err(io::Error::other)
    }
}

/// Serves until the connection ends, or has been idle for long enough to be folded: then it is handed back.
async fn serve_http1(Folded { served, io }: Folded) -> io::Result<Option<Box<Folded>>> {
    let head = served.worker.settings.head;
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(head + head / PART_BEHIND_HEAD)
        .serve_connection(
            TokioIo::new(io),
            service_fn(|request| served.answer(request)),
        );
    let mut told = false;
    let running = poll_fn(|cx| {
        let mut connection = Pin::new(&mut connection);
        let folds = served.line.begin_fold();
        if folds {
            // Ends it at once where it is idle, as the line says it is, and else after what it is at.
            connection.as_mut().graceful_shutdown();
        }
        let ended = served.poll(cx, connection, &mut told, |c| c.graceful_shutdown());
        let folded = served.line.end_fold();
        ended.map_ok(|()| folded)
    });
    let worker = &served.worker;
    let patience = worker.settings.relay.client_write;
    let ended = end_when_stalled(pin!(running), &worker.clock, patience).await;
    let is_folded = ended.unwrap_or(Ok(false))?;
    if !is_folded {
        return Ok(None);
    }
    let parts = connection.into_parts();
    let io = parts.io.into_inner().fold(parts.read_buf);
    Ok(Some(Box::new(Folded { served, io })))
}

async fn serve_http2(Folded { served, io }: Folded) -> io::Result<()> {
    let worker = &served.worker;
    served.line.set_multiplexed();
    let connection = http2::Builder::new(Streams(Rc::clone(worker)))
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .max_header_list_size(u32::try_from(worker.settings.head).unwrap_or(u32::MAX))
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_local_error_reset_streams(Some(HTTP2_LOCAL_RESETS))
        .serve_connection(
            TokioIo::new(io),
            // Boxed, since hyper moves it several times on its way to a task of its own.
            service_fn(|request| Box::pin(served.answer_by_http2(request))),
        );
    let mut connection = pin!(connection);
    let mut told = false;
    poll_fn(|cx| {
        served.poll(cx, connection.as_mut(), &mut told, |c| {
            c.graceful_shutdown();
        })
    })
    .await
}

/// Spawns the tasks of an HTTP/2 connection's streams on the thread they came in on.
#[derive(Clone)]
struct Streams(Rc<Worker>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Unpin + 'static,
{
    fn execute(&self, task: F) {
        let patience = self.0.settings.relay.client_write;
        tokio::task::spawn_local(end_when_stalled(task, &self.0.clock, patience));
    }
}
