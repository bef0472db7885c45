//! Suspended tokens: they are refused before their key is changed or removed. Whoever does that may have to wait for a disk or a
//! database.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::key::KeyToken;
use crate::table::Table;

/// Which tokens of a key are suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendedTokens {
    /// All.
    All,
    /// The one before the last rotation, where it has not ended.
    Previous,
}

/// Tokens of a key are refused as long as this lives.
#[derive(Debug)]
#[must_use]
pub struct Suspension {
    pub(super) table: Arc<Table>,
    pub(super) id: Box<str>,
    pub(super) tokens: SuspendedTokens,
}

impl Drop for Suspension {
    fn drop(&mut self) {
        self.table.end_suspension(&self.id, self.tokens);
    }
}

/// How many suspensions each key has.
#[derive(Debug, Default)]
pub(super) struct Suspensions(HashMap<Box<str>, SuspensionCounts>);

#[derive(Debug, Default, PartialEq, Eq)]
struct SuspensionCounts {
    all: usize,
    previous: usize,
}

impl SuspensionCounts {
    fn of(&mut self, tokens: SuspendedTokens) -> &mut usize {
        match tokens {
            SuspendedTokens::All => &mut self.all,
            SuspendedTokens::Previous => &mut self.previous,
        }
    }
}

impl Suspensions {
    pub(super) fn begin(&mut self, id: &str, tokens: SuspendedTokens) {
        *self.0.entry(id.into()).or_default().of(tokens) += 1;
    }

    pub(super) fn end(&mut self, id: &str, tokens: SuspendedTokens) {
        if let Some(counts) = self.0.get_mut(id) {
            let count = counts.of(tokens);
            *count = count.saturating_sub(1);
            if *counts == SuspensionCounts::default() {
                self.0.remove(id);
            }
        }
    }

    pub(super) fn has(&self, id: &str, token: KeyToken) -> bool {
        self.0.get(id).is_some_and(|counts| {
            counts.all > 0 || (counts.previous > 0 && token == KeyToken::Previous)
        })
    }

    pub(super) fn ids(&self) -> Vec<Box<str>> {
        self.0.keys().cloned().collect()
    }
}
