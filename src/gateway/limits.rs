//! The limits of a key on its way through a request: asked before the body is read, taken once before anything is sent,
//! settled when the request has ended.
//!
//! Invariant: what was taken is given back however the request ends, since guards hold it. A key without limits costs one
//! comparison.

use std::sync::Arc;

use serde::Serialize;

use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::fields::Fields;
use crate::policy::key_limits::{KeyLimits, LimitKind};
use crate::policy::rate_limit::{RateLimits, Remaining, Reservation};
use crate::policy::route::ApiStyle;
use crate::policy::time::UnixTime;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::table::Entry;

/// The limits in force for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits<'e> {
    entry: &'e Arc<Entry>,
    limits: RateLimits,
}

/// What a request is expected to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedUse {
    /// Tokens of its input.
    pub(super) input: u64,
    /// Tokens of its input and its output.
    pub(super) tokens: u64,
}

/// A place among the requests of a key that run. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct RunningRequest {
    entry: Arc<Entry>,
}

/// What was taken of the limits on requests and tokens, until it is known what was used.
#[derive(Debug)]
pub(super) struct ReservedUse {
    entry: Arc<Entry>,
    reservation: Reservation,
    expected: ExpectedUse,
}

impl<'e> RequestLimits<'e> {
    /// The limits of a key; None where nothing limits it.
    #[inline]
    pub(super) fn of(worker: &Worker, entry: &'e Arc<Entry>) -> Option<Self> {
        let defaults = &worker.settings.default_limits;
        if entry.key().allowance().is_none() && defaults.are_unset() {
            return None;
        }
        Self::in_force(entry, defaults)
    }

    fn in_force(entry: &'e Arc<Entry>, defaults: &KeyLimits) -> Option<Self> {
        let limits = entry.key().limits().in_force(defaults);
        (limits != RateLimits::default()).then_some(Self { entry, limits })
    }

    /// Whether a request could be let in now, of which nothing is known yet. Nothing is taken.
    ///
    /// # Errors
    /// The limit that refuses every request now.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let mut limiter = self.entry.limiter();
        Ok(limiter.check(&self.limits, 1, monotonic_now())?)
    }

    /// Takes a request from all limits, or from none.
    ///
    /// # Errors
    /// The limit that refuses it.
    pub(super) fn take(
        &self,
        expected: ExpectedUse,
    ) -> Result<(RunningRequest, ReservedUse), Refusal> {
        let mut limiter = self.entry.limiter();
        let reservation = limiter.take(&self.limits, expected.tokens, monotonic_now())?;
        let running = RunningRequest {
            entry: Arc::clone(self.entry),
        };
        let reserved = ReservedUse {
            entry: Arc::clone(self.entry),
            reservation,
            expected,
        };
        Ok((running, reserved))
    }

    /// Adds the header fields that tell what is left: OpenAI's ("Rate limits", its API reference), or Anthropic's.
    pub(super) fn add_fields(&self, style: ApiStyle, fields: &mut Fields) {
        let (requests, tokens) = {
            let (mut limiter, now) = (self.entry.limiter(), monotonic_now());
            let requests = self.limits.requests_per_minute;
            let tokens = self.limits.tokens_per_minute;
            (
                requests.map(|limit| limiter.requests(limit, now)),
                tokens.map(|limit| limiter.tokens(limit, now)),
            )
        };
        let kinds = [(requests, &REQUESTS), (tokens, &TOKENS)];
        for (remaining, names) in kinds {
            if let Some(remaining) = remaining {
                add(style, names, remaining, fields);
            }
        }
    }
}

/// A limit as the owner of the key sees it.
#[derive(Debug, Serialize)]
pub(super) struct LimitView {
    name: &'static str,
    limit: u64,
    remaining: u64,
    /// When nothing of it is used any more, if nothing more is; null where nobody knows.
    resets_at: Option<String>,
}

/// The limits in force for a key, and what is left of them.
pub(super) fn views(worker: &Worker, entry: &Arc<Entry>) -> Vec<LimitView> {
    let Some(RequestLimits { limits, .. }) = RequestLimits::of(worker, entry) else {
        return Vec::new();
    };
    let (mut limiter, now) = (entry.limiter(), monotonic_now());
    let view = |kind: LimitKind| {
        let remaining = match kind {
            LimitKind::RequestsPerMinute => limiter.requests(limits.requests_per_minute?, now),
            LimitKind::TokensPerMinute => limiter.tokens(limits.tokens_per_minute?, now),
            LimitKind::ConcurrentRequests => {
                let limit = limits.concurrent_requests?;
                return Some(LimitView {
                    name: kind.name(),
                    limit,
                    remaining: limit.saturating_sub(limiter.running()),
                    resets_at: None,
                });
            }
        };
        Some(LimitView {
            name: kind.name(),
            limit: remaining.limit,
            remaining: remaining.remaining,
            resets_at: Some(time_text(remaining.reset_after)),
        })
    };
    LimitKind::ALL.into_iter().filter_map(view).collect()
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.entry.limiter().release();
    }
}

