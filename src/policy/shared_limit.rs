//! What gateways share of one limit: what was used of it, and the part of the rest that each gateway holds as its lease.
//!
//! Pure: the database keeps a [`SharedLimit`], and gateways change it one after the other with [`SharedLimit::renew`]. All
//! times here are the database's. A gateway reports each use with its age, so its own clock does not matter.
//!
//! Why no span of 60 s has more than the limit, whatever the gateways' clocks say:
//!
//! - After each change, what was used in the last 60 s and all leases together are at most the limit, or nothing was granted.
//! - A gateway lets in only what its lease has room for. So each use is part of a lease while it is not reported, and one
//!   of the uses of its second once it is.
//! - A gateway counts the time of a lease from before it asked the database, so the lease ends at the gateway first.
//! - A lease that ends without a word counts as used at its end. Only a gateway itself gives back what it has not used, and
//!   it stops using that before it says so.
//! - A use is noted in a second that is not before its own, and kept for 61 s from the beginning of that second.
//! - What a gateway gives back of a use is never taken from a later second than the one in which the use was noted. Taken
//!   from an earlier one, what remains counts for longer than it needs to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::budget::{BudgetPeriod, BudgetUnit};

/// For how long a lease of a rate or of places holds, in milliseconds.
pub const LEASE_MILLIS: u64 = 10_000;
/// For how long a lease of a budget holds, in milliseconds.
pub const BUDGET_LEASE_MILLIS: u64 = 60_000;
/// For how long a use counts that was noted in a second, from the second's beginning.
pub(crate) const SPAN_MILLIS: u64 = 61_000;
/// A use of so many seconds ago counts no more, however it was noted.
const OLD_AFTER_SECONDS: u64 = 62;

/// Which of the limits of a key or an account is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SharedKind {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests at the same time.
    Running,
    /// A budget.
    Budget(BudgetUnit, BudgetPeriod),
}

impl SharedKind {
    /// What the database calls it.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Requests => "requests".to_owned(),
            Self::Tokens => "tokens".to_owned(),
            Self::Running => "running".to_owned(),
            Self::Budget(unit, period) => format!("{}/{}", unit.label(), period.label()),
        }
    }

    /// For how long a lease of it holds, in milliseconds.
    #[must_use]
    pub fn lease_millis(self) -> u64 {
        match self {
            Self::Requests | Self::Tokens | Self::Running => LEASE_MILLIS,
            Self::Budget(..) => BUDGET_LEASE_MILLIS,
        }
    }
}

/// What is used and held of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedLimit {
    /// Of a rate: what was used in each second, oldest first. Of a budget: the second in which its period began, with what
    /// was used since.
    used: Vec<(i64, u64)>,
    /// By the instances of the gateways.
    leases: BTreeMap<String, HeldLease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldLease {
    amount: u64,
    /// In milliseconds since 1970.
    until: i64,
    /// The number of the last report that was taken in.
    reported: u64,
    /// The gateway has refused a request, or let it wait, for want of more.
    waits: bool,
    distance: ClockDistance,
}

/// How far the database's clock was ahead of a gateway's at its claims, in whole seconds, rounded up. An answer that took long
/// makes it larger, so it differs from claim to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockDistance {
    long: LeastDistance,
    /// Takes the place of `long` when it is a minute long itself. So a clock that was set does not matter for ever.
    short: LeastDistance,
}

/// All uses of the gateway's seconds after this one were noted with at least this distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeastDistance {
    after: u64,
    seconds: i64,
}

impl ClockDistance {
    fn new(time: RenewalTime) -> Self {
        let first = LeastDistance {
            after: time.own / 1000,
            seconds: time.distance(),
        };
        Self {
            long: first,
            short: first,
        }
    }

    /// The earliest second in which a use of this second may have been noted. None where nobody knows.
    fn earliest(self, second: u64) -> Option<i64> {
        let Self { long, .. } = self;
        (second > long.after).then(|| moved(second, long.seconds))
    }

    fn learn(&mut self, time: RenewalTime) {
        for least in [&mut self.long, &mut self.short] {
            least.seconds = least.seconds.min(time.distance());
        }
        if time.own / 1000 > self.short.after + OLD_AFTER_SECONDS {
            let Self { short, .. } = Self::new(time);
            self.long = std::mem::replace(&mut self.short, short);
        }
    }
}

