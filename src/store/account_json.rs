//! An account as JSON: its row in the database, and the bodies of the admin API.
//!
//! Invariant: an account that is written here is read back as the same account.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::policy::account::{AccountRules, KeyCount, KeyDays, MAX_ACCOUNT_KEYS, MAX_KEY_DAYS};
use crate::policy::budget::Budget;
use crate::policy::key::{KeyId, KeyName};
use crate::policy::key_limits::KeyAllowance;
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::time::UnixTime;
use crate::store::allowance_json::{self, BudgetView, LimitsPatch};
use crate::store::key_json::{Interner, KeyJsonError, model_access, networks};
use crate::store::strict_json::{
    FieldError, JsonValue, ValueError, document_error, printable, string,
};

/// The fields of a new account that the caller chooses, or those of a patch. A field that is None stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountPatch {
    /// Only of a new account.
    pub id: Option<KeyId>,
    /// The new name; Some(None) removes it.
    pub name: Option<Option<KeyName>>,
    /// The new ceiling of model access.
    pub model_access: Option<ModelAccess>,
    /// The new ceiling of networks.
    pub allow_from: Option<AllowFrom>,
    /// How many keys it may have from now on; Some(None): any number.
    pub max_keys: Option<Option<KeyCount>>,
    /// How long its keys may live from now on; Some(None): for ever.
    pub max_key_days: Option<Option<KeyDays>>,
    /// The change of its limits.
    pub limits: LimitsPatch,
    /// The new budgets; an empty list removes them.
    pub budgets: Option<Box<[Budget]>>,
    /// Whether it is disabled from now on.
    pub disabled: Option<bool>,
}

impl AccountPatch {
    /// The account with this patch applied.
    #[must_use]
    pub fn applied_to(self, account: &AccountRules) -> AccountRules {
        let Self {
            id: _,
            name,
            model_access,
            allow_from,
            max_keys,
            max_key_days,
            limits,
            budgets,
            disabled,
        } = self;
        let before = account.clone();
        AccountRules {
            id: before.id,
            name: name.unwrap_or(before.name),
            model_access: model_access.unwrap_or(before.model_access),
            allow_from: allow_from.unwrap_or(before.allow_from),
            max_keys: max_keys.unwrap_or(before.max_keys),
            max_key_days: max_key_days.unwrap_or(before.max_key_days),
            allowance: KeyAllowance {
                limits: limits.applied_to(before.allowance.limits),
                budgets: budgets.unwrap_or(before.allowance.budgets),
            },
            disabled: disabled.unwrap_or(before.disabled),
            created_at: before.created_at,
        }
    }
}

/// An account without any ceiling.
#[must_use]
pub fn unlimited(id: KeyId, created_at: UnixTime) -> AccountRules {
    AccountRules {
        id,
        name: None,
        model_access: ModelAccess::All,
        allow_from: AllowFrom::Anywhere,
        max_keys: None,
        max_key_days: None,
        allowance: KeyAllowance::default(),
        disabled: false,
        created_at,
    }
}

/// Reads the body that creates an account.
///
/// # Errors
/// [`KeyJsonError`] says whether the body is not JSON, or which field is wrong.
pub fn parse_new_account(body: &[u8]) -> Result<AccountPatch, KeyJsonError> {
    read(body, &["id"]).map(|(patch, _)| patch)
}

/// Reads the body that changes an account. An absent field stays; null or an empty list clears it.
///
/// # Errors
/// As [`parse_new_account`].
pub fn parse_account_patch(body: &[u8]) -> Result<AccountPatch, KeyJsonError> {
    read(body, &[]).map(|(patch, _)| patch)
}

/// Reads the row of an account.
///
/// # Errors
/// The row is not of an account that this version knows.
pub fn parse_account(row: &str) -> Result<AccountRules, KeyJsonError> {
    let (mut patch, created_at) = read(row.as_bytes(), &["id", "created_at"])?;
    match (patch.id.take(), created_at) {
        (Some(id), Some(created_at)) => Ok(patch.applied_to(&unlimited(id, created_at))),
        (None, _) | (_, None) => Err(KeyJsonError::Invalid(document_error("is not an account"))),
    }
}

