//! The name of a request (OpenAI's API: `x-request-id`), as its client, its upstream and the log see it.

/// Longest id that is taken from a client.
const MAX_LENGTH: usize = 128;
/// An id up to this length, as every one that is made here, needs no memory of its own.
const MAX_INLINE: usize = 47;

/// See the module's page.
#[derive(Clone, Debug)]
pub struct RequestId(Text);

#[derive(Clone, Debug)]
enum Text {
    Inline(u8, [u8; MAX_INLINE]),
    Boxed(Box<str>),
}

impl RequestId {
    /// The client's own id, where it sent exactly one of a harmless form.
    #[must_use]
    pub fn from_client(sent: Option<&[u8]>) -> Option<Self> {
        let harmless =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let sent = sent
            .filter(|sent| (1..=MAX_LENGTH).contains(&sent.len()) && sent.iter().all(harmless))?;
        std::str::from_utf8(sent).ok().map(Self::from_text)
    }

    fn from_text(text: &str) -> Self {
        let mut bytes = [0; MAX_INLINE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text.as_bytes());
                Self(Text::Inline(length, bytes))
            }
            _ => Self(Text::Boxed(text.into())),
        }
    }

    /// Its text: ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Inline(length, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default()
            }
            Text::Boxed(text) => text,
        }
    }
}

/// Random bytes that are made at a time.
const BLOCK: usize = 1024;
/// Random bytes of an id.
const RANDOM: usize = 16;

/// Makes ids that nobody can foretell: 128 bits each, from BLAKE3's extended output under a random key. Some servers
/// name running requests by this id, so a client that knows another's could end it.
#[derive(Debug)]
pub struct RequestIds {
    output: blake3::OutputReader,
    block: [u8; BLOCK],
    used: usize,
}

impl RequestIds {
    /// `seed` must be random and known to nobody else.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            output: blake3::Hasher::new_keyed(&seed).finalize_xof(),
            block: [0; BLOCK],
            used: BLOCK,
        }
    }

    /// An id that was never made before: `req_` and 32 hexadecimal digits.
    pub fn make(&mut self) -> RequestId {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        const PREFIX: &[u8] = b"req_";
        const LENGTH: usize = PREFIX.len() + 2 * RANDOM;
        const { assert!(LENGTH <= MAX_INLINE) };
        if self.used == BLOCK {
            self.output.fill(&mut self.block);
            self.used = 0;
        }
        let random = &mut self.block[self.used..self.used + RANDOM];
        self.used += RANDOM;
        let mut text = [0; MAX_INLINE];
        text[..PREFIX.len()].copy_from_slice(PREFIX);
        for (digits, byte) in text[PREFIX.len()..LENGTH].chunks_exact_mut(2).zip(random) {
            digits[0] = HEX[usize::from(*byte >> 4)];
            digits[1] = HEX[usize::from(*byte & 0xf)];
            *byte = 0;
        }
        RequestId(Text::Inline(u8::try_from(LENGTH).unwrap_or(0), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_have_one_form_and_never_come_twice() {
        let mut ids = RequestIds::new([7; 32]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let id = ids.make();
            let digits = id.as_str().strip_prefix("req_").unwrap();
            assert_eq!(digits.len(), 32, "{digits}");
            assert!(
                digits
                    .bytes()
                    .all(|digit| b"0123456789abcdef".contains(&digit))
            );
            assert!(seen.insert(digits.to_owned()), "{digits} came twice");
        }
        let other = RequestIds::new([8; 32]).make();
        assert!(!seen.contains(&other.as_str()["req_".len()..]));
    }

    #[test]
    fn a_request_id_is_the_clients_where_it_sent_a_harmless_one() {
        for taken in ["a.B_9-", &"x".repeat(47), &"x".repeat(48), &"x".repeat(128)] {
            let id = RequestId::from_client(Some(taken.as_bytes()));
            assert_eq!(id.as_ref().map(RequestId::as_str), Some(taken));
        }
        for bad in ["", "a b", "a\tb", "a/b", &"x".repeat(129)] {
            assert!(
                RequestId::from_client(Some(bad.as_bytes())).is_none(),
                "{bad}"
            );
        }
        assert!(RequestId::from_client(None).is_none());
    }
}
