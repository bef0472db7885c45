//! Reads the one model name in a request, strictly, and only from the body.
//!
//! Invariant: any parser behind the gateway that finds a model in the same bytes finds the name returned here. If two
//! parsers could read the bytes differently, the request is refused. A body may have several errors. The whole body is
//! always read, and then an invalid body is reported before an ambiguous model, and an ambiguous model before a missing
//! one: the client fixes its request in a sensible order, and an attacker cannot end the check early.
//!
//! This module does not know which models exist or who may use them.

#[cfg(test)]
mod corpus;
mod json;
mod json_string;
mod media_type;
mod multipart;
mod name;
mod parameters;
mod query;
pub(crate) mod streaming;

use std::borrow::Cow;
use std::fmt;

use crate::policy::documented_fields::Documented;
use crate::policy::route::BodyKind;

pub use crate::request_body::model::json::JsonError;
use crate::request_body::model::media_type::FormTypeError;
pub(crate) use crate::request_body::model::media_type::is_json;
pub use crate::request_body::model::multipart::{Boundary, MultipartError};
use crate::request_body::model::name::ModelError;
pub use crate::request_body::model::name::{Ambiguity, ExtraModelFields};
pub(crate) use crate::request_body::model::name::{BodyFacts, FilePlace, Places};
pub(crate) use crate::request_body::model::query::{
    form_parameters, form_query, percent_decoded, percent_encoded,
};

/// The format of the body, from the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One JSON object.
    Json,
    /// A form with this boundary.
    Multipart(Boundary),
}

impl BodyFormat {
    /// The Content-Type that the body is forwarded with. It is written here, so that it says to the upstream what it
    /// said to the gateway: some servers compare media types byte for byte.
    #[must_use]
    pub fn content_type(&self) -> Cow<'static, [u8]> {
        match self {
            Self::Json => Cow::Borrowed(b"application/json"),
            Self::Multipart(boundary) => Cow::Owned(boundary.content_type()),
        }
    }
}

/// Why no single model can be read from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The Content-Type is not the route's.
    UnsupportedMediaType(MediaTypeError),
    /// The gateway and the upstream could read different models.
    AmbiguousModel(Ambiguity),
    /// A field other than the model, which the gateway reads, is there twice or in another case.
    AmbiguousField(&'static str),
    /// The body is not one JSON object.
    InvalidJson(JsonError),
    /// The model is missing, null, empty or not a string.
    MissingModel,
    /// The body is not a valid form.
    InvalidMultipart(MultipartError),
}

/// Which header has the wrong media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTypeError {
    /// Content-Type is missing, repeated, a list, or not the route's.
    ContentType(BodyKind),
}

impl BodyError {
    /// The error code in the response.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType(_) => "unsupported_media_type",
            Self::AmbiguousModel(_) => "ambiguous_model",
            Self::AmbiguousField(_) => "ambiguous_body",
            Self::InvalidJson(_) => "invalid_json",
            Self::MissingModel => "missing_model",
            Self::InvalidMultipart(_) => "invalid_multipart",
        }
    }

    /// The `param` in the error response: the field with the error.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::AmbiguousModel(_) | Self::MissingModel => Some(name::MODEL),
            Self::UnsupportedMediaType(_)
            | Self::AmbiguousField(_)
            | Self::InvalidJson(_)
            | Self::InvalidMultipart(_) => None,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedMediaType(error) => error.fmt(f),
            Self::AmbiguousModel(ambiguity) => ambiguity.fmt(f),
            Self::AmbiguousField(field) => write!(
                f,
                "The request body has the field `{field}` twice, or in another spelling. Send it once, spelled \
                 exactly so.",
            ),
            Self::InvalidJson(error) => error.fmt(f),
            Self::MissingModel => f.write_str(
                "The request names no model. Send the name of one as a string: in JSON as the top-level field \
                 `model`, in a form as the part `model`.",
            ),
            Self::InvalidMultipart(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for MediaTypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContentType(BodyKind::Json) => {
                "The body has to be JSON in UTF-8. Send exactly one header Content-Type: application/json and no other charset"
            }
            Self::ContentType(BodyKind::Multipart) => {
                "The body has to be a form. Send exactly one header Content-Type: multipart/form-data; boundary=…"
            }
        })
    }
}

impl std::error::Error for BodyError {}

