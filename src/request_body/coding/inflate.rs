//! Deflate: raw (RFC 1951), or with the zlib wrapper (RFC 1950), which is what HTTP calls "deflate".
//!
//! Many clients send it raw. The first two bytes tell which it is: a zlib header has a checksum, and read as raw
//! deflate it would begin a stored block with non-zero padding, which no compressor writes.

use flate2::{Decompress, FlushDecompress, Status};

use crate::request_body::coding::{DecodeError, Step};

/// Approximate memory of the decoder: a window of 32 KiB, and tables.
pub(super) const MEMORY: usize = 64 << 10;

/// The decoder of one deflate stream.
pub(super) struct Inflate {
    decompress: Decompress,
    has_ended: bool,
}

impl Inflate {
    /// A raw stream.
    pub(super) fn raw() -> Self {
        Self::of(Decompress::new(false))
    }

    fn zlib() -> Self {
        Self::of(Decompress::new(true))
    }

    fn of(decompress: Decompress) -> Self {
        Self {
            decompress,
            has_ended: false,
        }
    }

    /// Decodes until the stream ends, the input is used up or the output is full.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        let before = (self.decompress.total_in(), self.decompress.total_out());
        let status = self
            .decompress
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_| DecodeError)?;
        self.has_ended = status == Status::StreamEnd;
        let count = |now: u64, before: u64| usize::try_from(now - before).map_err(|_| DecodeError);
        Ok(Step {
            consumed: count(self.decompress.total_in(), before.0)?,
            produced: count(self.decompress.total_out(), before.1)?,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Starts another raw stream.
    pub(super) fn restart(&mut self) {
        self.decompress.reset(false);
        self.has_ended = false;
    }
}

/// The decoder of a body, which is one stream, raw or with the zlib wrapper.
#[derive(Default)]
pub(super) enum Deflate {
    /// Fewer than two bytes were read.
    #[default]
    New,
    Begun(u8),
    Known(Inflate),
}

impl Deflate {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        match (&mut *self, input) {
            (Self::Known(inflate), _) => {
                let step = inflate.step(input, output)?;
                if inflate.has_ended() && step.consumed < input.len() {
                    return Err(DecodeError);
                }
                Ok(step)
            }
            (Self::New | Self::Begun(_), []) => Ok(Step {
                consumed: 0,
                produced: 0,
            }),
            (Self::New, [first]) => {
                *self = Self::Begun(*first);
                Ok(Step {
                    consumed: 1,
                    produced: 0,
                })
            }
            (Self::New, [first, second, ..]) => {
                *self = Self::Known(detect_format(*first, *second));
                self.step(input, output)
            }
            (Self::Begun(first), [second, ..]) => {
                let (first, mut inflate) = (*first, detect_format(*first, *second));
                // One byte produces no output, in either format.
                let begun = inflate.step(&[first], &mut [0; 1])?;
                if begun
                    != (Step {
                        consumed: 1,
                        produced: 0,
                    })
                {
                    return Err(DecodeError);
                }
                *self = Self::Known(inflate);
                self.step(input, output)
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Known(inflate) if inflate.has_ended())
    }
}

/// Whether the first two bytes are a zlib header (RFC 1950 2.2): method 8, a window of at most 32 KiB, and both bytes
/// together a multiple of 31.
fn detect_format(first: u8, second: u8) -> Inflate {
    let is_zlib = first & 0x0f == 8
        && first >> 4 <= 7
        && u16::from_be_bytes([first, second]).is_multiple_of(31);
    if is_zlib {
        Inflate::zlib()
    } else {
        Inflate::raw()
    }
}
