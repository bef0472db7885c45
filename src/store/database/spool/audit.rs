//! Audit rows that wait on disk while a shared database is away: one file of lines, in the order of the rows.
//!
//! The first line says behind which row they come, so that the next start finds those that the database has already, where
//! only the answer was lost.
//!
//! Invariant: a row that waits is on the disk before its change is answered, where the disk can be written.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin, ChangeVia};
use crate::store::database::spool::line::{seal, unseal};
use crate::store::database::spool::{
    DamagedLines, SpoolError, about, read_lines, remove, write_whole,
};

/// The file of the rows.
#[derive(Debug)]
pub(crate) struct AuditSpool {
    folder: PathBuf,
    path: PathBuf,
    /// Takes more rows. None: there is no file, or it lacks rows that wait.
    file: Option<File>,
}

/// The rows that an earlier start has left.
#[derive(Debug, Default)]
pub(crate) struct WaitingRows {
    /// The last row that was in the database then.
    pub(crate) behind: Option<AuditMark>,
    pub(crate) entries: VecDeque<AuditEntry>,
    /// When the first row was lost for which there was no room, and about how many were.
    pub(crate) lost: Option<(i64, u64)>,
}

impl AuditSpool {
    /// Reads what waits in this folder.
    pub(crate) fn open(
        folder: &Path,
    ) -> Result<(Self, WaitingRows, Option<DamagedLines>), SpoolError> {
        let path = folder.join("audit.jsonl");
        let mut waiting = WaitingRows::default();
        let mut damaged = 0;
        if path.exists() {
            (_, damaged) = read_lines(&path, |line| {
                let parsed = unseal(line).and_then(|text| serde_json::from_slice(text).ok());
                match parsed {
                    Some(AuditLine::Behind { n, hash }) => {
                        waiting.behind = Some(AuditMark { n, hash });
                        true
                    }
                    Some(AuditLine::Lost { first, rows }) => {
                        waiting.lost = Some((first, rows));
                        true
                    }
                    Some(AuditLine::Row(row)) => {
                        let entry = row.read();
                        let is_whole = entry.is_some();
                        waiting.entries.extend(entry);
                        is_whole
                    }
                    None => false,
                }
            })?;
        }
        let damaged = (damaged > 0).then(|| DamagedLines {
            path: path.clone(),
            count: damaged,
        });
        let spool = Self {
            folder: folder.to_owned(),
            path,
            file: None,
        };
        Ok((spool, waiting, damaged))
    }

    /// Returns when all rows that wait are on the disk. `more` of them are new, the last ones.
    pub(crate) fn keep(
        &mut self,
        behind: &AuditMark,
        entries: &VecDeque<AuditEntry>,
        more: usize,
    ) -> Result<(), SpoolError> {
        let known = entries.len().saturating_sub(more);
        let Some(file) = self.file.take() else {
            let AuditMark { n, hash } = behind.clone();
            let mut text = self.line(&AuditLine::Behind { n, hash })?;
            for entry in entries {
                text.append(&mut self.line(&AuditLine::Row(SpooledRow::of(entry)))?);
            }
            write_whole(&self.folder, &self.path, &text)?;
            let file = OpenOptions::new().append(true).open(&self.path);
            self.file = Some(file.map_err(about(&self.path))?);
            return Ok(());
        };
        let mut text = Vec::new();
        for entry in entries.range(known..) {
            text.append(&mut self.line(&AuditLine::Row(SpooledRow::of(entry)))?);
        }
        self.add(file, &text)
    }

    /// Notes that rows are lost for which there was no room.
    pub(crate) fn keep_lost(&mut self, first: i64, rows: u64) -> Result<(), SpoolError> {
        let line = self.line(&AuditLine::Lost { first, rows })?;
        match self.file.take() {
            Some(file) => self.add(file, &line),
            None => Ok(()),
        }
    }

    /// If this fails, the next call writes all rows anew.
    fn add(&mut self, mut file: File, text: &[u8]) -> Result<(), SpoolError> {
        let added = file.write_all(text).and_then(|()| file.sync_data());
        added.map_err(about(&self.path))?;
        self.file = Some(file);
        Ok(())
    }

    fn line(&self, line: &AuditLine) -> Result<Vec<u8>, SpoolError> {
        let text = serde_json::to_vec(line).map_err(about(&self.path))?;
        Ok(seal(&text))
    }

    /// All rows are in the database.
    pub(crate) fn remove(&mut self) -> Result<(), SpoolError> {
        self.file = None;
        remove(&self.path)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuditLine {
    /// The last row in the database.
    Behind {
        n: i64,
        hash: String,
    },
    Row(SpooledRow),
    Lost {
        first: i64,
        rows: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct SpooledRow {
    at: i64,
    actor: String,
    via: String,
    address: Option<String>,
    request_id: Option<String>,
    action: String,
    target: Option<String>,
    account: Option<String>,
    before: Option<String>,
    after: Option<String>,
}

impl SpooledRow {
    fn of(entry: &AuditEntry) -> Self {
        let AuditEntry {
            at,
            origin,
            action,
            target,
            account,
            before,
            after,
        } = entry.clone();
        let ChangeOrigin {
            actor,
            via,
            address,
            request_id,
        } = origin;
        Self {
            at,
            actor,
            via: via.label().to_owned(),
            address,
            request_id,
            action: action.label().to_owned(),
            target,
            account,
            before,
            after,
        }
    }

    /// None: a name in it is not known.
    fn read(self) -> Option<AuditEntry> {
        let Self {
            at,
            actor,
            via,
            address,
            request_id,
            action,
            target,
            account,
            before,
            after,
        } = self;
        let origin = ChangeOrigin {
            actor,
            via: ChangeVia::of_label(&via)?,
            address,
            request_id,
        };
        Some(AuditEntry {
            at,
            origin,
            action: AuditAction::of_label(&action)?,
            target,
            account,
            before,
            after,
        })
    }
}
