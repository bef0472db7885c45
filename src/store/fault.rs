//! A fault of a config or key file, as the user reads it: file, line, field, what is wrong, and the remedy.

use std::fmt;
use std::path::PathBuf;

/// One fault of a config or key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0 for the whole file.
    pub line: usize,
    /// The field's path, like `timeouts.drain` or `allow_from`; empty for a whole line or file.
    pub field: String,
    /// What is wrong and what to do, in one sentence: `what; remedy`.
    pub message: String,
}

impl Fault {
    /// The config section of the field, or the flag of the command line.
    #[must_use]
    pub fn section(&self) -> &str {
        self.field.split(['.', '[']).next().unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    /// `FILE:LINE: field: what; remedy`, without a line for a whole file and without a field for a whole line.
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
