//! Reading the key file, on many threads, with every fault named.

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
use crate::store::key_file::open::{about, open_regular};
use crate::store::key_file::stamp::Stamp;
use crate::store::key_json::{self, Interner};
use crate::store::strict_json::FieldError;
use crate::table::{Entry, Table, YieldPoint};

/// How many faults of one file are told; a last one tells how many more there are.
pub const MOST_FAULTS: usize = 1000;

/// Longest line, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// What one thread reads at once, in bytes.
const PIECE: u64 = 1 << 20;

/// How often a file that changes under the reader's eyes is tried.
const READ_ATTEMPTS: u32 = 5;

const READ_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What a key file holds.
#[derive(Debug)]
pub struct Loaded {
    /// Its keys, in its order.
    pub entries: Vec<Arc<Entry>>,
    /// Which file that was.
    pub stamp: Stamp,
}

/// Why a key file is not loaded.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// It was read, and these things in it are wrong. Not empty.
    Faulty(Vec<Fault>),
    /// It could not be read, or is no regular file.
    Unreadable(Fault),
}

impl ReadError {
    /// What is wrong, in the order of the file; at least one.
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
/// Every fault there is, up to [`MOST_FAULTS`].
pub fn read(path: &Path, table: &Table, yield_point: YieldPoint) -> Result<Loaded, ReadError> {
    for attempt in 0..READ_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(READ_AGAIN_AFTER);
        }
        let text = Text::open(path).map_err(ReadError::Unreadable)?;
        let loaded = text.parse(table, yield_point);
        if text.is_unchanged() {
            return loaded;
        }
    }
    Err(ReadError::Unreadable(about(
        path,
        "changes while it is read; try again once it is whole, and replace it by renaming",
    )))
}

/// A warning where everybody on the machine may read the file.
#[must_use]
pub fn readable_by_others(path: &Path) -> Option<Fault> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let open = mode & 0o004 != 0;
    open.then(|| {
        about(
            path,
            "is readable by everybody on this machine; chmod o-rwx it",
        )
    })
}

/// A file that is being read.
struct Text<'p> {
    path: &'p Path,
    file: File,
    stamp: Stamp,
}

/// The lines that begin within one piece of the file.
#[derive(Default)]
struct Piece {
    number: u64,
    lines: usize,
    entries: Vec<Arc<Entry>>,
    /// The lines without one, counted from the piece's first.
    skipped: Vec<usize>,
    /// With the line, counted likewise.
    faults: Vec<(usize, FieldError)>,
}

/// What the threads that read one file have in common.
struct Work<'t> {
    table: &'t Table,
    yield_point: YieldPoint,
    next_piece: AtomicU64,
    /// All faults found, told or not.
    faults: AtomicUsize,
}

