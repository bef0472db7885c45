//! The counters that every request changes. Each worker has its own, so cores do not wait for each other; a reader adds
//! them up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::observe::lock::lock;
use crate::policy::usage::{Certainty, RequestCounts};

/// Bucket bounds for whole requests and first bytes, in seconds.
const REQUEST_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Bucket bounds for the gateway's own time on a request, in seconds.
const OVERHEAD_BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005,
    0.01, 0.05, 0.1, 0.5,
];

/// The counters of one worker, or the sum over all workers.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub(super) in_flight: i64,
    /// Requests that ended, by outcome.
    pub(super) outcomes: Vec<(&'static str, u64)>,
    pub(super) request_seconds: Histogram,
    pub(super) overhead_seconds: Histogram,
    upstreams: Vec<UpstreamCounters>,
    /// Usage records: of exact counts, of counts that are at least so high, and of unknown counts.
    usage_records: [u64; 3],
    /// By model of the catalogue: input, cached input, output, reasoning.
    tokens: HashMap<Box<str>, [u64; 4]>,
}

/// The kinds of tokens, as labels.
const TOKEN_KINDS: [&str; 4] = ["input", "input_cached", "output", "reasoning"];
const CERTAINTIES: [Certainty; 3] = [Certainty::Exact, Certainty::AtLeast, Certainty::Unknown];

/// The responses of one upstream.
#[derive(Clone, Debug)]
struct UpstreamCounters {
    name: Box<str>,
    statuses: Vec<(u16, u64)>,
    first_byte_seconds: Histogram,
}

/// Counts measurements by size.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// One per bound, and one for measurements above the last bound.
    counts: Vec<u64>,
    sum: f64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            in_flight: 0,
            // Present in the first scrape, so that an alert on its increase sees the first request.
            outcomes: vec![("allowed", 0)],
            request_seconds: Histogram::new(REQUEST_BUCKETS),
            overhead_seconds: Histogram::new(OVERHEAD_BUCKETS),
            upstreams: Vec::new(),
            usage_records: [0; 3],
            tokens: HashMap::new(),
        }
    }
}

impl Counters {
    pub(super) fn request(&mut self, outcome: &'static str, seconds: f64) {
        *counter(&mut self.outcomes, outcome) += 1;
        self.request_seconds.observe(seconds);
    }

    pub(super) fn response(&mut self, upstream: &str, status: u16, first_byte_seconds: f64) {
        let upstream = self.upstream(upstream);
        *counter(&mut upstream.statuses, status) += 1;
        upstream.first_byte_seconds.observe(first_byte_seconds);
    }

    pub(super) fn usage(&mut self, model: &str, counts: &RequestCounts) {
        let place = match counts.certainty {
            Certainty::Exact => 0,
            Certainty::AtLeast => 1,
            Certainty::Unknown => 2,
        };
        self.usage_records[place] += 1;
        if !counts.any_known() {
            return;
        }
        let used = [
            counts.input,
            counts.input_cached,
            counts.output,
            counts.output_reasoning,
        ];
        self.add_tokens(model, &used.map(Option::unwrap_or_default));
    }

    fn add_tokens(&mut self, model: &str, used: &[u64; 4]) {
        match self.tokens.get_mut(model) {
            Some(tokens) => add_each(tokens, used),
            None => {
                self.tokens.insert(model.into(), *used);
            }
        }
    }

    fn upstream(&mut self, name: &str) -> &mut UpstreamCounters {
        let known = self.upstreams.iter().position(|known| *known.name == *name);
        let place = known.unwrap_or(self.upstreams.len());
        if known.is_none() {
            self.upstreams.push(UpstreamCounters {
                name: name.into(),
                statuses: Vec::new(),
                first_byte_seconds: Histogram::new(REQUEST_BUCKETS),
            });
        }
        &mut self.upstreams[place]
    }

    fn add(&mut self, other: &Self) {
        // Destructured, so that a new counter cannot be forgotten here.
        let Self {
            in_flight,
            outcomes,
            request_seconds,
            overhead_seconds,
            upstreams,
            usage_records,
            tokens,
        } = other;
        add_each(&mut self.usage_records, usage_records);
        for (model, used) in tokens {
            self.add_tokens(model, used);
        }
        self.in_flight += in_flight;
        for (outcome, count) in outcomes {
            *counter(&mut self.outcomes, *outcome) += count;
        }
        self.request_seconds.add(request_seconds);
        self.overhead_seconds.add(overhead_seconds);
        for other in upstreams {
            let upstream = self.upstream(&other.name);
            for (status, count) in &other.statuses {
                *counter(&mut upstream.statuses, *status) += count;
            }
            upstream.first_byte_seconds.add(&other.first_byte_seconds);
        }
    }
}

/// An upstream may say any number.
fn add_each(counts: &mut [u64], more: &[u64]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count = count.saturating_add(*more);
    }
}

/// The counter with this name, made if missing. There are few, so a search is fast enough.
fn counter<N: Copy + PartialEq>(counters: &mut Vec<(N, u64)>, name: N) -> &mut u64 {
    let known = counters.iter().position(|(known, _)| *known == name);
    let place = known.unwrap_or(counters.len());
    if known.is_none() {
        counters.push((name, 0));
    }
    &mut counters[place].1
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, seconds: f64) {
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

    /// The cumulative counts: for each bound the number of measurements up to it. The last bound is infinite.
    pub(super) fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().scan(0, |before, count| {
            *before += count;
            Some(*before)
        });
        bounds.zip(counts).collect()
    }
}

