use proptest::prelude::*;

use crate::policy::rate_limit::{Monotonic, RateLimitError, RateLimiter, RateLimits};

const UNLIMITED: RateLimits = RateLimits {
    requests_per_minute: None,
    tokens_per_minute: None,
    concurrent_requests: None,
};

fn at(millis: u64) -> Monotonic {
    Monotonic::from_millis(millis)
}

fn per_minute(limit: u64) -> RateLimits {
    RateLimits {
        requests_per_minute: Some(limit),
        ..UNLIMITED
    }
}

fn tokens(limit: u64) -> RateLimits {
    RateLimits {
        tokens_per_minute: Some(limit),
        ..UNLIMITED
    }
}

#[test]
fn a_key_without_limits_is_never_refused() {
    let mut limiter = RateLimiter::default();
    for _ in 0..10_000 {
        assert!(limiter.take(&UNLIMITED, u64::MAX, at(0)).is_ok());
    }
}

/// Each asks for as much as a number can say, and what they leave is counted exactly.
#[test]
fn huge_requests_give_back_what_they_took_and_no_more() {
    let mut limiter = RateLimiter::default();
    let mut running = Vec::new();
    for second in 0..3 {
        for tokens in [u64::MAX, 5000, u64::MAX] {
            running.push(limiter.take(&UNLIMITED, tokens, at(second * 1000)).unwrap());
        }
    }
    for reservation in running {
        limiter.settle(reservation, Some(20), at(3000));
    }
    assert_eq!(limiter.tokens(1000, at(3000)).remaining, 1000 - 9 * 20);
    // Their sum is more than a number holds.
    let running: Vec<_> = (0..3000)
        .map(|_| limiter.take(&UNLIMITED, u64::MAX, at(4000)).unwrap())
        .collect();
    for reservation in running {
        limiter.settle(reservation, Some(u64::MAX), at(5000));
    }
    assert_eq!(limiter.tokens(1000, at(5000)).remaining, 0);
    assert_eq!(limiter.tokens(1000, at(67_000)).remaining, 1000);
}

#[test]
fn a_refusal_says_when_the_request_fits_and_then_it_does() {
    let (mut limiter, limits) = (RateLimiter::default(), per_minute(2));
    assert!(limiter.take(&limits, 0, at(500)).is_ok());
    assert!(limiter.take(&limits, 0, at(10_000)).is_ok());
    let refused = limiter.take(&limits, 0, at(20_000)).unwrap_err();
    assert_eq!(
        refused,
        RateLimitError::Requests {
            retry_after: 41_000
        }
    );
    assert!(limiter.take(&limits, 0, at(60_999)).is_err());
    assert!(limiter.take(&limits, 0, at(61_000)).is_ok());
}

#[test]
fn a_refused_request_costs_nothing_of_any_limit() {
    let limits = RateLimits {
        requests_per_minute: Some(5),
        tokens_per_minute: Some(100),
        concurrent_requests: Some(1),
    };
    let mut limiter = RateLimiter::default();
    assert!(limiter.take(&limits, 10, at(0)).is_ok());
    for _ in 0..10 {
        let refused = limiter.take(&limits, 10, at(0)).unwrap_err();
        assert_eq!(refused, RateLimitError::Concurrent);
    }
    assert_eq!(limiter.requests(5, at(0)).remaining, 4);
    assert_eq!(limiter.tokens(100, at(0)).remaining, 90);
    limiter.release();
    assert!(limiter.take(&limits, 90, at(0)).is_ok());
}

#[test]
fn a_request_larger_than_the_whole_limit_never_fits() {
    let mut limiter = RateLimiter::default();
    let refused = limiter.take(&tokens(100), 101, at(0)).unwrap_err();
    assert_eq!(refused, RateLimitError::TooLarge);
}

#[test]
fn tokens_used_less_than_reserved_are_given_back() {
    let (mut limiter, limits) = (RateLimiter::default(), tokens(100));
    let reserved = limiter.take(&limits, 80, at(0)).unwrap();
    assert!(limiter.take(&limits, 30, at(1_000)).is_err());
    limiter.settle(reserved, Some(10), at(1_000));
    assert!(limiter.take(&limits, 90, at(1_000)).is_ok());
}

#[test]
fn tokens_used_more_than_reserved_are_paid_by_waiting() {
    let (mut limiter, limits) = (RateLimiter::default(), tokens(100));
    let reserved = limiter.take(&limits, 10, at(0)).unwrap();
    limiter.settle(reserved, Some(150), at(30_000));
    let refused = limiter.take(&limits, 10, at(70_000)).unwrap_err();
    assert_eq!(
        refused,
        RateLimitError::Tokens {
            retry_after: 21_000
        }
    );
    assert!(limiter.take(&limits, 100, at(91_000)).is_ok());
}

#[test]
fn tokens_that_nobody_knows_stay_reserved() {
    let (mut limiter, limits) = (RateLimiter::default(), tokens(100));
    let reserved = limiter.take(&limits, 80, at(0)).unwrap();
    limiter.settle(reserved, None, at(0));
    assert_eq!(limiter.tokens(100, at(0)).remaining, 20);
}

