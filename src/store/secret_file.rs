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
    let (about, user) = (open.metadata()?, rustix::process::geteuid().as_raw());
    if may_be_used_by_others(about.mode(), about.uid(), user) {
        return Err(invalid(
            "others may read or write this secret; run chmod 600 on the file",
        ));
    }
    // Room for all of it from the start: a text that grows leaves copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(most).unwrap_or(0)));
    open.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// A file of root's may be readable by its group: so it comes from a Secret of Kubernetes, whose group is the gateway's.
fn may_be_used_by_others(mode: u32, owner: u32, user: u32) -> bool {
    let is_roots = owner == 0 && user != 0;
    mode & if is_roots { 0o037 } else { 0o077 } != 0
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

/// Bytes of a key in a file.
pub(crate) const KEY_BYTES: usize = 32;

/// Reads a file that holds a key of 256 bits in hexadecimal.
///
/// # Errors
/// As [`read`], or it holds no such key.
pub(crate) fn read_key(file: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let text = read(file, KEY_BYTES as u64 * 2 + 64)?;
    let hash = blake3::Hash::from_hex(text.trim_ascii())
        .map_err(|_| invalid("holds no secret of 64 hexadecimal digits; restore the file, or delete it for a new one"))?;
    Ok(Zeroizing::new(*hash.as_bytes()))
}

/// Makes a file with a new key. Where another process made it first, reads that one.
///
/// # Errors
/// It can be neither made nor read.
pub(crate) fn make_key(file: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    let line = Zeroizing::new(format!("{}\n", blake3::Hash::from_bytes(*key).to_hex()));
    match make(file, &line)? {
        true => Ok(key),
        false => read_key(file),
    }
}

/// What the file holds is no secret.
pub(crate) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_right_to_read_is_taken_of_a_file_of_roots_alone() {
        let (root, gateway, other) = (0, 65_532, 1_000);
        for (mode, owner, user, is_refused) in [
            (0o100_600, gateway, gateway, false),
            (0o100_400, root, root, false),
            (0o100_440, root, gateway, false),
            (0o100_640, root, gateway, false),
            (0o100_440, gateway, gateway, true),
            (0o100_440, other, gateway, true),
            (0o100_440, root, root, true),
            (0o100_460, root, gateway, true),
            (0o100_444, root, gateway, true),
            (0o100_604, gateway, gateway, true),
        ] {
            let refused = may_be_used_by_others(mode, owner, user);
            assert_eq!(refused, is_refused, "{mode:o} of {owner} for {user}");
        }
    }
}
