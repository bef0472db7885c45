//! Reads the part named `model` of a multipart/form-data body in one strict pass.
//!
//! It accepts RFC 7578 as clients write it, and refuses everything that parsers are known to read differently: a
//! preamble, an epilogue, padding after a boundary, line ends other than CRLF around boundaries and headers, and folded
//! headers. Content may be anything except a line that begins with the boundary but is not exactly a boundary.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memmem;

use crate::policy::body_fields::{CACHE_SALT, FieldIndex, MemberValue, PROMPT};
use crate::policy::documented_fields::Documented;
use crate::request_body::model::name::{
    Ambiguity, ExtraModelFields, FieldClass, Findings, MODEL, Model,
};
use crate::request_body::model::parameters::{self, Parameter};
use crate::request_body::model::query;

/// Longest header block of one part, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Most parts in one form.
const MAX_PARTS: usize = 64;
/// Longest boundary, in bytes (RFC 2046 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// Why a body is not a valid form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultipartError {
    /// The Content-Type has no boundary.
    NoBoundary,
    /// The Content-Type has two boundaries, or one in an extended form (`boundary*`).
    SeveralBoundaries,
    /// The boundary is not 1 to 70 of the characters that all parsers accept.
    Boundary,
    /// The Content-Type's parameters are not `; name=value`.
    Parameters,
    /// The body does not begin with the boundary.
    Preamble,
    /// A line begins with the boundary but is not exactly the boundary between CRLFs.
    Delimiter,
    /// The final boundary is missing.
    NoEnd,
    /// More than one CRLF follows the final boundary.
    Epilogue,
    /// A part's headers have no end, or are over 8 KiB.
    HeadersTooLong,
    /// A part's header line is not `name: value`, is folded, or does not end with CRLF.
    Header,
    /// A part's Content-Disposition is missing, or is not `form-data; name="…"`.
    NoName,
    /// A part's Content-Length is not the length of its content.
    Length,
    /// A part's type is a form or a message itself.
    Nested,
    /// The form has more than 64 parts.
    TooManyParts,
    /// The model's name is not UTF-8.
    ModelNotUtf8,
}

impl fmt::Display for MultipartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBoundary => {
                "The Content-Type names no boundary. Let your HTTP client set the header of a multipart form itself."
            }
            Self::SeveralBoundaries => {
                "The Content-Type names more than one boundary. Send exactly one parameter boundary=…"
            }
            Self::Boundary => {
                "The boundary in the Content-Type is not usable. Send 1 to 70 letters, digits and '()+_,-./:=?, \
                 in quotes where it holds more than letters, digits and '+_-."
            }
            Self::Parameters => {
                "The Content-Type is malformed. Send it as multipart/form-data; boundary=…"
            }
            Self::Preamble => "The form does not begin with its boundary. Send nothing before the first boundary.",
            Self::Delimiter => {
                "The form has a line that begins with its boundary but is not exactly one. Put a CRLF before and \
                 after each boundary, and choose a boundary that no content holds."
            }
            Self::NoEnd => "The form has no final boundary. Send it whole.",
            Self::Epilogue => "The form goes on behind its final boundary. Send nothing but one CRLF there.",
            Self::HeadersTooLong => "A form part's headers are over 8 KiB, or have no end. Send shorter ones.",
            Self::Header => {
                "A form part has a malformed header line. Write each as name: value, unfolded, and end it with CRLF."
            }
            Self::NoName => {
                "A form part has no readable name. Send each with a header Content-Disposition: form-data; name=\"…\""
            }
            Self::Length => {
                "A form part's Content-Length is not the length of its content. Remove that header from the parts."
            }
            Self::Nested => {
                "A form part is of a type that holds further parts. Send each field as a part of the one form."
            }
            Self::TooManyParts => "The form has more than 64 parts. Send fewer.",
            Self::ModelNotUtf8 => "The form's part `model` is not UTF-8. Send the model's name in UTF-8.",
        })
    }
}

/// What stands before a boundary in a body, the line feed of the line before included.
const LINE_START: &[u8] = b"\n--";

/// The boundary between the parts of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// A line feed, two dashes and the boundary. The line feed is included because a delimiter begins a line.
    line: Box<[u8]>,
}

impl Boundary {
    /// Accepts the characters that all parsers accept. RFC 2046 also allows spaces, but some parsers trim them.
    pub(crate) fn new(boundary: &[u8]) -> Result<Self, MultipartError> {
        let usable = |&byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
        if !(1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) || !boundary.iter().all(usable) {
            return Err(MultipartError::Boundary);
        }
        let line = [LINE_START, boundary].concat().into_boxed_slice();
        Ok(Self { line })
    }

