//! Answers: what was done, or why not. One exhaustive match takes every refusal to its status.

use std::path::Path;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use crate::observe::log::is_harmless;
use crate::store::fault::Fault;
use crate::store::key_json::KeyJsonError;
use crate::store::key_store::{StoreError, WriteError};
use crate::store::strict_json::FieldError;

/// What was done.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Why something is not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The request is not one.
    Malformed(String),
    /// No token, or not the one, and no session.
    Unauthorized,
    /// A sign-in with another token than the one.
    WrongToken,
    /// A sign-in with a link that was used, is too old, or never was one.
    WrongLink,
    /// A page of another origin asks.
    ForeignOrigin,
    /// A session's cookie came, but nothing says that the panel sent it.
    NotFromPanel,
    /// No such path.
    UnknownPath,
    /// No such key.
    UnknownKey,
    /// The path is served under these methods.
    MethodNotAllowed(String),
    /// The body did not come in time.
    Slow,
    /// The file drops too many keys.
    Conflict(String),
    /// The body is too long.
    TooLarge,
    /// The body is said to be no JSON.
    MediaType,
    /// The Host is not one of this listener's.
    Misdirected,
    /// A field or parameter is wrong.
    Invalid(FieldError),
    /// Files are faulty.
    Faulty {
        /// What is wrong with them; at least one.
        faults: Vec<Fault>,
        /// What to say besides the first.
        besides: String,
    },
    /// The key file could not be written.
    NotWritten {
        /// Whether the change is in force all the same.
        in_force: bool,
        /// What was in the way.
        message: String,
    },
    /// Something that never should fail did.
    Internal,
    /// Not ready for requests yet, or no longer.
    NotReady(&'static str),
}

impl Reply {
    /// 200 with JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        Self::with_status(StatusCode::OK, value)
    }

    /// 201 with JSON.
    pub(super) fn created(value: &impl Serialize) -> Self {
        Self::with_status(StatusCode::CREATED, value)
    }

    /// 204.
    pub(super) fn done() -> Self {
        Self::empty(StatusCode::NO_CONTENT)
    }

    /// Nothing but a status.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// 200 with what is compiled in.
    pub(super) fn file(kind: &'static str, content: &'static [u8]) -> Self {
        Self::of(StatusCode::OK, kind, Bytes::from_static(content))
    }

    /// 200 with JSON that is text already.
    pub(super) fn json_text(body: Bytes) -> Self {
        Self::of(StatusCode::OK, "application/json", body)
    }

    /// 200 with plain text.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::of(StatusCode::OK, "text/plain; charset=utf-8", text.into())
    }

    /// 200 with metrics (Prometheus' text format).
    pub(super) fn metrics(text: Vec<u8>) -> Self {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        Self::of(StatusCode::OK, kind, text.into())
    }

    fn with_status(status: StatusCode, value: &impl Serialize) -> Self {
        // Only maps with keys that are no text fail to become JSON, and there are none here.
        let body = serde_json::to_string(value).unwrap_or_default();
        Self::of(status, "application/json", plain_json(body))
    }

    fn of(status: StatusCode, kind: &'static str, body: Bytes) -> Self {
        let reply = Self {
            body,
            ..Self::empty(status)
        };
        reply.with(CONTENT_TYPE, HeaderValue::from_static(kind))
    }

    /// The same with this header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Status and body, for whoever speaks no HTTP.
    pub(super) fn into_parts(self) -> (StatusCode, Bytes) {
        (self.status, self.body)
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // No page of another origin gets to load any of it, as a script or an image either.
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        response
    }
}

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

