//! Reads the Content-Type of a request.

use crate::request_body::model::multipart::{Boundary, MultipartError};
use crate::request_body::model::parameters::{self, Parameter};

/// Whether the Content-Type is `application/json`, with no parameter except one charset that is UTF-8.
pub(crate) fn is_json(content_type: Option<&[u8]>) -> bool {
    let Some(value) = content_type else {
        return false;
    };
    let (kind, rest) = parameters::split_first(without_last_semicolon(value));
    let mut parameters = parameters::parameters(rest);
    kind.eq_ignore_ascii_case(b"application/json")
        && parameters
            .next()
            .is_none_or(|parameter| parameter.is_ok_and(|parameter| is_utf8(&parameter)))
        && parameters.next().is_none()
}

/// Why a Content-Type is not that of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormTypeError {
    /// The Content-Type is missing, repeated, a list or another type, or has a parameter that parsers read differently.
    NotAForm,
    Boundary(MultipartError),
}

/// The boundary of a form. The type must be `multipart/form-data`, with one `boundary` and at most one charset,
/// which is UTF-8.
pub(crate) fn form_boundary(content_type: Option<&[u8]>) -> Result<Boundary, FormTypeError> {
    let value = content_type.ok_or(FormTypeError::NotAForm)?;
    let (kind, rest) = parameters::split_first(without_last_semicolon(value));
    if !kind.eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(FormTypeError::NotAForm);
    }
    let mut boundaries = Vec::new();
    let mut charsets = 0;
    for parameter in parameters::parameters(rest) {
        match parameter {
            Ok(parameter) if parameter.is("boundary") => boundaries.push(parameter.value),
            Ok(parameter) if parameter.extends("boundary") => {
                return Err(FormTypeError::Boundary(MultipartError::SeveralBoundaries));
            }
            Ok(parameter) if is_utf8(&parameter) && charsets == 0 => charsets += 1,
            Ok(_) => return Err(FormTypeError::NotAForm),
            Err(malformed) if malformed.0.starts_with(b",") => return Err(FormTypeError::NotAForm),
            Err(_) => return Err(FormTypeError::Boundary(MultipartError::Parameters)),
        }
    }
    let boundary = match boundaries.as_slice() {
        [] => Err(MultipartError::NoBoundary),
        [boundary] => Boundary::new(boundary),
        _ => Err(MultipartError::SeveralBoundaries),
    };
    boundary.map_err(FormTypeError::Boundary)
}

/// Whether the parameter says that the body is UTF-8. Some clients write `utf8`, which is no registered name.
fn is_utf8(parameter: &Parameter<'_>) -> bool {
    let is = |name: &[u8]| parameter.value.eq_ignore_ascii_case(name);
    parameter.is("charset") && (is(b"utf-8") || is(b"utf8"))
}

/// The value without one `;` at its end, which some clients write although no parameter follows.
fn without_last_semicolon(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii_end();
    value.strip_suffix(b";").unwrap_or(value)
}
