//! Usage that waits on disk while a shared database is away, so that neither a restart nor kill -9 loses it.
//!
//! The spool is a folder of segments, which are files of lines (`line`); a line is a batch. A segment is first
//! `usage-N.new`: no server has seen its batches, so they can be put together. Before its first batch is sent it becomes
//! `usage-N.sent`, with fewer and larger batches, which never change again: the server knows a batch by its writer and
//! number. A file is removed when all of its batches are in the database.
//!
//! Where more would wait than may, single records are dropped, the oldest first, and their sums stay.
//!
//! Invariants: the batches of a writer stand in the order of their numbers, and are sent in it. After a crash at any point,
//! each batch is in the spool, or in the database, or in both under the same number or a higher one of its writer.

mod audit;
mod line;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::store::database::record::Batch;
use crate::store::lock_file::LockFile;

pub(crate) use crate::store::database::spool::audit::{AuditSpool, WaitingRows};
use crate::store::database::spool::line::{BatchMerger, LineHead};

/// Another gateway may be about to end.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// A segment that is longer takes no more batches.
const SEGMENT_BYTES: u64 = 4 << 20;
/// The least segments of a full spool, since the oldest are dropped first.
const SEGMENTS: u64 = 64;
/// Records of a batch that several are put together to.
const MAX_MERGED: usize = 20_000;
const PREFIX: &str = "usage-";
const NEW: &str = "new";
const SENT: &str = "sent";
/// What a file is called until it is whole.
const TEMPORARY: &str = ".part-";

/// `usage.spool` and `usage.spool_max`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder.
    pub folder: PathBuf,
    /// The most bytes that wait there with single records.
    pub max_bytes: u64,
}

/// The spool could not be read or written.
#[derive(Debug)]
pub struct SpoolError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for SpoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Makes errors about a path.
fn about<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> SpoolError {
    move |source| SpoolError {
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Lines of a file that were torn or changed, and are left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DamagedLines {
    pub(crate) path: PathBuf,
    pub(crate) count: usize,
}

/// Batches on disk, the oldest first.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    max_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The file of the last segment, while it takes more batches.
    active: Option<File>,
    /// Whether all that was written is on the disk.
    is_synced: bool,
    next_number: u64,
    /// The batches of the first segment that are not in the database yet, once they were read.
    loaded: VecDeque<Arc<Batch>>,
    dropped_records: u64,
    damaged: Vec<DamagedLines>,
    /// Keeps other processes out.
    _lock: LockFile,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    /// Whether its batches may have been sent.
    is_sent: bool,
    bytes: u64,
    batches: usize,
    records: u64,
    requests: i64,
    damaged: usize,
}

impl Segment {
    fn empty(number: u64, path: PathBuf, is_sent: bool) -> Self {
        Self {
            number,
            path,
            is_sent,
            bytes: 0,
            batches: 0,
            records: 0,
            requests: 0,
            damaged: 0,
        }
    }

    fn count(&mut self, head: &LineHead) {
        self.batches += 1;
        self.records += head.records;
        self.requests = self.requests.saturating_add(head.requests);
    }

    fn recount(&mut self, batches: &[Batch]) {
        (self.batches, self.records, self.requests) = (0, 0, 0);
        batches
            .iter()
            .for_each(|batch| self.count(&LineHead::of(batch)));
    }

    fn uncount(&mut self, head: &LineHead) {
        self.batches = self.batches.saturating_sub(1);
        self.records = self.records.saturating_sub(head.records);
        self.requests = self.requests.saturating_sub(head.requests);
    }
}

/// Makes the folder where it is missing, and keeps other processes out of it.
fn lock_folder(folder: &Path) -> Result<LockFile, SpoolError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(about(folder))?;
    LockFile::take(&folder.join("spool"), None, LOCK_WAIT).map_err(about(folder))
}

