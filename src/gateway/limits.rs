//! The limits and budgets of a key and of its account on the way through a request: asked before the body is read, taken
//! once before anything is sent, settled when the request has ended.
//!
//! Invariant: what was taken is given back however the request ends, since guards hold it. A request takes from its key and
//! the account, or from neither. A key without limits and without an account costs two comparisons.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::gateway::budgets;
use crate::gateway::limit_fields::{self, REQUESTS, TOKENS};
use crate::gateway::limit_refusal::LimitRefusal;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::fields::Fields;
use crate::observe::log::Event;
use crate::policy::alert::{Alert, BudgetOf};
use crate::policy::budget::BudgetUnit;
use crate::policy::key_limiter::{BudgetMark, KeyLimiter, LimitReservation};
use crate::policy::limit_terms::{LimitClock, UsedAmounts};
use crate::policy::price::{Cost, Millionths};
use crate::policy::rate_limit::{RateLimits, Remaining};
use crate::policy::route::ApiStyle;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::budgets::is_unknown;
use crate::store::shared_limits::SharedLimits;
use crate::table::{Ceiling, Entry, LimitHolder, OfKeyAndAccount};

/// The limits and budgets in force for one request: at least one.
#[derive(Debug)]
pub(super) struct RequestLimits<'w> {
    worker: &'w Rc<Worker>,
    ceilings: OfKeyAndAccount<Ceiling>,
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

/// A place among the running requests of a key and of its account; of those without limits, none. It is free again when
/// this is dropped; where its upstream was left in the middle, a moment later.
#[derive(Debug, Default)]
pub(super) struct RunningRequest {
    place: Option<RunningPlace>,
    is_at_upstream: bool,
}

#[derive(Debug)]
struct RunningPlace(OfKeyAndAccount<LimitHolder>);

/// What was taken of limits and budgets, until it is known what was used.
#[derive(Debug)]
pub(super) struct ReservedUse {
    worker: Rc<Worker>,
    taken: OfKeyAndAccount<(LimitHolder, LimitReservation)>,
    expected: ExpectedUse,
}

fn clock(worker: &Worker) -> LimitClock<'_> {
    let fleet = worker.shared_limits.as_ref().map(|shared| shared.link());
    LimitClock {
        monotonic: monotonic_now(),
        // Gateways that share a budget begin it anew at the same time.
        now: fleet.map_or_else(now, |link| now().plus(link.clock_ahead())),
        zone: &worker.settings.time_zone,
        fleet,
    }
}

impl<'w> RequestLimits<'w> {
    /// The limits of a key and of its account; None where nothing limits it.
    #[inline]
    pub(super) fn of(worker: &'w Rc<Worker>, entry: &Arc<Entry>) -> Option<Self> {
        let ceilings = Ceiling::of(entry, &worker.settings.default_limits)?;
        Some(Self { worker, ceilings })
    }

    fn ceilings(&self) -> impl Iterator<Item = &Ceiling> {
        self.ceilings.iter().flatten()
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
        for ceiling in self.ceilings() {
            let holder = &ceiling.holder;
            if is_unknown(holder) {
                // Boxed, so that it makes no other request larger.
                Box::pin(budgets::load(self.worker, holder)).await?;
            }
            let check = || {
                let (mut limiter, clock) = (holder.limiter(), clock(self.worker));
                let marks = limiter.marks(holder.budgets(), &clock);
                (limiter.check(&ceiling.terms(), &least, &clock), marks)
            };
            let (mut checked, mut marks) = check();
            if checked.is_err() && self.may_be_lent(ceiling) {
                let until = Instant::now() + SharedLimits::longest_wait();
                while checked.is_err() && Box::pin(self.is_lent(ceiling, until)).await {
                    (checked, marks) = check();
                }
            }
            tell(self.worker, holder, &marks);
            checked.map_err(|error| LimitRefusal::of(error, holder))?;
        }
        Ok(())
    }

    /// Whether a check failed that may succeed when the database was asked.
    fn may_be_lent(&self, ceiling: &Ceiling) -> bool {
        let mut limiter = ceiling.holder.limiter();
        let leases = limiter.leases();
        leases.is_some_and(|leases| leases.is_worth_asking()) && self.worker.shared_limits.is_some()
    }

    /// Waits until the database was asked for more of this limit; false where that is of no use any more.
    async fn is_lent(&self, ceiling: &Ceiling, until: Instant) -> bool {
        match &self.worker.shared_limits {
            Some(shared) if self.may_be_lent(ceiling) && Instant::now() < until => {
                shared.renewed(ceiling).await
            }
            _ => false,
        }
    }

    /// Has leases renewed that nobody renews, or that run low.
    fn look_after_leases(&self) {
        let Some(shared) = &self.worker.shared_limits else {
            return;
        };
        for ceiling in self.ceilings() {
            let budgets = ceiling.holder.budgets();
            let needs_attention = {
                let mut limiter = ceiling.holder.limiter();
                let leases = limiter.leases();
                leases.is_some_and(|leases| leases.needs_attention(&ceiling.rates, budgets))
            };
            if needs_attention {
                shared.renew(ceiling);
            }
        }
    }

