//! Key files for the benches.

use std::io::Write;
use std::path::Path;

use keygate::policy::token::TokenHash;

/// What the keys look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// All models, from anywhere, for ever.
    Plain,
    /// Every field set.
    Full,
}

impl Shape {
    #[allow(dead_code, reason = "each bench uses its part")]
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Full];

    #[allow(dead_code, reason = "each bench uses its part")]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Plain => Self::Full,
            Self::Full => Self::Plain,
        }
    }
}

/// The token of the key of this number.
pub(crate) fn token(number: usize) -> String {
    format!("token-{number}")
}

/// Its line, line end included.
pub(crate) fn line(number: usize, shape: Shape) -> String {
    let hash = TokenHash::of(token(number).as_bytes());
    let start = format!(
        r#"{{"id":"key_{number:022}","name":"key {number}","hash":"{hash}","hint":"x9Qz","model_access":"#
    );
    let rest = match shape {
        Shape::Plain => r#"{"mode":"all"},"created_at":"2026-11-22T10:00:00Z"}"#,
        Shape::Full => {
            r#"{"mode":"inclusive","models":["llama-3.3-70b","bge-m3"]},"allow_from":["192.0.2.0/24","198.51.100.7/32"],"expires_at":"2027-02-01T00:00:00Z","created_at":"2026-11-22T10:00:00Z","account":"acme","disabled":false}"#
        }
    };
    format!("{start}{rest}\n")
}

/// Replaces the file by one with so many keys.
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn write(file: &Path, count: usize, shape: Shape) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    for number in 0..count {
        out.write_all(line(number, shape).as_bytes()).unwrap();
    }
    out.flush().unwrap();
}

/// The id of the account of this number.
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn account(number: usize) -> String {
    format!("account_{number}")
}

/// The same with plain keys, each of one of so many accounts; with 0, of none.
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn write_of_accounts(file: &Path, count: usize, accounts: usize) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    for number in 0..count {
        let line = line(number, Shape::Plain);
        let line = match number.checked_rem(accounts) {
            Some(of) => line.replacen('{', &format!("{{\"account\":\"{}\",", account(of)), 1),
            None => line,
        };
        out.write_all(line.as_bytes()).unwrap();
    }
    out.flush().unwrap();
}
