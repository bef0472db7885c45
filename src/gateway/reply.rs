//! Answers that the gateway makes itself: every refusal, in OpenAI's form, and the few things it knows.

use std::fmt;
use std::io;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use rustix::io::Errno;
use serde::Serialize;

use crate::policy::denial::Denial;

use crate::http::headers::{HeadTooLarge, Malformed};
use crate::request_body::coding::{self, UnknownCoding};
use crate::request_body::collect::SpoolFault;
use crate::request_body::model::BodyFault;
use crate::upstream::pool::SendFault;

/// Why a request is not answered by an upstream.
#[derive(Debug)]
pub enum Refusal {
    /// Two servers could read the request differently.
    Malformed(Malformed),
    /// Its head is longer than one may be.
    HeadTooLarge,
    /// A rule refuses it.
    Denied(Denial),
    /// Its body names no one model.
    Body(BodyFault),
    /// Its body is compressed in a way that is not taken.
    Coding(UnknownCoding),
    /// Its body could not be read.
    Unread(SpoolFault),
    /// It expects what nobody here does (RFC 9110 10.1.1).
    Expectation,
    /// The upstream gave no answer.
    Upstream(SendFault),
    /// The upstream refuses the gateway's own credential.
    UpstreamRejected,
    /// Key table or catalogue are not loaded yet.
    NotReady,
    /// The process is ending.
    ShuttingDown,
    /// Too many connections.
    Overloaded,
    /// A fault of the gateway itself.
    Internal,
}

impl Refusal {
    /// The error's `code`, also the metrics' outcome.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_)
            | Self::HeadTooLarge
            | Self::Expectation
            | Self::Unread(SpoolFault::Broken | SpoolFault::Undecodable) => "invalid_request",
            Self::Denied(denial) => denial.label(),
            Self::Body(fault) => fault.code(),
            Self::Coding(UnknownCoding) => "unsupported_media_type",
            Self::Unread(SpoolFault::TooLarge | SpoolFault::Inflated) => "request_too_large",
            Self::Unread(SpoolFault::Stalled) => "request_timeout",
            Self::Unread(SpoolFault::Overloaded) | Self::Overloaded => "overloaded",
            Self::Upstream(SendFault::Unavailable) => "upstream_unavailable",
            Self::Upstream(SendFault::Unreachable(error)) if is_shortage(error) => "overloaded",
            Self::Upstream(SendFault::Unreachable(_) | SendFault::Broken(_)) => {
                "upstream_unreachable"
            }
            Self::Upstream(SendFault::Silent) => "upstream_timeout",
            Self::UpstreamRejected => "upstream_rejected",
            Self::NotReady => "not_ready",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal_error",
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Unread(SpoolFault::Broken | SpoolFault::Undecodable) => {
                StatusCode::BAD_REQUEST
            }
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Denied(denial) => match denial {
                Denial::MissingApiKey
                | Denial::InvalidApiKey
                | Denial::ExpiredApiKey
                | Denial::IpNotAuthorized => StatusCode::UNAUTHORIZED,
                Denial::UnknownUrl | Denial::ModelNotFound => StatusCode::NOT_FOUND,
                Denial::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            },
            Self::Body(fault) => match fault {
                BodyFault::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                BodyFault::AmbiguousModel(_)
                | BodyFault::InvalidJson(_)
                | BodyFault::MissingModel
                | BodyFault::InvalidMultipart(_) => StatusCode::BAD_REQUEST,
            },
            Self::Coding(UnknownCoding) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unread(SpoolFault::TooLarge | SpoolFault::Inflated) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Unread(SpoolFault::Stalled) => StatusCode::REQUEST_TIMEOUT,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Upstream(SendFault::Unreachable(error)) if is_shortage(error) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Upstream(SendFault::Unreachable(_) | SendFault::Broken(_))
            | Self::UpstreamRejected => StatusCode::BAD_GATEWAY,
            Self::Upstream(SendFault::Silent) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(SendFault::Unavailable)
            | Self::Unread(SpoolFault::Overloaded)
            | Self::NotReady
            | Self::ShuttingDown
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The parameter at fault.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Body(fault) => fault.param(),
            Self::Denied(Denial::ModelNotFound) => Some("model"),
            _ => None,
        }
    }

    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        self.add_headers(headers);
        response
    }

    /// The body alone, as an error event in a stream carries it too.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let kind = if self.status().is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let message = self.to_string();
        json(&ErrorBody {
            error: Error {
                message: &message,
                kind,
                param: self.param(),
                code: self.code(),
            },
        })
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE if self.code() == "overloaded" => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Self::Denied(Denial::MethodNotAllowed { allow }) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Self::Coding(UnknownCoding) = self {
            // Tells clients that it was the coding, and which to use (RFC 9110 15.5.16).
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding::TAKEN));
        }
    }
}

