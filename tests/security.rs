//! `doc/attacks.md` and SECURITY.md are true: every test that the table of attacks names exists, every row names a test or
//! says why there is none, and what SECURITY.md says of the build is so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and says where"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// One row of the table: its id, and the tests it names.
struct Line<'t> {
    letter: char,
    number: usize,
    proof: &'t str,
}

fn lines(page: &str) -> Vec<Line<'_>> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            let id = cells.next()?;
            let letter = id.chars().next().filter(char::is_ascii_uppercase)?;
            let number = id[1..].parse().ok()?;
            let (_what, proof) = (cells.next()?, cells.next()?);
            assert!(cells.next().is_none(), "{id}: a cell too many");
            Some(Line {
                letter,
                number,
                proof,
            })
        })
        .collect()
}

/// What stands between backquotes.
fn quoted(proof: &str) -> Vec<&str> {
    proof.split('`').skip(1).step_by(2).collect()
}

/// Whether a test of this name stands in the file, in the language of the file.
fn is_test(file: &str, source: &str, name: &str) -> bool {
    let heads: Vec<String> = match file.rsplit('.').next() {
        Some("rs") => vec![format!("fn {name}(")],
        Some("py") => vec![format!("def {name}(")],
        _ => vec![format!("test(\"{name}\""), format!("test('{name}'")],
    };
    let lines: Vec<&str> = source.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let is_here = heads.iter().any(|head| {
            line.trim_start()
                .trim_start_matches("async ")
                .starts_with(head.as_str())
        });
        // A function in Rust is a test where one of its attributes says so, or where the list of those says so that are
        // tests of both kinds of database.
        let is_marked = !file.ends_with(".rs")
            || is_on_both(&lines, name)
            || lines[..at]
                .iter()
                .rev()
                .map(|line| line.trim_start())
                .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
                .any(|line| line == "#[test]" || line.starts_with("#[tokio::test"));
        is_here && is_marked
    })
}

/// Whether a function is in the list of `on_both! { … }`, which makes tests of it.
fn is_on_both(lines: &[&str], name: &str) -> bool {
    let mut listed = lines
        .iter()
        .skip_while(|line| **line != "on_both! {")
        .take_while(|line| **line != "}");
    listed.any(|line| line.trim().strip_suffix(',') == Some(name))
}

/// All that is wrong with a page like `doc/attacks.md`; `source` reads the files that it names.
fn faults(page: &str, source: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut last: BTreeMap<char, usize> = BTreeMap::new();
    for Line {
        letter,
        number,
        proof,
    } in lines(page)
    {
        let before = last.insert(letter, number).unwrap_or(0);
        if number != before + 1 {
            faults.push(format!("{letter}{number} follows {letter}{before}"));
        }
        let names = quoted(proof);
        let is_said = ["Open: ", "Does not apply: "]
            .iter()
            .any(|word| proof.contains(word));
        if names.is_empty() && !is_said {
            faults.push(format!("{letter}{number} names no test and says nothing"));
        }
        for reference in names {
            let (file, name) = reference.split_once("::").unwrap_or((reference, ""));
            match source(file) {
                None => faults.push(format!("{letter}{number}: there is no {file}")),
                Some(_) if name.is_empty() => {}
                Some(text) if is_test(file, &text, name) => {}
                Some(_) => faults.push(format!("{letter}{number}: {file} has no test {name}")),
            }
        }
    }
    faults
}

#[test]
fn every_test_that_the_table_of_attacks_names_exists() {
    let page = text("doc/attacks.md");
    assert!(lines(&page).len() > 150, "the table is elsewhere");
    let mut report = String::new();
    for fault in faults(&page, |file| fs::read_to_string(root().join(file)).ok()) {
        let _ = writeln!(report, "  {fault}");
    }
    assert!(report.is_empty(), "doc/attacks.md:\n{report}");
}

