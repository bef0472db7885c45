//! Where an HTTP/1 message ends, read piece by piece: enough for peers that frame correctly, and it tells those that
//! do not.

use std::io;

/// The most that a head may hold before it counts as broken.
const MOST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 64;

/// What the head said that matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// Of an answer; 0 in a request.
    pub(crate) status: u16,
    pub(crate) close: bool,
    /// Of a request.
    pub(crate) path: String,
    /// The stand-in's own header: how many chunks, and the microseconds between them.
    pub(crate) stream: Option<(u32, u64)>,
}

/// Reads one message after the other.
#[derive(Debug, Default)]
pub(crate) struct Message {
    state: State,
    head_bytes: Vec<u8>,
    pub(crate) head: Head,
    /// Of the body so far, without its framing.
    pub(crate) length: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of the body are to come.
    Length(u64),
    /// Within a chunk's size line: the size so far, and whether an extension has begun.
    ChunkSize(u64, bool),
    /// So many bytes of a chunk are to come, and so many of the line end behind it.
    Chunk(u64, u8),
    /// Behind the last chunk: so many bytes of the empty line are to come.
    LastLine(u8),
    UntilClose,
    Whole,
}

/// Which side's messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Answer,
}

impl Message {
    /// Whether nothing of it has come.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.head_bytes.is_empty()
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// The other side has closed: whether that ended the message well.
    pub(crate) fn ends_by_close(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Whole;
        }
        self.is_whole()
    }

    pub(crate) fn start_anew(&mut self) {
        self.state = State::Head;
        self.head_bytes.clear();
        self.length = 0;
    }

    /// Takes what belongs to this message, and says how much that was.
    pub(crate) fn feed(&mut self, side: Side, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_whole() {
            taken += self.step(side, &bytes[taken..])?;
        }
        Ok(taken)
    }

    fn step(&mut self, side: Side, bytes: &[u8]) -> io::Result<usize> {
        match self.state {
            State::Head => self.head(side, bytes),
            State::Length(left) => {
                let now = left.min(bytes.len() as u64);
                self.length += now;
                self.state = match left - now {
                    0 => State::Whole,
                    left => State::Length(left),
                };
                Ok(usize::try_from(now).unwrap_or(0))
            }
            State::ChunkSize(size, extension) => {
                self.state = match (bytes[0], extension) {
                    (b'\n', _) if size == 0 => State::LastLine(2),
                    (b'\n', _) => State::Chunk(size, 2),
                    (b'\r' | b' ', _) | (_, true) => State::ChunkSize(size, extension),
                    (b';', _) => State::ChunkSize(size, true),
                    (digit, _) => {
                        let digit = char::from(digit)
                            .to_digit(16)
                            .ok_or_else(|| broken("a chunk's size"))?;
                        State::ChunkSize(size << 4 | u64::from(digit), false)
                    }
                };
                Ok(1)
            }
            State::Chunk(0, line_end) => {
                self.state = match line_end {
                    1 => State::ChunkSize(0, false),
                    left => State::Chunk(0, left - 1),
                };
                Ok(1)
            }
            State::Chunk(left, line_end) => {
                let now = left.min(bytes.len() as u64);
                self.length += now;
                self.state = State::Chunk(left - now, line_end);
                Ok(usize::try_from(now).unwrap_or(0))
            }
            State::LastLine(left) => {
                self.state = match left {
                    1 => State::Whole,
                    left => State::LastLine(left - 1),
                };
                Ok(1)
            }
            State::UntilClose => {
                self.length += bytes.len() as u64;
                Ok(bytes.len())
            }
            State::Whole => Ok(0),
        }
    }

    fn head(&mut self, side: Side, bytes: &[u8]) -> io::Result<usize> {
        // Nearly always the whole head is there at once, and nothing is copied.
        if self.head_bytes.is_empty()
            && let Some(end) = self.parse(side, bytes)?
        {
            return Ok(end);
        }
        let before = self.head_bytes.len();
        let mut whole = std::mem::take(&mut self.head_bytes);
        whole.extend_from_slice(bytes);
        if before > 0
            && let Some(end) = self.parse(side, &whole)?
        {
            return Ok(end - before);
        }
        if whole.len() > MOST_HEAD {
            return Err(broken("a head without an end"));
        }
        self.head_bytes = whole;
        Ok(bytes.len())
    }

    /// Where the head ends, if it does.
    fn parse(&mut self, side: Side, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut head = Head::default();
        let (parsed, headers) = match side {
            Side::Request => {
                let mut request = httparse::Request::new(&mut headers);
                let parsed = request.parse(bytes);
                request.path.unwrap_or_default().clone_into(&mut head.path);
                (parsed, request.headers)
            }
            Side::Answer => {
                let mut answer = httparse::Response::new(&mut headers);
                let parsed = answer.parse(bytes);
                head.status = answer.code.unwrap_or_default();
                (parsed, answer.headers)
            }
        };
        let end = match parsed {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(broken(&error.to_string())),
        };
        let mut state = match side {
            Side::Request => State::Whole,
            Side::Answer => State::UntilClose,
        };
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                state = match number(header.value)? {
                    0 => State::Whole,
                    length => State::Length(length),
                };
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                state = State::ChunkSize(0, false);
            } else if name.eq_ignore_ascii_case("connection") {
                head.close |= header.value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case("stand-in") {
                let mut parts = header.value.split(|byte| *byte == b' ');
                let mut next = || number(parts.next().unwrap_or_default());
                let chunks = u32::try_from(next()?).map_err(|_| broken("stand-in"))?;
                head.stream = Some((chunks, next()?));
            }
        }
        self.head = head;
        self.state = state;
        Ok(Some(end))
    }
}

fn number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.trim().parse().ok())
        .ok_or_else(|| broken("a number"))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