/// What a gateway has used since an earlier report. Its number grows by one with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseReport {
    /// The number.
    pub number: u64,
    /// Seconds of the gateway's own clock, each with what was used in it, less what was given back of it.
    pub uses: Vec<(u64, i64)>,
}

/// What a gateway tells and asks of one limit.
#[derive(Clone, Debug)]
pub struct LeaseClaim {
    /// Which limit.
    pub kind: SharedKind,
    /// How much it allows.
    pub limit: u64,
    /// What the gateway holds and has not used. It uses no more than this until it has an answer.
    pub available: u64,
    /// What it cannot give back: requests that run.
    pub least: u64,
    /// How much it wants to hold.
    pub wanted: u64,
    /// What it used. Those that were taken in before are not taken in again.
    pub reports: Vec<UseReport>,
    /// It has refused a request, or lets it wait.
    pub waits: bool,
    /// It gives all back.
    pub ends: bool,
}

/// When a renewal happens.
#[derive(Clone, Copy, Debug)]
pub struct RenewalTime {
    /// By the database's clock, in milliseconds since 1970.
    pub now: i64,
    /// By the gateway's own clock, at an instant that is not after `now`, in milliseconds.
    pub own: u64,
    /// The second in which the present period of the budget began, at least 0.
    pub period_start: i64,
}

impl RenewalTime {
    /// The least number of seconds after which no use of a second of the gateway's clock happened. It cannot be too low: the
    /// gateway has read its clock before the database did.
    fn distance(self) -> i64 {
        (self.now - signed(self.own)).div_euclid(1000) + 1
    }
}

/// What a gateway holds from now on, and what it sees of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// What the gateway had by its claim and may no longer use: its lease had ended.
    pub lost: u64,
    /// What is added to what it kept.
    pub added: u64,
    /// What nobody uses or holds.
    pub free: u64,
    /// What all together have used in the present span or period.
    pub used: u64,
    /// Another gateway wants more than it holds.
    pub others_wait: bool,
    /// What stops to count, in how many milliseconds; the earliest first.
    pub expiries: Vec<(u64, u64)>,
}

impl SharedLimit {
    /// A budget of which so much was spent.
    #[must_use]
    pub fn of_budget(spent: u64, period_start: i64) -> Self {
        Self {
            used: vec![(period_start, spent)],
            leases: BTreeMap::new(),
        }
    }

    /// Ends the leases that are over. Returns whether a budget needs a look at the sums, for [`Self::raise_to`]: a lease has
    /// ended, and nobody knows what its gateway used of it, or nobody has one.
    pub fn end_leases(&mut self, kind: SharedKind, time: RenewalTime) -> bool {
        let now = time.now;
        let over: Vec<HeldLease> = self
            .leases
            .extract_if(.., |_, lease| lease.until < now)
            .map(|(_, lease)| lease)
            .collect();
        for lease in &over {
            match kind {
                SharedKind::Requests | SharedKind::Tokens => {
                    self.note(lease.until.div_euclid(1000), lease.amount);
                }
                SharedKind::Running | SharedKind::Budget(..) => {}
            }
        }
        self.forget_old(kind, time);
        !over.is_empty() || self.leases.is_empty()
    }

    /// At least so much was used of a budget.
    pub fn raise_to(&mut self, spent: u64) {
        if let Some((_, used)) = self.used.first_mut() {
            *used = (*used).max(spent);
        }
    }

    /// Takes in what a gateway has used, and lends it more where there is more.
    pub fn renew(&mut self, gateway: &str, claim: &LeaseClaim, time: RenewalTime) -> LeaseGrant {
        self.end_leases(claim.kind, time);
        let held = self.leases.remove(gateway);
        let reported = held.as_ref().map_or(0, |held| held.reported);
        let mut distance = held.as_ref().map(|held| held.distance);
        if let Some(distance) = &mut distance {
            distance.learn(time);
        }
        for report in &claim.reports {
            if report.number > reported {
                self.take_in(claim.kind, report, time, distance);
            }
        }
        self.forget_old(claim.kind, time);
        let kept = match held {
            Some(_) => claim.available,
            // It counts as used, or others have it.
            None => 0,
        };
        let base = kept.max(claim.least);
        let others: u64 = total(self.leases.values().map(|lease| lease.amount));
        let used = total(self.used.iter().map(|(_, amount)| *amount));
        let room = claim
            .limit
            .saturating_sub(used)
            .saturating_sub(others)
            .saturating_sub(base);
        let waiting = self.leases.values().filter(|lease| lease.waits).count();
        // Others that wait have their part.
        let most = room.div_ceil(1 + u64::try_from(waiting).unwrap_or(u64::MAX - 1));
        let more = match claim.ends {
            true => 0,
            false => claim.wanted.saturating_sub(base).min(most),
        };
        let amount = match claim.ends {
            true => 0,
            false => base + more,
        };
        if !claim.ends {
            let numbers = claim.reports.iter().map(|report| report.number);
            let lease = HeldLease {
                amount,
                until: time.now + signed(claim.kind.lease_millis()),
                reported: numbers.max().unwrap_or(reported).max(reported),
                waits: claim.waits && claim.wanted > amount,
                distance: distance.unwrap_or_else(|| ClockDistance::new(time)),
            };
            self.leases.insert(gateway.to_owned(), lease);
        }
        LeaseGrant {
            lost: claim.available - kept.min(claim.available),
            added: amount - kept.min(amount),
            free: room - more.min(room),
            used,
            others_wait: waiting > 0,
            expiries: self.expiries(claim.kind, time.now),
        }
    }

