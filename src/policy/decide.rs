//! The decision. The order of the checks is a security property: key, expiry, network, then the model. Each check asks
//! the key and its account together, and passes where both allow it.
//!
//! Invariant: only [`caller`] and [`Caller::for_model`] create a [`Permit`]. The code that sends a request upstream takes
//! one as proof, so code that forwards without a decision does not compile.

use std::sync::Arc;

use crate::policy::account::JudgedKey;
use crate::policy::denial::Denial;
use crate::policy::key::{Key, KeyToken, PreviousToken};
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

/// Proof that a key may be used, now and from this address.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Caller<'k> {
    key: JudgedKey<'k>,
    token: KeyToken,
    hash: TokenHash,
    address: ClientAddress,
}

/// Proof that a key may use one model from one address, and at which target it is served. What forwards takes the target
/// from here, so that a permitted request can't be sent elsewhere.
#[must_use]
#[derive(Clone, Debug)]
pub struct Permit<T> {
    model: Arc<str>,
    sent_as: Option<Arc<str>>,
    /// The hash of the token that was presented.
    hash: TokenHash,
    address: ClientAddress,
    target: T,
}

/// Steps 2 to 4: the key exists, it and its account are enabled, it has this token, neither of them has ended, and the
/// key may be used from this address. A token whose time is over is refused as if it had never existed.
///
/// # Errors
/// The first rule that refuses.
pub fn caller<'k>(
    key: Option<JudgedKey<'k>>,
    hash: &TokenHash,
    address: ClientAddress,
    now: UnixTime,
) -> Result<Caller<'k>, Denial> {
    let key = key
        .filter(|key| !key.disabled())
        .ok_or(Denial::InvalidApiKey)?;
    let token = key.key().token_of(hash).ok_or(Denial::InvalidApiKey)?;
    let has_ended = |previous: &PreviousToken| previous.ended(now);
    if token == KeyToken::Previous && key.key().previous().is_none_or(has_ended) {
        return Err(Denial::InvalidApiKey);
    }
    if key.expired(now) {
        return Err(Denial::ExpiredApiKey);
    }
    if !key.admits(address) {
        return Err(Denial::IpNotAuthorized);
    }
    Ok(Caller {
        key,
        token,
        hash: *hash,
        address,
    })
}

impl<'k> Caller<'k> {
    /// The key.
    #[must_use]
    pub fn key(self) -> &'k Key {
        self.key.key()
    }

    /// The key with its account.
    #[must_use]
    pub fn judged(self) -> JudgedKey<'k> {
        self.key
    }

    /// Which of the key's tokens was presented.
    #[must_use]
    pub fn token(self) -> KeyToken {
        self.token
    }

    /// Step 7: `lookup` finds in the catalogue who serves the model. `sent_as` is the upstream's own name for it, where
    /// the model is an alias.
    ///
    /// # Errors
    /// [`Denial::ModelNotFound`], whether nobody serves the model or the key may not use it.
    pub fn for_model<M, T>(
        self,
        model: M,
        sent_as: Option<Arc<str>>,
        lookup: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Permit<T>, Denial>
    where
        M: AsRef<str> + Into<Arc<str>>,
    {
        let target = lookup(model.as_ref()).ok_or(Denial::ModelNotFound)?;
        if !self.key.allows_as(model.as_ref(), sent_as.as_deref()) {
            return Err(Denial::ModelNotFound);
        }
        Ok(Permit {
            model: model.into(),
            sent_as,
            hash: self.hash,
            address: self.address,
            target,
        })
    }
}

impl<T> Permit<T> {
    /// Who serves the model.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// The model that may be used.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The name that the upstream gets in place of the model's, where that is an alias.
    #[must_use]
    pub fn sent_as(&self) -> Option<&str> {
        self.sent_as.as_deref()
    }

    /// The hash of the token that was presented.
    pub fn hash(&self) -> &TokenHash {
        &self.hash
    }

    /// Checks again whether the permit is valid, with the current key and account (None: the key was deleted).
    ///
    /// # Errors
    /// The first rule that refuses now.
    pub fn recheck(&self, key: Option<JudgedKey<'_>>, now: UnixTime) -> Result<(), Denial> {
        let caller = caller(key, &self.hash, self.address, now)?;
        caller
            .for_model(Arc::clone(&self.model), self.sent_as.clone(), |_| Some(()))
            .map(drop)
    }
}

#[cfg(test)]
mod tests;
