//! What a gateway holds of the limits of one key or account, where several gateways share them: its leases, and what it has
//! used and not reported yet.
//!
//! Pure. A request takes from a lease in memory. Now and then the gateway makes claims of all leases, has them renewed in
//! the database ([`SharedLimit::renew`](crate::policy::shared_limit::SharedLimit::renew)), and takes the grants in.
//!
//! Invariant: a gateway never uses more than the database holds for it. What it gives back it stops using before it makes
//! the claim, and what it is granted it uses after the answer.

use crate::policy::budget::{Budget, BudgetMode, BudgetPeriod, BudgetUnit};
use crate::policy::rate_limit::{Monotonic, RateLimits};
use crate::policy::shared_limit::{LeaseClaim, LeaseGrant, SharedKind, UseReport};

/// A lease is renewed after so long, in milliseconds, also where nothing was used of it.
const RENEW_AFTER: u64 = 3_000;
/// What nobody has used for so long is given back, in milliseconds.
const IDLE_AFTER: u64 = 10_000;
/// Where nobody knows when more fits, in milliseconds.
const TRY_AGAIN_AFTER: u64 = 1_000;
/// Reports that had no answer. More are put together.
const MOST_REPORTS: usize = 16;
/// Seconds in which something was used. Of a rate older ones do not matter.
const MOST_SECONDS: usize = 128;
/// Seconds after which a use does not matter for a rate.
const OLD_AFTER: u64 = 62;

/// A part of a limit that is counted in amounts: of a rate or of a budget.
#[derive(Debug, Default)]
pub(crate) struct AmountLease {
    /// The limit for which it was granted.
    limit: u64,
    /// What may be used. Below zero: more was used.
    available: i64,
    /// When the claim of the last grant was made.
    pub(crate) confirmed: Option<Monotonic>,
    /// What was used in each second and is in no report yet.
    pending: Vec<(u64, i64)>,
    /// The report of the next claim that is sent.
    unsent: Option<UseReport>,
    /// Reports that were sent and had no answer.
    unanswered: Vec<UseReport>,
    reports: u64,
    /// Used since the last claim, and a second before.
    taken: u64,
    demand: u64,
    claimed_at: Option<Monotonic>,
    /// The most that a request asked for since the last claim and did not get.
    needed: u64,
    free: u64,
    used: u64,
    others_wait: bool,
    expiries: Vec<(u64, u64)>,
}

impl AmountLease {
    /// Whether it has room for this amount. Otherwise milliseconds until it may have.
    pub(crate) fn covers(
        &mut self,
        limit: u64,
        amount: u64,
        now: Monotonic,
    ) -> Result<(), LackOfLease> {
        let available = self.effective(limit);
        if available >= amount {
            return Ok(());
        }
        self.needed = self.needed.max(amount);
        Err(LackOfLease {
            is_worth_asking: self.limit != limit
                || self.free.saturating_add(available) >= amount
                || self.confirmed.is_none(),
            retry_after: self.expires(amount - available, now),
        })
    }

    /// What is held for this limit. One that was lowered since the grant is lower by as much for every gateway.
    pub(crate) fn effective(&self, limit: u64) -> u64 {
        let lowered = self.limit.saturating_sub(limit);
        u64::try_from(self.available)
            .unwrap_or(0)
            .saturating_sub(lowered)
    }

    /// What may be used by what the database said last: what is held here, and what nobody holds.
    pub(crate) fn left(&self, limit: u64) -> u64 {
        self.effective(limit).saturating_add(self.free)
    }

    /// What nobody used or held when the database was asked last.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// What all gateways have used, with what is not reported yet.
    pub(crate) fn used(&self) -> u64 {
        let reports = self.unanswered.iter().chain(&self.unsent);
        let uses = reports.flat_map(|report| &report.uses).chain(&self.pending);
        let more = uses.fold(0_i64, |sum, (_, amount)| sum.saturating_add(*amount));
        self.used.saturating_add_signed(more)
    }

    /// Milliseconds until nothing counts any more, by what the database said last.
    pub(crate) fn reset_after(&self, now: Monotonic) -> u64 {
        let last = self.expiries.last().map_or(0, |(millis, _)| *millis);
        last.saturating_sub(self.age(now))
    }

