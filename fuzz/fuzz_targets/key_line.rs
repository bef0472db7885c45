//! See `tests/fuzz/targets/key_line.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::key_line::KeyLine);
