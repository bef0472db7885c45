use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::*;
use crate::policy::budget::{Budget, BudgetMode};
use crate::policy::fleet_link::{FleetLink, LimitsUnavailable};
use crate::policy::key_limiter::{KeyLimiter, LimitReservation};
use crate::policy::limit_leases::ClaimFacts;
use crate::policy::limit_terms::{KeyTerms, LimitClock, LimitError, UsedAmounts};
use crate::policy::rate_limit::{Monotonic, RateLimits};
use crate::policy::time::UnixTime;

const SPAN: u64 = 60_000;
/// Between two steps of a simulation, in milliseconds.
const STEP: u64 = 50;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn is_one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }
}

/// What can go wrong in a simulation.
#[derive(Clone, Copy)]
struct Faults {
    gateways: usize,
    /// One gateway dies, and another takes its place.
    deaths: bool,
    /// The database is away for all, for at most so long.
    outage: u64,
    /// It is away for one gateway alone, for at most so long.
    cut_off: u64,
}

/// A request that runs.
struct Running {
    gateway: usize,
    ends: u64,
    start: usize,
    reservation: LimitReservation,
}

struct Started {
    at: u64,
    tokens: u64,
}

/// A renewal whose answer is on its way.
struct Renewal {
    own: Monotonic,
    read_at: u64,
    ends: u64,
    claims: Vec<LeaseClaim>,
    is_lost: bool,
    is_refused: bool,
}

struct Gateway {
    name: String,
    /// How far its clock is ahead.
    ahead: u64,
    limiter: KeyLimiter,
    link: FleetLink,
    next: u64,
    renewal: Option<Renewal>,
    cut_off_until: u64,
    /// In a thousand steps it is asked so often.
    demand: u64,
    wants_renewal: bool,
}

struct Simulation {
    random: Random,
    now: u64,
    rates: RateLimits,
    budgets: Vec<Budget>,
    faults: Faults,
    database: BTreeMap<String, SharedLimit>,
    away_until: u64,
    gateways: Vec<Gateway>,
    running: Vec<Running>,
    started: Vec<Started>,
    refused: u64,
    spent: u64,
}

static UTC: TimeZone = TimeZone::UTC;
const DATABASE_CLOCK: i64 = 1_800_000_000_000;

impl Simulation {
    fn new(seed: u64, rates: RateLimits, faults: Faults) -> Self {
        let mut simulation = Self {
            random: Random(seed),
            now: 1_000_000,
            rates,
            budgets: Vec::new(),
            faults,
            database: BTreeMap::new(),
            away_until: 0,
            gateways: Vec::new(),
            running: Vec::new(),
            started: Vec::new(),
            refused: 0,
            spent: 0,
        };
        for _ in 0..faults.gateways {
            let gateway = simulation.new_gateway();
            simulation.gateways.push(gateway);
        }
        simulation
    }

    fn new_gateway(&mut self) -> Gateway {
        let mut link = FleetLink::new(LimitsUnavailable::LocalShare, 1);
        let ahead = self.random.below(3_600_000);
        // The others are known from the first answer on.
        let all = u64::try_from(self.faults.gateways).unwrap();
        link.answer(Monotonic::from_millis(0), all, 0);
        Gateway {
            name: format!("{:016x}", self.random.next()),
            ahead,
            limiter: KeyLimiter::default(),
            link,
            next: self.now + self.random.below(1000),
            renewal: None,
            cut_off_until: 0,
            demand: [0, 20, 200, 1000, 5000][usize::try_from(self.random.below(5)).unwrap()],
            wants_renewal: false,
        }
    }

    fn own(&self, at: usize) -> Monotonic {
        Monotonic::from_millis(self.now + self.gateways[at].ahead)
    }

    fn step(&mut self) {
        self.now += STEP;
        self.fail_something();
        self.end_requests();
        for at in 0..self.gateways.len() {
            self.finish_renewal(at);
            self.begin_renewal(at);
            let demand = self.gateways[at].demand;
            let certain = demand / 1000;
            let count = certain + u64::from(self.random.below(1000) < demand % 1000);
            for _ in 0..count {
                self.ask(at);
            }
        }
    }