    /// When nothing of it matters any more, in milliseconds since 1970.
    #[must_use]
    pub fn ends_at(&self) -> i64 {
        let of_leases = self.leases.values().map(|lease| lease.until);
        let of_uses = self.used.iter().map(|(second, _)| second * 1000);
        let last = of_leases.chain(of_uses).max().unwrap_or(0);
        last.saturating_add(signed(SPAN_MILLIS))
    }

    fn take_in(
        &mut self,
        kind: SharedKind,
        report: &UseReport,
        time: RenewalTime,
        known: Option<ClockDistance>,
    ) {
        for (second, amount) in &report.uses {
            let second = match kind {
                SharedKind::Running => continue,
                SharedKind::Budget(..) if *amount < 0 => known.map(|_| time.period_start),
                SharedKind::Budget(..) => Some(time.period_start),
                SharedKind::Requests | SharedKind::Tokens if *amount < 0 => {
                    known.and_then(|distance| distance.earliest(*second))
                }
                SharedKind::Requests | SharedKind::Tokens => Some(moved(*second, time.distance())),
            };
            // Where it is not known how it was taken in before, nothing is taken back.
            let Some(second) = second else { continue };
            match u64::try_from(*amount) {
                Ok(more) => self.note(second, more),
                Err(_) => self.take_back(second, amount.unsigned_abs()),
            }
        }
    }

    fn note(&mut self, second: i64, amount: u64) {
        match self.used.binary_search_by_key(&second, |(at, _)| *at) {
            Ok(at) => self.used[at].1 = self.used[at].1.saturating_add(amount),
            Err(at) => self.used.insert(at, (second, amount)),
        }
    }

    /// What was used in this second is less. What was not noted there is taken from the seconds before.
    fn take_back(&mut self, second: i64, amount: u64) {
        let mut left = amount;
        let earlier = self.used.partition_point(|(at, _)| *at <= second);
        for (_, used) in self.used[..earlier].iter_mut().rev() {
            let part = left.min(*used);
            *used -= part;
            left -= part;
        }
    }

    fn forget_old(&mut self, kind: SharedKind, time: RenewalTime) {
        match kind {
            SharedKind::Requests | SharedKind::Tokens => {
                self.used.retain(|(second, amount)| {
                    *amount > 0 && second * 1000 + signed(SPAN_MILLIS) > time.now
                });
            }
            SharedKind::Running => self.used.clear(),
            SharedKind::Budget(..) => match self.used.as_slice() {
                // A clock that goes back begins no period anew.
                [(start, _)] if *start >= time.period_start => {}
                _ => self.used = vec![(time.period_start, 0)],
            },
        }
    }

    fn expiries(&self, kind: SharedKind, now: i64) -> Vec<(u64, u64)> {
        let expiry = |(second, amount): &(i64, u64)| {
            let left = second * 1000 + signed(SPAN_MILLIS) - now;
            (u64::try_from(left).unwrap_or(0), *amount)
        };
        match kind {
            SharedKind::Requests | SharedKind::Tokens => self.used.iter().map(expiry).collect(),
            SharedKind::Running | SharedKind::Budget(..) => Vec::new(),
        }
    }
}

/// A second of a gateway's clock, by the database's.
fn moved(second: u64, distance: i64) -> i64 {
    signed(second).saturating_add(distance)
}

fn total(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
