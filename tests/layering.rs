//! The floors of the house (see `src/lib.rs`): a file uses what stands on a lower floor or in its own folder, nothing
//! above. The compiler does not mind an upward `use`, so this test does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and says where"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Every folder or file right below `src/`, and its floor; a room may also use those of its own floor that stand before it.
const FLOORS: [(&str, u8); 14] = [
    ("policy", 0),
    ("table", 1),
    ("runtime", 1),
    ("store", 2),
    ("observe", 2),
    ("net", 2),
    ("http", 3),
    ("request_body", 3),
    ("upstream", 3),
    ("gateway", 4),
    ("admin", 5),
    ("cli", 6),
    ("main", 6),
    ("lib", 6),
];

/// What the pure floors, 0 and 1, must not know: HTTP, the runtime, files, the environment, the clock, logs, metrics.
const IMPURE: [&str; 18] = [
    "hyper",
    "hyper_util",
    "http",
    "http_body",
    "tokio",
    "std::fs",
    "std::net::TcpStream",
    "std::env",
    "std::io",
    "std::process",
    "SystemTime",
    "Instant",
    "tracing",
    "log",
    "prometheus",
    "println",
    "eprintln",
    "rustix",
];

fn floor(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(known, _)| *known == room)
        .map(|(_, floor)| *floor)
}

/// Whether a room stands before another in the list.
fn stands_before(room: &str, other: &str) -> bool {
    let place = |wanted: &str| FLOORS.iter().position(|(known, _)| *known == wanted);
    place(room) < place(other)
}

/// The room a file belongs to: the folder or file right below `src/`.
fn room(path: &Path) -> String {
    let first = path.components().next().expect("a file below src");
    Path::new(&first)
        .file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

/// All that is wrong with one file; `path` is relative to `src/`.
fn faults(path: &Path, source: &str) -> Vec<String> {
    let own = room(path);
    let Some(own_floor) = floor(&own) else {
        return vec![format!(
            "{own} stands on no floor: give it one in this test"
        )];
    };
    let code = without_tests(&without_comments_and_strings(source));
    let mut faults = Vec::new();
    for used in rooms_used(&code) {
        if used == own {
            continue;
        }
        match floor(&used) {
            Some(floor) if floor < own_floor => {}
            Some(floor) if floor == own_floor && stands_before(&used, &own) => {}
            // main.rs and lib.rs open the door to the rooms of their own floor.
            Some(6) if own == "main" => {}
            Some(floor) => faults.push(format!(
                "{own} (floor {own_floor}) uses {used} (floor {floor})"
            )),
            None => faults.push(format!(
                "{own} uses crate::{used}, which stands on no floor"
            )),
        }
        if own == "admin" && used == "gateway" {
            faults.push("admin uses gateway".to_owned());
        }
    }
    for line in climbs(path, &code) {
        faults.push(format!("climbs out of its folder: {line}"));
    }
    if own == "lib" && words(&code).windows(2).any(|pair| pair == ["pub", "use"]) {
        faults.push("lib.rs re-exports: rooms are entered by their own doors".to_owned());
    }
    if own_floor == 0 || own == "table" {
        for word in IMPURE {
            if mentions(&code, word) {
                faults.push(format!("floor {own_floor} must not know {word}"));
            }
        }
    }
    faults
}

/// Names, `::`, and single signs, in order.
fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphanumeric() || first == '_' {
            rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_')
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

/// The first names behind `crate::` or, in the binary, `keygate::`, one by one or in braces.
fn rooms_used(code: &str) -> Vec<String> {
    let words = words(code);
    let mut rooms = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        if !matches!(pair, ["crate" | "keygate", "::"]) {
            continue;
        }
        if at > 0 && words[at - 1] == "::" {
            continue;
        }
        match words.get(at + 2) {
            Some(&"{") => rooms.extend(first_names(&words[at + 3..])),
            Some(name) => rooms.push((*name).to_owned()),
            None => {}
        }
    }
    rooms.sort();
    rooms.dedup();
    rooms
}

/// The names that begin each entry of a `{…}` whose opening brace was just read.
fn first_names(words: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 1;
    let mut begins = true;
    for word in words {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => {
                begins = true;
                continue;
            }
            name if begins && depth == 1 => names.push(name.to_owned()),
            _ => {}
        }
        begins = false;
        if depth == 0 {
            break;
        }
    }
    names
}

/// Each `super` that leads above the file's own folder.
fn climbs(path: &Path, code: &str) -> Vec<String> {
    // How many `super`s stay inside the room: none in src/x.rs or src/x/mod.rs, one in src/x/y.rs, and so on.
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let allowed = path.components().count() - 1 - usize::from(is_mod);
    let words = words(code);
    let mut climbs = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if *word != "super" || (at > 1 && words[at - 2] == "super") {
            continue;
        }
        let mut count = 0;
        while words.get(at + 2 * count) == Some(&"super")
            && words.get(at + 2 * count + 1) == Some(&"::")
        {
            count += 1;
        }
        // `pub(super)` shows a thing to the folder; it takes nothing.
        if count > allowed.min(1) {
            climbs.push(words[at..words.len().min(at + 2 * count + 1)].concat());
        }
    }
    climbs
}

/// Whether a path or a name stands in the code as a whole.
fn mentions(code: &str, path: &str) -> bool {
    let code = words(code);
    let path = words(path);
    // `http` the crate is written `http::`; a local called http would be another thing, and so would `x::http`.
    let is_crate = path.len() == 1
        && path[0]
            .chars()
            .all(|sign| sign.is_lowercase() || sign == '_');
    code.windows(path.len()).enumerate().any(|(at, window)| {
        if window != path {
            return false;
        }
        let before = at.checked_sub(1).map(|before| code[before]);
        let after = code.get(at + path.len()).copied();
        if is_crate {
            before != Some("::") && before != Some(".") && matches!(after, Some("::" | "!"))
                || before == Some("use")
        } else {
            true
        }
    })
}

