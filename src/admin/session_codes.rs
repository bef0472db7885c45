//! What the client of a session holds, of an operator's and of a person's: a cookie, and a secret that the page keeps.

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue, ORIGIN};

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::policy::token::{Code, TokenHash};

pub(super) const COOKIE_NAME: &str = "keygate_session";
/// Over TLS: browsers take a cookie of this name from the same host alone, and over TLS.
pub(super) const TLS_COOKIE_NAME: &str = "__Host-keygate_session";
pub(super) const SECRET_HEADER: HeaderName = HeaderName::from_static("x-keygate-session");

/// What a new session's client has to send with each call.
pub(super) struct SessionCodes {
    /// For the cookie.
    pub(super) id: Code,
    /// For the page.
    pub(super) secret: Code,
}

impl SessionCodes {
    /// # Errors
    /// The system provides no random bytes.
    pub(super) fn make() -> Result<Self, getrandom::Error> {
        Ok(Self {
            id: Code::make(getrandom::fill)?,
            secret: Code::make(getrandom::fill)?,
        })
    }
}

/// What a call shows of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionProof {
    /// No cookie of a valid session.
    None,
    /// The cookie, but not the secret that belongs to it.
    CookieAlone,
    /// Both.
    Whole,
}

/// The hashes of all ids in the cookies. There can be several: pages on other ports of this host can set a cookie with
/// the same name.
pub(super) fn named_by(headers: &HeaderMap) -> impl Iterator<Item = TokenHash> {
    let lines = headers.get_all(COOKIE).iter();
    let cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, value)| {
            matches!(*name, COOKIE_NAME | TLS_COOKIE_NAME) && value.len() == Code::LENGTH
        })
        .map(|(_, value)| TokenHash::of(value.as_bytes()))
}

/// The hash of the secret in the header, if it occurs exactly once.
pub(super) fn secret_of(headers: &HeaderMap) -> Option<blake3::Hash> {
    let mut lines = headers.get_all(&SECRET_HEADER).iter();
    let only = lines.next().filter(|_| lines.next().is_none())?;
    Some(blake3::hash(only.as_bytes()))
}

pub(super) fn hash_of(code: &Code) -> blake3::Hash {
    blake3::Hash::from_bytes(*code.hash().as_bytes())
}

/// Whether the page was loaded over TLS, from this listener or from a proxy in front of it. The Origin tells.
pub(super) fn is_over_tls(services: &Services, headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
    services.config.admin.tls || origin.is_some_and(|origin| origin.starts_with(b"https://"))
}

/// The header that sets the cookie. `end`: further attributes.
pub(super) fn cookie(value: &str, end: &str, is_over_tls: bool) -> Result<HeaderValue, ApiError> {
    let (name, secure) = match is_over_tls {
        true => (TLS_COOKIE_NAME, "; Secure"),
        false => (COOKIE_NAME, ""),
    };
    let text = format!("{name}={value}; HttpOnly; SameSite=Strict; Path=/{end}{secure}");
    let mut cookie = HeaderValue::try_from(text).map_err(|_| ApiError::Internal)?;
    cookie.set_sensitive(true);
    Ok(cookie)
}
