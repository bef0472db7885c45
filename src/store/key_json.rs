//! One key as a line of the key file.
//!
//! Every document is read the same way: one strict pass over it into values, then every field on its own, so that all
//! faults come at once. Knows neither files nor the table. Invariant: what is written here reads back as the same key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use ipnet::Ipv4Net;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::policy::key::{Account, Hint, Key, KeyFields, KeyId, KeyName};
use crate::policy::model_access::{ModelAccess, ModelList};
use crate::policy::network::{AllowFrom, parse_network};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::store::strict_json::{
    Complaint, RequestFault, Text, Value, Wrong, shown, text, whole, write_list, write_shown,
    write_text,
};

/// Equal model lists and accounts of many keys, to be held in memory once.
#[derive(Default)]
pub struct Shared {
    hasher: RandomState,
    lists: HashMap<u64, ModelList>,
    /// The one that was asked for last: neighbours in a file are often alike.
    last_list: Option<ModelList>,
    accounts: HashMap<Box<str>, Account>,
}

/// Past this many different ones, sharing costs more than it saves.
const MOST_SHARED: usize = 10_000;

/// Reads one line of the key file, without its line end.
///
/// # Errors
/// Every fault of the line.
pub fn parse_line(line: &[u8], shared: &mut Shared) -> Result<Key, Vec<Complaint>> {
    let mut fields = Fields::read(line, &Field::ALL).map_err(|fault| match fault {
        RequestFault::NotJson(complaint) | RequestFault::Faulty(complaint) => vec![complaint],
    })?;
    let id = fields.required(Field::Id, text(KeyId::parse));
    let name = fields.required(Field::Name, text(KeyName::parse));
    let hash = fields.required(Field::Hash, text(parse_hash));
    let hint = fields.optional(Field::Hint, text(Hint::parse));
    let access = fields.required(Field::ModelAccess, |value| model_access(value, shared));
    let allow_from = fields.optional(Field::AllowFrom, networks);
    let expires_at = fields.optional(Field::ExpiresAt, text(UnixTime::parse));
    let created_at = fields.optional(Field::CreatedAt, text(UnixTime::parse));
    let account = fields.optional(Field::Account, text(|text| shared.account(text)));
    let disabled = fields.switch(Field::Disabled);
    match (id, name, hash, access) {
        (Some(id), Some(name), Some(hash), Some(model_access)) if fields.complaints.is_empty() => {
            Ok(Key::from(KeyFields {
                id,
                name,
                hash,
                hint,
                model_access,
                allow_from: allow_from.unwrap_or(AllowFrom::Anywhere),
                expires_at,
                created_at,
                account,
                disabled: disabled.unwrap_or(false),
            }))
        }
        _ => Err(fields.complaints),
    }
}

/// Appends the key as one line of the key file, line end included. What is unset is left out, save that "any address"
/// and "not disabled" are always spelled out.
pub fn write_line(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    write_text(key.id(), out);
    out.extend_from_slice(b",\"name\":");
    write_text(key.name(), out);
    write_shown(",\"hash\":", key.hash(), out);
    if let Some(hint) = key.hint() {
        out.extend_from_slice(b",\"hint\":");
        write_text(hint, out);
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
        write_shown("", network, out);
    });
    if let Some(end) = key.expires_at() {
        write_shown(",\"expires_at\":", &end, out);
    }
    if let Some(begin) = key.created_at() {
        write_shown(",\"created_at\":", &begin, out);
    }
    if let Some(account) = key.account() {
        out.extend_from_slice(b",\"account\":");
        write_text(account, out);
    }
    let disabled: &[u8] = if key.disabled() { b"true" } else { b"false" };
    out.extend_from_slice(b",\"disabled\":");
    out.extend_from_slice(disabled);
    out.extend_from_slice(b"}\n");
}

impl Shared {
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
        if self.lists.len() < MOST_SHARED {
            self.lists.insert(slot, list.clone());
        }
        Some(list)
    }

    fn account(&mut self, text: &str) -> Result<Account, crate::policy::key::FieldFault> {
        if let Some(account) = self.accounts.get(text) {
            return Ok(account.clone());
        }
        let account = Account::parse(text)?;
        if self.accounts.len() < MOST_SHARED {
            self.accounts.insert(text.into(), account.clone());
        }
        Ok(account)
    }
}

/// The fields a key can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Id,
    Name,
    Hash,
    Hint,
    ModelAccess,
    AllowFrom,
    ExpiresAt,
    CreatedAt,
    Account,
    Disabled,
}

impl Field {
    const ALL: [Self; 10] = [
        Self::Id,
        Self::Name,
        Self::Hash,
        Self::Hint,
        Self::ModelAccess,
        Self::AllowFrom,
        Self::ExpiresAt,
        Self::CreatedAt,
        Self::Account,
        Self::Disabled,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Hash => "hash",
            Self::Hint => "hint",
            Self::ModelAccess => "model_access",
            Self::AllowFrom => "allow_from",
            Self::ExpiresAt => "expires_at",
            Self::CreatedAt => "created_at",
            Self::Account => "account",
            Self::Disabled => "disabled",
        }
    }
}

/// A document's fields as they came, and what was found wrong so far.
pub(crate) struct Fields<'a> {
    values: [Option<Value<'a>>; Field::ALL.len()],
    complaints: Vec<Complaint>,
}

