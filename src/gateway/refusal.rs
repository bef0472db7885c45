//! Why a request is refused: the status, the code and the message of each reason.

use std::fmt;
use std::io;

use http::StatusCode;
use rustix::io::Errno;

use crate::gateway::limit_refusal::LimitRefusal;
use crate::http::fields::Fields;
use crate::http::head::{HeadError, MAX_REQUEST_FIELDS};
use crate::policy::denial::Denial;
use crate::request_body::coding::{self, UnsupportedCodingError};
use crate::request_body::collect::CollectError;
use crate::request_body::model::BodyError;
use crate::store::strict_json::FieldError;
use crate::upstream::pool::SendError;

/// Why a request is not answered by an upstream.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Its head breaks a rule of HTTP, or is too large.
    Head(HeadError),
    /// A rule refuses it.
    Denied(Denial),
    /// It names a model that nobody serves, and the key may use this one of a similar name.
    SimilarModel(String),
    /// Its body names no one model.
    Body(BodyError),
    /// It has a field that uses what the upstream stored.
    StateField(&'static str),
    /// It has a field that steers the upstream's engine.
    EngineField(&'static str),
    /// It has a field that is not documented for the route. The name, fit to be shown.
    UnknownField(String),
    /// Its body is compressed in a way that is not taken.
    Coding(UnsupportedCodingError),
    /// Its body could not be read.
    Unread(CollectError),
    /// It expects what nobody here does (RFC 9110 10.1.1).
    Expectation,
    /// A limit or a budget refuses it.
    Limited(LimitRefusal),
    /// The upstream gave no answer.
    Upstream(SendError),
    /// The upstream refuses the gateway's own credential.
    UpstreamRejected,
    /// Key table or catalogue are not loaded yet.
    NotReady,
    /// The keys are older than `keys.max_stale` allows.
    StaleTable,
    /// The process is ending.
    ShuttingDown,
    /// Too many connections.
    Overloaded,
    /// It asks for usage, and a parameter is wrong.
    Query(FieldError),
    /// It asks for usage, and its query is not UTF-8.
    UndecodableQuery,
    /// It asks for usage, and there is no database.
    NoDatabase,
    /// It asks for usage, and the database cannot be read.
    DatabaseFailed,
    /// A fault of the gateway itself.
    Internal,
}

impl Refusal {
    /// The error's `code`, also the metrics' outcome.
    #[must_use]
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Head(_)
            | Self::Expectation
            | Self::Query(_)
            | Self::UndecodableQuery
            | Self::Unread(CollectError::Broken | CollectError::Undecodable) => "invalid_request",
            Self::NoDatabase | Self::DatabaseFailed => "usage_unavailable",
            Self::Denied(denial) => denial.label(),
            Self::SimilarModel(_) => Denial::ModelNotFound.label(),
            Self::Body(fault) => fault.code(),
            Self::StateField(_) => "state_not_allowed",
            Self::EngineField(_) => "field_not_allowed",
            Self::UnknownField(_) => "unknown_field",
            Self::Coding(UnsupportedCodingError) => "unsupported_media_type",
            Self::Unread(CollectError::TooLarge(_) | CollectError::Inflated) => "request_too_large",
            Self::Unread(CollectError::Stalled) => "request_timeout",
            Self::Unread(CollectError::Overloaded) | Self::Overloaded => "overloaded",
            Self::Upstream(SendError::Unavailable) => "upstream_unavailable",
            Self::Upstream(SendError::Unreachable(error)) if is_shortage(error) => "overloaded",
            Self::Upstream(SendError::Unreachable(_) | SendError::Broken(_)) => {
                "upstream_unreachable"
            }
            Self::Upstream(SendError::Silent) => "upstream_timeout",
            Self::Limited(limit) => limit.code(),
            Self::UpstreamRejected => "upstream_rejected",
            Self::NotReady => "not_ready",
            Self::StaleTable => "stale_table",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal_error",
        }
    }

    /// The status of the answer.
    #[must_use]
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Head(HeadError::Malformed(_))
            | Self::Query(_)
            | Self::UndecodableQuery
            | Self::Unread(CollectError::Broken | CollectError::Undecodable) => {
                StatusCode::BAD_REQUEST
            }
            Self::Head(HeadError::TooLarge(_) | HeadError::TooManyFields) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Denied(denial) => match denial {
                Denial::MissingApiKey
                | Denial::InvalidApiKey
                | Denial::ExpiredApiKey
                | Denial::IpNotAuthorized => StatusCode::UNAUTHORIZED,
                Denial::UnknownUrl | Denial::ModelNotFound => StatusCode::NOT_FOUND,
                Denial::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            },
            Self::SimilarModel(_) | Self::NoDatabase => StatusCode::NOT_FOUND,
            Self::Body(fault) => match fault {
                BodyError::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                BodyError::AmbiguousModel(_)
                | BodyError::AmbiguousField(_)
                | BodyError::InvalidJson(_)
                | BodyError::MissingModel
                | BodyError::InvalidMultipart(_) => StatusCode::BAD_REQUEST,
            },
            Self::StateField(_) | Self::EngineField(_) | Self::UnknownField(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Limited(limit) => limit.status(),
            Self::Coding(UnsupportedCodingError) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unread(CollectError::TooLarge(_) | CollectError::Inflated) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Unread(CollectError::Stalled) => StatusCode::REQUEST_TIMEOUT,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Upstream(SendError::Unreachable(error)) if is_shortage(error) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Upstream(SendError::Unreachable(_) | SendError::Broken(_))
            | Self::UpstreamRejected => StatusCode::BAD_GATEWAY,
            Self::Upstream(SendError::Silent) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(SendError::Unavailable)
            | Self::Unread(CollectError::Overloaded)
            | Self::NotReady
            | Self::StaleTable
            | Self::ShuttingDown
            | Self::DatabaseFailed
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error's `type` where it is one of its own, in OpenAI's form: what is limited.
    #[must_use]
    pub(super) fn limited_kind(&self) -> Option<&'static str> {
        match self {
            Self::Limited(limit) => limit.kind(),
            _ => None,
        }
    }

    /// Whether a limit or a budget of the key refuses.
    #[must_use]
    pub(super) fn is_of_limits(&self) -> bool {
        matches!(self, Self::Limited(_))
    }

    /// The parameter at fault.
    #[must_use]
    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::StateField(field) | Self::EngineField(field) => Some(field),
            Self::UnknownField(field) => Some(field),
            Self::Query(error) => Some(&error.field),
            Self::Body(fault) => fault.param(),
            Self::Denied(Denial::ModelNotFound) | Self::SimilarModel(_) => Some("model"),
            _ => None,
        }
    }

    /// Whether no other request may follow on its connection: where the next one begins is not certain, the client does
    /// not send what it said it would, or no request is taken any more.
    #[must_use]
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Head(_)
                | Self::Unread(CollectError::Stalled | CollectError::Broken)
                | Self::ShuttingDown
        )
    }

    /// Adds the header fields that belong to the refusal.
    pub(super) fn add_fields(&self, fields: &mut Fields) {
        match self.status() {
            StatusCode::UNAUTHORIZED => fields.push("www-authenticate", b"Bearer"),
            StatusCode::SERVICE_UNAVAILABLE if self.code() == "overloaded" => {
                fields.push("retry-after", b"1");
            }
            StatusCode::SERVICE_UNAVAILABLE
                if matches!(self, Self::NotReady | Self::StaleTable) =>
            {
                fields.push("retry-after", b"5");
            }
            _ => {}
        }
        if let Self::Limited(limit) = self {
            limit.add_fields(fields);
        }
        if let Self::Denied(Denial::MethodNotAllowed { allow }) = self {
            fields.push("allow", allow.as_bytes());
        }
        if let Self::Coding(UnsupportedCodingError) = self {
            // Tells clients that it was the coding, and which to use (RFC 9110 15.5.16).
            fields.push("accept-encoding", coding::ACCEPTED.as_bytes());
        }
    }
}

