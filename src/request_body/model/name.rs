//! Classifies field names as the model, similar to it, or other, and collects what a body says about its model.
//!
//! Parsers differ in which names they accept as `model`: Go folds case, PHP cuts at a bracket, and some form parsers
//! unescape names. So only the exact name is accepted, and any name that a parser could take for it is refused.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::policy::body_fields::{self, FieldIndex, MemberValue, NotedFields, Reach};
use crate::policy::token_estimate::{AskedOutput, OutputField};
use crate::request_body::model::streaming::{StreamAsked, StreamField};

/// The name of the model's field.
pub(crate) const MODEL: &str = "model";
/// The longest name that is compared with known ones, in bytes.
pub(crate) const MAX_NAME_LENGTH: usize = body_fields::MAX_NAME_LENGTH;

/// Whether `models`, `fallbacks`, `lora_path` and the like are allowed next to `model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraModelFields {
    /// For a key that may use every model.
    Allowed,
    /// For a key that is restricted to some models.
    Refused,
}

/// Why the gateway and the upstream could read different models from one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// Two fields are named `model`.
    Twice,
    /// Some parsers read the field's name as `model`, others do not.
    LikeModel,
    /// A field's name holds U+0000: servers written in C read it up to there.
    ZeroInName,
    /// A field that names further models.
    ExtraField(&'static str),
    /// The query names a model.
    Query,
    /// The form's `model` is a file.
    File,
    /// A form part has two names, or a continued or encoded name (`name*`).
    SeveralNames,
    /// The Content-Disposition of the form's `model` has more than its name.
    NotNameAlone,
    /// A form part has two Content-Disposition lines.
    SeveralDispositions,
    /// A form part must be decoded before it can be read.
    Encoded,
    /// The form's `model` has a type other than plain text in UTF-8.
    NotPlainText,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice => f.write_str("The request names its model twice. Send the field `model` once."),
            Self::LikeModel => f.write_str(
                "The request has a field whose name differs from `model` only in case, escaping or padding. \
                 Send the field `model` alone, spelled exactly so.",
            ),
            Self::ZeroInName => f.write_str(
                "The request has a field whose name holds the character U+0000. Send names without it.",
            ),
            Self::ExtraField(field) => write!(
                f,
                "This API key is restricted to some models, so the field `{field}` is not taken. \
                 Remove it and name one model in the field `model`.",
            ),
            Self::Query => f.write_str(
                "The URL's query names a model. Remove it there and name the model in the body only.",
            ),
            Self::File => f.write_str(
                "The form's part `model` has a filename. Send the model as a plain field, not as a file.",
            ),
            Self::SeveralNames => f.write_str(
                "A form part's Content-Disposition has more than one name, or an extended one. \
                 Send one parameter name=\"…\" a part.",
            ),
            Self::NotNameAlone => f.write_str(
                "The form's part `model` has a Content-Disposition with more in it than its name. \
                 Send it as form-data; name=\"model\"",
            ),
            Self::SeveralDispositions => f.write_str(
                "A form part has more than one Content-Disposition. Send one a part.",
            ),
            Self::Encoded => f.write_str(
                "A form part has a Content-Transfer-Encoding or Content-Encoding that has to be decoded. \
                 Send the parts as they are, as 7bit, 8bit or binary.",
            ),
            Self::NotPlainText => f.write_str(
                "The form's part `model` has a Content-Type other than plain text in UTF-8. \
                 Send it without a Content-Type.",
            ),
        }
    }
}

/// The class of a field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldClass {
    Model,
    /// A field of the list of fields that reach beyond the request.
    Listed(FieldIndex),
    /// A field about the stream, and whether it is spelled exactly so.
    Stream(StreamField, bool),
    /// A field that says how much output is wanted.
    Output(OutputField),
    Refused(Ambiguity),
    Other,
}

impl FieldClass {
    /// Classifies the decoded name of a field.
    pub(crate) fn of(name: &str) -> Self {
        if name == MODEL {
            Self::Model
        } else if let Some(field) = FieldIndex::of(name) {
            Self::Listed(field)
        // No other character folds to a letter of `model`.
        } else if name.eq_ignore_ascii_case(MODEL) {
            Self::Refused(Ambiguity::LikeModel)
        } else if let Some((field, is_exact)) = StreamField::of(name) {
            Self::Stream(field, is_exact)
        } else if let Some(field) = OutputField::of(name) {
            Self::Output(field)
        } else {
            Self::Other
        }
    }
}

/// What a body says about its model. Only the first ambiguity is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings<'b> {
    model: Option<Model<'b>>,
    ambiguity: Option<Ambiguity>,
    /// `stream` or `stream_options`, twice or in another case.
    ambiguous_field: Option<&'static str>,
    has_stream: bool,
    has_stream_options: bool,
    pub(crate) noted: NotedFields,
    pub(crate) places: Places,
}

/// Where the parts of a body are that the gateway may change, or reads once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// The model's value: in JSON with its quotes.
    pub(crate) model: Range<usize>,
    /// Behind the brace that opens a JSON document; None in a form.
    pub(crate) first_member: Option<usize>,
    /// In a form: the values of the model part's Content-Length headers, which the content decides.
    pub(crate) model_lengths: Vec<Range<usize>>,
    /// What a JSON document says about its stream.
    pub(crate) stream: StreamAsked,
    /// How much output a JSON document asks for.
    pub(crate) output: AskedOutput,
    /// In a form: the content of the part `file`.
    pub(crate) file: FilePlace,
}

/// Where the content of a form's part `file` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum FilePlace {
    #[default]
    Absent,
    At(Range<usize>),
    Several,
}

