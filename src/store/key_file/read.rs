//! Reading the key file on all cores. Every fault is reported with its line.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{self, ErrorKind};
use std::iter;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::policy::key::Key;
use crate::policy::token::TokenHash;
use crate::store::fault::Fault;
use crate::store::key_file::open::{file_fault, open_regular};
use crate::store::key_file::stamp::Stamp;
use crate::store::key_json::{self, Interner};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, YieldPoint};

/// Faults that are listed for one file. One more entry counts those that are not listed.
pub(crate) const MAX_FAULTS: usize = 1000;

/// In bytes.
const MAX_LINE: usize = 1 << 20;

/// Bytes that a thread reads at once.
const CHUNK_SIZE: u64 = 1 << 20;

/// How often a file is read again because it changed while it was read.
const READ_ATTEMPTS: u32 = 5;

const READ_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The content of a key file.
#[derive(Debug)]
pub struct LoadedKeys {
    /// The keys, in file order.
    pub entries: Vec<Arc<Entry>>,
    /// The state of the file that was read.
    pub stamp: Stamp,
}

/// Why a key file is not loaded.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// The file has these faults; at least one.
    Faulty(Vec<Fault>),
    /// The file cannot be read, or is not a regular file.
    Unreadable(Fault),
}

impl ReadError {
    /// The faults in file order; at least one.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Faulty(faults) => faults,
            Self::Unreadable(fault) => std::slice::from_ref(fault),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults();
        if let Some(first) = faults.first() {
            first.fmt(f)?;
        }
        match faults.len() {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads the whole file. Keys that `table` holds already are the table's own entries.
///
/// # Errors
/// All faults, up to 1000.
pub fn read(path: &Path, table: &Table, yield_point: YieldPoint) -> Result<LoadedKeys, ReadError> {
    for attempt in 0..READ_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(READ_RETRY_DELAY);
        }
        let text = KeyFileReader::open(path).map_err(ReadError::Unreadable)?;
        let loaded = text.parse(table, yield_point);
        if text.is_unchanged() {
            return loaded;
        }
    }
    Err(ReadError::Unreadable(file_fault(
        path,
        "changes while it is read; try again once it is whole, and replace it by renaming",
    )))
}

/// A warning if every user of this machine may read the file.
#[must_use]
pub(crate) fn readable_by_others(path: &Path) -> Option<Fault> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let open = mode & 0o004 != 0;
    open.then(|| {
        file_fault(
            path,
            "is readable by everybody on this machine; chmod o-rwx it",
        )
    })
}

struct KeyFileReader<'p> {
    path: &'p Path,
    file: File,
    stamp: Stamp,
}

/// The lines that begin in one chunk of the file.
#[derive(Default)]
struct Chunk {
    number: u64,
    lines: usize,
    entries: Vec<Arc<Entry>>,
    /// Lines without a key. Kept as runs, so that a file of empty lines takes no more memory than one of keys.
    skipped: Vec<SkippedLines>,
    /// Faults with their lines, counted in the same way.
    faults: Vec<(usize, FieldError)>,
}

/// Lines without a key that follow one another.
struct SkippedLines {
    /// Counted from the chunk's first line.
    first: usize,
    count: usize,
}

/// State that the parsing threads share.
struct ParseJob<'t> {
    table: &'t Table,
    yield_point: YieldPoint,
    next_chunk: AtomicU64,
    /// The number of faults found, listed or not.
    faults: AtomicUsize,
}