impl From<ModelError> for BodyError {
    fn from(none: ModelError) -> Self {
        match none {
            ModelError::Ambiguous(ambiguity) => Self::AmbiguousModel(ambiguity),
            ModelError::AmbiguousField(field) => Self::AmbiguousField(field),
            ModelError::Missing => Self::MissingModel,
        }
    }
}

/// Checks that [`read`] supports the Content-Type, which is None if it is missing or repeated. Called before the body
/// is read.
///
/// # Errors
/// [`BodyError::UnsupportedMediaType`], or [`BodyError::InvalidMultipart`] if a form's boundary cannot be used.
pub fn check_content_type(
    kind: BodyKind,
    content_type: Option<&[u8]>,
) -> Result<BodyFormat, BodyError> {
    let other_type = BodyError::UnsupportedMediaType(MediaTypeError::ContentType(kind));
    match kind {
        BodyKind::Json if media_type::is_json(content_type) => Ok(BodyFormat::Json),
        BodyKind::Json => Err(other_type),
        BodyKind::Multipart => match media_type::form_boundary(content_type) {
            Ok(boundary) => Ok(BodyFormat::Multipart(boundary)),
            Err(FormTypeError::NotAForm) => Err(other_type),
            Err(FormTypeError::Boundary(error)) => Err(BodyError::InvalidMultipart(error)),
        },
    }
}

/// Checks that the query names no model.
///
/// # Errors
/// [`BodyError::AmbiguousModel`] if it names one, in any escaping.
pub fn check_query(query: Option<&str>) -> Result<(), BodyError> {
    if query.is_some_and(query::names_model) {
        return Err(BodyError::AmbiguousModel(Ambiguity::Query));
    }
    Ok(())
}

/// Reads the model that a complete body names.
///
/// # Errors
/// [`BodyError`]: an invalid body before an ambiguous model, and an ambiguous model before a missing one.
pub fn read<'b>(
    format: &BodyFormat,
    body: &'b [u8],
    extra_fields: ExtraModelFields,
) -> Result<Cow<'b, str>, BodyError> {
    scan(format, body, extra_fields, None).map(|facts| facts.model)
}