    pub(crate) fn take(&mut self, amount: u64, second: u64) {
        self.taken = self.taken.saturating_add(amount);
        self.note(signed(amount), second);
    }

    /// Less was used in this second. Where the database may know of it already, it has to say first that it is free again:
    /// until then the use may stop to count there, while what takes its place is not reported.
    pub(crate) fn give_back(&mut self, amount: u64, second: u64) {
        self.taken = self.taken.saturating_sub(amount);
        let amount = signed(amount);
        let known = self.pending.iter().find(|one| one.0 == second);
        let is_unreported = known.is_some_and(|known| known.1 >= amount);
        self.note(amount.saturating_neg(), second);
        if !is_unreported {
            self.available = self.available.saturating_sub(amount);
        }
    }

    /// Whether it should be renewed before its time, since much of it is used and there is more.
    pub(crate) fn runs_low(&self) -> bool {
        self.free > 0 && self.available < signed(self.taken.max(1))
    }

    fn note(&mut self, amount: i64, second: u64) {
        self.available = self.available.saturating_sub(amount);
        match self.pending.iter_mut().rev().find(|one| one.0 == second) {
            Some(known) => known.1 = known.1.saturating_add(amount),
            None => {
                if self.pending.len() >= MOST_SECONDS {
                    let newest = self.pending.iter().map(|one| one.0).max().unwrap_or(0);
                    self.pending.retain(|one| one.0 + OLD_AFTER > newest);
                }
                self.pending.push((second, amount));
            }
        }
    }

    fn age(&self, now: Monotonic) -> u64 {
        self.confirmed.map_or(0, |confirmed| now.since(confirmed))
    }

    fn expires(&self, amount: u64, now: Monotonic) -> u64 {
        let mut missing = amount.saturating_sub(self.free);
        for (millis, expires) in &self.expiries {
            missing = missing.saturating_sub(*expires);
            if missing == 0 {
                return millis.saturating_sub(self.age(now)).max(1);
            }
        }
        TRY_AGAIN_AFTER
    }

    fn is_due(&self, limit: Option<u64>, now: Monotonic) -> bool {
        !self.pending.is_empty()
            || self.needed > 0
            || limit.is_some_and(|limit| limit != self.limit)
            || self
                .confirmed
                .is_none_or(|confirmed| now.since(confirmed) >= RENEW_AFTER)
    }

    fn claim(&mut self, kind: SharedKind, terms: ClaimTerms) -> LeaseClaim {
        let ClaimTerms {
            limit,
            gateways,
            ends,
            is_bound,
            now,
        } = terms;
        // What was used beyond it is in the reports.
        self.available = signed(self.effective(limit));
        self.limit = self.limit.min(limit);
        self.renew_demand(now);
        let wanted = match (ends, is_bound) {
            (true, _) | (_, false) => 0,
            (false, true) => self.wanted(limit, gateways),
        };
        let available = u64::try_from(self.available).unwrap_or(0);
        let is_too_much = available > wanted.saturating_add(wanted / 2)
            || (self.others_wait && available > wanted);
        if is_too_much {
            self.available = signed(wanted);
        }
        let needed = std::mem::take(&mut self.needed);
        self.gather_report();
        LeaseClaim {
            kind,
            limit,
            available: u64::try_from(self.available).unwrap_or(0),
            least: 0,
            wanted,
            reports: self
                .unanswered
                .iter()
                .chain(&self.unsent)
                .cloned()
                .collect(),
            waits: needed > 0,
            ends,
        }
    }

    fn renew_demand(&mut self, now: Monotonic) {
        let elapsed = self.claimed_at.map_or(0, |claimed| now.since(claimed));
        let taken = std::mem::take(&mut self.taken);
        self.demand = match elapsed {
            0..1000 => self.demand.max(taken),
            _ => (self.demand / 2).max(taken.saturating_mul(1000) / elapsed),
        };
        self.claimed_at = Some(now);
    }

