//! Reads the top-level `model` of a JSON document in one strict pass.
//!
//! The whole document is checked against RFC 8259, so that an upstream with a more lenient parser cannot read another
//! document from the same bytes. The pass builds no tree and does not recurse. It allocates only for escaped field
//! names and an escaped model. It converts no numbers, and decodes no strings but those.

mod stream_options;

use std::borrow::Cow;
use std::fmt;

use crate::policy::body_fields::{
    CACHE_SALT, FieldIndex, MemberValue, PROMPT, PROMPT_ID, folds_to,
};
use crate::policy::documented_fields::Documented;
use crate::request_body::model::json_string::{self, StringError};
use crate::request_body::model::name::{
    self, Ambiguity, ExtraModelFields, FieldClass, Findings, Model,
};
use crate::request_body::model::streaming::StreamField;

/// Maximum nesting depth. The document itself is level 1.
const MAX_DEPTH: u32 = 128;

/// Why a body is not one JSON object, and the byte offset of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    kind: JsonErrorKind,
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonErrorKind {
    ByteOrderMark,
    NotUtf8,
    NotAnObject,
    NoName,
    NoColon,
    NoValue,
    NoCommaOrEnd,
    Number,
    Unterminated,
    ControlCharacter,
    Escape,
    LoneSurrogate,
    TooDeep,
    Trailing,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.kind {
            JsonErrorKind::ByteOrderMark => "a byte-order mark",
            JsonErrorKind::NotUtf8 => "text that is not UTF-8",
            JsonErrorKind::NotAnObject => "something other than an object",
            JsonErrorKind::NoName => "no name in quotes where a field should begin",
            JsonErrorKind::NoColon => "no colon behind a field's name",
            JsonErrorKind::NoValue => "no JSON value where one should be",
            JsonErrorKind::NoCommaOrEnd => "neither a comma nor the end of the object or list",
            JsonErrorKind::Number => "a malformed number",
            JsonErrorKind::Unterminated => "no end of a string",
            JsonErrorKind::ControlCharacter => "an unescaped control character in a string",
            JsonErrorKind::Escape => "an unknown escape in a string",
            JsonErrorKind::LoneSurrogate => {
                "half of a surrogate pair in a field's name or in the model"
            }
            JsonErrorKind::TooDeep => "more than 128 levels of objects and lists",
            JsonErrorKind::Trailing => "text behind the end of the object",
        };
        write!(
            f,
            "The request body is not valid JSON: at byte {} there is {problem}. Send one JSON object in UTF-8.",
            self.at
        )
    }
}

impl From<StringError> for JsonError {
    fn from(error: StringError) -> Self {
        let (kind, at) = match error {
            StringError::Unterminated(at) => (JsonErrorKind::Unterminated, at),
            StringError::ControlCharacter(at) => (JsonErrorKind::ControlCharacter, at),
            StringError::Escape(at) => (JsonErrorKind::Escape, at),
        };
        Self { kind, at }
    }
}

/// Reads what the document says about its model and its fields. With `documented`, it also notes the first field that is
/// not one of these.
pub(crate) fn read(
    body: &[u8],
    extra_fields: ExtraModelFields,
    documented: Option<Documented>,
) -> Result<Findings<'_>, JsonError> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| not_utf8(body))?;
    let mut scanner = Scanner {
        text,
        bytes: body,
        at: 0,
    };
    if text.starts_with('\u{FEFF}') {
        return Err(scanner.error(JsonErrorKind::ByteOrderMark));
    }
    scanner.whitespace();
    let findings = scanner.document(extra_fields, documented)?;
    scanner.whitespace();
    if scanner.at < body.len() {
        return Err(scanner.error(JsonErrorKind::Trailing));
    }
    Ok(findings)
}

/// The fast check does not return the offset of the error, so the slow one finds it.
#[cold]
fn not_utf8(body: &[u8]) -> JsonError {
    let at = simdutf8::compat::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len);
    JsonError {
        kind: JsonErrorKind::NotUtf8,
        at,
    }
}

