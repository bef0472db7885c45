//! What the client of a session holds, of an operator's and of a person's: a cookie, and a secret that the page keeps.

use http::HeaderMap;
use http::header::HeaderName;

use crate::admin::cookie::{SESSION, Scheme};
use crate::policy::token::{Code, TokenHash};

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

/// The hashes of all ids in the cookies.
pub(super) fn named_by(headers: &HeaderMap, scheme: Scheme) -> impl Iterator<Item = TokenHash> {
    let ids = SESSION.values(headers, scheme);
    ids.filter(|id| id.len() == Code::LENGTH)
        .map(|id| TokenHash::of(id.as_bytes()))
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
