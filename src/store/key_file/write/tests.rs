use super::*;
use crate::policy::token::TokenHash;
use crate::store::key_file::stamp::stamp_of;
use crate::store::key_file::{read, readable_by_others};
use crate::table::{NO_YIELD, Table};
use std::os::unix::fs::PermissionsExt;

fn line(id: &str, token: &str) -> String {
    let hash = TokenHash::of(token.as_bytes());
    format!(r#"{{"id":"{id}","name":"n","hash":"{hash}","model_access":{{"mode":"all"}}}}"#)
}

/// A folder with a key file that holds this text.
fn folder_with(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.jsonl");
    fs::write(&file, text).unwrap();
    (folder, file)
}

fn entries_of(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_replaced_file_keeps_its_mode_and_its_link_and_leaves_nothing_beside_it() {
    let (folder, file) = folder_with(format!("{}\n", line("a", "1")).as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("keys.jsonl", &link).unwrap();
    let loaded = read(&link, &Table::default(), NO_YIELD).unwrap();
    // A killed process may have left this behind.
    fs::write(folder.path().join(".keys.jsonl.new"), "half a li").unwrap();
    let stamp = lock(&link, LOCK_WAIT)
        .unwrap()
        .replace(loaded.entries.iter().map(|entry| entry.key()));
    assert!(stamp.unwrap().unwrap().is_unchanged(stamp_of(&link)));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_eq!(entries_of(folder.path()), 2);
    assert_eq!(
        read(&file, &Table::default(), NO_YIELD)
            .unwrap()
            .entries
            .len(),
        1
    );
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let (folder, file) = folder_with(b"old text");
    let locked = lock(&file, LOCK_WAIT).unwrap();
    let old = File::open(&file).unwrap();
    let failed = locked.replace_with(&old, |out| {
        out.write_all(b"new te")?;
        Err(io::Error::from(ErrorKind::StorageFull))
    });
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
    drop(locked);
    assert_eq!(fs::read(&file).unwrap(), b"old text");
    assert_eq!(entries_of(folder.path()), 1);
}

#[test]
fn a_second_writer_waits_for_the_first() {
    let (_folder, file) = folder_with(b"");
    let first = lock(&file, LOCK_WAIT).unwrap();
    std::thread::scope(|scope| {
        let (told, second) = std::sync::mpsc::channel();
        let file = &file;
        scope.spawn(move || told.send(lock(file, LOCK_WAIT).is_ok()).unwrap());
        assert!(second.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert!(second.recv_timeout(LOCK_WAIT).unwrap());
    });
}

#[test]
fn a_made_file_is_its_owners_alone_and_never_takes_anothers_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.jsonl");
    create(&file).unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert!(
        read(&file, &Table::default(), NO_YIELD)
            .unwrap()
            .entries
            .is_empty()
    );
    assert_eq!(create(&file).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(readable_by_others(&file).is_none());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(readable_by_others(&file).is_some());
}
