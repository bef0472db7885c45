//! Devices where a person has signed in by the password before. Wrong passwords that others show for the person do not slow
//! a sign-in from there ("device cookies", as OWASP calls them).
//!
//! The cookie of such a device gives no access: the password is asked for as ever. It is signed with a key that is made of
//! the person's stored password hash, which has a random salt. So nothing more is stored; every gateway of a database takes
//! the cookie, also after a restart; it is of no use for another person; and a new password ends it.

use http::HeaderMap;
use http::header::HeaderValue;

use crate::admin::cookie::{KNOWN_DEVICE, Scheme};
use crate::admin::error::ApiError;
use crate::policy::time::UnixTime;
use crate::policy::token::Code;

/// A device is known for so long after a sign-in: 180 days, in seconds.
const KNOWN_SECONDS: i64 = 180 * 86_400;
/// The most cookies of one call that are looked at.
const MOST_COOKIES: usize = 16;
/// Sets the key apart from all others that BLAKE3 makes.
const KEY_CONTEXT: &str = "keygate 2026-11 cookie of a known device";

/// A device that has shown a valid cookie.
#[derive(Clone, Copy)]
pub(super) struct KnownDevice {
    id: blake3::Hash,
}

impl KnownDevice {
    /// The device whose cookie is in these headers, if it is known to the person who has this stored password hash.
    pub(super) fn find(
        headers: &HeaderMap,
        scheme: Scheme,
        stored: &str,
        now: UnixTime,
    ) -> Option<Self> {
        let values = KNOWN_DEVICE.values(headers, scheme).take(MOST_COOKIES);
        let mut known = values.filter_map(|value| Self::parse(value, stored, now));
        known.next()
    }

    fn parse(value: &str, stored: &str, now: UnixTime) -> Option<Self> {
        let (signed, shown) = value.rsplit_once('.')?;
        let id = signature(signed, stored);
        // A blake3 hash compares in constant time.
        if blake3::Hash::from_hex(shown).ok()? != id {
            return None;
        }
        let (made_at, _) = signed.split_once('.')?;
        let age = now.seconds().saturating_sub(made_at.parse().ok()?);
        (age < KNOWN_SECONDS).then_some(Self { id })
    }

    /// No other device has this one.
    pub(super) fn id(self) -> blake3::Hash {
        self.id
    }
}

/// The header that makes a browser a known device of the person who has this stored password hash.
pub(super) fn set_cookie(
    stored: &str,
    scheme: Scheme,
    now: UnixTime,
) -> Result<HeaderValue, ApiError> {
    let code = Code::make(getrandom::fill).map_err(|_| ApiError::Internal)?;
    let signed = format!("{}.{}", now.seconds(), code.reveal());
    let value = format!("{signed}.{}", signature(&signed, stored).to_hex());
    let end = format!("; Max-Age={KNOWN_SECONDS}");
    KNOWN_DEVICE.set(&value, &end, scheme)
}

fn signature(signed: &str, stored: &str) -> blake3::Hash {
    let key = blake3::derive_key(KEY_CONTEXT, stored.as_bytes());
    blake3::keyed_hash(&key, signed.as_bytes())
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    const ALICE: &str = "$argon2id$v=19$m=19456,t=2,p=1$YWxpY2U$YWxpY2U";
    const BOB: &str = "$argon2id$v=19$m=19456,t=2,p=1$Ym9i$Ym9i";
    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    /// The value of a new cookie.
    fn cookie(stored: &str, made_at: i64) -> String {
        let header = set_cookie(stored, Scheme::Http, at(made_at)).unwrap();
        let (pair, flags) = header.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(flags, "HttpOnly; SameSite=Strict; Path=/; Max-Age=15552000");
        pair.strip_prefix("keygate_device=").unwrap().to_owned()
    }

    fn find(values: &[&str], stored: &str, now: i64) -> Option<blake3::Hash> {
        let mut headers = HeaderMap::new();
        for value in values {
            let line = format!("keygate_device={value}");
            headers.append(COOKIE, line.parse().unwrap());
        }
        let found = KnownDevice::find(&headers, Scheme::Http, stored, at(now));
        found.map(KnownDevice::id)
    }

    #[test]
    fn a_device_is_known_to_its_person_for_180_days() {
        let (one, other) = (cookie(ALICE, 1000), cookie(ALICE, 1000));
        let id = find(&[&one], ALICE, 1000);
        assert!(id.is_some() && find(&[&other], ALICE, 1000).is_some());
        assert_ne!(id, find(&[&other], ALICE, 1000));
        let last = 1000 + 180 * DAY - 1;
        assert_eq!(find(&[&one], ALICE, last), id);
        assert_eq!(find(&[&one], ALICE, last + 1), None);
        // The clock of another gateway may be late.
        assert_eq!(find(&[&one], ALICE, 995), id);
        assert_eq!(find(&[&one], BOB, 1000), None);
        // One that another page has set is no obstacle.
        assert_eq!(find(&["planted", &one], ALICE, 1000), id);
    }

    #[test]
    fn a_cookie_that_was_changed_gives_nothing() {
        let one = cookie(ALICE, 1000);
        let (made_at, rest) = one.split_once('.').unwrap();
        let younger = format!("9{made_at}.{rest}");
        let cut = &one[..one.len() - 1];
        let (signed, signature) = one.rsplit_once('.').unwrap();
        let upper = format!("{signed}x.{signature}");
        for value in ["", ".", "..", "1000", &younger, cut, &upper, signed] {
            assert_eq!(find(&[value], ALICE, 1000), None, "{value}");
        }
    }
}
