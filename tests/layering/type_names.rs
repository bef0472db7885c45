//! One type name, one type: a struct, enum, union, trait or type alias is defined once in the crate.
//!
//! A private `View` or `Builder` is allowed in every file: each is known by its file alone. Associated types and types
//! inside a function do not count.

use std::collections::BTreeMap;

use crate::source::{SourceFile, is_name, words};

/// Names that a file may define for itself.
const PRIVATE_EVERYWHERE: [&str; 2] = ["View", "Builder"];

/// Every name that is defined more than once, with the files that define it.
pub(crate) fn defined_twice(files: &[SourceFile]) -> Vec<String> {
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        for name in definitions_in(&file.code) {
            let places = definitions.entry(name).or_default();
            places.push(file.path.display().to_string());
        }
    }
    definitions
        .into_iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(name, places)| format!("{name} is defined in {}", places.join(", ")))
        .collect()
}

fn definitions_in(code: &str) -> Vec<String> {
    let words = words(code);
    let mut depth = 0;
    let mut names = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        match pair[0] {
            "{" => depth += 1,
            "}" => depth -= 1,
            "struct" | "enum" | "union" | "trait" | "type" if depth == 0 && is_name(pair[1]) => {
                let is_private = at == 0 || !matches!(words[at - 1], "pub" | ")");
                if !(is_private && PRIVATE_EVERYWHERE.contains(&pair[1])) {
                    names.push(pair[1].to_owned());
                }
            }
            _ => {}
        }
    }
    names
}

mod tests {
    use super::defined_twice;
    use crate::source::SourceFile;
    use std::path::Path;

    fn count(one: &str, other: &str) -> usize {
        let file = |path, text| SourceFile::new(Path::new(path), text);
        defined_twice(&[file("a/x.rs", one), file("b/y.rs", other)]).len()
    }

    #[test]
    fn finds_a_name_that_is_defined_twice_whatever_it_is() {
        assert_eq!(count("struct A;", "pub(crate) enum A {}"), 1);
        assert_eq!(count("pub trait A {}", "pub type A = u8;"), 1);
        assert_eq!(count("pub struct View;", "struct View;"), 0);
        assert_eq!(count("pub struct View;", "pub(super) struct View;"), 1);
        assert_eq!(count("struct A; struct A;", ""), 1);
    }

    #[test]
    fn private_views_tests_and_associated_types_do_not_count() {
        assert_eq!(count("#[derive(X)] struct View;", "struct View;"), 0);
        assert_eq!(count("struct Builder;", "struct Builder;"), 0);
        assert_eq!(
            count("struct A;", "#[cfg(test)]\nmod tests { struct A; }"),
            0
        );
        assert_eq!(
            count(
                "impl B for C { type A = u8; }",
                "impl B for D { type A = u8; }"
            ),
            0
        );
        assert_eq!(count("fn f() { struct A; }", "fn g() { struct A; }"), 0);
    }
}
