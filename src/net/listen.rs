//! Listeners. Each worker has its own on every TCP address (SO_REUSEPORT), so the kernel distributes connections and no
//! worker passes one on to another.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::unix_socket::{self, ClaimError};
use crate::store::config::Listen;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Addresses that this process listens on exclusively, before the workers start.
#[derive(Debug)]
pub(crate) struct ClaimedAddresses {
    /// The address, and the listener that holds it until the first worker takes it.
    tcp: Vec<(SocketAddr, Option<TcpListener>)>,
    unix: Vec<(PathBuf, UnixListener)>,
}

/// The listeners of one worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) tcp: Vec<TcpListener>,
    /// Each Unix socket is shared by all workers.
    pub(crate) unix: Vec<UnixListener>,
}

/// Why the gateway cannot listen on an address.
#[derive(Debug)]
pub(crate) enum ListenError {
    Tcp(SocketAddr, io::Error),
    Unix(ClaimError),
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address, error) if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {address}: another process does; stop it, or choose another address with listen or \
                 --listen"
            ),
            Self::Tcp(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Unix(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tcp(_, error) => Some(error),
            Self::Unix(error) => Some(error),
        }
    }
}

/// Makes sure that no other process listens on any of the addresses, now or later. Workers share an address through
/// SO_REUSEPORT, which would also let a second process share it and serve from another key table. So each address is
/// first bound without SO_REUSEPORT.
///
/// # Errors
/// [`ListenError`] names the first address that is not free.
pub(crate) fn claim(addresses: &[Listen]) -> Result<ClaimedAddresses, ListenError> {
    let mut claimed = ClaimedAddresses {
        tcp: Vec::new(),
        unix: Vec::new(),
    };
    for address in addresses {
        match address {
            Listen::Tcp(address) => {
                let probed = probe(*address).map_err(|error| ListenError::Tcp(*address, error))?;
                let bound = probed.local_addr();
                let bound = bound.map_err(|error| ListenError::Tcp(*address, error))?;
                claimed.tcp.push((bound, Some(probed)));
            }
            // Clients need a key, as on a TCP port, so any user may connect.
            Listen::Unix(path) => {
                let socket = unix_socket::claim(path, unix_socket::PUBLIC);
                claimed
                    .unix
                    .push((path.clone(), socket.map_err(ListenError::Unix)?.0));
            }
        }
    }
    Ok(claimed)
}

impl ClaimedAddresses {
    /// The addresses, with the ports that the kernel chose in place of port 0.
    #[must_use]
    pub(crate) fn addresses(&self) -> Vec<Listen> {
        let tcp = self.tcp.iter().map(|(address, _)| Listen::Tcp(*address));
        tcp.chain(self.unix.iter().map(|(path, _)| Listen::Unix(path.clone())))
            .collect()
    }

    /// Opens the listeners of one worker. The first worker gets the listeners that hold the addresses: clients that
    /// connected while a large key file was read wait in their queues, and closing these listeners would reset them.
    ///
    /// # Errors
    /// [`ListenError`], if another process has bound an address in the meantime.
    pub(crate) fn open(&mut self) -> Result<Listeners, ListenError> {
        let mut listeners = Listeners {
            tcp: Vec::new(),
            unix: Vec::new(),
        };
        for (address, held) in &mut self.tcp {
            let open = match held.take() {
                // From here on the address may be shared. Another gateway first binds without SO_REUSEPORT, so it still
                // fails.
                Some(held) => SockRef::from(&held).set_reuse_port(true).map(|()| held),
                None => listener(*address, true),
            };
            listeners
                .tcp
                .push(open.map_err(|error| ListenError::Tcp(*address, error))?);
        }
        for (path, listener) in &self.unix {
            let shared = listener.try_clone();
            let failed = |error| ListenError::Unix(ClaimError::Failed(path.clone(), error));
            listeners.unix.push(shared.map_err(failed)?);
        }
        Ok(listeners)
    }
}

/// Binds without SO_REUSEPORT. The IPv6 wildcard address falls back to IPv4 on a host without IPv6.
fn probe(address: SocketAddr) -> io::Result<TcpListener> {
    match listener(address, false) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            listener(
                (IpAddr::from(Ipv4Addr::UNSPECIFIED), address.port()).into(),
                false,
            )
        }
        probed => probed,
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
    // Accepted connections inherit the option from the listener.
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_taken_from_its_claim_until_its_last_listener_is_closed() {
        let mut first = claim(&[Listen::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        let address = first.addresses();
        assert!(claim(&address).is_err(), "claimed");
        let workers = [first.open().unwrap(), first.open().unwrap()];
        assert!(claim(&address).is_err(), "claimed and open");
        drop(first);
        assert!(claim(&address).is_err(), "open");
        drop(workers);
        claim(&address).unwrap();
    }

    #[test]
    fn accepted_connections_send_small_pieces_at_once() {
        let mut claimed = claim(&[Listen::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        for worker in [claimed.open().unwrap(), claimed.open().unwrap()] {
            let address = worker.tcp[0].local_addr().unwrap();
            let _clients: Vec<_> = (0..64)
                .map(|_| std::net::TcpStream::connect(address).unwrap())
                .collect();
            let (accepted, _) = worker.tcp[0].accept().unwrap();
            assert!(accepted.nodelay().unwrap());
        }
    }

    #[test]
    fn the_kernel_spreads_clients_over_all_workers_the_first_too() {
        let mut claimed = claim(&[Listen::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        let workers = [claimed.open().unwrap(), claimed.open().unwrap()];
        let address = workers[0].tcp[0].local_addr().unwrap();
        let _clients: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        for worker in &workers {
            worker.tcp[0].accept().unwrap();
        }
    }

    #[test]
    fn a_client_that_came_while_the_address_was_only_claimed_is_accepted_by_a_worker() {
        let mut claimed = claim(&[Listen::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        let [Listen::Tcp(address)] = claimed.addresses()[..] else {
            unreachable!("one TCP address was claimed");
        };
        let client = std::net::TcpStream::connect(address).unwrap();
        let workers = [claimed.open().unwrap(), claimed.open().unwrap()];
        drop(claimed);
        let accepted = workers
            .iter()
            .filter_map(|worker| worker.tcp[0].accept().ok())
            .map(|(_, peer)| peer)
            .collect::<Vec<_>>();
        assert_eq!(accepted, [client.local_addr().unwrap()]);
    }
}
