//! A key as JSON: the line of the key file, and the fields that the admin API's bodies share with it.
//!
//! A document is read in one strict pass into values, then field by field, so that all errors are reported at once.
//! Invariant: a key that is written here is read back as the same key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use ipnet::Ipv4Net;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::policy::key::{
    Account, Hint, Key, KeyFieldError, KeyFields, KeyId, KeyName, PreviousToken,
};
use crate::policy::key_limits::{KeyAllowance, KeyLimits};
use crate::policy::model_access::{ModelAccess, ModelList};
use crate::policy::network::{AllowFrom, parse_network};
use crate::policy::person::{PersonId, PersonIdError};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::store::allowance_json;
use crate::store::strict_json::{
    FieldError, JsonString, JsonValue, ValueError, document_error, printable, string,
    write_display, write_list, write_text,
};

/// Why a body of the admin API, or a line of the key file, is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyJsonError {
    /// The document is not JSON.
    NotJson(FieldError),
    /// The document is JSON, but this field is wrong.
    Invalid(FieldError),
}

impl fmt::Display for KeyJsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(error) | Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyJsonError {}

/// Holds equal model lists and accounts of many keys in memory once.
#[derive(Default)]
pub struct Interner {
    hasher: RandomState,
    lists: HashMap<u64, ModelList>,
    /// The list that was used last: neighbouring lines of a file often have equal lists.
    last_list: Option<ModelList>,
    accounts: HashMap<Box<str>, Account>,
    persons: HashMap<Box<str>, PersonId>,
}

/// With more different values than this, interning costs more than it saves.
const MAX_INTERNED: usize = 10_000;

/// Reads one line of the key file, without its line end.
///
/// # Errors
/// All errors of the line.
pub fn parse_line(line: &[u8], interner: &mut Interner) -> Result<Key, Vec<FieldError>> {
    let mut fields = KeyDocument::read(line, &KeyField::ALL).map_err(|fault| match fault {
        KeyJsonError::NotJson(error) | KeyJsonError::Invalid(error) => vec![error],
    })?;
    let id = fields.required(KeyField::Id, string(KeyId::parse));
    let name = fields.required(KeyField::Name, string(KeyName::parse));
    let hash = fields.required(KeyField::Hash, string(parse_hash));
    let hint = fields.optional(KeyField::Hint, string(Hint::parse));
    let previous = fields.optional(KeyField::Previous, |value| {
        previous_token(value, hash.as_ref())
    });
    let access = fields.required(KeyField::ModelAccess, |value| model_access(value, interner));
    let allow_from = fields.optional(KeyField::AllowFrom, networks);
    let expires_at = fields.optional(KeyField::ExpiresAt, string(UnixTime::parse));
    let created_at = fields.optional(KeyField::CreatedAt, string(UnixTime::parse));
    let account = fields.optional(KeyField::Account, string(|text| interner.account(text)));
    let created_by = fields.optional(KeyField::CreatedBy, string(|text| interner.person(text)));
    let limits = fields.optional(KeyField::Limits, allowance_json::limits);
    let budgets = fields.optional(KeyField::Budgets, allowance_json::budgets);
    let disabled = fields.boolean(KeyField::Disabled);
    match (id, name, hash, access) {
        (Some(id), Some(name), Some(hash), Some(model_access)) if fields.errors.is_empty() => {
            Ok(Key::from(KeyFields {
                id,
                name,
                hash,
                hint,
                previous,
                model_access,
                allow_from: allow_from.unwrap_or(AllowFrom::Anywhere),
                expires_at,
                created_at,
                account,
                created_by,
                allowance: KeyAllowance {
                    limits: limits.unwrap_or_default().applied_to(KeyLimits::default()),
                    budgets: budgets.unwrap_or_default(),
                },
                disabled: disabled.unwrap_or(false),
            }))
        }
        _ => Err(fields.errors),
    }
}

