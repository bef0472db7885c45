//! Who is at the other end of a connection: the peer, or the client that a load balancer names by the PROXY protocol,
//! where the config says that it does.
//!
//! Invariant: which peers have to send a PROXY header is decided by their address alone. A listed peer that does not, or
//! sends a broken one, is not served at all; an unlisted peer's header is not believed: its bytes are a request's.

use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::gateway::worker::Worker;
use crate::net::proxy_protocol::{self, ProxyHeaderError, ProxyIdentity};
use crate::net::transport::Transport;
use crate::observe::log::Event;
use crate::runtime::lifecycle::Phase;
use crate::store::config::ClientAddressSource;

/// Who a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientSource {
    /// The client's address; None where nobody knows one, as on a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// What a load balancer's PROXY header said; None where none was expected.
    pub(super) identity: Option<ProxyIdentity>,
}

/// Finds out who a connection comes from, and reads the PROXY header off it where one is expected.
///
/// # Errors
/// A listed peer sent no whole header within `header_read`, or a broken one. It gets no response: it may not speak HTTP
/// yet.
pub(super) async fn source_of(
    worker: &Worker,
    transport: &mut Transport,
    peer: Option<IpAddr>,
) -> io::Result<ClientSource> {
    let (Transport::Tcp(socket), Some(listed)) =
        (transport, peer.filter(|peer| is_listed(worker, *peer)))
    else {
        return Ok(ClientSource {
            address: peer,
            identity: None,
        });
    };
    // Boxed, so that a connection keeps no room for it.
    let identity = Box::pin(read_header(worker, socket, listed)).await?;
    Ok(ClientSource {
        address: match identity {
            ProxyIdentity::Client(address) => Some(address),
            ProxyIdentity::Local => peer,
            ProxyIdentity::NoAddress => None,
        },
        identity: Some(identity),
    })
}

/// Whether this peer has to send a PROXY header before anything else.
fn is_listed(worker: &Worker, peer: IpAddr) -> bool {
    let ClientAddressSource::ProxyProtocol { trusted_proxies } = &worker.settings.client_address
    else {
        return false;
    };
    let peer = peer.to_canonical();
    trusted_proxies
        .iter()
        .any(|network| network.contains(&peer))
}

async fn read_header(
    worker: &Worker,
    socket: &mut TcpStream,
    peer: IpAddr,
) -> io::Result<ProxyIdentity> {
    let header_read = worker.settings.timeouts.header_read;
    let header = tokio::select! {
        header = timeout(header_read, proxy_protocol::read(socket)) => header,
        () = worker.lifecycle.reached(Phase::Draining) => {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    };
    header
        .unwrap_or(Err(ProxyHeaderError::Malformed(
            "no whole header came in time",
        )))
        .map_err(|error| {
            if !matches!(error, ProxyHeaderError::Closed)
                && let Some(more) = worker.refused_proxies.due(worker.timer.now())
            {
                let event = Event::warn("proxy_header_refused")
                    .with("peer", peer.to_canonical().to_string())
                    .with("reason", error.to_string());
                worker.log.event(event.with("more", more));
            }
            io::ErrorKind::InvalidData.into()
        })
}
