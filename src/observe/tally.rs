//! What requests count. Each worker counts on a tally of its own, so that cores never wait for each other's counters;
//! whoever reads adds the tallies up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// Seconds of whole requests and first bytes: from a refusal's microseconds to a long answer's minutes.
const REQUEST_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Seconds of the gateway's own work on a request.
const OVERHEAD_BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005,
    0.01, 0.05, 0.1, 0.5,
];

/// The counters of one worker, or of all of them.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) in_flight: i64,
    /// Requests that ended, by outcome.
    pub(super) outcomes: Vec<(&'static str, u64)>,
    pub(super) request_seconds: Spread,
    pub(super) overhead_seconds: Spread,
    upstreams: Vec<OfUpstream>,
}

/// The answers of one upstream.
#[derive(Clone, Debug)]
struct OfUpstream {
    name: Box<str>,
    statuses: Vec<(u16, u64)>,
    first_byte_seconds: Spread,
}

/// How many measurements were how large.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    bounds: &'static [f64],
    /// One for each bound, and one for what is larger than all.
    counts: Vec<u64>,
    sum: f64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            in_flight: 0,
            // Present from the first scrape on, so that an alert on its increase sees the first one.
            outcomes: vec![("allowed", 0)],
            request_seconds: Spread::over(REQUEST_BUCKETS),
            overhead_seconds: Spread::over(OVERHEAD_BUCKETS),
            upstreams: Vec::new(),
        }
    }
}

impl Tally {
    pub(super) fn request(&mut self, outcome: &'static str, seconds: f64) {
        *counter(&mut self.outcomes, outcome) += 1;
        self.request_seconds.note(seconds);
    }

    pub(super) fn response(&mut self, upstream: &str, status: u16, first_byte_seconds: f64) {
        let upstream = self.upstream(upstream);
        *counter(&mut upstream.statuses, status) += 1;
        upstream.first_byte_seconds.note(first_byte_seconds);
    }

    fn upstream(&mut self, name: &str) -> &mut OfUpstream {
        let known = self.upstreams.iter().position(|known| *known.name == *name);
        let place = known.unwrap_or(self.upstreams.len());
        if known.is_none() {
            self.upstreams.push(OfUpstream {
                name: name.into(),
                statuses: Vec::new(),
                first_byte_seconds: Spread::over(REQUEST_BUCKETS),
            });
        }
        &mut self.upstreams[place]
    }

    fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        for (outcome, count) in &other.outcomes {
            *counter(&mut self.outcomes, *outcome) += count;
        }
        self.request_seconds.add(&other.request_seconds);
        self.overhead_seconds.add(&other.overhead_seconds);
        for other in &other.upstreams {
            let upstream = self.upstream(&other.name);
            for (status, count) in &other.statuses {
                *counter(&mut upstream.statuses, *status) += count;
            }
            upstream.first_byte_seconds.add(&other.first_byte_seconds);
        }
    }
}

/// The counter of this name, which is one of a few.
fn counter<N: Copy + PartialEq>(counters: &mut Vec<(N, u64)>, name: N) -> &mut u64 {
    let known = counters.iter().position(|(known, _)| *known == name);
    let place = known.unwrap_or(counters.len());
    if known.is_none() {
        counters.push((name, 0));
    }
    &mut counters[place].1
}

impl Spread {
    fn over(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn note(&mut self, seconds: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// For each bound, the last of which is infinite, how many measurements were not larger.
    pub(super) fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().scan(0, |before, count| {
            *before += count;
            Some(*before)
        });
        bounds.zip(counts).collect()
    }
}

/// The tallies of all workers. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Tallies {
    all: Arc<Mutex<Vec<Arc<Mutex<Tally>>>>>,
    families: Arc<[Desc; 6]>,
}

impl Tallies {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
        };
        let families = [
            family(
                "keygate_requests_total",
                "Requests by outcome: allowed, or the denial's code.",
                &["outcome"],
            )?,
            family(
                "keygate_responses_total",
                "Answers of upstreams by status.",
                &["upstream", "status"],
            )?,
            family(
                "keygate_request_seconds",
                "From a request's head to the last byte of its answer.",
                &[],
            )?,
            family(
                "keygate_first_byte_seconds",
                "From a request's head to the head of its upstream's answer.",
                &["upstream"],
            )?,
            family(
                "keygate_overhead_seconds",
                "From a request's last byte to its head being handed to the upstream, without connecting.",
                &[],
            )?,
            family(
                "keygate_in_flight",
                "Requests being served, streams included.",
                &[],
            )?,
        ];
        Ok(Self {
            all: Arc::default(),
            families: Arc::new(families),
        })
    }

    /// One more tally, all zero.
    pub(super) fn add(&self) -> Arc<Mutex<Tally>> {
        let tally = Arc::default();
        lock(&self.all).push(Arc::clone(&tally));
        tally
    }

    pub(super) fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in lock(&self.all).iter() {
            sum.add(&lock(tally));
        }
        sum
    }
}

