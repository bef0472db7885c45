//! Why a call fails. One exhaustive match maps every error to its status.

use std::path::Path;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::admin::response::{ApiResponse, plain_json};
use crate::store::audit::AuditError;
use crate::store::fault::Fault;
use crate::store::key_json::KeyJsonError;
use crate::store::key_store::{SourceError, StoreError, WriteError};
use crate::store::strict_json::FieldError;

/// Why a call fails.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The request is not valid HTTP or its body is not JSON.
    Malformed(String),
    /// No token or a wrong one, and no session.
    Unauthorized,
    /// A sign-in with a wrong token.
    WrongToken,
    /// A sign-in with a link that was used, is too old, or never existed.
    WrongLink,
    /// A sign-in with a wrong e-mail address or password.
    WrongPassword,
    /// An invitation that was used, taken back, is too old, or never existed.
    WrongInvitation,
    /// A sign-in by the identity provider of somebody whom nobody invited.
    NotInvited,
    /// A sign-in of a person who is in no account any more.
    InNoAccount,
    /// Too many wrong passwords were shown.
    TooManyTries {
        /// When the next one is looked at, in seconds.
        seconds: i64,
    },
    /// Very many sign in at once.
    TooManySignIns,
    /// A sign-in by password, which is not offered.
    NoPasswords,
    /// A session's cookie without the secret that belongs to it.
    CookieAlone,
    /// A page of another origin sent the request.
    ForeignOrigin,
    /// The request has a session's cookie, but not the headers that only the panel sends.
    NotFromPanel,
    /// No such path.
    UnknownPath,
    /// No such key.
    UnknownKey,
    /// No such account.
    UnknownAccount,
    /// No such member of the account.
    UnknownMember,
    /// No such open invitation of the account.
    UnknownInvitation,
    /// No such session of the person.
    UnknownSession,
    /// It would leave the account without an owner.
    LastOwner,
    /// The person is in an account of somebody else too.
    IsElsewhere,
    /// The person signs in without a password.
    NoPassword,
    /// The account has very many open invitations.
    TooManyInvitations,
    /// Somebody else was faster with the people of the account. What happened, as a sentence.
    ChangedMeanwhile(&'static str),
    /// An account of this id exists.
    AccountExists,
    /// The account is not at the revision of If-Match.
    AccountChanged,
    /// The account has another number of keys than go with it.
    AccountHasKeys {
        /// How many.
        keys: usize,
    },
    /// The key is not at the revision of If-Match.
    KeyChanged,
    /// The call was done before under the same Idempotency-Key, or is being done.
    Repeated {
        /// The key as it is now; null if it is not known.
        key: Value,
    },
    /// The path has other methods, listed here.
    MethodNotAllowed(String),
    /// The body took too long.
    Slow,
    /// The key file drops too many keys.
    Conflict(String),
    /// A link to the panel, which is not served.
    NoPanel,
    /// The body is too long.
    TooLarge,
    /// The content type is not JSON.
    MediaType,
    /// The Host header names another server.
    Misdirected,
    /// A field or parameter is wrong.
    Invalid(FieldError),
    /// Files have faults.
    Faulty {
        /// The faults; at least one.
        faults: Vec<Fault>,
        /// Text to add to the message of the first fault.
        suffix: String,
    },
    /// The key file could not be written.
    NotWritten {
        /// Whether the change is in force anyway.
        in_force: bool,
        /// Why.
        message: String,
    },
    /// There is no database, and so nobody knows what was used.
    NoDatabase,
    /// There is no database, and so there are no accounts.
    NoAccounts,
    /// The config has no alerts.
    NoAlerts,
    /// There is no database, and so nobody knows what was changed.
    NoAudit,
    /// The database could not be read.
    DatabaseFailed,
    /// The database of the keys cannot be followed or written: why, and what became of the change.
    KeysUnavailable(String),
    /// Other gateways are changing keys. What was asked for may be done in a moment.
    KeysBusy(String),
    /// A bug: something failed that never should.
    Internal,
    /// Not ready for requests, and why.
    NotReady(&'static str),
}

impl ApiError {
    /// A field or parameter is wrong.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(FieldError {
            field: field.to_owned(),
            message: message.into(),
        })
    }

    /// Whether somebody showed what nobody here has, as whoever guesses does.
    pub(super) fn is_wrong_sign_in(&self) -> bool {
        matches!(
            self,
            Self::WrongToken
                | Self::WrongLink
                | Self::WrongPassword
                | Self::WrongInvitation
                | Self::TooManyTries { .. }
        )
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized
            | Self::WrongToken
            | Self::WrongLink
            | Self::WrongPassword
            | Self::WrongInvitation
            | Self::InNoAccount
            | Self::NotInvited
            | Self::CookieAlone => StatusCode::UNAUTHORIZED,
            Self::TooManyTries { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::ForeignOrigin | Self::NotFromPanel => StatusCode::FORBIDDEN,
            Self::UnknownPath
            | Self::UnknownKey
            | Self::UnknownAccount
            | Self::UnknownMember
            | Self::UnknownInvitation
            | Self::UnknownSession
            | Self::NoPasswords
            | Self::NoAccounts
            | Self::NoDatabase
            | Self::NoAlerts
            | Self::NoAudit => StatusCode::NOT_FOUND,
            Self::KeyChanged | Self::AccountChanged => StatusCode::PRECONDITION_FAILED,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_)
            | Self::NoPanel
            | Self::Repeated { .. }
            | Self::AccountExists
            | Self::LastOwner
            | Self::IsElsewhere
            | Self::NoPassword
            | Self::TooManyInvitations
            | Self::ChangedMeanwhile(_)
            | Self::AccountHasKeys { .. } => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Invalid(_) | Self::Faulty { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady(_)
            | Self::DatabaseFailed
            | Self::KeysUnavailable(_)
            | Self::KeysBusy(_)
            | Self::TooManySignIns => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotWritten { .. } => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// One word for the log.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Invalid(_) => "invalid",
            Self::Unauthorized | Self::WrongToken | Self::CookieAlone => "unauthorized",
            Self::WrongPassword => "wrong_password",
            Self::WrongLink | Self::WrongInvitation => "wrong_link",
            Self::InNoAccount => "in_no_account",
            Self::NotInvited => "not_invited",
            Self::TooManyTries { .. } => "too_many_tries",
            Self::TooManySignIns => "too_many_sign_ins",
            Self::NoPasswords => "no_passwords",
            Self::LastOwner => "last_owner",
            Self::IsElsewhere => "is_elsewhere",
            Self::NoPassword => "no_password",
            Self::TooManyInvitations => "too_many_invitations",
            Self::ChangedMeanwhile(_) => "changed_meanwhile",
            Self::ForeignOrigin => "foreign_origin",
            Self::NotFromPanel => "not_from_panel",
            Self::UnknownPath
            | Self::UnknownKey
            | Self::UnknownAccount
            | Self::UnknownMember
            | Self::UnknownInvitation
            | Self::UnknownSession => "not_found",
            Self::AccountExists => "account_exists",
            Self::AccountChanged => "account_changed",
            Self::AccountHasKeys { .. } => "account_has_keys",
            Self::NoAccounts => "accounts_unavailable",
            Self::KeyChanged => "key_changed",
            Self::Repeated { .. } => "repeated",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::Slow => "slow",
            Self::Conflict(_) => "drops_too_many",
            Self::NoPanel => "no_panel",
            Self::TooLarge => "too_large",
            Self::MediaType => "media_type",
            Self::Misdirected => "misdirected",
            Self::Faulty { .. } => "faulty",
            Self::NotWritten { in_force: true, .. } => "in_force_not_written",
            Self::NotWritten {
                in_force: false, ..
            } => "not_written",
            Self::NoDatabase => "usage_unavailable",
            Self::NoAlerts => "alerts_unavailable",
            Self::NoAudit => "audit_unavailable",
            Self::DatabaseFailed | Self::KeysUnavailable(_) | Self::KeysBusy(_) => {
                "database_failed"
            }
            Self::Internal => "internal",
            Self::NotReady(_) => "not_ready",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Malformed(message) | Self::Conflict(message) => message.clone(),
            Self::Unauthorized => "Send the admin token: 'Authorization: Bearer' and what admin.token_file holds.".to_owned(),
            Self::WrongToken => "This is not the admin token; admin.token_file holds it.".to_owned(),
            Self::WrongLink => "This sign-in link was used already, or is too old. Sign in again. An operator gets a new link by keygate panel-link.".to_owned(),
            Self::WrongPassword => "E-mail address or password are wrong. If you forgot the password, ask an owner of your account for a new link.".to_owned(),
            Self::WrongInvitation => "This link was used, was taken back, or is too old; ask for a new one.".to_owned(),
            Self::NotInvited => "Nobody has invited you under an address that your company has verified; ask for an invitation.".to_owned(),
            Self::InNoAccount => "You are in no account any more, or it is disabled; ask its owner or the operator.".to_owned(),
            Self::TooManyTries { seconds } => format!("Too many wrong passwords; try again in {seconds} s."),
            Self::TooManySignIns => "Very many people sign in at the moment; try again in a second.".to_owned(),
            Self::NoPasswords => "Nobody signs in by a password here; use your company's sign-in.".to_owned(),
            Self::UnknownMember => "The account has no member of this id; keygate members list, or GET /api/accounts/{id}/members, lists them.".to_owned(),
            Self::UnknownInvitation => {
                "The account has no open invitation of this id; keygate invite list, or GET /api/accounts/{id}/invitations, lists them.".to_owned()
            }
            Self::UnknownSession => "You have no session of this id; GET /api/sessions lists them.".to_owned(),
            Self::LastOwner => "The account would have no owner; make another member its owner first.".to_owned(),
            Self::IsElsewhere => "The person is in another account too; ask the operator to make the link.".to_owned(),
            Self::NoPassword => "The person signs in by the company's sign-in and has no password here.".to_owned(),
            Self::TooManyInvitations => "The account has 1000 open invitations; take some back first.".to_owned(),
            Self::ChangedMeanwhile(what) => (*what).to_owned(),
            Self::CookieAlone => {
                "A session's cookie is not enough; send the secret that POST /api/session answered with in 'X-Keygate-Session', or sign in again.".to_owned()
            }
            Self::NotFromPanel => {
                "A session's changes need 'X-Keygate-Panel: 1' and 'Content-Type: application/json'; send both.".to_owned()
            }
            Self::ForeignOrigin => {
                "Pages of another origin may not call the admin API; open it under its own address.".to_owned()
            }
            Self::UnknownPath => "This path is not served here; GET /api/openapi.json lists what is.".to_owned(),
            Self::UnknownKey => "No key has this id; keygate keys list, or GET /api/keys, lists them.".to_owned(),
            Self::UnknownAccount => {
                "No account has this id; keygate accounts list, or GET /api/accounts, lists them.".to_owned()
            }
            Self::AccountExists => {
                "An account of this id exists; choose another id, or change that account.".to_owned()
            }
            Self::AccountChanged => {
                "The account was changed meanwhile; read it again, then send its revision in If-Match.".to_owned()
            }
            Self::AccountHasKeys { keys } => format!(
                "The account has keys ({keys}), which go with it where the call names their number: send it with ?keys={keys}."
            ),
            Self::NoAccounts => {
                "There is no database, so there are no accounts; set url in [database] of the config, like \
                 \"sqlite:keygate.db\", and start the gateway again."
                    .to_owned()
            }
            Self::KeyChanged => {
                "The key was changed meanwhile; read it again, then send its revision in If-Match.".to_owned()
            }
            Self::Repeated { .. } => {
                "This call was made before with this Idempotency-Key, and was not done again. Its token was shown in the first \
                 answer only; where that was lost, rotate the key under another Idempotency-Key."
                    .to_owned()
            }
            Self::MethodNotAllowed(allow) => format!("This path is served under {allow}."),
            Self::Slow => "The body did not come in time; send it at once.".to_owned(),
            Self::NoPanel => {
                "There is no panel, since the admin API does not listen over TCP; set admin.listen, then restart the gateway.".to_owned()
            }
            Self::TooLarge => "The body is longer than 1 MiB; send less.".to_owned(),
            Self::MediaType => "Send the body as JSON, with 'Content-Type: application/json'.".to_owned(),
            Self::Misdirected => {
                "This Host is not one of this listener's; use its address or localhost, or add the name to admin.hosts."
                    .to_owned()
            }
            Self::Invalid(error) => error.to_string(),
            Self::Faulty { faults, suffix } => {
                let first = faults.first().map(shown).unwrap_or_default();
                let more = match faults.len() {
                    0 | 1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                format!("{first}{more}{suffix}")
            }
            Self::NotWritten { message, .. } => message.clone(),
            Self::NoDatabase => {
                "There is no database, so nobody knows what was used; set url in [database] of the config, like \
                 \"sqlite:keygate.db\", and start the gateway again."
                    .to_owned()
            }
            Self::NoAlerts => {
                "The config has no alerts; set webhook in [alerts], and reload.".to_owned()
            }
            Self::NoAudit => {
                "There is no database, so changes are in the log alone; set url in [database] of the config, like \
                 \"sqlite:keygate.db\", and start the gateway again."
                    .to_owned()
            }
            Self::KeysUnavailable(why) | Self::KeysBusy(why) => format!("{why}."),
            Self::DatabaseFailed => "The database cannot be read at the moment; the log says why.".to_owned(),
            Self::Internal => "Something failed that should not; the log says what.".to_owned(),
            Self::NotReady(why) => format!("Not ready: {why}."),
        }
    }

    fn field(&self) -> Option<&str> {
        let field = match self {
            Self::Invalid(error) => &error.field,
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
            Self::WrongPassword
            | Self::WrongLink
            | Self::WrongInvitation
            | Self::InNoAccount
            | Self::NotInvited
            | Self::TooManyTries { .. }
            | Self::NoPasswords
            | Self::LastOwner
            | Self::IsElsewhere
            | Self::NoPassword
            | Self::TooManyInvitations
            | Self::ChangedMeanwhile(_) => body["error"]["code"] = self.label().into(),
            Self::AccountHasKeys { keys } => {
                body["error"]["code"] = self.label().into();
                body["keys"] = (*keys).into();
            }
            Self::NoDatabase
            | Self::NoAlerts
            | Self::NoAudit
            | Self::NoAccounts
            | Self::KeysUnavailable(_)
            | Self::KeysBusy(_) => {
                body["error"]["code"] = self.label().into();
            }
            Self::Repeated { key } => body["key"] = key.clone(),
            Self::NotWritten { in_force, .. } => body["in_force"] = Value::Bool(*in_force),
            _ => {}
        }
        body
    }

    /// Status and body, for a caller without HTTP.
    pub(super) fn into_parts(self) -> (StatusCode, Bytes) {
        (self.status(), plain_json(self.body().to_string()))
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = ApiResponse::with_status(self.status(), &self.body()).into_response();
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed(allow) = &self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(ALLOW, allow);
        }
        match &self {
            Self::TooManyTries { seconds } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Self::TooManySignIns | Self::KeysBusy(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(1));
            }
            _ => {}
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::Invalid(error)
    }
}

