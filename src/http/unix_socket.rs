//! Unix sockets in the file system: bound under a private name and renamed into place, so that they have their
//! permissions from the first instant anybody can see them, and nobody else's file is ever replaced.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Longest path that a Unix socket's address holds, in bytes.
pub const MAX_PATH: usize = 107;

/// Listens at `path` with these permissions. A socket file that nobody answers on is replaced.
///
/// # Errors
/// `AddrInUse` where a process answers on it; `AlreadyExists` where another kind of file stands there, which is left
/// alone; else what the system says.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if path.as_os_str().len() > MAX_PATH {
        let what = format!(
            "the path is longer than {MAX_PATH} bytes, which no Unix socket can have; use a shorter one"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let what =
                "a file that is no socket stands there; move it away, or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        }
    }
    bind_and_rename(path, mode)
}

/// The folder in between is private, so the socket cannot be reached before its permissions are set; renaming puts it
/// in the place of a stale one at once.
fn bind_and_rename(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let private = folder.join(format!(".kg{:x}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let bound = (|| {
        let inner = private.join("s");
        let listener = UnixListener::bind(&inner)?;
        fs::set_permissions(&inner, Permissions::from_mode(mode))?;
        fs::rename(&inner, path)?;
        Ok(listener)
    })();
    // What is left of the folder after a failure must not stand in the way of the next start.
    let _ = fs::remove_file(private.join("s"));
    let _ = fs::remove_dir(&private);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_its_permissions_and_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = bind(&path, 0o600).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left behind"
        );
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let live = bind(&path, 0o600).unwrap();
        assert_eq!(
            bind(&path, 0o600).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(live);
        let _next = bind(&path, 0o600).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn any_other_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(&path, "mine").unwrap();
        assert_eq!(
            bind(&path, 0o600).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert_eq!(
            bind(&link, 0o600).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn a_path_too_long_says_so() {
        let long = Path::new("/tmp").join("x".repeat(120));
        assert!(bind(&long, 0o600).unwrap_err().to_string().contains("107"));
    }
}
