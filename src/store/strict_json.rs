//! JSON values that borrow from the document, errors that name a field, and writing of JSON text.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// An error of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path, like `model_access.models`; empty for the whole document.
    pub field: String,
    /// `what; remedy`
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for FieldError {}

/// Any JSON value. Text without escapes is borrowed from the document.
pub(crate) enum JsonValue<'a> {
    Null,
    Bool(bool),
    /// Its value where that is a whole number that is not negative and fits.
    Number(Option<u64>),
    Text(Cow<'a, str>),
    List(Vec<JsonValue<'a>>),
    Object(Vec<(Cow<'a, str>, JsonValue<'a>)>),
}

/// An error of a value: the field within it (or empty), and `what; remedy`.
pub(crate) type ValueError = (&'static str, String);

impl JsonValue<'_> {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

pub(crate) fn string<'a, T, E: fmt::Display>(
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> impl FnOnce(JsonValue<'a>) -> Result<T, ValueError> {
    |value| match value {
        JsonValue::Text(text) => parse(&text).map_err(|fault| ("", fault.to_string())),
        other => Err((
            "",
            format!("must be a string, not {}; write it in quotes", other.kind()),
        )),
    }
}

pub(crate) fn document_error(message: &str) -> FieldError {
    FieldError {
        field: String::new(),
        message: message.to_owned(),
    }
}

/// A name from a document for use in a message: cut if long, control characters escaped.
#[must_use]
pub(crate) fn printable(name: &str) -> String {
    let start: String = name.chars().take(40).collect();
    let rest = if start.len() < name.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
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

/// Writes a value whose text needs no escapes.
pub(crate) fn write_display(before: &str, value: &dyn fmt::Display, out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "{before}\"{value}\"");
}

pub(crate) fn write_list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// A string. Without escapes it is borrowed from the document.
pub(crate) struct JsonString<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonString<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match JsonValue::deserialize(from)? {
            JsonValue::Text(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("a field's name must be a string")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonValue<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = JsonValue<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Null)
    }

    fn visit_bool<E>(self, on: bool) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Bool(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Number(u64::try_from(number).ok()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Number(Some(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<JsonValue<'de>, E> {
        // 5.0 is a whole number too, as far as every such number is exact.
        let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, and in the range of u64"
        )]
        Ok(JsonValue::Number(is_whole.then_some(number as u64)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<JsonValue<'de>, S::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(JsonValue::List(list))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<JsonValue<'de>, M::Error> {
        let mut object = Vec::new();
        while let Some((JsonString(name), value)) = map.next_entry()? {
            object.push((name, value));
        }
        Ok(JsonValue::Object(object))
    }
}