/// What the caller reads: what happened, and what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head(HeadError::Malformed(what)) => return write!(f, "The request is malformed: {what}."),
            Self::Head(HeadError::TooLarge(limit)) => {
                return write!(
                    f,
                    "The request's headers are larger than this gateway takes: {} in all. Send fewer or shorter ones.",
                    ByteCount(*limit)
                );
            }
            Self::Head(HeadError::TooManyFields) => {
                return write!(
                    f,
                    "The request has more headers than this gateway takes: {MAX_REQUEST_FIELDS}. Send fewer."
                );
            }
            Self::Body(fault) => return fault.fmt(f),
            Self::Denied(denial) => denial.message(),
            Self::SimilarModel(model) => return write!(
                f,
                "{} Did you mean `{model}`?",
                Denial::ModelNotFound.message()
            ),
            Self::StateField(field) => return write!(
                f,
                "The field `{field}` uses what the server keeps of earlier requests, which is not taken here: other users \
                 could see it. Remove it, and send all that the model needs with each request."
            ),
            Self::EngineField(field) => return write!(
                f,
                "The field `{field}` steers the server's engine, and is not taken here. Remove it."
            ),
            Self::UnknownField(field) => return write!(
                f,
                "The field `{field}` is not documented for this path, and the server for this model takes only documented \
                 fields here. Remove it, or look at its spelling."
            ),
            Self::Unread(CollectError::TooLarge(limit)) => {
                return write!(
                    f,
                    "The request body is larger than this gateway takes: {}. Send less, such as fewer messages or a \
                     smaller file. If it is compressed, the limit holds for what it unpacks to.",
                    ByteCount(*limit)
                );
            }
            Self::Coding(UnsupportedCodingError) => {
                "The body is compressed in a way that is not taken here. Send one Content-Encoding header with one of \
                 gzip, deflate, br and zstd, or send the body as it is, without the header."
            }
            Self::Unread(CollectError::Undecodable) => {
                "The body is not what its Content-Encoding says: it is cut short or damaged, something follows its end, \
                 it has over 1024 members, or it needs a window over 4 MiB (br) or 8 MiB (zstd). Send it again, compressed in \
                 one piece by an encoder's default settings, or send it as it is, without the header."
            }
            Self::Unread(CollectError::Inflated) => {
                "The body unpacks to more than a hundred times its size. Send it as it is, without Content-Encoding."
            }
            Self::Unread(CollectError::Stalled) => {
                "The request body stopped coming, or came too slowly. Send it again, without pauses."
            }
            Self::Unread(CollectError::Broken) => {
                "The request body broke off, or its chunks are malformed. Send it whole, with Content-Length or in chunks \
                 as your HTTP library writes them."
            }
            Self::Unread(CollectError::Overloaded) | Self::Overloaded => {
                "Too much is being sent at the moment. Try again in a second."
            }
            Self::Expectation => "The only expectation taken is 100-continue; leave the Expect header out.",
            Self::Limited(limit) => return limit.fmt(f),
            Self::Upstream(SendError::Unreachable(error)) if is_shortage(error) => {
                "Too much is going on at the moment. Try again in a second."
            }
            Self::Upstream(SendError::Unavailable) => "No server for this model is up at the moment. Try again soon.",
            Self::Upstream(SendError::Unreachable(_) | SendError::Broken(_)) => {
                "The server for this model could not be reached or broke off. Try again; if it stays so, tell the operator."
            }
            Self::Upstream(SendError::Silent) => "The server for this model did not answer in time. Try again later.",
            Self::UpstreamRejected => {
                "The server for this model refuses the gateway's own credential. Your API key is fine; tell the operator."
            }
            Self::StaleTable => {
                "The gateway could not look for too long whether keys were taken back, and refuses all of them. Your API key is \
                 fine; try again later."
            }
            Self::NotReady => {
                "The gateway is starting, or a server has not said yet which models it has. Try again in a few seconds."
            }
            Self::Query(error) => {
                return write!(f, "The parameter `{}` {}.", error.field, error.message);
            }
            Self::UndecodableQuery => "The query holds escapes that are not UTF-8. Encode it as UTF-8.",
            Self::NoDatabase => "This gateway keeps no usage. Ask the operator, who can give it a database.",
            // Its text names files of the server.
            Self::DatabaseFailed => "The usage cannot be read at the moment. Try again later; if it stays so, tell the operator.",
            Self::ShuttingDown => "The gateway is shutting down. Try again on a new connection.",
            Self::Internal => "The gateway failed at this request. Try again; if it stays so, tell the operator.",
        })
    }
}

