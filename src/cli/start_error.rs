//! Why the gateway does not start.

use std::fmt;
use std::io;

use crate::net::listen::ListenFault;
use crate::net::tls::TlsFault;
use crate::net::unix_socket::ClaimFault;
use crate::store::fault::Fault;
use crate::upstream::UpstreamFault;

/// Why the process cannot start or go on.
#[derive(Debug)]
pub(super) enum StartError {
    /// The config or the key file has faults.
    Files(Vec<Fault>),
    /// An address of the data port cannot be used.
    Listen(ListenFault),
    /// The admin socket cannot be used.
    Socket(ClaimFault),
    /// A certificate cannot be used.
    Tls(TlsFault),
    /// The CA of an upstream cannot be used.
    Upstream(UpstreamFault),
    /// A system call failed: the part of the program, and the error.
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

/// Turns an I/O error into a [`StartError`]; `what` names the part of the program.
pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    |error| StartError::System(what.into(), error)
}
