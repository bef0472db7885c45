//! Finds the end of a JSON string: the loop that reads nearly every byte of a body.
//!
//! It compares blocks of 64 bytes with vector instructions, and then looks only at the bytes in them that need
//! attention: quotes, backslashes and control characters ("stops"). Restarting a search after each escape instead takes
//! three times as long on code and markdown, where every second line has an escape.

use wide::u8x16;

const BLOCK: usize = 64;
const VECTOR: usize = 16;
const WORD: usize = 8;
/// Most names and short words end within two machine words, and a block costs more than both.
const WORDS_BEFORE_BLOCKS: usize = 2;

/// The end of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StringEnd {
    /// The position of the closing quote.
    pub(crate) at: usize,
    pub(crate) escaped: bool,
}

/// Why a string has no end, and the position of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StringError {
    Unterminated(usize),
    ControlCharacter(usize),
    Escape(usize),
}

/// Finds the end of the string whose opening quote is before `start`, and checks everything in it except UTF-8.
#[inline]
pub(crate) fn find_end(bytes: &[u8], start: usize) -> Result<StringEnd, StringError> {
    let mut at = start;
    for _ in 0..WORDS_BEFORE_BLOCKS {
        let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<WORD>) else {
            break;
        };
        let stops = stops_in_word(u64::from_le_bytes(*word));
        if stops == 0 {
            at += WORD;
            continue;
        }
        at += (stops.trailing_zeros() / 8) as usize;
        if bytes.get(at) == Some(&b'"') {
            return Ok(StringEnd { at, escaped: false });
        }
        break;
    }
    find_end_in_blocks(bytes, at)
}

#[inline(never)]
fn find_end_in_blocks(bytes: &[u8], start: usize) -> Result<StringEnd, StringError> {
    let mut escaped = false;
    let mut at = start;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let last;
        let block = match rest.first_chunk::<BLOCK>() {
            Some(block) => block,
            None => {
                last = padded(rest);
                &last
            }
        };
        let mut stops = stops_in_block(block);
        let mut length = BLOCK;
        while stops != 0 {
            let stop = stops.trailing_zeros() as usize;
            match block[stop] {
                b'"' => {
                    return Ok(StringEnd {
                        at: at + stop,
                        escaped,
                    });
                }
                b'\\' => check_escape(bytes, at + stop)?,
                _ => return Err(StringError::ControlCharacter(at + stop)),
            }
            escaped = true;
            // An escaped byte is not a stop, even as the first byte of the next block.
            stops &= !(0b11 << stop);
            length = length.max(stop + 2);
        }
        at += length;
    }
    Err(StringError::Unterminated(bytes.len()))
}

/// The bytes that make an escape alone after a backslash (RFC 8259 7). A table, because a branch for each would be
/// mispredicted at every second escape.
const SINGLE_ESCAPES: [bool; 256] = {
    let mut single = [false; 256];
    let mut letters: &[u8] = b"\"\\/bfnrt";
    while let [letter, rest @ ..] = letters {
        single[*letter as usize] = true;
        letters = rest;
    }
    single
};

#[inline]
fn check_escape(bytes: &[u8], at: usize) -> Result<(), StringError> {
    let Some(&escaped) = bytes.get(at + 1) else {
        return Err(StringError::Unterminated(bytes.len()));
    };
    let digits_follow = || {
        let digits = bytes.get(at + 2..at + 6);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if SINGLE_ESCAPES[usize::from(escaped)] || escaped == b'u' && digits_follow() {
        Ok(())
    } else {
        Err(StringError::Escape(at))
    }
}

/// The last bytes, padded to a block with spaces, which are not stops.
#[cold]
fn padded(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [b' '; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// A bit for each stop, the lowest bit for the first byte. The XOR with 2 moves the quote (0x22) to 0x20, next to the
/// control characters (below 0x20), and keeps those below 0x20. So one comparison finds both.
#[inline]
fn stops_in_block(block: &[u8; BLOCK]) -> u64 {
    let (vectors, _) = block.as_chunks::<VECTOR>();
    let last_but_quote = u8x16::splat(0x20);
    let mut stops = 0;
    for (place, &vector) in vectors.iter().enumerate() {
        let bytes = u8x16::new(vector);
        let flipped = bytes ^ u8x16::splat(2);
        let found =
            flipped.min(last_but_quote).simd_eq(flipped) | bytes.simd_eq(u8x16::splat(b'\\'));
        stops |= u64::from(found.to_bitmask()) << (place * VECTOR);
    }
    stops
}

/// The top bit of each stop. A borrow may set bits after the first stop, but never before it.
#[inline]
fn stops_in_word(word: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; WORD])
    }
    let control_or_quote = (word ^ each(2)).wrapping_sub(each(0x21));
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(1));
    // Stops are ASCII: `!word` clears the bytes that have their top bit set.
    (control_or_quote | backslash) & !word & each(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, byte by byte.
    fn find_end_bytewise(bytes: &[u8], start: usize) -> Result<StringEnd, StringError> {
        let (mut at, mut escaped) = (start, false);
        loop {
            match bytes.get(at) {
                None => return Err(StringError::Unterminated(bytes.len())),
                Some(b'"') => return Ok(StringEnd { at, escaped }),
                Some(b'\\') => {
                    check_escape(bytes, at)?;
                    escaped = true;
                    at += 2;
                }
                Some(0..0x20) => return Err(StringError::ControlCharacter(at)),
                Some(_) => at += 1,
            }
        }
    }

    #[test]
    fn every_byte_stops_or_not_at_every_place() {
        for byte in 0..=255_u8 {
            for place in 0..200 {
                let mut bytes = vec![b'x'; 201];
                bytes[200] = b'"';
                bytes[place] = byte;
                assert_eq!(
                    find_end(&bytes, 0),
                    find_end_bytewise(&bytes, 0),
                    "{byte} at {place}"
                );
            }
        }
    }

    #[test]
    fn an_escape_across_any_edge_of_a_word_or_block_is_one() {
        for escape in [
            r#"\""#,
            r"\\",
            r"\n",
            r"\u0022",
            r"\ud83d\ude00",
            r"\\\\",
            r"\x",
            r"\u12",
            r"\",
        ] {
            for before in 0..140 {
                for behind in [0, 1, 7, 8, 63, 64, 65] {
                    let text = format!("{}{escape}{}\"", "x".repeat(before), "y".repeat(behind));
                    for length in [
                        text.len(),
                        text.len() - 1,
                        before + escape.len(),
                        before + 1,
                    ] {
                        let bytes = &text.as_bytes()[..length];
                        assert_eq!(
                            find_end(bytes, 0),
                            find_end_bytewise(bytes, 0),
                            "{text} cut to {length}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn blocks_and_bytes_find_the_same_end(
            pieces in prop::collection::vec(
                prop_oneof![
                    5 => "[ -!#-\\[\\]-~äöü]{0,90}",
                    3 => prop::sample::select(vec![r"\n", r#"\""#, r"\\", r"\u00e4"]).prop_map(str::to_owned),
                    1 => prop::sample::select(vec!["\"", "\\", "\n", "\0", "\x1f", r"\u00"]).prop_map(str::to_owned),
                ],
                0..12,
            ),
            start in 0_usize..4,
        ) {
            let text = pieces.concat() + "    \"";
            prop_assert_eq!(find_end(text.as_bytes(), start), find_end_bytewise(text.as_bytes(), start));
        }

        #[test]
        fn any_bytes_end_as_they_do_byte_by_byte(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(find_end(&bytes, 0), find_end_bytewise(&bytes, 0));
        }
    }
}