    fn fail_something(&mut self) {
        let Faults {
            deaths,
            outage,
            cut_off,
            ..
        } = self.faults;
        if outage > 0 && self.now > self.away_until && self.random.is_one_in(1500) {
            self.away_until = self.now + self.random.between(100, outage);
        }
        let at = usize::try_from(self.random.below(self.gateways.len() as u64)).unwrap();
        // It is back for long enough to be lent something.
        let is_back = self.now > self.gateways[at].cut_off_until + 6_000;
        if cut_off > 0 && is_back && self.random.is_one_in(800) {
            self.gateways[at].cut_off_until = self.now + self.random.between(100, cut_off);
        }
        // One that dies while the database is away takes with it what it has used of its share.
        let was_away = self.away_until > 0 && self.now < self.away_until + 2 * SPAN;
        if deaths && !was_away && self.random.is_one_in(1500) {
            self.running.retain(|running| running.gateway != at);
            self.gateways[at] = self.new_gateway();
        }
        if self.random.is_one_in(200) {
            self.gateways[at].demand = [0, 20, 200, 1000, 5000][self.random.below(5) as usize];
        }
    }

    fn is_away(&self, at: usize) -> bool {
        self.now < self.away_until || self.now < self.gateways[at].cut_off_until
    }

    fn clock<'z>(&self, at: usize, zone: &'z TimeZone) -> LimitClock<'z> {
        LimitClock {
            monotonic: self.own(at),
            now: UnixTime::from_seconds(1_800_000_000),
            zone,
            fleet: Some(self.gateways[at].link),
        }
    }

    fn ask(&mut self, at: usize) {
        let tokens = self.random.between(1, 40);
        let used = UsedAmounts {
            tokens,
            requests: 1,
            ..UsedAmounts::default()
        };
        let budgets = self.budgets.clone();
        let terms = KeyTerms {
            rates: self.rates,
            budgets: &budgets,
        };
        let clock = self.clock(at, &UTC);
        let gateway = &mut self.gateways[at];
        for budget in &budgets {
            gateway.limiter.load(budget, 0, &clock);
        }
        match gateway.limiter.take(&terms, &used, &clock) {
            Ok(reservation) => {
                self.started.push(Started {
                    at: self.now,
                    tokens,
                });
                self.spent += tokens;
                self.running.push(Running {
                    gateway: at,
                    ends: self.now + self.random.between(0, 4000),
                    start: self.started.len() - 1,
                    reservation,
                });
                self.assert_within_limits();
            }
            Err(error) => {
                self.refused += 1;
                // Of a budget nobody knows what was spent before the first lease.
                assert!(error != LimitError::Unavailable || !budgets.is_empty());
            }
        }
        let leases = self.gateways[at].limiter.leases().unwrap();
        self.gateways[at].wants_renewal |=
            leases.is_worth_asking() || leases.needs_attention(&self.rates, &budgets);
    }

    fn assert_within_limits(&self) {
        let recent = self.started.iter().rev();
        let recent: Vec<&Started> = recent
            .take_while(|started| started.at + SPAN > self.now)
            .collect();
        let requests = recent.len() as u64;
        let tokens: u64 = recent.iter().map(|started| started.tokens).sum();
        let now = self.now;
        if let Some(limit) = self.rates.requests_per_minute {
            assert!(requests <= limit, "{requests} of {limit} at {now}");
        }
        if let Some(limit) = self.rates.tokens_per_minute {
            assert!(tokens <= limit, "{tokens} tokens of {limit} at {now}");
        }
        if let Some(limit) = self.rates.concurrent_requests {
            let running = self.running.len() as u64;
            assert!(running <= limit, "{running} run of {limit} at {now}");
        }
        if let Some(budget) = self.budgets.first() {
            assert!(self.spent <= budget.amount, "{} at {now}", self.spent);
        }
    }

    fn end_requests(&mut self) {
        let (ended, running): (Vec<_>, Vec<_>) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|running| running.ends <= self.now);
        self.running = running;
        for Running {
            gateway,
            start,
            reservation,
            ..
        } in ended
        {
            let clock = self.clock(gateway, &UTC);
            let expected = self.started[start].tokens;
            let tokens = self.random.between(0, expected);
            let used = UsedAmounts {
                tokens,
                requests: 1,
                ..UsedAmounts::default()
            };
            self.started[start].tokens = tokens;
            self.spent -= expected - tokens;
            let budgets = &self.budgets;
            let limiter = &mut self.gateways[gateway].limiter;
            limiter.release();
            let _ = limiter.settle(reservation, budgets, &used, Some(tokens), &clock);
        }
    }

    fn begin_renewal(&mut self, at: usize) {
        let (own, budgets) = (self.own(at), self.budgets.clone());
        let rates = self.rates;
        let gateway = &mut self.gateways[at];
        let is_due = self.now >= gateway.next || gateway.wants_renewal;
        if gateway.renewal.is_some() || !is_due {
            return;
        }
        gateway.next = self.now + 1000;
        gateway.wants_renewal = false;
        let running = gateway.limiter.running();
        let gateways = gateway.link.gateways();
        let claims = gateway.limiter.leases().map_or(Vec::new(), |leases| {
            let facts = ClaimFacts {
                gateways,
                now: own,
                running,
                ends: leases.are_idle(running, own),
            };
            leases.claims(&rates, &budgets, facts)
        });
        let long = self.random.is_one_in(20);
        let takes = self.random.below(if long { 2000 } else { 60 });
        gateway.renewal = Some(Renewal {
            own,
            read_at: self.now,
            ends: self.now + takes,
            claims,
            is_lost: self.random.is_one_in(25),
            is_refused: self.random.is_one_in(25),
        });
    }

    /// The question arrives and is answered at one instant, since the database is changed only where nobody else has changed
    /// what was read.
    fn finish_renewal(&mut self, at: usize) {
        let own = self.own(at);
        let is_away = self.is_away(at);
        let Some(renewal) = self.gateways[at].renewal.take() else {
            return;
        };
        if self.now < renewal.ends {
            self.gateways[at].renewal = Some(renewal);
            return;
        }
        if is_away && self.now < renewal.read_at + 2000 {
            // It waits for an answer.
            self.gateways[at].renewal = Some(renewal);
            return;
        }
        if is_away || renewal.is_refused {
            return self.gateways[at].link.fail(own);
        }
        let time = RenewalTime {
            now: DATABASE_CLOCK + i64::try_from(self.now).unwrap(),
            own: renewal.own.millis(),
            period_start: 0,
        };
        let budgets = self.budgets.clone();
        let gateway = &mut self.gateways[at];
        for mut claim in renewal.claims {
            let kind = claim.kind;
            let known = self.database.entry(kind.label()).or_default();
            let grant = known.renew(&gateway.name, &claim, time);
            // As it is kept.
            *known = serde_json::from_str(&serde_json::to_string(known).unwrap()).unwrap();
            let leases = gateway.limiter.leases().unwrap();
            leases.send(kind, &grant);
            claim.available -= grant.lost;
            if !renewal.is_lost {
                leases.confirm(&claim, grant, renewal.own);
            }
        }
        gateway.limiter.learn_spent(&budgets);
        match renewal.is_lost {
            true => gateway.link.fail(own),
            false => {
                let all = u64::try_from(self.faults.gateways).unwrap();
                gateway.link.answer(renewal.own, all, 0);
            }
        }
    }
}