impl<'a> Fields<'a> {
    pub(crate) fn read(document: &'a [u8], known: &[Field]) -> Result<Self, RequestFault> {
        let not_json = |what: &dyn fmt::Display| {
            RequestFault::NotJson(whole(&format!(
                "is not one whole JSON object: {what}; complete it or remove it"
            )))
        };
        let Ok(document) = simdutf8::basic::from_utf8(document) else {
            return Err(RequestFault::NotJson(whole(
                "is not UTF-8; write it anew as UTF-8",
            )));
        };
        let mut fields = Self {
            values: [const { None }; Field::ALL.len()],
            complaints: Vec::new(),
        };
        let mut reader = serde_json::Deserializer::from_str(document);
        let into = FieldsOf {
            known,
            fields: &mut fields,
        };
        match into.deserialize(&mut reader).and_then(|()| reader.end()) {
            Ok(()) => Ok(fields),
            Err(error) => match serde_json::from_str::<Value<'_>>(document) {
                Ok(other) => Err(RequestFault::Faulty(whole(&format!(
                    "must be a JSON object, not {}; write it like {{\"name\":\"…\"}}",
                    other.kind()
                )))),
                Err(_) => Err(not_json(&error)),
            },
        }
    }

    fn take(&mut self, field: Field) -> Option<Value<'a>> {
        self.values[field as usize].take()
    }

    /// A field that must be there.
    pub(crate) fn required<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        match self.take(field) {
            Some(value) => self.keep(field, read(value)),
            None => {
                self.complain(field, ("", "is missing; add it".to_owned()));
                None
            }
        }
    }

    /// A field that may be missing or null.
    pub(crate) fn optional<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.clearable(field, read).flatten()
    }

    /// A field that stays where it is missing.
    pub(crate) fn change<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(field)?;
        self.keep(field, read(value))
    }

    /// A field that stays where it is missing, and is cleared by null.
    pub(crate) fn clearable<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        match self.take(field)? {
            Value::Null => Some(None),
            value => self.keep(field, read(value)).map(Some),
        }
    }

    pub(crate) fn switch(&mut self, field: Field) -> Option<bool> {
        self.change(field, |value| match value {
            Value::Bool(on) => Ok(on),
            other => Err((
                "",
                format!("must be true or false, not {}; write it so", other.kind()),
            )),
        })
    }

    fn keep<T>(&mut self, field: Field, read: Result<T, Wrong>) -> Option<T> {
        read.map_err(|wrong| self.complain(field, wrong)).ok()
    }

    fn complain(&mut self, field: Field, (within, message): Wrong) {
        let field = match within {
            "" => field.name().to_owned(),
            within => format!("{}.{within}", field.name()),
        };
        self.complaints.push(Complaint { field, message });
    }

    pub(crate) fn first_complaint(&mut self) -> Result<(), RequestFault> {
        match self.complaints.is_empty() {
            true => Ok(()),
            false => Err(RequestFault::Faulty(self.complaints.swap_remove(0))),
        }
    }
}

fn parse_hash(text: &str) -> Result<TokenHash, &'static str> {
    TokenHash::parse(text)
        .ok_or("must be blake3: and 64 hexadecimal digits; `keygate keys hash` makes it of a token")
}

pub(crate) fn networks(value: Value<'_>) -> Result<AllowFrom, Wrong> {
    let Value::List(entries) = value else {
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
            // The longest network in any spelling has fewer; a longer text is not worth repeating.
            Value::Text(text) if text.len() <= 64 => {
                parse_network(text).map_err(|fault| fault.to_string())
            }
            Value::Text(_) => Err(
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

pub(crate) fn model_access(value: Value<'_>, shared: &mut Shared) -> Result<ModelAccess, Wrong> {
    let Value::Object(entries) = value else {
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
            other => return Err(("", unknown_within(other))),
        };
        if place.replace(value).is_some() {
            return Err(("", format!("names {name} twice; keep one")));
        }
    }
    let Some(Value::Text(mode)) = mode else {
        return Err(("mode", wrong_mode()));
    };
    match &*mode {
        "all" => match models {
            None | Some(Value::Null) => Ok(ModelAccess::All),
            Some(_) => Err((
                "models",
                "must be absent where mode is all; remove it, or set mode to inclusive or exclusive"
                    .to_owned(),
            )),
        },
        "inclusive" => model_list(models, shared).map(ModelAccess::Inclusive),
        "exclusive" => model_list(models, shared).map(ModelAccess::Exclusive),
        _ => Err(("mode", wrong_mode())),
    }
}

fn model_list(models: Option<Value<'_>>, shared: &mut Shared) -> Result<ModelList, Wrong> {
    let names = match models {
        Some(Value::List(entries)) => entries
            .into_iter()
            .map(|entry| match entry {
                Value::Text(name) if !name.is_empty() => Some(name),
                _ => None,
            })
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    names.and_then(|names| shared.list(&names)).ok_or_else(|| {
        (
            "models",
            "must be a list of at least one model name, each a string that is not empty; name the models, or set mode to all"
                .to_owned(),
        )
    })
}

fn wrong_mode() -> String {
    "must be \"all\", \"inclusive\" or \"exclusive\"; write which".to_owned()
}

fn unknown_within(name: &str) -> String {
    format!(
        "holds {}, which is unknown; only mode and models belong there, remove it",
        shown(name)
    )
}

/// Reads an object whose fields are among the known; of the others it complains.
struct FieldsOf<'k, 'f, 'a> {
    known: &'k [Field],
    fields: &'f mut Fields<'a>,
}

impl<'de> DeserializeSeed<'de> for FieldsOf<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsOf<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Fields { values, complaints } = self.fields;
        let mut complain = |name: &str, message: &str| {
            complaints.push(Complaint {
                field: shown(name),
                message: message.to_owned(),
            });
        };
        while let Some(Text(name)) = map.next_key()? {
            let value = map.next_value()?;
            match self.known.iter().find(|field| field.name() == name) {
                None => complain(&name, "is not a field that can stand here; remove it"),
                Some(field) => {
                    if values[*field as usize].replace(value).is_some() {
                        complain(&name, "stands here more than once; keep one");
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
