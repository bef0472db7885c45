//! Reads Rust source as far as the rules need it: files, words and paths, without comments, strings and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// One file below `src/`, without comments, strings and what is compiled for tests alone.
pub(crate) struct SourceFile {
    /// Relative to `src/`.
    pub(crate) path: PathBuf,
    /// What is left of its text.
    pub(crate) code: String,
}

impl SourceFile {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            code: without_tests(&without_comments_and_strings(text)),
        }
    }

    /// The module path, without `crate`: `src/a/mod.rs` and `src/a.rs` are `[a]`, `src/a/b.rs` is `[a, b]`.
    pub(crate) fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let mut module: Vec<String> = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        module
    }

    /// The folder or file right below `src/`.
    pub(crate) fn room(&self) -> String {
        self.module().swap_remove(0)
    }
}

/// Every file below this folder that is not compiled for tests alone.
pub(crate) fn source_files(source: &Path) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    rust_files(source, &mut paths);
    let mut files = Vec::new();
    let mut for_tests = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("source text");
        let file = SourceFile::new(path.strip_prefix(source).expect("below src"), &text);
        for name in test_modules(&without_comments_and_strings(&text)) {
            for_tests.push([file.module(), vec![name]].concat());
        }
        files.push(file);
    }
    files.retain(|file| {
        let module = file.module();
        !for_tests.iter().any(|tests| module.starts_with(tests))
    });
    files
}

/// The names of the modules that stand in files of their own and are compiled for tests alone.
fn test_modules(code: &str) -> Vec<String> {
    let words = words(code);
    let declaration = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    words
        .windows(declaration.len() + 2)
        .filter(|window| window.starts_with(&declaration) && window[9] == ";")
        .map(|window| window[8].to_owned())
        .collect()
}

/// Every path behind `crate::` or, in the binary, `keygate::`, without that word; braces are written out one by one.
/// An `as` is dropped, and `self` stands for what it follows.
pub(crate) fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let words = words(code);
    let mut paths = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let begins = at == 0 || words[at - 1] != "::";
        if begins && matches!(pair, ["crate" | "keygate", "::"]) {
            let mut rest = &words[at + 2..];
            read_path(&[], &mut rest, &mut paths);
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Reads a path, or a whole tree of them, off the front of `words`.
fn read_path(before: &[String], words: &mut &[&str], paths: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    while let [first, rest @ ..] = *words {
        match *first {
            "{" => {
                *words = rest;
                while !matches!(words.first(), None | Some(&"}")) {
                    read_path(&path, words, paths);
                    while !matches!(words.first(), None | Some(&("," | "}"))) {
                        *words = &words[1..];
                    }
                    if words.first() == Some(&",") {
                        *words = &words[1..];
                    }
                }
                *words = words.get(1..).unwrap_or_default();
                return;
            }
            "self" => *words = rest,
            name if is_name(name) => {
                path.push(name.to_owned());
                *words = rest;
            }
            _ => break,
        }
        match *words {
            ["::", rest @ ..] => *words = rest,
            _ => break,
        }
    }
    paths.push(path);
}

pub(crate) fn is_name(word: &str) -> bool {
    word.starts_with(|sign: char| sign.is_alphabetic() || sign == '_')
}

/// Names, `::`, and single signs, in order.
pub(crate) fn words(code: &str) -> Vec<&str> {
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

mod tests {
    use super::{SourceFile, crate_paths, test_modules};
    use std::path::Path;

    #[test]
    fn reads_paths_however_they_are_written() {
        let paths = |code| -> Vec<String> {
            let paths = crate_paths(code).into_iter();
            paths.map(|path| path.join("::")).collect()
        };
        assert_eq!(paths("use crate::a::b; x::crate::c"), ["a::b"]);
        assert_eq!(
            paths("use crate::{a::{self, b::C as D}, e::*}; fn f() { crate :: g::h(1) }"),
            ["a", "a::b::C", "e", "g::h"]
        );
    }

    #[test]
    fn leaves_tests_out() {
        let file = SourceFile::new(
            Path::new("a/b.rs"),
            "#[cfg(test)]\nmod tests { use x; fn g() {} }\nfn f() {} // crate::a",
        );
        assert_eq!(file.code.trim(), "fn f() {}");
        assert_eq!(file.module(), ["a", "b"]);
        assert_eq!(
            test_modules("#[cfg(test)]\nmod tests;\nmod x;\n#[cfg(test)] mod corpus;"),
            ["tests", "corpus"]
        );
    }
}
