//! The secret that alerts are signed with, in a file that their receiver gets a copy of. Its form is that of the
//! Standard Webhooks: `whsec_` and the secret in base64.
//!
//! Reading a config reads the file but never creates it; [`AlertSecret::provide`] does, at the start and at a reload.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::store::secret_file;

const PREFIX: &str = "whsec_";
/// Bytes of a secret, by the Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a secret that is made here.
const NEW_SECRET_BYTES: usize = 32;
/// A longer file holds no secret.
const MAX_FILE: u64 = 256;

/// The secret and its file.
#[derive(Clone, PartialEq, Eq)]
pub struct AlertSecret {
    file: PathBuf,
    /// None if the file does not exist yet.
    secret: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for AlertSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertSecret")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl AlertSecret {
    /// Reads the file, if it exists.
    ///
    /// # Errors
    /// What is wrong with the file, and the remedy.
    pub(crate) fn read(file: PathBuf) -> Result<Self, String> {
        let secret = match read_secret(&file) {
            Ok(secret) => Some(secret),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        Ok(Self { file, secret })
    }

    /// Creates the file with a new secret if it does not exist. If another process created it first, reads that one.
    ///
    /// # Errors
    /// The file cannot be created or read.
    pub(crate) fn provide(&mut self) -> io::Result<()> {
        if self.secret.is_none() {
            self.secret = Some(make_secret(&self.file)?);
        }
        Ok(())
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The secret; None if there is none yet.
    pub(crate) fn reveal(&self) -> Option<&[u8]> {
        self.secret.as_ref().map(|secret| secret.as_slice())
    }
}

fn read_secret(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let text = secret_file::read(file, MAX_FILE)?;
    let secret = text.trim_ascii().strip_prefix(PREFIX);
    let secret = secret.and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let secret = secret.map(Zeroizing::new);
    secret
        .filter(|secret| SECRET_BYTES.contains(&secret.len()))
        .ok_or_else(|| {
            secret_file::invalid(
                "holds no secret: whsec_ and 24 to 64 bytes in base64; delete the file, and a new one is made",
            )
        })
}

fn make_secret(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(vec![0; NEW_SECRET_BYTES]);
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let line = Zeroizing::new(format!("{PREFIX}{}\n", BASE64.encode(&secret)));
    match secret_file::make(file, &line)? {
        true => Ok(secret),
        false => read_secret(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_secret_is_made_once_private_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.secret");
        let mut first = AlertSecret::read(file.clone()).unwrap();
        assert_eq!(first.reveal(), None);
        assert!(!file.exists(), "reading creates nothing");
        first.provide().unwrap();
        let again = AlertSecret::read(file.clone()).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.reveal().map(<[u8]>::len), Some(NEW_SECRET_BYTES));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(PREFIX));
        assert!(!format!("{first:?}").contains(text.trim()));
    }

    #[test]
    fn a_file_that_others_may_read_or_that_holds_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.secret");
        let refused = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            AlertSecret::read(file.clone()).unwrap_err()
        };
        let whole = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
        assert!(refused(whole, 0o640).contains("chmod 600"));
        for text in ["", "whsec_", &whole[6..], "whsec_MDEyMw==", "whsec_?"] {
            assert!(refused(text, 0o600).contains("24 to 64 bytes"), "{text}");
        }
        std::fs::write(&file, whole).unwrap();
        let read = AlertSecret::read(file).unwrap();
        assert_eq!(read.reveal(), Some(&b"012345678901234567890123"[..]));
    }
}
