//! Connections that a load balancer relays: who is at the other end of them, where the config has it told by the PROXY
//! protocol.
//!
//! Invariant: which peers have to tell is decided by their address alone. A listed one that does not, or not rightly, is
//! not served at all; of everybody else nothing is believed, and their bytes are a request's.

use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::io::Stream;
use crate::net::proxy_protocol::{self, Fault, Told};
use crate::observe::log::Event;
use crate::runtime::lifecycle::Phase;
use crate::store::config::ClientAddressSource;

use super::worker::Worker;

/// Who a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address it is taken for; None where nobody knows one, as on a Unix socket.
    pub address: Option<IpAddr>,
    /// What a load balancer told; None where none was to tell.
    pub told: Option<Told>,
}

/// Finds out who a connection comes from; what tells it is read off the stream.
///
/// # Errors
/// Where a listed peer does not tell it rightly, or within `header_read`. It gets no answer: it may not speak HTTP yet.
pub(super) async fn source_of(
    worker: &Worker,
    stream: &mut Stream,
    peer: Option<IpAddr>,
) -> io::Result<Source> {
    let (Stream::Tcp(socket), Some(listed)) = (stream, peer.filter(|peer| tells(worker, *peer)))
    else {
        return Ok(Source {
            address: peer,
            told: None,
        });
    };
    // Boxed, so that a connection keeps no room for it.
    let told = Box::pin(hear(worker, socket, listed)).await?;
    Ok(Source {
        address: match told {
            Told::Client(address) => Some(address),
            Told::Itself => peer,
            Told::Nobody => None,
        },
        told: Some(told),
    })
}

/// Whether this peer is to tell, before anything else, for whom it speaks.
fn tells(worker: &Worker, peer: IpAddr) -> bool {
    let ClientAddressSource::ProxyProtocol { trusted_proxies } = &worker.settings.client_address
    else {
        return false;
    };
    let peer = peer.to_canonical();
    trusted_proxies
        .iter()
        .any(|network| network.contains(&peer))
}

async fn hear(worker: &Worker, socket: &mut TcpStream, peer: IpAddr) -> io::Result<Told> {
    let patience = worker.settings.connection.header_read;
    let heard = tokio::select! {
        heard = timeout(patience, proxy_protocol::read(socket)) => heard,
        () = worker.lifecycle.reached(Phase::Draining) => {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    };
    heard
        .unwrap_or(Err(Fault::Broken("no whole header came in time")))
        .map_err(|fault| {
            if !matches!(fault, Fault::Nothing)
                && let Some(more) = worker.refused_proxies.due(worker.clock.now())
            {
                let event = Event::warn("proxy_header_refused")
                    .with("peer", peer.to_canonical().to_string())
                    .with("reason", fault.to_string());
                worker.log.event(event.with("more", more));
            }
            io::ErrorKind::InvalidData.into()
        })
}
