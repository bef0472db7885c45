//! How fast a key may be used: requests and tokens in any 60 seconds, and requests at the same time.
//!
//! Pure: the caller passes the time and holds the [`RateLimiter`] of each key. A request takes from all limits or from
//! none ([`RateLimiter::take`]), gives its place back when its upstream is released ([`RateLimiter::release`]), and says
//! at its end how many tokens it really used ([`RateLimiter::settle`]).
//!
//! Counts are kept for each second. Whole seconds are compared, so a count may be held for up to a second longer than
//! 60 seconds, never for less.

use std::collections::VecDeque;

/// The span in which requests and tokens are counted, in seconds.
const SPAN: u64 = 60;
const MILLIS: u64 = 1000;
/// No request counts for more tokens: no limit is higher.
pub const MOST_TOKENS: u64 = 1 << 53;

/// Milliseconds since a start that never changes, from a clock that never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(u64);

impl Monotonic {
    /// From milliseconds since the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since an earlier time; 0 where that is later.
    pub(crate) const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many milliseconds later.
    pub(crate) const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds since the start.
    #[must_use]
    pub(crate) const fn millis(self) -> u64 {
        self.0
    }

    pub(crate) const fn second(self) -> u64 {
        self.0 / MILLIS
    }

    /// Milliseconds until the counts of this second no longer matter.
    fn until_expired(self, second: u64) -> u64 {
        ((second + SPAN + 1) * MILLIS).saturating_sub(self.0)
    }
}

/// The limits of one key. None: no limit of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests that may start in any 60 seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens, of input and output, in any 60 seconds.
    pub tokens_per_minute: Option<u64>,
    /// Requests that may run at the same time.
    pub concurrent_requests: Option<u64>,
}

/// The limit that refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitError {
    /// Too many requests started in the last 60 seconds.
    Requests {
        /// When one fits again, in milliseconds.
        retry_after: u64,
    },
    /// Too many tokens in the last 60 seconds.
    Tokens {
        /// When this request fits, in milliseconds.
        retry_after: u64,
    },
    /// Too many requests run.
    Concurrent,
    /// The request needs more tokens than the whole limit, so it never fits.
    TooLarge,
}

impl RateLimitError {
    /// Milliseconds after which to try again; None where that is of no use. Nobody knows when a running request ends, so
    /// there it is a second.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Requests { retry_after } | Self::Tokens { retry_after } => Some(*retry_after),
            Self::Concurrent => Some(MILLIS),
            Self::TooLarge => None,
        }
    }
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// The limit.
    pub limit: u64,
    /// What may still be used now.
    pub remaining: u64,
    /// Milliseconds until nothing of it is used, if nothing more is taken.
    pub reset_after: u64,
}

/// A request that was let in. Give it to [`RateLimiter::settle`] once.
#[must_use]
#[derive(Debug)]
pub struct RateReservation {
    second: u64,
    tokens: u64,
}

impl RateReservation {
    /// The second in which the request was let in.
    pub(crate) fn second(&self) -> u64 {
        self.second
    }
}

/// The counts of one key. An idle one is empty and holds no memory of its own.
#[derive(Debug, Default)]
pub struct RateLimiter {
    /// By second, oldest first. At most one for each of the last 61 seconds.
    recent: VecDeque<Second>,
    requests: u64,
    tokens: u64,
    running: u64,
}

#[derive(Debug)]
struct Second {
    second: u64,
    requests: u64,
    tokens: u64,
}

impl RateLimiter {
    /// Lets a request in that is expected to use `tokens`, or refuses it and counts nothing.
    ///
    /// # Errors
    /// [`RateLimitError`] names the limit. Of several, one that never lets the request in comes first, then the one that
    /// has to be waited for the longest.
    pub fn take(
        &mut self,
        limits: &RateLimits,
        tokens: u64,
        now: Monotonic,
    ) -> Result<RateReservation, RateLimitError> {
        self.check(limits, tokens, now)?;
        let second = now.second();
        let tokens = self.countable(tokens);
        let latest = self.latest(second);
        latest.requests += 1;
        latest.tokens += tokens;
        self.requests += 1;
        self.tokens += tokens;
        self.running += 1;
        Ok(RateReservation { second, tokens })
    }

