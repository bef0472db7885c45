//! Hashes and checks passwords, and slows down who guesses them.
//!
//! A check takes memory and processor time on purpose, so that one runs at a time, off the threads that serve requests.
//! Wrong ones are counted by e-mail address and client address together: whoever guesses from elsewhere slows nobody down
//! but himself. On a known device they are counted by the device, and checked in a queue of their own: whoever guesses at
//! the same address, or sends very many guesses, does not keep the person out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::known_device::KnownDevice;
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;

/// Argon2id with the first parameters of OWASP's Password Storage Cheat Sheet that fit a small machine: 19 MiB, 2 passes,
/// 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const SALT_BYTES: usize = 16;
/// So many wrong passwords in a row cost no wait.
const FREE_TRIES: u32 = 4;
/// The longest wait after a wrong password, in seconds.
const LONGEST_WAIT: i64 = 60;
/// Wrong passwords are forgotten after so long, in seconds.
const FORGOTTEN_AFTER: i64 = 3600;
/// The most sources of wrong passwords that are counted. Further ones take the place of the oldest.
const MOST_COUNTED: usize = 10_000;

/// The most passwords that wait in one queue: about a second of work. More are refused, so that nobody waits long.
const MOST_WAITING: usize = 32;

/// What is checked where there is no such person, so that the time of an answer does not tell. No password has this hash.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Checks passwords, and counts wrong ones.
#[derive(Default)]
pub(super) struct Passwords {
    /// For those of whom nothing is known yet.
    unknown: Queue,
    /// For known devices and for links, so that guesses do not fill it.
    known: Queue,
    /// By the source that a try counts for.
    wrong: Mutex<HashMap<blake3::Hash, WrongTries>>,
}

/// Passwords that wait to be hashed or checked, one at a time.
struct Queue {
    turn: Semaphore,
    /// Those that wait for their turn.
    places: Semaphore,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            places: Semaphore::new(MOST_WAITING),
        }
    }
}

impl Queue {
    /// A place among those that wait.
    ///
    /// # Errors
    /// Too many wait already.
    fn place(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let place = self.places.try_acquire();
        place.map_err(|_| ApiError::TooManySignIns)
    }
}

/// What a try counts for.
#[derive(Clone, Copy)]
pub(super) enum TrySource<'t> {
    /// A device where the person has signed in before.
    Device(KnownDevice),
    /// An e-mail address from a client address.
    Addresses {
        email: &'t str,
        client: ClientAddress,
    },
}

#[derive(Clone, Copy, Debug)]
struct WrongTries {
    count: u32,
    last: i64,
}

impl WrongTries {
    /// When the next try is looked at.
    fn next_at(self) -> i64 {
        let waits = self.count.saturating_sub(FREE_TRIES);
        let wait = match waits {
            0 => 0,
            waits => LONGEST_WAIT.min(1 << (waits - 1).min(30)),
        };
        self.last.saturating_add(wait)
    }
}

impl Passwords {
    /// Counts a try, and takes it for wrong until [`Self::was_right`]: many at once are not looked at all.
    ///
    /// # Errors
    /// Too many were wrong; try again after so many seconds.
    fn begin_try(&self, source: blake3::Hash, now: i64) -> Result<(), i64> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let known = wrong.get(&source).copied();
        // A clock that was set back must not make anybody wait for long.
        let known = known.filter(|tries| (0..FORGOTTEN_AFTER).contains(&(now - tries.last)));
        if let Some(tries) = known
            && tries.next_at() > now
        {
            return Err(tries.next_at() - now);
        }
        if known.is_none() && wrong.len() >= MOST_COUNTED {
            wrong.retain(|_, tries| (0..FORGOTTEN_AFTER).contains(&(now - tries.last)));
            let oldest = wrong.iter().min_by_key(|(_, tries)| tries.last);
            if let Some(oldest) = oldest.map(|(source, _)| *source)
                && wrong.len() >= MOST_COUNTED
            {
                wrong.remove(&oldest);
            }
        }
        let count = known.map_or(0, |tries| tries.count).saturating_add(1);
        wrong.insert(source, WrongTries { count, last: now });
        Ok(())
    }

    fn was_right(&self, source: &blake3::Hash) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.remove(source);
    }
}

/// Hashes a password that is to be set, as a PHC string.
///
/// # Errors
/// The system provides no random bytes, or no memory.
pub(super) async fn hash(
    services: &Services,
    password: Zeroizing<String>,
) -> Result<String, ApiError> {
    let queue = &services.state.passwords.known;
    let _place = queue.place()?;
    let _turn = queue.turn.acquire().await;
    let hashed = tokio::task::spawn_blocking(move || {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).ok()?;
        let hasher = hasher()?;
        let hash: PasswordHash = hasher
            .hash_password_with_salt(password.as_bytes(), &salt)
            .ok()?;
        Some(hash.to_string())
    });
    hashed.await.ok().flatten().ok_or(ApiError::Internal)
}