/// The account as its row and the admin API have it.
#[must_use]
pub(crate) fn account_fields(account: &AccountRules) -> Map<String, Value> {
    let AccountRules {
        id,
        name,
        model_access,
        allow_from,
        max_keys,
        max_key_days,
        allowance: KeyAllowance { limits, budgets },
        disabled,
        created_at,
    } = account;
    let access = match model_access.is_all() {
        true => json!({"mode": model_access.mode()}),
        false => json!({"mode": model_access.mode(), "models": model_access.models()}),
    };
    let networks: Vec<String> = allow_from
        .networks()
        .iter()
        .map(ToString::to_string)
        .collect();
    let budgets: Vec<BudgetView> = budgets.iter().map(BudgetView::of).collect();
    [
        ("id", json!(id.as_str())),
        ("name", json!(name.as_ref().map(KeyName::as_str))),
        ("model_access", access),
        ("allow_from", json!(networks)),
        ("max_keys", json!(max_keys.map(KeyCount::get))),
        ("max_key_days", json!(max_key_days.map(KeyDays::get))),
        ("limits", allowance_json::limits_view(limits)),
        ("budgets", json!(budgets)),
        ("disabled", json!(disabled)),
        ("created_at", json!(created_at.to_string())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The revision of an account: a hash of its row, like that of a key.
#[must_use]
pub fn account_revision(account: &AccountRules) -> String {
    let row = Value::from(account_fields(account)).to_string();
    blake3::hash(row.as_bytes()).to_hex()[..16].to_owned()
}

/// The fields that can be changed, and those of `more`.
fn read(document: &[u8], more: &[&str]) -> Result<(AccountPatch, Option<UnixTime>), KeyJsonError> {
    let not_json = |what: &dyn fmt::Display| {
        KeyJsonError::NotJson(document_error(&format!(
            "is not one whole JSON object: {what}; complete it or remove it"
        )))
    };
    let document = std::str::from_utf8(document).map_err(|error| not_json(&error))?;
    let value: JsonValue<'_> = serde_json::from_str(document).map_err(|error| not_json(&error))?;
    let JsonValue::Object(fields) = value else {
        return Err(KeyJsonError::Invalid(document_error(
            "must be a JSON object; write it like {\"id\":\"…\"}",
        )));
    };
    let (mut patch, mut created_at) = (AccountPatch::default(), None);
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in fields {
        let wrong = |message: String| {
            KeyJsonError::Invalid(FieldError {
                field: printable(&name),
                message,
            })
        };
        if seen.iter().any(|seen| **seen == *name) {
            return Err(wrong("stands here more than once; keep one".to_owned()));
        }
        seen.push(name.clone().into_owned());
        let known = match &*name {
            "id" | "created_at" if !more.contains(&&*name) => None,
            "created_at" => {
                Some(string(UnixTime::parse)(value).map(|time| created_at = Some(time)))
            }
            name => read_field(name, value, &mut patch),
        };
        let within = |(within, message): ValueError| {
            let field = match within {
                "" => name.clone().into_owned(),
                within => format!("{name}.{within}"),
            };
            KeyJsonError::Invalid(FieldError { field, message })
        };
        known
            .ok_or_else(|| wrong("is not a field that can stand here; remove it".to_owned()))?
            .map_err(within)?;
    }
    Ok((patch, created_at))
}

/// Sets the field of this name; None: there is none.
fn read_field(
    name: &str,
    value: JsonValue<'_>,
    patch: &mut AccountPatch,
) -> Option<Result<(), ValueError>> {
    let is_null = matches!(value, JsonValue::Null);
    Some(match name {
        "id" => match is_null {
            true => Ok(()),
            false => string(KeyId::parse)(value).map(|id| patch.id = Some(id)),
        },
        "name" => match is_null {
            true => {
                patch.name = Some(None);
                Ok(())
            }
            false => string(KeyName::parse)(value).map(|name| patch.name = Some(Some(name))),
        },
        "model_access" => match is_null {
            true => {
                patch.model_access = Some(ModelAccess::All);
                Ok(())
            }
            false => model_access(value, &mut Interner::default())
                .map(|access| patch.model_access = Some(access)),
        },
        "allow_from" => match is_null {
            true => {
                patch.allow_from = Some(AllowFrom::Anywhere);
                Ok(())
            }
            false => networks(value).map(|networks| patch.allow_from = Some(networks)),
        },
        "max_keys" => {
            number(value, 0, MAX_ACCOUNT_KEYS, KeyCount::of).map(|keys| patch.max_keys = Some(keys))
        }
        "max_key_days" => {
            number(value, 1, MAX_KEY_DAYS, KeyDays::of).map(|days| patch.max_key_days = Some(days))
        }
        "limits" => match is_null {
            true => {
                patch.limits = LimitsPatch::Clear;
                Ok(())
            }
            false => allowance_json::limits(value).map(|limits| patch.limits = limits),
        },
        "budgets" => match is_null {
            true => {
                patch.budgets = Some(Box::default());
                Ok(())
            }
            false => allowance_json::budgets(value).map(|budgets| patch.budgets = Some(budgets)),
        },
        "disabled" => match value {
            JsonValue::Bool(on) => {
                patch.disabled = Some(on);
                Ok(())
            }
            other => Err((
                "",
                format!("must be true or false, not {}; write it so", other.kind()),
            )),
        },
        _ => return None,
    })
}

/// A whole number in its bounds; None where it is null.
fn number<T>(
    value: JsonValue<'_>,
    least: u32,
    most: u32,
    of: impl FnOnce(u64) -> Option<T>,
) -> Result<Option<T>, ValueError> {
    let wrong = || {
        (
            "",
            format!("must be a whole number from {least} to {most}, or null; write such a number"),
        )
    };
    match value {
        JsonValue::Null => Ok(None),
        JsonValue::Number(Some(number)) => of(number).ok_or_else(wrong).map(Some),
        JsonValue::Number(None)
        | JsonValue::Bool(_)
        | JsonValue::Text(_)
        | JsonValue::List(_)
        | JsonValue::Object(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"id":"acme","name":"Acme Inc.","model_access":{"mode":"inclusive","models":["m"]},
        "allow_from":["10.0.0.0/8"],"max_keys":3,"max_key_days":90,"limits":{"requests_per_minute":60},
        "budgets":[{"unit":"tokens","amount":1000,"per":"month"}],"disabled":true,"created_at":"2027-01-01T00:00:00Z"}"#;

    #[test]
    fn an_account_is_read_back_as_it_was_written() {
        let account = parse_account(WHOLE).unwrap();
        assert_eq!(account.max_key_days.map(KeyDays::get), Some(90));
        assert_eq!(account.allowance.budgets.len(), 1);
        let row = Value::from(account_fields(&account)).to_string();
        assert_eq!(parse_account(&row).unwrap(), account);
        let least = parse_account(r#"{"id":"a","created_at":"2027-01-01T00:00:00Z"}"#).unwrap();
        let row = Value::from(account_fields(&least)).to_string();
        assert_eq!(parse_account(&row).unwrap(), least);
        assert_ne!(account_revision(&account), account_revision(&least));
    }

    #[test]
    fn null_clears_and_what_is_absent_stays() {
        let account = parse_account(WHOLE).unwrap();
        let patch = parse_account_patch(b"{}").unwrap();
        assert_eq!(patch.applied_to(&account), account);
        let clear = r#"{"name":null,"model_access":null,"allow_from":null,"max_keys":null,"max_key_days":null,
            "limits":null,"budgets":null,"disabled":false}"#;
        let cleared = parse_account_patch(clear.as_bytes()).unwrap();
        let unlimited = unlimited(account.id.clone(), account.created_at);
        assert_eq!(cleared.applied_to(&account), unlimited);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, field) in [
            (r#"{"id":"a b"}"#, "id"),
            (r#"{"max_keys":-1}"#, "max_keys"),
            (r#"{"max_key_days":0}"#, "max_key_days"),
            (r#"{"max_key_days":"9"}"#, "max_key_days"),
            (r#"{"disabled":1}"#, "disabled"),
            (
                r#"{"model_access":{"mode":"inclusive"}}"#,
                "model_access.models",
            ),
            (r#"{"name":"a","name":"b"}"#, "name"),
            (r#"{"created_at":"2027-01-01T00:00:00Z"}"#, "created_at"),
            (r#"{"other":1}"#, "other"),
        ] {
            match parse_new_account(body.as_bytes()) {
                Err(KeyJsonError::Invalid(error)) => assert_eq!(error.field, field),
                other => panic!("{body}: {other:?}"),
            }
        }
        assert!(matches!(
            parse_account_patch(br#"{"id":"a"}"#),
            Err(KeyJsonError::Invalid(_))
        ));
        assert!(matches!(
            parse_new_account(b"{"),
            Err(KeyJsonError::NotJson(_))
        ));
    }
}
