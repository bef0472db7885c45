//! Errors of commands: what failed, what to do about it, and the exit status.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::store::fault::Fault;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The arguments contradict each other.
    Usage(String),
    /// No gateway listens on the socket.
    NoGateway(PathBuf, io::Error),
    /// The gateway sent no usable response.
    NoAnswer(PathBuf, String),
    /// The gateway or the rules of the key file refused the call.
    Refused(String),
    /// A change was made, and is not in force on gateways of these names; without a name, nobody knows where it is.
    NotEverywhere(Vec<String>),
    /// Files have faults.
    Faulty(Vec<Fault>),
    /// The input is missing or wrong.
    Input(String),
    /// A system call failed.
    System(String, io::Error),
    /// The output cannot be written.
    Output(io::Error),
}

impl CommandError {
    /// Prints the error and returns the exit status. A closed output pipe is not reported.
    pub(super) fn report(self) -> ExitCode {
        if !matches!(&self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            eprintln!("keygate: {self}");
        }
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::NoGateway(..)
            | Self::NoAnswer(..)
            | Self::Refused(_)
            | Self::NotEverywhere(_)
            | Self::Faulty(_)
            | Self::Input(_)
            | Self::System(..)
            | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Refused(what) | Self::Input(what) => f.write_str(what),
            Self::NoGateway(socket, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "{}: this user may not open the admin socket; run the command as the gateway's user",
                    socket.display()
                )
            }
            Self::NoGateway(socket, error) => write!(
                f,
                "no gateway answers on {} ({error}); start it with 'keygate serve', name its socket with --socket, or \
                 work on a key file alone with 'keygate keys … --keys FILE'",
                socket.display()
            ),
            Self::NoAnswer(socket, what) => write!(
                f,
                "{}: the gateway's answer cannot be used: {what}; look at its log, and at whether it is the same \
                 version",
                socket.display()
            ),
            Self::NotEverywhere(names) if names.is_empty() => f.write_str(
                "the change is made, but nobody knows whether it is in force on the other gateways; 'keygate fleet' and the \
                 log say why",
            ),
            Self::NotEverywhere(names) => write!(
                f,
                "the change is made, but not in force yet on {}; 'keygate fleet' shows when it is",
                names.join(", ")
            ),
            Self::Faulty(faults) => {
                for (at, fault) in faults.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "\n" };
                    write!(f, "{separator}{fault}")?;
                }
                Ok(())
            }
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoGateway(_, error) | Self::System(_, error) | Self::Output(error) => Some(error),
            Self::Usage(_)
            | Self::NoAnswer(..)
            | Self::Refused(_)
            | Self::NotEverywhere(_)
            | Self::Faulty(_)
            | Self::Input(_) => None,
        }
    }
}
