//! Floor 3: sign-in by the company's identity provider, with OpenID Connect: the authorization code flow with PKCE.
//!
//! [`Provider::begin`] says where the browser goes, and [`Provider::finish`] makes an [`OidcIdentity`] of what it comes back
//! with. `pending` is what is kept between the two. `metadata` and `keys` are what the provider says of itself, which
//! `known` fetches and keeps; `id_token` says what an ID token proves. This room does not know persons, sessions and
//! accounts.
//!
//! Invariants: an identity comes only from an ID token that is signed by the provider's key and was made for this
//! sign-in. Nothing is fetched before the first sign-in, and every answer of the provider is bounded in size and time. No
//! error shows a token, a code or a secret.

mod error;
mod id_token;
mod identity;
mod keys;
mod known;
mod metadata;
mod pending;
#[cfg(test)]
mod tests;

use std::time::Duration;

use data_encoding::BASE64;
use http::{Request, StatusCode, request};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::http::client::{Answer, HttpClient};
pub(crate) use crate::oidc::error::OidcError;
use crate::oidc::error::{ProviderEndpoint, TokenFault, known_code};
use crate::oidc::id_token::Expected;
use crate::oidc::identity::add_claims;
pub(crate) use crate::oidc::identity::{OidcIdentity, ProviderToken};
use crate::oidc::known::Known;
use crate::oidc::metadata::{Metadata, SecretPlace};
pub(crate) use crate::oidc::pending::Pending;
use crate::policy::time::UnixTime;
use crate::request_body::model::{form_query, percent_encoded};
use crate::store::config::{OidcConfig, SecureUrl};

/// For each request to the provider.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer of the provider, in bytes.
const MAX_ANSWER: usize = 256 << 10;

/// The company's identity provider.
#[derive(Debug)]
pub(crate) struct Provider {
    config: OidcConfig,
    client: HttpClient,
    known: Known,
}

/// A sign-in that begins.
pub(crate) struct Begun {
    /// Where the browser goes.
    pub(crate) url: String,
    /// What [`Provider::finish`] needs when it comes back.
    pub(crate) pending: Pending,
}

/// The parameters that the browser comes back with, decoded.
#[derive(Default)]
pub(crate) struct CallbackAnswer {
    pub(crate) code: Option<Zeroizing<String>>,
    pub(crate) state: Option<String>,
    pub(crate) iss: Option<String>,
    pub(crate) error: Option<String>,
}

/// The answer to a code (RFC 6749 5.1).
#[derive(Deserialize)]
struct TokenAnswer {
    id_token: ProviderToken,
    access_token: Option<ProviderToken>,
}

/// The refusal of a code (RFC 6749 5.2).
#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
}

impl Provider {
    /// Asks nothing of the provider.
    #[must_use]
    pub(crate) fn new(config: &OidcConfig) -> Self {
        Self {
            config: config.clone(),
            client: HttpClient::new(TIMEOUT),
            known: Known::default(),
        }
    }

    /// Its name for people.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Begins a sign-in. `redirect_uri`: where the browser comes back to, as it is registered at the provider.
    ///
    /// # Errors
    /// The provider does not say where the browser goes.
    pub(crate) async fn begin(
        &self,
        redirect_uri: &str,
        now: UnixTime,
    ) -> Result<Begun, OidcError> {
        let metadata = self.known.metadata(self, now).await?;
        let pending = Pending::new(redirect_uri, now)?;
        let url = with_query(
            &metadata.authorization,
            &[
                ("response_type", "code"),
                ("client_id", &self.config.client_id),
                ("redirect_uri", redirect_uri),
                ("scope", &self.config.scopes.join(" ")),
                ("state", pending.state.reveal()),
                ("nonce", pending.nonce.reveal()),
                ("code_challenge", &pending.challenge()),
                ("code_challenge_method", "S256"),
            ],
        );
        Ok(Begun { url, pending })
    }

