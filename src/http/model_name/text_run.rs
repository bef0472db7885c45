//! How far a JSON string goes on before anything in it needs a look: the one loop that sees nearly every byte.

const WORD: usize = 8;
const BLOCK: usize = 64;
/// Most strings end within a few words; only longer ones are worth a block.
const WORDS_FIRST: usize = 4;

/// The number of bytes before the first quote, backslash or control character; all of them where there is none.
#[inline]
pub(crate) fn length(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let words_end = at + WORDS_FIRST * WORD;
        while at < words_end {
            let Some(word) = bytes[at..].first_chunk::<WORD>() else {
                return at + length_in_tail(&bytes[at..]);
            };
            let stops = stops_in(u64::from_le_bytes(*word));
            if stops != 0 {
                return at + (stops.trailing_zeros() / 8) as usize;
            }
            at += WORD;
        }
        while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
            if block
                .iter()
                .fold(false, |found, &byte| found | is_stop(byte))
            {
                break;
            }
            at += BLOCK;
        }
    }
}

fn length_in_tail(bytes: &[u8]) -> usize {
    let stop = bytes.iter().position(|&byte| is_stop(byte));
    stop.unwrap_or(bytes.len())
}

#[inline]
fn is_stop(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The top bit of every byte that stops the run. A borrow may set bits above the first stop, never below it.
#[inline]
fn stops_in(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; WORD]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; WORD]);
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; WORD]);
    const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; WORD]);
    const SPACES: u64 = u64::from_ne_bytes([b' '; WORD]);
    let quote = (word ^ QUOTES).wrapping_sub(ONES);
    let backslash = (word ^ BACKSLASHES).wrapping_sub(ONES);
    let control = word.wrapping_sub(SPACES);
    // All three stops are ASCII, so a byte whose own top bit is set is none; xor with ASCII keeps that bit.
    (quote | backslash | control) & !word & TOPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_stops_or_not_at_every_place() {
        for byte in 0..=255_u8 {
            for place in 0..200 {
                let mut bytes = vec![b'x'; 200];
                bytes[place] = byte;
                let expected = if is_stop(byte) { place } else { 200 };
                assert_eq!(length(&bytes), expected, "{byte} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_stop_is_found(bytes in prop::collection::vec(any::<u8>(), 0..300), common in any::<bool>()) {
            let bytes: Vec<u8> = if common { bytes.iter().map(|byte| byte | 0x60).collect() } else { bytes };
            prop_assert_eq!(length(&bytes), length_in_tail(&bytes));
        }
    }
}