impl ReservedUse {
    /// The upstream was never asked: the request costs nothing.
    pub(super) fn cancel(self) {
        let mut limiter = self.entry.limiter();
        limiter.cancel(self.reservation, monotonic_now());
    }

    /// The request has ended with these counts. `has_failed`: the upstream refused it, or failed at it.
    pub(super) fn settle(self, counts: &RequestCounts, has_failed: bool) {
        let used = used_tokens(counts, self.expected, has_failed);
        let mut limiter = self.entry.limiter();
        limiter.settle(self.reservation, used, monotonic_now());
    }
}

/// The tokens that a request used; None where nobody knows.
fn used_tokens(counts: &RequestCounts, expected: ExpectedUse, has_failed: bool) -> Option<u64> {
    let known = counts.input.unwrap_or(0) + counts.output.unwrap_or(0);
    match counts.certainty {
        Certainty::Exact => Some(known),
        // Of a stream that was cut, the pieces of its output are known, and what it sent is expected.
        Certainty::AtLeast if counts.input.is_none() => Some(expected.input.saturating_add(known)),
        Certainty::AtLeast => Some(known),
        Certainty::Unknown if has_failed => Some(0),
        Certainty::Unknown => None,
    }
}

/// The names of the header fields of one kind of limit.
struct FieldNames {
    openai: [&'static str; 3],
    anthropic: [&'static str; 3],
}

const REQUESTS: FieldNames = FieldNames {
    openai: [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ],
    anthropic: [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
};
const TOKENS: FieldNames = FieldNames {
    openai: [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ],
    anthropic: [
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ],
};

fn add(style: ApiStyle, names: &FieldNames, remaining: Remaining, fields: &mut Fields) {
    let ([limit, left, reset], resets) = match style {
        ApiStyle::OpenAi => (names.openai, duration_text(remaining.reset_after)),
        ApiStyle::Anthropic => (names.anthropic, time_text(remaining.reset_after)),
    };
    fields.push(limit, remaining.limit.to_string().as_bytes());
    fields.push(left, remaining.remaining.to_string().as_bytes());
    fields.push(reset, resets.as_bytes());
}

/// Milliseconds as OpenAI writes them: `120ms`, `1s`, `6m0s`. From a second on in whole seconds, rounded up.
fn duration_text(millis: u64) -> String {
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = millis.div_ceil(1000);
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

/// So many milliseconds from now, as Anthropic writes it (RFC 3339), rounded up.
fn time_text(millis: u64) -> String {
    let seconds = i64::try_from(millis.div_ceil(1000)).unwrap_or(0);
    let time: UnixTime = now().plus(seconds);
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_as_openai_does() {
        let texts = [0, 120, 999, 1000, 1001, 59_999, 60_000, 360_000].map(duration_text);
        assert_eq!(
            texts,
            ["0ms", "120ms", "999ms", "1s", "2s", "1m0s", "1m0s", "6m0s"]
        );
    }

    #[test]
    fn a_request_is_charged_for_what_it_used_as_far_as_that_is_known() {
        let expected = ExpectedUse {
            input: 100,
            tokens: 500,
        };
        let counts = |certainty, input, output| RequestCounts {
            certainty,
            input,
            output,
            ..RequestCounts::UNKNOWN
        };
        for (counts, has_failed, used) in [
            (counts(Certainty::Exact, Some(7), Some(3)), false, Some(10)),
            (counts(Certainty::Exact, None, None), false, Some(0)),
            (counts(Certainty::AtLeast, None, Some(3)), false, Some(103)),
            (
                counts(Certainty::AtLeast, Some(7), Some(3)),
                false,
                Some(10),
            ),
            (RequestCounts::UNKNOWN, false, None),
            (RequestCounts::UNKNOWN, true, Some(0)),
        ] {
            assert_eq!(
                used_tokens(&counts, expected, has_failed),
                used,
                "{counts:?}"
            );
        }
    }
}