    /// The Content-Type of a form with this boundary.
    pub(crate) fn content_type(&self) -> Vec<u8> {
        let boundary = self.line.strip_prefix(LINE_START).unwrap_or_default();
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"'+_-.".contains(byte);
        let quote: &[u8] = if boundary.iter().all(is_token) {
            b""
        } else {
            b"\""
        };
        [b"multipart/form-data; boundary=", quote, boundary, quote].concat()
    }
}

/// Reads what the form says about its model.
pub(crate) fn read<'b>(
    boundary: &Boundary,
    body: &'b [u8],
    extra_fields: ExtraModelFields,
    documented: Option<Documented>,
) -> Result<Findings<'b>, MultipartError> {
    let mut findings = Findings::default();
    let mut parts = Parts::new(boundary, body)?;
    while let Some(part) = parts.next()? {
        part.read_into(extra_fields, documented, &mut findings)?;
    }
    Ok(findings)
}

/// Iterates over the parts of a body.
struct Parts<'b, 'f> {
    delimiter: memmem::Finder<'f>,
    delimiter_length: usize,
    body: &'b [u8],
    /// The position after the last delimiter.
    at: usize,
    read: usize,
}

impl<'b, 'f> Parts<'b, 'f> {
    fn new(boundary: &'f Boundary, body: &'b [u8]) -> Result<Self, MultipartError> {
        let dashed = &boundary.line[1..];
        if !body.starts_with(dashed) {
            return Err(MultipartError::Preamble);
        }
        // Werkzeug accepts a lone CR as a line end.
        let after_cr = [b"\r", dashed].concat();
        if memmem::find(body, &after_cr).is_some() {
            return Err(MultipartError::Delimiter);
        }
        Ok(Self {
            delimiter: memmem::Finder::new(&boundary.line),
            delimiter_length: boundary.line.len(),
            body,
            at: dashed.len(),
            read: 0,
        })
    }

    fn next(&mut self) -> Result<Option<FormPart<'b>>, MultipartError> {
        let behind = &self.body[self.at..];
        if let Some(epilogue) = behind.strip_prefix(b"--") {
            let nothing = epilogue.is_empty() || epilogue == b"\r\n";
            return if nothing {
                Ok(None)
            } else {
                Err(MultipartError::Epilogue)
            };
        }
        if !behind.starts_with(b"\r\n") {
            let cut_off = behind.is_empty() || behind == b"-" || behind == b"\r";
            return Err(if cut_off {
                MultipartError::NoEnd
            } else {
                MultipartError::Delimiter
            });
        }
        if self.read == MAX_PARTS {
            return Err(MultipartError::TooManyParts);
        }
        self.read += 1;
        let (headers, content_at) = self.headers(self.at + 2)?;
        // The search includes the line feed that ends the headers. If that begins a delimiter, Go reads an empty part,
        // and other parsers read the delimiter as content; so it is an error.
        let delimiter_at = self
            .delimiter
            .find(&self.body[content_at - 1..])
            .map(|found| content_at - 1 + found)
            .ok_or(MultipartError::NoEnd)?;
        let content = delimiter_at
            .checked_sub(1)
            .and_then(|end| self.body.get(content_at..end))
            .filter(|_| self.body[delimiter_at - 1] == b'\r')
            .ok_or(MultipartError::Delimiter)?;
        self.at = delimiter_at + self.delimiter_length;
        Ok(Some(FormPart {
            body: self.body,
            headers,
            content,
        }))
    }

    /// The header block that begins at `start`, without the empty line after it, and the position of the content.
    fn headers(&self, start: usize) -> Result<(&'b [u8], usize), MultipartError> {
        let rest = &self.body[start..];
        if rest.starts_with(b"\r\n") {
            return Err(MultipartError::NoName);
        }
        let longest = &rest[..rest.len().min(MAX_HEADER_BYTES)];
        let end = memmem::find(longest, b"\r\n\r\n").ok_or(MultipartError::HeadersTooLong)?;
        Ok((&rest[..end], start + end + 4))
    }
}

struct FormPart<'b> {
    body: &'b [u8],
    headers: &'b [u8],
    content: &'b [u8],
}

/// The headers of a part that matter here, with repetitions.
#[derive(Default)]
struct Headers<'b> {
    dispositions: Vec<&'b [u8]>,
    content_types: Vec<&'b [u8]>,
    encoded: bool,
    lengths: Vec<&'b [u8]>,
}

