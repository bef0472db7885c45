//! The admin token: reads or creates its file, and compares tokens.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::policy::token::{BearerToken, MAX_LENGTH, Presented};
use crate::store::secret_file;

/// The hash of the TCP listener's token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AdminToken(blake3::Hash);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hash]")
    }
}

impl AdminToken {
    pub(super) fn of(token: &str) -> Option<Self> {
        let usable = Presented::parse(token.as_bytes())?;
        Some(Self(blake3::Hash::from_bytes(*usable.hash().as_bytes())))
    }

    /// Compares the hashes in constant time.
    pub(super) fn is(&self, token: Presented<'_>) -> bool {
        self.0 == blake3::Hash::from_bytes(*token.hash().as_bytes())
    }

    /// Whether a text is the token.
    pub(super) fn admits(&self, text: &str) -> bool {
        Presented::parse(text.as_bytes()).is_some_and(|token| self.is(token))
    }
}

/// Reads the token file. If it is missing, creates it with mode 0600 and a new token in the form of a bearer token.
///
/// # Errors
/// The file cannot be read or created, or holds no usable token.
pub(crate) fn admin_token(path: &Path) -> io::Result<AdminToken> {
    let text = match read_token(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_token(path)?,
        text => text?,
    };
    AdminToken::of(text.trim()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "holds no token of 1 to 512 visible ASCII characters; delete it, and a new one is made at the next start",
        )
    })
}

fn read_token(path: &Path) -> io::Result<Zeroizing<String>> {
    // Without this, opening a named pipe would wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_LENGTH + 64));
    file.take(MAX_LENGTH as u64 + 64)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Creates the file atomically. If another process created it first, reads that one.
fn make_token(path: &Path) -> io::Result<Zeroizing<String>> {
    let token = BearerToken::make(getrandom::fill).map_err(io::Error::other)?;
    let line = Zeroizing::new(format!("{}\n", token.reveal()));
    match secret_file::make(path, &line)? {
        true => Ok(Zeroizing::new(token.reveal().to_owned())),
        false => read_token(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_file_is_made_once_private_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let made = admin_token(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(made.is(Presented::parse(text.trim().as_bytes()).unwrap()));
        assert_eq!(admin_token(&path).unwrap().0, made.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_file_without_a_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        for text in ["", "\n", "two words", "kg_torn", &"x".repeat(513)] {
            std::fs::write(&path, text).unwrap();
            assert!(admin_token(&path).is_err(), "{text:?}");
        }
        assert!(admin_token(folder.path()).is_err());
    }
}