    /// Twice what a second uses, and what a request lacked. Where nobody else wants it, also a part of the limit, so that most
    /// requests never find too little.
    fn wanted(&self, limit: u64, gateways: u64) -> u64 {
        let spare = match self.others_wait {
            true => 0,
            false => limit.div_ceil(gateways.max(2).saturating_mul(2)),
        };
        let demand = self.demand.saturating_mul(2);
        let needed = match self.needed {
            0 => 0,
            needed => needed.saturating_add(demand),
        };
        spare.max(demand).max(needed).min(limit)
    }

    fn gather_report(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let uses = std::mem::take(&mut self.pending);
        match &mut self.unsent {
            Some(report) => report.uses.extend(uses),
            None => {
                self.reports += 1;
                self.unsent = Some(UseReport {
                    number: self.reports,
                    uses,
                });
            }
        }
    }

    /// The claim is sent from here on: what is in its report stays as it is.
    fn send(&mut self, lost: u64) {
        self.available = self.available.saturating_sub(signed(lost));
        self.unanswered.extend(self.unsent.take());
        if self.unanswered.len() > MOST_REPORTS {
            // What the database has taken in already counts twice then, and what was given back does not.
            let uses = self.unanswered.drain(..).flat_map(|report| report.uses);
            let uses = uses.filter(|(_, amount)| *amount > 0).collect();
            self.reports += 1;
            self.unanswered.push(UseReport {
                number: self.reports,
                uses,
            });
        }
    }

    fn confirm(&mut self, limit: u64, grant: LeaseGrant, claimed: Monotonic) {
        let LeaseGrant {
            lost: _,
            added,
            free,
            used,
            others_wait,
            expiries,
        } = grant;
        self.limit = limit;
        self.available = self.available.saturating_add(signed(added));
        self.confirmed = Some(claimed);
        self.unanswered.clear();
        self.free = free;
        self.used = used;
        self.others_wait = others_wait;
        self.expiries = expiries;
    }
}

/// A lease has no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LackOfLease {
    /// The database may have more.
    pub(crate) is_worth_asking: bool,
    /// Milliseconds until more may fit.
    pub(crate) retry_after: u64,
}

impl LackOfLease {
    /// There is no lease, and nobody knows what the database has.
    pub(crate) const UNKNOWN: Self = Self {
        is_worth_asking: true,
        retry_after: TRY_AGAIN_AFTER,
    };
}

/// A part of the places for requests that run at the same time.
#[derive(Debug, Default)]
pub(crate) struct PlaceLease {
    limit: u64,
    places: u64,
    pub(crate) confirmed: Option<Monotonic>,
    /// The most that ran since the last claim.
    most: u64,
    needs_more: bool,
    free: u64,
    others_wait: bool,
}

impl PlaceLease {
    /// Whether another may run beside these.
    pub(crate) fn covers(&mut self, limit: u64, running: u64) -> Result<(), LackOfLease> {
        if running < self.effective(limit) {
            return Ok(());
        }
        self.needs_more = true;
        Err(LackOfLease {
            is_worth_asking: self.limit != limit || self.free > 0 || self.confirmed.is_none(),
            retry_after: TRY_AGAIN_AFTER,
        })
    }

    pub(crate) fn effective(&self, limit: u64) -> u64 {
        self.places.saturating_sub(self.limit.saturating_sub(limit))
    }

    pub(crate) fn left(&self, limit: u64, running: u64) -> u64 {
        let here = self.effective(limit).saturating_sub(running);
        here.saturating_add(self.free)
    }

    pub(crate) fn take(&mut self, running: u64) {
        self.most = self.most.max(running);
    }

    fn is_due(&self, limit: Option<u64>, now: Monotonic) -> bool {
        self.needs_more
            || self.others_wait
            || limit.is_some_and(|limit| limit != self.limit)
            || self
                .confirmed
                .is_none_or(|confirmed| now.since(confirmed) >= RENEW_AFTER)
    }

