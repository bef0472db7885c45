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
pub struct ModelList(Arc<SharedNames>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct SharedNames {
    in_order: Box<[Box<str>]>,
    /// The places in `in_order`, sorted by name; empty for a list that is short enough to be read through.
    sorted: Box<[u32]>,
}

/// The longest list that is read through. A longer one is searched, since a list of models asks for each of them.
const MAX_READ_THROUGH: usize = 16;

impl ModelList {
    /// None if the list is empty or contains an empty name.
    #[must_use]
    pub fn new(names: Vec<String>) -> Option<Self> {
        if names.is_empty() || names.iter().any(String::is_empty) {
            return None;
        }
        let in_order: Box<[Box<str>]> = names.into_iter().map(String::into_boxed_str).collect();
        let mut sorted = Vec::new();
        if in_order.len() > MAX_READ_THROUGH {
            sorted.extend(0..u32::try_from(in_order.len()).ok()?);
            sorted.sort_unstable_by_key(|place| &in_order[*place as usize]);
        }
        let sorted = sorted.into_boxed_slice();
        Some(Self(Arc::new(SharedNames { in_order, sorted })))
    }

    /// The names in their original order.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.0.in_order
    }

    fn contains(&self, model: &str) -> bool {
        let SharedNames { in_order, sorted } = &*self.0;
        if sorted.is_empty() {
            return in_order.iter().any(|name| **name == *model);
        }
        let name = |place: &u32| &*in_order[*place as usize];
        sorted
            .binary_search_by(|place| name(place).cmp(model))
            .is_ok()
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
    fn a_list_of_any_length_holds_its_names_and_no_other() {
        for length in [1, 15, 16, 17, 18, 500] {
            // Out of order, and the first one twice.
            let mut names: Vec<String> =
                (0..length).map(|at| format!("m{}", at * 7 % 501)).collect();
            names.push(names[0].clone());
            let list = ModelList::new(names.clone()).unwrap();
            assert!(list.names().iter().map(|name| &**name).eq(names.iter()));
            for number in 0..502 {
                let name = format!("m{number}");
                assert_eq!(
                    list.contains(&name),
                    names.contains(&name),
                    "{length} {name}"
                );
            }
            assert!(!list.contains("") && !list.contains("m") && !list.contains("n"));
        }
    }

    #[test]
    fn an_empty_list_is_no_list() {
        assert_eq!(ModelList::new(vec![]), None);
        assert_eq!(ModelList::new(vec!["good".into(), String::new()]), None);
    }
}
