//! Bearer tokens as the contract describes them, and the lines of the key file that hold their hashes.

use serde_json::{Value, json};

use super::sweep;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token such as the gateway makes: `kg_`, 43 random base62 characters, and their checksum.
pub fn fresh() -> String {
    let mut random = [0_u8; 43];
    getrandom::fill(&mut random).expect("the system's random source");
    let body: String = random
        .iter()
        .map(|byte| char::from(BASE62[usize::from(*byte) % 62]))
        .collect();
    let token = with_checksum(&format!("kg_{body}"));
    sweep::secret(&token);
    sweep::secret(&hash(&token)["blake3:".len()..]);
    token
}

/// The 46 characters and the base62 CRC-32 behind them.
pub fn with_checksum(start: &str) -> String {
    let mut crc = crc32fast::hash(start.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(crc % 62) as usize];
        crc /= 62;
    }
    format!("{start}{}", String::from_utf8_lossy(&digits))
}

/// The hash as the key file writes it.
pub fn hash(token: &str) -> String {
    format!("blake3:{}", blake3::hash(token.as_bytes()).to_hex())
}

/// One key: the token and its record in the key file.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub token: String,
    record: Value,
}

impl Key {
    fn with_access(id: &str, access: Value) -> Self {
        Self::with_token(id, &fresh(), access)
    }

    /// A key whose token was made elsewhere.
    pub fn with_token(id: &str, token: &str, access: Value) -> Self {
        Self {
            id: id.to_owned(),
            token: token.to_owned(),
            record: json!({"id": id, "name": id, "hash": hash(token), "model_access": access}),
        }
    }

    pub fn all(id: &str) -> Self {
        Self::with_access(id, json!({"mode": "all"}))
    }

    pub fn only(id: &str, models: &[&str]) -> Self {
        Self::with_access(id, json!({"mode": "inclusive", "models": models}))
    }

    pub fn all_but(id: &str, models: &[&str]) -> Self {
        Self::with_access(id, json!({"mode": "exclusive", "models": models}))
    }

    /// The same key with one field of its record set.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.record[field] = value.into();
        self
    }

    pub fn only_from(self, networks: &[&str]) -> Self {
        self.with("allow_from", json!(networks))
    }

    pub fn disabled(self) -> Self {
        self.with("disabled", true)
    }

    pub fn expires(self, at: &str) -> Self {
        self.with("expires_at", at)
    }

    /// The key's line in the key file, without its end.
    pub fn line(&self) -> String {
        self.record.to_string()
    }
}

/// A whole key file.
pub fn key_file(keys: &[Key]) -> String {
    let mut text = String::new();
    for key in keys {
        text.push_str(&key.line());
        text.push('\n');
    }
    text
}

/// The time so many seconds from now, as RFC 3339.
pub fn seconds_from_now(seconds: i64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let at = i64::try_from(now).expect("before the year 292 billion") + seconds;
    jiff::Timestamp::from_second(at)
        .expect("a time")
        .to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_has_the_form_of_the_contract() {
        let token = super::fresh();
        assert_eq!(token.len(), 52);
        assert!(token.starts_with("kg_"));
        assert_eq!(super::with_checksum(&token[..46]), token);
    }

    #[test]
    fn the_checksum_is_zlibs_crc_32_most_significant_digit_first() {
        // CRC-32 of "123456789" is 0xCBF43926 = 3421780262.
        let digits = super::with_checksum("123456789");
        let value = digits[9..].bytes().fold(0_u64, |value, digit| {
            let place = super::BASE62.iter().position(|known| *known == digit);
            value * 62 + place.expect("a base62 digit") as u64
        });
        assert_eq!(value, 0xCBF4_3926);
    }
}