struct Scanner<'b> {
    text: &'b str,
    bytes: &'b [u8],
    at: usize,
}

/// The position of a string that was read, without its quotes.
#[derive(Clone, Copy)]
struct Quoted {
    start: usize,
    end: usize,
    escaped: bool,
}

/// The beginning of a name, unescaped.
struct DecodedName {
    text: String,
    holds_zero: bool,
}

impl<'b> Scanner<'b> {
    fn document(
        &mut self,
        extra_fields: ExtraModelFields,
        documented: Option<Documented>,
    ) -> Result<Findings<'b>, JsonError> {
        let mut findings = Findings::default();
        self.expect(b'{', JsonErrorKind::NotAnObject)?;
        findings.places.first_member = Some(self.at);
        self.whitespace();
        if self.take(b'}') {
            return Ok(findings);
        }
        loop {
            let name = self.name()?;
            let class = match self.decoded(name)? {
                None => FieldClass::of(self.text_of(name)),
                Some(decoded) if decoded.holds_zero => FieldClass::Refused(Ambiguity::ZeroInName),
                Some(decoded) => FieldClass::of(&decoded.text),
            };
            if let Some(documented) = documented
                && !self.is_documented(name, documented)?
            {
                findings.noted.add_unknown(name.start..name.end);
            }
            let value_at = self.at;
            match class {
                FieldClass::Model => {
                    let model = self.model()?;
                    findings.add_model(model, value_at..self.at);
                }
                FieldClass::Listed(field) => {
                    let value = self.listed_value(field)?;
                    findings.add_listed(field, value, extra_fields);
                    if field.field().name == CACHE_SALT {
                        let exact = if name.escaped { "" } else { self.text_of(name) };
                        findings.noted.add_salt(exact, value_at..self.at);
                    }
                }
                FieldClass::Stream(field, is_exact) => {
                    findings.add_stream_field(field, is_exact);
                    self.stream_field(field, &mut findings)?;
                }
                FieldClass::Output(field) => {
                    self.value()?;
                    findings
                        .places
                        .output
                        .add(field, &self.text[value_at..self.at]);
                }
                FieldClass::Refused(ambiguity) => {
                    findings.add_ambiguity(ambiguity);
                    self.value()?;
                }
                FieldClass::Other => self.value()?,
            }
            self.whitespace();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(findings);
                }
                _ => return Err(self.error(JsonErrorKind::NoCommaOrEnd)),
            }
            self.whitespace();
        }
    }

    fn stream_field(
        &mut self,
        field: StreamField,
        findings: &mut Findings<'_>,
    ) -> Result<(), JsonError> {
        let start = self.at;
        let asked = &mut findings.places.stream;
        match field {
            StreamField::StreamOptions => asked.options = self.stream_options()?,
            StreamField::Stream => {
                self.value()?;
                asked.is_stream = &self.bytes[start..self.at] == b"true";
            }
            StreamField::TimingsPerToken => {
                self.value()?;
                asked.says_timings = true;
            }
        }
        Ok(())
    }

    fn model(&mut self) -> Result<Model<'b>, JsonError> {
        if !self.take(b'"') {
            self.value()?;
            return Ok(Model::NotText);
        }
        let name = self.string()?;
        if !name.escaped {
            return Ok(Model::Named(Cow::Borrowed(self.text_of(name))));
        }
        let mut decoded = String::new();
        self.unescape(name, |character| decoded.push(character))?;
        Ok(Model::Named(Cow::Owned(decoded)))
    }

    /// The text of a string without escapes.
    fn text_of(&self, quoted: Quoted) -> &'b str {
        &self.text[quoted.start..quoted.end]
    }

    /// Decodes a top-level name; None if it has no escapes. It keeps only enough to compare it with the known names.
    fn decoded(&self, name: Quoted) -> Result<Option<DecodedName>, JsonError> {
        if !name.escaped {
            return Ok(None);
        }
        let mut decoded = DecodedName {
            text: String::new(),
            holds_zero: false,
        };
        self.unescape(name, |character| {
            decoded.holds_zero |= character == '\0';
            if decoded.text.len() <= name::MAX_NAME_LENGTH {
                decoded.text.push(character);
            }
        })?;
        Ok(Some(decoded))
    }

    fn is_documented(&self, name: Quoted, documented: Documented) -> Result<bool, JsonError> {
        Ok(match self.decoded(name)? {
            None => documented.has(self.text_of(name)),
            Some(decoded) => documented.has(&decoded.text),
        })
    }

    /// Decodes a string whose escapes are well-formed. The only possible error is an unpaired surrogate.
    fn unescape(&self, quoted: Quoted, mut sink: impl FnMut(char)) -> Result<(), JsonError> {
        let mut rest = &self.text[quoted.start..quoted.end];
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            rest[..at].chars().for_each(&mut sink);
            rest = &rest[at..];
            let (character, length) = escaped_character(rest).ok_or(JsonError {
                kind: JsonErrorKind::LoneSurrogate,
                at: quoted.end - rest.len(),
            })?;
            sink(character);
            rest = &rest[length..];
        }
        rest.chars().for_each(sink);
        Ok(())
    }

    /// The value of a listed field, as far as that decides whether the field does anything.
    fn listed_value(&mut self, field: FieldIndex) -> Result<MemberValue, JsonError> {
        if field.field().name == PROMPT && self.peek() == b'{' {
            return self.object_with_id();
        }
        let start = self.at;
        self.value()?;
        Ok(match &self.bytes[start..self.at] {
            b"null" => MemberValue::Null,
            b"false" => MemberValue::False,
            b"\"\"" => MemberValue::Empty,
            [b'[', between @ .., b']'] if between.trim_ascii().is_empty() => MemberValue::Empty,
            _ => MemberValue::Other,
        })
    }

    /// Reads an object at the second level. Any member that a parser could take for `id` counts.
    fn object_with_id(&mut self) -> Result<MemberValue, JsonError> {
        let mut found = MemberValue::Other;
        self.expect(b'{', JsonErrorKind::NoValue)?;
        self.whitespace();
        if self.take(b'}') {
            return Ok(found);
        }
        loop {
            let name = self.name()?;
            let is_id = if name.escaped {
                let mut decoded = String::new();
                // Half a surrogate pair is allowed at this level, and no parser makes `id` of it.
                let sound = self.unescape(name, |character| decoded.push(character));
                let up_to_zero = decoded.split('\0').next().unwrap_or_default();
                sound.is_ok() && folds_to(up_to_zero, PROMPT_ID)
            } else {
                folds_to(self.text_of(name), PROMPT_ID)
            };
            let start = self.at;
            self.value_below(2)?;
            if is_id && self.bytes[start..self.at] != *b"null" {
                found = MemberValue::ObjectWithId;
            }
            self.whitespace();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(found);
                }
                _ => return Err(self.error(JsonErrorKind::NoCommaOrEnd)),
            }
            self.whitespace();
        }
    }

    /// Skips one value below the top level, at any depth.
    fn value(&mut self) -> Result<(), JsonError> {
        self.value_below(1)
    }

    /// Skips one value below this level.
    fn value_below(&mut self, depth: u32) -> Result<(), JsonError> {
        let mut levels = Levels {
            depth,
            outermost: depth,
            objects: 0,
        };
        loop {
            let opened = match self.peek() {
                b'"' => {
                    self.at += 1;
                    self.string()?;
                    false
                }
                b'{' => self.open(&mut levels, b'}')?,
                b'[' => self.open(&mut levels, b']')?,
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                    false
                }
                _ => {
                    self.literal()?;
                    false
                }
            };
            if !opened && self.close(&mut levels)? {
                return Ok(());
            }
            if levels.in_object() {
                self.name()?;
            }
        }
    }

    /// Reads an opening bracket. Returns whether the object or list has any content.
    #[inline(always)]
    fn open(&mut self, levels: &mut Levels, closing: u8) -> Result<bool, JsonError> {
        if levels.depth == MAX_DEPTH {
            return Err(self.error(JsonErrorKind::TooDeep));
        }
        self.at += 1;
        self.whitespace();
        if self.take(closing) {
            return Ok(false);
        }
        levels.enter(closing == b'}');
        Ok(true)
    }

    /// After a value: reads the closing brackets, and returns true once the outermost value has ended. Otherwise it
    /// also reads a comma, and the next name or value follows.
    #[inline(always)]
    fn close(&mut self, levels: &mut Levels) -> Result<bool, JsonError> {
        while levels.depth > levels.outermost {
            self.whitespace();
            let closing = if levels.in_object() { b'}' } else { b']' };
            match self.peek() {
                b',' => {
                    self.at += 1;
                    self.whitespace();
                    return Ok(false);
                }
                byte if byte == closing => {
                    self.at += 1;
                    levels.leave();
                }
                _ => return Err(self.error(JsonErrorKind::NoCommaOrEnd)),
            }
        }
        Ok(true)
    }

    /// Reads a field's name and the colon after it.
    #[inline(always)]
    fn name(&mut self) -> Result<Quoted, JsonError> {
        self.expect(b'"', JsonErrorKind::NoName)?;
        let name = self.string()?;
        self.whitespace();
        self.expect(b':', JsonErrorKind::NoColon)?;
        self.whitespace();
        Ok(name)
    }

    /// Reads a string, after its opening quote.
    #[inline(always)]
    fn string(&mut self) -> Result<Quoted, JsonError> {
        let start = self.at;
        let end = json_string::find_end(self.bytes, start)?;
        self.at = end.at + 1;
        Ok(Quoted {
            start,
            end: end.at,
            escaped: end.escaped,
        })
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_ascii_digit() {
            return Err(self.error(JsonErrorKind::Number));
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), JsonError> {
        let rest = &self.bytes[self.at..];
        let known = [&b"true"[..], b"false", b"null"];
        let Some(literal) = known.into_iter().find(|literal| rest.starts_with(literal)) else {
            return Err(self.error(JsonErrorKind::NoValue));
        };
        self.at += literal.len();
        Ok(())
    }

    #[inline]
    fn whitespace(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// The next byte. At the end it returns NUL, which is invalid outside strings.
    #[inline]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == byte;
        self.at += usize::from(taken);
        taken
    }

    #[inline]
    fn expect(&mut self, byte: u8, otherwise: JsonErrorKind) -> Result<(), JsonError> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.error(otherwise))
        }
    }

    #[cold]
    fn error(&self, kind: JsonErrorKind) -> JsonError {
        JsonError { kind, at: self.at }
    }
}

/// The objects and lists around a value. The lowest bit of `objects` tells whether the innermost is an object.
struct Levels {
    depth: u32,
    /// The level of the value's field.
    outermost: u32,
    objects: u128,
}

impl Levels {
    #[inline]
    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    #[inline]
    fn enter(&mut self, object: bool) {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
    }

    #[inline]
    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }
}

/// The character of an escape, and the length of the escape.
fn escaped_character(text: &str) -> Option<(char, usize)> {
    let single = match text.as_bytes().get(1)? {
        b'u' => return unicode_escape(text),
        b'b' => '\u{8}',
        b'f' => '\u{C}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        &itself => char::from(itself),
    };
    Some((single, 2))
}

/// The character of one or two `\u` escapes, and their length.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    let high = code_unit(text)?;
    if let Some(character) = char::from_u32(high) {
        return Some((character, 6));
    }
    let low = code_unit(&text[6..])?;
    let paired = (0xD800..0xDC00).contains(&high) && (0xDC00..0xE000).contains(&low);
    let character = char::from_u32(0x1_0000 + ((high & 0x3FF) << 10) + (low & 0x3FF))?;
    paired.then_some((character, 12))
}

fn code_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
