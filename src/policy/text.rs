//! Which characters may stand in names, and be shown to people as they are.

/// Longest id, in bytes.
pub const MAX_ID: usize = 64;

/// The characters of Unicode's class Cf (format), of version 17.0, first and last of each range: they have no shape of
/// their own. Bidirectional controls, which can make one text look like another, are among them.
const FORMAT_CHARACTERS: [(char, char); 21] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether a character may be shown as it is: it neither controls a terminal nor breaks a line (Unicode's classes Cc, Zl
/// and Zp), nor does it change how the text around it looks (Cf). Others are escaped.
#[must_use]
pub fn is_harmless(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    !character.is_control()
        && !is_format(character)
        && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{2065}')
}

fn is_format(character: char) -> bool {
    let mut ranges = FORMAT_CHARACTERS.iter();
    ranges.any(|(first, last)| (*first..=*last).contains(&character))
}

/// Whether a text has the form of an id: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(is_plain)
}

/// What is wrong with the characters of a name, and what to do. None: nothing.
#[must_use]
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.chars().any(char::is_control) {
        return Some("must not hold control characters; remove them");
    }
    name.chars().any(is_format).then_some(
        "must not hold invisible characters, such as those that change the direction of text; remove them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_or_hides_is_not_harmless() {
        for harmful in "\0\n\u{1b}\u{7f}\u{85}\u{ad}\u{600}\u{61c}\u{180e}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\u{202a}\
                        \u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{fffb}\u{110bd}\u{13430}\u{1d173}\u{e0001}\u{e0041}"
            .chars()
        {
            assert!(!is_harmless(harmful), "{}", harmful.escape_unicode());
        }
        for good in "a ~é中ا😀\u{301}\u{a0}\u{fffd}\u{2070}".chars() {
            assert!(is_harmless(good), "{}", good.escape_unicode());
        }
    }

    #[test]
    fn the_fault_says_what_to_remove() {
        assert_eq!(name_fault("web site é"), None);
        assert!(name_fault("a\nb").is_some_and(|fault| fault.contains("control characters")));
        assert!(name_fault("a\u{202e}b").is_some_and(|fault| fault.contains("direction of text")));
    }
}
