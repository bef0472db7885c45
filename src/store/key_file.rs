//! The key file: read as a whole or not at all, replaced as a whole or not at all.
//!
//! Reading takes many threads and little memory: the file is cut into pieces, each thread takes the next piece, and a
//! key that the table holds already is not held twice. Replacing goes temporary file, write, fsync, rename, fsync of
//! the folder, under a lock file that keeps other keygate processes out. Knows nothing of requests and of when to read or
//! write: that is the keeper's.
//!
//! Invariant: whoever opens the file at any instant, after a power cut too, finds the old text or the new, whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Gid, OFlags, Uid};

use crate::policy::key::Key;
use crate::policy::token::TokenHash;
use crate::table::{Entry, Pause, Table};

use super::fault::Fault;
use super::key_json::{self, Shared};
use super::lock_file::LockFile;
use super::strict_json::Complaint;

/// How many faults of one file are told; a last one tells how many more there are.
pub const MOST_FAULTS: usize = 1000;
/// Longest line, in bytes.
const LONGEST_LINE: usize = 1 << 20;
/// What one thread reads at once, in bytes.
const PIECE: u64 = 1 << 20;
/// How often a file that changes under the reader's eyes is tried.
const READ_ATTEMPTS: u32 = 5;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long another process may hold the lock before a write gives up.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// A file that changed this shortly before it was read may change again without a new time stamp.
const CLOCK_TICK: Duration = Duration::from_millis(50);

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

/// Which file, in which condition: changes with every replacement and every write.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether every later change must show in the times; else it has to be read again to be sure.
    settled: bool,
}

impl Stamp {
    /// Whether the file is certainly the same, and unchanged.
    #[must_use]
    pub fn holds(&self, now: Option<Self>) -> bool {
        self.settled && now.is_some_and(|now| self.looks_like(&now))
    }

    fn of(metadata: &fs::Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(Duration::new(
                u64::try_from(changed.0).unwrap_or(0),
                u32::try_from(changed.1).unwrap_or(0),
            ));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
            settled: age > CLOCK_TICK,
        }
    }

    fn looks_like(&self, other: &Self) -> bool {
        let parts = |stamp: &Self| {
            (
                (stamp.device, stamp.inode, stamp.size),
                (stamp.modified, stamp.changed),
            )
        };
        parts(self) == parts(other)
    }
}

/// The file as it stands now, links followed; None where there is none.
#[must_use]
pub fn look(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|found| Stamp::of(&found))
}

/// Reads the whole file. Keys that `table` holds already are the table's own entries.
///
/// # Errors
/// Every fault there is, up to [`MOST_FAULTS`].
pub fn read(path: &Path, table: &Table, pause: Pause) -> Result<Loaded, ReadError> {
    for attempt in 0..READ_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(READ_AGAIN_AFTER);
        }
        let text = Text::open(path).map_err(ReadError::Unreadable)?;
        let loaded = text.parse(table, pause);
        if text.is_unchanged() {
            return loaded;
        }
    }
    Err(ReadError::Unreadable(about(
        path,
        "changes while it is read; try again once it is whole, and replace it by renaming",
    )))
}

/// Makes an empty key file, readable by its owner alone whatever the umask.
///
/// # Errors
/// Where there is such a file already, or it cannot be made.
pub fn make(path: &Path) -> io::Result<()> {
    let file = create_private(path)?;
    file.sync_all()?;
    File::open(folder_of(path))?.sync_all()
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

/// The right to replace the file, until dropped: other keygate processes wait for it.
#[derive(Debug)]
pub struct Locked {
    target: PathBuf,
    folder: File,
    temporary: PathBuf,
    _lock: LockFile,
}

/// Waits for its turn to replace the file, up to `patience`. A symbolic link is followed: its target is what will be
/// replaced.
///
/// # Errors
/// Where nothing can be made in the folder, or another process holds the lock ([`ErrorKind::ResourceBusy`]).
pub fn lock(path: &Path, patience: Duration) -> io::Result<Locked> {
    // A missing file is the reader's to complain of.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = File::open(folder_of(&target))?;
    let found = fs::metadata(&target).ok();
    let lock = LockFile::take(&target, found.as_ref(), patience)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Under the lock one name does, and what a killed process left behind is found and replaced. Some network file systems
    // know no locks: then a name that nobody else has must do.
    let ending = match lock.is_exclusive() {
        true => String::new(),
        false => format!(".{:016x}", RandomState::new().hash_one(std::process::id())),
    };
    let temporary = folder_of(&target).join(format!(".{name}.new{ending}"));
    Ok(Locked {
        target,
        folder,
        temporary,
        _lock: lock,
    })
}

impl Locked {
    /// Replaces the file with these keys. When this returns the new text is on disk, or the old one still is.
    ///
    /// # Errors
    /// Whatever step failed. The temporary file is gone, and where only the folder could not be brought to disk the
    /// old text is put back.
    pub fn replace<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> io::Result<Option<Stamp>> {
        let old = open_regular(&self.target)?;
        let new = self.put(&old, |out| write_all(keys, out))?;
        if let Err(error) = self.folder.sync_all() {
            // Nothing more can be done where this fails too; the next write reads what is there and goes on from it.
            let undone = self.put(&old, |out| io::copy(&mut &old, out).map(drop));
            let _ = undone.and_then(|_| self.folder.sync_all());
            return Err(error);
        }
        // Nobody else has opened this file yet, so its times can be relied on.
        let stamp = new.metadata().ok().map(|found| Stamp {
            settled: true,
            ..Stamp::of(&found)
        });
        Ok(stamp)
    }

    /// Brings a new text to disk beside the file, with the file's owner and mode, and moves it into its place.
    fn put(
        &self,
        like: &File,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<File> {
        let like = like.metadata()?;
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_private(&self.temporary)?;
        let moved = write(&mut file)
            .and_then(|()| keep_owner(&file, &like))
            .and_then(|()| file.set_permissions(like.permissions()))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.target));
        match moved {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = fs::remove_file(&self.temporary);
                Err(error)
            }
        }
    }
}

