//! What the provider says of itself: its discovery document (OpenID Connect Discovery 1.0, RFC 8414).

use serde::Deserialize;

use crate::oidc::error::{OidcError, ProviderEndpoint};
use crate::store::config::{OidcConfig, SecureUrl};

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// What is used of a discovery document. Each URL is https, or on this machine like the issuer.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Where the browser goes to sign in.
    pub(super) authorization: String,
    /// Where a code is exchanged for tokens.
    pub(super) token: SecureUrl,
    /// Where the keys are.
    pub(super) keys: SecureUrl,
    /// Where claims are that the ID token lacks.
    pub(super) user_info: Option<SecureUrl>,
    /// Where the browser goes to sign out of the provider.
    pub(super) end_session: Option<String>,
    /// Whether the provider names itself when the browser comes back (RFC 9207).
    pub(super) names_itself: bool,
    /// How the gateway shows its secret.
    pub(super) secret_in: SecretPlace,
}

/// Where a client's secret stands in the request for tokens (RFC 6749 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretPlace {
    /// In the Authorization header: `client_secret_basic`.
    Header,
    /// In the body: `client_secret_post`.
    Body,
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Where the issuer's document is. A slash at the issuer's end is dropped.
pub(super) fn url(issuer: &SecureUrl) -> SecureUrl {
    let path = issuer.reveal_target();
    let path = path.strip_suffix('/').unwrap_or(path);
    issuer.at(format!("{path}{WELL_KNOWN}"))
}

impl Metadata {
    /// Reads a document.
    ///
    /// # Errors
    /// It is none, another issuer's, or names a URL that would be asked in clear.
    pub(super) fn parse(json: &[u8], config: &OidcConfig) -> Result<Self, OidcError> {
        let document: DiscoveryDocument = serde_json::from_slice(json).map_err(|_| {
            OidcError::Malformed(ProviderEndpoint::Discovery, "is no discovery document")
        })?;
        if document.issuer != config.issuer {
            return Err(OidcError::OtherIssuer);
        }
        let needs_https = config.issuer_url.server.https;
        let url = |field, text: &str| match SecureUrl::parse(text) {
            Ok(url) if url.server.https || !needs_https => Ok(url),
            _ => Err(OidcError::InsecureUrl(field)),
        };
        url("authorization_endpoint", &document.authorization_endpoint)?;
        let end_session = document.end_session_endpoint;
        if let Some(text) = &end_session {
            url("end_session_endpoint", text)?;
        }
        let user_info = document.userinfo_endpoint;
        let user_info = user_info.map(|text| url("userinfo_endpoint", &text));
        Ok(Self {
            token: url("token_endpoint", &document.token_endpoint)?,
            keys: url("jwks_uri", &document.jwks_uri)?,
            user_info: user_info.transpose()?,
            authorization: document.authorization_endpoint,
            end_session,
            names_itself: document.authorization_response_iss_parameter_supported,
            secret_in: secret_place(document.token_endpoint_auth_methods_supported.as_deref()),
        })
    }
}

/// The header, unless the provider takes only the body.
fn secret_place(methods: Option<&[String]>) -> SecretPlace {
    let takes = |method| methods.is_none_or(|known| known.iter().any(|known| known == method));
    match !takes("client_secret_basic") && takes("client_secret_post") {
        true => SecretPlace::Body,
        false => SecretPlace::Header,
    }
}
