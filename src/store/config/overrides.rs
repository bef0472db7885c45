//! The settings of the command line.

use std::path::PathBuf;

use crate::store::config::LogFormat;

/// Settings of the command line, which replace those of the file. Relative paths start at the working directory.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`; replaces the file's list unless empty.
    pub listen: Vec<String>,
    /// `--upstream`: one upstream each, named after its host and port; replaces the file's upstreams unless empty.
    pub upstreams: Vec<String>,
    /// `--keys`
    pub keys: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}
