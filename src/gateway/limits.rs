//! The limits and budgets of a key and of its account on the way through a request: asked before the body is read, taken once before anything
//! is sent, settled when the request has ended.
//!
//! Invariant: what was taken is given back however the request ends, since guards hold it. A request takes from key and
//! account or from neither. A key without limits and without an account costs one comparison.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::gateway::budgets::{self, BudgetHolder};
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::fields::Fields;
use crate::observe::log::Event;
use crate::policy::account::AccountRules;
use crate::policy::alert::Alert;
use crate::policy::budget::{Budget, BudgetUnit};
use crate::policy::key::Key;
use crate::policy::key_limiter::{
    BudgetLeft, BudgetMark, KeyTerms, LimitClock, LimitReservation, UsedAmounts,
};
use crate::policy::key_limits::{KeyLimits, LimitKind};
use crate::policy::price::{Cost, Millionths};
use crate::policy::rate_limit::{Monotonic, RateLimiter, RateLimits, Remaining};
use crate::policy::route::ApiStyle;
use crate::policy::time::UnixTime;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::allowance_json::amount_view;
use crate::table::{AccountEntry, Entry};

/// The limits and budgets in force for one request.
#[derive(Debug)]
pub(super) struct RequestLimits<'e> {
    worker: &'e Rc<Worker>,
    /// Those of the key and those of its account, where they have any: at least one.
    layers: Vec<LimitLayer>,
}

/// The limits and budgets of a key alone, or those that its account shares among its keys.
#[derive(Clone, Debug)]
struct LimitLayer {
    holder: BudgetHolder,
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

/// A place among the requests of a key that run. It is free again when this is dropped; where its upstream was left in the
/// middle, a moment later.
#[derive(Debug)]
pub(super) struct RunningRequest {
    place: Option<RunningPlace>,
    has_finished: bool,
}

#[derive(Debug)]
struct RunningPlace(Vec<BudgetHolder>);

/// What was taken of limits and budgets, until it is known what was used.
#[derive(Debug)]
pub(super) struct ReservedUse {
    worker: Rc<Worker>,
    entry: Arc<Entry>,
    taken: Vec<(BudgetHolder, LimitReservation)>,
    expected: ExpectedUse,
}

fn clock(worker: &Worker) -> LimitClock<'_> {
    LimitClock {
        monotonic: monotonic_now(),
        now: now(),
        zone: &worker.settings.time_zone,
    }
}

impl LimitLayer {
    /// None where nothing limits the key itself.
    #[inline]
    fn of_key(worker: &Worker, entry: &Arc<Entry>) -> Option<Self> {
        let defaults = &worker.settings.default_limits;
        if entry.key().allowance().is_none() && defaults.are_unset() {
            return None;
        }
        let rates = entry.key().limits().in_force(defaults);
        let limits = rates != RateLimits::default() || !entry.key().budgets().is_empty();
        limits.then(|| Self {
            holder: BudgetHolder::Key(Arc::clone(entry)),
            rates,
        })
    }

    /// None where the key has no account, or one without limits.
    #[inline]
    fn of_account(entry: &Entry) -> Option<Self> {
        let account = entry.account()?;
        let rules = account.rules()?;
        if rules.allowance.is_unset() {
            return None;
        }
        Some(Self::of_rules(account, rules))
    }

    fn of_rules(account: &Arc<AccountEntry>, rules: Arc<AccountRules>) -> Self {
        Self {
            // The defaults of the config are for keys.
            rates: rules.allowance.limits.in_force(&KeyLimits::default()),
            holder: BudgetHolder::Account(Arc::clone(account), rules),
        }
    }

    fn terms(&self) -> KeyTerms<'_> {
        KeyTerms {
            rates: self.rates,
            budgets: self.holder.budgets(),
        }
    }
}