/// Whether a password is that of a hash. None: there is no such person, which takes as long.
///
/// # Errors
/// [`ApiError::TooManyTries`]: it was not looked at.
pub(super) async fn check(
    services: &Services,
    source: TrySource<'_>,
    password: Zeroizing<String>,
    hash: Option<String>,
    now: UnixTime,
) -> Result<bool, ApiError> {
    let passwords = &services.state.passwords;
    let (queue, source) = match source {
        TrySource::Device(device) => (&passwords.known, device.id()),
        TrySource::Addresses { email, client } => (&passwords.unknown, pair_of(email, client)),
    };
    let _place = queue.place()?;
    passwords
        .begin_try(source, now.seconds())
        .map_err(|seconds| ApiError::TooManyTries { seconds })?;
    let _turn = queue.turn.acquire().await;
    let checked = tokio::task::spawn_blocking(move || {
        let stored = hash.as_deref().unwrap_or(NOBODY);
        let is_right =
            PasswordHash::new(stored)
                .ok()
                .zip(hasher())
                .is_some_and(|(stored, hasher)| {
                    hasher.verify_password(password.as_bytes(), &stored).is_ok()
                });
        is_right && hash.is_some()
    });
    let is_right = checked.await.map_err(|_| ApiError::Internal)?;
    if is_right {
        passwords.was_right(&source);
    }
    Ok(is_right)
}

fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// E-mail address and client address together. Of IPv6 the network, since one client has all of its addresses.
fn pair_of(email: &str, client: ClientAddress) -> blake3::Hash {
    let client = match client {
        ClientAddress::Known(address) => match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets()[..8].to_vec(),
        },
        ClientAddress::Unknown => Vec::new(),
    };
    // An e-mail address holds no zero byte.
    blake3::hash(&[email.as_bytes(), b"\0", &client].concat())
}

#[cfg(test)]
impl Passwords {
    /// As if somebody had guessed a person's password from there many times, so that the next try waits for a minute.
    pub(super) fn guess_often(&self, email: &str, client: std::net::IpAddr, now: UnixTime) {
        let source = pair_of(email, ClientAddress::of(client));
        let tries = WrongTries {
            count: 100,
            last: now.seconds(),
        };
        self.wrong.lock().unwrap().insert(source, tries);
    }

    /// All places in the queue of those of whom nothing is known. It is full as long as they are held.
    pub(super) fn fill(&self) -> Vec<SemaphorePermit<'_>> {
        std::iter::from_fn(|| self.unknown.place().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(email: &str, address: &str) -> blake3::Hash {
        pair_of(email, ClientAddress::Known(address.parse().unwrap()))
    }

    #[test]
    fn wrong_passwords_are_slowed_by_both_addresses_together() {
        let passwords = Passwords::default();
        let attacker = pair("a@example.com", "192.0.2.1");
        let mut now = 1000;
        for _ in 0..=FREE_TRIES {
            assert_eq!(passwords.begin_try(attacker, now), Ok(()));
        }
        for wait in [1, 2, 4, 8, 16, 32].into_iter().chain([60; 100]) {
            assert_eq!(passwords.begin_try(attacker, now), Err(wait));
            assert_eq!(passwords.begin_try(attacker, now + wait - 1), Err(1));
            now += wait;
            assert_eq!(passwords.begin_try(attacker, now), Ok(()));
        }
        // The person, from elsewhere, and others at the same address.
        for other in [
            pair("a@example.com", "192.0.2.2"),
            pair("b@example.com", "192.0.2.1"),
        ] {
            assert_eq!(passwords.begin_try(other, now), Ok(()));
        }
        passwords.was_right(&attacker);
        assert_eq!(passwords.begin_try(attacker, now), Ok(()));
    }

    #[test]
    fn who_guesses_all_day_has_1449_tries_on_the_first_day_and_1440_on_each_further_one() {
        let passwords = Passwords::default();
        let attacker = pair("a@example.com", "192.0.2.1");
        let tries = |day: i64| {
            let seconds = day * 86_400..(day + 1) * 86_400;
            let looked_at = |now| {
                let tries = std::iter::repeat_with(|| passwords.begin_try(attacker, now));
                tries.take_while(Result::is_ok).count()
            };
            seconds.map(looked_at).sum::<usize>()
        };
        assert_eq!((tries(0), tries(1), tries(2)), (1449, 1440, 1440));
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let one = pair("a@example.com", "2001:db8::1");
        assert_eq!(one, pair("a@example.com", "2001:db8::ffff:2"));
        assert_ne!(one, pair("a@example.com", "2001:db8:0:1::1"));
    }

    #[test]
    fn memory_of_wrong_tries_is_bounded_and_a_clock_that_is_set_back_makes_nobody_wait() {
        let passwords = Passwords::default();
        for number in 0..MOST_COUNTED + 10 {
            let pair = pair(&format!("a{number}@example.com"), "192.0.2.1");
            assert_eq!(passwords.begin_try(pair, 1000 + number as i64), Ok(()));
        }
        assert!(passwords.wrong.lock().unwrap().len() <= MOST_COUNTED);
        let attacker = pair("a@example.com", "192.0.2.1");
        for number in 0..5 {
            assert_eq!(passwords.begin_try(attacker, 100_000 + number), Ok(()));
        }
        assert_eq!(passwords.begin_try(attacker, 100_004), Err(1));
        assert_eq!(passwords.begin_try(attacker, 50_000), Ok(()));
    }

    #[test]
    fn nobody_has_the_password_of_nobody() {
        let stored = PasswordHash::new(NOBODY).unwrap();
        let hasher = hasher().unwrap();
        assert_eq!(stored.params.get_decimal("m"), Some(MEMORY_KIB));
        assert_eq!(stored.params.get_decimal("t"), Some(PASSES));
        for password in ["", "a", "password"] {
            assert!(
                hasher
                    .verify_password(password.as_bytes(), &stored)
                    .is_err()
            );
        }
    }
}
