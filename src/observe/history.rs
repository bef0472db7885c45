//! The growth of the counters in each minute of the last hour.
//!
//! A caller passes in the counters and the time, so requests pay nothing for it.

use std::collections::BTreeMap;

use crate::observe::metrics::Metrics;
use crate::policy::time::UnixTime;

/// How many minutes are kept, including the current one.
const MINUTES: i64 = 60;

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Requests by outcome.
    outcomes: BTreeMap<String, u64>,
    /// The gateway's own time on a request: bucket bounds in seconds with their cumulative counts.
    overhead: Vec<(f64, u64)>,
}

impl Sample {
    /// The current counters.
    #[must_use]
    pub(crate) fn of(metrics: &Metrics) -> Self {
        Self {
            outcomes: metrics.outcomes(),
            overhead: metrics.overhead_buckets(),
        }
    }

    /// Adds the growth from `before` to `after`.
    fn grow(&mut self, before: &Self, after: &Self) {
        for (outcome, &count) in &after.outcomes {
            let known = before.outcomes.get(outcome).copied().unwrap_or(0);
            let grown = count.saturating_sub(known);
            if grown > 0 {
                *self.outcomes.entry(outcome.clone()).or_default() += grown;
            }
        }
        self.overhead
            .resize(after.overhead.len(), (f64::INFINITY, 0));
        for (at, (sum, &(bound, count))) in
            self.overhead.iter_mut().zip(&after.overhead).enumerate()
        {
            let known = before.overhead.get(at).map_or(0, |(_, known)| *known);
            *sum = (bound, sum.1 + count.saturating_sub(known));
        }
    }
}

/// The last hour. Counters start at zero.
#[derive(Debug, Default)]
pub(crate) struct History {
    last: Sample,
    /// The key is minutes since 1970.
    minutes: BTreeMap<i64, Sample>,
}

/// One minute of the last hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Minute {
    /// When the minute began.
    pub(crate) at: UnixTime,
    /// Requests that ended in this minute, by outcome; outcomes without requests are left out.
    pub(crate) outcomes: BTreeMap<String, u64>,
}

impl History {
    /// Records the counters. Their growth is added to the minute of `now`, so call this several times a minute.
    pub(crate) fn record(&mut self, now: UnixTime, sample: Sample) {
        let minute = minute_of(now);
        // After the clock was set back, later minutes lie in the future.
        self.minutes
            .retain(|&known, _| (minute - MINUTES + 1..=minute).contains(&known));
        self.minutes
            .entry(minute)
            .or_default()
            .grow(&self.last, &sample);
        self.last = sample;
    }