impl<'p> Text<'p> {
    fn open(path: &'p Path) -> Result<Self, Fault> {
        let opened = open_regular(path).and_then(|file| file.metadata().map(|found| (file, found)));
        match opened {
            Ok((file, found)) => Ok(Self {
                path,
                file,
                stamp: Stamp::of(&found),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(about(
                path,
                "does not exist; create it, or name the right file",
            )),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn is_unchanged(&self) -> bool {
        let now = self.file.metadata().ok().map(|found| Stamp::of(&found));
        now.is_some_and(|now| self.stamp.looks_like(&now))
    }

    fn parse(&self, table: &Table, yield_point: YieldPoint) -> Result<Loaded, ReadError> {
        let work = Work {
            table,
            yield_point,
            next_piece: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
        };
        let pieces = self
            .parse_pieces(&work)
            .map_err(|error| ReadError::Unreadable(unreadable(self.path, &error)))?;
        let faults = self.faults(&pieces, work.faults.into_inner(), yield_point);
        if !faults.is_empty() {
            return Err(ReadError::Faulty(faults));
        }
        let count = pieces.iter().map(|piece| piece.entries.len()).sum();
        let mut entries = Vec::with_capacity(count);
        for piece in pieces {
            yield_point();
            entries.extend(piece.entries);
        }
        Ok(Loaded {
            entries,
            stamp: self.stamp,
        })
    }

    fn parse_pieces(&self, work: &Work<'_>) -> io::Result<Vec<Piece>> {
        let count = self.stamp.size.div_ceil(PIECE);
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(usize::try_from(count).unwrap_or(usize::MAX));
        let mut pieces = if threads < 2 {
            self.parse_in_turn(work)?
        } else {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|_| scope.spawn(|| self.parse_in_turn(work)))
                    .collect();
                let mut all = Vec::new();
                for thread in running {
                    let lost = |_| Err(io::Error::other("a reading thread ended early"));
                    all.extend(thread.join().unwrap_or_else(lost)?);
                }
                io::Result::Ok(all)
            })?
        };
        pieces.sort_unstable_by_key(|piece| piece.number);
        Ok(pieces)
    }

    fn parse_in_turn(&self, work: &Work<'_>) -> io::Result<Vec<Piece>> {
        let mut interner = Interner::default();
        let mut buffer = Vec::new();
        let mut pieces = Vec::new();
        loop {
            let number = work.next_piece.fetch_add(1, Ordering::Relaxed);
            if number * PIECE >= self.stamp.size {
                return Ok(pieces);
            }
            pieces.push(self.parse_piece(number, work, &mut buffer, &mut interner)?);
        }
    }

    fn parse_piece(
        &self,
        number: u64,
        work: &Work<'_>,
        buffer: &mut Vec<u8>,
        interner: &mut Interner,
    ) -> io::Result<Piece> {
        let mut piece = Piece {
            number,
            ..Piece::default()
        };
        let mut rest = match number {
            0 => {
                self.fill(buffer, 0, PIECE)?;
                match buffer.strip_prefix(b"\xef\xbb\xbf") {
                    Some(rest) => {
                        let what = "begins with a byte-order mark; save it without one";
                        piece.complain(work, vec![whole_line(what)]);
                        rest
                    }
                    None => buffer,
                }
            }
            // The byte before tells whether a line begins with the piece's first.
            _ => {
                self.fill(buffer, number * PIECE - 1, PIECE + 1)?;
                match memchr::memchr(b'\n', buffer) {
                    Some(end) => &buffer[end + 1..],
                    None => return Ok(piece),
                }
            }
        };
        while let Some(end) = memchr::memchr(b'\n', rest) {
            (work.yield_point)();
            piece.take_line(&rest[..end], work, interner);
            rest = &rest[end + 1..];
        }
        if rest.is_empty() {
            return Ok(piece);
        }
        let mut line = rest.to_vec();
        let mut more = Vec::new();
        let mut at = (number + 1) * PIECE;
        while line.len() <= LONGEST_LINE && at < self.stamp.size {
            self.fill(&mut more, at, PIECE / 64)?;
            at += PIECE / 64;
            match memchr::memchr(b'\n', &more) {
                Some(end) => {
                    line.extend_from_slice(&more[..end]);
                    break;
                }
                None => line.extend_from_slice(&more),
            }
        }
        piece.take_line(&line, work, interner);
        Ok(piece)
    }

    /// Reads up to `length` bytes at `at`; fewer only at the end of the file as it was when opened.
    fn fill(&self, buffer: &mut Vec<u8>, at: u64, length: u64) -> io::Result<()> {
        let length = length.min(self.stamp.size.saturating_sub(at));
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        match self.file.read_exact_at(buffer, at) {
            // Cut short meanwhile: what was read is thrown away, see `is_unchanged`.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            done => done,
        }
    }

    fn faults(&self, pieces: &[Piece], found: usize, yield_point: YieldPoint) -> Vec<Fault> {
        let fault = |line: usize, complaint: &FieldError| Fault {
            file: self.path.to_owned(),
            line,
            field: complaint.field.clone(),
            message: complaint.message.clone(),
        };
        let mut faults = Vec::new();
        let mut lines = 0;
        for piece in pieces {
            let here = piece.faults.iter();
            faults.extend(here.map(|(line, complaint)| fault(lines + line + 1, complaint)));
            lines += piece.lines;
        }
        let repeated = self.repeated(pieces, yield_point);
        let found = found + repeated.len();
        faults.extend(repeated.into_iter().take(MOST_FAULTS));
        faults.sort_by_key(|fault| fault.line);
        faults.truncate(MOST_FAULTS);
        if found > faults.len() {
            let more = found - faults.len();
            let what = format!("has {more} more faults, not listed here; mend these first");
            faults.push(about(self.path, &what));
        }
        faults
    }

    /// A fault for every key whose id or hash an earlier line has.
    fn repeated(&self, pieces: &[Piece], yield_point: YieldPoint) -> Vec<Fault> {
        let hasher = RandomState::new();
        let ids = repetitions(pieces, Key::id, |id| hasher.hash_one(id), yield_point);
        let digest = |hash: &TokenHash| {
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let hashes = repetitions(pieces, Key::hash, digest, yield_point);
        let fault = |field: &str, (first, later): (usize, usize), remedy: &str| {
            let first = line_of(pieces, first);
            Fault {
                file: self.path.to_owned(),
                line: line_of(pieces, later),
                field: field.to_owned(),
                message: format!("is that of the key in line {first} too; {remedy}"),
            }
        };
        let ids = ids
            .into_iter()
            .map(|pair| fault("id", pair, "give each key an id of its own"));
        let hashes = hashes
            .into_iter()
            .map(|pair| fault("hash", pair, "give each key a token of its own"));
        ids.chain(hashes).collect()
    }
}

impl Piece {
    fn take_line(&mut self, line: &[u8], work: &Work<'_>, interner: &mut Interner) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let entries = self.entries.len();
        if line.len() > LONGEST_LINE {
            let what = "is longer than 1 MiB; no key is, so look for a missing line end";
            self.complain(work, vec![whole_line(what)]);
        } else if !line.trim_ascii().is_empty() {
            match key_json::parse_line(line, interner) {
                Ok(key) => self.entries.push(work.table.adopt(key)),
                Err(complaints) => self.complain(work, complaints),
            }
        }
        if self.entries.len() == entries {
            self.skipped.push(self.lines);
        }
        self.lines += 1;
    }

    fn complain(&mut self, work: &Work<'_>, complaints: Vec<FieldError>) {
        let before = work.faults.fetch_add(complaints.len(), Ordering::Relaxed);
        // Pieces are taken in the order of the file but not finished so: some more than are told are kept.
        if before < 8 * MOST_FAULTS {
            let line = self.lines;
            let told = complaints.into_iter().map(|complaint| (line, complaint));
            self.faults.extend(told);
        }
    }
}

fn whole_line(message: &str) -> FieldError {
    FieldError {
        field: String::new(),
        message: message.to_owned(),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    about(
        path,
        &format!("cannot be read: {error}; name a file that the gateway may read"),
    )
}

/// Pairs of keys with the same part, by their places among all: the first that has it, and a later one.
fn repetitions<'k, P: Hash + Eq + ?Sized + 'k>(
    pieces: &'k [Piece],
    part: impl Fn(&'k Key) -> &'k P,
    digest: impl Fn(&P) -> u64,
    yield_point: YieldPoint,
) -> Vec<(usize, usize)> {
    /// One for each first byte of a digest: each is sorted in a fraction of a millisecond.
    const HEAPS: usize = 256;
    let parts = || {
        let entries = pieces.iter().flat_map(|piece| &piece.entries);
        entries.map(|entry| part(entry.key()))
    };
    let count: usize = pieces.iter().map(|piece| piece.entries.len()).sum();
    // They differ a little.
    let roomy = || Vec::with_capacity(count / HEAPS + count / HEAPS / 8);
    let mut heaps: Vec<Vec<u64>> = iter::repeat_with(roomy).take(HEAPS).collect();
    for part in parts() {
        yield_point();
        let digest = digest(part);
        heaps[(digest >> (u64::BITS - HEAPS.ilog2())) as usize].push(digest);
    }
    let differ = heaps.iter_mut().all(|heap| {
        yield_point();
        heap.sort_unstable();
        heap.is_sorted_by(|one, next| one < next)
    });
    if differ {
        return Vec::new();
    }
    // Rare, so it may take its time.
    drop(heaps);
    let mut firsts = HashMap::new();
    let mut found = Vec::new();
    for (place, part) in parts().enumerate() {
        match firsts.entry(part) {
            Occupied(first) => found.push((*first.get(), place)),
            Vacant(free) => drop(free.insert(place)),
        }
    }
    found
}

/// The line of the key at this place among all.
fn line_of(pieces: &[Piece], mut place: usize) -> usize {
    let mut before = 0;
    for piece in pieces {
        if place < piece.entries.len() {
            let skipped = piece.skipped.iter();
            let line = skipped.fold(place, |line, skipped| line + usize::from(*skipped <= line));
            return before + line + 1;
        }
        place -= piece.entries.len();
        before += piece.lines;
    }
    before
}

#[cfg(test)]
mod tests;
