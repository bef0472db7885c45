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

    /// One made here: `prefix`, which tells workers apart, and a number.
    #[must_use]
    pub fn numbered(prefix: &str, number: u64) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1) as usize;
        let mut text = [0; 16];
        for (place, digit) in text[..digits].iter_mut().rev().enumerate() {
            *digit = HEX[(number >> (place * 4) & 0xf) as usize];
        }
        let mut id = Text::Inline(0, [0; MAX_INLINE]);
        if let Text::Inline(length, bytes) = &mut id
            && let Some(place) = bytes.get_mut(..prefix.len() + digits)
        {
            place[..prefix.len()].copy_from_slice(prefix.as_bytes());
            place[prefix.len()..].copy_from_slice(&text[..digits]);
            *length = u8::try_from(place.len()).unwrap_or(0);
        }
        Self(id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_end_in_their_number() {
        for number in [0, 1, 15, 16, 0xabc, u64::MAX] {
            let id = RequestId::numbered("req-0123456789abcdef-", number);
            assert_eq!(id.as_str(), format!("req-0123456789abcdef-{number:x}"));
        }
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