    /// Whether a request that is expected to use `tokens` would be let in. Counts nothing.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn check(
        &mut self,
        limits: &RateLimits,
        tokens: u64,
        now: Monotonic,
    ) -> Result<(), RateLimitError> {
        self.expire(now);
        let RateLimits {
            requests_per_minute,
            tokens_per_minute,
            concurrent_requests,
        } = *limits;
        if tokens_per_minute.is_some_and(|limit| tokens > limit) {
            return Err(RateLimitError::TooLarge);
        }
        let wait_for_requests =
            requests_per_minute.map_or(0, |limit| self.wait_for_request(limit, now));
        let wait_for_tokens =
            tokens_per_minute.map_or(0, |limit| self.wait_for_tokens(limit, tokens, now));
        if wait_for_tokens > wait_for_requests {
            return Err(RateLimitError::Tokens {
                retry_after: wait_for_tokens,
            });
        }
        if wait_for_requests > 0 {
            return Err(RateLimitError::Requests {
                retry_after: wait_for_requests,
            });
        }
        if concurrent_requests.is_some_and(|limit| self.running >= limit) {
            return Err(RateLimitError::Concurrent);
        }
        Ok(())
    }

    /// The upstream of a request was released: another may take its place.
    pub fn release(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// A request that was let in has used `used` tokens; None: nobody knows, and what was reserved counts. What it used
    /// less than reserved is given back, what it used more counts from now on.
    pub fn settle(&mut self, reservation: RateReservation, used: Option<u64>, now: Monotonic) {
        self.expire(now);
        let RateReservation { second, tokens } = reservation;
        let used = used.unwrap_or(tokens);
        if let Some(more) = used.checked_sub(tokens).filter(|more| *more > 0) {
            let more = self.countable(more);
            self.latest(now.second()).tokens += more;
            self.tokens += more;
        } else if let Ok(at) = self.recent.binary_search_by_key(&second, |one| one.second) {
            let less = (tokens - used).min(self.recent[at].tokens);
            self.recent[at].tokens -= less;
            self.tokens -= less;
        }
    }

    /// A request that was let in was never sent to its upstream: it costs nothing. Its place is given back by
    /// [`Self::release`].
    pub fn cancel(&mut self, reservation: RateReservation, now: Monotonic) {
        let started = reservation.second;
        self.settle(reservation, Some(0), now);
        if let Ok(at) = self.recent.binary_search_by_key(&started, |one| one.second) {
            let given_back = self.recent[at].requests.min(1);
            self.recent[at].requests -= given_back;
            self.requests -= given_back;
        }
    }

    /// What is left of the limit on requests.
    pub fn requests(&mut self, limit: u64, now: Monotonic) -> Remaining {
        self.expire(now);
        self.remaining(limit, self.requests, |second| second.requests, now)
    }

    /// What is left of the limit on tokens.
    pub fn tokens(&mut self, limit: u64, now: Monotonic) -> Remaining {
        self.expire(now);
        self.remaining(limit, self.tokens, |second| second.tokens, now)
    }

    /// Requests that run.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running
    }

    /// Whether nothing is counted, so that the memory can be freed.
    pub fn is_idle(&mut self, now: Monotonic) -> bool {
        self.expire(now);
        self.running == 0 && self.recent.is_empty()
    }

    fn remaining(
        &self,
        limit: u64,
        used: u64,
        of: fn(&Second) -> u64,
        now: Monotonic,
    ) -> Remaining {
        let latest = self.recent.iter().rev().find(|second| of(second) > 0);
        Remaining {
            limit,
            remaining: limit.saturating_sub(used),
            reset_after: latest.map_or(0, |latest| now.until_expired(latest.second)),
        }
    }

    /// Milliseconds until a request fits under this limit; 0 where it does now.
    pub(crate) fn wait_for_request(&self, limit: u64, now: Monotonic) -> u64 {
        self.wait(limit, 1, self.requests, |second| second.requests, now)
    }

    /// Milliseconds until so many tokens fit under this limit; 0 where they do now. At most the limit is asked for.
    pub(crate) fn wait_for_tokens(&self, limit: u64, tokens: u64, now: Monotonic) -> u64 {
        self.wait(limit, tokens, self.tokens, |second| second.tokens, now)
    }

    /// Milliseconds until `amount` more fits under the limit; 0 where it does now.
    fn wait(
        &self,
        limit: u64,
        amount: u64,
        used: u64,
        of: fn(&Second) -> u64,
        now: Monotonic,
    ) -> u64 {
        let mut too_many = used.saturating_add(amount).saturating_sub(limit);
        for second in &self.recent {
            if too_many == 0 {
                break;
            }
            too_many = too_many.saturating_sub(of(second));
            if too_many == 0 {
                return now.until_expired(second.second);
            }
        }
        0
    }

    /// So many of these tokens that no sum overflows: what is counted is what is given back. A client may ask for any
    /// number.
    fn countable(&self, tokens: u64) -> u64 {
        tokens.min(MOST_TOKENS).min(u64::MAX - self.tokens)
    }

    fn latest(&mut self, second: u64) -> &mut Second {
        if self.recent.back().is_none_or(|last| last.second < second) {
            self.recent.push_back(Second {
                second,
                requests: 0,
                tokens: 0,
            });
        }
        let last = self.recent.len() - 1;
        &mut self.recent[last]
    }

    fn expire(&mut self, now: Monotonic) {
        while let Some(oldest) = self.recent.front()
            && now.until_expired(oldest.second) == 0
        {
            self.requests -= oldest.requests;
            self.tokens -= oldest.tokens;
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests;