impl<'b> FormPart<'b> {
    fn read_into(
        &self,
        extra_fields: ExtraModelFields,
        documented: Option<Documented>,
        findings: &mut Findings<'b>,
    ) -> Result<(), MultipartError> {
        let headers = self.headers()?;
        if headers.encoded {
            findings.add_ambiguity(Ambiguity::Encoded);
        }
        let [first, others @ ..] = headers.dispositions.as_slice() else {
            return Err(MultipartError::NoName);
        };
        if !others.is_empty() {
            findings.add_ambiguity(Ambiguity::SeveralDispositions);
        }
        let disposition = Disposition::read(first)?;
        if disposition.several_names {
            findings.add_ambiguity(Ambiguity::SeveralNames);
        }
        if documented.is_some_and(|documented| !documented.has_bytes(disposition.name)) {
            findings.noted.add_unknown(self.place(disposition.name));
        }
        match classify_name(disposition.name) {
            FieldClass::Other => {}
            FieldClass::Listed(field) => {
                let value = self.listed_value(field, disposition.name);
                findings.add_listed(field, value, extra_fields);
                if field.field().name == CACHE_SALT {
                    // The gateway sets it in JSON alone, so a form's counts as one that cannot be replaced.
                    findings.noted.add_salt("", 0..0);
                }
            }
            FieldClass::Refused(ambiguity) => findings.add_ambiguity(ambiguity),
            FieldClass::Model => {
                if disposition.has_filename {
                    findings.add_ambiguity(Ambiguity::File);
                } else if !disposition.is_name_alone {
                    findings.add_ambiguity(Ambiguity::NotNameAlone);
                }
                if !is_plain_text(&headers.content_types, self.content) {
                    findings.add_ambiguity(Ambiguity::NotPlainText);
                }
                let name = simdutf8::basic::from_utf8(self.content)
                    .map_err(|_| MultipartError::ModelNotUtf8)?;
                let lengths = headers.lengths.iter();
                findings.places.model_lengths = lengths.map(|value| self.place(value)).collect();
                findings.add_model(Model::Named(Cow::Borrowed(name)), self.place(self.content));
            }
        }
        Ok(())
    }

    /// The place of a part of the body in it.
    fn place(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr() - self.body.as_ptr().addr();
        start..start + part.len()
    }

    /// What the content of a listed field says. A form has only texts; with `prompt[id]`, some parsers make an object.
    fn listed_value(&self, field: FieldIndex, raw_name: &[u8]) -> MemberValue {
        match self.content {
            b"" => MemberValue::Empty,
            b"false" => MemberValue::False,
            _ if field.field().name == PROMPT && raw_name.contains(&b'[') => {
                MemberValue::ObjectWithId
            }
            _ => MemberValue::Other,
        }
    }

    fn headers(&self) -> Result<Headers<'b>, MultipartError> {
        let mut headers = Headers::default();
        let mut rest = self.headers;
        while !rest.is_empty() {
            let end = memmem::find(rest, b"\r\n");
            let (name, value) = header(&rest[..end.unwrap_or(rest.len())])?;
            rest = end.map_or(&[], |end| &rest[end + 2..]);
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("content-disposition") {
                headers.dispositions.push(value);
            } else if is("content-type") {
                if is_composite_type(value) {
                    return Err(MultipartError::Nested);
                }
                headers.content_types.push(value);
            } else if is("content-transfer-encoding") {
                let as_is = [&b"7bit"[..], b"8bit", b"binary"];
                headers.encoded |= !as_is.iter().any(|known| value.eq_ignore_ascii_case(known));
            } else if is("content-encoding") {
                headers.encoded |= !value.eq_ignore_ascii_case(b"identity");
            } else if is("content-length") {
                // aiohttp reads content by this length, across boundaries if it is too long.
                if value != self.content.len().to_string().as_bytes() {
                    return Err(MultipartError::Length);
                }
                headers.lengths.push(value);
            }
        }
        Ok(headers)
    }
}

/// Splits one header line. The name must not begin like a delimiter: some parsers look for delimiters here too.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), MultipartError> {
    let colon = memchr::memchr(b':', line).ok_or(MultipartError::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let sound_name = !name.is_empty()
        && name.iter().copied().all(parameters::is_token_byte)
        && !name.starts_with(b"--");
    let sound_value = value
        .iter()
        .all(|&byte| byte == b'\t' || !byte.is_ascii_control())
        // Werkzeug finds no field in a form that has such a header.
        && simdutf8::basic::from_utf8(value).is_ok();
    if sound_name && sound_value {
        Ok((name, value.trim_ascii()))
    } else {
        Err(MultipartError::Header)
    }
}

