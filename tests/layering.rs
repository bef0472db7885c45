//! How the code hangs together, where the compiler accepts anything:
//!
//! - a file uses what stands on a lower floor (see `src/lib.rs`) or in its own folder, nothing above;
//! - inside a folder there are no circles (`layering/circles.rs` says what counts);
//! - outside tests a path begins with `crate::`, never with `super::` (`pub(super)` is fine);
//! - a type name is defined once in the crate (`layering/type_names.rs` says what counts).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and says where"
)]

use std::fmt::Write as _;
use std::path::Path;

use circles::circles;
use source::{SourceFile, crate_paths, source_files, words};
use type_names::defined_twice;

#[path = "layering/circles.rs"]
mod circles;
#[path = "layering/source.rs"]
mod source;
#[path = "layering/type_names.rs"]
mod type_names;

/// Every folder or file right below `src/`, and its floor; a room may also use those of its own floor that stand before it.
const FLOORS: [(&str, u8); 17] = [
    ("policy", 0),
    ("table", 1),
    ("runtime", 1),
    ("store", 2),
    ("observe", 2),
    ("net", 2),
    ("http", 3),
    ("request_body", 3),
    ("upstream", 3),
    ("alerts", 3),
    ("mail", 3),
    ("oidc", 3),
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

/// All that is wrong with one file by itself.
fn faults(file: &SourceFile) -> Vec<String> {
    let own = file.room();
    let Some(own_floor) = floor(&own) else {
        return vec![format!(
            "{own} stands on no floor: give it one in this test"
        )];
    };
    let mut faults = Vec::new();
    let mut used: Vec<String> = crate_paths(&file.code)
        .into_iter()
        .filter_map(|path| path.into_iter().next())
        .collect();
    used.dedup();
    for used in used {
        if used == own {
            continue;
        }
        match floor(&used) {
            Some(floor) if floor < own_floor => {}
            Some(floor) if floor == own_floor && stands_before(&used, &own) => {}
            // main.rs and lib.rs declare the rooms of their own floor.
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
    let words = words(&file.code);
    if words.windows(2).any(|pair| pair == ["super", "::"]) {
        faults.push("uses super::, write crate:: and the whole path".to_owned());
    }
    if own == "lib" && words.windows(2).any(|pair| pair == ["pub", "use"]) {
        faults.push("lib.rs re-exports: write the path of the room itself".to_owned());
    }
    if own_floor == 0 || own == "table" {
        for word in IMPURE {
            if mentions(&file.code, word) {
                faults.push(format!("floor {own_floor} must not know {word}"));
            }
        }
    }
    faults
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

#[test]
fn every_file_keeps_to_its_floor() {
    let mut report = String::new();
    for file in sources() {
        for fault in faults(&file) {
            let _ = writeln!(report, "  src/{}: {fault}", file.path.display());
        }
    }
    assert!(report.is_empty(), "the floors are broken:\n{report}");
}

#[test]
fn no_room_has_a_circle_inside() {
    let circles = circles(&sources());
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn a_type_name_is_defined_once() {
    let twice = defined_twice(&sources());
    assert!(twice.is_empty(), "{}", twice.join("\n"));
}

fn sources() -> Vec<SourceFile> {
    let files = source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.len() > 10, "the sources are elsewhere");
    files
}

mod the_check_itself {
    use super::faults;
    use crate::source::SourceFile;
    use std::path::Path;

    #[track_caller]
    fn breaks(path: &str, source: &str) {
        assert!(
            !faults(&SourceFile::new(Path::new(path), source)).is_empty(),
            "{path}: {source}"
        );
    }

    #[track_caller]
    fn holds(path: &str, source: &str) {
        let faults = faults(&SourceFile::new(Path::new(path), source));
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
    fn finds_super_outside_tests() {
        breaks("policy/key.rs", "use super::denial::Denial;");
        breaks("policy/key.rs", "use super::super::table::Table;");
        breaks("policy/mod.rs", "fn f() { super :: g() }");
        breaks("main.rs", "use super::x;");
        holds("policy/key.rs", "pub(super) fn f() {}");
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
