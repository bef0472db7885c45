//! The limits and budgets of a key on its way through a request: asked before the body is read, taken once before anything
//! is sent, settled when the request has ended.
//!
//! Invariant: what was taken is given back however the request ends, since guards hold it. A key without limits costs one
//! comparison.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::gateway::budgets;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::fields::Fields;
use crate::observe::log::Event;
use crate::policy::alert::Alert;
use crate::policy::budget::BudgetUnit;
use crate::policy::field_kind::FieldKind;
use crate::policy::key::Key;
use crate::policy::key_limiter::{BudgetMark, KeyTerms, LimitClock, LimitReservation, UsedAmounts};
use crate::policy::key_limits::LimitKind;
use crate::policy::price::{Cost, Millionths};
use crate::policy::rate_limit::{RateLimits, Remaining};
use crate::policy::route::ApiStyle;
use crate::policy::time::UnixTime;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::budgets::{BudgetLeftView, is_unknown, left};
use crate::table::Entry;

/// The limits and budgets in force for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits<'e> {
    worker: &'e Rc<Worker>,
    entry: &'e Arc<Entry>,
    rates: RateLimits,
}

/// What a request is expected to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedUse {
    /// Tokens of its input.
    pub(super) input: u64,
    /// Tokens of its input and its output.
    pub(super) tokens: u64,
    /// What that costs.
    pub(super) cost: Option<Cost>,
}

/// How long a place stays taken after its upstream was left in the middle of its work: until then the upstream may not have
/// noticed, and would have one request more than it may.
const UPSTREAM_NOTICES: Duration = Duration::from_millis(100);

/// A place among the requests of a key that run; of a key without limits, none. It is free again when this is dropped;
/// where its upstream was left in the middle, a moment later.
#[derive(Debug, Default)]
pub(super) struct RunningRequest {
    place: Option<RunningPlace>,
    is_at_upstream: bool,
}

#[derive(Debug)]
struct RunningPlace(Arc<Entry>);

/// What was taken of limits and budgets, until it is known what was used.
#[derive(Debug)]
pub(super) struct ReservedUse {
    worker: Rc<Worker>,
    entry: Arc<Entry>,
    taken: LimitReservation,
    expected: ExpectedUse,
}

fn clock(worker: &Worker) -> LimitClock<'_> {
    LimitClock {
        monotonic: monotonic_now(),
        now: now(),
        zone: &worker.settings.time_zone,
    }
}

impl<'e> RequestLimits<'e> {
    /// The limits of a key; None where nothing limits it.
    #[inline]
    pub(super) fn of(worker: &'e Rc<Worker>, entry: &'e Arc<Entry>) -> Option<Self> {
        let defaults = &worker.settings.default_limits;
        if entry.key().allowance().is_none() && defaults.are_unset() {
            return None;
        }
        let rates = entry.key().limits().in_force(defaults);
        let limits = rates != RateLimits::default() || !entry.key().budgets().is_empty();
        limits.then_some(Self {
            worker,
            entry,
            rates,
        })
    }

