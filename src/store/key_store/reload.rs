//! Taking the file over into the table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::key::KeyId;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock;
use crate::store::key_file::{self, LoadedKeys, Stamp};
use crate::store::key_store::command::{Drops, Reload};
use crate::store::key_store::error::{DropsTooMany, Obstacle, ReloadResult};
use crate::store::key_store::event::{Event, LastReload, Reloaded, counted};
use crate::store::key_store::state::{Desk, Unwritten, disabled};
use crate::table::{Difference, Entry, drop_incrementally};

/// A file's content with what is unwritten on top.
struct Proposal {
    entries: Vec<Arc<Entry>>,
    stamp: Stamp,
    /// What the file lacks of it.
    unwritten: HashMap<KeyId, Unwritten>,
    difference: Arc<Difference>,
    drops_too_many: Option<DropsTooMany>,
}

impl Desk {
    pub(crate) fn reload(&mut self, asked: Vec<Reload>) {
        let (rehearsals, reloads): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|reload| reload.rehearsal);
        let proposal = self.propose();
        for rehearsal in rehearsals {
            let _ = rehearsal.answer.send(match &proposal {
                Err(obstacle) => Err(obstacle.clone()),
                Ok(proposal) => proposal.judged(rehearsal.drops).map(|()| Reloaded {
                    difference: Arc::clone(&proposal.difference),
                    generation: self.table.generation(),
                    keys: proposal.entries.len(),
                }),
            });
        }
        let Some(drops) = reloads
            .iter()
            .map(|reload| reload.drops)
            .max_by_key(|drops| {
                // One that is forced takes the others along.
                *drops == Drops::Forced
            })
        else {
            return;
        };
        let outcome = proposal.and_then(|proposal| self.take_over(proposal, drops));
        match &outcome {
            Ok(reloaded) => (self.events)(Event::Reloaded(reloaded)),
            Err(obstacle) => (self.events)(Event::ReloadFailed(obstacle)),
        }
        let last_reload = LastReload {
            at: wall_clock::now(),
            result: outcome
                .as_ref()
                .map_or_else(Obstacle::result, |_| ReloadResult::Ok),
            message: match &outcome {
                Ok(reloaded) => counted(reloaded.keys),
                Err(obstacle) => obstacle.to_string(),
            },
        };
        self.report(|status| status.last_reload = last_reload);
        for reload in reloads {
            let _ = reload.answer.send(outcome.clone());
        }
    }

    /// Reads the file and lays on top what is unwritten.
    fn propose(&mut self) -> Result<Proposal, Obstacle> {
        let before = key_file::stamp_of(&self.file);
        let LoadedKeys { mut entries, stamp } =
            key_file::read(&self.file, &self.table, yield_if_due).map_err(|error| {
                let obstacle = Obstacle::from(error);
                self.refuse(before, &obstacle);
                obstacle
            })?;
        let mut unwritten = HashMap::new();
        if !self.unwritten.is_empty() {
            entries.retain_mut(|entry| {
                yield_if_due();
                let id = entry.key().key_id();
                match self.unwritten.get(&id) {
                    None => true,
                    Some(deleted @ Unwritten::Deleted(_)) => {
                        unwritten.insert(id, deleted.clone());
                        false
                    }
                    Some(Unwritten::Disabled) => {
                        if !entry.key().disabled() {
                            *entry = self.table.adopt(disabled(entry.key()));
                            unwritten.insert(id, Unwritten::Disabled);
                        }
                        true
                    }
                }
            });
        }
        let difference = Arc::new(self.table.compare(&entries, yield_if_due));
        let (dropped, of) = (difference.removed.len(), self.table.len());
        let too_many = dropped * 100 > of * usize::from(self.max_drop_percent);
        Ok(Proposal {
            entries,
            stamp,
            unwritten,
            difference,
            drops_too_many: too_many.then_some(DropsTooMany {
                dropped,
                of,
                max_drop_percent: self.max_drop_percent,
            }),
        })
    }

    fn take_over(&mut self, proposal: Proposal, drops: Drops) -> Result<Reloaded, Obstacle> {
        if let Err(obstacle) = proposal.judged(drops) {
            self.refuse(Some(proposal.stamp), &obstacle);
            return Err(obstacle);
        }
        if proposal.difference.changes_table() {
            self.table.swap(proposal.entries, yield_if_due);
        } else {
            drop_incrementally(proposal.entries, yield_if_due);
        }
        self.loaded = Some(proposal.stamp);
        self.refused = None;
        self.unwritten = proposal.unwritten;
        let unwritten = self.unwritten.len();
        self.report(|status| {
            status.unwritten = unwritten;
            status.obstacle = status.obstacle.take().filter(|_| unwritten > 0);
        });
        Ok(Reloaded {
            difference: proposal.difference,
            generation: self.table.generation(),
            keys: self.table.len(),
        })
    }

    /// Brings what others wrote into the table, where the file is not the one the table reflects.
    pub(crate) fn merge(&mut self) -> Result<(), Obstacle> {
        let now = key_file::stamp_of(&self.file);
        if self.loaded.is_some_and(|stamp| stamp.is_unchanged(now)) {
            return Ok(());
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.is(now)) {
            let still = match refused.obstacle {
                Obstacle::Faulty(_) => true,
                Obstacle::DropsTooMany(_) => refused.generation == self.table.generation(),
                Obstacle::Io(_) => false,
            };
            if still {
                return Err(refused.obstacle.clone());
            }
        }
        let proposal = self.propose()?;
        let merged = self.take_over(proposal, Drops::Guarded)?;
        if !merged.difference.is_empty() {
            (self.events)(Event::Merged(&merged));
        }
        Ok(())
    }
}

impl Proposal {
    fn judged(&self, drops: Drops) -> Result<(), Obstacle> {
        match (drops, self.drops_too_many) {
            (Drops::Guarded, Some(too_many)) => Err(Obstacle::DropsTooMany(too_many)),
            (Drops::Guarded, None) | (Drops::Forced, _) => Ok(()),
        }
    }
}
