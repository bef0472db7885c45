//! One strict pass over a multipart/form-data body, to the one part named `model`.
//!
//! RFC 7578 as clients write it, and nothing that parsers are known to read differently: no preamble, no epilogue, no
//! padding behind a boundary, CRLF and only CRLF around boundaries and headers, no folded header. In content anything
//! may stand but a line that begins with the boundary and is not exactly one.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;

use crate::http::model_name::name::{Ambiguity, Findings, MODEL, Model, Naming, Siblings};
use crate::http::model_name::parameters::{self, Parameter};
use crate::http::model_name::query;

/// Longest header block of one part, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Most parts in one form.
const MAX_PARTS: usize = 64;
/// Longest boundary, in characters (RFC 2046 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// Why a body is not one readable form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultipartFault {
    /// The Content-Type names no boundary.
    NoBoundary,
    /// The Content-Type names two, or one in an extended form (`boundary*`).
    SeveralBoundaries,
    /// The boundary is not 1 to 70 of the characters that all parsers take.
    Boundary,
    /// The Content-Type's parameters are not `; name=value`.
    Parameters,
    /// The body does not begin with the boundary.
    Preamble,
    /// A line begins with the boundary and is not exactly the boundary between CRLFs.
    Delimiter,
    /// The last boundary is missing.
    NoEnd,
    /// More than one CRLF behind the last boundary.
    Epilogue,
    /// A part's headers have no end, or are over 8 KiB.
    HeadersTooLong,
    /// A part's header line is not `name: value`, or is folded, or does not end with CRLF.
    Header,
    /// A part's Content-Disposition is missing, or is not `form-data; name="…"`.
    NoName,
    /// A part's Content-Length is not the length of its content.
    Length,
    /// More than 64 parts.
    TooManyParts,
    /// The model's name is not UTF-8.
    ModelNotUtf8,
}

impl fmt::Display for MultipartFault {
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
            Self::TooManyParts => "The form has more than 64 parts. Send fewer.",
            Self::ModelNotUtf8 => "The form's part `model` is not UTF-8. Send the model's name in UTF-8.",
        })
    }
}

/// What separates a form's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// A line feed, two dashes, and the boundary: that begins a line is part of what makes a delimiter.
    line: Box<[u8]>,
}

impl Boundary {
    /// Takes what all parsers agree on. A space, which RFC 2046 allows inside, is among what some trim.
    pub(crate) fn new(boundary: &[u8]) -> Result<Self, MultipartFault> {
        let usable = |&byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
        if !(1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) || !boundary.iter().all(usable) {
            return Err(MultipartFault::Boundary);
        }
        let line = [b"\n--", boundary].concat().into_boxed_slice();
        Ok(Self { line })
    }
}

/// What the form says about its model.
pub(crate) fn read<'b>(
    boundary: &Boundary,
    body: &'b [u8],
    siblings: Siblings,
) -> Result<Findings<'b>, MultipartFault> {
    let mut findings = Findings::default();
    let mut parts = Parts::begin(boundary, body)?;
    while let Some(part) = parts.next()? {
        part.judge(siblings, &mut findings)?;
    }
    Ok(findings)
}

/// The parts of a body, one after the other.
struct Parts<'b, 'f> {
    delimiter: memmem::Finder<'f>,
    delimiter_length: usize,
    body: &'b [u8],
    /// Where the bytes behind the last delimiter begin.
    at: usize,
    read: usize,
}

impl<'b, 'f> Parts<'b, 'f> {
    fn begin(boundary: &'f Boundary, body: &'b [u8]) -> Result<Self, MultipartFault> {
        let dashed = &boundary.line[1..];
        if !body.starts_with(dashed) {
            return Err(MultipartFault::Preamble);
        }
        // Werkzeug ends lines with a lone CR too.
        let after_cr = [b"\r", dashed].concat();
        if memmem::find(body, &after_cr).is_some() {
            return Err(MultipartFault::Delimiter);
        }
        Ok(Self {
            delimiter: memmem::Finder::new(&boundary.line),
            delimiter_length: boundary.line.len(),
            body,
            at: dashed.len(),
            read: 0,
        })
    }

