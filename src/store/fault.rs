//! What is wrong with a file: where, which field, what, and the remedy.

use std::fmt;
use std::path::PathBuf;

/// One fault of a config or key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Its line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// The field's path, like `timeouts.drain` or `allow_from`; empty where no field is meant.
    pub field: String,
    /// What is wrong and what to do, in one sentence: `what; remedy`.
    pub message: String,
}

impl Fault {
    /// The config's section that the field stands in, or the flag.
    #[must_use]
    pub fn section(&self) -> &str {
        self.field.split(['.', '[']).next().unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    /// `FILE:LINE: field: what; remedy`; a fault of a whole file has no line, and one of a whole line no field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        f.write_str(" ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
