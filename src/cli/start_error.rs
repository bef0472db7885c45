//! Why the gateway does not start.

use std::fmt;
use std::io;

use crate::net::listen::ListenError;
use crate::net::tls::TlsError;
use crate::net::unix_socket::ClaimError;
use crate::store::database::DatabaseError;
use crate::store::fault::Fault;
use crate::upstream::UpstreamTlsError;

/// Why the process cannot start or go on.
#[derive(Debug)]
pub(super) enum StartError {
    /// The config or the key file has faults.
    Files(Vec<Fault>),
    /// An address of the data port cannot be used.
    Listen(ListenError),
    /// The admin socket cannot be used.
    Socket(ClaimError),
    /// A certificate cannot be used.
    Tls(TlsError),
    /// The CA of an upstream cannot be used.
    Upstream(UpstreamTlsError),
    /// The database cannot be used.
    Database(DatabaseError),
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
            Self::Listen(error) => error.fmt(f),
            Self::Socket(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::Upstream(error) => write!(f, "upstream {}: {}", error.upstream, error.error),
            Self::Database(error) => error.fmt(f),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Turns an I/O error into a [`StartError`]; `what` names the part of the program.
pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    |error| StartError::System(what.into(), error)
}
