//! Where a message's body ends, and taking what has come of it off what was read (RFC 9112 6 and 7), strictly:
//! hexadecimal sizes without signs, CRLF everywhere, extensions and trailers bounded and dropped.

use std::ops::Range;

use crate::http::buffer::ReadBuffer;

/// Most bytes of one chunk's size line.
const MAX_CHUNK_LINE: usize = 4 << 10;
/// Most bytes of all trailers of a body, and of all extensions of a request's: a client sends few, but a server may pad
/// each chunk of a long stream.
const MAX_DROPPED: usize = 16 << 10;
/// Most digits of a chunk's size.
const MAX_SIZE_DIGITS: usize = 15;

/// A body that breaks its framing; the text says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError(pub &'static str);

impl std::fmt::Display for FramingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FramingError {}

/// How the end of a body is known (RFC 9112 6.3), and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks are left.
    Chunked(Chunks),
    /// The body ends with the connection.
    UntilClose,
    /// The body has ended.
    Done,
}

/// Where in a chunked body the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    next: ChunkState,
    /// Bytes of trailers, and of extensions where those are bounded, so far.
    dropped: usize,
    sender: Sender,
}

/// Who sends a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client: the extensions of all chunks are bounded together.
    Client,
    /// An upstream: extensions are bounded by the length of their line alone.
    Upstream,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// A size line.
    Size,
    /// So many bytes of data.
    Data(u64),
    /// The line end behind the data.
    DataEnd,
    /// A trailer, or the empty line at the end.
    Trailer,
    /// Nothing that can be read.
    Broken(FramingError),
}

/// What came of looking for a line of a chunked body.
enum Line {
    Read,
    /// The body ends with it.
    Last,
    /// More has to be read first.
    Awaited,
}

impl Framing {
    /// So many bytes; none is a body that has ended.
    #[must_use]
    pub fn length(length: u64) -> Self {
        match length {
            0 => Self::Done,
            length => Self::Length(length),
        }
    }

    /// A chunked body, before its first chunk.
    #[must_use]
    pub fn chunked(sender: Sender) -> Self {
        Self::Chunked(Chunks {
            next: ChunkState::Size,
            dropped: 0,
            sender,
        })
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes what there is of the body off what was read, and returns where it stands in the buffer until the next
    /// read: nowhere where more has to be read, or at the end. The data of chunks that came together is moved together.
    ///
    /// # Errors
    /// [`FramingError`]; the data before a fault is returned before it.
    pub fn take(&mut self, buffer: &mut ReadBuffer) -> Result<Range<usize>, FramingError> {
        buffer.decode(|bytes, start| self.take_from(bytes, start))
    }

    fn take_from(
        &mut self,
        bytes: &mut [u8],
        start: &mut usize,
    ) -> Result<Range<usize>, FramingError> {
        let there = bytes.len() - *start;
        let count = match self {
            Self::Done => 0,
            Self::UntilClose => there,
            Self::Length(left) => at_most(*left, there),
            Self::Chunked(chunks) => {
                let (data, is_last) = chunks.take_from(bytes, start)?;
                if is_last {
                    *self = Self::Done;
                }
                return Ok(data);
            }
        };
        if let Self::Length(left) = self {
            *self = Self::length(*left - count as u64);
        }
        let data = *start..*start + count;
        *start += count;
        Ok(data)
    }
}

impl Chunks {
    /// Takes the data of all chunks that are there, moved up behind one another; and whether the body ends with them.
    fn take_from(
        &mut self,
        bytes: &mut [u8],
        start: &mut usize,
    ) -> Result<(Range<usize>, bool), FramingError> {
        let mut data = *start..*start;
        loop {
            if let ChunkState::Data(left) = &mut self.next {
                let count = at_most(*left, bytes.len() - *start);
                if count == 0 {
                    return Ok((data, false));
                }
                if data.is_empty() {
                    data = *start..*start + count;
                } else {
                    bytes.copy_within(*start..*start + count, data.end);
                    data.end += count;
                }
                *start += count;
                *left -= count as u64;
                if *left == 0 {
                    self.next = ChunkState::DataEnd;
                }
            }
            match self.take_line(&bytes[*start..], start) {
                Ok(Line::Read) => {}
                Ok(Line::Last) => return Ok((data, true)),
                Ok(Line::Awaited) => return Ok((data, false)),
                Err(error) => {
                    self.next = ChunkState::Broken(error);
                    return if data.is_empty() {
                        Err(error)
                    } else {
                        Ok((data, false))
                    };
                }
            }
        }
    }