impl Refusal {
    /// A field or parameter is wrong.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(FieldError {
            field: field.to_owned(),
            message: message.into(),
        })
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::WrongToken | Self::WrongLink => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin | Self::NotFromPanel => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::UnknownKey => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Invalid(_) | Self::Faulty { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotWritten { .. } => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// One word for the log.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Invalid(_) => "invalid",
            Self::Unauthorized | Self::WrongToken | Self::WrongLink => "unauthorized",
            Self::ForeignOrigin => "foreign_origin",
            Self::NotFromPanel => "not_from_panel",
            Self::UnknownPath | Self::UnknownKey => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::Slow => "slow",
            Self::Conflict(_) => "drops_too_many",
            Self::TooLarge => "too_large",
            Self::MediaType => "media_type",
            Self::Misdirected => "misdirected",
            Self::Faulty { .. } => "faulty",
            Self::NotWritten { in_force: true, .. } => "in_force_not_written",
            Self::NotWritten {
                in_force: false, ..
            } => "not_written",
            Self::Internal => "internal",
            Self::NotReady(_) => "not_ready",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Malformed(message) | Self::Conflict(message) => message.clone(),
            Self::Unauthorized => "Send the admin token: 'Authorization: Bearer' and what admin.token_file holds.".to_owned(),
            Self::WrongToken => "This is not the admin token; admin.token_file holds it.".to_owned(),
            Self::WrongLink => "This link was used, or is too old; sign in with the admin token.".to_owned(),
            Self::NotFromPanel => {
                "A session's changes need 'X-Keygate-Panel: 1' and 'Content-Type: application/json'; send both.".to_owned()
            }
            Self::ForeignOrigin => {
                "Pages of another origin may not call the admin API; open it under its own address.".to_owned()
            }
            Self::UnknownPath => "This path is not served here; GET /api/openapi.json lists what is.".to_owned(),
            Self::UnknownKey => "No key has this id; keygate keys list, or GET /api/keys, lists them.".to_owned(),
            Self::MethodNotAllowed(allow) => format!("This path is served under {allow}."),
            Self::Slow => "The body did not come in time; send it at once.".to_owned(),
            Self::TooLarge => "The body is longer than 1 MiB; send less.".to_owned(),
            Self::MediaType => "Send the body as JSON, with 'Content-Type: application/json'.".to_owned(),
            Self::Misdirected => {
                "This Host is not one of this listener's; use its address or localhost, or add the name to admin.hosts."
                    .to_owned()
            }
            Self::Invalid(complaint) => complaint.to_string(),
            Self::Faulty { faults, besides } => {
                let first = faults.first().map(shown).unwrap_or_default();
                let more = match faults.len() {
                    0 | 1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                format!("{first}{more}{besides}")
            }
            Self::NotWritten { message, .. } => message.clone(),
            Self::Internal => "Something failed that should not; the log says what.".to_owned(),
            Self::NotReady(why) => format!("Not ready: {why}."),
        }
    }

    fn field(&self) -> Option<&str> {
        let field = match self {
            Self::Invalid(complaint) => &complaint.field,
            Self::Faulty { faults, .. } => &faults.first()?.field,
            _ => return None,
        };
        Some(field.as_str()).filter(|field| !field.is_empty())
    }

    fn body(&self) -> Value {
        let mut body = json!({"error": {"message": self.message(), "field": self.field()}});
        match self {
            Self::Faulty { faults, .. } => {
                body["error"]["faults"] = faults.iter().map(fault_value).collect();
            }
            Self::NotWritten { in_force, .. } => body["in_force"] = Value::Bool(*in_force),
            _ => {}
        }
        body
    }

    /// Status and body, for whoever speaks no HTTP.
    pub(super) fn into_parts(self) -> (StatusCode, Bytes) {
        (self.status(), plain_json(self.body().to_string()))
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Reply::with_status(self.status(), &self.body()).into_response();
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed(allow) = &self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(ALLOW, allow);
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<KeyJsonError> for Refusal {
    fn from(fault: KeyJsonError) -> Self {
        match fault {
            KeyJsonError::NotJson(complaint) => {
                Self::Malformed(format!("The body {}", complaint.message))
            }
            KeyJsonError::Invalid(complaint) => Self::Invalid(complaint),
        }
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::NotFound => Self::UnknownKey,
            WriteError::Invalid(complaint) => Self::Invalid(complaint),
            WriteError::NotWritten {
                in_force: false,
                error: obstacle @ (StoreError::Faulty(_) | StoreError::DropLimit(_)),
            } => obstacle.into(),
            WriteError::NotWritten { in_force, .. } => Self::NotWritten { in_force, message },
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(obstacle: StoreError) -> Self {
        match &obstacle {
            StoreError::Faulty(error) => Self::Faulty {
                faults: error.faults().to_vec(),
                besides: String::new(),
            },
            StoreError::DropLimit(_) => Self::Conflict(obstacle.to_string()),
            StoreError::Io(_) => Self::NotWritten {
                in_force: false,
                message: obstacle.to_string(),
            },
        }
    }
}

/// The same JSON with whatever could drive a terminal escaped: people read answers there too.
fn plain_json(json: String) -> Bytes {
    let is_plain = |character: char| character.is_ascii_graphic() || is_harmless(character);
    if json.chars().all(is_plain) {
        return json.into();
    }
    let mut plain = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_plain(character) {
            plain.push(character);
            continue;
        }
        // JSON itself is graphic ASCII, so that this stands within a string (RFC 8259 7).
        for unit in character.encode_utf16(&mut [0; 2]) {
            plain.push_str(&format!("\\u{unit:04x}"));
        }
    }
    plain.into()
}

/// A fault as people read it, under its file's own name: where it lies is the operator's to know.
fn shown(fault: &Fault) -> String {
    Fault {
        file: name_of(&fault.file).into(),
        ..fault.clone()
    }
    .to_string()
}

fn fault_value(fault: &Fault) -> Value {
    json!({
        "file": name_of(&fault.file),
        "line": fault.line,
        "field": fault.field,
        "message": fault.message,
    })
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or(file.as_os_str())
        .to_string_lossy()
        .into_owned()
}
