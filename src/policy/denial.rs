//! Why the rules refuse a request: error codes and messages.

/// A refusal by the rules of a key, a route or a model. Errors of bodies and upstreams are defined elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No bearer token was sent.
    MissingApiKey,
    /// A malformed token, or no enabled key has it. Both get the same error, so that clients learn nothing about the table.
    InvalidApiKey,
    /// The key has expired.
    ExpiredApiKey,
    /// The key may not be used from this address.
    IpNotAuthorized,
    /// The path does not exist.
    UnknownUrl,
    /// The path has another method.
    MethodNotAllowed {
        /// The method to use, for the Allow header (RFC 9110 10.2.1).
        allow: &'static str,
    },
    /// No upstream serves this model, or the key may not use it. Both get the same error.
    ModelNotFound,
}

impl Denial {
    /// The error's `code`, and the outcome in metrics. `ip_not_authorized` and `model_not_found` are OpenAI's codes.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::MissingApiKey => "missing_api_key",
            Self::InvalidApiKey => "invalid_api_key",
            Self::ExpiredApiKey => "expired_api_key",
            Self::IpNotAuthorized => "ip_not_authorized",
            Self::UnknownUrl => "unknown_url",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::ModelNotFound => "model_not_found",
        }
    }

    /// The message for the client: what happened and what to do.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::MissingApiKey => {
                "No API key was sent. Send your bearer token in the header 'Authorization: Bearer', or in x-api-key."
            }
            Self::InvalidApiKey => {
                "This API key is not valid. Check that the whole bearer token was copied and is sent in one header; if so, ask for a new key."
            }
            Self::ExpiredApiKey => {
                "This API key has expired. Ask for a new key, or for this one's expiry to be moved."
            }
            Self::IpNotAuthorized => {
                "This API key may not be used from your address. GET /v1/key, from an address where the key works, \
                 shows where it may be used; ask for your network to be added."
            }
            Self::UnknownUrl => {
                "This path is not served here, though the API may have it. Look at its spelling and at your client's base URL: \
                 OpenAI's clients need the OpenAI Compatible URL, which ends in /v1; Anthropic's need it without /v1."
            }
            Self::MethodNotAllowed { .. } => {
                "This path is served under another method; the Allow header names it."
            }
            Self::ModelNotFound => {
                "This model does not exist, or your API key may not use it. GET /v1/models lists those it may use."
            }
        }
    }
}
