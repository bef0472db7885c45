//! What fails at a PostgreSQL server, with the remedy.

use std::error::Error;

use tokio_postgres::error::{DbError, SqlState};

use crate::store::database::error::DatabaseError;
use crate::store::database::postgres::url::PostgresUrl;

/// Classes of errors that pass by themselves (PostgreSQL's Appendix A): the connection, a conflict with another
/// transaction, resources, the operator, the system, the server's own faults.
const PASSING: [&str; 6] = ["08", "40", "53", "57", "58", "XX"];

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The client's error, or the server's.
    Postgres(tokio_postgres::Error),
    /// The server did not answer in time.
    NoAnswer,
    /// The gateway itself refuses to go on.
    Refused(DatabaseError),
}

impl From<tokio_postgres::Error> for CallError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<DatabaseError> for CallError {
    fn from(error: DatabaseError) -> Self {
        Self::Refused(error)
    }
}

impl CallError {
    /// Whether a statement that only waits for others has waited too long: the server itself is well.
    pub(crate) fn is_of_waiting(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        let code = error.code();
        code == Some(&SqlState::QUERY_CANCELED) || code == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// The error with its remedy.
    pub(crate) fn explained(self, url: &PostgresUrl) -> DatabaseError {
        let place = url.place();
        let error = match self {
            Self::Refused(error) => return error,
            Self::NoAnswer => {
                let why = "it does not answer in time".to_owned();
                return DatabaseError::Unreachable { place, why };
            }
            Self::Postgres(error) => error,
        };
        match error.as_db_error() {
            Some(refused) => of_server(refused, url),
            None if is_password_missing(&error) => DatabaseError::Credentials {
                place,
                user: url.user.clone(),
                why: "the server asks for a password".to_owned(),
            },
            None => DatabaseError::Unreachable {
                place,
                why: chain(&error),
            },
        }
    }
}

fn of_server(refused: &DbError, url: &PostgresUrl) -> DatabaseError {
    let (place, user) = (url.place(), url.user.clone());
    let why = refused.message().to_owned();
    match refused.code() {
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            DatabaseError::Credentials { place, user, why }
        }
        &SqlState::INVALID_CATALOG_NAME => DatabaseError::NoDatabase {
            place,
            name: url.name.clone(),
            user,
        },
        &SqlState::INSUFFICIENT_PRIVILEGE => DatabaseError::Denied {
            place,
            remedy: remedy(&why, url),
            why,
        },
        &SqlState::DUPLICATE_TABLE | &SqlState::DUPLICATE_OBJECT => {
            DatabaseError::OtherProgram { place }
        }
        &SqlState::DISK_FULL => DatabaseError::Full { path: place.into() },
        // It passes by itself: the server ends or starts, has no room for another connection, was too slow, or failed.
        code if PASSING.iter().any(|class| code.code().starts_with(class)) => {
            DatabaseError::Unreachable { place, why }
        }
        _ => DatabaseError::Server { place, why },
    }
}

/// What lets the role do what it was refused.
fn remedy(why: &str, url: &PostgresUrl) -> String {
    let (user, name) = (quoted(&url.user), quoted(&url.name));
    if why.contains("for schema") {
        format!(
            "run keygate database migrate as the role that owns the tables, or let this one make them: GRANT CREATE, USAGE \
             ON SCHEMA public TO {user}"
        )
    } else if why.contains("for database") {
        format!("run GRANT CONNECT ON DATABASE {name} TO {user}")
    } else {
        // Not a grant of everything: the audit may be added to and not changed.
        format!(
            "as the owner of the tables, give {user} the rights that a gateway needs: deploy/fleet/grants.sql of the source \
             has them"
        )
    }
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The client says this in words alone.
fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    chain(error).contains("password missing")
}

/// The error and its causes in one line.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
