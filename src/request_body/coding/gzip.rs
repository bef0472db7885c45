//! gzip (RFC 1952): one member after another, each a head, a deflate stream and a checksum.

use crate::request_body::coding::inflate::Inflate;
use crate::request_body::coding::{MOST_MEMBERS, Step, Undecodable};

const HAS_HEAD_CHECKSUM: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// A body of one or more members.
pub(super) struct Gzip {
    place: Place,
    inflate: Inflate,
    checksum: crc32fast::Hasher,
    /// Bytes of the member's content, modulo 2^32, as its end says them.
    size: u32,
    members: usize,
}

enum Place {
    Head(Head),
    Content,
    /// In the checksum and size behind the content; so many bytes of them have come.
    End([u8; 8], usize),
    /// Behind a member: the body's end, or another member.
    Between,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            place: Place::Head(Head::default()),
            inflate: Inflate::bare(),
            checksum: crc32fast::Hasher::new(),
            size: 0,
            members: 0,
        }
    }
}

impl Gzip {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let mut step = Step { taken: 0, made: 0 };
        loop {
            let rest = &input[step.taken..];
            match &mut self.place {
                Place::Content => {
                    let room = &mut output[step.made..];
                    let inflated = self.inflate.step(rest, room)?;
                    let made = &room[..inflated.made];
                    self.checksum.update(made);
                    // At most one output's length, which is far below 2^32.
                    let count = u32::try_from(made.len()).map_err(|_| Undecodable)?;
                    self.size = self.size.wrapping_add(count);
                    step.taken += inflated.taken;
                    step.made += inflated.made;
                    if !self.inflate.has_ended() {
                        return Ok(step);
                    }
                    self.place = Place::End([0; 8], 0);
                }
                _ if rest.is_empty() => return Ok(step),
                Place::Head(head) => {
                    step.taken += 1;
                    if head.take(rest[0])? {
                        self.place = Place::Content;
                    }
                }
                Place::End(bytes, come) => {
                    bytes[*come] = rest[0];
                    *come += 1;
                    step.taken += 1;
                    if *come == bytes.len() {
                        let said = u64::from_le_bytes(*bytes);
                        self.end_member(said)?;
                    }
                }
                Place::Between => {
                    self.inflate.restart();
                    self.place = Place::Head(Head::default());
                }
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.place, Place::Between)
    }

    /// `said`: the checksum in the lower half, the size in the upper.
    fn end_member(&mut self, said: u64) -> Result<(), Undecodable> {
        let checksum = std::mem::take(&mut self.checksum).finalize();
        let is = u64::from(std::mem::take(&mut self.size)) << 32 | u64::from(checksum);
        self.place = Place::Between;
        self.members += 1;
        if self.members > MOST_MEMBERS {
            return Err(Undecodable);
        }
        (said == is).then_some(()).ok_or(Undecodable)
    }
}

/// A member's head, as far as it has come. Nothing in it is of use, but all of it has to be right.
#[derive(Default)]
struct Head {
    part: GzipState,
    flags: u8,
    checksum: crc32fast::Hasher,
}

#[derive(Clone, Copy)]
enum GzipState {
    /// Magic number, method, flags, time, system; so many bytes of them have come.
    Fixed(u8),
    ExtraLength(Option<u8>),
    Extra(u16),
    Name,
    Comment,
    Checksum(Option<u8>),
    Done,
}

impl Default for GzipState {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Head {
    /// Takes the next byte; true where it was the last.
    fn take(&mut self, byte: u8) -> Result<bool, Undecodable> {
        if !matches!(self.part, GzipState::Checksum(_)) {
            self.checksum.update(&[byte]);
        }
        self.part = match self.part {
            GzipState::Fixed(at) => {
                let is_right = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => byte & RESERVED == 0,
                    _ => true,
                };
                if !is_right {
                    return Err(Undecodable);
                }
                if at == 3 {
                    self.flags = byte;
                }
                if at < 9 {
                    GzipState::Fixed(at + 1)
                } else {
                    self.after_fixed()
                }
            }
            GzipState::ExtraLength(None) => GzipState::ExtraLength(Some(byte)),
            GzipState::ExtraLength(Some(low)) => match u16::from_le_bytes([low, byte]) {
                0 => self.after_extra(),
                length => GzipState::Extra(length),
            },
            GzipState::Extra(1) => self.after_extra(),
            GzipState::Extra(left) => GzipState::Extra(left - 1),
            GzipState::Name if byte == 0 => self.after_name(),
            GzipState::Comment if byte == 0 => self.after_comment(),
            GzipState::Name => GzipState::Name,
            GzipState::Comment => GzipState::Comment,
            GzipState::Checksum(None) => GzipState::Checksum(Some(byte)),
            GzipState::Checksum(Some(low)) => {
                let [first, second, ..] = self.checksum.clone().finalize().to_le_bytes();
                if [low, byte] != [first, second] {
                    return Err(Undecodable);
                }
                GzipState::Done
            }
            GzipState::Done => GzipState::Done,
        };
        Ok(matches!(self.part, GzipState::Done))
    }

    fn after_fixed(&self) -> GzipState {
        if self.flags & HAS_EXTRA != 0 {
            GzipState::ExtraLength(None)
        } else {
            self.after_extra()
        }
    }

    fn after_extra(&self) -> GzipState {
        if self.flags & HAS_NAME != 0 {
            GzipState::Name
        } else {
            self.after_name()
        }
    }

    fn after_name(&self) -> GzipState {
        if self.flags & HAS_COMMENT != 0 {
            GzipState::Comment
        } else {
            self.after_comment()
        }
    }

    fn after_comment(&self) -> GzipState {
        if self.flags & HAS_HEAD_CHECKSUM != 0 {
            GzipState::Checksum(None)
        } else {
            GzipState::Done
        }
    }
}
