//! Opening the key file and creating its temporary file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::store::fault::Fault;

/// Creates a file with mode 0600, whatever the umask. It never has a wider mode.
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

/// Opens a regular file. Opening a pipe returns an error at once instead of waiting for a writer.
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
