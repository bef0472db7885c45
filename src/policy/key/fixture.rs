//! The key that unit tests start from. A test changes the fields that it is about:
//! `Key::from(KeyFields { disabled: true, ..key_fields("key_1") })`.

use crate::policy::key::{KeyFields, KeyId, KeyName};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::token::TokenHash;

/// All models, from anywhere. The hash is that of the id.
pub(crate) fn key_fields(id: &str) -> KeyFields {
    KeyFields::new(
        KeyId::parse(id).unwrap(),
        KeyName::parse("name").unwrap(),
        TokenHash::of(id.as_bytes()),
        ModelAccess::All,
        AllowFrom::Anywhere,
    )
}
