//! The decision. The order of the checks is a security property: key, expiry, network, then the model.
//!
//! Invariant: only [`caller`] and [`Caller::for_model`] create a [`Permit`]. The code that sends a request upstream takes
//! one as proof, so code that forwards without a decision does not compile.

use std::sync::Arc;

use crate::policy::denial::Denial;
use crate::policy::key::Key;
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;

/// Proof that a key may be used, now and from this address.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Caller<'k> {
    key: &'k Key,
    address: ClientAddress,
}

/// Proof that a key may use one model from one address.
#[must_use]
#[derive(Clone, Debug)]
pub struct Permit {
    model: Arc<str>,
    address: ClientAddress,
}

/// Steps 2 to 4: the key exists, is enabled, has not expired, and may be used from this address.
///
/// # Errors
/// The first rule that refuses.
pub fn caller(
    key: Option<&Key>,
    address: ClientAddress,
    now: UnixTime,
) -> Result<Caller<'_>, Denial> {
    let key = key
        .filter(|key| !key.disabled())
        .ok_or(Denial::InvalidApiKey)?;
    if key.expired(now) {
        return Err(Denial::ExpiredApiKey);
    }
    if !key.allow_from().admits(address) {
        return Err(Denial::IpNotAuthorized);
    }
    Ok(Caller { key, address })
}

impl<'k> Caller<'k> {
    /// The key.
    #[must_use]
    pub fn key(self) -> &'k Key {
        self.key
    }

    /// Step 7. `served` says whether the catalogue contains the model.
    ///
    /// # Errors
    /// [`Denial::ModelNotFound`] if the model is not served or the key may not use it.
    pub fn for_model<M>(self, model: M, served: bool) -> Result<Permit, Denial>
    where
        M: AsRef<str> + Into<Arc<str>>,
    {
        if served && self.key.model_access().allows(model.as_ref()) {
            Ok(Permit {
                model: model.into(),
                address: self.address,
            })
        } else {
            Err(Denial::ModelNotFound)
        }
    }
}

impl Permit {
    /// The model that may be used.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Checks again whether the permit is valid, with the current key (None: it was deleted).
    ///
    /// # Errors
    /// The first rule that refuses now.
    pub fn recheck(&self, key: Option<&Key>, now: UnixTime) -> Result<(), Denial> {
        let caller = caller(key, self.address, now)?;
        let Permit { model, .. } = caller.for_model(Arc::clone(&self.model), true)?;
        debug_assert_eq!(model, self.model);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
