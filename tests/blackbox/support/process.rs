//! What the system knows of a running process, and what it grants this one.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn file(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).expect("a running process")
}

/// The memory it holds, in bytes.
pub fn resident(pid: u32) -> usize {
    let pages: Option<usize> = file(pid, "statm")
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.expect("pages") * 4096
}

/// The processor time it has used, in hundredths of a second.
pub fn processor_time(pid: u32) -> u64 {
    let stat = file(pid, "stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    [11, 12]
        .iter()
        .map(|at| fields[*at].parse::<u64>().expect("ticks"))
        .sum()
}

/// How many descriptors it has open.
pub fn descriptors(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process");
    open.count()
}

/// Whether it handles this signal itself.
pub fn has_handler(pid: u32, signal: u32) -> bool {
    let status = file(pid, "status");
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .expect("a mask");
    caught >> (signal - 1) & 1 == 1
}

/// Takes every descriptor that the system grants this process; returns how many those are.
pub fn take_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).expect("the soft limit may be raised to the hard one");
    let most = limit.maximum.unwrap_or(1 << 20);
    usize::try_from(most).unwrap_or(usize::MAX)
}
