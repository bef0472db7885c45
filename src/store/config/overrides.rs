//! What the command line says in place of the config file.

use std::path::PathBuf;

use crate::store::config::LogFormat;

/// What the command line says in place of the file. Relative paths start at the working directory.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`; replaces the file's list where not empty.
    pub listen: Vec<String>,
    /// `--upstream`: one upstream each, named after its host and port; replaces the file's where not empty.
    pub upstreams: Vec<String>,
    /// `--keys`
    pub keys: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}
