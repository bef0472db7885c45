//! Reads the part named `model` of a multipart/form-data body in one strict pass.
//!
//! It accepts RFC 7578 as clients write it, and refuses everything that parsers are known to read differently: a
//! preamble, an epilogue, padding after a boundary, line ends other than CRLF around boundaries and headers, folded
//! headers, and headers whose names are no `Content-…`. One empty line before the first boundary and one behind the last
//! are accepted, which some clients send and all parsers skip. Content may be anything except a line that begins with
//! the boundary but is not exactly a boundary.

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
/// How the names of all headers begin that a part may have.
const FORM_HEADERS: &[u8] = b"content-";
/// The part with the file of a transcription.
const FILE: &[u8] = b"file";
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
    /// The body does not begin with the boundary, or with one CRLF and the boundary.
    Preamble,
    /// A line begins with the boundary but is not exactly the boundary between CRLFs.
    Delimiter,
    /// The final boundary is missing.
    NoEnd,
    /// More than two CRLFs follow the final boundary.
    Epilogue,
    /// A part's headers have no end, or are over 8 KiB.
    HeadersTooLong,
    /// A part's header line is not `name: value`, is folded, or does not end with CRLF.
    Header,
    /// The name of a part's header is not `Content-` and letters or dashes.
    HeaderName,
    /// A part's header is not UTF-8.
    HeaderNotUtf8,
    /// A part's Content-Disposition is missing, or is not `form-data; name="…"`.
    NoName,
    /// A part's Content-Length is not the length of its content.
    Length,
    /// A part's type says that the part holds fields or parts itself.
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
            Self::Preamble => {
                "The form does not begin with its boundary. Send nothing before the first boundary but one CRLF."
            }
            Self::Delimiter => {
                "The form has a line that begins with its boundary but is not exactly one. Put a CRLF before and \
                 after each boundary, and choose a boundary that no content holds."
            }
            Self::NoEnd => "The form has no final boundary. Send it whole.",
            Self::Epilogue => {
                "The form goes on behind its final boundary. Send nothing there but one or two CRLFs."
            }
            Self::HeadersTooLong => "A form part's headers are over 8 KiB, or have no end. Send shorter ones.",
            Self::Header => {
                "A form part has a malformed header line. Write each as name: value, with a space behind the colon, \
                 unfolded, and end it with CRLF."
            }
            Self::HeaderName => {
                "A form part has a header that is not part of a form. Send no other headers in a part than \
                 Content-Disposition, Content-Type and others whose names are Content- and letters or dashes."
            }
            Self::HeaderNotUtf8 => {
                "A form part has a header that is not UTF-8. Send the filename and the field's name in UTF-8."
            }
            Self::NoName => {
                "A form part has no readable name. Send each with a header Content-Disposition: form-data; name=\"…\""
            }
            Self::Length => {
                "A form part's Content-Length is not the length of its content. Remove that header from the parts."
            }
            Self::Nested => {
                "A form part is of a type that holds further fields, such as application/x-www-form-urlencoded. \
                 Send each field as a part of the one form."
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
        // Unity sends one CRLF before the first boundary, and every parser skips it.
        let start = if body.starts_with(b"\r\n") { 2 } else { 0 };
        if !body[start..].starts_with(dashed) {
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
            at: start + dashed.len(),
            read: 0,
        })
    }

    fn next(&mut self) -> Result<Option<FormPart<'b>>, MultipartError> {
        let behind = &self.body[self.at..];
        if let Some(epilogue) = behind.strip_prefix(b"--") {
            // formdata-node, got and several others send a second CRLF.
            let nothing = [&b""[..], b"\r\n", b"\r\n\r\n"].contains(&epilogue);
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
        // Rack looks for filenames in all lines of a part's head.
        let is_elsewhere =
            |word: &str| count_leniently(word, self.headers) > count_leniently(word, first);
        let has_unclear_filename =
            disposition.names_in_filename > 0 && (is_elsewhere("name") || is_elsewhere("filename"));
        if disposition.several_names || has_unclear_filename {
            findings.add_ambiguity(Ambiguity::SeveralNames);
        }
        if documented.is_some_and(|documented| !documented.has_bytes(disposition.name)) {
            findings.noted.add_unknown(self.place(disposition.name));
        }
        if disposition.name == FILE {
            findings.places.file.add(self.place(self.content));
        }
        match classify_name(disposition.name) {
            FieldClass::Other | FieldClass::Stream(..) | FieldClass::Output(_) => {}
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
                if count_leniently("filename", self.headers) > 0 {
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

    /// The place of a part of the body in it; an empty one for what is not a part of it, such as a name that is missing.
    fn place(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr().checked_sub(self.body.as_ptr().addr());
        let place = start.map(|start| start..start + part.len());
        let inside = place.filter(|place| place.end <= self.body.len());
        inside.unwrap_or_default()
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
            let line = &rest[..end.unwrap_or(rest.len())];
            let (name, value) = header(line)?;
            rest = end.map_or(&[], |end| &rest[end + 2..]);
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("content-disposition") {
                // Falcon finds no name where the space is missing.
                if line.get(name.len() + 1) != Some(&b' ') {
                    return Err(MultipartError::Header);
                }
                headers.dispositions.push(value);
            } else if is("content-type") {
                if holds_fields(value) {
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

/// Splits one header line. Bottle reads `Content_Disposition` as Content-Disposition, so a name has no other characters
/// than those of the headers that forms have. Nor does it begin like a delimiter, which some parsers look for here too.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), MultipartError> {
    let colon = memchr::memchr(b':', line).ok_or(MultipartError::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_token = !name.is_empty() && name.iter().copied().all(parameters::is_token_byte);
    let is_text = |&byte: &u8| byte == b'\t' || !byte.is_ascii_control();
    if !is_token || name.starts_with(b"--") || !value.iter().all(is_text) {
        return Err(MultipartError::Header);
    }
    let is_of_a_form = name
        .split_at_checked(FORM_HEADERS.len())
        .is_some_and(|(start, rest)| {
            let is_letter_or_dash = |&byte: &u8| byte.is_ascii_alphabetic() || byte == b'-';
            start.eq_ignore_ascii_case(FORM_HEADERS)
                && !rest.is_empty()
                && rest.iter().all(is_letter_or_dash)
        });
    if !is_of_a_form {
        return Err(MultipartError::HeaderName);
    }
    // Werkzeug finds no field in a form that has such a header.
    if simdutf8::basic::from_utf8(value).is_err() {
        return Err(MultipartError::HeaderNotUtf8);
    }
    Ok((name, value.trim_ascii()))
}

/// A part's Content-Disposition.
struct Disposition<'b> {
    name: &'b [u8],
    several_names: bool,
    /// Whether it is exactly `form-data;` and the name. Next to other parameters, multer, cpp-httplib and other parsers
    /// find no name, each in other cases, and their servers then use a default model.
    is_name_alone: bool,
    names_in_filename: usize,
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
        let names_in_filename = names_in_filename(&all);
        Ok(Self {
            name,
            // Some parsers read `Name=` as a name, others do not.
            several_names: extended
                || named.is_some_and(|parameter| parameter.name != b"name")
                || count_leniently("name", value) != 1 + names_in_filename,
            is_name_alone: all.len() == 1 && value[kind.len()..].starts_with(b";"),
            names_in_filename,
        })
    }
}

/// How many times a filename looks as if it named the part once more, where all parsers read it as a filename: it is
/// quoted without escapes, and stands behind the part's own name.
fn names_in_filename(parameters: &[Parameter<'_>]) -> usize {
    let [name, others @ ..] = parameters else {
        return 0;
    };
    if name.name != b"name" {
        return 0;
    }
    let mut filenames = others.iter().filter(|parameter| parameter.is("filename"));
    match (filenames.next(), filenames.next()) {
        // Rack reads `FileName=` as no filename.
        (Some(only), None) if only.name == b"filename" && !only.value.contains(&b'\\') => {
            count_leniently("name", only.value)
        }
        _ => 0,
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
/// unescaping, trimming, dropping quotes, dropping brackets before it (Rack) or cutting at a bracket or semicolon, is
/// refused. So are encoded words, which
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
    let decoded = query::percent_decoded(raw).skip_while(|&byte| matches!(byte, b'[' | b']'));
    for byte in decoded.take_while(|&byte| !matches!(byte, b'[' | b';')) {
        if byte == b'_' || byte.is_ascii_alphanumeric() {
            letters.push(char::from(byte));
        }
    }
    match FieldClass::of(&letters) {
        FieldClass::Model => like_model,
        class => class,
    }
}

/// Whether some parsers look for more fields inside a part of this type: the composite types of RFC 2046, and HTML's
/// other form.
fn holds_fields(content_type: &[u8]) -> bool {
    if is_form_without_boundary(content_type) {
        return false;
    }
    let families = [
        &b"multipart/"[..],
        b"message/",
        b"application/x-www-form-urlencoded",
    ];
    families.iter().any(|family| {
        let begins = content_type.get(..family.len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(family))
    })
}

/// Retrofit's users type each part so. Without a boundary it says nothing: parsers refuse it, or read the part as if it
/// had no type.
fn is_form_without_boundary(content_type: &[u8]) -> bool {
    content_type.eq_ignore_ascii_case(b"multipart/form-data")
}

/// Whether every parser reads the content as the same text. Some parsers read a type other than text as a file, and
/// aiohttp recognizes text only in lower case.
fn is_plain_text(content_types: &[&[u8]], content: &[u8]) -> bool {
    let value = match content_types {
        [] => return true,
        [value] if is_form_without_boundary(value) => return true,
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
