//! See `tests/fuzz/targets/bearer.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::bearer::Bearer);
