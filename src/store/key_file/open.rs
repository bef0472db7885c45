//! How the key file, and what is to take its place, is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::store::fault::Fault;

/// A new file that only its owner may read from its first instant on; the umask can take nothing from that.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
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

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Opens without waiting for a pipe's other end.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
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

pub(crate) fn file_fault(path: &Path, message: &str) -> Fault {
    Fault {
        file: path.to_owned(),
        line: 0,
        field: String::new(),
        message: message.to_owned(),
    }
}