impl std::error::Error for Refusal {}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(fault: BodyError) -> Self {
        Self::Body(fault)
    }
}

impl From<UnsupportedCodingError> for Refusal {
    fn from(unknown: UnsupportedCodingError) -> Self {
        Self::Coding(unknown)
    }
}

impl From<CollectError> for Refusal {
    fn from(fault: CollectError) -> Self {
        Self::Unread(fault)
    }
}

impl From<LimitRefusal> for Refusal {
    fn from(limit: LimitRefusal) -> Self {
        Self::Limited(limit)
    }
}

impl From<SendError> for Refusal {
    fn from(fault: SendError) -> Self {
        Self::Upstream(fault)
    }
}

/// A number of bytes, also in the largest unit that divides it.
struct ByteCount(usize);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        match bytes {
            0 => f.write_str("0 bytes"),
            _ if bytes % (1 << 20) == 0 => write!(f, "{} MiB ({bytes} bytes)", bytes >> 20),
            _ if bytes % (1 << 10) == 0 => write!(f, "{} KiB ({bytes} bytes)", bytes >> 10),
            _ => write!(f, "{bytes} bytes"),
        }
    }
}

/// Whether it is the gateway itself that lacks what a connection takes: then the upstream is not at fault.
fn is_shortage(error: &io::Error) -> bool {
    let known = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        // No local port is free for another connection to this address.
        Errno::ADDRNOTAVAIL,
        Errno::AGAIN,
    ];
    let code = error.raw_os_error();
    known.iter().any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_size_names_the_limit() {
        for (refusal, limit) in [
            (
                Refusal::from(CollectError::TooLarge(32 << 20)),
                "this gateway takes: 32 MiB (33554432 bytes). Send less",
            ),
            (CollectError::TooLarge(3000).into(), "takes: 3000 bytes."),
            (
                HeadError::TooLarge(64 << 10).into(),
                "takes: 64 KiB (65536 bytes) in all.",
            ),
            (HeadError::TooManyFields.into(), "takes: 100. Send fewer."),
        ] {
            let message = refusal.to_string();
            assert!(message.contains(limit), "{message}");
        }
    }

    #[test]
    fn statuses_carry_the_headers_that_belong_to_them() {
        let headers = |refusal: Refusal| {
            let (mut fields, mut text) = (Fields::default(), Vec::new());
            refusal.add_fields(&mut fields);
            fields.write(&mut text, |_| true);
            String::from_utf8(text).unwrap()
        };
        let has = |refusal: Refusal, line: &str| headers(refusal).contains(line);
        assert!(has(
            Denial::ExpiredApiKey.into(),
            "www-authenticate: Bearer\r\n"
        ));
        assert!(has(
            Denial::MethodNotAllowed { allow: "GET" }.into(),
            "allow: GET\r\n"
        ));
        assert!(has(CollectError::Overloaded.into(), "retry-after: 1\r\n"));
        for shortage in [Errno::MFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS] {
            let shortage = Refusal::from(SendError::Unreachable(shortage.into()));
            assert_eq!(
                (shortage.status().as_u16(), shortage.code()),
                (503, "overloaded")
            );
            assert!(has(shortage, "retry-after: 1\r\n"));
        }
        assert!(has(Refusal::NotReady, "retry-after: 5\r\n"));
        assert!(!has(Refusal::ShuttingDown, "retry-after"));
    }
}