/// Appends the key as one line of the key file, with its line end. Unset fields are left out, except that "any address"
/// and "not disabled" are always written.
pub fn write_line(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    write_text(key.id(), out);
    out.extend_from_slice(b",\"name\":");
    write_text(key.name(), out);
    write_display(",\"hash\":", key.hash(), out);
    if let Some(hint) = key.hint() {
        out.extend_from_slice(b",\"hint\":");
        write_text(hint, out);
    }
    if let Some(previous) = key.previous() {
        write_display(",\"previous\":{\"hash\":", previous.hash(), out);
        if let Some(hint) = previous.hint() {
            out.extend_from_slice(b",\"hint\":");
            write_text(hint, out);
        }
        write_display(",\"not_after\":", &previous.not_after(), out);
        out.push(b'}');
    }
    out.extend_from_slice(b",\"model_access\":{\"mode\":");
    write_text(key.model_access().mode(), out);
    if !key.model_access().is_all() {
        out.extend_from_slice(b",\"models\":");
        write_list(key.model_access().models(), out, |model, out| {
            write_text(model, out);
        });
    }
    out.extend_from_slice(b"},\"allow_from\":");
    write_list(key.allow_from().networks(), out, |network, out| {
        write_display("", network, out);
    });
    if let Some(end) = key.expires_at() {
        write_display(",\"expires_at\":", &end, out);
    }
    if let Some(begin) = key.created_at() {
        write_display(",\"created_at\":", &begin, out);
    }
    if let Some(account) = key.account() {
        out.extend_from_slice(b",\"account\":");
        write_text(account, out);
    }
    if let Some(person) = key.created_by() {
        out.extend_from_slice(b",\"created_by\":");
        write_text(person, out);
    }
    if let Some(allowance) = key.allowance() {
        allowance_json::write(allowance, out);
    }
    let disabled: &[u8] = if key.disabled() { b"true" } else { b"false" };
    out.extend_from_slice(b",\"disabled\":");
    out.extend_from_slice(disabled);
    out.extend_from_slice(b"}\n");
}

impl Interner {
    fn list(&mut self, names: &[Cow<'_, str>]) -> Option<ModelList> {
        let same = |list: &&ModelList| list.names().iter().map(|name| &**name).eq(names);
        if let Some(list) = self.last_list.as_ref().filter(same) {
            return Some(list.clone());
        }
        let slot = self.hasher.hash_one(names);
        if let Some(list) = self.lists.get(&slot).filter(same) {
            self.last_list = Some(list.clone());
            return Some(list.clone());
        }
        let list = ModelList::new(names.iter().map(|name| name.clone().into_owned()).collect())?;
        if self.lists.len() < MAX_INTERNED {
            self.lists.insert(slot, list.clone());
        }
        Some(list)
    }

    fn account(&mut self, text: &str) -> Result<Account, KeyFieldError> {
        if let Some(account) = self.accounts.get(text) {
            return Ok(account.clone());
        }
        let account = Account::parse(text)?;
        if self.accounts.len() < MAX_INTERNED {
            self.accounts.insert(text.into(), account.clone());
        }
        Ok(account)
    }

    fn person(&mut self, text: &str) -> Result<PersonId, PersonIdError> {
        if let Some(person) = self.persons.get(text) {
            return Ok(person.clone());
        }
        let person = PersonId::parse(text)?;
        if self.persons.len() < MAX_INTERNED {
            self.persons.insert(text.into(), person.clone());
        }
        Ok(person)
    }
}

/// The fields of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyField {
    Id,
    Name,
    Hash,
    Hint,
    Previous,
    ModelAccess,
    AllowFrom,
    ExpiresAt,
    CreatedAt,
    Account,
    CreatedBy,
    Limits,
    Budgets,
    Disabled,
}

impl KeyField {
    const ALL: [Self; 14] = [
        Self::Id,
        Self::Name,
        Self::Hash,
        Self::Hint,
        Self::Previous,
        Self::ModelAccess,
        Self::AllowFrom,
        Self::ExpiresAt,
        Self::CreatedAt,
        Self::Account,
        Self::CreatedBy,
        Self::Limits,
        Self::Budgets,
        Self::Disabled,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Hash => "hash",
            Self::Hint => "hint",
            Self::Previous => "previous",
            Self::ModelAccess => "model_access",
            Self::AllowFrom => "allow_from",
            Self::ExpiresAt => "expires_at",
            Self::CreatedAt => "created_at",
            Self::Account => "account",
            Self::CreatedBy => "created_by",
            Self::Limits => "limits",
            Self::Budgets => "budgets",
            Self::Disabled => "disabled",
        }
    }
}

/// The fields of a document, and the errors found so far.
pub(crate) struct KeyDocument<'a> {
    values: [Option<JsonValue<'a>>; KeyField::ALL.len()],
    errors: Vec<FieldError>,
}

