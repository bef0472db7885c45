//! A connection's bytes, to a client or to an upstream: TCP, a Unix socket, or TLS over TCP.

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

/// See the module's page.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, the handshake done.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Whether it is encrypted.
    #[must_use]
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether TLS agreed on HTTP/2 (RFC 7301); None without TLS.
    #[must_use]
    pub(crate) fn agreed_on_http2(&self) -> Option<bool> {
        match self {
            Self::Tls(stream) => Some(stream.get_ref().1.alpn_protocol() == Some(b"h2")),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether the peer has ended its side, or both. Asked of the system, since what the peer sent before that may still
    /// be unread.
    #[must_use]
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut sockets = [PollFd::from_borrowed_fd(self.socket(), PollFlags::RDHUP)];
        poll(&mut sockets, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Whether nothing has come and the peer has not closed, on a connection that was read to its last byte. Asked of
    /// the system, since what the runtime knows of the socket may be older than the last read.
    #[must_use]
    pub(crate) fn is_quiet(&mut self) -> bool {
        if let Self::Tls(stream) = self {
            // What TLS has decrypted, the system knows nothing of any more.
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

    /// Has the connection end by a reset when it is dropped, or the process ends (SO_LINGER 0), not by FIN: for a body
    /// that only the connection's end ends, FIN would make half a body a whole one.
    pub(crate) fn reset_on_drop(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    /// Takes [`Self::reset_on_drop`] back: the body is whole.
    pub(crate) fn finish_on_drop(&self) {
        self.set_linger(None);
    }

    fn set_linger(&self, linger: Option<Duration>) {
        // Without the option the connection ends by FIN, as it would anyway.
        let _ = SockRef::from(&self.socket()).set_linger(linger);
    }

    /// Whether the peer's system was sent all that was written. Asked of the system, which wakes nobody when it comes to
    /// that.
    #[must_use]
    pub(crate) fn is_all_sent(&self) -> bool {
        let socket = self.socket();
        // With this option the socket is writable only where nothing is left to send.
        if SockRef::from(&socket).set_tcp_notsent_lowat(1).is_err() {
            return true;
        }
        let mut sockets = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
        poll(&mut sockets, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Writes one slice, or a list of which empty ones are left out.
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
            // One slice is cheaper for the system to take than a list.
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

/// Calls the same method of whichever stream it is.
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
