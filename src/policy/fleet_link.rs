//! Whether a gateway reaches the database of its fleet, and what its limits mean while it does not.
//!
//! While the database is away nobody is lent anything, so all that gateways may still use together is what they had been lent:
//!
//! 1. Until its lease ends a gateway uses it as before.
//! 2. Then it goes on with what is left of it, but uses no more in any 60 s than its share: the limit divided by the gateways
//!    that were seen last.
//! 3. When all that was lent has stopped to count, [`LENT_COUNTS`] after the first failure, its share alone counts.
//! 4. When the database is back, lease and share count for as long: other gateways may still have to report theirs.
//!
//! So all together never use more than the limit, as long as the database is away for all of them at once and they have seen
//! each other. A gateway that is cut off alone may use its share beside what the others are lent.

use crate::policy::rate_limit::Monotonic;
use crate::policy::shared_limit::{LEASE_MILLIS, SPAN_MILLIS};

/// In milliseconds.
const LENT_COUNTS: u64 = LEASE_MILLIS + SPAN_MILLIS;

/// What limits do while the database is away, after what was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsUnavailable {
    /// Each gateway has its share of every limit.
    LocalShare,
    /// Requests of limited keys are refused.
    Refuse,
}

impl LimitsUnavailable {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::LocalShare, Self::Refuse];

    /// The word in the config.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::LocalShare => "local_share",
            Self::Refuse => "refuse",
        }
    }
}

/// A gateway's way to the database that its fleet shares.
#[derive(Clone, Copy, Debug)]
pub struct FleetLink {
    unavailable: LimitsUnavailable,
    gateways: u64,
    /// When the last question was sent that was answered.
    answered: Option<Monotonic>,
    /// When the first failed of those that were asked since.
    away_since: Option<Monotonic>,
    /// Until then the share counts beside the lease.
    share_until: Option<Monotonic>,
    /// How far the database's clock is ahead of this gateway's, in seconds.
    clock_ahead: i64,
}

/// What one decision goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRule {
    /// The lease.
    Lease,
    /// The lease, where it has not ended; then nothing is let in until the database answers.
    LeaseOrRefuse,
    /// The lease and the gateway's share.
    LeaseAndShare {
        /// The gateways that have a share.
        gateways: u64,
        /// Milliseconds until it is the share alone.
        left: u64,
    },
    /// The gateway's share.
    Share {
        /// The gateways that have a share.
        gateways: u64,
    },
    /// There is no lease that holds.
    NoLease,
    /// Nothing is let in.
    Refuse,
}

impl FleetLink {
    /// Nothing was asked yet. `gateways`: as many are known from before the start.
    #[must_use]
    pub fn new(unavailable: LimitsUnavailable, gateways: u64) -> Self {
        Self {
            unavailable,
            gateways: gateways.max(1),
            answered: None,
            away_since: None,
            share_until: None,
            clock_ahead: 0,
        }
    }

    /// What limits do while the database is away.
    #[must_use]
    pub fn unavailable(&self) -> LimitsUnavailable {
        self.unavailable
    }

    /// A question that was sent at this time was answered.
    pub fn answer(&mut self, sent: Monotonic, gateways: u64, clock_ahead: i64) {
        let silent = self
            .answered
            .map_or(0, |answered| sent.since(answered))
            .max(self.away_since.map_or(0, |since| sent.since(since)));
        if self.away_since.is_some() && silent > LEASE_MILLIS {
            self.share_until = Some(sent.plus(LENT_COUNTS));
        }
        self.away_since = None;
        self.answered = Some(sent);
        self.gateways = gateways.max(1);
        self.clock_ahead = clock_ahead;
    }

    /// So many gateways are seen. While the database is away, nobody knows it better than before.
    pub fn see_gateways(&mut self, gateways: u64) {
        if !self.is_away() {
            self.gateways = gateways.max(1);
        }
    }

    /// A question was not answered.
    pub fn fail(&mut self, now: Monotonic) {
        self.away_since.get_or_insert(now);
    }

