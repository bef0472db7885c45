//! Brotli (RFC 7932), without the large windows that are no part of it.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Step, Undecodable};

/// A body of one stream.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    has_ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let (bytes, words, codes) = Default::default();
        Self {
            state: BrotliState::new_strict(bytes, words, codes),
            has_ended: false,
        }
    }
}

impl Brotli {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let mut step = Step { taken: 0, made: 0 };
        if !self.has_ended {
            let (mut left, mut room, mut total) = (input.len(), output.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut step.taken,
                input,
                &mut room,
                &mut step.made,
                output,
                &mut total,
                &mut self.state,
            );
            match result {
                BrotliResult::ResultSuccess => self.has_ended = true,
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(Undecodable),
            }
        }
        if self.has_ended && step.taken < input.len() {
            return Err(Undecodable);
        }
        Ok(step)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.has_ended
    }
}
