//! Zstandard (RFC 8878): a sequence of frames, each with a window of at most 8 MiB, the limit for HTTP (RFC 9659).

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::request_body::coding::{DecodeError, MAX_MEMBERS, Step};

/// Log2 of the largest window.
const MAX_WINDOW_LOG: u32 = 23;
/// Approximate memory of the decoder without its window: tables, one block of input and one of output.
const TABLES: usize = 512 << 10;

/// The decoder of a body, which has one or more frames.
pub(super) struct Zstandard {
    context: DCtx<'static>,
    produced: usize,
    frames: usize,
    is_complete: bool,
}

impl Zstandard {
    /// None if there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        let mut context = DCtx::try_create()?;
        context
            .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .ok()?;
        Some(Self {
            context,
            produced: 0,
            frames: 0,
            is_complete: false,
        })
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
        };
        // One call stops at the end of a frame. The next call continues with the next frame.
        loop {
            let mut from = InBuffer::around(&input[step.consumed..]);
            let mut to = OutBuffer::around(&mut output[step.produced..]);
            let left = self.context.decompress_stream(&mut to, &mut from);
            let left = left.map_err(|_| DecodeError)?;
            let (consumed, produced) = (from.pos(), to.pos());
            if consumed == 0 && produced == 0 {
                return Ok(step);
            }
            self.is_complete = left == 0;
            self.frames += usize::from(self.is_complete);
            if self.frames > MAX_MEMBERS {
                return Err(DecodeError);
            }
            step.consumed += consumed;
            step.produced += produced;
            self.produced = self.produced.saturating_add(produced);
            if step.produced == output.len() || step.consumed == input.len() {
                return Ok(step);
            }
        }
    }

    /// The kernel gives memory to the window only as it is filled.
    pub(super) fn memory(&self) -> usize {
        TABLES + self.produced.min(1 << MAX_WINDOW_LOG)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }
}
