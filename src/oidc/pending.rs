//! A sign-in that began here and has not come back yet.

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};

use crate::oidc::error::OidcError;
use crate::policy::time::UnixTime;
use crate::policy::token::Code;

/// How long a person may take at the provider, in seconds.
const MAX_AGE: i64 = 600;

/// A sign-in between its beginning and the browser's return. The gateway keeps it and hands it to nobody; the browser
/// gets a cookie for it. Its secrets are wiped when it is dropped, so it serves once.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(super) state: Code,
    pub(super) nonce: Code,
    pub(super) verifier: Code,
    pub(super) redirect_uri: String,
    made_at: UnixTime,
}

impl Pending {
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(redirect_uri: &str, now: UnixTime) -> Result<Self, OidcError> {
        let code = || Code::make(getrandom::fill).map_err(|_| OidcError::NoRandom);
        Ok(Self {
            state: code()?,
            nonce: code()?,
            verifier: code()?,
            redirect_uri: redirect_uri.to_owned(),
            made_at: now,
        })
    }

    /// Whether the browser may still come back.
    #[must_use]
    pub(crate) fn is_alive(&self, now: UnixTime) -> bool {
        let age = now.seconds().saturating_sub(self.made_at.seconds());
        (0..MAX_AGE).contains(&age)
    }

    /// Whether this is the state that the browser was sent away with. Takes equally long for any state.
    #[must_use]
    pub(crate) fn has_state(&self, state: &str) -> bool {
        blake3::hash(self.state.reveal().as_bytes()) == blake3::hash(state.as_bytes())
    }

    /// What the provider is shown of the verifier (RFC 7636 4.2, S256).
    pub(super) fn challenge(&self) -> String {
        BASE64URL_NOPAD.encode(digest(&SHA256, self.verifier.reveal().as_bytes()).as_ref())
    }
}
