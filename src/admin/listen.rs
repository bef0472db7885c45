//! The admin API's listeners: connections, bounded in number and time, and whoever is behind them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::admin::{Caller, Services, handle};
use crate::observe::log::{Event, Log};
use crate::runtime::lifecycle::Phase;

/// Connections that one listener serves at once; further ones are closed.
const MAX_CONNECTIONS: usize = 256;
/// How long a head may take, and how long a connection is kept without one.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Longest head, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a caller may take nothing of its answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How long running calls may take once the process drains.
const LAST_CALLS: Duration = Duration::from_secs(10);
/// How long to wait where connections cannot be accepted, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a failure that goes on is told.
const ACCEPT_TOLD: Duration = Duration::from_secs(10);

/// Serves the Unix socket until the process drains, or until dropped. Connections that were accepted by then end by
/// themselves.
pub async fn serve_unix(listener: UnixListener, services: Arc<Services>) {
    let mut door = Door::new(&services);
    let mut drains = pin!(services.lifecycle.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drains => return,
        };
        if let Some(((stream, _), seat)) = door.admit(accepted).await {
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let services = Arc::clone(&services);
            let caller = Caller::Socket { uid };
            tokio::spawn(async move { connection(stream, caller, &services, seat).await });
        }
    }
}

/// Serves TCP likewise, over TLS where the config says so.
pub async fn serve_tcp(listener: TcpListener, services: Arc<Services>) {
    let mut door = Door::new(&services);
    let mut drains = pin!(services.lifecycle.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drains => return,
        };
        if let Some(((stream, peer), seat)) = door.admit(accepted).await {
            let services = Arc::clone(&services);
            tokio::spawn(async move { tcp_connection(stream, peer, &services, seat).await });
        }
    }
}

/// Where connections come in: each needs a seat.
struct Door<'s> {
    seats: Arc<Semaphore>,
    log: &'s Log,
    told: Option<Instant>,
}

impl<'s> Door<'s> {
    fn new(services: &'s Services) -> Self {
        Self {
            seats: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            log: &services.log,
            told: None,
        }
    }

    /// None: there is nobody, or no seat. Who gets none is hung up on.
    async fn admit<T>(&mut self, accepted: io::Result<T>) -> Option<(T, OwnedSemaphorePermit)> {
        match accepted {
            Ok(stream) => {
                let seat = Arc::clone(&self.seats).try_acquire_owned().ok()?;
                return Some((stream, seat));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if self.told.is_none_or(|told| told.elapsed() >= ACCEPT_TOLD) {
                    self.told = Some(Instant::now());
                    let event = Event::warn("admin_accept_failed");
                    self.log.event(event.with("reason", error.to_string()));
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
        None
    }
}

async fn tcp_connection(
    stream: TcpStream,
    peer: SocketAddr,
    services: &Arc<Services>,
    seat: OwnedSemaphorePermit,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Without it answers merely come a little later.
    let _ = stream.set_nodelay(true);
    let local = local.ip();
    let caller = Caller::Network { peer, local };
    if !services.config.admin.tls {
        return connection(stream, caller, services, seat).await;
    }
    // The config asks for TLS: where there is no certificate, nobody is served in clear.
    let Some(certificates) = &services.certificates else {
        return;
    };
    let handshake = certificates.admin_acceptor().accept(stream);
    if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME, handshake).await {
        connection(stream, caller, services, seat).await;
    }
}

async fn connection<S>(
    stream: S,
    caller: Caller,
    services: &Arc<Services>,
    _seat: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let services = Arc::clone(services);
        async move { Ok::<_, Infallible>(handle(&services, caller, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    let mut connection = pin!(connection);
    // How a connection ended is its peer's to know.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = services.lifecycle.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LAST_CALLS, connection).await;
        }
    }
}

/// A stream that fails where its peer takes nothing for [`WRITE_TIME`].
struct Patient<S> {
    stream: S,
    /// Runs while something waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            stalled: None,
        }
    }

    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let late = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIME)));
        ready!(late.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, shut)
    }
}
