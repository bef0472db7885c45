//! A socket that never blocks, plain or with TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

/// On loopback a connect is done at once, unless the listener's queue is full.
const CONNECT: Duration = Duration::from_secs(5);

pub(crate) struct Socket {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    unsent: Vec<u8>,
}

impl Socket {
    pub(crate) fn connect(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        let mut socket = Self::accepted(stream)?;
        if let Some(config) = tls {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            let connection =
                ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
            socket.tls = Some(Box::new(connection));
        }
        Ok(socket)
    }

    pub(crate) fn accepted(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            tls: None,
            unsent: Vec::new(),
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends what it can and keeps the rest. Whether all is out.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            return self.flush();
        }
        let sent = match self.unsent.is_empty() {
            true => unless_blocked(self.stream.write(bytes))?.unwrap_or(0),
            false => 0,
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(self.unsent.is_empty())
    }

    /// Sends what was kept. Whether all is out.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if unless_blocked(tls.write_tls(&mut self.stream))?.is_none() {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        while !self.unsent.is_empty() {
            match unless_blocked(self.stream.write(&self.unsent))? {
                Some(sent) => drop(self.unsent.drain(..sent)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Some bytes; `Some(0)`: the other side has closed; `None`: nothing for now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else {
            return unless_blocked(self.stream.read(buffer));
        };
        loop {
            if let Some(read) = unless_blocked(tls.reader().read(buffer))? {
                return Ok(Some(read));
            }
            match unless_blocked(tls.read_tls(&mut self.stream))? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(_) => {
                    tls.process_new_packets().map_err(io::Error::other)?;
                    while tls.wants_write() {
                        if unless_blocked(tls.write_tls(&mut self.stream))?.is_none() {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Says goodbye where TLS has a word for it; dropping it closes.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The other side may be gone already; then there is nobody to tell.
            drop(self.flush());
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
