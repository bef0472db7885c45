//! The content of a log line: a request that ended, or any other event.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::policy::key::KeyToken;
use crate::policy::network::ClientAddress;
use crate::policy::usage::RequestCounts;

/// The access line of one request, made when the request ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessEntry<'a> {
    /// When the request's head was read.
    pub(crate) started: SystemTime,
    /// From the request's head to its end.
    pub(crate) duration: Duration,
    /// From the request's head to the head of the upstream's response; None without one.
    pub(crate) first_byte: Option<Duration>,
    /// The `x-request-id`.
    pub(crate) request_id: &'a str,
    /// The id that the client gave it.
    pub(crate) client_request_id: Option<&'a str>,
    /// The id of the key that the token belongs to.
    pub(crate) key_id: Option<&'a str>,
    /// Which of the key's tokens was used, where it was not the current one.
    pub(crate) token: Option<KeyToken>,
    /// The client's address as the rules see it.
    pub(crate) client: ClientAddress,
    /// The method; "other" if HTTP does not define it.
    pub(crate) method: &'static str,
    /// The route; None if the path is not served.
    pub(crate) route: Option<&'static str>,
    /// The model that the request names; None if it was not read.
    pub(crate) model: Option<&'a str>,
    /// The upstream's name; None if the request was not sent.
    pub(crate) upstream: Option<&'a str>,
    /// The response's status; None without a response.
    pub(crate) status: Option<u16>,
    /// The error code; None if the request was allowed.
    pub(crate) denial: Option<&'static str>,
    /// Bytes of the request body.
    pub(crate) bytes_in: u64,
    /// Bytes of the response body.
    pub(crate) bytes_out: u64,
    /// What it used; None if it did not pass all checks.
    pub(crate) counts: Option<RequestCounts>,
    /// How the request ended.
    pub(crate) end: RequestEnd,
}

impl AccessEntry<'_> {
    /// Why the gateway refused the request; None if it did not. An upstream's failure is no refusal.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.denial
            .filter(|_| self.end != RequestEnd::UpstreamFailed)
    }

    /// Whether the request was refused before its body was read.
    pub(super) fn is_refused_early(&self) -> bool {
        self.denial.is_some() && self.route.is_none()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The whole response was sent.
    Complete,
    /// The client closed the connection first.
    ClientLeft,
    /// The key no longer allows the request.
    Revoked,
    /// The upstream closed the connection or timed out.
    UpstreamFailed,
}

impl RequestEnd {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Revoked => "revoked",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

/// Any other log line: a change, a warning, a start.
#[derive(Debug)]
pub(crate) struct Event {
    pub(super) at: SystemTime,
    pub(super) level: &'static str,
    pub(super) name: &'static str,
    pub(super) fields: Map<String, Value>,
}

impl Event {
    /// An event that is no problem.
    #[must_use]
    pub(crate) fn info(name: &'static str) -> Self {
        Self::new("info", name)
    }

    /// An event that an operator should look at.
    #[must_use]
    pub(crate) fn warn(name: &'static str) -> Self {
        Self::new("warn", name)
    }

    /// A failure.
    #[must_use]
    pub(crate) fn error(name: &'static str) -> Self {
        Self::new("error", name)
    }

    /// Adds a field.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    fn new(level: &'static str, name: &'static str) -> Self {
        Self {
            at: SystemTime::now(),
            level,
            name,
            fields: Map::new(),
        }
    }
}