/// A part's Content-Disposition.
struct Disposition<'b> {
    name: &'b [u8],
    several_names: bool,
    /// Whether it is exactly `form-data;` and the name. Next to other parameters, multer, cpp-httplib and other parsers
    /// find no name, each in other cases, and their servers then use a default model.
    is_name_alone: bool,
    has_filename: bool,
}

impl<'b> Disposition<'b> {
    fn read(value: &'b [u8]) -> Result<Self, MultipartError> {
        let (kind, rest) = parameters::split_first(value);
        if !kind.eq_ignore_ascii_case(b"form-data") {
            return Err(MultipartError::NoName);
        }
        let all = parameters::parameters(rest)
            .collect::<Result<Vec<Parameter<'b>>, _>>()
            .map_err(|_| MultipartError::NoName)?;
        let extended = all.iter().any(|parameter| parameter.extends("name"));
        let named = all.iter().find(|parameter| parameter.is("name"));
        let name = match named {
            Some(parameter) => parameter.value,
            None if extended => &[],
            None => return Err(MultipartError::NoName),
        };
        if name.is_empty() && !extended {
            return Err(MultipartError::NoName);
        }
        Ok(Self {
            name,
            // Some parsers read `Name=` as a name, others do not.
            several_names: extended
                || named.is_some_and(|parameter| parameter.name != b"name")
                || count_leniently("name", value) != 1,
            is_name_alone: all.len() == 1 && value[kind.len()..].starts_with(b";"),
            has_filename: count_leniently("filename", value) > 0,
        })
    }
}

/// How many parameters of that name a lenient parser could find. Some parsers split at `;` or search without regard to
/// quotes, so parameters inside quotes count as well.
fn count_leniently(parameter: &str, value: &[u8]) -> usize {
    let begins_word = |at: usize| at == 0 || !value[at - 1].is_ascii_alphanumeric();
    let is_assigned = |behind: usize| {
        let behind = value[behind..].trim_ascii_start();
        matches!(behind.first(), Some(b'=' | b'*'))
    };
    value
        .windows(parameter.len())
        .enumerate()
        .filter(|(_, word)| word.eq_ignore_ascii_case(parameter.as_bytes()))
        .filter(|&(at, word)| begins_word(at) && is_assigned(at + word.len()))
        .count()
}

/// Classifies a part's name as it is written in the header. A name that any parser could turn into `model`, by
/// unescaping, trimming, dropping quotes or cutting at a bracket or semicolon, is refused. So are encoded words, which
/// Java's parsers decode.
fn classify_name(raw: &[u8]) -> FieldClass {
    if raw == MODEL.as_bytes() {
        return FieldClass::Model;
    }
    let like_model = FieldClass::Refused(Ambiguity::LikeModel);
    if memmem::find(raw, b"=?").is_some() {
        return like_model;
    }
    let mut letters = String::new();
    for byte in query::percent_decoded(raw).take_while(|&byte| !matches!(byte, b'[' | b';')) {
        if byte == b'_' || byte.is_ascii_alphanumeric() {
            letters.push(char::from(byte));
        }
    }
    match FieldClass::of(&letters) {
        FieldClass::Model => like_model,
        class => class,
    }
}

/// Whether some parsers look for more fields inside a part of this type (RFC 2046 calls these types composite).
fn is_composite_type(content_type: &[u8]) -> bool {
    [&b"multipart/"[..], b"message/"].iter().any(|family| {
        let begins = content_type.get(..family.len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(family))
    })
}

/// Whether every parser reads the content as the same text. Some parsers read a type other than text as a file, and
/// aiohttp recognizes text only in lower case.
fn is_plain_text(content_types: &[&[u8]], content: &[u8]) -> bool {
    let value = match content_types {
        [] => return true,
        [value] => value,
        _ => return false,
    };
    let (kind, rest) = parameters::split_first(value);
    let harmless = |parameter: Parameter<'_>| {
        let charset = |known: &str| parameter.value.eq_ignore_ascii_case(known.as_bytes());
        let read_alike = charset("utf-8")
            || content.is_ascii() && (charset("us-ascii") || charset("iso-8859-1"));
        !parameter.extends("charset") && (!parameter.is("charset") || read_alike)
    };
    kind == b"text/plain"
        && parameters::parameters(rest).all(|parameter| parameter.is_ok_and(harmless))
}

#[cfg(test)]
mod tests;
