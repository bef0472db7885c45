//! The byte stream to a client or an upstream: TCP, a Unix socket, or TLS over TCP.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// The byte stream of a connection.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS over TCP, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    #[must_use]
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether TLS negotiated HTTP/2 (ALPN, RFC 7301); None without TLS.
    #[must_use]
    pub(crate) fn agreed_on_http2(&self) -> Option<bool> {
        match self {
            Self::Tls(stream) => Some(stream.get_ref().1.alpn_protocol() == Some(b"h2")),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether the peer has closed its side, or both sides. Asks the kernel, because data that the peer sent earlier
    /// may still be unread.
    #[must_use]
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut sockets = [PollFd::from_borrowed_fd(self.socket(), PollFlags::RDHUP)];
        poll(&mut sockets, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Whether there is nothing to read and the peer has not closed, on a connection that was read completely. Asks the
    /// kernel, because tokio's readiness may be older than the last read.
    #[must_use]
    pub(crate) fn is_quiet(&mut self) -> bool {
        if let Self::Tls(stream) = self {
            // The kernel does not know about data that TLS has already decrypted.
            let read = match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().1.process_new_packets(),
                TlsStream::Server(stream) => stream.get_mut().1.process_new_packets(),
            };
            if !read.is_ok_and(|state| state.plaintext_bytes_to_read() == 0) {
                return false;
            }
        }
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.socket(), &mut [0_u8; 1], flags);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Makes the connection end with a reset (SO_LINGER 0) instead of FIN when it is dropped or the process exits. If
    /// only the connection's end marks the end of a body, FIN would make a partial body look complete.
    pub(crate) fn reset_on_drop(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    /// Undoes [`Self::reset_on_drop`], because the body is complete.
    pub(crate) fn finish_on_drop(&self) {
        self.set_linger(None);
    }

    fn set_linger(&self, linger: Option<Duration>) {
        // Without the option the connection ends with FIN, as usual.
        let _ = SockRef::from(&self.socket()).set_linger(linger);
    }

    /// Whether the kernel has sent all written bytes to the peer. The caller must poll this: no event reports it.
    #[must_use]
    pub(crate) fn is_all_sent(&self) -> bool {
        let socket = self.socket();
        // With this option the socket is writable only if no unsent bytes are left.
        if SockRef::from(&socket).set_tcp_notsent_lowat(1).is_err() {
            return true;
        }
        let mut sockets = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
        poll(&mut sockets, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Writes the slices, leaving out empty ones.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: [&[u8]; 3],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let stream = Pin::new(self);
        match (filled.next(), filled.next()) {
            (None, _) => Poll::Ready(Ok(0)),
            // A write of one slice is cheaper than a vectored write.
            (Some(only), None) => stream.poll_write(cx, only),
            (Some(_), Some(_)) => stream.poll_write_vectored(cx, &slices.map(IoSlice::new)),
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }
}

/// Calls the method on the stream of each variant.
macro_rules! on_stream {
    ($transport:expr, $method:ident($($argument:expr),*)) => {
        match $transport.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_shutdown(cx))
    }
}
