//! What a log line says: the facts of a request that ended, or of any other event.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::policy::network::ClientAddress;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What there is to say of one request, taken when it ended.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// When its head was read.
    pub started: SystemTime,
    /// From its head to its end.
    pub duration: Duration,
    /// From its head to the head of its answer, where there was one.
    pub first_byte: Option<Duration>,
    /// Its x-request-id.
    pub request_id: &'a str,
    /// The key it was judged by.
    pub key_id: Option<&'a str>,
    /// Where it was judged to come from.
    pub client: ClientAddress,
    /// Its method, where it is one that HTTP knows.
    pub method: &'static str,
    /// Its route, where one is served.
    pub route: Option<&'static str>,
    /// The model it named, once it was read.
    pub model: Option<&'a str>,
    /// The upstream it was sent to.
    pub upstream: Option<&'a str>,
    /// The status of its answer; None where there was none.
    pub status: Option<u16>,
    /// Why it was refused or failed.
    pub denial: Option<&'static str>,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of its answer's body.
    pub bytes_out: u64,
    /// How it ended.
    pub end: End,
}

impl Access<'_> {
    /// Whether it was refused before anything of its body was read.
    pub(super) fn is_refused_early(&self) -> bool {
        self.denial.is_some() && self.route.is_none()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer was given whole.
    Complete,
    /// The client left before that.
    ClientLeft,
    /// Its key or access was taken away meanwhile.
    Revoked,
    /// The upstream broke off or fell silent.
    UpstreamFailed,
}

impl End {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Revoked => "revoked",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

/// Anything else worth a line: a change, a warning, a start.
#[derive(Debug)]
pub struct Event {
    pub(super) at: SystemTime,
    pub(super) level: &'static str,
    pub(super) name: &'static str,
    pub(super) facts: Map<String, Value>,
}

impl Event {
    /// Something that happened as intended.
    #[must_use]
    pub fn info(name: &'static str) -> Self {
        Self::new("info", name)
    }

    /// Something an operator should look at.
    #[must_use]
    pub fn warn(name: &'static str) -> Self {
        Self::new("warn", name)
    }

    /// Something that failed.
    #[must_use]
    pub fn error(name: &'static str) -> Self {
        Self::new("error", name)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    fn new(level: &'static str, name: &'static str) -> Self {
        Self {
            at: SystemTime::now(),
            level,
            name,
            facts: Map::new(),
        }
    }
}
