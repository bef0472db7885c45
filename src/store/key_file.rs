//! The key file: read as a whole or not at all, replaced as a whole or not at all.
//!
//! Reading takes many threads and little memory: the file is cut into pieces, each thread takes the next piece, and a
//! key that the table holds already is not held twice. Replacing goes temporary file, write, fsync, rename, fsync of
//! the folder, under a lock on the folder that keeps other keygate processes out and leaves no file behind. Knows
//! nothing of requests and of when to read or write: that is the keeper's.
//!
//! Invariant: whoever opens the file at any instant, after a power cut too, finds the old text or the new, whole.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{self, ErrorKind, Write};
use std::num::NonZero;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Gid, OFlags, Uid};

use crate::policy::key::Key;
use crate::table::{Entry, Table};

use super::fault::Fault;
use super::record::{self, Complaint, Shared};

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
pub fn read(path: &Path, table: &Table) -> Result<Loaded, ReadError> {
    for attempt in 0..READ_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(READ_AGAIN_AFTER);
        }
        let text = Text::open(path).map_err(ReadError::Unreadable)?;
        let loaded = text.parse(table);
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
}

/// Waits for its turn to replace the file, up to `patience`. A symbolic link is followed: its target is what will be
/// replaced.
///
/// # Errors
/// Where the folder cannot be opened, or another process keeps it locked ([`ErrorKind::ResourceBusy`]).
pub fn lock(path: &Path, patience: Duration) -> io::Result<Locked> {
    // A missing file is the reader's to complain of.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = File::open(folder_of(&target))?;
    let deadline = Instant::now() + patience;
    let exclusive = loop {
        match folder.try_lock() {
            Ok(()) => break true,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    ErrorKind::ResourceBusy,
                    "another process keeps the key file's folder locked",
                ));
            }
            // Some network file systems know no locks on folders: then names that nobody else has must do.
            Err(TryLockError::Error(_)) => break false,
        }
    };
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Under the lock one name does, and what a killed process left behind is found and replaced.
    let ending = match exclusive {
        true => String::new(),
        false => format!(".{:016x}", RandomState::new().hash_one(std::process::id())),
    };
    let temporary = folder_of(&target).join(format!(".{name}.new{ending}"));
    Ok(Locked {
        target,
        folder,
        temporary,
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
        record::write_line(key, &mut text);
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
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
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
    /// For each entry its line, counted from the piece's first.
    entry_lines: Vec<u32>,
    /// With the line, counted likewise.
    faults: Vec<(usize, Complaint)>,
}

/// What the threads that read one file have in common.
struct Work<'t> {
    table: &'t Table,
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

    fn parse(&self, table: &Table) -> Result<Loaded, ReadError> {
        let work = Work {
            table,
            next_piece: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
        };
        let pieces = self
            .parse_pieces(&work)
            .map_err(|error| ReadError::Unreadable(unreadable(self.path, &error)))?;
        let faults = self.faults(&pieces, work.faults.into_inner());
        if !faults.is_empty() {
            return Err(ReadError::Faulty(faults));
        }
        let count = pieces.iter().map(|piece| piece.entries.len()).sum();
        let mut entries = Vec::with_capacity(count);
        entries.extend(pieces.into_iter().flat_map(|piece| piece.entries));
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

    fn faults(&self, pieces: &[Piece], found: usize) -> Vec<Fault> {
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
        let repeated = self.repeated(pieces);
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
    fn repeated(&self, pieces: &[Piece]) -> Vec<Fault> {
        let keys: Vec<&Key> = pieces
            .iter()
            .flat_map(|piece| piece.entries.iter().map(|entry| entry.key()))
            .collect();
        let (ids, hashes) = std::thread::scope(|scope| {
            let ids = scope.spawn(|| repetitions(&keys, Key::id));
            let hashes = repetitions(&keys, |key| key.hash());
            (ids.join().unwrap_or_default(), hashes)
        });
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
        if line.len() > LONGEST_LINE {
            let what = "is longer than 1 MiB; no key is, so look for a missing line end";
            self.complain(work, vec![whole_line(what)]);
        } else if !line.trim_ascii().is_empty() {
            match record::parse_line(line, shared) {
                Ok(key) => {
                    self.entries.push(work.table.adopt(key));
                    let line = u32::try_from(self.lines).unwrap_or(u32::MAX);
                    self.entry_lines.push(line);
                }
                Err(complaints) => self.complain(work, complaints),
            }
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

/// Pairs of places in `keys` with the same part: the first that has it, and a later one.
fn repetitions<'k, P: Hash + Eq + ?Sized + 'k>(
    keys: &[&'k Key],
    part: impl Fn(&'k Key) -> &'k P,
) -> Vec<(usize, usize)> {
    let hasher = RandomState::new();
    let mut digests: Vec<(u64, usize)> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| (hasher.hash_one(part(key)), place))
        .collect();
    digests.sort_unstable();
    let alike = digests.chunk_by(|(one, _), (other, _)| one == other);
    let mut found = Vec::new();
    for alike in alike.filter(|alike| alike.len() > 1) {
        let (_, first) = alike[0];
        let same = |place: &usize| part(keys[*place]) == part(keys[first]);
        let later = alike[1..].iter().map(|(_, place)| *place).filter(same);
        found.extend(later.map(|later| (first, later)));
    }
    found
}

fn line_of(pieces: &[Piece], mut place: usize) -> usize {
    let mut lines = 1;
    for piece in pieces {
        match piece.entry_lines.get(place) {
            Some(line) => return lines + *line as usize,
            None => place -= piece.entry_lines.len(),
        }
        lines += piece.lines;
    }
    lines
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
