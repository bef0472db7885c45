//! The length of an audio file, read from its headers by the crate `lofty`: nothing is decoded, and neither tags nor
//! pictures are read.
//!
//! The files are what clients send, so anything may be in them. The reader counts every step that the crate takes and
//! ends the reading at a limit, the crate's allocations have a limit too, and a panic of the crate stays in here. What
//! cannot be read is unknown.

use std::cell::Cell;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lofty::config::{GlobalOptions, ParseOptions, apply_global_options};
use lofty::file::{AudioFile, FileType};
use lofty::probe::Probe;

/// Reads and seeks of one reading. Ordinary files take a few hundred; this many take some milliseconds. A count gives
/// the same answer on a busy machine as on an idle one, which a deadline does not.
const MAX_STEPS: u64 = 1 << 18;
/// So many bytes of one read count as one step more.
const BYTES_PER_STEP: u64 = 64;
/// The most bytes that the crate allocates at once for what a header declares.
const MAX_ALLOCATION: usize = 1 << 20;
/// A file with fewer bytes for each second is not believed: its header says more than it has. The densest codec that
/// speech is sent in, FLAC with silence, has more than 20.
const MIN_BYTES_PER_SECOND: u64 = 16;

thread_local! {
    static IS_READING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in [`length`]. A panic then is one of a file that the crate cannot read, and ends there.
#[must_use]
pub fn is_reading() -> bool {
    IS_READING.get()
}

/// The length of an audio file, to the millisecond. None: it is unknown.
///
/// It takes some milliseconds at most, and usually a few microseconds.
#[must_use]
pub fn length(file: &[u8]) -> Option<Duration> {
    IS_READING.set(true);
    let read = catch_unwind(AssertUnwindSafe(|| read_length(file)));
    IS_READING.set(false);
    let length = read.ok()??;
    let bytes = u64::try_from(file.len()).ok()?;
    let is_believed = length.as_secs() <= bytes / MIN_BYTES_PER_SECOND;
    (is_believed && !length.is_zero()).then_some(length)
}

fn read_length(file: &[u8]) -> Option<Duration> {
    // They hold for this thread.
    apply_global_options(
        GlobalOptions::new()
            .allocation_limit(MAX_ALLOCATION)
            .use_custom_resolvers(false),
    );
    let reader = LimitedReader {
        file: Cursor::new(file),
        steps: MAX_STEPS,
    };
    let options = ParseOptions::new().read_tags(false).read_cover_art(false);
    let probe = Probe::new(reader).options(options).guess_file_type().ok()?;
    // In a bare stream of AAC no header says the length, and what the crate makes of its first frames is often a tenth off.
    if probe.file_type() == Some(FileType::Aac) {
        return None;
    }
    Some(probe.read().ok()?.properties().duration())
}

/// A file that can be read with so many steps.
struct LimitedReader<'f> {
    file: Cursor<&'f [u8]>,
    steps: u64,
}

impl LimitedReader<'_> {
    fn step(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let left = self.steps.checked_sub(1 + bytes / BYTES_PER_STEP);
        self.steps = left.ok_or_else(|| io::Error::other("too many steps"))?;
        Ok(())
    }
}

impl Read for LimitedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.step(into.len())?;
        self.file.read(into)
    }
}

impl Seek for LimitedReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.step(0)?;
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests;