    /// The minutes of the last hour, oldest first, including the current one.
    #[must_use]
    pub(crate) fn minutes(&self, now: UnixTime) -> Vec<Minute> {
        let current = minute_of(now);
        (current - MINUTES + 1..=current)
            .map(|minute| Minute {
                at: UnixTime::from_seconds(minute * 60),
                outcomes: self
                    .minutes
                    .get(&minute)
                    .map(|sample| sample.outcomes.clone())
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// A quantile of the gateway's own time on a request over the last hour, in seconds; None without requests.
    #[must_use]
    pub(crate) fn overhead(&self, now: UnixTime, share: f64) -> Option<f64> {
        let current = minute_of(now);
        let mut hour = Sample::default();
        for (_, minute) in self.minutes.range(current - MINUTES + 1..=current) {
            hour.grow(&Sample::default(), minute);
        }
        quantile(&hour.overhead, share)
    }
}

fn minute_of(now: UnixTime) -> i64 {
    now.seconds().div_euclid(60)
}

/// The quantile `share` of a cumulative histogram. Values are assumed to spread evenly inside a bucket.
fn quantile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let &(_, all) = buckets.last()?;
    if all == 0 {
        return None;
    }
    let rank = share * all as f64;
    let (mut bound_below, mut count_below) = (0.0, 0);
    for &(bound, count) in buckets {
        if count > count_below && count as f64 >= rank {
            if bound.is_infinite() {
                break;
            }
            let within = (rank - count_below as f64) / (count - count_below) as f64;
            return Some(bound_below + (bound - bound_below) * within.clamp(0.0, 1.0));
        }
        if bound.is_finite() {
            bound_below = bound;
        }
        count_below = count;
    }
    // The last bucket has no upper bound, so its lower bound is all that is known.
    Some(bound_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn counted(allowed: u64, denied: u64) -> Sample {
        let mut outcomes = BTreeMap::from([("allowed".to_owned(), allowed)]);
        if denied > 0 {
            outcomes.insert("invalid_api_key".to_owned(), denied);
        }
        Sample {
            outcomes,
            overhead: vec![(0.1, allowed), (0.2, allowed), (f64::INFINITY, allowed)],
        }
    }

    /// The minutes in which something happened, by their place from the running one back.
    fn busy(history: &History, now: i64) -> Vec<(i64, u64, u64)> {
        let minutes = history.minutes(at(now));
        assert_eq!(minutes.len(), 60);
        assert_eq!(minutes[59].at, at(now.div_euclid(60) * 60));
        assert!(
            minutes
                .windows(2)
                .all(|pair| pair[0].at.plus(60) == pair[1].at)
        );
        let count = |minute: &Minute, outcome| minute.outcomes.get(outcome).copied().unwrap_or(0);
        (0..)
            .zip(minutes.iter().rev())
            .filter(|(_, minute)| !minute.outcomes.is_empty())
            .map(|(back, minute)| {
                (
                    back,
                    count(minute, "allowed"),
                    count(minute, "invalid_api_key"),
                )
            })
            .collect()
    }

    #[test]
    fn growth_belongs_to_the_minute_in_which_it_was_seen() {
        let mut history = History::default();
        assert_eq!(busy(&history, 0), []);
        history.record(at(600), counted(3, 0));
        history.record(at(659), counted(5, 1));
        assert_eq!(busy(&history, 659), [(0, 5, 1)]);
        history.record(at(660), counted(5, 1));
        assert_eq!(busy(&history, 660), [(1, 5, 1)]);
        history.record(at(725), counted(6, 1));
        assert_eq!(busy(&history, 725), [(0, 1, 0), (2, 5, 1)]);
        assert_eq!(
            history.minutes(at(725))[59].outcomes.len(),
            1,
            "what did not happen is not listed"
        );
    }

    #[test]
    fn what_is_older_than_an_hour_is_forgotten() {
        let mut history = History::default();
        history.record(at(0), counted(1, 0));
        assert_eq!(busy(&history, 59 * 60 + 59), [(59, 1, 0)]);
        assert_eq!(busy(&history, 60 * 60), []);
        assert_eq!(history.overhead(at(60 * 60), 0.5), None);
        history.record(at(60 * 60), counted(2, 0));
        assert_eq!(busy(&history, 60 * 60), [(0, 1, 0)]);
        history.record(at(1_000_000), counted(4, 0));
        assert_eq!(busy(&history, 1_000_000), [(0, 2, 0)]);
        assert_eq!(history.minutes.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_minutes_of_the_future() {
        let mut history = History::default();
        history.record(at(7200), counted(4, 0));
        history.record(at(3600), counted(5, 0));
        assert_eq!(busy(&history, 3600), [(0, 1, 0)]);
        assert_eq!(
            busy(&history, 7200),
            [],
            "the first four were of a time that did not come"
        );
    }

    #[test]
    fn overhead_is_read_off_the_hours_own_buckets() {
        let mut history = History::default();
        history.record(at(0), counted(10, 0));
        assert_eq!(history.overhead(at(0), 0.5), Some(0.05));
        history.record(at(7200), counted(10, 0));
        assert_eq!(history.overhead(at(7200), 0.5), None);
    }

    #[test]
    fn a_share_is_interpolated_within_its_bucket() {
        let none = f64::INFINITY;
        let close = |buckets: &[(f64, u64)], share, expected: f64| {
            let found = quantile(buckets, share).unwrap();
            assert!(
                (found - expected).abs() < 1e-12,
                "{share} of {buckets:?}: {found}"
            );
        };
        let even = [(1.0, 10), (2.0, 20), (4.0, 30), (none, 40)];
        for (share, expected) in [
            (0.0, 0.0),
            (0.125, 0.5),
            (0.25, 1.0),
            (0.5, 2.0),
            (0.625, 3.0),
            (0.75, 4.0),
            (0.99, 4.0),
            (1.0, 4.0),
        ] {
            close(&even, share, expected);
        }
        close(&[(1.0, 0), (2.0, 0), (4.0, 8), (none, 8)], 0.5, 3.0);
        close(&[(1.0, 0), (2.0, 0), (4.0, 8), (none, 8)], 0.0, 2.0);
        close(&[(1.0, 0), (2.0, 0), (none, 3)], 0.5, 2.0);
        close(&[(1.0, 1), (none, 1)], 0.99, 0.99);
        assert_eq!(quantile(&[(1.0, 0), (none, 0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
