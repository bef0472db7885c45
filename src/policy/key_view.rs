//! The JSON of a key, as the admin API shows it to operators and `GET /v1/key` to the owner of the key.
//!
//! Both show the same rules under the same names. What only one of them shows is optional here, or in `details`.

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::policy::account::JudgedKey;
use crate::policy::key::Key;
use crate::policy::model_access::ModelAccess;

/// A key as JSON. The order of the fields is that of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct KeyView<'k, D> {
    id: &'k str,
    name: &'k str,
    /// For operators: null if the key has no hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<Option<&'k str>>,
    model_access: ModelAccessView<'k>,
    /// For the owner: the models of the catalogue that the key may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<&'k str>>,
    allow_from: Vec<String>,
    expires_at: Option<String>,
    #[serde(flatten)]
    details: D,
}

#[derive(Clone, Debug, Serialize)]
struct ModelAccessView<'k> {
    mode: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    models: &'k [Box<str>],
}

impl<'k, D> KeyView<'k, D> {
    /// The view of an operator.
    #[must_use]
    pub fn for_operator(key: &'k Key, details: D) -> Self {
        Self {
            hint: Some(key.hint()),
            ..Self::new(key, details)
        }
    }

    /// The view of the key's owner: what is left of the key under its account. `models` are those of the catalogue that
    /// the key may use.
    #[must_use]
    pub fn for_owner(key: JudgedKey<'k>, models: Vec<&'k str>, details: D) -> Self {
        Self {
            models: Some(models),
            allow_from: texts(&key.networks()),
            expires_at: key.expires_at().map(|time| time.to_string()),
            ..Self::new(key.key(), details)
        }
    }

    fn new(key: &'k Key, details: D) -> Self {
        Self {
            id: key.id(),
            name: key.name(),
            hint: None,
            model_access: ModelAccessView::of(key.model_access()),
            models: None,
            allow_from: texts(key.allow_from().networks()),
            expires_at: key.expires_at().map(|time| time.to_string()),
            details,
        }
    }
}

fn texts(networks: &[Ipv4Net]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

impl<'k> ModelAccessView<'k> {
    fn of(access: &'k ModelAccess) -> Self {
        Self {
            mode: access.mode(),
            models: access.models(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{KeyFields, KeyName};
    use crate::policy::model_access::ModelList;
    use crate::policy::network::{AllowFrom, parse_network};
    use crate::policy::time::UnixTime;

    #[derive(Serialize)]
    struct Details {
        more: u8,
    }

    #[test]
    fn operator_and_owner_see_the_same_rules_byte_for_byte() {
        let key = Key::from(KeyFields {
            name: KeyName::parse("web").unwrap(),
            model_access: ModelAccess::Inclusive(ModelList::new(vec!["m".into()]).unwrap()),
            allow_from: AllowFrom::from_networks(vec![parse_network("10.0.0.0/8").unwrap()]),
            expires_at: Some(UnixTime::from_seconds(0)),
            ..key_fields("key_1")
        });
        let operator = KeyView::for_operator(&key, Details { more: 1 });
        assert_eq!(
            serde_json::to_string(&operator).unwrap(),
            r#"{"id":"key_1","name":"web","hint":null,"model_access":{"mode":"inclusive","models":["m"]},"allow_from":["10.0.0.0/8"],"expires_at":"1970-01-01T00:00:00Z","more":1}"#
        );
        let owner = KeyView::for_owner(JudgedKey::new(&key, None), vec!["m"], Details { more: 1 });
        assert_eq!(
            serde_json::to_string(&owner).unwrap(),
            r#"{"id":"key_1","name":"web","model_access":{"mode":"inclusive","models":["m"]},"models":["m"],"allow_from":["10.0.0.0/8"],"expires_at":"1970-01-01T00:00:00Z","more":1}"#
        );
    }
}