impl Collector for Tallies {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sum = self.sum();
        let [
            requests,
            responses,
            request_seconds,
            first_byte,
            overhead,
            in_flight,
        ] = &*self.families;
        let outcomes = sum.outcomes.iter();
        let statuses = |upstream: &OfUpstream| {
            let name = upstream.name.clone();
            let statuses = upstream.statuses.clone().into_iter();
            statuses.map(move |(status, count)| {
                let status = status.to_string();
                counted(&[("status", &status), ("upstream", &name)], count)
            })
        };
        let upstreams = sum.upstreams.iter();
        let first_bytes = upstreams.clone().map(|upstream| {
            spread(
                &[("upstream", &upstream.name)],
                &upstream.first_byte_seconds,
            )
        });
        let mut now = Gauge::default();
        // Requests are counted in whole steps of one, though Prometheus' numbers are all f64.
        now.set_value(sum.in_flight as f64);
        vec![
            family(
                requests,
                MetricType::COUNTER,
                outcomes
                    .map(|(outcome, count)| counted(&[("outcome", outcome)], *count))
                    .collect(),
            ),
            family(
                responses,
                MetricType::COUNTER,
                upstreams.flat_map(statuses).collect(),
            ),
            family(
                request_seconds,
                MetricType::HISTOGRAM,
                vec![spread(&[], &sum.request_seconds)],
            ),
            family(first_byte, MetricType::HISTOGRAM, first_bytes.collect()),
            family(
                overhead,
                MetricType::HISTOGRAM,
                vec![spread(&[], &sum.overhead_seconds)],
            ),
            family(in_flight, MetricType::GAUGE, vec![Metric::from_gauge(now)]),
        ]
    }
}

fn family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labels(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

fn counted(names: &[(&str, &str)], count: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels(names));
    metric.set_counter(counter);
    metric
}

fn spread(names: &[(&str, &str)], spread: &Spread) -> Metric {
    let mut buckets = spread.cumulative();
    // The one without a bound is written from the count of all.
    let all = buckets.pop().map_or(0, |(_, count)| count);
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.into_iter().map(bucket).collect());
    histogram.set_sample_count(all);
    histogram.set_sample_sum(spread.sum);
    let mut metric = Metric::from_label(labels(names));
    metric.set_histogram(histogram);
    metric
}

/// A tally is right, or one short, where a thread panicked while it held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_counted_apart_is_added_up() {
        let tallies = Tallies::new().unwrap();
        let (one, other) = (tallies.add(), tallies.add());
        lock(&one).request("allowed", 0.002);
        lock(&one).response("llama", 200, 0.5);
        lock(&other).request("expired_api_key", 1000.0);
        lock(&other).request("allowed", 0.001);
        lock(&other).response("llama", 200, 0.5);
        lock(&other).response("llama", 500, 0.5);
        lock(&other).response("whisper", 200, 0.5);
        lock(&one).in_flight += 3;
        lock(&other).in_flight -= 1;
        let sum = tallies.sum();
        assert_eq!(sum.in_flight, 2);
        assert_eq!(sum.outcomes, [("allowed", 2), ("expired_api_key", 1)]);
        let cumulative = sum.request_seconds.cumulative();
        // A measurement that is a bound's own is not larger.
        assert_eq!(cumulative[..2], [(0.001, 1), (0.005, 2)]);
        assert_eq!(cumulative[16..], [(600.0, 2), (f64::INFINITY, 3)]);
        let statuses = sum.upstreams.iter().map(|upstream| &upstream.statuses[..]);
        let expected: [&[(u16, u64)]; 2] = [&[(200, 2), (500, 1)], &[(200, 1)]];
        assert!(statuses.eq(expected));
        assert_eq!(sum.upstreams[0].first_byte_seconds.counts[7], 3);
    }
}