    /// Takes a request from all limits, or from none. Where gateways share them and this one has too little, it waits a
    /// moment for more.
    ///
    /// # Errors
    /// The limit that refuses it.
    pub(super) async fn take(
        &self,
        expected: ExpectedUse,
    ) -> Result<(RunningRequest, ReservedUse), Refusal> {
        let mut taken = self.take_at_once(expected);
        if taken.is_err() && self.ceilings().any(|ceiling| self.may_be_lent(ceiling)) {
            let until = Instant::now() + SharedLimits::longest_wait();
            while taken.is_err() && Box::pin(self.are_lent(until)).await {
                taken = self.take_at_once(expected);
            }
        }
        self.look_after_leases();
        taken
    }

    async fn are_lent(&self, until: Instant) -> bool {
        let mut is_any = false;
        for ceiling in self.ceilings() {
            is_any |= self.is_lent(ceiling, until).await;
        }
        is_any
    }

    fn take_at_once(
        &self,
        expected: ExpectedUse,
    ) -> Result<(RunningRequest, ReservedUse), Refusal> {
        let amounts = UsedAmounts {
            tokens: expected.tokens,
            requests: 1,
            cost: expected.cost.map_or(0, Cost::millionths),
            audio: 0,
        };
        let mut taken = [None, None];
        for (taken_here, ceiling) in taken.iter_mut().zip(&self.ceilings) {
            let Some(ceiling) = ceiling else { continue };
            let (holder, clock) = (&ceiling.holder, clock(self.worker));
            let reservation = holder.limiter().take(&ceiling.terms(), &amounts, &clock);
            match reservation {
                Ok(reservation) => *taken_here = Some((holder.clone(), reservation)),
                Err(error) => {
                    for (holder, reservation) in taken.into_iter().flatten() {
                        let mut limiter = holder.limiter();
                        limiter.cancel(reservation, &clock);
                        limiter.release();
                    }
                    return Err(LimitRefusal::of(error, holder).into());
                }
            }
        }
        let holder = |taken: &Option<(LimitHolder, _)>| {
            let (holder, _) = taken.as_ref()?;
            Some(holder.clone())
        };
        let [of_key, of_account] = &taken;
        let running = RunningRequest {
            place: Some(RunningPlace([holder(of_key), holder(of_account)])),
            is_at_upstream: false,
        };
        let reserved = ReservedUse {
            worker: Rc::clone(self.worker),
            taken,
            expected,
        };
        Ok((running, reserved))
    }

    /// Adds the header fields that tell what is left: OpenAI's ("Rate limits", its API reference), or Anthropic's.
    pub(super) fn add_fields(&self, style: ApiStyle, fields: &mut Fields) {
        let requests =
            self.least_left(|rates| rates.requests_per_minute, KeyLimiter::requests_left);
        let tokens = self.least_left(|rates| rates.tokens_per_minute, KeyLimiter::tokens_left);
        for (remaining, names) in [(requests, &REQUESTS), (tokens, &TOKENS)] {
            if let Some(remaining) = remaining {
                limit_fields::add(style, names, remaining, fields);
            }
        }
    }

    /// What is left of the limit of one kind: of the key's or the account's, that which leaves less.
    pub(super) fn least_left(
        &self,
        limit: impl Fn(&RateLimits) -> Option<u64>,
        left: impl Fn(&mut KeyLimiter, u64, &LimitClock<'_>) -> Remaining,
    ) -> Option<Remaining> {
        let clock = clock(self.worker);
        let remaining = self.ceilings().filter_map(|ceiling| {
            let limit = limit(&ceiling.rates)?;
            Some(left(&mut ceiling.holder.limiter(), limit, &clock))
        });
        remaining.min_by_key(|remaining| remaining.remaining)
    }
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
        for holder in self.0.iter().flatten() {
            holder.limiter().release();
        }
    }
}

impl ReservedUse {
    /// The upstream was never asked: the request costs nothing.
    pub(super) fn cancel(self) {
        for (holder, taken) in self.taken.into_iter().flatten() {
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
        for (holder, taken) in self.taken.into_iter().flatten() {
            let clock = clock(&self.worker);
            let marks = holder
                .limiter()
                .settle(taken, holder.budgets(), &used, tokens, &clock);
            tell(&self.worker, &holder, &marks);
        }
    }
}

/// Tells of budgets that have reached a mark.
fn tell(worker: &Worker, holder: &LimitHolder, marks: &[BudgetMark]) {
    for mark in marks {
        worker.log.event(event(holder, mark));
        worker.alerts.alert(alert(holder, mark));
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
fn alert(holder: &LimitHolder, mark: &BudgetMark) -> Alert {
    let budget = &mark.budget;
    Alert::BudgetMark {
        whose: match holder {
            LimitHolder::Key(entry) => BudgetOf::Key {
                id: entry.key().id().to_owned(),
                name: entry.key().name().to_owned(),
            },
            LimitHolder::Account(entry, _) => BudgetOf::Account(entry.id().to_owned()),
        },
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
fn event(holder: &LimitHolder, mark: &BudgetMark) -> Event {
    let budget = &mark.budget;
    let amount = amount_text(budget.unit, budget.amount);
    let whose = match holder {
        LimitHolder::Key(_) => "key_id",
        LimitHolder::Account(..) => "account",
    };
    Event::warn("budget")
        .with(whose, holder.id().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

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