#[test]
fn a_page_that_is_wrong_is_found_out() {
    let source = |file: &str| match file {
        "a.rs" => Some(
            "#[test]\nfn holds() {}\n\n#[tokio::test]\nasync fn waits() {}\n\nfn helper() {}\n\n\
             on_both! {\n    both,\n}\n\nfn both(fixture: &Fixture) {}\n"
                .to_owned(),
        ),
        "b.py" => Some("def test_it():\n    pass\n".to_owned()),
        "c.mjs" => Some("test(\"it is so\", () => {});\n".to_owned()),
        "d" => Some(String::new()),
        _ => None,
    };
    let right = "| A1 | x | `a.rs::holds`, `a.rs::waits`, `a.rs::both`, `b.py::test_it`, `c.mjs::it is so`, `d` |\n\
                 | A2 | x | Open: why |\n| B1 | x | Does not apply: why; `a.rs::holds` |\n";
    assert_eq!(faults(right, source), [""; 0]);
    for wrong in [
        "| A1 | x | `a.rs::gone` |",
        "| A1 | x | `a.rs::helper` |",
        "| A1 | x | `a.rs::hold` |",
        "| A1 | x | `b.py::test_i` |",
        "| A1 | x | `c.mjs::it was so` |",
        "| A1 | x | `e.rs::holds` |",
        "| A1 | x | nothing |",
        "| A2 | x | `a.rs::holds` |",
        "| A1 | x | `d` |\n| A3 | x | `d` |",
        "| A1 | x | `d` |\n| A1 | x | `d` |",
    ] {
        assert!(!faults(wrong, source).is_empty(), "{wrong}");
    }
}

#[test]
fn libraries_stand_at_or_above_the_versions_that_mended_known_holes() {
    let lock = text("Cargo.lock");
    let numbers = |version: &str| -> Vec<u64> {
        let plain = version.split(['+', '-']).next().unwrap_or_default();
        plain.split('.').map(|part| part.parse().unwrap()).collect()
    };
    for (name, floor) in [
        // Framing: both a length and an encoding, buffers larger than asked for.
        ("hyper", "1.11.0"),
        // Floods of resets, also of the server's own, and of CONTINUATION.
        ("h2", "0.4.18"),
        // A panic in the acceptor.
        ("rustls", "0.23.18"),
        // Names and revocations checked wrongly.
        ("rustls-webpki", "0.103.13"),
        // An overflow in the reserve of a buffer.
        ("bytes", "1.11.1"),
    ] {
        let version = lock
            .split_once(&format!("name = \"{name}\"\nversion = \""))
            .and_then(|(_, rest)| rest.split('"').next())
            .unwrap_or_else(|| panic!("{name} is not locked"));
        assert!(
            numbers(version) >= numbers(floor),
            "{name} {version} is older than {floor}"
        );
    }
}

#[test]
fn the_build_keeps_what_the_security_page_says_of_it() {
    let manifest = text("Cargo.toml");
    let (_, release) = manifest
        .split_once("[profile.release]\n")
        .expect("a release profile");
    for line in ["overflow-checks = true", "panic = \"unwind\""] {
        assert!(
            release.contains(line),
            "{line} is not in the release profile"
        );
    }
    for line in [
        "unsafe_code = \"forbid\"",
        "unwrap_used = \"deny\"",
        "expect_used = \"deny\"",
        "panic = \"deny\"",
    ] {
        assert!(manifest.contains(line), "{line} is no lint");
    }
    // Every place that sets one of the lints aside says why, and none of them is on a request's path.
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for lint in ["unwrap_used", "expect_used", "clippy::panic"] {
            let is_tests = file.file_name().is_some_and(|name| name == "tests.rs");
            assert!(
                is_tests || !code.contains(lint),
                "{} sets {lint} aside",
                file.display()
            );
        }
    }
    // Nothing is fetched or made while it is built: there is no build script.
    assert!(!root().join("build.rs").exists() && !manifest.contains("\nbuild = "));
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
