//! See `tests/fuzz/targets/form_model.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::form_model::FormModel);
