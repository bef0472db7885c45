//! See `tests/fuzz/targets/json_model.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::json_model::JsonModel);
