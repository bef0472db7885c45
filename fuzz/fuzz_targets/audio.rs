//! See `tests/fuzz/targets/audio.rs`.
#![no_main]

keygate_fuzz::fuzz!(keygate_fuzz::targets::audio::AudioFile);
