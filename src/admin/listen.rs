//! The listeners of the admin API. They limit connections in number and time, and know each peer.

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
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::admin::access::AuthMethod;
use crate::admin::connection_limit::{ConnectionLimit, ConnectionSlot, Locality};
use crate::admin::{Peer, Services, handle};
use crate::observe::log::{Event, Log};
use crate::runtime::lifecycle::Phase;

/// The longest time for a head, and the longest idle time of a connection.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Longest head, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// The longest time for a TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The longest time in which a peer reads nothing of its response.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// The longest time for running calls after shutdown began.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// The pause after a failed accept, most likely because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time between two log lines about failed accepts.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Serves the Unix socket until the process drains, or until the future is dropped. Accepted connections go on without it.
pub(crate) async fn serve_unix(listener: UnixListener, services: Arc<Services>) {
    let mut acceptor = Acceptor::new(&services);
    let mut drains = pin!(services.lifecycle.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drains => return,
        };
        if let Some(((stream, _), slot)) = acceptor.admit(accepted, |_| Locality::ThisMachine).await
        {
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let services = Arc::clone(&services);
            let peer = Peer::Socket { uid };
            tokio::spawn(async move { connection(stream, peer, &services, slot).await });
        }
    }
}

/// Serves TCP in the same way, with TLS if the config says so.
pub(crate) async fn serve_tcp(listener: TcpListener, services: Arc<Services>) {
    let mut acceptor = Acceptor::new(&services);
    let mut drains = pin!(services.lifecycle.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drains => return,
        };
        let place =
            |(_, peer): &(TcpStream, SocketAddr)| match peer.ip().to_canonical().is_loopback() {
                true => Locality::ThisMachine,
                false => Locality::OtherMachine,
            };
        if let Some(((stream, peer), slot)) = acceptor.admit(accepted, place).await {
            let services = Arc::clone(&services);
            tokio::spawn(async move { tcp_connection(stream, peer, &services, slot).await });
        }
    }
}

/// Accepts connections up to a limit: each holds a slot.
struct Acceptor<'s> {
    limit: ConnectionLimit,
    log: &'s Log,
    last_logged: Option<Instant>,
}

impl<'s> Acceptor<'s> {
    fn new(services: &'s Services) -> Self {
        Self {
            limit: ConnectionLimit::default(),
            log: &services.log,
            last_logged: None,
        }
    }

    /// None: accepting failed, or no slot is free. Without a slot the connection is closed.
    async fn admit<T>(
        &mut self,
        accepted: io::Result<T>,
        place: impl FnOnce(&T) -> Locality,
    ) -> Option<(T, ConnectionSlot)> {
        match accepted {
            Ok(stream) => {
                let slot = self.limit.admit(place(&stream))?;
                return Some((stream, slot));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if self
                    .last_logged
                    .is_none_or(|last| last.elapsed() >= ACCEPT_LOG_INTERVAL)
                {
                    self.last_logged = Some(Instant::now());
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
    slot: ConnectionSlot,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // If this fails, responses only come a little later.
    let _ = stream.set_nodelay(true);
    let local = local.ip();
    let peer = Peer::Network {
        address: peer,
        local,
    };
    if !services.config.admin.tls {
        return connection(stream, peer, services, slot).await;
    }
    // The config demands TLS, so without a certificate nothing is served.
    let Some(certificates) = &services.certificates else {
        return;
    };
    let handshake = certificates.admin_acceptor().accept(stream);
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE_TIME, handshake) => shaken,
        () = slot.must_close() => return,
    };
    if let Ok(Ok(stream)) = shaken {
        connection(stream, peer, services, slot).await;
    }
}

async fn connection<S>(stream: S, peer: Peer, services: &Arc<Services>, slot: ConnectionSlot)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(slot);
    let service = service_fn(|request| {
        let (services, slot) = (Arc::clone(services), Arc::clone(&slot));
        async move {
            let response = handle(&services, peer, request).await;
            if response
                .extensions()
                .get::<AuthMethod>()
                .is_some_and(AuthMethod::is_proof)
            {
                slot.authenticated();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(WriteTimeoutStream::new(stream)), service);
    let mut connection = pin!(connection);
    // How a connection ended does not matter here.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = slot.must_close() => {}
        () = services.lifecycle.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(SHUTDOWN_GRACE, connection).await;
        }
    }
}

/// A stream that fails if its peer reads nothing for [`WRITE_TIME`].
struct WriteTimeoutStream<S> {
    stream: S,
    /// Runs while a write is pending.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeoutStream<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            timeout: None,
        }
    }

    fn with_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timeout = None;
            return written;
        }
        let expired = self
            .timeout
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIME)));
        ready!(expired.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.with_timeout(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.with_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.with_timeout(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.with_timeout(context, shut)
    }
}