/// Reads the model that a complete body names, and notes the fields that are judged after it.
///
/// # Errors
/// As [`read`].
pub(crate) fn scan<'b>(
    format: &BodyFormat,
    body: &'b [u8],
    extra_fields: ExtraModelFields,
    documented: Option<Documented>,
) -> Result<BodyFacts<'b>, BodyError> {
    let findings = match format {
        BodyFormat::Json => {
            json::read(body, extra_fields, documented).map_err(BodyError::InvalidJson)?
        }
        BodyFormat::Multipart(boundary) => {
            multipart::read(boundary, body, extra_fields, documented)
                .map_err(BodyError::InvalidMultipart)?
        }
    };
    Ok(findings.into_facts()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn check(kind: BodyKind, content_types: &[&str]) -> Result<BodyFormat, BodyError> {
        check_content_type(
            kind,
            match content_types {
                [only] => Some(only.as_bytes()),
                _ => None,
            },
        )
    }

    fn other_type(kind: BodyKind) -> Result<BodyFormat, BodyError> {
        Err(BodyError::UnsupportedMediaType(
            MediaTypeError::ContentType(kind),
        ))
    }

    #[test]
    fn json_is_taken_in_any_case_with_no_parameter_but_utf_8_as_clients_write_it() {
        for value in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/json ; Charset=\"Utf-8\"",
            "application/json; charset=utf8",
            "application/json;charset=UTF8",
            "application/json; charset=\"utf-8\"",
            "application/json; charset=\"UTF8\"",
            "application/json;",
            "application/json ; ",
            "application/json; charset=utf-8;",
            "application/json; charset=\"utf8\" ;",
            "application/json; charset=utf-8 ",
        ] {
            assert_eq!(
                check(BodyKind::Json, &[value]),
                Ok(BodyFormat::Json),
                "{value}"
            );
        }
    }

    #[test]
    fn a_missing_doubled_listed_or_other_content_type_is_not_json() {
        for values in [
            &[][..],
            &[""],
            &["text/plain"],
            &["application/json", "application/json"],
            &["application/json", "text/plain"],
            &["text/plain", "application/json"],
            &["application/json, text/plain"],
            &["application/json,application/json"],
            &["application/vnd.x+json"],
            &["application/jsonx"],
            &["application/json/x"],
            &["application/json;;"],
            &["application/json; ; charset=utf-8"],
            &["application/json; charset=utf-16"],
            &["application/json; charset=utf16"],
            &["application/json; charset=utf_8"],
            &["application/json; charset=utf-8-sig"],
            &["application/json; charset='utf-8'"],
            &["application/json; charset=utf-8;;"],
            &["application/json; charset=utf-8; charset=utf8"],
            &["application/json; charset=iso-8859-1"],
            &["application/json; charset=utf-8; charset=utf-8"],
            &["application/json; charset=utf-8, text/plain"],
            &["application/json; charset"],
            &["application/json; charset="],
            &["application/json; charset*=utf-8''utf-16"],
            &["application/json; profile=x"],
            &["application/json charset=utf-8"],
            &["application/x-www-form-urlencoded"],
            &["multipart/form-data; boundary=X"],
            &["application/json\u{e4}"],
        ] {
            assert_eq!(
                check(BodyKind::Json, values),
                other_type(BodyKind::Json),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_form_is_taken_with_one_boundary_quoted_or_not() {
        let boundary = |text: &str| {
            Ok(BodyFormat::Multipart(
                Boundary::new(text.as_bytes()).unwrap(),
            ))
        };
        for (value, expected) in [
            ("multipart/form-data; boundary=X", "X"),
            ("Multipart/Form-Data;Boundary=X", "X"),
            ("multipart/form-data; boundary=\"X\"", "X"),
            ("multipart/form-data; boundary=\"a/b:c=d?\"", "a/b:c=d?"),
            ("multipart/form-data; boundary=X; charset=utf-8", "X"),
            ("multipart/form-data; charset=UTF-8; boundary=X", "X"),
            ("multipart/form-data; charset=utf8; boundary=X", "X"),
            ("multipart/form-data; boundary=X;", "X"),
            ("MULTIPART/FORM-DATA; BOUNDARY=\"X:\" ; ", "X:"),
            (
                "multipart/form-data; boundary=----WebKitFormBoundaryx",
                "----WebKitFormBoundaryx",
            ),
        ] {
            assert_eq!(
                check(BodyKind::Multipart, &[value]),
                boundary(expected),
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_no_form_or_has_a_parameter_of_unknown_meaning_is_an_unsupported_type() {
        for values in [
            &[][..],
            &["multipart/mixed; boundary=X"],
            &["multipart/form-datax; boundary=X"],
            &["application/json"],
            &["application/x-www-form-urlencoded"],
            &[
                "multipart/form-data; boundary=X",
                "multipart/form-data; boundary=X",
            ],
            &["multipart/form-data; boundary=X, multipart/form-data; boundary=Y"],
            &["multipart/form-data, application/json; boundary=X"],
            &["multipart/form-data; boundary=X; charset=utf-16"],
            &["multipart/form-data; boundary=X; charset=utf-8; charset=utf-8"],
            &["multipart/form-data; boundary=X; charset*=utf-8''utf-16"],
            &["multipart/form-data; boundary=X; xboundary=Y"],
            &["multipart/form-data; type=\"boundary=Y\"; boundary=X"],
        ] {
            assert_eq!(
                check(BodyKind::Multipart, values),
                other_type(BodyKind::Multipart),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_form_whose_boundary_is_missing_repeated_or_unusable_is_an_invalid_form() {
        use MultipartError::{Boundary, NoBoundary, Parameters, SeveralBoundaries};
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        for (value, error) in [
            ("multipart/form-data", NoBoundary),
            ("multipart/form-data; charset=utf-8", NoBoundary),
            (
                "multipart/form-data; boundary=X; boundary=Y",
                SeveralBoundaries,
            ),
            (
                "multipart/form-data; boundary=X; boundary=X",
                SeveralBoundaries,
            ),
            (
                "multipart/form-data; boundary=X; BOUNDARY=X",
                SeveralBoundaries,
            ),
            (
                "multipart/form-data; boundary=X; boundary*=utf-8''Y",
                SeveralBoundaries,
            ),
            (
                "multipart/form-data; boundary*0=X; boundary*1=Y",
                SeveralBoundaries,
            ),
            ("multipart/form-data; boundary=", Boundary),
            ("multipart/form-data; boundary=\"\"", Boundary),
            ("multipart/form-data; boundary=\"a b\"", Boundary),
            ("multipart/form-data; boundary=\" X\"", Boundary),
            ("multipart/form-data; boundary=\"a\\b\"", Boundary),
            (&long, Boundary),
            ("multipart/form-data; boundary=X Y", Parameters),
            ("multipart/form-data; boundary =X", Parameters),
            ("multipart/form-data; boundary=X;;", Parameters),
            ("multipart/form-data; boundary=\"X;", Parameters),
            ("multipart/form-data; boundary=\"X", Parameters),
            ("multipart/form-data; boundary=a/b", Parameters),
            ("multipart/form-data; boundary", Parameters),
        ] {
            let verdict = check(BodyKind::Multipart, &[value]);
            assert_eq!(verdict, Err(BodyError::InvalidMultipart(error)), "{value}");
        }
    }

    #[test]
    fn a_model_in_the_query_is_ambiguous_and_no_query_is_fine() {
        assert_eq!(check_query(None), Ok(()));
        assert_eq!(check_query(Some("api-version=1")), Ok(()));
        assert_eq!(
            check_query(Some("a;m%6fdel=bad")),
            Err(BodyError::AmbiguousModel(Ambiguity::Query))
        );
    }

    #[test]
    fn every_fault_has_its_code_and_names_the_model_where_that_is_at_fault() {
        let json =
            |body: &[u8]| read(&BodyFormat::Json, body, ExtraModelFields::Refused).unwrap_err();
        let form = check(BodyKind::Multipart, &["multipart/form-data; boundary=X"]).unwrap();
        for (error, code, param) in [
            (json(b"{"), "invalid_json", None),
            (json(b"{}"), "missing_model", Some("model")),
            (json(b"{\"Model\":1}"), "ambiguous_model", Some("model")),
            (
                read(&form, b"", ExtraModelFields::Refused).unwrap_err(),
                "invalid_multipart",
                None,
            ),
            (
                check(BodyKind::Json, &[]).unwrap_err(),
                "unsupported_media_type",
                None,
            ),
        ] {
            assert_eq!((error.code(), error.param()), (code, param), "{error}");
        }
    }

    #[test]
    fn the_error_for_a_content_type_says_which_header_to_send() {
        let message = |kind| check(kind, &[]).unwrap_err().to_string();
        assert!(message(BodyKind::Json).contains("Content-Type: application/json"));
        assert!(
            message(BodyKind::Multipart).contains("Content-Type: multipart/form-data; boundary=")
        );
    }

    #[test]
    fn no_message_repeats_the_body() {
        for body in [
            &b"{\"secret\""[..],
            b"{\"model\":\"secret\",\"model\":\"secret\"}",
            b"{\"fallbacks\":[\"secret\"]}",
            b"{\"model\":[\"secret\"]}",
            b"secret",
        ] {
            let message = read(&BodyFormat::Json, body, ExtraModelFields::Refused)
                .unwrap_err()
                .to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn both_kinds_of_body_are_read() {
        let json = read(
            &BodyFormat::Json,
            br#"{"model":"good"}"#,
            ExtraModelFields::Refused,
        );
        assert_eq!(json.as_deref(), Ok("good"));
        let format = check(BodyKind::Multipart, &["multipart/form-data; boundary=X"]).unwrap();
        let body =
            b"--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--X--\r\n";
        assert_eq!(
            read(&format, body, ExtraModelFields::Refused).as_deref(),
            Ok("good")
        );
    }

    #[test]
    fn a_body_is_forwarded_with_the_media_type_that_every_server_knows() {
        for (kind, sent, forwarded) in [
            (
                BodyKind::Json,
                "Application/JSON; charset=\"utf8\";",
                "application/json",
            ),
            (
                BodyKind::Multipart,
                "Multipart/Form-Data; charset=utf-8; Boundary=\"XyZ\";",
                "multipart/form-data; boundary=XyZ",
            ),
            (
                BodyKind::Multipart,
                "multipart/form-data; boundary=\"a'()+_,-./:=?z\"",
                "multipart/form-data; boundary=\"a'()+_,-./:=?z\"",
            ),
        ] {
            let format = check(kind, &[sent]).unwrap();
            let written = format.content_type();
            assert_eq!(std::str::from_utf8(&written).unwrap(), forwarded);
            assert_eq!(check(kind, &[forwarded]), Ok(format), "{sent}");
        }
    }
}
