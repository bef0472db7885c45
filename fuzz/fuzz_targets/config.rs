//! See `tests/fuzz/targets/config.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::config::ConfigFile);
