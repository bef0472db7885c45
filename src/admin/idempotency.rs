//! The header Idempotency-Key: a client that does not know whether its call was done makes it again under the same key,
//! and the call is not done twice.
//!
//! The answer to the first call held a token, which is stored nowhere, so the second is told of the key alone. Knows the
//! hashes of the last [`MAX_REMEMBERED`] keys of a day, and nothing of what was called. A restart forgets them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use crate::admin::error::ApiError;
use crate::policy::time::UnixTime;

/// The header.
const HEADER: &str = "idempotency-key";
/// The longest key, in bytes.
const MAX_LENGTH: usize = 255;
/// How many keys are remembered. The oldest is forgotten first.
const MAX_REMEMBERED: usize = 1000;
/// How long a key is remembered, in seconds: a day.
const REMEMBERED_FOR: i64 = 86_400;

/// The keys of the last calls. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct IdempotencyKeys(Arc<Mutex<VecDeque<Remembered>>>);

#[derive(Debug)]
struct Remembered {
    /// Of the call and its key.
    hash: [u8; 32],
    since: UnixTime,
    /// The id of the key that the call made or changed; None while the call runs.
    key_id: Option<String>,
}

/// Whether a call may be a repeated one: it is where an earlier one had the same Idempotency-Key. The default is a call
/// without one.
#[derive(Debug, Default)]
pub(super) struct Repeat(Option<Reservation>);

/// The right to be the only call under an Idempotency-Key.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation {
    keys: IdempotencyKeys,
    hash: [u8; 32],
}

impl IdempotencyKeys {
    /// The Idempotency-Key of a call, if it has one. The same key of another `call` is another one.
    pub(super) fn of(&self, headers: &HeaderMap, call: &str) -> Result<Repeat, ApiError> {
        let mut lines = headers.get_all(HEADER).iter();
        let key = match (lines.next(), lines.next()) {
            (None, _) => return Ok(Repeat::default()),
            (Some(key), None) => key.as_bytes(),
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "Idempotency-Key",
                    "comes twice; send it once",
                ));
            }
        };
        let is_plain = key.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !(1..=MAX_LENGTH).contains(&key.len()) || !is_plain {
            let message = format!(
                "must be 1 to {MAX_LENGTH} ASCII characters; use a new UUID for each change"
            );
            return Err(ApiError::invalid("Idempotency-Key", message));
        }
        // A key's id holds no zero byte, so that no two pairs are the same bytes.
        let hash = *blake3::hash(&[call.as_bytes(), b"\0", key].concat()).as_bytes();
        Ok(Repeat(Some(Reservation {
            keys: self.clone(),
            hash,
        })))
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Remembered>) -> T) -> T {
        // No code panics while it holds the lock.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Repeat {
    /// Takes the Idempotency-Key for this call. None: it has none.
    ///
    /// # Errors
    /// An earlier call has it: the id of the key that it made or changed, if that is known already.
    pub(super) fn reserve(self, now: UnixTime) -> Result<Option<Reservation>, Option<String>> {
        let Some(reservation) = self.0 else {
            return Ok(None);
        };
        let hash = reservation.hash;
        reservation.keys.change(|keys| {
            while keys.len() >= MAX_REMEMBERED || keys.front().is_some_and(|key| key.is_old(now)) {
                keys.pop_front();
            }
            if let Some(earlier) = keys.iter().find(|key| key.hash == hash) {
                return Err(earlier.key_id.clone());
            }
            keys.push_back(Remembered {
                hash,
                since: now,
                key_id: None,
            });
            Ok(())
        })?;
        Ok(Some(reservation))
    }
}

impl Reservation {
    /// The call was done: another one under the same Idempotency-Key is not.
    pub(super) fn keep(self, key_id: String) {
        let done = |key: &&mut Remembered| key.hash == self.hash;
        self.keys.change(|keys| {
            if let Some(key) = keys.iter_mut().find(done) {
                key.key_id = Some(key_id);
            }
        });
    }

    /// The call was not done, and may be made again under the same Idempotency-Key.
    pub(super) fn release(self) {
        self.keys
            .change(|keys| keys.retain(|key| key.hash != self.hash));
    }
}

impl Remembered {
    fn is_old(&self, now: UnixTime) -> bool {
        now >= self.since.plus(REMEMBERED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW: UnixTime = UnixTime::from_seconds(1_000_000);

    fn headers(key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_str(key).unwrap());
        headers
    }

    /// What an attempt at a call under this key is told: nothing, or the id of the earlier call's key.
    fn attempt(
        keys: &IdempotencyKeys,
        call: &str,
        key: &str,
        now: UnixTime,
    ) -> Result<Reservation, Option<String>> {
        let repeat = keys.of(&headers(key), call).unwrap();
        repeat.reserve(now).map(Option::unwrap)
    }

    #[test]
    fn a_call_is_done_once_under_a_key_and_again_only_where_it_failed() {
        let keys = IdempotencyKeys::default();
        let first = attempt(&keys, "create", "a", NOW).unwrap();
        assert_eq!(attempt(&keys, "create", "a", NOW).unwrap_err(), None);
        first.release();
        let second = attempt(&keys, "create", "a", NOW).unwrap();
        second.keep("key_1".to_owned());
        let repeated = attempt(&keys, "create", "a", NOW.plus(REMEMBERED_FOR - 1));
        assert_eq!(repeated.unwrap_err(), Some("key_1".to_owned()));
        for (call, key) in [("create", "b"), ("key_1", "a")] {
            attempt(&keys, call, key, NOW).unwrap().release();
        }
        assert!(attempt(&keys, "create", "a", NOW.plus(REMEMBERED_FOR)).is_ok());
    }

    #[test]
    fn no_more_than_the_last_thousand_keys_are_remembered() {
        let keys = IdempotencyKeys::default();
        for number in 0..3 * MAX_REMEMBERED {
            let reservation = attempt(&keys, "create", &number.to_string(), NOW).unwrap();
            reservation.keep(number.to_string());
        }
        assert_eq!(keys.change(|keys| keys.len()), MAX_REMEMBERED);
        let last = (3 * MAX_REMEMBERED - 1).to_string();
        assert_eq!(
            attempt(&keys, "create", &last, NOW).unwrap_err(),
            Some(last)
        );
        assert!(attempt(&keys, "create", "0", NOW).is_ok());
    }

    #[test]
    fn a_key_is_plain_text_of_a_bounded_length_and_comes_once() {
        let keys = IdempotencyKeys::default();
        for good in [
            "a",
            "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
            &"x".repeat(255),
        ] {
            assert!(keys.of(&headers(good), "create").is_ok());
        }
        for bad in ["", &"x".repeat(256), "a\tb"] {
            assert!(keys.of(&headers(bad), "create").is_err(), "{bad:?}");
        }
        let mut twice = headers("a");
        twice.append(HEADER, HeaderValue::from_static("a"));
        assert!(keys.of(&twice, "create").is_err());
        let none = keys.of(&HeaderMap::new(), "create").unwrap();
        assert!(none.reserve(NOW).unwrap().is_none());
    }
}