/// The source with comments, strings and character literals blanked out.
fn without_comments_and_strings(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(length) = raw_string(rest)
            .or_else(|| string(rest))
            .or_else(|| character(rest))
        {
            code.push_str("\"\"");
            at += length;
        } else {
            let sign = rest.chars().next().expect("more source");
            code.push(sign);
            at += sign.len_utf8();
        }
    }
    code
}

fn raw_string(rest: &str) -> Option<usize> {
    let open = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes = open.len() - open.trim_start_matches('#').len();
    open[hashes..].strip_prefix('"')?;
    let begin = rest.len() - open.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    rest[begin..]
        .find(&close)
        .map(|end| begin + end + close.len())
}

fn string(rest: &str) -> Option<usize> {
    let mut signs = rest.char_indices();
    if signs.next()?.1 != '"' {
        return None;
    }
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\\' => drop(signs.next()),
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// A character literal, which a lifetime is not.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let length = if inner.starts_with('\\') {
        2 + inner[2..].find('\'')?
    } else {
        inner.chars().next()?.len_utf8()
    };
    inner[length..].starts_with('\'').then_some(length + 2)
}

/// The code without what is compiled for tests alone.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        // The item ends at its closing brace, or at a semicolon where it has none.
        let brace = item.find('{').unwrap_or(item.len());
        let semicolon = item.find(';').unwrap_or(item.len());
        if semicolon < brace {
            rest = &item[semicolon + 1..];
            continue;
        }
        let mut depth = 0;
        let end = item[brace..].char_indices().find_map(|(at, sign)| {
            match sign {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(brace + at + 1)
        });
        rest = &item[end.unwrap_or(item.len())..];
    }
    kept.push_str(rest);
    kept
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

#[test]
fn no_file_uses_a_floor_above_its_own() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 10, "the sources are elsewhere");
    let mut report = String::new();
    for file in files {
        let path = file.strip_prefix(&source).expect("below src");
        // Whole files of tests answer to nobody.
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("source text");
        for fault in faults(path, &text) {
            let _ = writeln!(report, "  src/{}: {fault}", path.display());
        }
    }
    assert!(report.is_empty(), "the floors are broken:\n{report}");
}

mod the_check_itself {
    use super::faults;
    use std::path::Path;

    #[track_caller]
    fn breaks(path: &str, source: &str) {
        assert!(
            !faults(Path::new(path), source).is_empty(),
            "{path}: {source}"
        );
    }

    #[track_caller]
    fn holds(path: &str, source: &str) {
        let faults = faults(Path::new(path), source);
        assert!(faults.is_empty(), "{path}: {source}: {faults:?}");
    }

    #[test]
    fn finds_upward_uses_however_they_are_written() {
        breaks("policy/key.rs", "use crate::table::Table;");
        breaks("store/mod.rs", "use crate::{policy::Key, gateway};");
        breaks(
            "store/mod.rs",
            "use crate::{policy::{Key, Rule}, gateway::{self}};",
        );
        breaks("http/tls.rs", "fn f() { crate :: admin::serve() }");
        breaks("admin/mod.rs", "use crate::gateway::InFlight;");
        breaks("gateway/mod.rs", "use crate::admin::Api;");
        breaks("elsewhere/mod.rs", "");
        holds(
            "gateway/request.rs",
            "use crate::{http::body, policy::Key};\nuse crate::gateway::x;",
        );
        holds("main.rs", "use keygate::cli;");
        holds("cli/mod.rs", "use keygate::{admin, gateway};");
    }

    #[test]
    fn lets_comments_strings_and_tests_speak_of_anything() {
        holds(
            "policy/key.rs",
            "//! See crate::gateway.\nconst A: &str = \"crate::admin\";",
        );
        holds(
            "policy/key.rs",
            "const A: &str = r#\"a \" crate::admin\"#; const B: char = '\"';",
        );
        holds(
            "policy/key.rs",
            "fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::gateway::X; fn g() {} }",
        );
        breaks(
            "policy/key.rs",
            "#[cfg(test)]\nmod tests { fn g() {} }\nuse crate::gateway::X;",
        );
    }

    #[test]
    fn finds_climbing_super_paths() {
        breaks("policy/key.rs", "use super::super::table::Table;");
        breaks("policy/mod.rs", "use super::table::Table;");
        breaks("main.rs", "use super::x;");
        holds(
            "policy/key.rs",
            "use super::denial::Denial;\npub(super) fn f() {}",
        );
        holds("policy/mod.rs", "pub(super) fn f() {}");
        holds(
            "policy/key.rs",
            "#[cfg(test)]\nmod tests { use super::super::x; use super::*; }",
        );
    }

    #[test]
    fn finds_root_re_exports() {
        breaks("lib.rs", "pub mod policy;\npub use policy::Key;");
        holds("lib.rs", "//! pub use nothing.\npub mod policy;");
    }

    #[test]
    fn finds_the_impure_on_the_pure_floors() {
        breaks("policy/time.rs", "use std::time::SystemTime;");
        breaks("table/mod.rs", "let now = std::time::Instant::now();");
        breaks("policy/route.rs", "fn f(method: &http::Method) {}");
        breaks("table/mod.rs", "use tokio::sync::Mutex;");
        breaks("table/mod.rs", "use hyper;");
        breaks("table/mod.rs", "fn f() { std::fs::read(x) }");
        holds("table/mod.rs", "fn f(log: u8) -> u8 { log + self.http }");
        holds("store/keys.rs", "use std::fs;");
    }
}
