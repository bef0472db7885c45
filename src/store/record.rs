//! One key as JSON: a line of the key file, the body that asks for a new key, the body that changes one.
//!
//! All three are read the same way: one strict pass over the document into values, then every field on its own, so
//! that all faults come at once. Knows neither files nor the table. Invariant: what is written here reads back as
//! the same key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

use ipnet::Ipv4Net;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::policy::key::{Account, Hint, Key, KeyFields, KeyId, KeyName};
use crate::policy::model_access::{ModelAccess, ModelList};
use crate::policy::network::{AllowFrom, parse_network};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

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
            (name.is_some(), Field::Name),
            (model_access.is_some(), Field::ModelAccess),
            (allow_from.is_some(), Field::AllowFrom),
            (expires_at.is_some(), Field::ExpiresAt),
            (account.is_some(), Field::Account),
            (disabled.is_some(), Field::Disabled),
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

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The field's path, like `model_access.models`; empty where the whole is meant.
    pub field: String,
    /// `what; remedy`
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Complaint {}

/// Why a request's body is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// It is no JSON at all.
    NotJson(Complaint),
    /// It is JSON, but not what was asked for.
    Faulty(Complaint),
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(complaint) | Self::Faulty(complaint) => complaint.fmt(f),
        }
    }
}

impl std::error::Error for RequestFault {}

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

/// Reads what a new key is to be.
///
/// # Errors
/// [`RequestFault`] says whether it is no JSON, or which field is wrong.
pub fn parse_new(body: &[u8]) -> Result<NewKey, RequestFault> {
    let known = [
        Field::Name,
        Field::ModelAccess,
        Field::AllowFrom,
        Field::ExpiresAt,
        Field::Account,
    ];
    let mut fields = Fields::read(body, &known)?;
    let name = fields.required(Field::Name, text(KeyName::parse));
    let access = fields.required(Field::ModelAccess, |value| {
        model_access(value, &mut Shared::default())
    });
    let allow_from = fields.optional(Field::AllowFrom, networks);
    let expires_at = fields.optional(Field::ExpiresAt, text(UnixTime::parse_expiry));
    let account = fields.optional(Field::Account, text(Account::parse));
    fields.first_complaint()?;
    match (name, access) {
        (Some(name), Some(model_access)) => Ok(NewKey {
            name,
            model_access,
            allow_from: allow_from.unwrap_or(AllowFrom::Anywhere),
            expires_at,
            account,
        }),
        _ => Err(RequestFault::Faulty(whole("is not a key"))),
    }
}