fn claim(available: u64, wanted: u64) -> LeaseClaim {
    LeaseClaim {
        kind: SharedKind::Requests,
        limit: 100,
        available,
        least: 0,
        wanted,
        reports: Vec::new(),
        waits: false,
        ends: false,
    }
}

/// The gateway's clock began an hour before.
fn after(seconds: u64) -> RenewalTime {
    slow(seconds, 0)
}

/// The gateway reads its clock, and so many seconds later the database does.
fn slow(seconds: u64, takes: i64) -> RenewalTime {
    RenewalTime {
        now: DATABASE_CLOCK + (i64::try_from(seconds).unwrap() + takes) * 1000,
        own: 3_600_000 + seconds * 1000,
        period_start: 0,
    }
}

fn report(number: u64, second: u64, amount: i64) -> UseReport {
    UseReport {
        number,
        uses: vec![(3600 + second, amount)],
    }
}

#[test]
fn what_was_lent_is_lent_to_nobody_else_until_it_is_given_back_or_a_minute_after_its_end() {
    let mut limit = SharedLimit::default();
    assert_eq!(limit.renew("one", &claim(0, 60), after(0)).added, 60);
    let other = limit.renew("two", &claim(0, 60), after(9));
    assert_eq!((other.added, other.free), (40, 0));
    let given_back = limit.renew("one", &claim(10, 10), after(9));
    assert_eq!(
        (given_back.added, given_back.lost, given_back.free),
        (0, 0, 50)
    );
    // Both have ended: nobody may use what he had, and all counts as used.
    let late = limit.renew("two", &claim(40, 60), after(30));
    assert_eq!((late.lost, late.added, late.used), (40, 50, 50));
    assert_eq!(limit.renew("one", &claim(0, 60), after(31)).added, 0);
    let freed = limit.renew("one", &claim(0, 60), after(81));
    assert_eq!(freed.added, 50);
}

