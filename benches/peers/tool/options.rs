//! `--name value` pairs.

use std::collections::HashMap;
use std::str::FromStr;

use crate::Fault;

pub(crate) struct Options(HashMap<String, String>);

impl Options {
    pub(crate) fn new(arguments: impl Iterator<Item = String>) -> Self {
        let mut given = HashMap::new();
        let mut name = None;
        for argument in arguments {
            match (name.take(), argument.strip_prefix("--")) {
                (Some(name), _) => {
                    given.insert(name, argument);
                }
                (None, Some(next)) => name = Some(next.to_owned()),
                (None, None) => {}
            }
        }
        Self(given)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Fault> {
        self.text(name)
            .ok_or_else(|| format!("--{name} is missing").into())
    }

    /// The number of this name, or the given one.
    pub(crate) fn number<N: FromStr>(&self, name: &str, otherwise: N) -> Result<N, Fault> {
        match self.text(name) {
            None => Ok(otherwise),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{name} {text}: not a number").into()),
        }
    }
}
