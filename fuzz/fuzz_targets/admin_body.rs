//! See `tests/fuzz/targets/admin_body.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::admin_body::AdminBody);