impl<'a> KeyDocument<'a> {
    pub(crate) fn read(document: &'a [u8], known: &[KeyField]) -> Result<Self, KeyJsonError> {
        let not_json = |what: &dyn fmt::Display| {
            KeyJsonError::NotJson(document_error(&format!(
                "is not one whole JSON object: {what}; complete it or remove it"
            )))
        };
        let Ok(document) = simdutf8::basic::from_utf8(document) else {
            return Err(KeyJsonError::NotJson(document_error(
                "is not UTF-8; write it anew as UTF-8",
            )));
        };
        let mut fields = Self {
            values: [const { None }; KeyField::ALL.len()],
            errors: Vec::new(),
        };
        let mut reader = serde_json::Deserializer::from_str(document);
        let into = KeyDocumentSeed {
            known,
            fields: &mut fields,
        };
        match into.deserialize(&mut reader).and_then(|()| reader.end()) {
            Ok(()) => Ok(fields),
            Err(error) => match serde_json::from_str::<JsonValue<'_>>(document) {
                Ok(other) => Err(KeyJsonError::Invalid(document_error(&format!(
                    "must be a JSON object, not {}; write it like {{\"name\":\"…\"}}",
                    other.kind()
                )))),
                Err(_) => Err(not_json(&error)),
            },
        }
    }

    fn take(&mut self, field: KeyField) -> Option<JsonValue<'a>> {
        self.values[field as usize].take()
    }

    /// A field that must be present.
    pub(crate) fn required<T>(
        &mut self,
        field: KeyField,
        read: impl FnOnce(JsonValue<'a>) -> Result<T, ValueError>,
    ) -> Option<T> {
        match self.take(field) {
            Some(value) => self.record(field, read(value)),
            None => {
                self.add_error(field, ("", "is missing; add it".to_owned()));
                None
            }
        }
    }

    /// A field that may be missing or null.
    pub(crate) fn optional<T>(
        &mut self,
        field: KeyField,
        read: impl FnOnce(JsonValue<'a>) -> Result<T, ValueError>,
    ) -> Option<T> {
        self.clearable(field, read).flatten()
    }

    /// A field of a patch: None if absent, and null is not allowed.
    pub(crate) fn change<T>(
        &mut self,
        field: KeyField,
        read: impl FnOnce(JsonValue<'a>) -> Result<T, ValueError>,
    ) -> Option<T> {
        let value = self.take(field)?;
        self.record(field, read(value))
    }

    /// A field of a patch: None if absent, Some(None) if null.
    pub(crate) fn clearable<T>(
        &mut self,
        field: KeyField,
        read: impl FnOnce(JsonValue<'a>) -> Result<T, ValueError>,
    ) -> Option<Option<T>> {
        match self.take(field)? {
            JsonValue::Null => Some(None),
            value => self.record(field, read(value)).map(Some),
        }
    }

    pub(crate) fn boolean(&mut self, field: KeyField) -> Option<bool> {
        self.change(field, |value| match value {
            JsonValue::Bool(on) => Ok(on),
            other => Err((
                "",
                format!("must be true or false, not {}; write it so", other.kind()),
            )),
        })
    }

    fn record<T>(&mut self, field: KeyField, read: Result<T, ValueError>) -> Option<T> {
        read.map_err(|wrong| self.add_error(field, wrong)).ok()
    }

    fn add_error(&mut self, field: KeyField, (within, message): ValueError) {
        let field = match within {
            "" => field.name().to_owned(),
            within => format!("{}.{within}", field.name()),
        };
        self.errors.push(FieldError { field, message });
    }

    pub(crate) fn first_error(&mut self) -> Result<(), KeyJsonError> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(KeyJsonError::Invalid(self.errors.swap_remove(0))),
        }
    }
}

fn parse_hash(text: &str) -> Result<TokenHash, &'static str> {
    TokenHash::parse(text)
        .ok_or("must be blake3: and 64 hexadecimal digits; `keygate keys hash` makes it of a token")
}

/// The token that a rotation replaced. `current` is the hash of the key's own token.
fn previous_token(
    value: JsonValue<'_>,
    current: Option<&TokenHash>,
) -> Result<PreviousToken, ValueError> {
    let JsonValue::Object(entries) = value else {
        return Err((
            "",
            format!(
                "must be an object, not {}; write it like {{\"hash\":\"blake3:…\",\"not_after\":\"2027-02-01T00:00:00Z\"}}",
                value.kind()
            ),
        ));
    };
    let (mut hash, mut hint, mut not_after) = (None, None, None);
    for (name, value) in entries {
        let place = match &*name {
            "hash" => &mut hash,
            "hint" => &mut hint,
            "not_after" => &mut not_after,
            other => {
                let name = printable(other);
                let only = "only hash, hint and not_after belong there, remove it";
                return Err(("", format!("holds {name}, which is unknown; {only}")));
            }
        };
        if place.replace(value).is_some() {
            return Err(("", format!("names {name} twice; keep one")));
        }
    }
    let missing = || "is missing; add it".to_owned();
    let inside = |field| move |(_, message): ValueError| (field, message);
    let hash = hash.ok_or_else(|| ("hash", missing()))?;
    let hash = string(parse_hash)(hash).map_err(inside("hash"))?;
    if current == Some(&hash) {
        let message = "is that of the key's own token too; remove previous, or write the hash of the token before it";
        return Err(("hash", message.to_owned()));
    }
    let hint = match hint {
        None | Some(JsonValue::Null) => None,
        Some(hint) => Some(string(Hint::parse)(hint).map_err(inside("hint"))?),
    };
    let not_after = not_after.ok_or_else(|| ("not_after", missing()))?;
    let not_after = string(UnixTime::parse)(not_after).map_err(inside("not_after"))?;
    Ok(PreviousToken::new(hash, hint, not_after))
}

