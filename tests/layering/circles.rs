//! Circles inside a room: a file that uses a file that uses it, directly or through others.
//!
//! What counts: a file `x.rs` and its folder `x/`, or `x/mod.rs` and the files beside it, are a parent and its children.
//! Seen from outside they are one unit, so what any of them uses, the unit uses. Inside, a child may use what its parent
//! defines, and the parent may use its children: neither makes a circle. The children among each other are held to the
//! same rule, on every level. A name that the parent only imports or re-exports counts as a use of the file that it
//! comes from.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{SourceFile, crate_paths, is_name, words};

type Module = Vec<String>;

/// Every circle among these files, as the names of its units.
pub(crate) fn circles(files: &[SourceFile]) -> Vec<String> {
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    let modules: BTreeSet<Module> = files.iter().map(SourceFile::module).collect();
    let imports: BTreeMap<Module, Vec<(String, Module)>> = files
        .iter()
        .map(|file| (file.module(), imports(&file.code)))
        .collect();
    for file in files {
        let user = file.module();
        for path in crate_paths(&file.code) {
            let Some(used) = file_of(&path, &modules, &imports) else {
                continue;
            };
            // Where their ways part stand the two units; without a parting, one is the other's parent.
            let shared = user
                .iter()
                .zip(&used)
                .take_while(|(one, other)| one == other)
                .count();
            if shared > 0 && shared < user.len().min(used.len()) {
                uses.entry(user[..=shared].to_vec())
                    .or_default()
                    .insert(used[..=shared].to_vec());
            }
        }
    }
    found_in(&uses)
}

/// The file that a path leads to.
fn file_of(
    path: &[String],
    modules: &BTreeSet<Module>,
    imports: &BTreeMap<Module, Vec<(String, Module)>>,
) -> Option<Module> {
    let length = (1..=path.len())
        .rev()
        .find(|length| modules.contains(&path[..*length]))?;
    let module = &path[..length];
    let imported = path.get(length).and_then(|name| {
        let (_, from) = imports
            .get(module)?
            .iter()
            .find(|(known, _)| known == name)?;
        // An import leads to another file, so this ends where no two files import from each other.
        (!from.starts_with(path)).then_some(from)
    });
    match imported {
        Some(from) => {
            let length = (1..=from.len())
                .rev()
                .find(|length| modules.contains(&from[..*length]))?;
            Some(from[..length].to_vec())
        }
        None => Some(module.to_vec()),
    }
}

/// What a file imports from the crate: each name with its path.
fn imports(code: &str) -> Vec<(String, Module)> {
    let words = words(code);
    let mut imports = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if *word != "use" {
            continue;
        }
        let statement = words[at..].split(|word| *word == ";").next();
        let statement = statement.unwrap_or_default().join(" ");
        for path in crate_paths(&statement) {
            if let Some(name) = path.last().filter(|name| is_name(name)) {
                imports.push((name.clone(), path.clone()));
            }
        }
    }
    imports
}

/// Each circle once, from its first unit by name on.
fn found_in(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let mut circles = Vec::new();
    let mut reported = BTreeSet::new();
    for unit in uses.keys() {
        if reported.contains(unit) {
            continue;
        }
        if let Some(way) = way_back(unit, uses) {
            let names: Vec<String> = way.iter().map(|unit| unit.join("::")).collect();
            circles.push(format!("a circle: {}", names.join(" -> ")));
            reported.extend(way);
        }
    }
    circles
}

/// The shortest way from a unit back to itself.
fn way_back(unit: &Module, uses: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut ways = vec![vec![unit.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in uses.get(way.last()?).into_iter().flatten() {
                let mut way = way.clone();
                way.push(next.clone());
                if next == unit {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

mod tests {
    use super::circles;
    use crate::source::SourceFile;
    use std::path::Path;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile::new(Path::new(path), text))
            .collect();
        circles(&files)
    }

    #[test]
    fn finds_a_circle_of_two_and_of_more() {
        assert_eq!(
            found(&[
                ("r/a.rs", "use crate::r::b::B;"),
                ("r/b.rs", "fn f() { crate::r::a::f() }"),
            ]),
            ["a circle: r::a -> r::b -> r::a"]
        );
        assert_eq!(
            found(&[
                ("r/a.rs", "use crate::r::{b::B, d::D};"),
                ("r/b.rs", "use crate::r::c;"),
                ("r/c.rs", "use crate::{r::a, s::x};"),
                ("r/d.rs", ""),
            ])
            .len(),
            1
        );
    }

    #[test]
    fn a_straight_line_and_another_room_are_no_circle() {
        let straight = [
            ("r/a.rs", "use crate::r::b::B; use crate::r::c::C;"),
            ("r/b.rs", "use crate::r::c::C; use crate::s::x;"),
            ("r/c.rs", "#[cfg(test)]\nmod tests { use crate::r::a::A; }"),
        ];
        assert_eq!(found(&straight), [""; 0]);
    }

    #[test]
    fn a_parent_and_its_child_may_use_each_other() {
        for parent in ["r/mod.rs", "r.rs"] {
            let files = [
                (parent, "use crate::r::a::A; struct R;"),
                ("r/a.rs", "use crate::r::R;"),
            ];
            assert_eq!(found(&files), [""; 0]);
        }
    }

    #[test]
    fn a_folder_is_one_unit_with_its_parent() {
        assert_eq!(
            found(&[
                ("r/a.rs", ""),
                ("r/a/inner.rs", "use crate::r::b::B;"),
                ("r/b.rs", "use crate::r::a::A;"),
            ])
            .len(),
            1
        );
        assert_eq!(
            found(&[
                ("r/a/x.rs", "use crate::r::a::y;"),
                ("r/a/y.rs", "use crate::r::a::x;"),
            ]),
            ["a circle: r::a::x -> r::a::y -> r::a::x"]
        );
    }

    #[test]
    fn what_a_parent_re_exports_is_its_childs() {
        assert_eq!(
            found(&[
                ("r/mod.rs", "pub use crate::r::b::B;"),
                ("r/a.rs", "use crate::r::B;"),
                ("r/b.rs", "use crate::r::a::A;"),
            ]),
            ["a circle: r::a -> r::b -> r::a"]
        );
    }
}