impl Spool {
    /// Opens the spool, and counts what waits in it. The folder is made where it is missing.
    pub(crate) fn open(config: &SpoolConfig) -> Result<Self, SpoolError> {
        let SpoolConfig { folder, max_bytes } = config;
        let lock = lock_folder(folder)?;
        let mut spool = Self {
            folder: folder.clone(),
            max_bytes: *max_bytes,
            segments: VecDeque::new(),
            active: None,
            is_synced: true,
            next_number: 1,
            loaded: VecDeque::new(),
            dropped_records: 0,
            damaged: Vec::new(),
            _lock: lock,
        };
        let mut last_numbers: HashMap<Arc<str>, i64> = HashMap::new();
        for mut segment in found_segments(folder)? {
            spool.next_number = spool.next_number.max(segment.number + 1);
            let mut is_covered = true;
            let path = segment.path.clone();
            let (bytes, damaged) = read_lines(&path, |line| {
                let Some((head, _)) = line::head(line) else {
                    return false;
                };
                // A batch that an earlier one holds too is left from a merge that was cut short.
                let last = last_numbers
                    .entry(Arc::clone(&head.writer))
                    .or_insert(i64::MIN);
                if head.number > *last {
                    *last = head.number;
                    is_covered = false;
                    segment.count(&head);
                }
                true
            })?;
            (segment.bytes, segment.damaged) = (bytes, damaged);
            if damaged > 0 {
                let count = damaged;
                spool.damaged.push(DamagedLines { path, count });
            }
            if is_covered {
                remove(&segment.path)?;
            } else {
                spool.segments.push_back(segment);
            }
        }
        // Whether the folder can be written is known now, and not when the database is away.
        write_whole(folder, &folder.join("writable"), &[])?;
        remove(&folder.join("writable"))?;
        Ok(spool)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn batches(&self) -> usize {
        self.segments.iter().map(|segment| segment.batches).sum()
    }

    pub(crate) fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// Of how many requests the usage waits.
    pub(crate) fn requests(&self) -> i64 {
        self.segments.iter().map(|segment| segment.requests).sum()
    }

    /// Records that were dropped since this was asked last.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_records)
    }

    /// What was found to be damaged since this was asked last.
    pub(crate) fn take_damaged(&mut self) -> Vec<DamagedLines> {
        std::mem::take(&mut self.damaged)
    }

    /// Adds a batch that no server has seen. It is on the disk after [`Self::sync`].
    pub(crate) fn append(&mut self, batch: &Batch) -> Result<(), SpoolError> {
        let mut line = line::of_batch(batch).map_err(about(&self.folder))?;
        let mut head = LineHead::of(batch);
        if self.is_too_much(line.len()) {
            self.compact()?;
        }
        let mut dropped = 0;
        if self.is_too_much(line.len()) && head.records > 0 {
            line = line::of_batch(&without_records(batch)).map_err(about(&self.folder))?;
            dropped = std::mem::take(&mut head.records);
        }
        self.append_line(&line, &head)?;
        self.dropped_records += dropped;
        Ok(())
    }

    fn is_too_much(&self, more: usize) -> bool {
        self.bytes().saturating_add(more as u64) > self.max_bytes
    }

    fn append_line(&mut self, line: &[u8], head: &LineHead) -> Result<(), SpoolError> {
        if self
            .segments
            .back()
            .is_some_and(|last| last.bytes >= SEGMENT_BYTES.min(self.max_bytes / SEGMENTS))
        {
            self.end_active()?;
        }
        if self.active.is_none() {
            self.begin_segment()?;
        }
        let (Some(mut file), Some(segment)) = (self.active.as_ref(), self.segments.back_mut())
        else {
            return Ok(());
        };
        self.is_synced = false;
        if let Err(source) = file.write_all(line) {
            let error = about(&segment.path)(source);
            // What was written of the line goes again. A segment without a line does too.
            if segment.batches == 0 || file.set_len(segment.bytes).is_err() {
                self.active = None;
            }
            if segment.batches == 0 {
                let path = segment.path.clone();
                self.segments.pop_back();
                remove(&path)?;
            }
            return Err(error);
        }
        segment.bytes += line.len() as u64;
        segment.count(head);
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let number = self.next_number;
        let path = path_of(&self.folder, number, NEW);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(about(&path))?;
        sync_folder(&self.folder)?;
        self.next_number += 1;
        self.active = Some(file);
        self.segments.push_back(Segment::empty(number, path, false));
        Ok(())
    }

    /// The last segment takes no more batches.
    fn end_active(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        self.active = None;
        Ok(())
    }

