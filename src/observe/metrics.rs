//! The metrics, as Prometheus text.
//!
//! Invariant: every label value comes from a closed set: an error code, an upstream or replica of the config, a model of
//! the catalogue, a status.
//! Nothing that a client sends becomes a label.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::observe::counters::{Counters, WorkerCounters};
use crate::observe::lock::lock;
use crate::policy::usage::RequestCounts;

/// All metrics of the process. A clone shares them, and counts on the same counters.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    families: Arc<MetricFamilies>,
    counters: Arc<Mutex<Counters>>,
}

#[derive(Debug)]
struct MetricFamilies {
    registry: Registry,
    workers: WorkerCounters,
    connections: IntGauge,
    keys: IntGauge,
    generation: IntGauge,
    reloads: IntCounterVec,
    last_reload: IntGauge,
    upstream_up: IntGaugeVec,
    budget_used: GaugeVec,
    model_clashes: IntGauge,
    unwritten_changes: IntGauge,
    log_lines_dropped: IntCounter,
    alerts: IntCounterVec,
    alerts_pending: IntGauge,
    sign_ins: IntCounterVec,
    database: DatabaseMetrics,
    shared_database: SharedDatabaseMetrics,
    /// What [`Metrics::fleet_lag`] was told last.
    fleet_lag: Mutex<Option<f64>>,
    shared_limits: SharedLimitMetrics,
}

/// The metrics of the database. They are rendered only where there is one.
#[derive(Debug)]
struct DatabaseMetrics {
    up: IntGauge,
    waiting_bytes: IntGauge,
    records_dropped: IntCounter,
    write_seconds: Histogram,
    audit_waiting: IntGauge,
    audit_lost: IntCounter,
}

/// The metrics of a database that several gateways share. Each is rendered once it has a value.
#[derive(Debug)]
struct SharedDatabaseMetrics {
    revision: IntGaugeVec,
    lag_seconds: GaugeVec,
    gateways: IntGaugeVec,
}

/// The metrics of limits that gateways share. They are rendered only where they do.
#[derive(Debug)]
struct SharedLimitMetrics {
    up: IntGauge,
    holders: IntGauge,
    seconds: Histogram,
}

