//! Limits that gateways share by a server: what each call promises, and two gateways at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::fixture::Fixture;
use super::{START, TIMEOUT};
use crate::policy::fleet_link::{FleetLink, LimitsUnavailable};
use crate::policy::key::Key;
use crate::policy::key::fixture::key_fields;
use crate::policy::limit_terms::{LimitClock, UsedAmounts};
use crate::policy::rate_limit::RateLimits;
use crate::policy::time::UnixTime;
use crate::runtime::monotonic::monotonic_now;
use crate::store::database::{ChangedLimit, Database, LeaseDriver, SharedLimitId};
use crate::store::shared_limits::SharedLimits;
use crate::table::{Ceiling, Entry, LimitHolder};

fn id(kind: &str) -> SharedLimitId {
    SharedLimitId {
        holder: "key/k".to_owned(),
        kind: kind.to_owned(),
    }
}

fn change(kind: &str, version: i64, state: &str) -> ChangedLimit {
    ChangedLimit {
        id: id(kind),
        version,
        state: state.to_owned(),
        ends_at: i64::MAX,
    }
}

fn known(driver: &mut dyn LeaseDriver, kind: &str) -> (i64, Option<String>) {
    let mut read = driver.read_limits(&[id(kind)]).unwrap();
    let known = read.limits.pop().unwrap();
    assert_eq!((known.id, read.limits.len()), (id(kind), 0));
    (known.version, known.state)
}

#[test]
fn only_what_nobody_else_has_changed_since_it_was_read_is_changed() {
    let fixture = Fixture::postgres();
    let database = fixture.open("one");
    let (mut one, mut two) = (
        database.lease_driver().unwrap(),
        database.lease_driver().unwrap(),
    );
    assert_eq!(known(&mut *one, "a"), (0, None));
    let changes = [change("b", 0, "1"), change("a", 0, "1")];
    assert_eq!(one.change_limits(&changes).unwrap().len(), 2);
    // The other has read before.
    assert_eq!(two.change_limits(&changes).unwrap(), []);
    let changes = [change("a", 1, "2"), change("b", 0, "2")];
    assert_eq!(two.change_limits(&changes).unwrap(), [id("a")]);
    assert_eq!(known(&mut *one, "a"), (2, Some("2".to_owned())));
    // What is forgotten is not written again by one who has read it before.
    one.forget_limits("key/k", &["a".to_owned()]).unwrap();
    assert_eq!(two.change_limits(&[change("a", 2, "3")]).unwrap(), []);
    assert_eq!(known(&mut *two, "a"), (3, Some(String::new())));
    let ended = ChangedLimit {
        ends_at: 1,
        ..change("b", 1, "3")
    };
    assert_eq!(one.change_limits(&[ended]).unwrap(), [id("b")]);
    one.delete_old_limits().unwrap();
    assert_eq!(known(&mut *one, "b"), (0, None));
    assert_eq!(known(&mut *one, "a").0, 3);
}

#[test]
fn gateways_count_that_were_seen_in_the_last_ten_seconds_by_the_servers_clock() {
    let fixture = Fixture::postgres();
    let database = fixture.open("one");
    let mut driver = database.lease_driver().unwrap();
    assert_eq!(driver.read_limits(&[]).unwrap().gateways, 1);
    for (instance, seconds) in [("a", 1), ("b", 8), ("c", 12)] {
        fixture.edit(&format!(
            "INSERT INTO gateways (instance, name, version, started_at, seen_at, in_flight) \
             VALUES ('{instance}', 'n', 'v', 0, clock_timestamp() - interval '{seconds} seconds', 0)"
        ));
    }
    let read = driver.read_limits(&[]).unwrap();
    assert_eq!((read.gateways, read.limits.len()), (2, 0));
    assert!(read.now > START * 1000);
}

#[test]
fn sqlite_lends_nothing() {
    let database = Fixture::sqlite().open("one");
    assert!(database.lease_driver().is_none());
}