/// The counters of all workers. A clone shares them.
#[derive(Clone, Debug)]
pub(super) struct WorkerCounters {
    all: Arc<Mutex<Vec<Arc<Mutex<Counters>>>>>,
    families: Arc<[Desc; 8]>,
}

impl WorkerCounters {
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
            family(
                "keygate_tokens_total",
                "Tokens as upstreams count them; input includes cached, output includes reasoning.",
                &["model", "kind"],
            )?,
            family(
                "keygate_usage_records_total",
                "Requests that passed all checks, by how certain their counts are.",
                &["certainty"],
            )?,
        ];
        Ok(Self {
            all: Arc::default(),
            families: Arc::new(families),
        })
    }

    /// Adds counters for one more worker.
    pub(super) fn add(&self) -> Arc<Mutex<Counters>> {
        let counters = Arc::default();
        lock(&self.all).push(Arc::clone(&counters));
        counters
    }

    pub(super) fn sum(&self) -> Counters {
        let mut sum = Counters::default();
        for counters in lock(&self.all).iter() {
            sum.add(&lock(counters));
        }
        sum
    }
}

impl Collector for WorkerCounters {
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
            tokens,
            usage_records,
        ] = &*self.families;
        let certainties = CERTAINTIES.iter().zip(sum.usage_records);
        let used = sum.tokens.iter().flat_map(|(model, used)| {
            let kinds = TOKEN_KINDS.iter().zip(used);
            kinds.map(move |(kind, count)| counted(&[("kind", kind), ("model", model)], *count))
        });
        let outcomes = sum.outcomes.iter();
        let statuses = |upstream: &UpstreamCounters| {
            let name = upstream.name.clone();
            let statuses = upstream.statuses.clone().into_iter();
            statuses.map(move |(status, count)| {
                let status = status.to_string();
                counted(&[("status", &status), ("upstream", &name)], count)
            })
        };
        let upstreams = sum.upstreams.iter();
        let first_bytes = upstreams.clone().map(|upstream| {
            histogram_metric(
                &[("upstream", &upstream.name)],
                &upstream.first_byte_seconds,
            )
        });
        let mut now = Gauge::default();
        // Prometheus' numbers are all f64.
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
                vec![histogram_metric(&[], &sum.request_seconds)],
            ),
            family(first_byte, MetricType::HISTOGRAM, first_bytes.collect()),
            family(
                overhead,
                MetricType::HISTOGRAM,
                vec![histogram_metric(&[], &sum.overhead_seconds)],
            ),
            family(in_flight, MetricType::GAUGE, vec![Metric::from_gauge(now)]),
            family(tokens, MetricType::COUNTER, used.collect()),
            family(
                usage_records,
                MetricType::COUNTER,
                certainties
                    .map(|(certainty, count)| counted(&[("certainty", certainty.label())], count))
                    .collect(),
            ),
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

fn histogram_metric(names: &[(&str, &str)], histogram: &Histogram) -> Metric {
    let mut buckets = histogram.cumulative();
    // The encoder writes the bucket without a bound from the total count.
    let all = buckets.pop().map_or(0, |(_, count)| count);
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut encoded = proto::Histogram::default();
    encoded.set_bucket(buckets.into_iter().map(bucket).collect());
    encoded.set_sample_count(all);
    encoded.set_sample_sum(histogram.sum);
    let mut metric = Metric::from_label(labels(names));
    metric.set_histogram(encoded);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_all_workers_are_added_up() {
        let workers = WorkerCounters::new().unwrap();
        let (one, other) = (workers.add(), workers.add());
        lock(&one).request("allowed", 0.002);
        lock(&one).response("llama", 200, 0.5);
        lock(&other).request("expired_api_key", 1000.0);
        lock(&other).request("allowed", 0.001);
        lock(&other).response("llama", 200, 0.5);
        lock(&other).response("llama", 500, 0.5);
        lock(&other).response("whisper", 200, 0.5);
        let counts = RequestCounts {
            input: Some(5),
            output: Some(u64::MAX),
            certainty: Certainty::AtLeast,
            ..RequestCounts::UNKNOWN
        };
        lock(&one).usage("m", &counts);
        lock(&other).usage("m", &counts);
        lock(&other).usage("m", &RequestCounts::UNKNOWN);
        lock(&one).in_flight += 3;
        lock(&other).in_flight -= 1;
        let sum = workers.sum();
        assert_eq!(sum.in_flight, 2);
        assert_eq!(sum.usage_records, [0, 2, 1]);
        assert_eq!(sum.tokens["m"], [10, 0, u64::MAX, 0]);
        assert_eq!(sum.outcomes, [("allowed", 2), ("expired_api_key", 1)]);
        let cumulative = sum.request_seconds.cumulative();
        // A measurement equal to a bound belongs to its bucket.
        assert_eq!(cumulative[..2], [(0.001, 1), (0.005, 2)]);
        assert_eq!(cumulative[16..], [(600.0, 2), (f64::INFINITY, 3)]);
        let statuses = sum.upstreams.iter().map(|upstream| &upstream.statuses[..]);
        let expected: [&[(u16, u64)]; 2] = [&[(200, 2), (500, 1)], &[(200, 1)]];
        assert!(statuses.eq(expected));
        assert_eq!(sum.upstreams[0].first_byte_seconds.counts[7], 3);
    }
}