    fn next(&mut self) -> Result<Option<Part<'b>>, MultipartFault> {
        let behind = &self.body[self.at..];
        if let Some(epilogue) = behind.strip_prefix(b"--") {
            let nothing = epilogue.is_empty() || epilogue == b"\r\n";
            return if nothing {
                Ok(None)
            } else {
                Err(MultipartFault::Epilogue)
            };
        }
        if !behind.starts_with(b"\r\n") {
            let cut_off = behind.is_empty() || behind == b"-" || behind == b"\r";
            return Err(if cut_off {
                MultipartFault::NoEnd
            } else {
                MultipartFault::Delimiter
            });
        }
        if self.read == MAX_PARTS {
            return Err(MultipartFault::TooManyParts);
        }
        self.read += 1;
        let (headers, content_at) = self.headers(self.at + 2)?;
        // Its own line feed may be the one that ends the headers: to Go that is an empty part, to others content.
        let delimiter_at = self
            .delimiter
            .find(&self.body[content_at - 1..])
            .map(|found| content_at - 1 + found)
            .ok_or(MultipartFault::NoEnd)?;
        let content = delimiter_at
            .checked_sub(1)
            .and_then(|end| self.body.get(content_at..end))
            .filter(|_| self.body[delimiter_at - 1] == b'\r')
            .ok_or(MultipartFault::Delimiter)?;
        self.at = delimiter_at + self.delimiter_length;
        Ok(Some(Part { headers, content }))
    }

    /// The header block that begins at `start`, without its empty line, and where the content begins.
    fn headers(&self, start: usize) -> Result<(&'b [u8], usize), MultipartFault> {
        let rest = &self.body[start..];
        if rest.starts_with(b"\r\n") {
            return Err(MultipartFault::NoName);
        }
        let longest = &rest[..rest.len().min(MAX_HEADER_BYTES)];
        let end = memmem::find(longest, b"\r\n\r\n").ok_or(MultipartFault::HeadersTooLong)?;
        Ok((&rest[..end], start + end + 4))
    }
}

struct Part<'b> {
    headers: &'b [u8],
    content: &'b [u8],
}

/// The headers of a part that matter here, each as often as it was sent.
#[derive(Default)]
struct Headers<'b> {
    dispositions: Vec<&'b [u8]>,
    content_types: Vec<&'b [u8]>,
    encoded: bool,
}

impl<'b> Part<'b> {
    fn judge(&self, siblings: Siblings, findings: &mut Findings<'b>) -> Result<(), MultipartFault> {
        let headers = self.headers()?;
        if headers.encoded {
            findings.ambiguous(Ambiguity::Encoded);
        }
        let [first, others @ ..] = headers.dispositions.as_slice() else {
            return Err(MultipartFault::NoName);
        };
        if !others.is_empty() {
            findings.ambiguous(Ambiguity::SeveralDispositions);
        }
        let disposition = Disposition::read(first)?;
        if disposition.several_names {
            findings.ambiguous(Ambiguity::SeveralNames);
        }
        match naming(disposition.name, siblings) {
            Naming::Other => {}
            Naming::Refused(ambiguity) => findings.ambiguous(ambiguity),
            Naming::Model => {
                if disposition.has_filename {
                    findings.ambiguous(Ambiguity::File);
                }
                if !is_plain_text(&headers.content_types, self.content) {
                    findings.ambiguous(Ambiguity::NotPlainText);
                }
                let name = simdutf8::basic::from_utf8(self.content)
                    .map_err(|_| MultipartFault::ModelNotUtf8)?;
                findings.model(Model::Named(Cow::Borrowed(name)));
            }
        }
        Ok(())
    }

