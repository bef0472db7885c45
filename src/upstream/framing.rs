//! Where an answer's body ends, and taking what has come of it off what was read (RFC 9112 6 and 7), strictly:
//! hexadecimal sizes without signs or blanks, CRLF everywhere.

use bytes::{Buf, Bytes, BytesMut};

use super::head::Broken;

/// Most bytes of one chunk's size line and of all trailers.
const MOST_CHUNK_LINE: usize = 16 << 10;
/// Pieces up to this length are copied out, so that the room they were read into is free again at once.
const COPIED: usize = 4 << 10;
/// Chunks that came together are passed on as one piece of about this length.
const MERGED: usize = 16 << 10;

/// How the end of an answer's body is known (RFC 9112 6.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Done,
}

/// Where in a chunked body the reading is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Before a size line.
    Size,
    /// So many bytes of data left.
    Data(u64),
    /// Before the line end behind the data.
    DataEnd,
    /// After the last chunk; so many bytes of trailers were read.
    Trailers(usize),
    /// It is broken from here on.
    Broken(&'static str),
}

impl Framing {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// Takes what there is of a body off what was read; None where more has to be read, or at the end.
    pub(super) fn take_piece(&mut self, read: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Done => Ok(None),
            Self::UntilClose => Ok(take(read, read.len())),
            Self::Length(left) => {
                let piece = take(read, available(*left, read));
                *left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(piece)
            }
            Self::Chunked(_) => self.take_chunks(read),
        }
    }

    /// Takes the data of all chunks that are there. What came before a fault is passed on before it.
    fn take_chunks(&mut self, read: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        let mut merged = Vec::new();
        while let Self::Chunked(chunk) = self
            && merged.len() < MERGED
        {
            if let Chunk::Data(left) = chunk {
                let count = available(*left, read);
                if count > COPIED && !merged.is_empty() {
                    break;
                }
                *left -= count as u64;
                if *left == 0 {
                    *chunk = Chunk::DataEnd;
                }
                if count > COPIED {
                    return Ok(take(read, count));
                }
                merged.extend_from_slice(&read[..count]);
                read.advance(count);
            }
            match chunk.take_line(read) {
                Ok(Line::Read) => {}
                Ok(Line::Last) => *self = Self::Done,
                Ok(Line::Awaited) => break,
                Err(what) if merged.is_empty() => return Err(what.into()),
                Err(what) => {
                    *chunk = Chunk::Broken(what);
                    break;
                }
            }
        }
        Ok((!merged.is_empty()).then(|| merged.into()))
    }
}

/// What came of looking for a line of a chunked body.
enum Line {
    Read,
    /// The body ends with it.
    Last,
    /// More has to be read first.
    Awaited,
}

impl Chunk {
    /// Reads the line that is due, where one is.
    fn take_line(&mut self, read: &mut BytesMut) -> Result<Line, &'static str> {
        if let Self::Broken(what) = self {
            return Err(what);
        }
        if matches!(self, Self::Data(_)) {
            return Ok(Line::Awaited);
        }
        let Some(end) = memchr::memchr(b'\n', read) else {
            return if read.len() > MOST_CHUNK_LINE {
                Err("a chunk's line is too long")
            } else {
                Ok(Line::Awaited)
            };
        };
        // A bare LF is no line end.
        let line = read[..end]
            .strip_suffix(b"\r")
            .ok_or("a chunk's line ends without CR")?;
        let mut is_last = false;
        *self = match self {
            Self::Size => match chunk_size(line)? {
                0 => Self::Trailers(0),
                size => Self::Data(size),
            },
            Self::Trailers(before) => {
                is_last = line.is_empty();
                match *before + line.len() {
                    length if length > MOST_CHUNK_LINE => {
                        return Err("the answer's trailers are too long");
                    }
                    length => Self::Trailers(length),
                }
            }
            Self::DataEnd | Self::Data(_) | Self::Broken(_) if line.is_empty() => Self::Size,
            Self::DataEnd | Self::Data(_) | Self::Broken(_) => {
                return Err("a chunk is longer than it says");
            }
        };
        read.advance(end + 1);
        Ok(if is_last { Line::Last } else { Line::Read })
    }
}

fn available(left: u64, read: &BytesMut) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(read.len())
}

fn take(read: &mut BytesMut, count: usize) -> Option<Bytes> {
    match count {
        0 => None,
        1..=COPIED => {
            let piece = Bytes::copy_from_slice(&read[..count]);
            read.advance(count);
            Some(piece)
        }
        _ => Some(read.split_to(count).freeze()),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if !(1..=15).contains(&digits.len()) {
        return Err("a chunk's size is no number");
    }
    digits.iter().try_fold(0_u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16);
        Ok(size << 4 | u64::from(digit.ok_or("a chunk's size is no number")?))
    })
}