/// What the caller reads: what happened, and what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(Malformed(what)) => return write!(f, "The request is malformed: {what}."),
            Self::HeadTooLarge => {
                "The request's headers are larger than is taken here. Send fewer or shorter ones."
            }
            Self::Body(fault) => return fault.fmt(f),
            Self::Denied(denial) => denial.message(),
            Self::Unread(SpoolFault::TooLarge) => {
                "The request body is larger than is taken here. Send less, such as fewer messages or a smaller file."
            }
            Self::Coding(UnknownCoding) => {
                "The body is compressed in a way that is not taken here. Send one Content-Encoding header with one of \
                 gzip, deflate, br and zstd, or send the body as it is, without the header."
            }
            Self::Unread(SpoolFault::Undecodable) => {
                "The body is not what its Content-Encoding says: it is cut short or damaged, something follows its end, \
                 it has over 1024 members, or it needs a window over 4 MiB (br) or 8 MiB (zstd). Send it again, compressed in \
                 one piece by an encoder's default settings, or send it as it is, without the header."
            }
            Self::Unread(SpoolFault::Inflated) => {
                "The body unpacks to more than a hundred times its size. Send it as it is, without Content-Encoding."
            }
            Self::Unread(SpoolFault::Stalled) => {
                "The request body stopped coming, or came too slowly. Send it again, without pauses."
            }
            Self::Unread(SpoolFault::Broken) => "The request body broke off, or its chunks are malformed.",
            Self::Unread(SpoolFault::Overloaded) | Self::Overloaded => {
                "Too much is being sent at the moment. Try again in a second."
            }
            Self::Expectation => "The only expectation taken is 100-continue; leave the Expect header out.",
            Self::Upstream(SendFault::Unreachable(error)) if is_shortage(error) => {
                "Too much is going on at the moment. Try again in a second."
            }
            Self::Upstream(SendFault::Unavailable) => "No server for this model is up at the moment. Try again soon.",
            Self::Upstream(SendFault::Unreachable(_) | SendFault::Broken(_)) => {
                "The server for this model could not be reached or broke off. Try again; if it stays so, tell the operator."
            }
            Self::Upstream(SendFault::Silent) => "The server for this model did not answer in time. Try again later.",
            Self::UpstreamRejected => {
                "The server for this model refuses the gateway's own credential. Your API key is fine; tell the operator."
            }
            Self::NotReady => "The gateway is starting. Try again in a few seconds.",
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

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<HeadTooLarge> for Refusal {
    fn from(HeadTooLarge: HeadTooLarge) -> Self {
        Self::HeadTooLarge
    }
}

impl From<BodyFault> for Refusal {
    fn from(fault: BodyFault) -> Self {
        Self::Body(fault)
    }
}

impl From<UnknownCoding> for Refusal {
    fn from(unknown: UnknownCoding) -> Self {
        Self::Coding(unknown)
    }
}

impl From<SpoolFault> for Refusal {
    fn from(fault: SpoolFault) -> Self {
        Self::Unread(fault)
    }
}

impl From<SendFault> for Refusal {
    fn from(fault: SendFault) -> Self {
        Self::Upstream(fault)
    }
}

/// Whether it is the gateway itself that lacks what a connection takes: then the upstream is not at fault.
fn is_shortage(error: &io::Error) -> bool {
    let known = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let code = error.raw_os_error();
    known.iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// OpenAI's error object.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// `application/json`
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A value as JSON text.
#[must_use]
pub fn json(value: &impl Serialize) -> Bytes {
    // Plain structs of text and numbers always serialize.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// A 200 with JSON.
#[must_use]
pub fn ok(value: &impl Serialize) -> Response<Bytes> {
    let mut response = Response::new(json(value));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_openais_form() {
        let response = Refusal::from(Denial::ModelNotFound).response();
        assert_eq!(response.status(), 404);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["param"], "model");
        assert_eq!(body["error"]["code"], "model_not_found");
        let body: serde_json::Value = serde_json::from_slice(&Refusal::Internal.body()).unwrap();
        assert_eq!(body["error"]["type"], "server_error");
        assert_eq!(body["error"]["param"], serde_json::Value::Null);
    }

    #[test]
    fn statuses_carry_the_headers_that_belong_to_them() {
        let headers = |refusal: Refusal| refusal.response().headers().clone();
        assert_eq!(
            headers(Denial::ExpiredApiKey.into())[WWW_AUTHENTICATE],
            "Bearer"
        );
        assert_eq!(
            headers(Denial::MethodNotAllowed { allow: "GET" }.into())[ALLOW],
            "GET"
        );
        assert_eq!(headers(SpoolFault::Overloaded.into())[RETRY_AFTER], "1");
        let out_of_descriptors = SendFault::Unreachable(Errno::MFILE.into());
        assert_eq!(headers(out_of_descriptors.into())[RETRY_AFTER], "1");
        assert!(!headers(Refusal::ShuttingDown).contains_key(RETRY_AFTER));
    }
}