#[test]
fn a_report_counts_once_and_in_the_second_in_which_something_was_used() {
    let mut limit = SharedLimit::default();
    let mut told = claim(0, 0);
    limit.renew("one", &told, after(0));
    told.reports = vec![report(1, 1, 7), report(2, 5, 3)];
    let first = limit.renew("one", &told, after(6));
    // A second's uses may have been at its end.
    assert_eq!(first.expiries, [(57_000, 7), (61_000, 3)]);
    told.reports.push(report(3, 1, -2));
    let again = limit.renew("one", &told, after(6));
    assert_eq!((again.used, again.expiries[0]), (8, (57_000, 5)));
    // Who has ended is not known any more: what was taken in counts again, and nothing is given back.
    let unknown = limit.renew("other", &told, after(6));
    assert_eq!(unknown.used, 18);
}

#[test]
fn what_is_given_back_is_taken_from_no_later_use() {
    let mut limit = SharedLimit::default();
    let told = |reports| LeaseClaim {
        reports,
        ..claim(0, 0)
    };
    limit.renew("one", &told(vec![]), after(0));
    limit.renew("one", &told(vec![report(1, 1, 5)]), after(2));
    limit.renew("two", &told(vec![report(1, 4, 5)]), after(5));
    // By this answer, which took 3 s, it was used at 5, as the other's was.
    let given_back = limit.renew("one", &told(vec![report(2, 1, -2)]), slow(3, 3));
    assert_eq!(given_back.expiries, [(57_000, 3), (60_000, 5)]);
}

#[test]
fn what_was_used_before_a_lease_began_is_not_given_back_in_it() {
    let mut limit = SharedLimit::default();
    let mut told = claim(0, 0);
    limit.renew("one", &told, after(0));
    told.reports = vec![report(1, 1, 5)];
    limit.renew("one", &told, after(2));
    // The lease has ended, and how its uses were noted is known no more.
    limit.renew("one", &claim(0, 0), slow(30, 3));
    let other = LeaseClaim {
        reports: vec![report(1, 4, 5)],
        ..claim(0, 0)
    };
    limit.renew("two", &other, after(33));
    told.reports = vec![report(2, 1, -5)];
    assert_eq!(limit.renew("one", &told, after(34)).used, 10);
}

#[test]
fn give_backs_find_their_uses_again_after_the_databases_clock_was_set() {
    let mut limit = SharedLimit::default();
    let mut told = claim(0, 0);
    let mut set = RenewalTime { now: 0, ..after(0) };
    limit.renew("one", &told, set);
    for seconds in 1..200 {
        set = after(seconds);
        told.reports = vec![report(2 * seconds, seconds, 5)];
        limit.renew("one", &told, set);
    }
    let used = limit.renew("one", &claim(0, 0), set).used;
    told.reports = vec![report(500, 198, -5)];
    assert_eq!(limit.renew("one", &told, set).used, used - 5);
}

/// The same ones each time. `KEYGATE_SEED` begins with another one, `KEYGATE_SEEDS` tries so many times as many.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let times = std::env::var("KEYGATE_SEEDS").ok();
    let count = count * times.map_or(1, |times| times.parse::<u64>().unwrap());
    let first = std::env::var("KEYGATE_SEED").ok();
    let first: u64 = first.map_or(1, |seed| seed.parse().unwrap());
    (first..first + count).inspect(|seed| eprintln!("KEYGATE_SEED={seed}"))
}

