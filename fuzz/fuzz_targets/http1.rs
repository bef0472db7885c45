//! See `tests/fuzz/targets/http1.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::http1::Http1);