/// A gateway, as far as leases go.
struct Leasing {
    shared: Arc<SharedLimits>,
    ceiling: Ceiling,
    _database: Arc<Database>,
}

impl Leasing {
    fn new(fixture: &Fixture, name: &str, requests: u64) -> Self {
        let database = Arc::new(fixture.open(name));
        let shared = SharedLimits::start(
            &database,
            name.to_owned(),
            FleetLink::new(LimitsUnavailable::LocalShare, 1),
            TimeZone::UTC,
            Box::new(|_| ()),
        );
        let entry = Arc::new(Entry::from(Key::from(key_fields("key_1"))));
        Self {
            shared: shared.unwrap().unwrap(),
            ceiling: Ceiling {
                holder: LimitHolder::Key(entry),
                rates: RateLimits {
                    requests_per_minute: Some(requests),
                    ..RateLimits::default()
                },
            },
            _database: database,
        }
    }

    /// Whether a request is let in, at once.
    fn take(&self) -> bool {
        let clock = LimitClock {
            monotonic: monotonic_now(),
            now: UnixTime::from_seconds(START),
            zone: &TimeZone::UTC,
            fleet: Some(self.shared.link()),
        };
        let mut limiter = self.ceiling.holder.limiter();
        let taken = limiter.take(&self.ceiling.terms(), &UsedAmounts::default(), &clock);
        drop(limiter);
        self.shared.renew(&self.ceiling);
        taken.is_ok()
    }
}

#[test]
fn two_gateways_take_all_of_a_limit_and_no_more_and_give_back_what_they_hold_at_their_end() {
    let fixture = Fixture::postgres();
    let gateways = ["one", "two"].map(|name| Leasing::new(&fixture, name, 100));
    let taken = AtomicUsize::new(0);
    let until = Instant::now() + TIMEOUT;
    std::thread::scope(|scope| {
        for gateway in &gateways {
            let taken = &taken;
            scope.spawn(move || {
                while taken.load(Ordering::SeqCst) < 100 && Instant::now() < until {
                    match gateway.take() {
                        true => drop(taken.fetch_add(1, Ordering::SeqCst)),
                        false => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
    });
    assert_eq!(taken.load(Ordering::SeqCst), 100);
    for gateway in &gateways {
        assert!(!gateway.take());
        gateway.shared.stop();
    }
    let database = fixture.open("three");
    let mut driver = database.lease_driver().unwrap();
    let asked = SharedLimitId {
        holder: "key/key_1".to_owned(),
        kind: "requests".to_owned(),
    };
    let read = driver.read_limits(&[asked]).unwrap();
    let state = read.limits[0].state.as_deref().unwrap();
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["leases"], serde_json::json!({}));
    let used = state["used"].as_array().unwrap().iter();
    let used: u64 = used.map(|second| second[1].as_u64().unwrap()).sum();
    assert_eq!(used, 100);
}

#[test]
fn a_lease_whose_gateway_says_nothing_more_counts_as_used() {
    let fixture = Fixture::postgres();
    let gateways = ["one", "two"].map(|name| Leasing::new(&fixture, name, 8));
    let until = Instant::now() + TIMEOUT;
    while !gateways[0].take() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    // It dies: what it holds ends a moment ago.
    gateways[0].shared.stop();
    let now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    fixture.edit(&format!(
        "UPDATE limit_leases SET version = version + 1, state = format( \
         '{{\"used\":[[%s,1]],\"leases\":{{\"one\":{{\"amount\":5,\"until\":%s,\"reported\":1,\"waits\":false, \
         \"distance\":{{\"long\":{{\"after\":0,\"seconds\":0}},\"short\":{{\"after\":0,\"seconds\":0}}}}}}}}}}', \
         {now} / 1000, {now} - 1)"
    ));
    let mut taken = 0;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        taken += usize::from(gateways[1].take());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(taken, 2);
    gateways[1].shared.stop();
}