impl<'p> KeyFileReader<'p> {
    fn open(path: &'p Path) -> Result<Self, Fault> {
        let opened = open_regular(path).and_then(|file| file.metadata().map(|found| (file, found)));
        match opened {
            Ok((file, found)) => Ok(Self {
                path,
                file,
                stamp: Stamp::of(&found),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(file_fault(
                path,
                "does not exist; create it, or name the right file",
            )),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn is_unchanged(&self) -> bool {
        let now = self.file.metadata().ok().map(|found| Stamp::of(&found));
        now.is_some_and(|now| self.stamp.same_metadata(&now))
    }

    fn parse(&self, table: &Table, yield_point: YieldPoint) -> Result<LoadedKeys, ReadError> {
        let job = ParseJob {
            table,
            yield_point,
            next_chunk: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
        };
        let chunks = self
            .parse_on_all_cores(&job)
            .map_err(|error| ReadError::Unreadable(unreadable(self.path, &error)))?;
        let faults = self.faults(&chunks, job.faults.into_inner(), yield_point);
        if !faults.is_empty() {
            return Err(ReadError::Faulty(faults));
        }
        let count = chunks.iter().map(|chunk| chunk.entries.len()).sum();
        let mut entries = Vec::with_capacity(count);
        for chunk in chunks {
            yield_point();
            entries.extend(chunk.entries);
        }
        Ok(LoadedKeys {
            entries,
            stamp: self.stamp,
        })
    }

    fn parse_on_all_cores(&self, job: &ParseJob<'_>) -> io::Result<Vec<Chunk>> {
        let count = self.stamp.size.div_ceil(CHUNK_SIZE);
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(usize::try_from(count).unwrap_or(usize::MAX));
        let mut chunks = if threads < 2 {
            self.parse_next_chunks(job)?
        } else {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|_| scope.spawn(|| self.parse_next_chunks(job)))
                    .collect();
                let mut all = Vec::new();
                for thread in running {
                    let lost = |_| Err(io::Error::other("a reading thread ended early"));
                    all.extend(thread.join().unwrap_or_else(lost)?);
                }
                io::Result::Ok(all)
            })?
        };
        chunks.sort_unstable_by_key(|chunk| chunk.number);
        Ok(chunks)
    }

    fn parse_next_chunks(&self, job: &ParseJob<'_>) -> io::Result<Vec<Chunk>> {
        let mut interner = Interner::default();
        let mut buffer = Vec::new();
        let mut chunks = Vec::new();
        loop {
            let number = job.next_chunk.fetch_add(1, Ordering::Relaxed);
            if number * CHUNK_SIZE >= self.stamp.size {
                return Ok(chunks);
            }
            chunks.push(self.parse_chunk(number, job, &mut buffer, &mut interner)?);
        }
    }

    fn parse_chunk(
        &self,
        number: u64,
        job: &ParseJob<'_>,
        buffer: &mut Vec<u8>,
        interner: &mut Interner,
    ) -> io::Result<Chunk> {
        let mut chunk = Chunk {
            number,
            ..Chunk::default()
        };
        let mut rest = match number {
            0 => {
                self.read_at(buffer, 0, CHUNK_SIZE)?;
                match buffer.strip_prefix(b"\xef\xbb\xbf") {
                    Some(rest) => {
                        let what = "begins with a byte-order mark; save it without one";
                        chunk.add_errors(job, vec![line_error(what)]);
                        rest
                    }
                    None => buffer,
                }
            }
            // Also reads the byte before the chunk: if it is a line end, a line begins with the chunk.
            _ => {
                self.read_at(buffer, number * CHUNK_SIZE - 1, CHUNK_SIZE + 1)?;
                match memchr::memchr(b'\n', buffer) {
                    Some(end) => &buffer[end + 1..],
                    None => return Ok(chunk),
                }
            }
        };
        while let Some(end) = memchr::memchr(b'\n', rest) {
            (job.yield_point)();
            chunk.parse_line(&rest[..end], job, interner);
            rest = &rest[end + 1..];
        }
        if rest.is_empty() {
            return Ok(chunk);
        }
        let mut line = rest.to_vec();
        let mut more = Vec::new();
        let mut at = (number + 1) * CHUNK_SIZE;
        while line.len() <= MAX_LINE && at < self.stamp.size {
            self.read_at(&mut more, at, CHUNK_SIZE / 64)?;
            at += CHUNK_SIZE / 64;
            match memchr::memchr(b'\n', &more) {
                Some(end) => {
                    line.extend_from_slice(&more[..end]);
                    break;
                }
                None => line.extend_from_slice(&more),
            }
        }
        chunk.parse_line(&line, job, interner);
        Ok(chunk)
    }

    /// Reads `length` bytes at `at`, or fewer at the end that the file had when it was opened.
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, length: u64) -> io::Result<()> {
        let length = length.min(self.stamp.size.saturating_sub(at));
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        match self.file.read_exact_at(buffer, at) {
            // The file was truncated meanwhile. `is_unchanged` sees that, and the result is discarded.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            done => done,
        }
    }

    fn faults(&self, chunks: &[Chunk], found: usize, yield_point: YieldPoint) -> Vec<Fault> {
        let fault = |line: usize, error: &FieldError| Fault {
            file: self.path.to_owned(),
            line,
            field: error.field.clone(),
            message: error.message.clone(),
        };
        let mut faults = Vec::new();
        let mut lines = 0;
        for chunk in chunks {
            let here = chunk.faults.iter();
            faults.extend(here.map(|(line, error)| fault(lines + line + 1, error)));
            lines += chunk.lines;
        }
        let (duplicate_faults, duplicates) = self.duplicate_faults(chunks, yield_point);
        let found = found + duplicates;
        faults.extend(duplicate_faults);
        faults.sort_by_key(|fault| fault.line);
        faults.truncate(MAX_FAULTS);
        if found > faults.len() {
            let more = found - faults.len();
            let what = format!("has {more} more faults, not listed here; mend these first");
            faults.push(file_fault(self.path, &what));
        }
        faults
    }