impl Metrics {
    /// # Errors
    /// Two metrics have the same name: a mistake in this file.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let families = MetricFamilies {
            registry: Registry::new(),
            workers: WorkerCounters::new()?,
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
            budget_used: GaugeVec::new(
                Opts::new(
                    "keygate_key_budget_used_ratio",
                    "How much of a key's fullest budget is used, from 0 on; of the 50 keys with the fullest.",
                ),
                &["key"],
            )?,
            upstream_up: IntGaugeVec::new(
                Opts::new(
                    "keygate_upstream_up",
                    "1 while a replica takes requests, 0 while it is set aside.",
                ),
                &["upstream", "replica"],
            )?,
            model_clashes: gauge(
                "keygate_model_clashes",
                "Models that two upstreams name; the log says which upstream gets their requests.",
            )?,
            unwritten_changes: gauge(
                "keygate_unwritten_changes",
                "Deletes, disables and ends of previous tokens in force that the key file does not hold yet.",
            )?,
            log_lines_dropped: IntCounter::new(
                "keygate_log_lines_dropped_total",
                "Log lines given up because standard error was too slow.",
            )?,
            alerts: counters(
                "keygate_alerts_total",
                "Attempts to deliver an alert, and alerts given up or dropped, by result.",
                &["result"],
            )?,
            alerts_pending: gauge(
                "keygate_alerts_pending",
                "Alerts that wait to be delivered.",
            )?,
            sign_ins: counters(
                "keygate_sign_ins_total",
                "Sign-ins to the panel by way and result: ok, or the code of the refusal.",
                &["way", "result"],
            )?,
            database: DatabaseMetrics {
                up: gauge(
                    "keygate_database_up",
                    "1 while the database can be written, 0 while usage waits.",
                )?,
                waiting_bytes: gauge(
                    "keygate_usage_waiting_bytes",
                    "Bytes of usage that wait for the database, in memory and in the spool.",
                )?,
                records_dropped: IntCounter::new(
                    "keygate_usage_records_dropped_total",
                    "Single usage records given up because too many waited for the database; their sums are kept.",
                )?,
                write_seconds: Histogram::with_opts(HistogramOpts::new(
                    "keygate_database_write_seconds",
                    "The time of one transaction.",
                ))?,
                audit_waiting: gauge(
                    "keygate_audit_rows_waiting",
                    "Audit rows of changes that are in force but not in the database yet.",
                )?,
                audit_lost: IntCounter::new(
                    "keygate_audit_rows_lost_total",
                    "Audit rows given up because too many waited for the database.",
                )?,
            },
            shared_database: SharedDatabaseMetrics {
                revision: IntGaugeVec::new(
                    Opts::new(
                        "keygate_fleet_revision",
                        "The database's revision of the keys that is in force here.",
                    ),
                    &[],
                )?,
                lag_seconds: GaugeVec::new(
                    Opts::new(
                        "keygate_fleet_lag_seconds",
                        "From the commit of the last change by another gateway until it was in force here.",
                    ),
                    &[],
                )?,
                gateways: IntGaugeVec::new(
                    Opts::new(
                        "keygate_gateways",
                        "Gateways that share the database and have reported in the last 10 s.",
                    ),
                    &[],
                )?,
            },
            fleet_lag: Mutex::new(None),
            shared_limits: SharedLimitMetrics {
                up: gauge(
                    "keygate_leases_up",
                    "1 while this gateway has its leases of shared limits renewed, 0 while keys.limits_unavailable holds.",
                )?,
                holders: gauge(
                    "keygate_leases",
                    "Keys and accounts in use whose limits this gateway has leases of.",
                )?,
                seconds: Histogram::with_opts(HistogramOpts::new(
                    "keygate_lease_renewal_seconds",
                    "The time of one renewal of all leases that were due.",
                ))?,
            },
        };
        let build = IntGaugeVec::new(
            Opts::new("keygate_build_info", "The version that runs."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        // Destructured, so that a new metric cannot be forgotten here.
        let MetricFamilies {
            registry,
            workers,
            connections,
            keys,
            generation,
            reloads,
            last_reload,
            upstream_up,
            budget_used,
            model_clashes,
            unwritten_changes,
            log_lines_dropped,
            alerts,
            alerts_pending,
            sign_ins,
            database: _,
            shared_database:
                SharedDatabaseMetrics {
                    revision,
                    lag_seconds,
                    gateways,
                },
            fleet_lag: _,
            shared_limits: _,
        } = &families;
        let all: [Box<dyn Collector>; 18] = [
            Box::new(revision.clone()),
            Box::new(lag_seconds.clone()),
            Box::new(gateways.clone()),
            Box::new(sign_ins.clone()),
            Box::new(alerts.clone()),
            Box::new(alerts_pending.clone()),
            Box::new(build),
            Box::new(workers.clone()),
            Box::new(connections.clone()),
            Box::new(keys.clone()),
            Box::new(generation.clone()),
            Box::new(reloads.clone()),
            Box::new(last_reload.clone()),
            Box::new(upstream_up.clone()),
            Box::new(budget_used.clone()),
            Box::new(model_clashes.clone()),
            Box::new(unwritten_changes.clone()),
            Box::new(log_lines_dropped.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        // Present in the first scrape, so that an alert on their increase sees the first reload.
        for result in ["ok", "faulty", "dropped", "failed"] {
            families.reloads.with_label_values(&[result]);
        }
        for result in ["delivered", "failed", "given_up", "dropped"] {
            families.alerts.with_label_values(&[result]);
        }
        for way in ["token", "link", "password", "invitation", "oidc"] {
            families.sign_ins.with_label_values(&[way, "ok"]);
        }
        let counters = families.workers.add();
        let families = Arc::new(families);
        Ok(Self { families, counters })
    }

    /// The same metrics with their own counters, for a thread that counts often.
    #[must_use]
    pub(crate) fn with_own_counters(&self) -> Self {
        Self {
            families: Arc::clone(&self.families),
            counters: self.families.workers.add(),
        }
    }

    /// Counts a request that begins.
    pub(crate) fn begin(&self) {
        lock(&self.counters).in_flight += 1;
    }

    /// Counts a request that ends.
    pub(crate) fn end(&self, outcome: &'static str, seconds: f64) {
        let mut counters = lock(&self.counters);
        counters.in_flight -= 1;
        counters.request(outcome, seconds);
    }

    /// Counts the use of a request that passed all checks.
    pub(crate) fn usage(&self, model: &str, counts: &RequestCounts) {
        lock(&self.counters).usage(model, counts);
    }

    /// Counts an attempt to deliver an alert, or an alert that is given up or dropped.
    pub(crate) fn alert(&self, result: &'static str) {
        self.families.alerts.with_label_values(&[result]).inc();
    }

    /// Counts a sign-in to the panel: ok, or the code of the refusal.
    pub(crate) fn sign_in(&self, way: &'static str, result: &'static str) {
        let labels = [way, result];
        self.families.sign_ins.with_label_values(&labels).inc();
    }

    /// Sets how many alerts wait to be delivered.
    pub(crate) fn alerts_pending(&self, count: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.alerts_pending.set(count);
    }

    /// There is a database: its metrics are rendered from now on.
    ///
    /// # Errors
    /// This was said before.
    pub(crate) fn has_database(&self) -> Result<(), prometheus::Error> {
        let DatabaseMetrics {
            up,
            waiting_bytes,
            records_dropped,
            write_seconds,
            audit_waiting,
            audit_lost,
        } = &self.families.database;
        let all: [Box<dyn Collector>; 6] = [
            Box::new(up.clone()),
            Box::new(waiting_bytes.clone()),
            Box::new(records_dropped.clone()),
            Box::new(write_seconds.clone()),
            Box::new(audit_waiting.clone()),
            Box::new(audit_lost.clone()),
        ];
        all.into_iter()
            .try_for_each(|collector| self.families.registry.register(collector))
    }

    /// Gateways share limits: the metrics of that are rendered from now on.
    ///
    /// # Errors
    /// This was said before.
    pub(crate) fn has_shared_limits(&self) -> Result<(), prometheus::Error> {
        let SharedLimitMetrics {
            up,
            holders,
            seconds,
        } = &self.families.shared_limits;
        up.set(1);
        let all: [Box<dyn Collector>; 3] = [
            Box::new(up.clone()),
            Box::new(holders.clone()),
            Box::new(seconds.clone()),
        ];
        all.into_iter()
            .try_for_each(|collector| self.families.registry.register(collector))
    }

    /// The leases of so many keys and accounts were renewed.
    pub(crate) fn leases_renewed(&self, holders: usize, seconds: f64) {
        let shared_limits = &self.families.shared_limits;
        let holders = i64::try_from(holders).unwrap_or(i64::MAX);
        shared_limits.holders.set(holders);
        shared_limits.seconds.observe(seconds);
    }

    /// Sets whether leases can be renewed.
    pub(crate) fn leases_up(&self, up: bool) {
        self.families.shared_limits.up.set(i64::from(up));
    }

    /// Sets whether the database can be written, how many bytes of usage wait for it, and how many records were dropped since
    /// the start.
    pub(crate) fn database(&self, up: bool, waiting_bytes: usize, records_dropped: u64) {
        let database = &self.families.database;
        database.up.set(i64::from(up));
        let waiting_bytes = i64::try_from(waiting_bytes).unwrap_or(i64::MAX);
        database.waiting_bytes.set(waiting_bytes);
        let more = records_dropped.saturating_sub(database.records_dropped.get());
        database.records_dropped.inc_by(more);
    }

    /// Sets the database's revision of the keys that is in force; None: they come from a file.
    pub(crate) fn fleet_revision(&self, revision: Option<u64>) {
        let gauge = &self.families.shared_database.revision;
        match revision {
            Some(revision) => gauge
                .with_label_values::<&str>(&[])
                .set(i64::try_from(revision).unwrap_or(i64::MAX)),
            None => gauge.reset(),
        }
    }

    /// Measures how long the last change by another gateway took from its commit until it was in force here, in seconds.
    pub(crate) fn fleet_lag(&self, seconds: f64) {
        let gauge = &self.families.shared_database.lag_seconds;
        gauge.with_label_values::<&str>(&[]).set(seconds);
        *lock(&self.families.fleet_lag) = Some(seconds);
    }

    /// The same, as it was measured last.
    #[must_use]
    pub(crate) fn last_fleet_lag(&self) -> Option<f64> {
        *lock(&self.families.fleet_lag)
    }

    /// Sets how many gateways share the database and have reported of late.
    pub(crate) fn gateways(&self, count: usize) {
        let gauge = &self.families.shared_database.gateways;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        gauge.with_label_values::<&str>(&[]).set(count);
    }

    /// Sets how many audit rows wait for the database, and how many were lost since the start.
    pub(crate) fn audit(&self, waiting: usize, lost: u64) {
        let database = &self.families.database;
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        database.audit_waiting.set(waiting);
        let more = lost.saturating_sub(database.audit_lost.get());
        database.audit_lost.inc_by(more);
    }

    /// Measures a transaction of the database.
    pub(crate) fn database_write(&self, seconds: f64) {
        self.families.database.write_seconds.observe(seconds);
    }

    /// Counts the head of an upstream's response. `first_byte` is the time since the request's head, `overhead` the
    /// gateway's own part of it.
    pub(crate) fn response(
        &self,
        upstream: &str,
        status: u16,
        first_byte: Duration,
        overhead: Duration,
    ) {
        let mut counters = lock(&self.counters);
        counters.response(upstream, status, first_byte.as_secs_f64());
        counters.overhead_seconds.observe(overhead.as_secs_f64());
    }

    /// Requests that ended, by outcome.
    #[must_use]
    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        let outcomes = self.families.workers.sum().outcomes.into_iter();
        outcomes
            .map(|(outcome, count)| (outcome.to_owned(), count))
            .collect()
    }

    /// The gateway's own time on requests: bucket bounds in seconds with cumulative counts. The last bound is infinite.
    #[must_use]
    pub(crate) fn overhead_buckets(&self) -> Vec<(f64, u64)> {
        self.families.workers.sum().overhead_seconds.cumulative()
    }

    /// Requests in flight.
    #[must_use]
    pub(crate) fn in_flight(&self) -> i64 {
        self.families.workers.sum().in_flight
    }

    /// Open client connections.
    #[must_use]
    pub(crate) fn connections(&self) -> &IntGauge {
        &self.families.connections
    }

    /// Sets the size and the generation of the key table.
    pub(crate) fn table(&self, keys: usize, generation: u64) {
        self.families
            .keys
            .set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.families
            .generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Counts a reload by its result: ok, faulty, dropped or failed.
    pub(crate) fn reload(&self, result: &'static str) {
        self.families.reloads.with_label_values(&[result]).inc();
    }

    /// Sets when the table was last loaded, in seconds since 1970.
    pub(crate) fn last_reload(&self, at: i64) {
        self.families.last_reload.set(at);
    }

    /// Sets how much the fullest budget of these keys is used. All others are forgotten.
    pub(crate) fn budgets<'k>(&self, ratios: impl Iterator<Item = (&'k str, f64)>) {
        let budget_used = &self.families.budget_used;
        budget_used.reset();
        for (key, ratio) in ratios {
            budget_used.with_label_values(&[key]).set(ratio);
        }
    }

    /// Sets whether a replica takes requests.
    pub(crate) fn upstream_up(&self, upstream: &str, replica: &str, up: bool) {
        self.families
            .upstream_up
            .with_label_values(&[upstream, replica])
            .set(i64::from(up));
    }

    /// Sets how many models two upstreams name.
    pub(crate) fn model_clashes(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.model_clashes.set(count);
    }

    /// Removes a replica that is no longer in the config.
    pub(crate) fn forget_replica(&self, upstream: &str, replica: &str) {
        // An error means that the replica was never checked and has no value yet.
        drop(
            self.families
                .upstream_up
                .remove_label_values(&[upstream, replica]),
        );
    }

    /// Sets how many deletes, disables and ends of previous tokens the key file does not hold yet.
    pub(crate) fn unwritten_changes(&self, count: usize) {
        self.families
            .unwritten_changes
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts dropped log lines.
    #[must_use]
    pub(crate) fn log_lines_dropped(&self) -> &IntCounter {
        &self.families.log_lines_dropped
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail. The encoder refuses only empty metric families, which are left out.
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
    fn counted_requests_can_be_read_back() {
        let metrics = Metrics::new().unwrap();
        let own = metrics.with_own_counters();
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
        assert!(
            !String::from_utf8(metrics.render())
                .unwrap()
                .contains("database")
        );
        metrics.has_database().unwrap();
        metrics.database(true, 9, 3);
        metrics.database(true, 7, 4);
        metrics.database_write(0.1);
        metrics.audit(2, 1);
        metrics.audit(3, 4);
        metrics.has_shared_limits().unwrap();
        metrics.leases_renewed(7, 0.1);
        metrics.leases_up(false);
        let counts = RequestCounts {
            output: Some(7),
            ..RequestCounts::UNKNOWN
        };
        metrics.usage("m", &counts);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "keygate_tokens_total{kind=\"output\",model=\"m\"} 7",
            "keygate_usage_records_total{certainty=\"unknown\"} 1",
            "keygate_usage_records_total{certainty=\"exact\"} 0",
            "keygate_database_up 1",
            "keygate_usage_waiting_bytes 7",
            "keygate_usage_records_dropped_total 4",
            "keygate_database_write_seconds_count 1",
            "keygate_audit_rows_waiting 3",
            "keygate_audit_rows_lost_total 4",
            "keygate_leases_up 0",
            "keygate_leases 7",
            "keygate_lease_renewal_seconds_count 1",
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
        for name in [
            "keygate_fleet_revision",
            "keygate_fleet_lag_seconds",
            "keygate_gateways",
        ] {
            assert!(!text.contains(name), "{name} in\n{text}");
        }
        metrics.fleet_revision(Some(7));
        metrics.fleet_lag(0.25);
        metrics.gateways(2);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "keygate_fleet_revision 7",
            "keygate_fleet_lag_seconds 0.25",
            "keygate_gateways 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert_eq!(metrics.last_fleet_lag(), Some(0.25));
        metrics.fleet_revision(None);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(!text.contains("keygate_fleet_revision"), "{text}");
        metrics.forget_replica("llama", "http://127.0.0.1:8000");
        assert!(
            !String::from_utf8(metrics.render())
                .unwrap()
                .contains("keygate_upstream_up{")
        );
    }
}