    /// Ends a sign-in, whether it succeeds or not.
    ///
    /// # Errors
    /// Why nobody has signed in.
    pub(crate) async fn finish(
        &self,
        pending: Pending,
        answer: CallbackAnswer,
        now: UnixTime,
    ) -> Result<OidcIdentity, OidcError> {
        let metadata = self.known.metadata(self, now).await?;
        let code = self.code(&pending, answer, metadata.names_itself, now)?;
        let tokens = self.exchange(&metadata, &pending, &code).await?;
        let mut claims = self.verify(tokens.id_token.reveal(), &pending, now).await?;
        let subject = id_token::subject(&claims).map(str::to_owned);
        let subject = subject.ok_or(OidcError::IdToken(TokenFault::NoSubject))?;
        if let (Some(url), Some(token), true) = (
            &metadata.user_info,
            &tokens.access_token,
            self.lacks_claims(&claims),
        ) {
            let more = self.user_info(url, token.reveal()).await?;
            if id_token::subject(&more) != Some(&*subject) {
                return Err(OidcError::OtherSubject);
            }
            add_claims(&mut claims, more);
        }
        let issuer = &self.config.issuer;
        Ok(OidcIdentity::new(issuer, &subject, claims, tokens.id_token))
    }

    /// Where the browser goes to sign out of the provider too. None: the provider has no such page, or cannot be asked
    /// now.
    pub(crate) async fn end_session_url(
        &self,
        id_token: &ProviderToken,
        post_logout_redirect_uri: &str,
        now: UnixTime,
    ) -> Option<String> {
        let metadata = self.known.metadata(self, now).await.ok()?;
        let parameters = [
            ("id_token_hint", id_token.reveal()),
            ("client_id", &self.config.client_id),
            ("post_logout_redirect_uri", post_logout_redirect_uri),
        ];
        let url = metadata.end_session.as_ref()?;
        Some(with_query(url, &parameters))
    }

    /// The code that the browser brings, if it is an answer to this sign-in.
    fn code(
        &self,
        pending: &Pending,
        answer: CallbackAnswer,
        names_itself: bool,
        now: UnixTime,
    ) -> Result<Zeroizing<String>, OidcError> {
        let CallbackAnswer {
            code,
            state,
            iss,
            error,
        } = answer;
        if !state.is_some_and(|state| pending.has_state(&state)) {
            return Err(OidcError::State);
        }
        let is_issuer = match iss {
            Some(issuer) => issuer == self.config.issuer,
            None => !names_itself,
        };
        if !is_issuer {
            return Err(OidcError::CallbackIssuer);
        }
        if !pending.is_alive(now) {
            return Err(OidcError::TooLate);
        }
        if let Some(error) = error {
            return Err(OidcError::Declined(known_code(&error)));
        }
        code.filter(|code| !code.is_empty())
            .ok_or(OidcError::NoCode)
    }