fn write_all<'k>(keys: impl Iterator<Item = &'k Key>, file: &mut File) -> io::Result<()> {
    const ENOUGH: usize = 256 << 10;
    let mut text = Vec::with_capacity(ENOUGH + LONGEST_LINE / 64);
    for key in keys {
        key_json::write_line(key, &mut text);
        if text.len() >= ENOUGH {
            file.write_all(&text)?;
            text.clear();
        }
    }
    file.write_all(&text)
}

fn keep_owner(file: &File, like: &fs::Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    let owner = Some(Uid::from_raw(like.uid()));
    let group = Some(Gid::from_raw(like.gid()));
    rustix::fs::fchown(file, owner, group).map_err(|error| {
        let (uid, gid) = (like.uid(), like.gid());
        let what = format!(
            "the file's owner {uid}:{gid} cannot be kept ({error}); make it the gateway's own file"
        );
        io::Error::new(ErrorKind::PermissionDenied, what)
    })
}

/// A new file that only its owner may read from its first instant on; the umask can take nothing from that.
fn create_private(path: &Path) -> io::Result<File> {
    let mut new = OpenOptions::new();
    let file = new.write(true).create_new(true).mode(0o600).open(path)?;
    match file.set_permissions(fs::Permissions::from_mode(0o600)) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Opens without waiting for a pipe's other end.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = match kind.is_dir() {
        true => "it is a directory",
        false => "it is not a regular file",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, what))
}

fn about(path: &Path, message: &str) -> Fault {
    Fault {
        file: path.to_owned(),
        line: 0,
        field: String::new(),
        message: message.to_owned(),
    }
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
    faults: Vec<(usize, Complaint)>,
}