impl<'e> RequestLimits<'e> {
    /// The limits of a key and its account; None where nothing limits it.
    #[inline]
    pub(super) fn of(worker: &'e Rc<Worker>, entry: &Arc<Entry>) -> Option<Self> {
        let of_key = LimitLayer::of_key(worker, entry);
        let of_account = LimitLayer::of_account(entry);
        if of_key.is_none() && of_account.is_none() {
            return None;
        }
        Some(Self {
            worker,
            layers: of_key.into_iter().chain(of_account).collect(),
        })
    }

    /// Whether a request could be let in now, of which nothing is known yet. Nothing is taken. What was spent of a budget
    /// before is read from the database when its key or account is used first.
    ///
    /// # Errors
    /// The limit that refuses every request now, or nobody knows what was spent.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        let least = UsedAmounts {
            tokens: 1,
            ..UsedAmounts::default()
        };
        for layer in &self.layers {
            budgets::load(self.worker, &layer.holder).await?;
            let mut limiter = layer.holder.limiter();
            limiter.check(&layer.terms(), &least, &clock(self.worker))?;
        }
        Ok(())
    }

    /// Takes a request of a key from all limits, its own and those of its account, or from none.
    ///
    /// # Errors
    /// The limit that refuses it.
    pub(super) fn take(
        &self,
        entry: &Arc<Entry>,
        expected: ExpectedUse,
    ) -> Result<(RunningRequest, ReservedUse), Refusal> {
        let amounts = UsedAmounts {
            tokens: expected.tokens,
            requests: 1,
            cost: expected.cost.map_or(0, Cost::millionths),
            audio: 0,
        };
        let mut taken: Vec<(BudgetHolder, LimitReservation)> = Vec::new();
        for layer in &self.layers {
            let clock = clock(self.worker);
            let reservation = layer
                .holder
                .limiter()
                .take(&layer.terms(), &amounts, &clock);
            match reservation {
                Ok(reservation) => taken.push((layer.holder.clone(), reservation)),
                Err(error) => {
                    for (holder, reservation) in taken {
                        let mut limiter = holder.limiter();
                        limiter.cancel(reservation, &clock);
                        limiter.release();
                    }
                    return Err(error.into());
                }
            }
        }
        let running = RunningRequest {
            place: Some(RunningPlace(
                taken.iter().map(|(holder, _)| holder.clone()).collect(),
            )),
            has_finished: false,
        };
        let reserved = ReservedUse {
            worker: Rc::clone(self.worker),
            entry: Arc::clone(entry),
            taken,
            expected,
        };
        Ok((running, reserved))
    }

    /// Adds the header fields that tell what is left: OpenAI's ("Rate limits", its API reference), or Anthropic's.
    pub(super) fn add_fields(&self, style: ApiStyle, fields: &mut Fields) {
        let requests = self.least_left(|rates| rates.requests_per_minute, RateLimiter::requests);
        let tokens = self.least_left(|rates| rates.tokens_per_minute, RateLimiter::tokens);
        for (remaining, names) in [(requests, &REQUESTS), (tokens, &TOKENS)] {
            if let Some(remaining) = remaining {
                add(style, names, remaining, fields);
            }
        }
    }

    /// What is left of the limit of one kind, the key's or the account's: of that which leaves less.
    fn least_left(
        &self,
        limit: impl Fn(&RateLimits) -> Option<u64>,
        left: impl Fn(&mut RateLimiter, u64, Monotonic) -> Remaining,
    ) -> Option<Remaining> {
        let now = monotonic_now();
        let remaining = self.layers.iter().filter_map(|layer| {
            let limit = limit(&layer.rates)?;
            Some(left(layer.holder.limiter().rate(), limit, now))
        });
        remaining.min_by_key(|remaining| remaining.remaining)
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

/// A budget as the owner of the key sees it.
#[derive(Debug, Serialize)]
pub(super) struct BudgetLeftView {
    unit: &'static str,
    per: &'static str,
    amount: serde_json::Value,
    /// Null where it is not known yet.
    used: Option<serde_json::Value>,
    remaining: Option<serde_json::Value>,
    resets_at: Option<String>,
    mode: &'static str,
    /// Whether it is the account's, which all of its keys share.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
}

/// The limits in force for a key under its account, and what is left of them.
pub(super) fn limit_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<LimitView> {
    let Some(limits) = RequestLimits::of(worker, entry) else {
        return Vec::new();
    };
    let view = |kind: LimitKind| {
        let remaining = match kind {
            LimitKind::RequestsPerMinute => {
                limits.least_left(|rates| rates.requests_per_minute, RateLimiter::requests)?
            }
            LimitKind::TokensPerMinute => {
                limits.least_left(|rates| rates.tokens_per_minute, RateLimiter::tokens)?
            }
            LimitKind::ConcurrentRequests => {
                let left = limits.least_left(
                    |rates| rates.concurrent_requests,
                    |rate, limit, _| Remaining {
                        limit,
                        remaining: limit.saturating_sub(rate.running()),
                        reset_after: 0,
                    },
                )?;
                return Some(LimitView {
                    name: kind.name(),
                    limit: left.limit,
                    remaining: left.remaining,
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

/// The budgets of a key and then those of its account, and what is left of them.
pub(super) async fn budget_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<BudgetLeftView> {
    let account = LimitLayer::of_account(entry).map(|layer| layer.holder);
    let holders = std::iter::once(BudgetHolder::Key(Arc::clone(entry))).chain(account);
    let mut views = Vec::new();
    for holder in holders.filter(|holder| !holder.budgets().is_empty()) {
        // Where it cannot be read, it is shown as not known.
        let _ = budgets::load(worker, &holder).await;
        let shared = matches!(holder, BudgetHolder::Account(..));
        let (mut limiter, clock) = (holder.limiter(), clock(worker));
        let view =
            |budget: &Budget| BudgetLeftView::of(budget, limiter.left(budget, &clock), shared);
        views.extend(holder.budgets().iter().map(view));
    }
    views
}

impl BudgetLeftView {
    fn of(budget: &Budget, left: Option<BudgetLeft>, shared: bool) -> Self {
        let amount = |amount| amount_view(budget.unit, amount);
        Self {
            unit: budget.unit.label(),
            per: budget.period.label(),
            amount: amount(budget.amount),
            used: left.map(|left| amount(left.spent)),
            remaining: left.map(|left| amount(left.remaining)),
            resets_at: left
                .and_then(|left| left.resets_at)
                .map(|time| time.to_string()),
            mode: budget.mode.label(),
            shared: shared.then_some(true),
        }
    }
}

impl RunningRequest {
    /// The upstream has ended its work.
    pub(super) fn finish(mut self) {
        self.has_finished = true;
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let place = self.place.take();
        if !self.has_finished
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
        for holder in &self.0 {
            holder.limiter().release();
        }
    }
}

impl ReservedUse {
    /// The upstream was never asked: the request costs nothing.
    pub(super) fn cancel(self) {
        for (holder, taken) in self.taken {
            holder.limiter().cancel(taken, &clock(&self.worker));
        }
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
        for (holder, taken) in self.taken {
            let marks = holder.limiter().settle(
                taken,
                holder.budgets(),
                &used,
                tokens,
                &clock(&self.worker),
            );
            for mark in marks {
                match &holder {
                    BudgetHolder::Key(_) => {
                        self.worker.log.event(event("key_id", key.id(), &mark));
                        self.worker.alerts.alert(alert(key, &mark));
                    }
                    BudgetHolder::Account(account, _) => {
                        let event = event("account", account.id(), &mark);
                        self.worker.log.event(event);
                    }
                }
            }
        }
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
fn event(whose: &'static str, id: &str, mark: &BudgetMark) -> Event {
    let budget = &mark.budget;
    let amount = amount_text(budget.unit, budget.amount);
    Event::warn("budget")
        .with(whose, id.to_owned())
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