    /// The tokens for a code.
    async fn exchange(
        &self,
        metadata: &Metadata,
        pending: &Pending,
        code: &str,
    ) -> Result<TokenAnswer, OidcError> {
        let OidcConfig {
            client_id,
            client_secret,
            ..
        } = &self.config;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &pending.redirect_uri),
            ("code_verifier", pending.verifier.reveal()),
        ];
        let mut request = Request::post(metadata.token.reveal_target())
            .header("content-type", "application/x-www-form-urlencoded");
        match (client_secret, metadata.secret_in) {
            (None, _) => form.push(("client_id", client_id)),
            (Some(secret), SecretPlace::Body) => {
                form.push(("client_id", client_id));
                form.push(("client_secret", secret.reveal()));
            }
            (Some(secret), SecretPlace::Header) => {
                request = request.header("authorization", basic(client_id, secret.reveal()));
            }
        }
        let endpoint = ProviderEndpoint::Tokens;
        let body = form_query(form);
        let answer = self.ask(endpoint, &metadata.token, request, body).await?;
        let status = answer.status;
        let body = whole(endpoint, answer)?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|_| OidcError::Malformed(endpoint, "has no ID token"));
        }
        match serde_json::from_slice::<TokenRefusal>(&body) {
            Ok(refusal) => Err(OidcError::CodeRefused(known_code(&refusal.error))),
            Err(_) => Err(OidcError::Status(endpoint, status.as_u16())),
        }
    }

    /// The claims of an ID token. Where the kept keys do not verify it, newer ones may.
    async fn verify(
        &self,
        id_token: &str,
        pending: &Pending,
        now: UnixTime,
    ) -> Result<Map<String, Value>, OidcError> {
        let expected = Expected {
            issuer: &self.config.issuer,
            client_id: &self.config.client_id,
            nonce: pending.nonce.reveal(),
        };
        let keys = self.known.keys(self, now).await?;
        let verified = id_token::verify(id_token, &keys, expected, now);
        let verified = match verified {
            Err(TokenFault::UnknownKey) => match self.known.newer_keys(self, &keys, now).await? {
                Some(keys) => id_token::verify(id_token, &keys, expected, now),
                None => verified,
            },
            verified => verified,
        };
        verified.map_err(OidcError::IdToken)
    }

    /// Whether an ID token lacks claims that matter. Many providers tell them apart (OpenID Connect Core 1.0, 5.4).
    fn lacks_claims(&self, claims: &Map<String, Value>) -> bool {
        let rules = self.config.auto_invite.iter();
        rules
            .map(|rule| rule.claim.as_str())
            .chain(["email"])
            .any(|claim| !claims.contains_key(claim))
    }

    /// More claims of the person that the access token is for (OpenID Connect Core 1.0, 5.3).
    async fn user_info(
        &self,
        url: &SecureUrl,
        access_token: &str,
    ) -> Result<Map<String, Value>, OidcError> {
        let endpoint = ProviderEndpoint::UserInfo;
        let authorization = Zeroizing::new(format!("Bearer {access_token}"));
        let request = Request::get(url.reveal_target())
            .header("accept", "application/json")
            .header("authorization", authorization.as_str());
        let answer = self.ask(endpoint, url, request, String::new()).await?;
        let body = successful(endpoint, answer)?;
        serde_json::from_slice(&body)
            .map_err(|_| OidcError::Malformed(endpoint, "is no JSON object"))
    }

    /// What the provider says at one of its URLs.
    async fn get(
        &self,
        endpoint: ProviderEndpoint,
        url: &SecureUrl,
    ) -> Result<Zeroizing<Vec<u8>>, OidcError> {
        let request = Request::get(url.reveal_target()).header("accept", "application/json");
        let answer = self.ask(endpoint, url, request, String::new()).await?;
        successful(endpoint, answer)
    }

    async fn ask(
        &self,
        endpoint: ProviderEndpoint,
        url: &SecureUrl,
        request: request::Builder,
        body: String,
    ) -> Result<Answer, OidcError> {
        let answer = self
            .client
            .exchange(&url.server, request, body, MAX_ANSWER)
            .await;
        answer.map_err(|error| OidcError::no_answer(endpoint, &error))
    }
}

/// The body of an answer with status 200.
fn successful(endpoint: ProviderEndpoint, answer: Answer) -> Result<Zeroizing<Vec<u8>>, OidcError> {
    match answer.status {
        StatusCode::OK => whole(endpoint, answer),
        status => Err(OidcError::Status(endpoint, status.as_u16())),
    }
}

fn whole(endpoint: ProviderEndpoint, answer: Answer) -> Result<Zeroizing<Vec<u8>>, OidcError> {
    let body = answer.body;
    body.map_err(|error| OidcError::no_answer(endpoint, &error))
}

/// A URL with these parameters after those that it has.
fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{}", form_query(parameters.iter().copied()))
}

/// The client's credential (RFC 6749 2.3.1): both parts are encoded like a form's before they are joined.
fn basic(client_id: &str, secret: &str) -> String {
    let joined = format!("{}:{}", percent_encoded(client_id), percent_encoded(secret));
    let joined = Zeroizing::new(joined);
    format!("Basic {}", BASE64.encode(joined.as_bytes()))
}
