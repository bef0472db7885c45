//! The bodies of the admin API: the fields of a new key, and a patch of an existing one.

use crate::policy::budget::Budget;
use crate::policy::key::{Account, Key, KeyName};
use crate::policy::key_limits::{KeyAllowance, KeyLimits};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::person::PersonId;
use crate::policy::time::UnixTime;
use crate::store::allowance_json::{self, LimitsPatch};
use crate::store::key_json::{
    Interner, KeyDocument, KeyField, KeyJsonError, model_access, networks,
};
use crate::store::strict_json::{document_error, string};

/// The fields of a new key that the caller chooses. The key store adds id, token and creation time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// A name for people.
    pub name: KeyName,
    /// Which models the key may use.
    pub model_access: ModelAccess,
    /// From where the key may be used.
    pub allow_from: AllowFrom,
    /// The key is refused from this time on.
    pub expires_at: Option<UnixTime>,
    /// The account that owns the key.
    pub account: Option<Account>,
    /// The person who creates it. No body sets this.
    pub created_by: Option<PersonId>,
    /// How fast the key may be used, and how much of it.
    pub allowance: KeyAllowance,
}

/// A change of a key. A field that is None stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPatch {
    /// The new name.
    pub name: Option<KeyName>,
    /// The new model access.
    pub model_access: Option<ModelAccess>,
    /// The new networks; `Anywhere` removes the restriction.
    pub allow_from: Option<AllowFrom>,
    /// The new expiry; Some(None) removes it.
    pub expires_at: Option<Option<UnixTime>>,
    /// The new account; Some(None) removes it.
    pub account: Option<Option<Account>>,
    /// The change of its limits.
    pub limits: LimitsPatch,
    /// The new budgets; an empty list removes them.
    pub budgets: Option<Box<[Budget]>>,
    /// Whether the key is disabled from now on.
    pub disabled: Option<bool>,
    /// Whether the previous token ends now. No body sets this: it is a call of its own.
    pub ends_previous: bool,
}

/// What a change of a key takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revocation {
    /// It disables the key, alone or with other changes.
    pub disables: bool,
    /// It ends the previous token.
    pub ends_previous: bool,
}

impl Revocation {
    /// Whether it takes anything away.
    #[must_use]
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

impl KeyPatch {
    /// Whether it takes something away and does nothing else.
    #[must_use]
    pub fn only_revokes(&self) -> bool {
        let Revocation {
            disables,
            ends_previous,
        } = self.revocation();
        let revokes = Self {
            disabled: disables.then_some(true),
            ends_previous,
            ..Self::default()
        };
        (disables || ends_previous) && *self == revokes
    }

    /// The names of the fields that it sets, for the log.
    #[must_use]
    pub fn fields(&self) -> Vec<&'static str> {
        let Self {
            name,
            model_access,
            allow_from,
            expires_at,
            account,
            limits,
            budgets,
            disabled,
            ends_previous,
        } = self;
        let set = [
            (name.is_some(), KeyField::Name),
            (model_access.is_some(), KeyField::ModelAccess),
            (allow_from.is_some(), KeyField::AllowFrom),
            (expires_at.is_some(), KeyField::ExpiresAt),
            (account.is_some(), KeyField::Account),
            (limits.is_set(), KeyField::Limits),
            (budgets.is_some(), KeyField::Budgets),
            (disabled.is_some(), KeyField::Disabled),
            (*ends_previous, KeyField::Previous),
        ];
        let named = set.into_iter().filter(|(is_set, _)| *is_set);
        named.map(|(_, field)| field.name()).collect()
    }

    /// The part of it that only takes access away: it is in force before it is on disk.
    #[must_use]
    pub fn revocation(&self) -> Revocation {
        Revocation {
            disables: self.disabled == Some(true),
            ends_previous: self.ends_previous,
        }
    }

    /// The key with this patch applied.
    #[must_use]
    pub fn applied_to(&self, key: &Key) -> Key {
        let patch = self.clone();
        let mut fields = key.fields();
        fields.name = patch.name.unwrap_or(fields.name);
        fields.model_access = patch.model_access.unwrap_or(fields.model_access);
        fields.allow_from = patch.allow_from.unwrap_or(fields.allow_from);
        fields.expires_at = patch.expires_at.unwrap_or(fields.expires_at);
        fields.account = patch.account.unwrap_or(fields.account);
        fields.allowance = KeyAllowance {
            limits: patch.limits.applied_to(fields.allowance.limits),
            budgets: patch.budgets.unwrap_or(fields.allowance.budgets),
        };
        fields.disabled = patch.disabled.unwrap_or(fields.disabled);
        fields.previous = fields.previous.filter(|_| !patch.ends_previous);
        Key::from(fields)
    }
}

/// Reads the body that creates a key.
///
/// # Errors
/// [`KeyJsonError`] says whether the body is not JSON, or which field is wrong.
pub fn parse_new(body: &[u8]) -> Result<NewKey, KeyJsonError> {
    let known = [
        KeyField::Name,
        KeyField::ModelAccess,
        KeyField::AllowFrom,
        KeyField::ExpiresAt,
        KeyField::Account,
        KeyField::Limits,
        KeyField::Budgets,
    ];
    let mut fields = KeyDocument::read(body, &known)?;
    let name = fields.required(KeyField::Name, string(KeyName::parse));
    let access = fields.required(KeyField::ModelAccess, |value| {
        model_access(value, &mut Interner::default())
    });
    let allow_from = fields.optional(KeyField::AllowFrom, networks);
    let expires_at = fields.optional(KeyField::ExpiresAt, string(UnixTime::parse_expiry));
    let account = fields.optional(KeyField::Account, string(Account::parse));
    let limits = fields.optional(KeyField::Limits, allowance_json::limits);
    let budgets = fields.optional(KeyField::Budgets, allowance_json::budgets);
    fields.first_error()?;
    match (name, access) {
        (Some(name), Some(model_access)) => Ok(NewKey {
            name,
            model_access,
            allow_from: allow_from.unwrap_or(AllowFrom::Anywhere),
            expires_at,
            account,
            created_by: None,
            allowance: KeyAllowance {
                limits: limits.unwrap_or_default().applied_to(KeyLimits::default()),
                budgets: budgets.unwrap_or_default(),
            },
        }),
        _ => Err(KeyJsonError::Invalid(document_error("is not a key"))),
    }
}

/// Reads the body that changes a key. An absent field stays; null or an empty list clears it.
///
/// # Errors
/// [`KeyJsonError`] says whether the body is not JSON, or which field is wrong.
pub fn parse_patch(body: &[u8]) -> Result<KeyPatch, KeyJsonError> {
    let known = [
        KeyField::Name,
        KeyField::ModelAccess,
        KeyField::AllowFrom,
        KeyField::ExpiresAt,
        KeyField::Account,
        KeyField::Limits,
        KeyField::Budgets,
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
        limits: fields
            .clearable(KeyField::Limits, allowance_json::limits)
            .map_or(LimitsPatch::Keep, |limits| {
                limits.unwrap_or(LimitsPatch::Clear)
            }),
        budgets: fields
            .clearable(KeyField::Budgets, allowance_json::budgets)
            .map(Option::unwrap_or_default),
        disabled: fields.boolean(KeyField::Disabled),
        ends_previous: false,
    };
    fields.first_error()?;
    Ok(patch)
}

#[cfg(test)]
mod tests;
