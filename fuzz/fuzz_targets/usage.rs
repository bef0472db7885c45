//! See `tests/fuzz/targets/usage.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::usage::UsageOfResponse);