fn random_rates(seed: u64) -> RateLimits {
    let mut random = Random(seed ^ 0xabcd);
    let mut limit = |most: u64| (!random.is_one_in(3)).then(|| random.between(1, most));
    RateLimits {
        requests_per_minute: limit(400),
        tokens_per_minute: limit(6000),
        concurrent_requests: limit(60),
    }
}

#[test]
fn no_span_of_a_minute_has_more_than_the_limit_over_eight_gateways_whatever_fails() {
    for seed in seeds(4) {
        let faults = Faults {
            gateways: 8,
            deaths: true,
            outage: 200_000,
            cut_off: 8_000,
        };
        let mut simulation = Simulation::new(seed, random_rates(seed), faults);
        for _ in 0..15 * 60_000 / STEP {
            simulation.step();
        }
    }
}

#[test]
fn a_gateway_that_is_cut_off_alone_for_less_than_a_minute_starts_no_more_than_it_was_lent() {
    for seed in seeds(2) {
        let faults = Faults {
            gateways: 8,
            deaths: false,
            outage: 0,
            cut_off: 55_000,
        };
        let rates = RateLimits {
            // What runs there goes on, while others are lent its places.
            concurrent_requests: None,
            ..random_rates(seed)
        };
        let mut simulation = Simulation::new(seed, rates, faults);
        for _ in 0..15 * 60_000 / STEP {
            simulation.step();
        }
    }
}

#[test]
fn a_budget_is_not_overspent_by_eight_gateways() {
    for seed in seeds(2) {
        let faults = Faults {
            gateways: 8,
            deaths: false,
            outage: 50_000,
            cut_off: 50_000,
        };
        let mut simulation = Simulation::new(seed, RateLimits::default(), faults);
        simulation.budgets = vec![Budget {
            unit: BudgetUnit::Tokens,
            amount: 20_000,
            period: BudgetPeriod::Total,
            mode: BudgetMode::Enforce,
        }];
        simulation
            .database
            .insert("tokens/total".to_owned(), SharedLimit::of_budget(0, 0));
        for _ in 0..10 * 60_000 / STEP {
            simulation.step();
        }
        assert!(simulation.spent > 15_000, "{}", simulation.spent);
    }
}

/// What a key gets in ten minutes under far more load than its limits, where nothing fails: requests and tokens.
fn got(seed: u64, gateways: usize, busy: usize, rates: RateLimits) -> (f64, f64) {
    let faults = Faults {
        gateways,
        deaths: false,
        outage: 0,
        cut_off: 0,
    };
    let mut simulation = Simulation::new(seed, rates, faults);
    for _ in 0..10 * 60_000 / STEP {
        for (at, gateway) in simulation.gateways.iter_mut().enumerate() {
            gateway.demand = if at < busy { 3000 } else { 0 };
        }
        simulation.step();
    }
    let tokens: u64 = simulation.started.iter().map(|one| one.tokens).sum();
    (simulation.started.len() as f64, tokens as f64)
}

#[test]
fn a_key_gets_nearly_all_of_its_limit_on_one_gateway_and_on_many() {
    let requests = RateLimits {
        requests_per_minute: Some(600),
        ..RateLimits::default()
    };
    let tokens = RateLimits {
        tokens_per_minute: Some(6000),
        ..RateLimits::default()
    };
    for seed in seeds(1) {
        for (gateways, busy, least) in [(1, 1, 0.9), (8, 1, 0.9), (8, 2, 0.9), (8, 8, 0.85)] {
            let (got_requests, _) = got(seed, gateways, busy, requests);
            assert!(
                got_requests >= least * 6000.0,
                "{busy} of {gateways}: {got_requests}"
            );
            // Half of what was reserved is given back.
            let (_, got_tokens) = got(seed, gateways, busy, tokens);
            assert!(
                got_tokens >= least * 60_000.0,
                "{busy} of {gateways}: {got_tokens} tokens"
            );
        }
    }
}