/// What the threads that read one file have in common.
struct Work<'t> {
    table: &'t Table,
    pause: Pause,
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

    fn parse(&self, table: &Table, pause: Pause) -> Result<Loaded, ReadError> {
        let work = Work {
            table,
            pause,
            next_piece: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
        };
        let pieces = self
            .parse_pieces(&work)
            .map_err(|error| ReadError::Unreadable(unreadable(self.path, &error)))?;
        let faults = self.faults(&pieces, work.faults.into_inner(), pause);
        if !faults.is_empty() {
            return Err(ReadError::Faulty(faults));
        }
        let count = pieces.iter().map(|piece| piece.entries.len()).sum();
        let mut entries = Vec::with_capacity(count);
        for piece in pieces {
            pause();
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
        let mut shared = Shared::default();
        let mut buffer = Vec::new();
        let mut pieces = Vec::new();
        loop {
            let number = work.next_piece.fetch_add(1, Ordering::Relaxed);
            if number * PIECE >= self.stamp.size {
                return Ok(pieces);
            }
            pieces.push(self.parse_piece(number, work, &mut buffer, &mut shared)?);
        }
    }

    fn parse_piece(
        &self,
        number: u64,
        work: &Work<'_>,
        buffer: &mut Vec<u8>,
        shared: &mut Shared,
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
            (work.pause)();
            piece.take_line(&rest[..end], work, shared);
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
        piece.take_line(&line, work, shared);
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

    fn faults(&self, pieces: &[Piece], found: usize, pause: Pause) -> Vec<Fault> {
        let fault = |line: usize, complaint: &Complaint| Fault {
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
        let repeated = self.repeated(pieces, pause);
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
    fn repeated(&self, pieces: &[Piece], pause: Pause) -> Vec<Fault> {
        let hasher = RandomState::new();
        let ids = repetitions(pieces, Key::id, |id| hasher.hash_one(id), pause);
        let digest = |hash: &TokenHash| {
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let hashes = repetitions(pieces, Key::hash, digest, pause);
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
    fn take_line(&mut self, line: &[u8], work: &Work<'_>, shared: &mut Shared) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let entries = self.entries.len();
        if line.len() > LONGEST_LINE {
            let what = "is longer than 1 MiB; no key is, so look for a missing line end";
            self.complain(work, vec![whole_line(what)]);
        } else if !line.trim_ascii().is_empty() {
            match key_json::parse_line(line, shared) {
                Ok(key) => self.entries.push(work.table.adopt(key)),
                Err(complaints) => self.complain(work, complaints),
            }
        }
        if self.entries.len() == entries {
            self.skipped.push(self.lines);
        }
        self.lines += 1;
    }

    fn complain(&mut self, work: &Work<'_>, complaints: Vec<Complaint>) {
        let before = work.faults.fetch_add(complaints.len(), Ordering::Relaxed);
        // Pieces are taken in the order of the file but not finished so: some more than are told are kept.
        if before < 8 * MOST_FAULTS {
            let line = self.lines;
            let told = complaints.into_iter().map(|complaint| (line, complaint));
            self.faults.extend(told);
        }
    }
}

/// Pairs of keys with the same part, by their places among all: the first that has it, and a later one.
fn repetitions<'k, P: Hash + Eq + ?Sized + 'k>(
    pieces: &'k [Piece],
    part: impl Fn(&'k Key) -> &'k P,
    digest: impl Fn(&P) -> u64,
    pause: Pause,
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
        pause();
        let digest = digest(part);
        heaps[(digest >> (u64::BITS - HEAPS.ilog2())) as usize].push(digest);
    }
    let differ = heaps.iter_mut().all(|heap| {
        pause();
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

fn whole_line(message: &str) -> Complaint {
    Complaint {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::WITHOUT_PAUSE;

    fn line(id: &str, token: &str) -> String {
        let hash = TokenHash::of(token.as_bytes());
        format!(r#"{{"id":"{id}","name":"n","hash":"{hash}","model_access":{{"mode":"all"}}}}"#)
    }

    /// A folder with a key file of this text.
    fn folder_with(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.jsonl");
        fs::write(&file, text).unwrap();
        (folder, file)
    }

    fn ids(text: &[u8]) -> Vec<String> {
        let (_folder, file) = folder_with(text);
        let loaded = read(&file, &Table::default(), WITHOUT_PAUSE).unwrap();
        let ids = loaded
            .entries
            .iter()
            .map(|entry| entry.key().id().to_owned());
        ids.collect()
    }

    /// Line and field of each fault.
    fn faults(text: &[u8]) -> Vec<(usize, String)> {
        let (_folder, file) = folder_with(text);
        let error = read(&file, &Table::default(), WITHOUT_PAUSE).unwrap_err();
        assert!(error.faults().iter().all(|fault| fault.file == file));
        let places = error.faults().iter();
        places
            .map(|fault| (fault.line, fault.field.clone()))
            .collect()
    }

    fn entries_of(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn empty_lines_are_skipped_crlf_is_taken_and_the_last_line_needs_no_end() {
        let (a, b) = (line("a", "1"), line("b", "2"));
        assert_eq!(ids(format!("\n{a}\r\n\r\n\n{b}").as_bytes()), ["a", "b"]);
        assert_eq!(ids(format!("{a}\n{b}\n").as_bytes()), ["a", "b"]);
        assert!(ids(b"").is_empty() && ids(b"\n\n").is_empty());
    }

    #[test]
    fn every_fault_of_a_file_is_named_with_its_line() {
        let (a, b) = (line("a", "1"), line("b", "2"));
        let torn = &a[..40];
        let text = format!("\n{a}\n{{\"id\":\"x\"}}\n\n{torn}\n{b}");
        let expected = [(3, "name"), (3, "hash"), (3, "model_access"), (5, "")];
        let expected: Vec<_> = expected
            .iter()
            .map(|(line, field)| (*line, (*field).to_owned()))
            .collect();
        assert_eq!(faults(text.as_bytes()), expected);
    }

    #[test]
    fn a_file_that_is_cut_off_within_its_last_line_is_not_loaded() {
        let text = format!("{}\n{}", line("a", "1"), line("b", "2"));
        let first = line("a", "1").len();
        for end in 1..text.len() {
            if end == first || end == first + 1 {
                continue;
            }
            let (_folder, file) = folder_with(&text.as_bytes()[..end]);
            assert!(
                read(&file, &Table::default(), WITHOUT_PAUSE).is_err(),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_taken_for_what_was_read() {
        let (a, b) = (line("a", "1"), line("b", "2"));
        let both = format!("{a}\n{b}\n");
        type Change = fn(&Path, &str);
        let changes: [(&str, Change, bool); 4] = [
            ("nothing", |_, _| (), true),
            ("cut short", |file, a| fs::write(file, a).unwrap(), false),
            (
                "written on",
                |file, a| {
                    let mut file = OpenOptions::new().append(true).open(file).unwrap();
                    file.write_all(a.as_bytes()).unwrap();
                },
                false,
            ),
            (
                // Who replaces the file changes nothing of the one that is being read: that one is whole.
                "replaced",
                |file, a| {
                    fs::write(file.with_extension("new"), a).unwrap();
                    fs::rename(file.with_extension("new"), file).unwrap();
                },
                true,
            ),
        ];
        for (name, change, is_whole) in changes {
            let (_folder, file) = folder_with(both.as_bytes());
            // From then on a change has another time, however coarse the file system's clock is.
            std::thread::sleep(CLOCK_TICK);
            let text = Text::open(&file).unwrap();
            change(&file, &a);
            let loaded = text.parse(&Table::default(), WITHOUT_PAUSE);
            if is_whole {
                assert_eq!(loaded.unwrap().entries.len(), 2, "{name}");
            }
            // A link more or less shows in the times of a file that was replaced; then it is read again, and that is all.
            assert!(
                text.is_unchanged() == is_whole || name == "replaced",
                "{name}"
            );
        }
    }

    #[test]
    fn a_repeated_id_or_hash_names_both_lines() {
        let text = [
            line("a", "1"),
            String::new(),
            line("b", "1"),
            line("a", "2"),
            line("a", "3"),
        ]
        .join("\n");
        let (_folder, file) = folder_with(text.as_bytes());
        let error = read(&file, &Table::default(), WITHOUT_PAUSE).unwrap_err();
        let told: Vec<_> = error.faults().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3);
        for (told, start, other) in [
            (&told[0], ":3: hash: ", "line 1"),
            (&told[1], ":4: id: ", "line 1"),
            (&told[2], ":5: id: ", "line 1"),
        ] {
            assert!(told.contains(start) && told.contains(other), "{told}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_bytes_that_are_not_utf8_are_faults() {
        let a = line("a", "1");
        assert_eq!(
            faults(format!("\u{feff}{a}\n").as_bytes()),
            [(1, String::new())]
        );
        let mut bytes = format!("{a}\n").into_bytes();
        bytes.extend_from_slice(b"{\"id\":\"\xe9\"}\n");
        assert_eq!(faults(&bytes), [(2, String::new())]);
        let utf16: Vec<u8> = a.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(!faults(&utf16).is_empty());
    }

    #[test]
    fn what_is_no_file_is_a_fault_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        fs::create_dir(here("directory")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            here("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink(here("loop"), here("loop")).unwrap();
        for (name, what) in [
            ("missing", "does not exist"),
            ("directory", "a directory"),
            ("fifo", "not a regular file"),
            ("loop", "cannot be read"),
        ] {
            match read(&here(name), &Table::default(), WITHOUT_PAUSE) {
                Err(ReadError::Unreadable(fault)) => {
                    assert!(fault.line == 0 && fault.message.contains(what), "{fault}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn lines_keep_their_numbers_wherever_the_pieces_are_cut() {
        let text_of = |bad: fn(usize) -> bool| -> String {
            let id = |number| match bad(number) {
                true => "bad id".to_owned(),
                false => format!("key_{number}"),
            };
            let lines = (0..20_000).map(|number| line(&id(number), &number.to_string()) + "\n");
            lines.collect()
        };
        let text = text_of(|number| number % 5000 == 4999);
        assert!(text.len() as u64 > 2 * PIECE);
        let expected = [5000, 10_000, 15_000, 20_000].map(|line| (line, "id".to_owned()));
        assert_eq!(faults(text.as_bytes()), expected);
        let read = ids(text_of(|_| false).as_bytes());
        assert!(read.len() == 20_000 && read[17_000] == "key_17000");
    }

    #[test]
    fn a_piece_that_ends_with_a_line_loses_and_repeats_nothing() {
        let line = |number: usize| {
            let text = line(&format!("key_{number:08}"), &number.to_string());
            // 256 bytes, so that every piece ends with a line.
            format!("{text}{}\n", " ".repeat(255 - text.len()))
        };
        let text: String = (0..10_000).map(line).collect();
        assert_eq!(PIECE % 256, 0);
        assert_eq!(ids(text.as_bytes()).len(), 10_000);
    }

    #[test]
    fn a_line_without_end_is_refused_without_reading_it_whole() {
        let (_folder, file) = folder_with(b"");
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let error = read(&file, &Table::default(), WITHOUT_PAUSE).unwrap_err();
        assert!(
            error.to_string().contains(":1: is longer than 1 MiB"),
            "{error}"
        );
    }

    #[test]
    fn of_very_many_faults_a_thousand_are_told_and_the_rest_counted() {
        let (_folder, file) = folder_with("{}\n".repeat(200_000).as_bytes());
        let error = read(&file, &Table::default(), WITHOUT_PAUSE).unwrap_err();
        let faults = error.faults();
        assert_eq!(faults.len(), MOST_FAULTS + 1);
        assert_eq!((faults[0].line, faults[999].line), (1, 250));
        assert!(
            faults[1000].message.contains("799000 more faults"),
            "{}",
            faults[1000]
        );
    }

    #[test]
    fn a_record_that_is_in_the_table_is_not_held_twice() {
        let (_folder, file) =
            folder_with(format!("{}\n{}", line("a", "1"), line("b", "2")).as_bytes());
        let table = Table::default();
        table.swap(
            read(&file, &table, WITHOUT_PAUSE).unwrap().entries,
            WITHOUT_PAUSE,
        );
        let again = read(&file, &table, WITHOUT_PAUSE).unwrap();
        assert!(Arc::ptr_eq(&again.entries[0], &table.by_id("a").unwrap()));
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_its_link_and_leaves_nothing_beside_it() {
        let (folder, file) = folder_with(format!("{}\n", line("a", "1")).as_bytes());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("keys.jsonl", &link).unwrap();
        let loaded = read(&link, &Table::default(), WITHOUT_PAUSE).unwrap();
        // What a killed process may have left.
        fs::write(folder.path().join(".keys.jsonl.new"), "half a li").unwrap();
        let stamp = lock(&link, LOCK_WAIT)
            .unwrap()
            .replace(loaded.entries.iter().map(|entry| entry.key()));
        assert!(stamp.unwrap().unwrap().holds(look(&link)));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(entries_of(folder.path()), 2);
        assert_eq!(
            read(&file, &Table::default(), WITHOUT_PAUSE)
                .unwrap()
                .entries
                .len(),
            1
        );
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let (folder, file) = folder_with(b"old text");
        let locked = lock(&file, LOCK_WAIT).unwrap();
        let old = File::open(&file).unwrap();
        let failed = locked.put(&old, |out| {
            out.write_all(b"new te")?;
            Err(io::Error::from(ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
        drop(locked);
        assert_eq!(fs::read(&file).unwrap(), b"old text");
        assert_eq!(entries_of(folder.path()), 1);
    }

    #[test]
    fn a_second_writer_waits_for_the_first() {
        let (_folder, file) = folder_with(b"");
        let first = lock(&file, LOCK_WAIT).unwrap();
        std::thread::scope(|scope| {
            let (told, second) = std::sync::mpsc::channel();
            let file = &file;
            scope.spawn(move || told.send(lock(file, LOCK_WAIT).is_ok()).unwrap());
            assert!(second.recv_timeout(Duration::from_millis(50)).is_err());
            drop(first);
            assert!(second.recv_timeout(LOCK_WAIT).unwrap());
        });
    }

    #[test]
    fn a_stamp_tells_every_change_and_mistrusts_what_is_too_fresh() {
        let (_folder, file) = folder_with(b"");
        let fresh = look(&file).unwrap();
        assert!(!fresh.holds(look(&file)));
        let settled = Stamp {
            settled: true,
            ..fresh
        };
        assert!(settled.holds(look(&file)));
        assert!(!settled.holds(None));
        fs::write(&file, b"x").unwrap();
        assert!(!settled.holds(look(&file)));
    }

    #[test]
    fn a_made_file_is_its_owners_alone_and_never_takes_anothers_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.jsonl");
        make(&file).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert!(
            read(&file, &Table::default(), WITHOUT_PAUSE)
                .unwrap()
                .entries
                .is_empty()
        );
        assert_eq!(make(&file).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(readable_by_others(&file).is_none());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(readable_by_others(&file).is_some());
    }
}
