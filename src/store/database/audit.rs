//! The secret key of the audit rows' hashes, questions for audit rows, and what a write of audit rows answers.
//!
//! The key stands in a file of its own, so that who can write the database alone cannot forge rows.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::policy::audit::AuditMark;
use crate::policy::audit_chain::ChainKey;
use crate::store::database::error::DatabaseError;
use crate::store::secret_file;

/// Where the key of a database file is by default: `keygate.db-audit-key`.
#[must_use]
pub fn audit_key_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-audit-key");
    PathBuf::from(name)
}

/// Reads the key's file. If it is missing, makes one that only its owner may read.
pub(crate) fn chain_key(file: &Path) -> Result<ChainKey, DatabaseError> {
    let key = match secret_file::read_key(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => secret_file::make_key(file),
        key => key,
    };
    match key {
        Ok(key) => Ok(ChainKey::new(*key)),
        Err(source) => Err(DatabaseError::AuditKey {
            path: file.to_owned(),
            source,
        }),
    }
}

/// Asks for audit rows, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only rows about this key, also those of reloads that changed it.
    pub key_id: Option<String>,
    /// Only rows about this account.
    pub account: Option<String>,
    /// Only this actor.
    pub actor: Option<String>,
    /// Only this action, by its name.
    pub action: Option<String>,
    /// Only rows of this second or later.
    pub from: Option<i64>,
    /// Only rows before this second.
    pub to: Option<i64>,
    /// Only rows before this one.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// What to do with rows that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfNotWritten {
    /// Nothing is kept, and the caller does not make the change.
    Refuse,
    /// They wait in memory, and in the spool where there is one, until they can be written: the change is made in any case.
    Wait,
}

/// What became of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditWrite {
    /// They are on disk, in this order.
    Written(Vec<AuditMark>),
    /// They wait.
    Waiting,
}

/// How the audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditStatus {
    /// Rows that wait.
    pub waiting: usize,
    /// Rows that were lost since the start, because too many waited.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};

    #[test]
    fn the_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = audit_key_beside(&folder.path().join("keygate.db"));
        let key = chain_key(&file).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let row = |key: ChainKey| {
            let entry = AuditEntry {
                at: 0,
                origin: ChangeOrigin::gateway(),
                action: AuditAction::Cut,
                target: None,
                account: None,
                before: None,
                after: None,
            };
            key.row(&entry, &AuditMark::origin()).hash
        };
        assert_eq!(row(chain_key(&file).unwrap()), row(key));
        std::fs::write(&file, "not a key").unwrap();
        let error = chain_key(&file).unwrap_err().to_string();
        assert!(
            error.contains("keygate.db-audit-key") && error.contains("restore"),
            "{error}"
        );
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let error = chain_key(&file).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert_ne!(row(chain_key(&file).unwrap()), row(key));
    }
}
