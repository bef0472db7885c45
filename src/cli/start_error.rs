//! Why the gateway does not start.

use std::fmt;
use std::io;

use crate::net::listen::ListenFault;
use crate::net::tls::TlsFault;
use crate::net::unix_socket::ClaimFault;
use crate::store::fault::Fault;
use crate::upstream::UpstreamFault;

/// What keeps the process from starting, or from going on.
#[derive(Debug)]
pub enum StartError {
    /// Something in the config or the key file.
    Files(Vec<Fault>),
    /// An address of the data port.
    Listen(ListenFault),
    /// The admin socket.
    Socket(ClaimFault),
    /// The certificate.
    Tls(TlsFault),
    /// An upstream's CA.
    Upstream(UpstreamFault),
    /// The system: for what, and why not.
    System(String, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(faults) => {
                for (at, fault) in faults.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "\n" };
                    write!(f, "{separator}{fault}")?;
                }
                Ok(())
            }
            Self::Listen(fault) => fault.fmt(f),
            Self::Socket(fault) => fault.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Upstream(fault) => write!(f, "upstream {}: {}", fault.upstream, fault.fault),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// For errors of the system: `what` says of which part.
pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    |error| StartError::System(what.into(), error)
}
