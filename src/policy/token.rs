//! Bearer tokens: creation, a check of their form, and their hash.
//!
//! Invariant: the text of a token leaves this file only through [`BearerToken::reveal`]. The same holds for [`Code`].

use std::fmt;

use zeroize::ZeroizeOnDrop;

/// The prefix of every token that keygate creates. Reserved: see [`Presented::parse`].
pub const PREFIX: &str = "kg_";
/// The longest token that is accepted, in bytes.
pub const MAX_LENGTH: usize = 512;

const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;
const MADE_LENGTH: usize = PREFIX.len() + RANDOM_DIGITS + CHECKSUM_DIGITS;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token, to be shown once. It has no Display, Serialize or Clone, and its memory is wiped on drop.
#[derive(ZeroizeOnDrop)]
pub struct BearerToken(String);

impl BearerToken {
    /// Makes `kg_`, 43 base62 characters drawn uniformly from `random` (256 bits), and their checksum.
    ///
    /// # Errors
    /// The error of `random`.
    pub fn make<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut text = String::with_capacity(MADE_LENGTH);
        text.push_str(PREFIX);
        draw(&mut text, &mut random)?;
        let sum = checksum(text.as_bytes());
        text.extend(sum.iter().map(|&digit| char::from(digit)));
        Ok(Self(text))
    }

    /// The text, for the one response that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash, which the key table stores.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }

    /// The last four characters, by which people recognise a token.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret other than a token: a session id or the code of a sign-in link. Its text is protected like a token's.
#[derive(ZeroizeOnDrop)]
pub struct Code(String);

impl Code {
    /// The length in characters.
    pub const LENGTH: usize = RANDOM_DIGITS;

    /// Makes 43 base62 characters drawn uniformly from `random` (256 bits).
    ///
    /// # Errors
    /// The error of `random`.
    pub fn make<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut text = String::with_capacity(RANDOM_DIGITS);
        draw(&mut text, &mut random)?;
        Ok(Self(text))
    }

    /// The text, to be sent to its owner.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash, which is stored.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A token from a client, with a valid form.
#[derive(Clone, Copy)]
pub struct Presented<'a>(&'a [u8]);

impl<'a> Presented<'a> {
    /// Accepts 1 to 512 visible ASCII characters. A token with the prefix `kg_` must have a valid checksum too.
    #[must_use]
    pub fn parse(token: &'a [u8]) -> Option<Self> {
        let is_valid = if token.starts_with(PREFIX.as_bytes()) {
            is_made_here(token)
        } else {
            (1..=MAX_LENGTH).contains(&token.len()) && are_all(token, u8::is_ascii_graphic)
        };
        is_valid.then_some(Self(token))
    }

    /// The hash to look up.
    #[must_use]
    pub fn hash(self) -> TokenHash {
        TokenHash::of(self.0)
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The BLAKE3 hash of a token. The token itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes exactly these bytes, without trimming or case folding.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(*blake3::hash(token).as_bytes())
    }

