//! Brotli (RFC 7932), without the large-window extension, and with at most 4 MiB of window.
//!
//! The decoder fills its window before it outputs anything, and a few bytes of input can make it fill the whole window
//! at once. So a body of 50 bytes can cost the memory and the time of a whole window. Encoders use 4 MiB by default
//! (lgwin 22). A stream may declare a larger window if it uses no more than 4 MiB of it.

use std::cell::Cell;
use std::rc::Rc;

use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, HuffmanCode, SliceWrapper,
    StandardAlloc,
};

use crate::request_body::coding::{DecodeError, Step};

/// The largest window that may be used.
const MAX_WINDOW: usize = 4 << 20;
/// The most that the decoder allocates in addition to the window.
const SLACK: usize = 1 << 10;
/// Approximate memory of the decoder without its window and its Huffman codes.
const TABLES: usize = 128 << 10;

/// The decoder of a body, which is one stream.
pub(super) struct Brotli {
    state: BrotliState<BoundedAllocator, StandardAlloc, CountingAllocator>,
    codes: Rc<Cell<usize>>,
    has_ended: bool,
}

/// Refuses to allocate more than the largest window. The decoder allocates its window in powers of two, when it needs
/// more.
#[derive(Default)]
struct BoundedAllocator(StandardAlloc);

type Bytes = <StandardAlloc as Allocator<u8>>::AllocatedMemory;

impl Allocator<u8> for BoundedAllocator {
    type AllocatedMemory = Bytes;

    fn alloc_cell(&mut self, length: usize) -> Bytes {
        if length > MAX_WINDOW + SLACK {
            return Bytes::default();
        }
        self.0.alloc_cell(length)
    }

    fn free_cell(&mut self, bytes: Bytes) {
        Allocator::<u8>::free_cell(&mut self.0, bytes);
    }
}

/// Counts the bytes of Huffman codes: a few bytes of input can make the decoder allocate megabytes of them.
#[derive(Default)]
struct CountingAllocator {
    inner: StandardAlloc,
    held: Rc<Cell<usize>>,
}

type Codes = <StandardAlloc as Allocator<HuffmanCode>>::AllocatedMemory;

impl Allocator<HuffmanCode> for CountingAllocator {
    type AllocatedMemory = Codes;

    fn alloc_cell(&mut self, length: usize) -> Codes {
        self.held.set(self.held.get() + bytes_of(length));
        self.inner.alloc_cell(length)
    }

    fn free_cell(&mut self, codes: Codes) {
        let bytes = bytes_of(codes.slice().len());
        self.held.set(self.held.get().saturating_sub(bytes));
        Allocator::<HuffmanCode>::free_cell(&mut self.inner, codes);
    }
}

fn bytes_of(codes: usize) -> usize {
    codes.saturating_mul(size_of::<HuffmanCode>())
}

impl Default for Brotli {
    fn default() -> Self {
        let (bytes, words, codes) =
            <(BoundedAllocator, StandardAlloc, CountingAllocator)>::default();
        let held = Rc::clone(&codes.held);
        Self {
            state: BrotliState::new_strict(bytes, words, codes),
            codes: held,
            has_ended: false,
        }
    }
}

impl Brotli {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
        };
        if !self.has_ended {
            let (mut left, mut room, mut total) = (input.len(), output.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut step.consumed,
                input,
                &mut room,
                &mut step.produced,
                output,
                &mut total,
                &mut self.state,
            );
            match result {
                BrotliResult::ResultSuccess => self.has_ended = true,
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(DecodeError),
            }
        }
        if self.has_ended && step.consumed < input.len() {
            return Err(DecodeError);
        }
        Ok(step)
    }

    /// The decoder fills its window before it outputs any of it. The kernel gives memory to the window only as it is
    /// filled.
    pub(super) fn memory(&self) -> usize {
        let window = usize::try_from(self.state.ringbuffer_size).unwrap_or(0);
        let filled = usize::try_from(self.state.pos).unwrap_or(0).min(window);
        let is_round = self.state.rb_roundtrips > 0;
        TABLES + self.codes.get() + if is_round { window } else { filled }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.has_ended
    }
}