    /// Returns when all that was added is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        if let Some(file) = self.active.as_ref().filter(|_| !self.is_synced) {
            file.sync_data().map_err(about(&self.folder))?;
        }
        self.is_synced = true;
        Ok(())
    }

    /// Adds a batch that is being sent already, before any other waits.
    pub(crate) fn append_sent(&mut self, batch: &Arc<Batch>) -> Result<(), SpoolError> {
        let path = path_of(&self.folder, self.next_number, SENT);
        let line = line::of_batch(batch).map_err(about(&path))?;
        write_whole(&self.folder, &path, &line)?;
        let mut segment = Segment::empty(self.next_number, path, true);
        segment.bytes = line.len() as u64;
        segment.count(&LineHead::of(batch));
        self.next_number += 1;
        self.segments.push_front(segment);
        self.loaded.push_front(Arc::clone(batch));
        Ok(())
    }

    /// The oldest batch, which is to be sent. It stays the same until [`Self::remove_front`].
    pub(crate) fn front(&mut self, now: i64) -> Result<Option<Arc<Batch>>, SpoolError> {
        loop {
            if let Some(batch) = self.loaded.front() {
                return Ok(Some(Arc::clone(batch)));
            }
            let Some(first) = self.segments.front() else {
                return Ok(None);
            };
            let is_sent = first.is_sent;
            if self.segments.len() == 1 {
                self.end_active()?;
            }
            if !is_sent {
                self.prepare_first(now)?;
            }
            let batches = self.read_segment(0, now)?;
            if let Some(first) = self.segments.front_mut() {
                first.recount(&batches);
            }
            self.loaded = batches.into_iter().map(Arc::new).collect();
            if self.loaded.is_empty() {
                self.remove_first_segment()?;
            }
        }
    }

    /// The oldest batch is in the database.
    pub(crate) fn remove_front(&mut self) -> Result<(), SpoolError> {
        let (Some(batch), Some(first)) = (self.loaded.pop_front(), self.segments.front_mut())
        else {
            return Ok(());
        };
        first.uncount(&LineHead::of(&batch));
        match self.loaded.is_empty() {
            true => self.remove_first_segment(),
            false => Ok(()),
        }
    }

    fn remove_first_segment(&mut self) -> Result<(), SpoolError> {
        let Some(first) = self.segments.pop_front() else {
            return Ok(());
        };
        if self.segments.is_empty() {
            self.active = None;
        }
        remove(&first.path)
    }

    /// Puts the batches of the first segment together, before the first of them is sent.
    fn prepare_first(&mut self, now: i64) -> Result<(), SpoolError> {
        let mut merger = BatchMerger::new(MAX_MERGED);
        let read = self.read_segment(0, now)?;
        read.into_iter().for_each(|batch| merger.add(batch));
        let Some(first) = self.segments.front_mut() else {
            return Ok(());
        };
        let sent = path_of(&self.folder, first.number, SENT);
        let text = lines_of(&merger.finish(), &sent)?;
        match write_whole(&self.folder, &sent, &text) {
            Ok(()) => {
                first.bytes = text.len() as u64;
                first.damaged = 0;
                remove(&first.path)?;
            }
            // A full disk has no room for a second file. What is sent as it is makes room.
            Err(_) => {
                fs::rename(&first.path, &sent).map_err(about(&first.path))?;
                sync_folder(&self.folder)?;
            }
        }
        first.path = sent;
        first.is_sent = true;
        Ok(())
    }

    /// The batches of a segment. Lines that are damaged are left out.
    fn read_segment(&mut self, index: usize, now: i64) -> Result<Vec<Batch>, SpoolError> {
        let Some(segment) = self.segments.get_mut(index) else {
            return Ok(Vec::new());
        };
        let mut batches: Vec<Batch> = Vec::new();
        let (_, damaged) = read_lines(&segment.path, |line| {
            let batch = line::batch(line, now);
            let is_whole = batch.is_some();
            batches.extend(batch);
            is_whole
        })?;
        // What was damaged at the start was said then.
        let more = damaged.saturating_sub(segment.damaged);
        segment.damaged = damaged;
        if more > 0 {
            let path = segment.path.clone();
            self.damaged.push(DamagedLines { path, count: more });
        }
        Ok(batches)
    }

    /// Drops the oldest records, and puts their sums together. What may have been sent stays as it is.
    fn compact(&mut self) -> Result<(), SpoolError> {
        let from = self
            .segments
            .iter()
            .take_while(|segment| segment.is_sent)
            .count();
        let rest: u64 = self
            .segments
            .range(from..)
            .map(|segment| segment.bytes)
            .sum();
        let Some(first) = self.segments.get(from) else {
            return Ok(());
        };
        // Sums that were put together before are read again each time, so there has to be as much beside them.
        let known_sums = if first.records == 0 { first.bytes } else { 0 };
        if rest - known_sums < known_sums.max(1) {
            return Ok(());
        }
        let (mut to, mut bytes) = (from, 0);
        while to < self.segments.len() && bytes < known_sums + (rest - known_sums) / 2 {
            bytes += self.segments[to].bytes;
            to += 1;
        }
        if to == self.segments.len() {
            self.end_active()?;
        }
        let mut merger = BatchMerger::new(MAX_MERGED);
        let mut dropped = 0;
        for index in from..to {
            for mut batch in self.read_segment(index, 0)? {
                dropped += std::mem::take(&mut batch.records).len() as u64;
                merger.add(batch);
            }
        }
        let merged = merger.finish();
        let (number, path) = (self.segments[from].number, self.segments[from].path.clone());
        let text = lines_of(&merged, &path)?;
        // This replaces the first of them. If the others stay, their numbers are known already.
        write_whole(&self.folder, &path, &text)?;
        self.dropped_records += dropped;
        let mut segment = Segment::empty(number, path, false);
        segment.bytes = text.len() as u64;
        segment.recount(&merged);
        let replaced: Vec<Segment> = self.segments.drain(from..to).collect();
        self.segments.insert(from, segment);
        replaced
            .iter()
            .skip(1)
            .try_for_each(|segment| remove(&segment.path))
    }

    /// All that waits, as it is now.
    pub(crate) fn contents(&self) -> Result<SpoolContents, SpoolError> {
        let unread = usize::from(!self.loaded.is_empty());
        let open = |segment: &Segment| {
            let file = File::open(&segment.path).map_err(about(&segment.path))?;
            Ok((segment.path.clone(), file, segment.bytes))
        };
        Ok(SpoolContents {
            batches: self.loaded.iter().map(Arc::clone).collect(),
            files: self
                .segments
                .iter()
                .skip(unread)
                .map(open)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// What waits at one instant. Its files are open, so that it can be read while the spool goes on.
#[derive(Debug)]
pub(crate) struct SpoolContents {
    batches: Vec<Arc<Batch>>,
    files: Vec<(PathBuf, File, u64)>,
}

impl SpoolContents {
    /// Visits all batches.
    pub(crate) fn each_batch(self, visit: &mut impl FnMut(&Batch)) -> Result<(), SpoolError> {
        self.batches.iter().for_each(|batch| visit(batch));
        for (path, file, bytes) in self.files {
            let lines = BufReader::new(file.take(bytes));
            let read = each_line(lines, |line| {
                let batch = line::batch(line, 0);
                batch.iter().for_each(&mut *visit);
                batch.is_some()
            });
            read.map_err(about(&path))?;
        }
        Ok(())
    }
}

fn without_records(batch: &Batch) -> Batch {
    Batch {
        writer: Arc::clone(&batch.writer),
        gateway: Arc::clone(&batch.gateway),
        number: batch.number,
        now: batch.now,
        records: Vec::new(),
        sums: batch.sums.clone(),
        key_uses: batch.key_uses.clone(),
    }
}

fn lines_of(batches: &[Batch], path: &Path) -> Result<Vec<u8>, SpoolError> {
    let mut text = Vec::new();
    for batch in batches {
        text.append(&mut line::of_batch(batch).map_err(about(path))?);
    }
    Ok(text)
}

/// The segments of the folder, the oldest first. What was not finished is removed.
fn found_segments(folder: &Path) -> Result<Vec<Segment>, SpoolError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder).map_err(about(folder))? {
        let path = entry.map_err(about(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(TEMPORARY) {
            remove(&path)?;
            continue;
        }
        let parts = name
            .strip_prefix(PREFIX)
            .and_then(|name| name.split_once('.'));
        if let Some((number, kind @ (NEW | SENT))) = parts
            && let Ok(number) = number.parse()
        {
            segments.push(Segment::empty(number, path.clone(), kind == SENT));
        }
    }
    segments.sort_by_key(|segment| (segment.number, !segment.is_sent));
    Ok(segments)
}

fn path_of(folder: &Path, number: u64, kind: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{number:010}.{kind}"))
}

/// Visits all lines. Returns how many bytes and how many damaged lines there are.
fn read_lines(path: &Path, visit: impl FnMut(&[u8]) -> bool) -> Result<(u64, usize), SpoolError> {
    let file = File::open(path).map_err(about(path))?;
    each_line(BufReader::new(file), visit).map_err(about(path))
}

/// `visit` returns whether the line is whole.
fn each_line(
    mut lines: impl BufRead,
    mut visit: impl FnMut(&[u8]) -> bool,
) -> io::Result<(u64, usize)> {
    let (mut line, mut bytes, mut damaged) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line)? {
            0 => return Ok((bytes, damaged)),
            length => bytes += length as u64,
        }
        damaged += usize::from(!visit(&line));
    }
}

/// Makes or replaces a file, so that it is whole and on the disk.
fn write_whole(folder: &Path, path: &Path, text: &[u8]) -> Result<(), SpoolError> {
    // Of mode 0600, by the crate.
    let made = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(folder);
    let mut file = made.map_err(about(folder))?;
    file.write_all(text).map_err(about(path))?;
    file.as_file().sync_data().map_err(about(path))?;
    file.persist(path)
        .map_err(|failed| about(path)(failed.error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(about(folder))
}

fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(about(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
