//! The one model name in a request, read strictly: from the body, and from nowhere else.
//!
//! Invariant: the name returned here is the only one that any parser behind the gateway can find in the same bytes.
//! What two parsers could read differently is refused, however plain one of the readings looks. Three kinds of fault
//! may meet in one body; the whole body is read, and then an unreadable body is told before an ambiguous model, and
//! that before a missing one. A clearer order for whoever has to mend the request, and no early way out to exploit.
//!
//! It does not know which models exist, nor who may use them.

#[cfg(test)]
mod corpus;
mod json;
mod media_type;
mod multipart;
mod name;
mod parameters;
mod query;
mod text_run;

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;

use crate::policy::route::BodyKind;

pub use crate::http::model_name::json::JsonFault;
use crate::http::model_name::media_type::FormTypeFault;
pub(crate) use crate::http::model_name::media_type::is_json;
pub use crate::http::model_name::multipart::{Boundary, MultipartFault};
use crate::http::model_name::name::NoModel;
pub use crate::http::model_name::name::{Ambiguity, Siblings};
pub(crate) use crate::http::model_name::query::percent_decoded;

/// What the headers say about how to read the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One JSON object.
    Json,
    /// A form whose parts this separates.
    Multipart(Boundary),
}

/// Why no one model can be read from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// The headers promise a body of another kind.
    UnsupportedMediaType(MediaTypeFault),
    /// Gateway and upstream could read different models.
    AmbiguousModel(Ambiguity),
    /// The body is not one JSON object.
    InvalidJson(JsonFault),
    /// The model is absent, null, empty or not a string.
    MissingModel,
    /// The body is not one readable form.
    InvalidMultipart(MultipartFault),
}

/// Which header promises a body that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTypeFault {
    /// Content-Type is missing, sent twice, a list, or another than the route's.
    ContentType(BodyKind),
    /// Content-Encoding is anything but one `identity`.
    ContentEncoding,
}

impl BodyFault {
    /// The code that clients see.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType(_) => "unsupported_media_type",
            Self::AmbiguousModel(_) => "ambiguous_model",
            Self::InvalidJson(_) => "invalid_json",
            Self::MissingModel => "missing_model",
            Self::InvalidMultipart(_) => "invalid_multipart",
        }
    }

    /// The parameter at fault, as clients see it.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::AmbiguousModel(_) | Self::MissingModel => Some(name::MODEL),
            Self::UnsupportedMediaType(_) | Self::InvalidJson(_) | Self::InvalidMultipart(_) => {
                None
            }
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedMediaType(fault) => fault.fmt(f),
            Self::AmbiguousModel(ambiguity) => ambiguity.fmt(f),
            Self::InvalidJson(fault) => fault.fmt(f),
            Self::MissingModel => f.write_str(
                "The request names no model. Send the name of one as a string: in JSON as the top-level field \
                 `model`, in a form as the part `model`.",
            ),
            Self::InvalidMultipart(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Display for MediaTypeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContentType(BodyKind::Json) => {
                "The body has to be JSON. Send exactly one header Content-Type: application/json"
            }
            Self::ContentType(BodyKind::Multipart) => {
                "The body has to be a form. Send exactly one header Content-Type: multipart/form-data; boundary=…"
            }
            Self::ContentEncoding => {
                "The body has to be sent as it is, not compressed. Send no header Content-Encoding."
            }
        })
    }
}

impl std::error::Error for BodyFault {}

impl From<NoModel> for BodyFault {
    fn from(none: NoModel) -> Self {
        match none {
            NoModel::Ambiguous(ambiguity) => Self::AmbiguousModel(ambiguity),
            NoModel::Missing => Self::MissingModel,
        }
    }
}

/// Whether the headers promise a body that [`read`] can read. To be asked before any of it arrives.
///
/// # Errors
/// [`BodyFault::UnsupportedMediaType`], or [`BodyFault::InvalidMultipart`] where a form's boundary is unusable.
pub fn check_headers(kind: BodyKind, headers: &HeaderMap) -> Result<BodyFormat, BodyFault> {
    let other_type = BodyFault::UnsupportedMediaType(MediaTypeFault::ContentType(kind));
    let format = match kind {
        BodyKind::Json if media_type::is_json(headers) => BodyFormat::Json,
        BodyKind::Json => return Err(other_type),
        BodyKind::Multipart => match media_type::form_boundary(headers) {
            Ok(boundary) => BodyFormat::Multipart(boundary),
            Err(FormTypeFault::NotAForm) => return Err(other_type),
            Err(FormTypeFault::Boundary(fault)) => return Err(BodyFault::InvalidMultipart(fault)),
        },
    };
    if media_type::is_unencoded(headers) {
        Ok(format)
    } else {
        Err(BodyFault::UnsupportedMediaType(
            MediaTypeFault::ContentEncoding,
        ))
    }
}

/// Whether the query leaves the model to the body.
///
/// # Errors
/// [`BodyFault::AmbiguousModel`] where it names one, however that is escaped.
pub fn check_query(query: Option<&str>) -> Result<(), BodyFault> {
    if query.is_some_and(query::names_model) {
        return Err(BodyFault::AmbiguousModel(Ambiguity::Query));
    }
    Ok(())
}

/// The model that the body names; the body is whole.
///
/// # Errors
/// [`BodyFault`] says what to mend: an unreadable body before an ambiguous model, and that before a missing one.
pub fn read<'b>(
    format: &BodyFormat,
    body: &'b [u8],
    siblings: Siblings,
) -> Result<Cow<'b, str>, BodyFault> {
    let findings = match format {
        BodyFormat::Json => json::read(body, siblings).map_err(BodyFault::InvalidJson)?,
        BodyFormat::Multipart(boundary) => {
            multipart::read(boundary, body, siblings).map_err(BodyFault::InvalidMultipart)?
        }
    };
    Ok(findings.conclude()?)
}