    /// Reads the line that is due, where one is.
    fn take_line(&mut self, unread: &[u8], start: &mut usize) -> Result<Line, FramingError> {
        match self.next {
            ChunkState::Broken(error) => return Err(error),
            ChunkState::Data(_) => return Ok(Line::Awaited),
            ChunkState::Size | ChunkState::DataEnd | ChunkState::Trailer => {}
        }
        let Some(end) = memchr::memchr(b'\n', unread) else {
            return self.check_partial(unread).map(|()| Line::Awaited);
        };
        // A bare LF is no line end.
        let line = unread[..end]
            .strip_suffix(b"\r")
            .ok_or(FramingError("a chunk's line ends without CR"))?;
        if line.len() > MAX_CHUNK_LINE {
            return Err(TOO_LONG);
        }
        let mut is_last = false;
        self.next = match self.next {
            ChunkState::Size => {
                let (size, extension) = chunk_size(line)?;
                if self.sender == Sender::Client {
                    self.drop_bytes(extension)?;
                }
                match size {
                    0 => ChunkState::Trailer,
                    size => ChunkState::Data(size),
                }
            }
            ChunkState::Trailer => {
                is_last = line.is_empty();
                if !is_last {
                    check_trailer(line)?;
                    self.drop_bytes(line.len())?;
                }
                ChunkState::Trailer
            }
            ChunkState::DataEnd if line.is_empty() => ChunkState::Size,
            ChunkState::DataEnd | ChunkState::Data(_) | ChunkState::Broken(_) => {
                return Err(FramingError("a chunk is longer than it says"));
            }
        };
        *start += end + 1;
        Ok(if is_last { Line::Last } else { Line::Read })
    }

    /// Refuses the beginning of a line that no end can put right.
    fn check_partial(&self, unread: &[u8]) -> Result<(), FramingError> {
        let is_end = unread.is_empty() || unread == b"\r";
        match self.next {
            ChunkState::DataEnd if !is_end => Err(FramingError("a chunk is longer than it says")),
            _ if unread.len() > MAX_CHUNK_LINE => Err(TOO_LONG),
            _ => Ok(()),
        }
    }

    fn drop_bytes(&mut self, count: usize) -> Result<(), FramingError> {
        self.dropped += count;
        if self.dropped > MAX_DROPPED {
            return Err(FramingError(
                "the chunks' extensions or the trailers are too long",
            ));
        }
        Ok(())
    }
}

const TOO_LONG: FramingError = FramingError("a chunk's line is too long");

fn at_most(left: u64, there: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(there)
}

/// The size in a chunk's line, and how many bytes of it are an extension. White space may stand behind the size (RFC
/// 9112 7.1.1, BWS).
fn chunk_size(line: &[u8]) -> Result<(u64, usize), FramingError> {
    let bad = FramingError("a chunk's size is no number");
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    if !(1..=MAX_SIZE_DIGITS).contains(&digits) {
        return Err(bad);
    }
    let (digits, rest) = line.split_at(digits);
    let extension = rest.trim_ascii_start();
    let is_extension = extension.is_empty() || extension.starts_with(b";");
    if !is_extension || has_control(rest) {
        return Err(bad);
    }
    let size = digits.iter().fold(0_u64, |size, byte| {
        size << 4 | u64::from(char::from(*byte).to_digit(16).unwrap_or(0))
    });
    Ok((size, rest.len()))
}

/// A trailer is a header line (RFC 9112 7.1.2): a name, a colon, a value.
fn check_trailer(line: &[u8]) -> Result<(), FramingError> {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.len() == line.len()
        || name.is_empty()
        || !name.iter().all(is_token)
        || has_control(line)
    {
        return Err(FramingError("a trailer is no header line"));
    }
    Ok(())
}

fn has_control(line: &[u8]) -> bool {
    line.iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

#[cfg(test)]
mod tests;
