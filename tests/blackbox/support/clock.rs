//! A wall clock of a gateway's own (libfaketime).

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::gateway::Setup;

/// The clock of one gateway.
pub struct Clock(PathBuf);

impl Clock {
    /// Has a gateway live by a clock of its own, which is right at first.
    pub fn of(setup: Setup) -> (Self, Setup) {
        let file = setup.path("clock");
        let clock = Self(file);
        clock.step("+0");
        let setup = setup
            .environment("LD_PRELOAD", &library())
            .environment("FAKETIME_TIMESTAMP_FILE", &clock.0.to_string_lossy())
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        (clock, setup)
    }

    /// From now on the clock is so far from the real one.
    pub fn step(&self, by: &str) {
        let beside = self.0.with_extension("new");
        fs::write(&beside, format!("{by}\n")).expect("written");
        fs::rename(beside, &self.0).expect("renamed");
    }
}

/// libfaketime, where Debian puts it.
fn library() -> String {
    let found = fs::read_dir("/usr/lib")
        .expect("/usr/lib")
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| Path::exists(library));
    let found = found.expect("libfaketime is installed (tests/tools)");
    found.to_string_lossy().into_owned()
}