    fn terms(&self) -> KeyTerms<'_> {
        KeyTerms {
            rates: self.rates,
            budgets: self.entry.key().budgets(),
        }
    }

    /// Whether a request could be let in now, of which nothing is known yet. Nothing is taken. What was spent of a budget
    /// before is read from the database when its key is used first.
    ///
    /// # Errors
    /// The limit that refuses every request now, or nobody knows what was spent.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        let budgets = self.entry.key().budgets();
        if is_unknown(self.entry) {
            // Boxed, so that it makes no other request larger.
            Box::pin(budgets::load(self.worker, self.entry)).await?;
        }
        let least = UsedAmounts {
            tokens: 1,
            ..UsedAmounts::default()
        };
        let (checked, marks) = {
            let mut limiter = self.entry.limiter();
            let clock = clock(self.worker);
            let marks = limiter.marks(budgets, &clock);
            (limiter.check(&self.terms(), &least, &clock), marks)
        };
        tell(self.worker, self.entry.key(), &marks);
        Ok(checked?)
    }

    /// Takes a request from all limits, or from none.
    ///
    /// # Errors
    /// The limit that refuses it.
    pub(super) fn take(
        &self,
        expected: ExpectedUse,
    ) -> Result<(RunningRequest, ReservedUse), Refusal> {
        let amounts = UsedAmounts {
            tokens: expected.tokens,
            requests: 1,
            cost: expected.cost.map_or(0, Cost::millionths),
            audio: 0,
        };
        let mut limiter = self.entry.limiter();
        let taken = limiter.take(&self.terms(), &amounts, &clock(self.worker))?;
        let running = RunningRequest {
            place: Some(RunningPlace(Arc::clone(self.entry))),
            is_at_upstream: false,
        };
        let reserved = ReservedUse {
            worker: Rc::clone(self.worker),
            entry: Arc::clone(self.entry),
            taken,
            expected,
        };
        Ok((running, reserved))
    }

    /// Adds the header fields that tell what is left: OpenAI's ("Rate limits", its API reference), or Anthropic's.
    pub(super) fn add_fields(&self, style: ApiStyle, fields: &mut Fields) {
        let (requests, tokens) = {
            let (mut limiter, now) = (self.entry.limiter(), monotonic_now());
            let requests = self.rates.requests_per_minute;
            let tokens = self.rates.tokens_per_minute;
            let rate = limiter.rate();
            (
                requests.map(|limit| rate.requests(limit, now)),
                tokens.map(|limit| rate.tokens(limit, now)),
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
pub(super) fn limit_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<LimitView> {
    let Some(RequestLimits { rates, .. }) = RequestLimits::of(worker, entry) else {
        return Vec::new();
    };
    let (mut limiter, now) = (entry.limiter(), monotonic_now());
    let rate = limiter.rate();
    let view = |kind: LimitKind| {
        let remaining = match kind {
            LimitKind::RequestsPerMinute => rate.requests(rates.requests_per_minute?, now),
            LimitKind::TokensPerMinute => rate.tokens(rates.tokens_per_minute?, now),
            LimitKind::ConcurrentRequests => {
                let limit = rates.concurrent_requests?;
                return Some(LimitView {
                    name: kind.name(),
                    limit,
                    remaining: limit.saturating_sub(rate.running()),
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

/// The budgets of a key, and what is left of them.
pub(super) async fn budget_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<BudgetLeftView> {
    // Where it cannot be read, it is shown as not known.
    let _ = Box::pin(budgets::load(worker, entry)).await;
    left(entry, &worker.settings.time_zone)
}

impl RunningRequest {
    /// It is sent to its upstream from now on.
    pub(super) fn asked(&mut self) {
        self.is_at_upstream = true;
    }

    /// The upstream has ended its work, or was never reached: the place is free.
    pub(super) fn finish(&mut self) {
        self.place = None;
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        if let Some(place) = self.place.take()
            && self.is_at_upstream
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                sleep(UPSTREAM_NOTICES).await;
                drop(place);
            });
        }
    }
}

impl Drop for RunningPlace {
    fn drop(&mut self) {
        self.0.limiter().release();
    }
}

impl ReservedUse {
    /// The upstream was never asked: the request costs nothing.
    pub(super) fn cancel(self) {
        let mut limiter = self.entry.limiter();
        limiter.cancel(self.taken, &clock(&self.worker));
    }

    /// The request has ended with these counts. `has_failed`: the upstream refused it, or failed at it.
    pub(super) fn settle(self, counts: &RequestCounts, cost: Option<Cost>, has_failed: bool) {
        let tokens = used_tokens(counts, self.expected, has_failed);
        let used = UsedAmounts {
            tokens: tokens.unwrap_or(self.expected.tokens),
            requests: u64::from(!has_failed),
            cost: match (cost, tokens) {
                (Some(cost), _) => cost.millionths(),
                // Nobody knows what it used: what was expected counts.
                (None, None) => self.expected.cost.map_or(0, Cost::millionths),
                (None, Some(_)) => 0,
            },
            audio: counts.audio_microseconds.unwrap_or(0),
        };
        let key = self.entry.key();
        let marks = {
            let mut limiter = self.entry.limiter();
            limiter.settle(
                self.taken,
                key.budgets(),
                &used,
                tokens,
                &clock(&self.worker),
            )
        };
        tell(&self.worker, key, &marks);
    }
}

/// Tells of budgets that have reached a mark.
fn tell(worker: &Worker, key: &Key, marks: &[BudgetMark]) {
    for mark in marks {
        worker.log.event(event(key.id(), mark));
        worker.alerts.alert(alert(key, mark));
    }
}

/// An amount as people write it.
fn amount_text(unit: BudgetUnit, amount: u64) -> String {
    match unit.is_decimal() {
        false => amount.to_string(),
        true => Millionths(i64::try_from(amount).unwrap_or(i64::MAX)).to_string(),
    }
}

/// What the operator is told of a budget that has reached a mark.
fn alert(key: &Key, mark: &BudgetMark) -> Alert {
    let budget = &mark.budget;
    Alert::BudgetMark {
        key_id: key.id().to_owned(),
        name: key.name().to_owned(),
        unit: budget.unit.label().to_owned(),
        per: budget.period.label().to_owned(),
        percent: u8::try_from(mark.percent).unwrap_or(u8::MAX),
        used: amount_text(budget.unit, mark.spent),
        amount: amount_text(budget.unit, budget.amount),
        period_start: mark.period_start,
        resets_at: mark.resets_at,
    }
}

/// The log line of a budget that has reached a mark.
fn event(key_id: &str, mark: &BudgetMark) -> Event {
    let budget = &mark.budget;
    let amount = amount_text(budget.unit, budget.amount);
    Event::warn("budget")
        .with("key_id", key_id.to_owned())
        .with("percent", mark.percent)
        .with("unit", budget.unit.label())
        .with("amount", amount)
        .with("per", budget.period.label())
        .with("mode", budget.mode.label())
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
    let mut push = |name, value: &[u8]| fields.push_as(FieldKind::NotToClient, name, value);
    let mut number = itoa::Buffer::new();
    push(limit, number.format(remaining.limit).as_bytes());
    push(left, number.format(remaining.remaining).as_bytes());
    push(reset, resets.as_bytes());
}

/// Milliseconds as OpenAI writes them: `120ms`, `1s`, `6m0s`. From a second on in whole seconds, rounded up.
fn duration_text(millis: u64) -> String {
    let (mut text, mut number) = (String::with_capacity(16), itoa::Buffer::new());
    let mut push = |count: u64, unit| {
        text.push_str(number.format(count));
        text.push_str(unit);
    };
    if millis < 1000 {
        push(millis, "ms");
        return text;
    }
    let seconds = millis.div_ceil(1000);
    if seconds >= 60 {
        push(seconds / 60, "m");
    }
    push(seconds % 60, "s");
    text
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
            cost: None,
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