    fn claim(&mut self, terms: ClaimTerms, running: u64) -> LeaseClaim {
        let ClaimTerms {
            limit,
            gateways,
            ends,
            is_bound: _,
            now: _,
        } = terms;
        self.places = self.effective(limit).max(running.min(self.places));
        self.limit = self.limit.min(limit);
        let most = std::mem::replace(&mut self.most, running).max(running);
        let needs_more = std::mem::take(&mut self.needs_more);
        let spare = match self.others_wait {
            true => 0,
            false => limit.div_ceil(gateways.max(2).saturating_mul(2)),
        };
        let wanted = most
            .saturating_add(most / 2)
            .saturating_add(u64::from(needs_more))
            .max(spare)
            .min(limit);
        let wanted = match ends {
            true => 0,
            false => wanted,
        };
        if self.others_wait || ends || self.places > wanted.saturating_add(wanted / 2) {
            let kept = match self.others_wait {
                // Those that ran a moment ago may not run again.
                true if !needs_more => running,
                _ => wanted.max(running),
            };
            self.places = self.places.min(kept);
        }
        LeaseClaim {
            kind: SharedKind::Running,
            limit,
            available: self.places,
            least: running,
            wanted: match self.others_wait && !needs_more {
                true => running,
                false => wanted,
            },
            reports: Vec::new(),
            waits: needs_more,
            ends,
        }
    }

    fn confirm(&mut self, limit: u64, grant: &LeaseGrant, claimed: Monotonic) {
        self.limit = limit;
        self.places = self.places.saturating_add(grant.added);
        self.confirmed = Some(claimed);
        self.free = grant.free;
        self.others_wait = grant.others_wait;
    }
}

#[derive(Clone, Copy)]
struct ClaimTerms {
    limit: u64,
    gateways: u64,
    ends: bool,
    /// A limit that only observes lends nothing.
    is_bound: bool,
    now: Monotonic,
}

/// The leases of one key or account.
#[derive(Debug, Default)]
pub struct KeyLeases {
    pub(crate) requests: AmountLease,
    pub(crate) tokens: AmountLease,
    pub(crate) running: PlaceLease,
    budgets: Vec<(BudgetUnit, BudgetPeriod, AmountLease)>,
    /// When a request asked last.
    asked_at: Option<Monotonic>,
    /// Whether somebody has them renewed.
    is_renewed: bool,
    /// The last check failed for want of what the database may have.
    is_worth_asking: bool,
}

/// What the claims of one key or account are made with.
#[derive(Clone, Copy, Debug)]
pub struct ClaimFacts {
    /// The gateways of the fleet.
    pub gateways: u64,
    /// The present time, from before the database is asked.
    pub now: Monotonic,
    /// Requests that run.
    pub running: u64,
    /// Everything is given back.
    pub ends: bool,
}

impl KeyLeases {
    pub(crate) fn budget(&mut self, budget: &Budget) -> &mut AmountLease {
        let of = (budget.unit, budget.period);
        let found = self.budgets.iter().position(|one| (one.0, one.1) == of);
        let at = found.unwrap_or_else(|| {
            self.budgets.push((of.0, of.1, AmountLease::default()));
            self.budgets.len() - 1
        });
        &mut self.budgets[at].2
    }

    pub(crate) fn known_budget(
        &self,
        unit: BudgetUnit,
        period: BudgetPeriod,
    ) -> Option<&AmountLease> {
        let mut budgets = self.budgets.iter();
        let found = budgets.find(|one| (one.0, one.1) == (unit, period))?;
        Some(&found.2)
    }

    /// Nothing is known of budgets any more.
    pub(crate) fn forget_budgets(&mut self) {
        self.budgets.clear();
    }

    /// One that was used before.
    pub(crate) fn used_budget(
        &mut self,
        (unit, period): (BudgetUnit, BudgetPeriod),
    ) -> Option<&mut AmountLease> {
        self.amount(SharedKind::Budget(unit, period))
    }

    pub(crate) fn asked(&mut self, now: Monotonic) {
        self.asked_at = Some(now);
        self.is_worth_asking = false;
    }

    pub(crate) fn lacks(&mut self, lack: LackOfLease) {
        self.is_worth_asking |= lack.is_worth_asking;
    }

    /// Whether the last check may succeed once the database was asked.
    #[must_use]
    pub fn is_worth_asking(&self) -> bool {
        self.is_worth_asking
    }

