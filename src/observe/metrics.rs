//! Counters, gauges and histograms, as Prometheus text.
//!
//! Invariant: every label value comes from a closed set: a code, an upstream or replica of the config, a status.
//! Nothing a client sends becomes a label.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::observe::tally::{Tallies, Tally, lock};

/// All metrics of one process. Cloning shares them, and the tally that is counted on.
#[derive(Clone, Debug)]
pub struct Metrics {
    families: Arc<Families>,
    tally: Arc<Mutex<Tally>>,
}

#[derive(Debug)]
struct Families {
    registry: Registry,
    tallies: Tallies,
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
            tallies: Tallies::new()?,
            connections: gauge("keygate_connections", "Client connections open.")?,
            keys: gauge("keygate_keys", "Keys in the table.")?,
            generation: gauge(
                "keygate_generation",
                "Grows with every change of the table.",
            )?,
            reloads: counters("keygate_reloads_total", "Reloads by result.", &["result"])?,
            last_reload: gauge(
                "keygate_last_reload_timestamp_seconds",
                "When the table was last loaded from its file.",
            )?,
            upstream_up: IntGaugeVec::new(
                Opts::new(
                    "keygate_upstream_up",
                    "1 while a replica takes requests, 0 while it is set aside.",
                ),
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
        let all: [Box<dyn Collector>; 10] = [
            Box::new(build),
            Box::new(families.tallies.clone()),
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
        let tally = families.tallies.add();
        let families = Arc::new(families);
        Ok(Self { families, tally })
    }

    /// The same metrics with a tally of its own, for a thread that counts much.
    #[must_use]
    pub fn with_own_tally(&self) -> Self {
        Self {
            families: Arc::clone(&self.families),
            tally: self.families.tallies.add(),
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        lock(&self.tally).in_flight += 1;
    }

    /// A request that began has ended, so, after so many seconds.
    pub fn end(&self, outcome: &'static str, seconds: f64) {
        let mut tally = lock(&self.tally);
        tally.in_flight -= 1;
        tally.request(outcome, seconds);
    }

    /// Counts the head of an upstream's answer, which came so long after the request's head, and the gateway's own time
    /// on the request.
    pub fn response(&self, upstream: &str, status: u16, first_byte: Duration, overhead: Duration) {
        let mut tally = lock(&self.tally);
        tally.response(upstream, status, first_byte.as_secs_f64());
        tally.overhead_seconds.note(overhead.as_secs_f64());
    }

    /// How many requests ended by now, by outcome.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let outcomes = self.families.tallies.sum().outcomes.into_iter();
        outcomes
            .map(|(outcome, count)| (outcome.to_owned(), count))
            .collect()
    }

    /// How many requests took up to each of these seconds of the gateway's own time, by now. Cumulative; the last
    /// bucket has no bound.
    #[must_use]
    pub fn overhead_buckets(&self) -> Vec<(f64, u64)> {
        self.families.tallies.sum().overhead_seconds.cumulative()
    }

    /// Requests being served.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.families.tallies.sum().in_flight
    }

    /// Client connections open.
    #[must_use]
    pub fn connections(&self) -> &IntGauge {
        &self.families.connections
    }

    /// The table's size and generation.
    pub fn table(&self, keys: usize, generation: u64) {
        self.families
            .keys
            .set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.families
            .generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Counts a reload by its result: ok, faulty, dropped or failed.
    pub fn reload(&self, result: &'static str) {
        self.families.reloads.with_label_values(&[result]).inc();
    }

    /// When the table was last loaded, in seconds since 1970.
    pub fn last_reload(&self, at: i64) {
        self.families.last_reload.set(at);
    }

    /// Whether a replica takes requests.
    pub fn upstream_up(&self, upstream: &str, replica: &str, up: bool) {
        self.families
            .upstream_up
            .with_label_values(&[upstream, replica])
            .set(i64::from(up));
    }

    /// A replica is no longer in the config.
    pub fn forget_replica(&self, upstream: &str, replica: &str) {
        // It is not there when it was never asked about: nothing to forget then.
        drop(
            self.families
                .upstream_up
                .remove_label_values(&[upstream, replica]),
        );
    }

    /// Deletes and disables that the key file does not hold yet.
    pub fn unwritten_changes(&self, count: usize) {
        self.families
            .unwritten_changes
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts log lines that were given up.
    #[must_use]
    pub fn log_lines_dropped(&self) -> &IntCounter {
        &self.families.log_lines_dropped
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail; what the encoder refuses is an empty metric family, which is left out.
        drop(TextEncoder::new().encode(&self.families.registry.gather(), &mut text));
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
        let own = metrics.with_own_tally();
        for (metrics, outcome) in [
            (&metrics, "allowed"),
            (&own, "allowed"),
            (&own, "ip_not_authorized"),
        ] {
            metrics.begin();
            metrics.end(outcome, 0.1);
        }
        own.begin();
        assert_eq!(metrics.in_flight(), 1);
        let outcomes = [("allowed", 2), ("ip_not_authorized", 1)];
        let outcomes = outcomes.map(|(outcome, count)| (outcome.to_owned(), count));
        assert_eq!(metrics.outcomes(), outcomes.into());
        for micros in [7, 20, 20, 9_000_000] {
            let overhead = Duration::from_micros(micros);
            metrics.response("llama", 200, Duration::from_secs(1), overhead);
        }
        let buckets = metrics.overhead_buckets();
        assert_eq!(buckets.len(), 15);
        assert_eq!(
            buckets[..3],
            [(0.000_005, 0), (0.000_01, 1), (0.000_025, 3)]
        );
        assert_eq!(buckets[14], (f64::INFINITY, 4));
    }

    #[test]
    fn every_metric_is_rendered_under_its_published_name() {
        let metrics = Metrics::new().unwrap();
        metrics.begin();
        metrics.end("allowed", 0.1);
        let first_byte = Duration::from_millis(100);
        metrics.response("llama", 200, first_byte, Duration::from_micros(10));
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
