//! Listeners: one a worker on every address, so that the kernel spreads connections and no worker hands one on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use crate::http::unix_socket::{self, ClaimFault};
use crate::store::config::Listen;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Addresses that are free to listen on, found out before anything else is done.
#[derive(Debug)]
pub struct Claimed {
    tcp: Vec<SocketAddr>,
    unix: Vec<(PathBuf, UnixListener)>,
}

/// One worker's listeners.
#[derive(Debug)]
pub struct Listeners {
    /// TCP.
    pub tcp: Vec<TcpListener>,
    /// Unix sockets, each shared by all workers.
    pub unix: Vec<UnixListener>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub enum ListenFault {
    /// A TCP address, and why not.
    Tcp(SocketAddr, io::Error),
    /// A Unix socket.
    Unix(ClaimFault),
}

impl std::fmt::Display for ListenFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address, error) if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {address}: another process does; stop it, or choose another address with listen or \
                 --listen"
            ),
            Self::Tcp(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Unix(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for ListenFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tcp(_, error) => Some(error),
            Self::Unix(fault) => Some(fault),
        }
    }
}

/// Makes sure that nobody else listens on any of the addresses. Workers share an address by SO_REUSEPORT, which would
/// let a second process share it too and serve another key table: so each is bound once without it first.
///
/// # Errors
/// [`ListenFault`] names the first address that is not free.
pub fn claim(addresses: &[Listen]) -> Result<Claimed, ListenFault> {
    let mut claimed = Claimed {
        tcp: Vec::new(),
        unix: Vec::new(),
    };
    for address in addresses {
        match address {
            Listen::Tcp(address) => {
                let probed = probe(*address).map_err(|error| ListenFault::Tcp(*address, error))?;
                claimed.tcp.push(probed);
            }
            // Whoever connects still needs a key, as on a TCP port.
            Listen::Unix(path) => {
                let socket = unix_socket::claim(path, unix_socket::PUBLIC);
                claimed
                    .unix
                    .push((path.clone(), socket.map_err(ListenFault::Unix)?.0));
            }
        }
    }
    Ok(claimed)
}

impl Claimed {
    /// The addresses as they turned out: ports that were 0 are known now.
    #[must_use]
    pub fn addresses(&self) -> Vec<Listen> {
        let tcp = self.tcp.iter().map(|address| Listen::Tcp(*address));
        tcp.chain(self.unix.iter().map(|(path, _)| Listen::Unix(path.clone())))
            .collect()
    }

    /// Opens the listeners of one worker.
    ///
    /// # Errors
    /// [`ListenFault`], should an address have been taken meanwhile.
    pub fn open(&self) -> Result<Listeners, ListenFault> {
        let mut listeners = Listeners {
            tcp: Vec::new(),
            unix: Vec::new(),
        };
        for address in &self.tcp {
            let open = listener(*address, true);
            listeners
                .tcp
                .push(open.map_err(|error| ListenFault::Tcp(*address, error))?);
        }
        for (path, listener) in &self.unix {
            let shared = listener.try_clone();
            let fault = |error| ListenFault::Unix(ClaimFault::Failed(path.clone(), error));
            listeners.unix.push(shared.map_err(fault)?);
        }
        Ok(listeners)
    }
}

/// Binds without sharing and lets go again. A dual-stack wildcard falls back to IPv4 where the host has no IPv6.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    match listener(address, false) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            listener(
                (IpAddr::from(Ipv4Addr::UNSPECIFIED), address.port()).into(),
                false,
            )?
            .local_addr()
        }
        probed => probed?.local_addr(),
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let known = [
        rustix::io::Errno::AFNOSUPPORT,
        rustix::io::Errno::ADDRNOTAVAIL,
    ];
    known
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
