//! The secret from which the gateway derives the cache salts that it puts into bodies. It is kept in a file of its own,
//! so that caches stay warm over a restart, and several gateways can share it.
//!
//! Reading a config reads the file but never creates it; [`InjectSecret::provide`] does, at the start and at a reload.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::secret_file;

/// Characters of a salt: 128 bits in hexadecimal.
const SALT_LENGTH: usize = 32;

/// Whose prompts share a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaltOwner {
    /// Those of one key.
    Key,
    /// Those of all keys of one account; a key without an account stands alone.
    Account,
}

/// The secret and its file.
#[derive(Clone, PartialEq, Eq)]
pub struct InjectSecret {
    file: PathBuf,
    /// None if the file does not exist yet.
    secret: Option<Zeroizing<[u8; secret_file::KEY_BYTES]>>,
}

impl std::fmt::Debug for InjectSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InjectSecret")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl InjectSecret {
    /// Reads the file, if it exists.
    ///
    /// # Errors
    /// What is wrong with the file, and the remedy.
    pub(crate) fn read(file: PathBuf) -> Result<Self, String> {
        let secret = match secret_file::read_key(&file) {
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
            self.secret = Some(secret_file::make_key(&self.file)?);
        }
        Ok(())
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The salt of a key id or an account; None if there is no secret yet.
    pub(crate) fn salt(&self, owner: SaltOwner, name: &str) -> Option<String> {
        let mut hasher = blake3::Hasher::new_keyed(self.secret.as_deref()?);
        hasher.update(match owner {
            SaltOwner::Key => b"cache_salt key ",
            SaltOwner::Account => b"cache_salt account ",
        });
        hasher.update(name.as_bytes());
        Some(hasher.finalize().to_hex()[..SALT_LENGTH].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_secret_is_made_once_private_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("inject-secret");
        let mut first = InjectSecret::read(file.clone()).unwrap();
        let mut rival = first.clone();
        assert_eq!(first.salt(SaltOwner::Key, "key_1"), None);
        assert!(!file.exists(), "reading creates nothing");
        first.provide().unwrap();
        rival.provide().unwrap();
        let again = InjectSecret::read(file.clone()).unwrap();
        assert!(first == again && rival == again);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!format!("{first:?}").contains(text.trim()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn each_key_and_each_account_has_its_own_salt() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let mut secret = InjectSecret::read(folder.path().join(name)).unwrap();
            secret.provide().unwrap();
            secret
        };
        let (one, other) = (made("one"), made("other"));
        let salts = [
            one.salt(SaltOwner::Key, "a").unwrap(),
            one.salt(SaltOwner::Key, "b").unwrap(),
            one.salt(SaltOwner::Account, "a").unwrap(),
            other.salt(SaltOwner::Key, "a").unwrap(),
        ];
        for (place, salt) in salts.iter().enumerate() {
            assert_eq!(salt.len(), SALT_LENGTH);
            assert!(!salts[..place].contains(salt));
        }
        assert_eq!(one.salt(SaltOwner::Key, "a").as_ref(), Some(&salts[0]));
    }

    #[test]
    fn a_file_that_others_may_read_or_that_holds_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("inject-secret");
        let refused = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            InjectSecret::read(file.clone()).unwrap_err()
        };
        let whole = "0f".repeat(secret_file::KEY_BYTES);
        assert!(refused(&whole, 0o640).contains("chmod 600"));
        for text in ["", "\n", &whole[1..], &format!("{whole}0"), "nonsense"] {
            assert!(
                refused(text, 0o600).contains("64 hexadecimal digits"),
                "{text}"
            );
        }
        assert!(InjectSecret::read(folder.path().to_owned()).is_err());
    }
}