impl FilePlace {
    pub(crate) fn add(&mut self, place: Range<usize>) {
        *self = match self {
            Self::Absent => Self::At(place),
            Self::At(_) | Self::Several => Self::Several,
        };
    }
}

/// The value of a field `model`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Model<'b> {
    Named(Cow<'b, str>),
    NotText,
}

impl<'b> Findings<'b> {
    pub(crate) fn add_model(&mut self, model: Model<'b>, place: Range<usize>) {
        self.places.model = place;
        if self.model.is_some() {
            self.add_ambiguity(Ambiguity::Twice);
        }
        self.model = Some(model);
    }

    pub(crate) fn add_ambiguity(&mut self, ambiguity: Ambiguity) {
        self.ambiguity.get_or_insert(ambiguity);
    }

    /// Notes a field about the stream: each may come once, and spelled exactly so.
    pub(crate) fn add_stream_field(&mut self, field: StreamField, is_exact: bool) {
        let was_there = match field {
            StreamField::Stream => std::mem::replace(&mut self.has_stream, true),
            StreamField::StreamOptions => std::mem::replace(&mut self.has_stream_options, true),
            // The gateway only leaves out its own where there is one.
            StreamField::TimingsPerToken => return,
        };
        if was_there || !is_exact {
            self.ambiguous_field.get_or_insert(field.name());
        }
    }

    /// Notes a field of the list, if its value has an effect.
    pub(crate) fn add_listed(
        &mut self,
        field: FieldIndex,
        value: MemberValue,
        extra_fields: ExtraModelFields,
    ) {
        let listed = field.field();
        if !body_fields::has_effect(listed, value) {
            return;
        }
        match (listed.reach, extra_fields) {
            (Reach::Models, ExtraModelFields::Allowed) => {}
            (Reach::Models, ExtraModelFields::Refused) => {
                self.add_ambiguity(Ambiguity::ExtraField(listed.name));
            }
            (Reach::State | Reach::Engine, _) => self.noted.add(field),
        }
    }

    #[cfg(test)]
    pub(crate) fn into_model(self) -> Result<Cow<'b, str>, ModelError> {
        self.into_facts().map(|facts| facts.model)
    }

    /// Returns the model, and what else the body says. An ambiguity is reported before a missing model.
    pub(crate) fn into_facts(self) -> Result<BodyFacts<'b>, ModelError> {
        if let Some(ambiguity) = self.ambiguity {
            return Err(ModelError::Ambiguous(ambiguity));
        }
        if let Some(field) = self.ambiguous_field {
            return Err(ModelError::AmbiguousField(field));
        }
        match self.model {
            Some(Model::Named(model)) if !model.is_empty() => Ok(BodyFacts {
                model,
                noted: self.noted,
                places: self.places,
            }),
            Some(Model::Named(_) | Model::NotText) | None => Err(ModelError::Missing),
        }
    }
}

/// What a body says about its model and its fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BodyFacts<'b> {
    pub(crate) model: Cow<'b, str>,
    pub(crate) noted: NotedFields,
    pub(crate) places: Places,
}

/// Why a valid body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelError {
    Ambiguous(Ambiguity),
    /// This field is there twice, or in another case.
    AmbiguousField(&'static str),
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_is_the_model() {
        assert_eq!(FieldClass::of("model"), FieldClass::Model);
        for name in ["Model", "MODEL", "moDeL"] {
            assert_eq!(
                FieldClass::of(name),
                FieldClass::Refused(Ambiguity::LikeModel),
                "{name}"
            );
        }
        for name in [
            "", "mode", "modelss", "model ", "model\0", "mödel", "ｍodel", "messages",
        ] {
            assert_eq!(FieldClass::of(name), FieldClass::Other, "{name:?}");
        }
    }

    #[test]
    fn no_letter_but_ascii_folds_to_one_of_model() {
        for letter in ('\u{80}'..=char::MAX).filter(|letter| letter.is_alphabetic()) {
            let lower: String = letter.to_lowercase().collect();
            let through_upper: String =
                letter.to_uppercase().flat_map(char::to_lowercase).collect();
            for folded in [lower, through_upper] {
                assert!(!MODEL.split("").any(|one| one == folded && !one.is_empty()));
            }
        }
    }

    #[test]
    fn extra_fields_are_refused_for_restricted_keys_unless_they_name_nothing() {
        for name in [
            "models",
            "Models",
            "model\u{17F}",
            "fallbac\u{212A}s",
            "lora",
        ] {
            let FieldClass::Listed(field) = FieldClass::of(name) else {
                panic!("{name} is not listed");
            };
            let ambiguity = |value, extra_fields| {
                let mut findings = Findings::default();
                findings.add_listed(field, value, extra_fields);
                findings.ambiguity
            };
            let extra = Some(Ambiguity::ExtraField(field.field().name));
            use ExtraModelFields::{Allowed, Refused};
            assert_eq!(ambiguity(MemberValue::Other, Refused), extra, "{name}");
            assert_eq!(ambiguity(MemberValue::Other, Allowed), None, "{name}");
            for nothing in [MemberValue::Null, MemberValue::False, MemberValue::Empty] {
                assert_eq!(ambiguity(nothing, Refused), None, "{name}");
            }
        }
    }

    #[test]
    fn an_ambiguity_is_reported_before_a_missing_model() {
        let mut findings = Findings::default();
        findings.add_model(Model::NotText, 0..0);
        findings.add_model(Model::Named("good".into()), 0..0);
        assert_eq!(
            findings.into_model(),
            Err(ModelError::Ambiguous(Ambiguity::Twice))
        );
        assert_eq!(Findings::default().into_model(), Err(ModelError::Missing));
    }
}
