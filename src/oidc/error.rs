//! Why a person is not signed in by the identity provider.
//!
//! Invariant: no message repeats a token, a code, a secret, or anything else that a stranger chose. What the provider
//! says is shown only where it is one of the words of the standards.

use std::fmt;

use crate::http::client::AnswerError;

/// What the provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProviderEndpoint {
    /// Its discovery document (OpenID Connect Discovery 1.0).
    Discovery,
    /// The keys that it signs with (JWK Set, RFC 7517).
    Keys,
    /// The tokens for a code.
    Tokens,
    /// Claims of a person that are not in the ID token.
    UserInfo,
}

/// Why a person is not signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OidcError {
    /// There was no answer, or no whole one: why.
    NoAnswer(ProviderEndpoint, String),
    /// The answer has another status than 200.
    Status(ProviderEndpoint, u16),
    /// The answer is not of the form that the standards give it: what is wrong.
    Malformed(ProviderEndpoint, &'static str),
    /// The discovery document is another issuer's.
    OtherIssuer,
    /// This URL of the discovery document is no URL, or would be asked in clear.
    InsecureUrl(&'static str),
    /// The answer in the browser belongs to no sign-in that began here.
    State,
    /// The answer in the browser is another issuer's (RFC 9207).
    CallbackIssuer,
    /// The answer in the browser came too late.
    TooLate,
    /// The provider, or the person there, declined: the code of the error.
    Declined(&'static str),
    /// The answer in the browser has no code.
    NoCode,
    /// The provider does not take the code: the code of the error.
    CodeRefused(&'static str),
    /// The ID token proves nothing.
    IdToken(TokenFault),
    /// The provider told the claims of another person.
    OtherSubject,
    /// The system has no random numbers.
    NoRandom,
}

/// Why an ID token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// It is not a signed token of three parts, or a part is not what it should be.
    Malformed,
    /// It asks for an extension that is not known (`crit`).
    Extension,
    /// Its algorithm is not taken, or does not go with its key.
    Algorithm,
    /// None of the provider's keys is its key.
    UnknownKey,
    /// Its signature is wrong.
    Signature,
    /// It is from another issuer.
    Issuer,
    /// It is for another client.
    Audience,
    /// It is for several clients, and not for this one in the first place.
    AuthorizedParty,
    /// It belongs to another sign-in.
    Nonce,
    /// It has expired.
    Expired,
    /// It was issued in the future, or is not valid yet.
    TooEarly,
    /// It does not say when it was issued or when it expires.
    NoTime,
    /// It does not say whose it is.
    NoSubject,
}

impl OidcError {
    /// Why there is no answer.
    pub(super) fn no_answer(endpoint: ProviderEndpoint, error: &AnswerError) -> Self {
        Self::NoAnswer(endpoint, error.to_string())
    }

    /// A short name, for log and metrics.
    #[must_use]
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoAnswer(..) => "provider_unreachable",
            Self::Status(..) => "provider_refused",
            Self::Malformed(..) => "provider_malformed",
            Self::OtherIssuer => "other_issuer",
            Self::InsecureUrl(_) => "insecure_url",
            Self::State => "wrong_state",
            Self::CallbackIssuer => "wrong_callback_issuer",
            Self::TooLate => "too_late",
            Self::Declined(_) => "declined",
            Self::NoCode => "no_code",
            Self::CodeRefused(_) => "code_refused",
            Self::IdToken(fault) => fault.label(),
            Self::OtherSubject => "other_subject",
            Self::NoRandom => "no_random",
        }
    }
}

impl TokenFault {
    fn label(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Extension => "token_extension",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::AuthorizedParty => "token_authorized_party",
            Self::Nonce => "token_nonce",
            Self::Expired => "token_expired",
            Self::TooEarly => "token_too_early",
            Self::NoTime => "token_without_time",
            Self::NoSubject => "token_without_subject",
        }
    }
}

impl fmt::Display for ProviderEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discovery => "its discovery document",
            Self::Keys => "its keys",
            Self::Tokens => "tokens",
            Self::UserInfo => "a person's claims",
        })
    }
}

impl fmt::Display for OidcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(endpoint, why) => {
                write!(f, "the identity provider was asked for {endpoint}: {why}")
            }
            Self::Status(endpoint, status) => {
                write!(f, "the identity provider was asked for {endpoint} and answers {status}")
            }
            Self::Malformed(endpoint, what) => {
                write!(f, "the identity provider was asked for {endpoint}, and the answer {what}")
            }
            Self::OtherIssuer => f.write_str(
                "the identity provider calls itself by another name than issuer in [sign_in.oidc]; write its name there, \
                 byte for byte",
            ),
            Self::InsecureUrl(field) => write!(
                f,
                "the identity provider's {field} is no https URL, or no URL on this machine where the issuer is there"
            ),
            Self::State => f.write_str("the sign-in began in another browser, or was already used"),
            Self::CallbackIssuer => {
                f.write_str("the browser came back from another identity provider")
            }
            Self::TooLate => f.write_str("the sign-in took too long; begin anew"),
            Self::Declined(code) => write!(f, "the identity provider declined: {code}"),
            Self::NoCode => f.write_str("the browser came back without a code"),
            Self::CodeRefused("invalid_client" | "unauthorized_client") => f.write_str(
                "the identity provider does not know the gateway; check client_id and client_secret_file in [sign_in.oidc]",
            ),
            Self::CodeRefused(code) => {
                write!(f, "the identity provider does not take its own code: {code}")
            }
            Self::IdToken(fault) => write!(f, "the identity provider's ID token {fault}"),
            Self::OtherSubject => {
                f.write_str("the identity provider told the claims of another person")
            }
            Self::NoRandom => f.write_str("the system has no random numbers"),
        }
    }
}

impl std::error::Error for OidcError {}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is malformed",
            Self::Extension => "asks for an extension that is not known",
            Self::Algorithm => {
                "is signed by an algorithm that is not taken, or that does not go with its key; let the provider sign by \
                 RS256 or ES256"
            }
            Self::UnknownKey => "is signed by a key that is not among the provider's",
            Self::Signature => "has a wrong signature",
            Self::Issuer => "is from another issuer",
            Self::Audience => "is for another client",
            Self::AuthorizedParty => "is for several clients, and this one is not its azp",
            Self::Nonce => "belongs to another sign-in",
            Self::Expired => "has expired; compare the clocks of both machines",
            Self::TooEarly => "is from the future; compare the clocks of both machines",
            Self::NoTime => "lacks iat or exp",
            Self::NoSubject => "lacks sub",
        })
    }
}

/// The word of the standards that this is, to be shown: of RFC 6749 (4.1.2.1, 5.2) and OpenID Connect Core 1.0 (3.1.2.6).
pub(super) fn known_code(code: &str) -> &'static str {
    const KNOWN: [&str; 20] = [
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_request_object",
        "invalid_request_uri",
        "invalid_scope",
        "login_required",
        "registration_not_supported",
        "request_not_supported",
        "request_uri_not_supported",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unmet_authentication_requirements",
        "unsupported_grant_type",
        "unsupported_response_type",
    ];
    let known = KNOWN.into_iter().find(|known| *known == code);
    known.unwrap_or("an error that is not known")
}
