//! A disk that a test can fill.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system in memory, for as long as this lives.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `size` as mount has it: `256k`. None where no file system may be mounted, which is said.
    pub fn mounted(size: &str) -> Option<Self> {
        // Other users may have to reach it, such as the one that a database server runs as.
        let disk = Self(tempfile::tempdir_in("/tmp").expect("a folder"));
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "keygate-test"])
            .arg(disk.folder())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(disk);
        }
        eprintln!("not tried: no file system may be mounted here");
        None
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Fills it to its last byte; whoever deletes this file makes room.
    pub fn fill(&self) -> PathBuf {
        let filler = self.path("filler");
        let mut file = File::create(&filler).expect("created");
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder())
            .stderr(Stdio::null())
            .status();
    }
}