    /// Parses the form in the key file: `blake3:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("blake3:")?.as_bytes();
        let mut bytes = [0; 32];
        let mut not_hex = hex.len() != 2 * bytes.len();
        for (byte, digits) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let [high, low] = [digits[0], digits[1]].map(|digit| HEX_VALUE[usize::from(digit)]);
            not_hex |= high | low > 15;
            *byte = high << 4 | low & 15;
        }
        (!not_hex).then_some(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// Appends 43 base62 characters, chosen uniformly.
fn draw<E>(
    text: &mut String,
    random: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let end = text.len() + RANDOM_DIGITS;
    let mut bytes = zeroize::Zeroizing::new([0_u8; 64]);
    while text.len() < end {
        random(bytes.as_mut_slice())?;
        // 248 is the largest multiple of 62 in a byte. Larger values would make the first digits more likely.
        let digits = bytes.iter().filter(|&&byte| byte < 248);
        let missing = end - text.len();
        text.extend(
            digits
                .take(missing)
                .map(|byte| char::from(BASE62[usize::from(byte % 62)])),
        );
    }
    Ok(())
}

/// The value of a hexadecimal digit; 255 for other bytes. A table is faster: branches on random digits are mispredicted
/// half of the time, and each line of a key file has 64 digits.
const HEX_VALUE: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        values[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

fn is_made_here(token: &[u8]) -> bool {
    token.len() == MADE_LENGTH
        && are_all(&token[PREFIX.len()..], u8::is_ascii_alphanumeric)
        && token[MADE_LENGTH - CHECKSUM_DIGITS..]
            == checksum(&token[..MADE_LENGTH - CHECKSUM_DIGITS])
}

/// Whether all bytes match. Without an early return the compiler can vectorise the loop, which is faster.
fn are_all(bytes: &[u8], are: impl Fn(&u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & are(byte))
}

/// CRC-32 (ISO-HDLC, as in zlib) in base62, most significant digit first, padded with `0`.
fn checksum(text: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token_from(seed: u8) -> BearerToken {
        let mut next = seed;
        BearerToken::make(|bytes| {
            for byte in bytes {
                next = next.wrapping_mul(73).wrapping_add(41);
                *byte = next;
            }
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn a_made_token_has_the_published_form() {
        let token = token_from(7);
        assert_eq!(token.reveal().len(), 52);
        assert!(token.reveal().starts_with("kg_"));
        assert!(Presented::parse(token.reveal().as_bytes()).is_some());
        assert_eq!(token.hint(), &token.reveal()[48..]);
    }

    #[test]
    fn the_checksum_is_zlibs_crc32_in_base62() {
        // crc32(b"kg_" + b"0" * 43) computed with zlib; the digits by hand.
        let text = format!("kg_{}", "0".repeat(43));
        let crc = crc32fast::hash(text.as_bytes());
        let value = checksum(text.as_bytes()).iter().fold(0_u64, |sum, digit| {
            sum * 62 + BASE62.iter().position(|d| d == digit).unwrap() as u64
        });
        assert_eq!(value, u64::from(crc));
        assert_eq!(
            crc32fast::hash(b"123456789"),
            0xCBF4_3926,
            "the check value of CRC-32/ISO-HDLC"
        );
    }

    #[test]
    fn a_reserved_prefix_without_its_checksum_is_refused_before_the_lookup() {
        let good = token_from(9).reveal().to_owned();
        for bad in [
            "kg_",
            "kg_x",
            &good[..51],
            &format!("{good}0"),
            &good.replace("kg_", "kg_-"),
        ] {
            assert!(Presented::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        let last = if good.ends_with('0') { "1" } else { "0" };
        assert!(Presented::parse(format!("{}{last}", &good[..51]).as_bytes()).is_none());
    }

    #[test]
    fn tokens_made_elsewhere_are_looked_up_within_bounds() {
        assert!(Presented::parse(b"sk-anything").is_some());
        assert!(Presented::parse(&[b'a'; 512]).is_some());
        for bad in [&b""[..], &[b'a'; 513], b"a b", b"a\tb", b"\xc3\xa4", b"a\0"] {
            assert!(Presented::parse(bad).is_none());
        }
    }

    #[test]
    fn no_debug_output_holds_a_token_or_hash() {
        let token = token_from(3);
        let presented = Presented::parse(token.reveal().as_bytes()).unwrap();
        assert_eq!(
            format!("{token:?} {presented:?} {:?}", token.hash()),
            "[redacted] [redacted] [hash]"
        );
    }

    #[test]
    fn every_digit_is_drawn_equally_often() {
        let mut counts = [0_u32; 62];
        let mut state = 0x9E37_79B9_u32;
        for _ in 0..2000 {
            let token = BearerToken::make(|bytes| {
                for byte in bytes {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    *byte = state.to_le_bytes()[1];
                }
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap();
            for byte in token.reveal()[3..46].bytes() {
                counts[BASE62.iter().position(|&digit| digit == byte).unwrap()] += 1;
            }
        }
        let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(f64::from(*high) / f64::from(*low) < 1.25, "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_hash_survives_its_text_form(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let hash = TokenHash::of(&bytes);
            prop_assert_eq!(TokenHash::parse(&hash.to_string()), Some(hash));
        }

        #[test]
        fn a_hash_with_any_other_character_or_length_is_none(at in 7_usize..71, other in "[^0-9a-fA-F]") {
            let text = TokenHash::of(b"token").to_string();
            prop_assert!(TokenHash::parse(&text.to_uppercase().replace("BLAKE3", "blake3")).is_some());
            prop_assert!(TokenHash::parse(&(text[..at].to_owned() + &other + &text[at + 1..])).is_none());
            prop_assert!(TokenHash::parse(&text[..at]).is_none());
            prop_assert!(TokenHash::parse(&(text + "0")).is_none());
        }

        #[test]
        fn changing_one_character_of_a_made_token_is_noticed(at in 3_usize..52, digit in 0_usize..62) {
            let good = token_from(5).reveal().as_bytes().to_vec();
            let mut changed = good.clone();
            changed[at] = BASE62[digit];
            prop_assert_eq!(Presented::parse(&changed).is_some(), changed == good);
        }
    }
}