    /// Faults for keys whose id, or a hash of theirs, is on an earlier line too, and how many there are in all.
    fn duplicate_faults(&self, chunks: &[Chunk], yield_point: YieldPoint) -> (Vec<Fault>, usize) {
        let hasher = RandomState::new();
        let id = |key| std::iter::once(Key::id(key));
        let ids = duplicates(chunks, id, |id| hasher.hash_one(id), yield_point);
        let digest = |hash: &TokenHash| {
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let hashes = duplicates(chunks, Key::hashes, digest, yield_point);
        let fault = |field: &str, (first, later): (usize, usize), remedy: &str| {
            let first = line_of(chunks, first);
            Fault {
                file: self.path.to_owned(),
                line: line_of(chunks, later),
                field: field.to_owned(),
                message: format!("is that of the key in line {first} too; {remedy}"),
            }
        };
        let count = ids.len() + hashes.len();
        let ids = ids
            .into_iter()
            .take(MAX_FAULTS)
            .map(|(pair, _)| fault("id", pair, "give each key an id of its own"));
        let hashes = hashes.into_iter().take(MAX_FAULTS).map(|(pair, which)| {
            let field = if which == 0 { "hash" } else { "previous.hash" };
            fault(field, pair, "give each key a token of its own")
        });
        (ids.chain(hashes).collect(), count)
    }
}

impl Chunk {
    fn parse_line(&mut self, line: &[u8], job: &ParseJob<'_>, interner: &mut Interner) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let entries = self.entries.len();
        if line.len() > MAX_LINE {
            let what = "is longer than 1 MiB; no key is, so look for a missing line end";
            self.add_errors(job, vec![line_error(what)]);
        } else if !line.trim_ascii().is_empty() {
            match key_json::parse_line(line, interner) {
                Ok(key) => self.entries.push(job.table.adopt(key)),
                Err(errors) => self.add_errors(job, errors),
            }
        }
        if self.entries.len() == entries {
            match self.skipped.last_mut() {
                Some(run) if run.first + run.count == self.lines => run.count += 1,
                Some(_) | None => self.skipped.push(SkippedLines {
                    first: self.lines,
                    count: 1,
                }),
            }
        }
        self.lines += 1;
    }

    fn add_errors(&mut self, job: &ParseJob<'_>, errors: Vec<FieldError>) {
        let before = job.faults.fetch_add(errors.len(), Ordering::Relaxed);
        // Chunks may finish out of order, so more faults are kept than are listed.
        if before < 8 * MAX_FAULTS {
            let line = self.lines;
            let told = errors.into_iter().map(|error| (line, error));
            self.faults.extend(told.take(MAX_FAULTS));
        }
    }
}

fn line_error(message: &str) -> FieldError {
    FieldError {
        field: String::new(),
        message: message.to_owned(),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    file_fault(
        path,
        &format!("cannot be read: {error}; name a file that the gateway may read"),
    )
}

/// Finds keys with an equal part: pairs of the first key's and a later key's position among all keys, and the number of
/// that part among the later key's.
fn duplicates<'k, P: Hash + Eq + ?Sized + 'k, I: Iterator<Item = &'k P>>(
    chunks: &'k [Chunk],
    parts_of: impl Fn(&'k Key) -> I,
    digest: impl Fn(&P) -> u64,
    yield_point: YieldPoint,
) -> Vec<((usize, usize), usize)> {
    /// One bucket for each first byte of a digest. Sorting one takes a fraction of a millisecond, so that the work can
    /// yield.
    const BUCKETS: usize = 256;
    let parts = || {
        let entries = chunks.iter().flat_map(|chunk| &chunk.entries);
        entries.map(|entry| parts_of(entry.key()))
    };
    let count: usize = chunks.iter().map(|chunk| chunk.entries.len()).sum();
    // An eighth more than the average, since the buckets differ a little in size.
    let bucket_with_room = || Vec::with_capacity(count / BUCKETS + count / BUCKETS / 8);
    let mut buckets: Vec<Vec<u64>> = iter::repeat_with(bucket_with_room).take(BUCKETS).collect();
    for part in parts().flatten() {
        yield_point();
        let digest = digest(part);
        buckets[(digest >> (u64::BITS - BUCKETS.ilog2())) as usize].push(digest);
    }
    let differ = buckets.iter_mut().all(|bucket| {
        yield_point();
        bucket.sort_unstable();
        bucket.is_sorted_by(|one, next| one < next)
    });
    if differ {
        return Vec::new();
    }
    // A duplicate, or two equal digests: rare, so this slower search is good enough.
    drop(buckets);
    let mut firsts = HashMap::new();
    let mut found = Vec::new();
    for (place, parts) in parts().enumerate() {
        for (which, part) in parts.enumerate() {
            match firsts.entry(part) {
                Occupied(first) => found.push(((*first.get(), place), which)),
                Vacant(free) => drop(free.insert(place)),
            }
        }
    }
    found
}

/// The line of the key at this position among all keys.
fn line_of(chunks: &[Chunk], mut place: usize) -> usize {
    let mut before = 0;
    for chunk in chunks {
        if place < chunk.entries.len() {
            let mut line = place;
            for run in &chunk.skipped {
                if run.first > line {
                    break;
                }
                line += run.count;
            }
            return before + line + 1;
        }
        place -= chunk.entries.len();
        before += chunk.lines;
    }
    before
}

#[cfg(test)]
mod tests;
