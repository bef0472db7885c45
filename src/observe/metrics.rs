//! Counters, gauges and histograms, as Prometheus text.
//!
//! Invariant: every label value comes from a closed set: a code, an upstream or replica of the config, a status.
//! Nothing a client sends becomes a label.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::proto::Metric;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
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

/// All metrics of one process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: Registry,
    requests: IntCounterVec,
    responses: IntCounterVec,
    request_seconds: Histogram,
    first_byte_seconds: HistogramVec,
    overhead_seconds: Histogram,
    in_flight: IntGauge,
    connections: IntGauge,
    keys: IntGauge,
    generation: IntGauge,
    reloads: IntCounterVec,
    last_reload: IntGauge,
    upstream_up: IntGaugeVec,
    unwritten_changes: IntGauge,
    log_lines_dropped: IntCounter,
}

impl Metrics {
    /// # Errors
    /// Where two metrics have one name, which only a change of this file can bring about.
    pub fn new() -> Result<Self, prometheus::Error> {
        let families = Families {
            registry: Registry::new(),
            requests: counters("keygate_requests_total", "Requests by outcome: allowed, or the denial's code.", &["outcome"])?,
            responses: counters(
                "keygate_responses_total",
                "Answers of upstreams by status.",
                &["upstream", "status"],
            )?,
            request_seconds: Histogram::with_opts(
                HistogramOpts::new("keygate_request_seconds", "From a request's head to the last byte of its answer.")
                    .buckets(REQUEST_BUCKETS.to_vec()),
            )?,
            first_byte_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "keygate_first_byte_seconds",
                    "From a request's head to the head of its upstream's answer.",
                )
                .buckets(REQUEST_BUCKETS.to_vec()),
                &["upstream"],
            )?,
            overhead_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "keygate_overhead_seconds",
                    "From a request's last byte to its head being handed to the upstream, without connecting.",
                )
                .buckets(OVERHEAD_BUCKETS.to_vec()),
            )?,
            in_flight: gauge("keygate_in_flight", "Requests being served, streams included.")?,
            connections: gauge("keygate_connections", "Client connections open.")?,
            keys: gauge("keygate_keys", "Keys in the table.")?,
            generation: gauge("keygate_generation", "Grows with every change of the table.")?,
            reloads: counters("keygate_reloads_total", "Reloads by result.", &["result"])?,
            last_reload: gauge("keygate_last_reload_timestamp_seconds", "When the table was last loaded from its file.")?,
            upstream_up: IntGaugeVec::new(
                Opts::new("keygate_upstream_up", "1 while a replica takes requests, 0 while it is set aside."),
                &["upstream", "replica"],
            )?,
            unwritten_changes: gauge(
                "keygate_unwritten_changes",
                "Deletes and disables in force that the key file does not hold yet.",
            )?,
            log_lines_dropped: IntCounter::new(
                "keygate_log_lines_dropped_total",
                "Log lines given up because standard error was too slow.",
            )?,
        };
        let build = IntGaugeVec::new(
            Opts::new("keygate_build_info", "The version that runs."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn Collector>; 15] = [
            Box::new(build),
            Box::new(families.requests.clone()),
            Box::new(families.responses.clone()),
            Box::new(families.request_seconds.clone()),
            Box::new(families.first_byte_seconds.clone()),
            Box::new(families.overhead_seconds.clone()),
            Box::new(families.in_flight.clone()),
            Box::new(families.connections.clone()),
            Box::new(families.keys.clone()),
            Box::new(families.generation.clone()),
            Box::new(families.reloads.clone()),
            Box::new(families.last_reload.clone()),
            Box::new(families.upstream_up.clone()),
            Box::new(families.unwritten_changes.clone()),
            Box::new(families.log_lines_dropped.clone()),
        ];
        for collector in all {
            families.registry.register(collector)?;
        }
        // Present from the first scrape on, so that an alert on their increase sees the first one.
        for result in ["ok", "faulty", "dropped", "failed"] {
            families.reloads.with_label_values(&[result]);
        }
        families.requests.with_label_values(&["allowed"]);
        Ok(Self(Arc::new(families)))
    }

    /// Counts a request that ended.
    pub fn request(&self, outcome: &'static str, seconds: f64) {
        self.0.requests.with_label_values(&[outcome]).inc();
        self.0.request_seconds.observe(seconds);
    }

    /// Counts the head of an upstream's answer.
    pub fn response(&self, upstream: &str, status: &str, first_byte_seconds: f64) {
        self.0
            .responses
            .with_label_values(&[upstream, status])
            .inc();
        self.0
            .first_byte_seconds
            .with_label_values(&[upstream])
            .observe(first_byte_seconds);
    }

    /// Notes the gateway's own time on a request.
    pub fn overhead(&self, seconds: f64) {
        self.0.overhead_seconds.observe(seconds);
    }

    /// How many requests ended by now, by outcome.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let families = self.0.requests.collect();
        let counters = families.iter().flat_map(|family| family.get_metric());
        let outcome = |counter: &Metric| {
            let label = counter.get_label().first()?;
            // Counted in whole steps of one, though Prometheus' numbers are all f64.
            Some((
                label.value().to_owned(),
                counter.get_counter().get_value() as u64,
            ))
        };
        counters.filter_map(outcome).collect()
    }

    /// How many requests took up to each of these seconds of the gateway's own time, by now. Cumulative; the last
    /// bucket has no bound.
    #[must_use]
    pub fn overhead_buckets(&self) -> Vec<(f64, u64)> {
        let families = self.0.overhead_seconds.collect();
        let histograms = families.iter().flat_map(|family| family.get_metric());
        let mut buckets = Vec::new();
        for histogram in histograms.map(Metric::get_histogram) {
            let bounded = histogram.get_bucket().iter();
            buckets.extend(bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())));
            buckets.push((f64::INFINITY, histogram.get_sample_count()));
        }
        buckets
    }

    /// Requests being served.
    #[must_use]
    pub fn in_flight(&self) -> &IntGauge {
        &self.0.in_flight
    }

    /// Client connections open.
    #[must_use]
    pub fn connections(&self) -> &IntGauge {
        &self.0.connections
    }

    /// The table's size and generation.
    pub fn table(&self, keys: usize, generation: u64) {
        self.0.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.0
            .generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Counts a reload by its result: ok, faulty, dropped or failed.
    pub fn reload(&self, result: &'static str) {
        self.0.reloads.with_label_values(&[result]).inc();
    }

    /// When the table was last loaded, in seconds since 1970.
    pub fn last_reload(&self, at: i64) {
        self.0.last_reload.set(at);
    }

    /// Whether a replica takes requests.
    pub fn upstream_up(&self, upstream: &str, replica: &str, up: bool) {
        self.0
            .upstream_up
            .with_label_values(&[upstream, replica])
            .set(i64::from(up));
    }

    /// A replica is no longer in the config.
    pub fn forget_replica(&self, upstream: &str, replica: &str) {
        // It is not there when it was never asked about: nothing to forget then.
        drop(self.0.upstream_up.remove_label_values(&[upstream, replica]));
    }

    /// Deletes and disables that the key file does not hold yet.
    pub fn unwritten_changes(&self, count: usize) {
        self.0
            .unwritten_changes
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts log lines that were given up.
    #[must_use]
    pub fn log_lines_dropped(&self) -> &IntCounter {
        &self.0.log_lines_dropped
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail; what the encoder refuses is an empty metric family, which is left out.
        drop(TextEncoder::new().encode(&self.0.registry.gather(), &mut text));
        text
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    IntGauge::new(name, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_can_be_read_again() {
        let metrics = Metrics::new().unwrap();
        metrics.request("allowed", 0.1);
        metrics.request("allowed", 0.1);
        metrics.request("ip_not_authorized", 0.1);
        let outcomes = [("allowed", 2), ("ip_not_authorized", 1)];
        let outcomes = outcomes.map(|(outcome, count)| (outcome.to_owned(), count));
        assert_eq!(metrics.outcomes(), outcomes.into());
        for seconds in [0.000_007, 0.000_02, 0.000_02, 9.0] {
            metrics.overhead(seconds);
        }
        let buckets = metrics.overhead_buckets();
        assert_eq!(buckets.len(), OVERHEAD_BUCKETS.len() + 1);
        assert_eq!(
            buckets[..3],
            [(0.000_005, 0), (0.000_01, 1), (0.000_025, 3)]
        );
        assert_eq!(buckets[14], (f64::INFINITY, 4));
    }

    #[test]
    fn every_metric_is_rendered_under_its_published_name() {
        let metrics = Metrics::new().unwrap();
        metrics.request("allowed", 0.1);
        metrics.response("llama", "200", 0.1);
        metrics.overhead(0.000_01);
        metrics.upstream_up("llama", "http://127.0.0.1:8000", true);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "keygate_requests_total{outcome=\"allowed\"} 1",
            "keygate_responses_total{status=\"200\",upstream=\"llama\"} 1",
            "keygate_request_seconds_count 1",
            "keygate_first_byte_seconds_count{upstream=\"llama\"} 1",
            "keygate_overhead_seconds_count 1",
            "keygate_in_flight 0",
            "keygate_connections 0",
            "keygate_keys 0",
            "keygate_generation 0",
            "keygate_reloads_total{result=\"faulty\"} 0",
            "keygate_last_reload_timestamp_seconds 0",
            "keygate_upstream_up{replica=\"http://127.0.0.1:8000\",upstream=\"llama\"} 1",
            "keygate_unwritten_changes 0",
            "keygate_log_lines_dropped_total 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        metrics.forget_replica("llama", "http://127.0.0.1:8000");
        assert!(
            !String::from_utf8(metrics.render())
                .unwrap()
                .contains("keygate_upstream_up{")
        );
    }
}