impl From<KeyJsonError> for ApiError {
    fn from(fault: KeyJsonError) -> Self {
        match fault {
            KeyJsonError::NotJson(error) => Self::Malformed(format!("The body {}", error.message)),
            KeyJsonError::Invalid(error) => Self::Invalid(error),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::NotFound => Self::UnknownKey,
            WriteError::Changed => Self::KeyChanged,
            WriteError::Invalid(error) => Self::Invalid(error),
            WriteError::NotWritten {
                in_force: false,
                error:
                    error @ (StoreError::Faulty(_) | StoreError::DropLimit(_) | StoreError::Database(_)),
            } => error.into(),
            WriteError::NotWritten { in_force, .. } => Self::NotWritten { in_force, message },
        }
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        Self::NotWritten {
            in_force: false,
            message: format!("{error} (nothing was changed)"),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Faulty(error) => Self::Faulty {
                faults: error.faults().to_vec(),
                suffix: String::new(),
            },
            StoreError::DropLimit(_) => Self::Conflict(error.to_string()),
            StoreError::Database(SourceError::NotBehind) => Self::Conflict(error.to_string()),
            StoreError::Database(SourceError::Unsure(_)) => {
                Self::KeysUnavailable(error.to_string())
            }
            StoreError::Database(SourceError::Busy) => {
                Self::KeysBusy(format!("Nothing was changed: {error}"))
            }
            StoreError::Database(_) => {
                Self::KeysUnavailable(format!("Nothing was changed: {error}"))
            }
            StoreError::Audit(_) | StoreError::Io(_) => Self::NotWritten {
                in_force: false,
                message: error.to_string(),
            },
        }
    }
}

/// A fault as text. It names the file without its folder: paths on the server are not for clients.
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