pub(crate) fn networks(value: JsonValue<'_>) -> Result<AllowFrom, ValueError> {
    let JsonValue::List(entries) = value else {
        return Err((
            "",
            format!(
                "must be a list of networks, not {}; write it like [\"192.0.2.0/24\"]",
                value.kind()
            ),
        ));
    };
    let networks: Result<Vec<Ipv4Net>, String> = entries
        .iter()
        .map(|entry| match entry {
            // No network is longer in any spelling, and a longer text must not be repeated in the message.
            JsonValue::Text(text) if text.len() <= 64 => {
                parse_network(text).map_err(|fault| fault.to_string())
            }
            JsonValue::Text(_) => Err(
                "holds an entry that is too long for an IPv4 network; write it like 192.0.2.0/24"
                    .to_owned(),
            ),
            other => Err(format!(
                "holds {}; write each network in quotes",
                other.kind()
            )),
        })
        .collect();
    networks
        .map(AllowFrom::from_networks)
        .map_err(|message| ("", message))
}

pub(crate) fn model_access(
    value: JsonValue<'_>,
    interner: &mut Interner,
) -> Result<ModelAccess, ValueError> {
    let JsonValue::Object(entries) = value else {
        return Err((
            "",
            format!(
                "must be an object, not {}; write it like {{\"mode\":\"all\"}}",
                value.kind()
            ),
        ));
    };
    let (mut mode, mut models) = (None, None);
    for (name, value) in entries {
        let place = match &*name {
            "mode" => &mut mode,
            "models" => &mut models,
            other => return Err(("", unknown_field_error(other))),
        };
        if place.replace(value).is_some() {
            return Err(("", format!("names {name} twice; keep one")));
        }
    }
    let Some(JsonValue::Text(mode)) = mode else {
        return Err(("mode", mode_error()));
    };
    match &*mode {
        "all" => match models {
            None | Some(JsonValue::Null) => Ok(ModelAccess::All),
            Some(_) => Err((
                "models",
                "must be absent where mode is all; remove it, or set mode to inclusive or exclusive"
                    .to_owned(),
            )),
        },
        "inclusive" => model_list(models, interner).map(ModelAccess::Inclusive),
        "exclusive" => model_list(models, interner).map(ModelAccess::Exclusive),
        _ => Err(("mode", mode_error())),
    }
}

fn model_list(
    models: Option<JsonValue<'_>>,
    interner: &mut Interner,
) -> Result<ModelList, ValueError> {
    let names = match models {
        Some(JsonValue::List(entries)) => entries
            .into_iter()
            .map(|entry| match entry {
                JsonValue::Text(name) if !name.is_empty() => Some(name),
                _ => None,
            })
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    names.and_then(|names| interner.list(&names)).ok_or_else(|| {
        (
            "models",
            "must be a list of at least one model name, each a string that is not empty; name the models, or set mode to all"
                .to_owned(),
        )
    })
}

fn mode_error() -> String {
    "must be \"all\", \"inclusive\" or \"exclusive\"; write which".to_owned()
}

fn unknown_field_error(name: &str) -> String {
    format!(
        "holds {}, which is unknown; only mode and models belong there, remove it",
        printable(name)
    )
}

/// Reads an object into a document. A field that is not known is an error.
struct KeyDocumentSeed<'k, 'f, 'a> {
    known: &'k [KeyField],
    fields: &'f mut KeyDocument<'a>,
}

impl<'de> DeserializeSeed<'de> for KeyDocumentSeed<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for KeyDocumentSeed<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let KeyDocument { values, errors } = self.fields;
        let mut add_error = |name: &str, message: &str| {
            errors.push(FieldError {
                field: printable(name),
                message: message.to_owned(),
            });
        };
        while let Some(JsonString(name)) = map.next_key()? {
            let value = map.next_value()?;
            match self.known.iter().find(|field| field.name() == name) {
                None => add_error(&name, "is not a field that can stand here; remove it"),
                Some(field) => {
                    if values[*field as usize].replace(value).is_some() {
                        add_error(&name, "stands here more than once; keep one");
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
