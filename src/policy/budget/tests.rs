use jiff::tz::TimeZone;

use crate::policy::budget::{
    Budget, BudgetMode, BudgetPeriod, BudgetSpentError, BudgetUnit, Spending,
};
use crate::policy::time::UnixTime;

fn time(text: &str) -> UnixTime {
    UnixTime::parse(text).unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn around(period: BudgetPeriod, now: &str, zone: &TimeZone) -> (String, String) {
    let span = period.around(time(now), zone);
    (span.start.to_string(), span.end.unwrap().to_string())
}

fn pair(start: &str, end: &str) -> (String, String) {
    (start.to_owned(), end.to_owned())
}

/// As the limiter reserves.
fn reserve(
    spending: &mut Spending,
    budget: &Budget,
    expected: u64,
    now: UnixTime,
) -> Result<(), BudgetSpentError> {
    spending.check(budget, expected, now, &TimeZone::UTC)?;
    spending.reserve(expected);
    Ok(())
}

const MONTHLY: Budget = Budget {
    unit: BudgetUnit::Tokens,
    amount: 100,
    period: BudgetPeriod::Month,
    mode: BudgetMode::Enforce,
};

#[test]
fn a_day_begins_at_midnight_of_the_zone() {
    let now = "2026-11-28T00:30:00Z";
    assert_eq!(
        around(BudgetPeriod::Day, now, &TimeZone::UTC),
        pair("2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z")
    );
    assert_eq!(
        around(BudgetPeriod::Day, now, &zone("America/New_York")),
        pair("2026-11-27T05:00:00Z", "2026-11-28T05:00:00Z")
    );
}

#[test]
fn a_day_of_daylight_saving_has_23_or_25_hours() {
    let berlin = zone("Europe/Berlin");
    assert_eq!(
        around(BudgetPeriod::Day, "2026-03-29T12:00:00Z", &berlin),
        pair("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
    );
    assert_eq!(
        around(BudgetPeriod::Day, "2026-10-25T12:00:00Z", &berlin),
        pair("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
    );
    // In Lebanon clocks go from midnight to one o'clock.
    assert_eq!(
        around(
            BudgetPeriod::Day,
            "2025-03-30T12:00:00Z",
            &zone("Asia/Beirut")
        ),
        pair("2025-03-29T22:00:00Z", "2025-03-30T21:00:00Z")
    );
}

#[test]
fn a_week_begins_on_monday_and_a_month_on_its_first() {
    assert_eq!(
        around(BudgetPeriod::Week, "2026-11-29T23:59:59Z", &TimeZone::UTC),
        pair("2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z")
    );
    assert_eq!(
        around(BudgetPeriod::Week, "2026-11-30T00:00:00Z", &TimeZone::UTC),
        pair("2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z")
    );
    for (now, start, end) in [
        (
            "2028-02-29T10:00:00Z",
            "2028-02-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        ),
        (
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        ),
        (
            "2027-01-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
            "2027-02-01T00:00:00Z",
        ),
    ] {
        assert_eq!(
            around(BudgetPeriod::Month, now, &TimeZone::UTC),
            pair(start, end)
        );
    }
    let always = BudgetPeriod::Total.around(time("2026-11-28T00:00:00Z"), &TimeZone::UTC);
    assert_eq!(always.end, None);
    assert!(always.contains(time("1970-01-01T00:00:00Z")));
}

#[test]
fn a_budget_refuses_what_does_not_fit_and_says_when_it_begins_anew() {
    let now = time("2026-11-28T00:00:00Z");
    let mut spending = Spending::of(&MONTHLY, 0, now, &TimeZone::UTC);
    assert_eq!(reserve(&mut spending, &MONTHLY, 60, now), Ok(()));
    let refused = reserve(&mut spending, &MONTHLY, 41, now);
    let resets_at = Some(time("2026-12-01T00:00:00Z"));
    assert_eq!(refused, Err(BudgetSpentError { resets_at }));
    assert_eq!(spending.remaining(&MONTHLY, now, &TimeZone::UTC), 40);
    spending.settle(&MONTHLY, 60, 20, now, &TimeZone::UTC);
    assert_eq!(reserve(&mut spending, &MONTHLY, 80, now), Ok(()));
    // Nothing is left, so not even a request that is expected to use nothing is let in.
    assert!(reserve(&mut spending, &MONTHLY, 0, now).is_err());
}

#[test]
fn an_observed_budget_refuses_nothing() {
    let budget = Budget {
        mode: BudgetMode::Observe,
        ..MONTHLY
    };
    let now = time("2026-11-28T00:00:00Z");
    let mut spending = Spending::of(&budget, 1_000, now, &TimeZone::UTC);
    assert_eq!(reserve(&mut spending, &budget, 60, now), Ok(()));
}

#[test]
fn a_new_period_begins_with_what_still_runs() {
    let (old, new) = (time("2026-11-30T23:59:59Z"), time("2026-12-01T00:00:00Z"));
    let mut spending = Spending::of(&MONTHLY, 90, old, &TimeZone::UTC);
    assert_eq!(reserve(&mut spending, &MONTHLY, 10, old), Ok(()));
    assert_eq!(spending.remaining(&MONTHLY, new, &TimeZone::UTC), 90);
    spending.settle(&MONTHLY, 10, 15, new, &TimeZone::UTC);
    assert_eq!(spending.spent(&MONTHLY, new, &TimeZone::UTC), 15);
    // A clock that is set back spends on in the period that has begun.
    assert_eq!(spending.spent(&MONTHLY, old, &TimeZone::UTC), 15);
}

#[test]
fn each_mark_is_told_once_a_period() {
    let now = time("2026-11-28T00:00:00Z");
    let mut spending = Spending::of(&MONTHLY, 0, now, &TimeZone::UTC);
    let mut settle = |used, now| spending.settle(&MONTHLY, 0, used, now, &TimeZone::UTC);
    assert_eq!(settle(79, now), None);
    assert_eq!(settle(1, now), Some(80));
    assert_eq!(settle(1, now), None);
    assert_eq!(settle(100, now), Some(95));
    assert_eq!(settle(100, now), None);
    assert_eq!(settle(96, time("2026-12-02T00:00:00Z")), Some(95));
}

#[test]
fn a_mark_that_was_reached_before_the_budget_or_its_amount_was_set_is_told() {
    let now = time("2026-11-28T00:00:00Z");
    let mut spending = Spending::of(&MONTHLY, 85, now, &TimeZone::UTC);
    let mut mark = |budget: &Budget| spending.reach_mark(budget, now, &TimeZone::UTC);
    assert_eq!(mark(&MONTHLY), Some(80));
    assert_eq!(mark(&MONTHLY), None);
    let with_amount = |amount| Budget { amount, ..MONTHLY };
    assert_eq!(mark(&with_amount(85)), Some(95));
    assert_eq!(mark(&with_amount(85)), None);
    assert_eq!(mark(&with_amount(200)), None);
    // A request that began before the change tells nothing of the old amount.
    let mut settle = |budget: &Budget| spending.settle(budget, 0, 40, now, &TimeZone::UTC);
    assert_eq!(settle(&MONTHLY), None);
    assert_eq!(settle(&with_amount(200)), Some(80));
}