    fn headers(&self) -> Result<Headers<'b>, MultipartFault> {
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
                headers.content_types.push(value);
            } else if is("content-transfer-encoding") {
                let as_is = [&b"7bit"[..], b"8bit", b"binary"];
                headers.encoded |= !as_is.iter().any(|known| value.eq_ignore_ascii_case(known));
            } else if is("content-encoding") {
                headers.encoded |= !value.eq_ignore_ascii_case(b"identity");
            } else if is("content-length") && value != self.content.len().to_string().as_bytes() {
                // aiohttp reads by this length, over boundaries where it is too long.
                return Err(MultipartFault::Length);
            }
        }
        Ok(headers)
    }
}

/// Splits one header line. A name that begins like a delimiter is none: some parsers look for those here too.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), MultipartFault> {
    let colon = memchr::memchr(b':', line).ok_or(MultipartFault::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let sound_name = !name.is_empty()
        && name.iter().copied().all(parameters::is_token_byte)
        && !name.starts_with(b"--");
    let sound_value = value
        .iter()
        .all(|&byte| byte == b'\t' || !byte.is_ascii_control());
    if sound_name && sound_value {
        Ok((name, value.trim_ascii()))
    } else {
        Err(MultipartFault::Header)
    }
}

/// A part's Content-Disposition.
struct Disposition<'b> {
    name: &'b [u8],
    several_names: bool,
    has_filename: bool,
}

impl<'b> Disposition<'b> {
    fn read(value: &'b [u8]) -> Result<Self, MultipartFault> {
        let (kind, rest) = parameters::split_first(value);
        if !kind.eq_ignore_ascii_case(b"form-data") {
            return Err(MultipartFault::NoName);
        }
        let all = parameters::parameters(rest)
            .collect::<Result<Vec<Parameter<'b>>, _>>()
            .map_err(|_| MultipartFault::NoName)?;
        let extended = all.iter().any(|parameter| parameter.extends("name"));
        let named = all.iter().find(|parameter| parameter.is("name"));
        let name = match named {
            Some(parameter) => parameter.value,
            None if extended => &[],
            None => return Err(MultipartFault::NoName),
        };
        if name.is_empty() && !extended {
            return Err(MultipartFault::NoName);
        }
        Ok(Self {
            name,
            several_names: extended || seen_by_any_parser("name", value) != 1,
            has_filename: seen_by_any_parser("filename", value) > 0,
        })
    }
}

/// How many parameters of that name a parser may find: some split at `;` or search without minding quotes, so one
/// inside another parameter's quotes counts as well.
fn seen_by_any_parser(parameter: &str, value: &[u8]) -> usize {
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

/// Judges a part's name as it stands in its header. What any parser could make `model` of, by unescaping, trimming,
/// dropping quotes or cutting at a bracket, is refused; so is an encoded word, which Java's parsers decode.
fn naming(raw: &[u8], siblings: Siblings) -> Naming {
    if raw == MODEL.as_bytes() {
        return Naming::Model;
    }
    let like_model = Naming::Refused(Ambiguity::LikeModel);
    if memmem::find(raw, b"=?").is_some() {
        return like_model;
    }
    let mut letters = String::new();
    for byte in query::percent_decoded(raw).take_while(|&byte| byte != b'[') {
        if byte == b'_' || byte.is_ascii_alphanumeric() {
            letters.push(char::from(byte));
        }
    }
    match Naming::of(&letters, siblings) {
        Naming::Model => like_model,
        judged => judged,
    }
}

/// Whether every parser reads the content as the same text. A type other than text makes some take it for a file.
fn is_plain_text(content_types: &[&[u8]], content: &[u8]) -> bool {
    let value = match content_types {
        [] => return true,
        [value] => value,
        _ => return false,
    };
    let (kind, rest) = parameters::split_first(value);
    kind.eq_ignore_ascii_case(b"text/plain")
        && parameters::parameters(rest).all(|parameter| {
            parameter.is_ok_and(|parameter| {
                let charset = |known: &str| parameter.value.eq_ignore_ascii_case(known.as_bytes());
                !parameter.is("charset")
                    || charset("utf-8")
                    || content.is_ascii() && (charset("us-ascii") || charset("iso-8859-1"))
            })
        })
}
