//! gzip (RFC 1952): a sequence of members, each with a header, a deflate stream and a trailer.

use crate::request_body::coding::inflate::Inflate;
use crate::request_body::coding::{DecodeError, MAX_MEMBERS, Step};

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// The decoder of a body, which has one or more members.
pub(super) struct Gzip {
    state: GzipState,
    inflate: Inflate,
    checksum: crc32fast::Hasher,
    /// Bytes of the member's content, modulo 2^32, as in the trailer (ISIZE).
    size: u32,
    members: usize,
}

enum GzipState {
    Header(MemberHeader),
    Content,
    /// The trailer (checksum and size), and how many bytes of it were read.
    Trailer([u8; 8], usize),
    /// After a member. Either the body ends here or another member follows.
    MemberEnd,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: GzipState::Header(MemberHeader::default()),
            inflate: Inflate::raw(),
            checksum: crc32fast::Hasher::new(),
            size: 0,
            members: 0,
        }
    }
}

impl Gzip {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
        };
        loop {
            let rest = &input[step.consumed..];
            match &mut self.state {
                GzipState::Content => {
                    let free = &mut output[step.produced..];
                    let inflated = self.inflate.step(rest, free)?;
                    let produced = &free[..inflated.produced];
                    self.checksum.update(produced);
                    // No longer than the output buffer, which is far below 2^32.
                    let count = u32::try_from(produced.len()).map_err(|_| DecodeError)?;
                    self.size = self.size.wrapping_add(count);
                    step.consumed += inflated.consumed;
                    step.produced += inflated.produced;
                    if !self.inflate.has_ended() {
                        return Ok(step);
                    }
                    self.state = GzipState::Trailer([0; 8], 0);
                }
                _ if rest.is_empty() => return Ok(step),
                GzipState::Header(head) => {
                    step.consumed += 1;
                    if head.take(rest[0])? {
                        self.state = GzipState::Content;
                    }
                }
                GzipState::Trailer(bytes, count) => {
                    bytes[*count] = rest[0];
                    *count += 1;
                    step.consumed += 1;
                    if *count == bytes.len() {
                        let trailer = u64::from_le_bytes(*bytes);
                        self.end_member(trailer)?;
                    }
                }
                GzipState::MemberEnd => {
                    self.inflate.restart();
                    self.state = GzipState::Header(MemberHeader::default());
                }
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, GzipState::MemberEnd)
    }

    /// `trailer` has the checksum in its lower half and the size in its upper half.
    fn end_member(&mut self, trailer: u64) -> Result<(), DecodeError> {
        let checksum = std::mem::take(&mut self.checksum).finalize();
        let expected = u64::from(std::mem::take(&mut self.size)) << 32 | u64::from(checksum);
        self.state = GzipState::MemberEnd;
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(DecodeError);
        }
        (trailer == expected).then_some(()).ok_or(DecodeError)
    }
}

/// The parser of a member's header. The decoder needs nothing from the header, but the header must be valid.
#[derive(Default)]
struct MemberHeader {
    state: HeaderState,
    flags: u8,
    checksum: crc32fast::Hasher,
}

#[derive(Clone, Copy)]
enum HeaderState {
    /// Magic number, method, flags, time and system; the number of these bytes that were read.
    Fixed(u8),
    ExtraLength(Option<u8>),
    Extra(u16),
    Name,
    Comment,
    Checksum(Option<u8>),
    Done,
}

impl Default for HeaderState {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl MemberHeader {
    /// Reads the next byte. Returns true if it was the header's last.
    fn take(&mut self, byte: u8) -> Result<bool, DecodeError> {
        if !matches!(self.state, HeaderState::Checksum(_)) {
            self.checksum.update(&[byte]);
        }
        self.state = match self.state {
            HeaderState::Fixed(at) => {
                let is_right = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => byte & RESERVED == 0,
                    _ => true,
                };
                if !is_right {
                    return Err(DecodeError);
                }
                if at == 3 {
                    self.flags = byte;
                }
                if at < 9 {
                    HeaderState::Fixed(at + 1)
                } else {
                    self.after_fixed()
                }
            }
            HeaderState::ExtraLength(None) => HeaderState::ExtraLength(Some(byte)),
            HeaderState::ExtraLength(Some(low)) => match u16::from_le_bytes([low, byte]) {
                0 => self.after_extra(),
                length => HeaderState::Extra(length),
            },
            HeaderState::Extra(1) => self.after_extra(),
            HeaderState::Extra(left) => HeaderState::Extra(left - 1),
            HeaderState::Name if byte == 0 => self.after_name(),
            HeaderState::Comment if byte == 0 => self.after_comment(),
            HeaderState::Name => HeaderState::Name,
            HeaderState::Comment => HeaderState::Comment,
            HeaderState::Checksum(None) => HeaderState::Checksum(Some(byte)),
            HeaderState::Checksum(Some(low)) => {
                let [first, second, ..] = self.checksum.clone().finalize().to_le_bytes();
                if [low, byte] != [first, second] {
                    return Err(DecodeError);
                }
                HeaderState::Done
            }
            HeaderState::Done => HeaderState::Done,
        };
        Ok(matches!(self.state, HeaderState::Done))
    }

    fn after_fixed(&self) -> HeaderState {
        if self.flags & FEXTRA != 0 {
            HeaderState::ExtraLength(None)
        } else {
            self.after_extra()
        }
    }

    fn after_extra(&self) -> HeaderState {
        if self.flags & FNAME != 0 {
            HeaderState::Name
        } else {
            self.after_name()
        }
    }

    fn after_name(&self) -> HeaderState {
        if self.flags & FCOMMENT != 0 {
            HeaderState::Comment
        } else {
            self.after_comment()
        }
    }

    fn after_comment(&self) -> HeaderState {
        if self.flags & FHCRC != 0 {
            HeaderState::Checksum(None)
        } else {
            HeaderState::Done
        }
    }
}