#[test]
fn what_is_given_back_after_a_minute_is_gone_already() {
    let (mut limiter, limits) = (RateLimiter::default(), tokens(100));
    let reserved = limiter.take(&limits, 80, at(0)).unwrap();
    limiter.settle(reserved, Some(0), at(600_000));
    assert_eq!(limiter.tokens(100, at(600_000)).remaining, 100);
    assert!(limiter.take(&limits, 100, at(600_000)).is_ok());
}

#[test]
fn an_idle_limiter_holds_no_memory() {
    let (mut limiter, limits) = (RateLimiter::default(), per_minute(100));
    let reserved = limiter.take(&limits, 1, at(0)).unwrap();
    assert!(!limiter.is_idle(at(100_000)), "a request runs");
    limiter.settle(reserved, None, at(100_000));
    limiter.release();
    assert!(limiter.is_idle(at(100_000)));
    assert_eq!(limiter.recent.capacity(), 0);
    assert!(size_of::<RateLimiter>() <= 64);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Take(u64),
    End { which: usize, used: Option<u64> },
    Change(RateLimits),
}

fn limit(most: u64) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 4 => (1..=most).prop_map(Some)]
}

fn limits() -> impl Strategy<Value = RateLimits> {
    (limit(6), limit(200), limit(4)).prop_map(|(requests, tokens, concurrent)| RateLimits {
        requests_per_minute: requests,
        tokens_per_minute: tokens,
        concurrent_requests: concurrent,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..30_000).prop_map(Step::Wait),
        1 => (30_000_u64..200_000).prop_map(Step::Wait),
        8 => (0_u64..120).prop_map(Step::Take),
        5 => (any::<usize>(), proptest::option::of(0_u64..300))
            .prop_map(|(which, used)| Step::End { which, used }),
        1 => limits().prop_map(Step::Change),
    ]
}

proptest! {
    /// The model keeps every start with its exact time, and every token with the time it began to count.
    #[test]
    fn no_span_of_a_minute_has_more_than_the_limit(first in limits(), steps in prop::collection::vec(step(), 1..200)) {
        let (mut limiter, mut limits, mut now) = (RateLimiter::default(), first, 0_u64);
        let mut starts: Vec<u64> = Vec::new();
        // When, how many tokens.
        let mut counted: Vec<(u64, u64)> = Vec::new();
        let mut running = Vec::new();
        for step in steps {
            match step {
                Step::Wait(millis) => now += millis,
                Step::Change(changed) => limits = changed,
                Step::End { which, used } if !running.is_empty() => {
                    let (reservation, place, reserved) = running.swap_remove(which % running.len());
                    limiter.release();
                    limiter.settle(reservation, used, at(now));
                    let used = used.unwrap_or(reserved);
                    if used > reserved {
                        counted.push((now, used - reserved));
                    } else {
                        let place: usize = place;
                        counted[place].1 = used;
                    }
                }
                Step::End { .. } => {}
                Step::Take(tokens) => {
                    let in_span = |time: u64| now - time < 60_000;
                    let recent = starts.iter().filter(|start| in_span(**start)).count() as u64;
                    let used: u64 = counted.iter().filter(|(time, _)| in_span(*time)).map(|(_, count)| count).sum();
                    match limiter.take(&limits, tokens, at(now)) {
                        Ok(reservation) => {
                            prop_assert!(limits.requests_per_minute.is_none_or(|limit| recent < limit));
                            prop_assert!(limits.tokens_per_minute.is_none_or(|limit| used + tokens <= limit));
                            prop_assert!(limits.concurrent_requests.is_none_or(|limit| (running.len() as u64) < limit));
                            starts.push(now);
                            counted.push((now, tokens));
                            running.push((reservation, counted.len() - 1, tokens));
                        }
                        Err(RateLimitError::TooLarge) => {
                            prop_assert!(limits.tokens_per_minute.is_some_and(|limit| tokens > limit));
                        }
                        Err(RateLimitError::Concurrent) => {
                            prop_assert!(limits.concurrent_requests.is_some_and(|limit| running.len() as u64 >= limit));
                        }
                        Err(RateLimitError::Requests { retry_after } | RateLimitError::Tokens { retry_after }) => {
                            prop_assert!((1..=61_000).contains(&retry_after));
                            // Whoever waits as long as told gets in, if nothing else happens and no request runs on.
                            let later = at(now + retry_after);
                            let still = limiter.check(&limits, tokens, later).err();
                            let waits = matches!(still, Some(RateLimitError::Requests { .. } | RateLimitError::Tokens { .. }));
                            prop_assert!(!waits, "{still:?}");
                            // The check moved the limiter's time; the model follows.
                            now += retry_after;
                        }
                    }
                    prop_assert_eq!(limiter.running(), running.len() as u64);
                }
            }
        }
        for (reservation, ..) in running {
            limiter.release();
            limiter.settle(reservation, Some(0), at(now));
        }
        prop_assert!(limiter.is_idle(at(now + 61_000)));
    }
}