/// Reads what is to change about a key: what is not named stays, null or an empty list clears.
///
/// # Errors
/// [`RequestFault`] says whether it is no JSON, or which field is wrong.
pub fn parse_patch(body: &[u8]) -> Result<KeyPatch, RequestFault> {
    let known = [
        Field::Name,
        Field::ModelAccess,
        Field::AllowFrom,
        Field::ExpiresAt,
        Field::Account,
        Field::Disabled,
    ];
    let mut fields = Fields::read(body, &known)?;
    let patch = KeyPatch {
        name: fields.change(Field::Name, text(KeyName::parse)),
        model_access: fields.change(Field::ModelAccess, |value| {
            model_access(value, &mut Shared::default())
        }),
        allow_from: fields
            .clearable(Field::AllowFrom, networks)
            .map(|networks| networks.unwrap_or(AllowFrom::Anywhere)),
        expires_at: fields.clearable(Field::ExpiresAt, text(UnixTime::parse_expiry)),
        account: fields.clearable(Field::Account, text(Account::parse)),
        disabled: fields.switch(Field::Disabled),
    };
    fields.first_complaint()?;
    Ok(patch)
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

    fn account(&mut self, text: &str) -> Result<Account, crate::policy::key::KeyFieldError> {
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
enum Field {
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

    fn name(self) -> &'static str {
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
struct Fields<'a> {
    values: [Option<Value<'a>>; Field::ALL.len()],
    complaints: Vec<Complaint>,
}

/// Any JSON, borrowed from the text where it needs no decoding.
enum Value<'a> {
    Null,
    Bool(bool),
    Number,
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// What is wrong with a value: (a field within it, `what; remedy`).
type Wrong = (&'static str, String);

impl<'a> Fields<'a> {
    fn read(document: &'a [u8], known: &[Field]) -> Result<Self, RequestFault> {
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
    fn required<T>(
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
    fn optional<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.clearable(field, read).flatten()
    }

    /// A field that stays where it is missing.
    fn change<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(field)?;
        self.keep(field, read(value))
    }

    /// A field that stays where it is missing, and is cleared by null.
    fn clearable<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(Value<'a>) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        match self.take(field)? {
            Value::Null => Some(None),
            value => self.keep(field, read(value)).map(Some),
        }
    }

    fn switch(&mut self, field: Field) -> Option<bool> {
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

    fn first_complaint(&mut self) -> Result<(), RequestFault> {
        match self.complaints.is_empty() {
            true => Ok(()),
            false => Err(RequestFault::Faulty(self.complaints.swap_remove(0))),
        }
    }
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

fn text<'a, T, E: fmt::Display>(
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> impl FnOnce(Value<'a>) -> Result<T, Wrong> {
    |value| match value {
        Value::Text(text) => parse(&text).map_err(|fault| ("", fault.to_string())),
        other => Err((
            "",
            format!("must be a string, not {}; write it in quotes", other.kind()),
        )),
    }
}

fn parse_hash(text: &str) -> Result<TokenHash, &'static str> {
    TokenHash::parse(text)
        .ok_or("must be blake3: and 64 hexadecimal digits; `keygate keys hash` makes it of a token")
}

fn networks(value: Value<'_>) -> Result<AllowFrom, Wrong> {
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

fn model_access(value: Value<'_>, shared: &mut Shared) -> Result<ModelAccess, Wrong> {
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

fn whole(message: &str) -> Complaint {
    Complaint {
        field: String::new(),
        message: message.to_owned(),
    }
}

/// A name from a document, fit to be shown: short and without control characters.
#[must_use]
pub fn shown(name: &str) -> String {
    let start: String = name.chars().take(40).collect();
    let rest = if start.len() < name.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 | 0x7f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Something whose text form needs no escapes.
fn write_shown(before: &str, value: &dyn fmt::Display, out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    let _ = write!(out, "{before}\"{value}\"");
}

fn write_list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
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

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Text(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("a field's name must be a string")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, on: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(on))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Value<'de>, S::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value<'de>, M::Error> {
        let mut object = Vec::new();
        while let Some((Text(name), value)) = map.next_entry()? {
            object.push((name, value));
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    /// A minimal line, with one field put in the place of the one of that name, or added.
    fn line(field: &str, value: &str) -> String {
        let mut fields = vec![
            ("id", "\"key_1\"".to_owned()),
            ("name", "\"web site\"".to_owned()),
            ("hash", format!("\"{HASH}\"")),
            ("model_access", r#"{"mode":"all"}"#.to_owned()),
        ];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value.to_owned()));
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    }

    fn parse(line: &str) -> Result<Key, Vec<Complaint>> {
        parse_line(line.as_bytes(), &mut Shared::default())
    }

    /// The only complaint about a line.
    fn complaint(line: &str) -> Complaint {
        let mut complaints = parse(line).unwrap_err();
        assert_eq!(complaints.len(), 1, "{line}: {complaints:?}");
        complaints.remove(0)
    }

    #[test]
    fn the_line_of_the_documentation_is_read_and_written_back_unchanged() {
        let text = format!(
            r#"{{"id":"key_1","name":"web site","hash":"{HASH}","hint":"x9Qz","model_access":{{"mode":"inclusive","models":["llama-3.3-70b"]}},"allow_from":["192.0.2.0/24"],"expires_at":"2027-02-01T00:00:00Z","created_at":"2026-11-22T10:00:00Z","account":"acme","disabled":false}}"#
        );
        let key = parse(&text).unwrap();
        assert_eq!(
            (key.name(), key.account(), key.disabled()),
            ("web site", Some("acme"), false)
        );
        let mut written = Vec::new();
        write_line(&key, &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), text + "\n");
    }

    #[test]
    fn required_fields_alone_make_a_key_and_each_of_them_must_be_there() {
        let key = parse(&line("disabled", "true")).unwrap();
        assert!(key.disabled() && key.hint().is_none() && key.expires_at().is_none());
        for missing in ["id", "name", "hash", "model_access"] {
            let text = line("disabled", "false").replace(&format!("\"{missing}\":"), "\"x\":");
            let fields: Vec<_> = parse(&text)
                .unwrap_err()
                .into_iter()
                .map(|c| c.field)
                .collect();
            assert_eq!(fields, ["x", missing]);
        }
    }

    #[test]
    fn null_is_absent_where_absence_is_allowed() {
        for field in ["hint", "allow_from", "expires_at", "created_at", "account"] {
            assert!(parse(&line(field, "null")).is_ok(), "{field}");
        }
        for field in ["id", "name", "hash", "model_access", "disabled"] {
            assert_eq!(complaint(&line(field, "null")).field, field);
        }
    }

    #[test]
    fn every_fault_of_a_line_is_told_at_once() {
        let text = r#"{"id":"a b","name":"","hash":"sha256:00","model_access":{"mode":"some"},"allow_from":"10.0.0.0/8","expires_at":"soon","disabled":"no","colour":1,"name":"twice"}"#;
        let fields: Vec<_> = parse(text)
            .unwrap_err()
            .into_iter()
            .map(|c| c.field)
            .collect();
        assert_eq!(
            fields,
            [
                "colour",
                "name",
                "id",
                "hash",
                "model_access.mode",
                "allow_from",
                "expires_at",
                "disabled"
            ]
        );
    }

    #[test]
    fn a_field_of_another_type_says_what_it_must_be() {
        for (field, value, what) in [
            ("name", "1", "must be a string, not a number"),
            ("hint", "[]", "must be a string, not a list"),
            ("expires_at", "1800000000", "must be a string, not a number"),
            ("account", "{}", "must be a string, not an object"),
            (
                "allow_from",
                "{}",
                "must be a list of networks, not an object",
            ),
            ("allow_from", "[1]", "holds a number"),
            ("model_access", "\"all\"", "must be an object, not a string"),
            ("disabled", "0", "must be true or false, not a number"),
        ] {
            let complaint = complaint(&line(field, value));
            assert_eq!(complaint.field, field);
            assert!(complaint.message.starts_with(what), "{complaint}");
        }
    }

    #[test]
    fn modes_take_models_as_their_meaning_asks() {
        for (access, field) in [
            (r#"{"mode":"all","models":["a"]}"#, "model_access.models"),
            (r#"{"mode":"all","models":[]}"#, "model_access.models"),
            (r#"{"mode":"inclusive"}"#, "model_access.models"),
            (r#"{"mode":"inclusive","models":[]}"#, "model_access.models"),
            (
                r#"{"mode":"exclusive","models":[""]}"#,
                "model_access.models",
            ),
            (
                r#"{"mode":"exclusive","models":["a",1]}"#,
                "model_access.models",
            ),
            (
                r#"{"mode":"exclusive","models":"a"}"#,
                "model_access.models",
            ),
            (
                r#"{"mode":"exclusive","models":null}"#,
                "model_access.models",
            ),
            (r#"{"mode":"All"}"#, "model_access.mode"),
            (r#"{"models":["a"]}"#, "model_access.mode"),
            ("{}", "model_access.mode"),
            (r#"{"mode":"all","mode":"all"}"#, "model_access"),
            (r#"{"mode":"all","deny":[]}"#, "model_access"),
        ] {
            assert_eq!(
                complaint(&line("model_access", access)).field,
                field,
                "{access}"
            );
        }
        assert!(parse(&line("model_access", r#"{"mode":"all","models":null}"#)).is_ok());
        let key = parse(&line(
            "model_access",
            r#"{"models":["a","b"],"mode":"exclusive"}"#,
        ));
        assert_eq!(key.unwrap().model_access().models().len(), 2);
    }

    #[test]
    fn an_ipv6_entry_says_that_it_is_not_possible() {
        for entry in ["::1", "::ffff:192.0.2.7", "2001:db8::/32"] {
            let complaint = complaint(&line("allow_from", &format!("[\"{entry}\"]")));
            assert!(
                complaint
                    .message
                    .contains("restricting a key to IPv6 networks is not possible"),
                "{complaint}"
            );
        }
        assert!(
            parse(&line("allow_from", "[]"))
                .unwrap()
                .allow_from()
                .networks()
                .is_empty()
        );
    }

    #[test]
    fn the_file_takes_a_past_expiry_but_no_bare_date() {
        assert!(parse(&line("expires_at", "\"1999-01-01T00:00:00Z\"")).is_ok());
        for bad in ["2027-01-31", "2027-01-31T00:00:00", "9999999999", ""] {
            let text = line("expires_at", &format!("\"{bad}\""));
            assert_eq!(complaint(&text).field, "expires_at");
        }
    }

    #[test]
    fn what_is_not_one_whole_object_is_a_fault() {
        let whole = line("disabled", "false");
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for bad in [
            format!("{whole}{whole}"),
            format!("{whole},"),
            format!("\u{feff}{whole}"),
            format!("[{whole}]"),
            "null".to_owned(),
            "\0\0\0\0".to_owned(),
            "{\"a\":".repeat(100_000),
            "[".repeat(100_000),
        ] {
            assert!(parse(&bad).is_err());
        }
        assert!(parse_line(b"{\"id\":\"\xff\"}", &mut Shared::default()).is_err());
    }

    #[test]
    fn no_complaint_repeats_a_value_that_may_be_a_token() {
        for field in [
            "id",
            "hash",
            "hint",
            "expires_at",
            "token",
            "disabled",
            "account",
        ] {
            let text = line(field, "\"kg_secret\\u0000 and more than four\"");
            assert!(
                !format!("{:?}", parse(&text)).contains("kg_secret"),
                "{field}"
            );
        }
    }

    #[test]
    fn field_names_are_shown_short_and_without_control_characters() {
        let name = format!("\\u001b[31m{}", "x".repeat(100));
        let complaint = complaint(&line(&name, "1"));
        assert!(complaint.field.starts_with("\\u{1b}[31mxxx") && complaint.field.len() < 60);
    }

    #[test]
    fn keys_with_equal_lists_and_accounts_share_their_memory() {
        let mut shared = Shared::default();
        let mut read = |models: &str| {
            let access = format!(r#"{{"mode":"inclusive","models":{models}}},"account":"acme""#);
            parse_line(line("model_access", &access).as_bytes(), &mut shared).unwrap()
        };
        let (one, other, same) = (
            read(r#"["a","b"]"#),
            read(r#"["ab"]"#),
            read(r#"["a","b"]"#),
        );
        assert!(std::ptr::eq(
            one.model_access().models(),
            same.model_access().models()
        ));
        assert_eq!(&*other.model_access().models()[0], "ab");
        assert!(std::ptr::eq(
            one.account().unwrap(),
            same.account().unwrap()
        ));
    }

    #[test]
    fn a_new_key_needs_a_name_and_its_models_and_takes_no_more_than_it_may() {
        let new = parse_new(
            br#"{"name":"n","model_access":{"mode":"all"},"allow_from":["10.1.2.3/8"],"expires_at":"2027-01-31","account":"a"}"#,
        )
        .unwrap();
        assert_eq!(new.allow_from.networks()[0].to_string(), "10.0.0.0/8");
        assert_eq!(new.expires_at.unwrap().to_string(), "2027-02-01T00:00:00Z");
        for (body, field) in [
            (r#"{"model_access":{"mode":"all"}}"#, "name"),
            (r#"{"name":"n"}"#, "model_access"),
            (
                r#"{"name":"n","model_access":{"mode":"all"},"id":"key_1"}"#,
                "id",
            ),
            (
                r#"{"name":"n","model_access":{"mode":"all"},"disabled":true}"#,
                "disabled",
            ),
            (
                r#"{"name":"n","model_access":{"mode":"all"},"name":"m"}"#,
                "name",
            ),
            (r#"[]"#, ""),
            (r#""name""#, ""),
        ] {
            match parse_new(body.as_bytes()) {
                Err(RequestFault::Faulty(complaint)) => assert_eq!(complaint.field, field),
                other => panic!("{body}: {other:?}"),
            }
        }
        for body in [
            &b""[..],
            b"{",
            b"name=n",
            b"[1",
            b"{}{}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
        ] {
            assert!(
                matches!(parse_new(body), Err(RequestFault::NotJson(_))),
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_clears_what_is_null_or_empty() {
        let full = r#"{"mode":"all"},"allow_from":["10.0.0.0/8"],"expires_at":"2027-01-31T00:00:00Z","account":"acme""#;
        let key = parse(&line("model_access", full)).unwrap();
        let changed = |body: &str| parse_patch(body.as_bytes()).unwrap().applied_to(&key);
        assert_eq!(changed("{}"), key);
        let cleared = changed(r#"{"allow_from":[],"expires_at":null,"account":null}"#);
        assert_eq!(
            cleared,
            changed(r#"{"allow_from":null,"expires_at":null,"account":null}"#)
        );
        assert_eq!((cleared.expires_at(), cleared.account()), (None, None));
        assert!(cleared.allow_from().networks().is_empty());
        assert!(changed(r#"{"disabled":true}"#).disabled());
        let patch = parse_patch(br#"{"disabled":true,"name":"other"}"#).unwrap();
        assert!(patch.disables());
        assert_eq!(patch.fields(), ["name", "disabled"]);
        for body in [
            r#"{"name":null}"#,
            r#"{"model_access":null}"#,
            r#"{"disabled":null}"#,
            r#"{"hash":"x"}"#,
            r#"{"created_at":null}"#,
        ] {
            assert!(
                matches!(parse_patch(body.as_bytes()), Err(RequestFault::Faulty(_))),
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_can_be_a_key_survives_its_line(
            name in "\\PC{1,100}", account in prop::option::of("\\PC{1,100}"),
            models in prop::collection::vec("(?s).{1,20}", 0..4), networks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4),
            seconds in prop::option::of(0_i64..253_402_300_799), disabled: bool, hint in prop::option::of("[!-~]{4}"),
        ) {
            let networks = networks.into_iter().map(|(address, prefix)| Ipv4Net::new(address.into(), prefix).unwrap().trunc());
            let key = Key::from(KeyFields {
                id: KeyId::parse("key_1").unwrap(),
                name: KeyName::parse(&name).unwrap(),
                hash: TokenHash::of(name.as_bytes()),
                hint: hint.map(|hint| Hint::parse(&hint).unwrap()),
                model_access: ModelList::new(models).map_or(ModelAccess::All, ModelAccess::Inclusive),
                allow_from: AllowFrom::from_networks(networks.collect()),
                expires_at: seconds.map(UnixTime::from_seconds),
                created_at: None,
                account: account.map(|account| Account::parse(&account).unwrap()),
                disabled,
            });
            let mut text = Vec::new();
            write_line(&key, &mut text);
            prop_assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(parse_line(&text, &mut Shared::default()), Ok(key));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_line(&bytes, &mut Shared::default());
        }

        #[test]
        fn no_flipped_bit_panics(at in 0_usize..120, bit in 0_u8..8) {
            let mut bytes = line("allow_from", r#"["10.0.0.0/8"]"#).into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = parse_line(&bytes, &mut Shared::default());
        }
    }
}
