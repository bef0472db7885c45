//! The bodies of the admin API that ask for a new key and that change one.

use crate::policy::key::{Account, Key, KeyName};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::time::UnixTime;
use crate::store::key_json::{
    Interner, KeyDocument, KeyField, KeyJsonError, model_access, networks,
};
use crate::store::strict_json::{document_error, string};

/// What a new key is to be; the rest is the keeper's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What people call it.
    pub name: KeyName,
    /// Which models it may use.
    pub model_access: ModelAccess,
    /// Where it may be used from.
    pub allow_from: AllowFrom,
    /// From this instant on it is refused.
    pub expires_at: Option<UnixTime>,
    /// Whom it belongs to.
    pub account: Option<Account>,
}

/// What is to change about a key; None stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPatch {
    /// Another name.
    pub name: Option<KeyName>,
    /// Other models.
    pub model_access: Option<ModelAccess>,
    /// Other networks, or none.
    pub allow_from: Option<AllowFrom>,
    /// Another end, or none.
    pub expires_at: Option<Option<UnixTime>>,
    /// Another account, or none.
    pub account: Option<Option<Account>>,
    /// Disable or enable.
    pub disabled: Option<bool>,
}

impl KeyPatch {
    /// The names of the fields it sets, for the log.
    #[must_use]
    pub fn fields(&self) -> Vec<&'static str> {
        let Self {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
            disabled,
        } = self;
        let set = [
            (name.is_some(), KeyField::Name),
            (model_access.is_some(), KeyField::ModelAccess),
            (allow_from.is_some(), KeyField::AllowFrom),
            (expires_at.is_some(), KeyField::ExpiresAt),
            (account.is_some(), KeyField::Account),
            (disabled.is_some(), KeyField::Disabled),
        ];
        let named = set.into_iter().filter(|(is_set, _)| *is_set);
        named.map(|(_, field)| field.name()).collect()
    }

    /// Whether it disables the key, whatever else it does.
    #[must_use]
    pub fn disables(&self) -> bool {
        self.disabled == Some(true)
    }

    /// The key with these changes.
    #[must_use]
    pub fn applied_to(&self, key: &Key) -> Key {
        let patch = self.clone();
        let mut fields = key.fields();
        fields.name = patch.name.unwrap_or(fields.name);
        fields.model_access = patch.model_access.unwrap_or(fields.model_access);
        fields.allow_from = patch.allow_from.unwrap_or(fields.allow_from);
        fields.expires_at = patch.expires_at.unwrap_or(fields.expires_at);
        fields.account = patch.account.unwrap_or(fields.account);
        fields.disabled = patch.disabled.unwrap_or(fields.disabled);
        Key::from(fields)
    }
}

/// Reads what a new key is to be.
///
/// # Errors
/// [`KeyJsonError`] says whether it is no JSON, or which field is wrong.
pub fn parse_new(body: &[u8]) -> Result<NewKey, KeyJsonError> {
    let known = [
        KeyField::Name,
        KeyField::ModelAccess,
        KeyField::AllowFrom,
        KeyField::ExpiresAt,
        KeyField::Account,
    ];
    let mut fields = KeyDocument::read(body, &known)?;
    let name = fields.required(KeyField::Name, string(KeyName::parse));
    let access = fields.required(KeyField::ModelAccess, |value| {
        model_access(value, &mut Interner::default())
    });
    let allow_from = fields.optional(KeyField::AllowFrom, networks);
    let expires_at = fields.optional(KeyField::ExpiresAt, string(UnixTime::parse_expiry));
    let account = fields.optional(KeyField::Account, string(Account::parse));
    fields.first_error()?;
    match (name, access) {
        (Some(name), Some(model_access)) => Ok(NewKey {
            name,
            model_access,
            allow_from: allow_from.unwrap_or(AllowFrom::Anywhere),
            expires_at,
            account,
        }),
        _ => Err(KeyJsonError::Invalid(document_error("is not a key"))),
    }
}

/// Reads what is to change about a key: what is not named stays, null or an empty list clears.
///
/// # Errors
/// [`KeyJsonError`] says whether it is no JSON, or which field is wrong.
pub fn parse_patch(body: &[u8]) -> Result<KeyPatch, KeyJsonError> {
    let known = [
        KeyField::Name,
        KeyField::ModelAccess,
        KeyField::AllowFrom,
        KeyField::ExpiresAt,
        KeyField::Account,
        KeyField::Disabled,
    ];
    let mut fields = KeyDocument::read(body, &known)?;
    let patch = KeyPatch {
        name: fields.change(KeyField::Name, string(KeyName::parse)),
        model_access: fields.change(KeyField::ModelAccess, |value| {
            model_access(value, &mut Interner::default())
        }),
        allow_from: fields
            .clearable(KeyField::AllowFrom, networks)
            .map(|networks| networks.unwrap_or(AllowFrom::Anywhere)),
        expires_at: fields.clearable(KeyField::ExpiresAt, string(UnixTime::parse_expiry)),
        account: fields.clearable(KeyField::Account, string(Account::parse)),
        disabled: fields.boolean(KeyField::Disabled),
    };
    fields.first_error()?;
    Ok(patch)
}

#[cfg(test)]
mod tests;
