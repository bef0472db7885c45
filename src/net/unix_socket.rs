//! Unix sockets in the file system. A socket file has its final permissions from its creation on, and a socket of
//! another process is never replaced.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::store::lock_file::LockFile;

/// The size of `sun_path`, including the NUL at its end (unix(7)).
const MAX_PATH: usize = 108;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long to wait while another process claims the same socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The socket's file, which is removed when the socket is closed.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why a socket cannot be claimed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// The path is too long for a socket.
    TooLong(PathBuf),
    /// Another process listens there.
    Taken(PathBuf),
    /// A file that is no socket is there.
    Occupied(PathBuf),
    /// A system call failed.
    Failed(PathBuf, io::Error),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(path) => write!(
                f,
                "{}: the path of a socket holds at most {} bytes, this one has {}; choose a shorter one",
                path.display(),
                MAX_PATH - 1,
                path.as_os_str().len()
            ),
            Self::Taken(path) => write!(
                f,
                "{}: another process answers on this socket; stop it, or choose another path",
                path.display()
            ),
            Self::Occupied(path) => write!(
                f,
                "{}: is there and is no socket; remove it, or choose another path",
                path.display()
            ),
            Self::Failed(path, error) => write!(
                f,
                "{}: cannot listen here: {error}; check the folder and its permissions, or choose another path",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ClaimError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(_, error) => Some(error),
            Self::TooLong(_) | Self::Taken(_) | Self::Occupied(_) => None,
        }
    }
}

/// Permissions of a socket that only this user may connect to.
pub(crate) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Permissions of a socket that every user may connect to.
pub(crate) const PUBLIC: Mode = Mode::from_raw_mode(0o666);

/// Listens at `path`, with a socket file of these permissions. A socket that no process listens on is replaced. A
/// socket in use, and any other file, is left as it is. The returned listener is non-blocking, as tokio requires.
///
/// # Errors
/// [`ClaimError`]
pub(crate) fn claim(path: &Path, mode: Mode) -> Result<(UnixListener, SocketFile), ClaimError> {
    if path.as_os_str().as_bytes().len() >= MAX_PATH {
        return Err(ClaimError::TooLong(path.into()));
    }
    let failed = |error| ClaimError::Failed(path.into(), error);
    // Without the lock, another process could claim a stale socket after this one finds it stale and before this one
    // replaces it.
    let _lock = LockFile::take(path, None, LOCK_WAIT).map_err(failed)?;
    let socket = match bind(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            bind(path, mode).map_err(failed)?
        }
        socket => socket.map_err(failed)?,
    };
    let file = own_file(path, mode).map_err(failed)?;
    Ok((socket.into(), file))
}

/// The file of a socket that was just bound, with the permissions that the umask took from it. The file is opened once
/// and changed by that descriptor: by its path, another user of the folder could have it changed to any other file.
fn own_file(path: &Path, mode: Mode) -> io::Result<SocketFile> {
    let descriptor = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    let found = rustix::fs::fstat(&descriptor)?;
    let is_own = FileType::from_raw_mode(found.st_mode) == FileType::Socket
        && found.st_uid == rustix::process::geteuid().as_raw();
    if !is_own {
        let message = "another user replaced the socket's file while it was made";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if Mode::from_raw_mode(found.st_mode) != mode {
        // A path of its own for each descriptor (proc(5)).
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        rustix::fs::chmod(path, mode)?;
    }
    Ok(SocketFile {
        path: path.into(),
        device: found.st_dev,
        inode: found.st_ino,
    })
}

impl SocketFile {
    /// Removes the file, unless another process has replaced it.
    pub(crate) fn release(self) {
        let _lock = LockFile::take(&self.path, None, LOCK_WAIT);
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours {
            // If the file can't be removed, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// On Linux `bind` creates the file with the mode of the socket. Setting the mode before `bind` leaves no moment at
/// which other users could connect, and does not need the process-wide umask.
fn bind(path: &Path, mode: Mode) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    rustix::fs::fchmod(&socket, mode)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn remove_stale(path: &Path) -> Result<(), ClaimError> {
    let failed = |error| ClaimError::Failed(path.into(), error);
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.file_type().is_socket() {
        return Err(ClaimError::Occupied(path.into()));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // A process that is too busy to accept still listens; a blocking connect would then wait.
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        Ok(()) | Err(_) => Err(ClaimError::Taken(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_socket_is_private_and_gone_once_released() {
        let folder = folder();
        let path = folder.path().join("s");
        let (listener, file) = claim(&path, PRIVATE).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        file.release();
        assert!(!path.exists());
        drop(listener);
    }

    #[test]
    fn a_public_socket_is_open_to_everybody_whatever_the_umask() {
        let folder = folder();
        let path = folder.path().join("s");
        let _held = claim(&path, PUBLIC).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
    }

    #[test]
    fn the_file_is_private_before_anything_could_change_its_mode() {
        let folder = folder();
        let path = folder.path().join("s");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        rustix::fs::fchmod(&socket, PRIVATE).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "by bind alone");
    }

    #[test]
    fn a_socket_in_use_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("s");
        let _held = claim(&path, PRIVATE).unwrap();
        assert!(matches!(claim(&path, PRIVATE), Err(ClaimError::Taken(_))));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("s");
        drop(claim(&path, PRIVATE).unwrap());
        assert!(path.exists());
        let _held = claim(&path, PRIVATE).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn any_other_file_in_its_place_is_refused_and_kept() {
        let folder = folder();
        let path = folder.path().join("s");
        let occupied = || {
            assert!(matches!(
                claim(&path, PRIVATE),
                Err(ClaimError::Occupied(_))
            ));
            assert!(fs::symlink_metadata(&path).is_ok());
        };
        fs::write(&path, "text").unwrap();
        occupied();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        occupied();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        occupied();
    }

    #[test]
    fn a_path_too_long_for_a_socket_says_so() {
        let folder = folder();
        let path = folder.path().join("x".repeat(108));
        let error = claim(&path, PRIVATE).unwrap_err();
        assert!(matches!(error, ClaimError::TooLong(_)));
        assert!(error.to_string().contains("at most 107 bytes"));
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("s");
        let (listener, file) = claim(&path, PRIVATE).unwrap();
        fs::remove_file(&path).unwrap();
        // The old socket stays open, so the file system can't reuse its inode number.
        let _successor = claim(&path, PRIVATE).unwrap();
        file.release();
        assert!(path.exists());
        drop(listener);
    }
}
