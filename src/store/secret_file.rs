//! A file that holds one secret, which only the gateway's user may read.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// Reads at most `most` bytes of the file.
///
/// # Errors
/// It cannot be read, others may read or write it, or it is no text.
pub(crate) fn read(file: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    // Without this, opening a named pipe would wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(file)?;
    if open.metadata()?.mode() & 0o077 != 0 {
        return Err(invalid(
            "others may read or write this secret; run chmod 600 on the file",
        ));
    }
    // Room for all of it from the start: a text that grows leaves copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(most).unwrap_or(0)));
    open.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes the file with this text, whole from its first instant: one that is cut short would make the next start fail.
/// Returns false where another process made it first.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make(file: &Path, text: &str) -> io::Result<bool> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Of mode 0600, by the crate.
    let mut made = tempfile::Builder::new()
        .prefix(".secret-")
        .tempfile_in(folder)?;
    made.write_all(text.as_bytes())?;
    made.as_file().sync_all()?;
    match made.persist_noclobber(file) {
        Ok(_) => Ok(true),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(failed) => Err(failed.error),
    }
}

/// What the file holds is no secret.
pub(crate) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}