    /// Whether the last question was not answered.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away_since.is_some()
    }

    /// The gateways that were seen last.
    #[must_use]
    pub fn gateways(&self) -> u64 {
        self.gateways
    }

    /// How far the database's clock is ahead, in seconds.
    #[must_use]
    pub fn clock_ahead(&self) -> i64 {
        self.clock_ahead
    }

    /// What a decision goes by, where the lease was confirmed at this time and holds for so long.
    #[must_use]
    pub fn rule(
        &self,
        confirmed: Option<Monotonic>,
        lease_millis: u64,
        now: Monotonic,
    ) -> LeaseRule {
        let holds = confirmed.is_some_and(|confirmed| now.since(confirmed) < lease_millis);
        let gateways = self.gateways;
        match (self.away_since, self.unavailable) {
            (None, _) if !holds => LeaseRule::NoLease,
            (None, _) => match self.share_until {
                Some(until) if now < until => LeaseRule::LeaseAndShare {
                    gateways,
                    left: until.since(now),
                },
                _ => LeaseRule::Lease,
            },
            (Some(_), LimitsUnavailable::Refuse) if holds => LeaseRule::LeaseOrRefuse,
            (Some(_), LimitsUnavailable::Refuse) => LeaseRule::Refuse,
            (Some(_), LimitsUnavailable::LocalShare) if holds && self.share_is_over(now) => {
                LeaseRule::Lease
            }
            (Some(since), LimitsUnavailable::LocalShare) => match LENT_COUNTS
                .max(lease_millis)
                .checked_sub(now.since(since))
                .filter(|left| *left > 0)
            {
                Some(left) => LeaseRule::LeaseAndShare { gateways, left },
                None => LeaseRule::Share { gateways },
            },
        }
    }

    fn share_is_over(&self, now: Monotonic) -> bool {
        self.share_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Monotonic = |seconds| Monotonic::from_millis(seconds * 1000);

    #[test]
    fn a_lease_then_lease_and_share_then_the_share_alone_and_back_again() {
        let mut link = FleetLink::new(LimitsUnavailable::LocalShare, 1);
        link.answer(AT(100), 4, 0);
        let rule = |link: &FleetLink, now| link.rule(Some(AT(100)), LEASE_MILLIS, AT(now));
        assert_eq!(rule(&link, 109), LeaseRule::Lease);
        assert_eq!(rule(&link, 110), LeaseRule::NoLease);
        link.fail(AT(102));
        link.fail(AT(103));
        assert!(link.is_away());
        assert_eq!(rule(&link, 109), LeaseRule::Lease);
        for (now, left) in [(110, 63_000), (172, 1_000)] {
            let gateways = 4;
            assert_eq!(
                rule(&link, now),
                LeaseRule::LeaseAndShare { gateways, left }
            );
        }
        assert_eq!(rule(&link, 173), LeaseRule::Share { gateways: 4 });
        // One that was never lent anything waits as long.
        assert_eq!(
            link.rule(None, LEASE_MILLIS, AT(103)),
            LeaseRule::LeaseAndShare {
                gateways: 4,
                left: 70_000
            }
        );
        link.answer(AT(200), 4, 0);
        let confirmed = |link: &FleetLink, now| link.rule(Some(AT(now)), LEASE_MILLIS, AT(now));
        assert!(matches!(
            confirmed(&link, 270),
            LeaseRule::LeaseAndShare { .. }
        ));
        assert_eq!(confirmed(&link, 271), LeaseRule::Lease);
    }

    #[test]
    fn a_gateway_that_starts_while_the_database_is_away_has_the_share_of_before() {
        let mut link = FleetLink::new(LimitsUnavailable::LocalShare, 4);
        link.fail(AT(100));
        link.see_gateways(1);
        let rule = |now| link.rule(None, LEASE_MILLIS, AT(now));
        assert_eq!(rule(171), LeaseRule::Share { gateways: 4 });
        let mut alone = FleetLink::new(LimitsUnavailable::LocalShare, 4);
        alone.see_gateways(2);
        alone.fail(AT(100));
        assert_eq!(
            alone.rule(None, LEASE_MILLIS, AT(171)),
            LeaseRule::Share { gateways: 2 }
        );
    }

    #[test]
    fn a_failure_that_ends_before_the_lease_changes_nothing() {
        let mut link = FleetLink::new(LimitsUnavailable::LocalShare, 1);
        link.answer(AT(100), 4, 0);
        link.fail(AT(102));
        link.answer(AT(109), 4, 0);
        assert_eq!(
            link.rule(Some(AT(109)), LEASE_MILLIS, AT(110)),
            LeaseRule::Lease
        );
    }

    #[test]
    fn who_refuses_does_so_when_the_lease_has_ended() {
        let mut link = FleetLink::new(LimitsUnavailable::Refuse, 1);
        link.answer(AT(100), 4, 0);
        link.fail(AT(101));
        let rule = |now| link.rule(Some(AT(100)), LEASE_MILLIS, AT(now));
        assert_eq!(rule(109), LeaseRule::LeaseOrRefuse);
        assert_eq!(rule(110), LeaseRule::Refuse);
        assert_eq!(link.rule(None, LEASE_MILLIS, AT(101)), LeaseRule::Refuse);
    }
}
