//! See `tests/fuzz/targets/forwarded_for.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::forwarded_for::ForwardedFor);
