//! Recognises an event that is like the last one, without parsing it.
//!
//! Invariant: an event that matches says the same as the event that was learned, save for whether its piece of output is
//! empty.

use wide::u8x16;

/// The last event that was read whole. Another event is like it if it has the same bytes, save for the piece of output
/// and for one word before and one behind it, such as a running number.
#[derive(Debug, Default)]
pub(crate) struct Template {
    /// The bytes before and behind the piece of output.
    before: Vec<u8>,
    behind: Vec<u8>,
    /// Where the words that may differ stand in them.
    word_before: Option<(usize, usize)>,
    word_behind: Option<(usize, usize)>,
}

impl Template {
    /// The length of the first event of `bytes`, where it is like this one; and whether its piece of output has text.
    #[inline]
    pub(crate) fn matching(&self, bytes: &[u8]) -> Option<(usize, bool)> {
        if bytes.is_empty() || self.before.is_empty() {
            return None;
        }
        let start = match self.word_before {
            None => bytes
                .starts_with(&self.before)
                .then_some(self.before.len())?,
            Some(word) => like(bytes, &self.before, word)?,
        };
        let mut end = start;
        loop {
            end = text_stop(bytes, end)?;
            match bytes[end] {
                b'"' => break,
                b'\\' => end = (end + 2).min(bytes.len()),
                // A line that ends in the text is another event.
                _ => return None,
            }
        }
        let rest = &bytes[end..];
        let length = match self.word_behind {
            None => rest
                .starts_with(&self.behind)
                .then_some(self.behind.len())?,
            Some(word) => like(rest, &self.behind, word)?,
        };
        Some((end + length, end > start))
    }

    /// Keeps an event. `fixed`: where the name of the event stands, in which no word may differ. None: no word may
    /// differ at all.
    pub(crate) fn learn(
        &mut self,
        event: &[u8],
        piece: (usize, usize),
        fixed: Option<(usize, usize)>,
    ) {
        let (Some(before), Some(behind)) = (event.get(..piece.0), event.get(piece.1..)) else {
            return;
        };
        let may_differ = |word: &(usize, usize), offset: usize| {
            fixed.is_some_and(|(start, end)| word.1 + offset <= start || end <= word.0 + offset)
        };
        if self.before != before {
            self.word_before =
                differing_word(&self.before, before).filter(|word| may_differ(word, 0));
            self.before.clear();
            self.before.extend_from_slice(before);
        }
        if self.behind != behind {
            self.word_behind =
                differing_word(&self.behind, behind).filter(|word| may_differ(word, piece.1));
            self.behind.clear();
            self.behind.extend_from_slice(behind);
        }
    }
}

/// The length of what `bytes` begin with, where that is like `text` save for one word.
#[inline(never)]
fn like(bytes: &[u8], text: &[u8], (start, end): (usize, usize)) -> Option<usize> {
    let rest = bytes.strip_prefix(&text[..start])?;
    let word = rest.iter().position(|byte| !is_word(*byte))?;
    let is_like = word > 0 && rest[word..].starts_with(&text[end..]);
    is_like.then(|| start + word + text.len() - end)
}

/// The one word in which two texts differ, as its place in the second one. Whatever word stands there, the JSON around it
/// is read alike: it is a whole value or the end of a text that is a value, and it is no name.
fn differing_word(one: &[u8], other: &[u8]) -> Option<(usize, usize)> {
    let alike = |(a, b): &(&u8, &u8)| a == b;
    let mut start = one.iter().zip(other).take_while(alike).count();
    while start > 0 && is_word(other[start - 1]) {
        start -= 1;
    }
    let shorter = one.len().min(other.len());
    let backwards = one.iter().rev().zip(other.iter().rev());
    let mut behind = backwards.take(shorter - start).take_while(alike).count();
    while behind > 0 && is_word(other[other.len() - behind]) {
        behind -= 1;
    }
    let end = other.len() - behind;
    let is_one_word = |text: &[u8]| !text.is_empty() && text.iter().all(|byte| is_word(*byte));
    if !is_one_word(other.get(start..end)?) || !is_one_word(one.get(start..one.len() - behind)?) {
        return None;
    }
    let is_value = match other.get(end)? {
        b',' | b'}' | b']' => true,
        b'"' => !matches!(
            other[end + 1..].trim_ascii_start().first(),
            Some(b':') | None
        ),
        _ => false,
    };
    let is_escaped = start == 0 || other[start - 1] == b'\\';
    (is_value && !is_escaped).then_some((start, end))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+')
}

/// The next quote, backslash or control character.
#[inline]
fn text_stop(bytes: &[u8], mut at: usize) -> Option<usize> {
    const VECTOR: usize = 16;
    while let Some(block) = bytes.get(at..)?.first_chunk::<VECTOR>() {
        let block = u8x16::new(*block);
        let stops = block.simd_eq(u8x16::splat(b'"'))
            | block.simd_eq(u8x16::splat(b'\\'))
            | block.min(u8x16::splat(0x1f)).simd_eq(block);
        let stops = stops.to_bitmask();
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize);
        }
        at += VECTOR;
    }
    let is_stop = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes[at..].iter().position(is_stop).map(|stop| at + stop)
}
