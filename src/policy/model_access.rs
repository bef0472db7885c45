//! Which models a key may use: all, only these, or all but these.

use std::sync::Arc;

/// The models that a key may use. Every mode is explicit: there is no default, and no list means "all".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelAccess {
    /// Every model of the catalogue.
    All,
    /// Only these.
    Inclusive(ModelList),
    /// Every model of the catalogue but these.
    Exclusive(ModelList),
}

impl ModelAccess {
    /// Whether the key may use the model with exactly this name. Whether the model exists is checked elsewhere.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        match self {
            Self::All => true,
            Self::Inclusive(models) => models.contains(model),
            Self::Exclusive(models) => !models.contains(model),
        }
    }

    /// Whether the key may use the model under this name, where the upstream knows it by another. A key that may not use
    /// a model must not reach it by an alias, so an exclusive list that holds either name refuses. An inclusive list
    /// allows what it names.
    #[must_use]
    pub fn allows_as(&self, model: &str, sent_as: Option<&str>) -> bool {
        self.allows(model)
            && match (self, sent_as) {
                (Self::Exclusive(models), Some(sent_as)) => !models.contains(sent_as),
                (Self::All | Self::Inclusive(_), _) | (_, None) => true,
            }
    }

    /// Whether every model is allowed. Then other names in a request need no check.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// The mode's name, as in the key file.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Inclusive(_) => "inclusive",
            Self::Exclusive(_) => "exclusive",
        }
    }

    /// The listed models in their original order; empty for *all*.
    #[must_use]
    pub fn models(&self) -> &[Box<str>] {
        match self {
            Self::All => &[],
            Self::Inclusive(models) | Self::Exclusive(models) => models.names(),
        }
    }
}

/// One or more model names. Keys with the same list share it, to save memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelList(Arc<[Box<str>]>);

impl ModelList {
    /// None if the list is empty or contains an empty name.
    #[must_use]
    pub fn new(names: Vec<String>) -> Option<Self> {
        let usable = !names.is_empty() && names.iter().all(|name| !name.is_empty());
        usable.then(|| Self(names.into_iter().map(String::into_boxed_str).collect()))
    }

    /// The names in their original order.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.0
    }

    fn contains(&self, model: &str) -> bool {
        self.0.iter().any(|name| **name == *model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> ModelList {
        ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn all_allows_every_name() {
        assert!(ModelAccess::All.allows("good"));
    }

    #[test]
    fn inclusive_allows_only_the_listed_names_byte_for_byte() {
        let access = ModelAccess::Inclusive(list(&["good", "org/model"]));
        assert!(access.allows("good") && access.allows("org/model"));
        for other in [
            "bad",
            "Good",
            "good ",
            "good:online",
            "good-2024-08-06",
            "good\0bad",
            "",
            "org/Model",
            "goo",
        ] {
            assert!(!access.allows(other), "{other:?}");
        }
    }

    #[test]
    fn exclusive_allows_every_name_but_the_listed() {
        let access = ModelAccess::Exclusive(list(&["bad"]));
        assert!(access.allows("good"));
        assert!(!access.allows("bad"));
    }

    #[test]
    fn an_alias_is_judged_by_its_name_and_an_exclusive_list_also_by_the_other() {
        assert!(ModelAccess::All.allows_as("alias", Some("good")));
        assert!(ModelAccess::Inclusive(list(&["alias"])).allows_as("alias", Some("good")));
        assert!(!ModelAccess::Inclusive(list(&["good"])).allows_as("alias", Some("good")));
        assert!(!ModelAccess::Exclusive(list(&["alias"])).allows_as("alias", Some("good")));
        assert!(!ModelAccess::Exclusive(list(&["good"])).allows_as("alias", Some("good")));
        assert!(ModelAccess::Exclusive(list(&["alias"])).allows_as("good", None));
    }

    #[test]
    fn an_empty_list_is_no_list() {
        assert_eq!(ModelList::new(vec![]), None);
        assert_eq!(ModelList::new(vec!["good".into(), String::new()]), None);
    }
}