    /// Whether nobody has these leases renewed, or they run low or are for other limits.
    #[must_use]
    pub fn needs_attention(&self, rates: &RateLimits, budgets: &[Budget]) -> bool {
        let is_low = |lease: &AmountLease, limit: Option<u64>| {
            limit.is_some_and(|limit| lease.limit != limit || lease.runs_low())
        };
        !self.is_renewed
            || is_low(&self.requests, rates.requests_per_minute)
            || is_low(&self.tokens, rates.tokens_per_minute)
            || rates
                .concurrent_requests
                .is_some_and(|limit| self.running.limit != limit)
            || budgets.iter().any(|budget| {
                self.known_budget(budget.unit, budget.period)
                    .is_none_or(|lease| is_low(lease, Some(budget.amount)))
            })
    }

    /// Somebody has these leases renewed from now on.
    pub fn begin_renewals(&mut self) {
        self.is_renewed = true;
    }

    /// Nobody does any more.
    pub fn end_renewals(&mut self) {
        self.is_renewed = false;
    }

    /// Whether nothing was asked for a while and nothing runs, so that all is to be given back.
    #[must_use]
    pub fn are_idle(&self, running: u64, now: Monotonic) -> bool {
        running == 0
            && self
                .asked_at
                .is_none_or(|asked| now.since(asked) >= IDLE_AFTER)
    }

    /// The claims that are due. What they give back is not used any more.
    pub fn claims(
        &mut self,
        rates: &RateLimits,
        budgets: &[Budget],
        facts: ClaimFacts,
    ) -> Vec<LeaseClaim> {
        let ClaimFacts {
            gateways,
            now,
            running,
            ends,
        } = facts;
        let mut claims = Vec::new();
        let of = |limit: u64, is_bound| ClaimTerms {
            limit,
            gateways,
            ends,
            is_bound,
            now,
        };
        for (kind, lease, limit) in [
            (
                SharedKind::Requests,
                &mut self.requests,
                rates.requests_per_minute,
            ),
            (
                SharedKind::Tokens,
                &mut self.tokens,
                rates.tokens_per_minute,
            ),
        ] {
            if (limit.is_some() || lease.confirmed.is_some()) && (ends || lease.is_due(limit, now))
            {
                let limit = limit.unwrap_or(lease.limit);
                claims.push(lease.claim(kind, of(limit, true)));
            }
        }
        let (limit, lease) = (rates.concurrent_requests, &mut self.running);
        if (limit.is_some() || lease.confirmed.is_some())
            && (ends || running > 0 || lease.is_due(limit, now))
        {
            let limit = limit.unwrap_or(lease.limit);
            claims.push(lease.claim(of(limit, true), running));
        }
        for budget in budgets {
            let kind = SharedKind::Budget(budget.unit, budget.period);
            let is_bound = budget.mode == BudgetMode::Enforce;
            let lease = self.budget(budget);
            if ends || lease.is_due(Some(budget.amount), now) {
                claims.push(lease.claim(kind, of(budget.amount, is_bound)));
            }
        }
        claims
    }

    /// The renewal of a claim is sent to the database now. What was lost may no longer be used.
    pub fn send(&mut self, kind: SharedKind, grant: &LeaseGrant) {
        match kind {
            SharedKind::Running => {
                let places = &mut self.running.places;
                *places = places.saturating_sub(grant.lost);
            }
            kind => {
                if let Some(lease) = self.amount(kind) {
                    lease.send(grant.lost);
                }
            }
        }
    }

    /// The database has renewed a claim that was made at this time.
    pub fn confirm(&mut self, claim: &LeaseClaim, grant: LeaseGrant, claimed: Monotonic) {
        match claim.kind {
            SharedKind::Running => self.running.confirm(claim.limit, &grant, claimed),
            kind => {
                if let Some(lease) = self.amount(kind) {
                    lease.confirm(claim.limit, grant, claimed);
                }
            }
        }
    }

    fn amount(&mut self, kind: SharedKind) -> Option<&mut AmountLease> {
        match kind {
            SharedKind::Requests => Some(&mut self.requests),
            SharedKind::Tokens => Some(&mut self.tokens),
            SharedKind::Running => None,
            SharedKind::Budget(unit, period) => {
                let mut budgets = self.budgets.iter_mut();
                let found = budgets.find(|one| (one.0, one.1) == (unit, period))?;
                Some(&mut found.2)
            }
        }
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
