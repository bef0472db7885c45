//! The targets of `tests/fuzz`, for libFuzzer: the same promises, the same examples and fragments, but mutations that
//! follow the code's branches.
#![allow(
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    reason = "shared with tests"
)]

#[path = "../tests/fuzz/dice.rs"]
pub mod dice;
#[path = "../tests/fuzz/targets/mod.rs"]
pub mod targets;

pub use libfuzzer_sys;

use dice::{Dice, mutate};
use targets::Target;

/// One mutation in two is libFuzzer's own, the other one of ours, and of an example where there is nothing yet.
pub fn mutated<T: Target>(
    target: &T,
    data: &mut [u8],
    size: usize,
    most: usize,
    seed: u32,
) -> usize {
    let mut dice = Dice(u64::from(seed));
    if size > 1 && dice.roll(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let mut bytes = data[..size].to_vec();
    if size <= 1 {
        let examples = target.examples();
        bytes = examples[dice.roll(examples.len())].clone();
    }
    mutate(&mut dice, &mut bytes, T::FRAGMENTS);
    bytes.truncate(most);
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// A fuzz target made once, and fed until it panics.
#[macro_export]
macro_rules! fuzz {
    ($kind:ty) => {
        thread_local!(static TARGET: $kind = <$kind>::default());
        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            TARGET.with(|target| $crate::targets::Target::check(target, input));
        });
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
            TARGET.with(|target| $crate::mutated(target, data, size, most, seed))
        });
    };
}
