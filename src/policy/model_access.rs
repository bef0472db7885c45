//! Which models a key may use: all, only these, or all but these.

use std::sync::Arc;

/// A key's model access. Every mode is written out: there is no default and no list that means everything.
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
    /// Whether the key may use the model of exactly this name. That the name is in the catalogue is asked elsewhere.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        match self {
            Self::All => true,
            Self::Inclusive(models) => models.contains(model),
            Self::Exclusive(models) => !models.contains(model),
        }
    }

    /// Whether every model is allowed, so that no list has to be held against other names in a request.
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

    /// The listed models, in the order they were given; empty for *all*.
    #[must_use]
    pub fn models(&self) -> &[Box<str>] {
        match self {
            Self::All => &[],
            Self::Inclusive(models) | Self::Exclusive(models) => models.names(),
        }
    }
}

/// Model names, at least one. Keys with the same list share it, so that a million keys with one list cost one list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelList(Arc<[Box<str>]>);

impl ModelList {
    /// None where the list is empty or holds an empty name.
    #[must_use]
    pub fn new(names: Vec<String>) -> Option<Self> {
        let usable = !names.is_empty() && names.iter().all(|name| !name.is_empty());
        usable.then(|| Self(names.into_iter().map(String::into_boxed_str).collect()))
    }

    /// The names, in the order they were given.
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
    fn an_empty_list_is_no_list() {
        assert_eq!(ModelList::new(vec![]), None);
        assert_eq!(ModelList::new(vec!["good".into(), String::new()]), None);
    }
}
