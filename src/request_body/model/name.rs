//! Classifies field names as the model, similar to it, or other, and collects what a body says about its model.
//!
//! Parsers differ in which names they accept as `model`: Go folds case, PHP cuts at a bracket, and some form parsers
//! unescape names. So only the exact name is accepted, and any name that a parser could take for it is refused.

use std::borrow::Cow;
use std::fmt;

/// The name of the model's field.
pub(crate) const MODEL: &str = "model";
/// Fields in which some upstreams accept further models.
const EXTRA_MODEL_FIELDS: [&str; 3] = ["models", "fallbacks", "lora_path"];
/// The longest name that folds to one of these names, in bytes: `fallbacks` with a Kelvin sign and a long s has 12.
pub(crate) const MAX_NAME_LENGTH: usize = 12;

/// Whether `models`, `fallbacks` and `lora_path` are allowed next to `model`.
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
    Refused(Ambiguity),
    Other,
}

impl FieldClass {
    /// Classifies the decoded name of a field.
    pub(crate) fn of(name: &str, extra_fields: ExtraModelFields) -> Self {
        if name == MODEL {
            return Self::Model;
        }
        if !(MODEL.len()..=MAX_NAME_LENGTH).contains(&name.len()) {
            return Self::Other;
        }
        if folds_to(name, MODEL) {
            return Self::Refused(Ambiguity::LikeModel);
        }
        match extra_fields {
            ExtraModelFields::Allowed => Self::Other,
            ExtraModelFields::Refused => EXTRA_MODEL_FIELDS
                .into_iter()
                .find(|field| folds_to(name, field))
                .map_or(Self::Other, |field| {
                    Self::Refused(Ambiguity::ExtraField(field))
                }),
        }
    }
}

/// Whether `name` is equal to `plain`, which is lower-case ASCII, under simple case folding. Two non-ASCII characters
/// fold to ASCII, and Go's encoding/json accepts both.
fn folds_to(name: &str, plain: &str) -> bool {
    let folded = name.chars().map(|character| match character {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(plain.chars())
}

/// What a body says about its model. Only the first ambiguity is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings<'b> {
    model: Option<Model<'b>>,
    ambiguity: Option<Ambiguity>,
}

/// The value of a field `model`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Model<'b> {
    Named(Cow<'b, str>),
    NotText,
}

impl<'b> Findings<'b> {
    pub(crate) fn add_model(&mut self, model: Model<'b>) {
        if self.model.is_some() {
            self.add_ambiguity(Ambiguity::Twice);
        }
        self.model = Some(model);
    }

    pub(crate) fn add_ambiguity(&mut self, ambiguity: Ambiguity) {
        self.ambiguity.get_or_insert(ambiguity);
    }

    /// Returns the model. An ambiguity is reported before a missing model.
    pub(crate) fn into_model(self) -> Result<Cow<'b, str>, ModelError> {
        if let Some(ambiguity) = self.ambiguity {
            return Err(ModelError::Ambiguous(ambiguity));
        }
        match self.model {
            Some(Model::Named(name)) if !name.is_empty() => Ok(name),
            Some(Model::Named(_) | Model::NotText) | None => Err(ModelError::Missing),
        }
    }
}

/// Why a valid body names no single model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelError {
    Ambiguous(Ambiguity),
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_is_the_model() {
        assert_eq!(
            FieldClass::of("model", ExtraModelFields::Refused),
            FieldClass::Model
        );
        for name in ["Model", "MODEL", "moDeL"] {
            assert_eq!(
                FieldClass::of(name, ExtraModelFields::Allowed),
                FieldClass::Refused(Ambiguity::LikeModel),
                "{name}"
            );
        }
        for name in [
            "", "mode", "models", "model ", "model\0", "mödel", "ｍodel", "messages",
        ] {
            assert_eq!(
                FieldClass::of(name, ExtraModelFields::Allowed),
                FieldClass::Other,
                "{name:?}"
            );
        }
    }

    #[test]
    fn extra_fields_are_refused_as_go_folds_them_and_only_for_restricted_keys() {
        for (name, field) in [
            ("models", "models"),
            ("Models", "models"),
            ("model\u{17F}", "models"),
            ("fallbacks", "fallbacks"),
            ("FALLBACKS", "fallbacks"),
            ("fallbac\u{212A}\u{17F}", "fallbacks"),
            ("lora_path", "lora_path"),
            ("Lora_Path", "lora_path"),
        ] {
            let refused = FieldClass::Refused(Ambiguity::ExtraField(field));
            assert_eq!(
                FieldClass::of(name, ExtraModelFields::Refused),
                refused,
                "{name}"
            );
            assert_eq!(
                FieldClass::of(name, ExtraModelFields::Allowed),
                FieldClass::Other,
                "{name}"
            );
        }
        for name in ["lora_paths", "fallback", "lora-path", "modelss"] {
            assert_eq!(
                FieldClass::of(name, ExtraModelFields::Refused),
                FieldClass::Other,
                "{name}"
            );
        }
    }

    #[test]
    fn every_character_that_folds_into_a_refused_name_is_folded() {
        for letter in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let lower: String = letter.to_lowercase().collect();
            let through_upper: String =
                letter.to_uppercase().flat_map(char::to_lowercase).collect();
            for (name, folded) in [
                ("modelsfabckr_pth", lower),
                ("modelsfabckr_pth", through_upper),
            ] {
                let mut characters = folded.chars();
                if let (Some(one), None) = (characters.next(), characters.next())
                    && name.contains(one)
                {
                    assert!(
                        folds_to(&letter.to_string(), &one.to_string()),
                        "{letter:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_ambiguity_is_reported_before_a_missing_model() {
        let mut findings = Findings::default();
        findings.add_model(Model::NotText);
        findings.add_model(Model::Named("good".into()));
        assert_eq!(
            findings.into_model(),
            Err(ModelError::Ambiguous(Ambiguity::Twice))
        );
        assert_eq!(Findings::default().into_model(), Err(ModelError::Missing));
    }
}
