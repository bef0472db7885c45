//! Floor 3: alerts. What the operator has to know is told to a webhook, at least once, and over restarts.
//!
//! [`Alerts::alert`] takes an alert from anywhere and never waits. [`maintain`] looks at keys and upstreams, puts alerts
//! into the database, where they stay until they are delivered, and delivers them. `webhook` sends one, `signature`
//! signs it.
//!
//! Invariants: nothing that is sent or logged has a token, its hash, the webhook's path or the secret. The database is
//! asked off the runtime's thread.

mod signature;
mod webhook;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::alerts::webhook::{DeliveryError, Webhook};
use crate::observe::log::{Event, Log};
use crate::observe::metrics::Metrics;
use crate::policy::account::JudgedKey;
use crate::policy::alert::{self, Alert, EXPIRES_SOON, UPSTREAM_DOWN, UpstreamWatch};
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock::now;
use crate::store::config::AlertsConfig;
use crate::store::database::{AlertSummary, AttemptEnd, Database, NewAlert, PendingAlert};
use crate::table::{Table, yield_every};
use crate::upstream::{Fleet, Upstream};

/// Between two looks at upstreams, and at alerts that wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at all keys: at least, where keys changed, and at most.
const KEYS_EVERY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];
/// Keys that one look tells of. The others wait for the next.
const MOST_KEYS: usize = 100;
/// Alerts in memory that the database could not take yet.
const MOST_QUEUED: usize = 1000;
/// Alerts that are delivered before the state is looked at again.
const MOST_DUE: u32 = 20;

/// Where alerts are given. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Alerts(Arc<AlertsState>);

#[derive(Debug)]
struct AlertsState {
    /// Where they are sent; None: nowhere.
    webhook: ArcSwapOption<Webhook>,
    /// None: the config has no database, and nothing is told.
    database: Option<Arc<Database>>,
    gateway: String,
    queue: Mutex<VecDeque<Alert>>,
    summary: Mutex<AlertSummary>,
    /// A reload has changed the webhook.
    is_new: AtomicBool,
    /// Something is in the queue.
    queued: Notify,
    /// Something is to be delivered.
    added: Notify,
    metrics: Metrics,
    log: Log,
}

/// What a delivered alert was answered, or why it was not delivered.
pub(crate) type TestResult = Result<u16, String>;

impl Alerts {
    /// `gateway`: this gateway's name, which receivers see.
    pub(crate) fn new(
        config: Option<&AlertsConfig>,
        database: Option<Arc<Database>>,
        gateway: String,
        metrics: Metrics,
        log: Log,
    ) -> Self {
        Self(Arc::new(AlertsState {
            webhook: ArcSwapOption::from_pointee(config.map(Webhook::new)),
            database,
            gateway,
            queue: Mutex::default(),
            summary: Mutex::default(),
            is_new: AtomicBool::new(true),
            queued: Notify::new(),
            added: Notify::new(),
            metrics,
            log,
        }))
    }

    /// Sends alerts there from now on.
    pub(crate) fn reload(&self, config: Option<&AlertsConfig>) {
        let known = self.0.webhook.load();
        if known.as_ref().map(|webhook| webhook.config()) == config {
            return;
        }
        self.0
            .webhook
            .store(config.map(|config| Arc::new(Webhook::new(config))));
        self.0.is_new.store(true, Ordering::Relaxed);
        self.0.queued.notify_one();
    }

    /// Tells the operator, once for each subject. Does nothing where the config has no alerts. Never waits.
    pub(crate) fn alert(&self, alert: Alert) {
        if self.0.database.is_none() || self.0.webhook.load().is_none() {
            return;
        }
        let mut queue = self.queue();
        if queue.len() >= MOST_QUEUED {
            self.0.metrics.alert("dropped");
            return;
        }
        queue.push_back(alert);
        self.0.queued.notify_one();
    }

    /// How the alerts are; None where they are not told.
    #[must_use]
    pub(crate) fn status(&self) -> Option<(String, AlertSummary)> {
        self.0.database.as_ref()?;
        let webhook = self.0.webhook.load_full()?;
        Some((webhook.server(), self.summary().clone()))
    }

    /// Sends an alert that says nothing, now and once. None where alerts are not told.
    pub(crate) async fn test(&self) -> Option<TestResult> {
        self.0.database.as_ref()?;
        let webhook = self.0.webhook.load_full()?;
        let now = now();
        let body = Alert::Test.body(&self.0.gateway, now);
        let Ok(id) = new_id() else {
            return Some(Err("the system has no random numbers".to_owned()));
        };
        let sent = webhook.post(&id, &body, now.seconds()).await;
        Some(sent.map_err(|error| error.to_string()))
    }

    /// Puts what is queued into the database. Returns whether that could be done. It waits for the disk.
    pub(crate) fn flush(&self) -> bool {
        let Some(database) = &self.0.database else {
            return true;
        };
        loop {
            let first = self.queue().front().cloned();
            let Some(alert) = first else {
                return true;
            };
            let Ok(id) = new_id() else {
                return false;
            };
            let new = NewAlert::of(&alert, id, &self.0.gateway, now());
            match database.add_alert(&new) {
                Ok(true) => self.0.added.notify_one(),
                Ok(false) => {}
                // The writer of the database says why.
                Err(_) => return false,
            }
            self.queue().pop_front();
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Alert>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn summary(&self) -> MutexGuard<'_, AlertSummary> {
        self.0
            .summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id that no other alert has.
fn new_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("msg_{:032x}", u128::from_le_bytes(bytes)))
}

/// Looks for what is to be told and delivers it, for as long as it is polled.
pub(crate) async fn maintain(alerts: Alerts, table: Arc<Table>, fleet: Arc<Fleet>) {
    let Some(database) = alerts.0.database.clone() else {
        return;
    };
    let observer = Observer {
        alerts: alerts.clone(),
        table,
        fleet,
        started: Instant::now(),
        upstreams: None,
        told_keys: HashSet::new(),
        keys_seen: None,
    };
    tokio::join!(
        observer.run(Arc::clone(&database)),
        deliver(alerts, database)
    );
}

/// Runs what waits for the disk off the runtime's thread. None: it panicked.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(run).await.ok()
}

/// What was looked at, and what was told.
struct Observer {
    alerts: Alerts,
    table: Arc<Table>,
    fleet: Arc<Fleet>,
    started: Instant,
    /// By name. None until the database said what was told before.
    upstreams: Option<HashMap<String, UpstreamWatch>>,
    /// Keys and when they expire.
    told_keys: HashSet<(String, UnixTime)>,
    /// When all keys were looked at, and the table's generation then.
    keys_seen: Option<(Instant, u64)>,
}

impl Observer {
    async fn run(mut self, database: Arc<Database>) {
        loop {
            if let Some(webhook) = self.alerts.0.webhook.load_full() {
                if self.alerts.0.is_new.swap(false, Ordering::Relaxed) {
                    self.keys_seen = None;
                }
                self.look_at_upstreams(&database, webhook.config().upstream_after)
                    .await;
                self.look_at_keys().await;
            }
            if !self.alerts.queue().is_empty() {
                let alerts = self.alerts.clone();
                if blocking(move || alerts.flush()).await != Some(true) {
                    sleep(LOOK_EVERY).await;
                }
            }
            tokio::select! {
                () = self.alerts.0.queued.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look_at_upstreams(&mut self, database: &Arc<Database>, after: Duration) {
        if self.upstreams.is_none() {
            let database = Arc::clone(database);
            let told = blocking(move || database.told_upstreams()).await;
            let Some(Ok(told)) = told else {
                return;
            };
            let told = told.into_iter();
            self.upstreams = Some(
                told.map(|(name, kind)| (name, UpstreamWatch::told(kind == UPSTREAM_DOWN)))
                    .collect(),
            );
        }
        let Some(watches) = &mut self.upstreams else {
            return;
        };
        let at = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        for upstream in self.fleet.routing().upstreams() {
            let watch = watches.entry(upstream.name().to_owned()).or_default();
            let Some(is_down) = is_down(upstream) else {
                continue;
            };
            let Some(ago) = watch.look(is_down, at, after) else {
                continue;
            };
            let ago = i64::try_from(ago / 1000).unwrap_or(0);
            let (upstream, since) = (upstream.name().to_owned(), now().plus(-ago));
            self.alerts.alert(match is_down {
                true => Alert::UpstreamDown { upstream, since },
                false => Alert::UpstreamUp { upstream, since },
            });
        }
    }

    /// Tells of keys that expire soon, those that expire first before others.
    async fn look_at_keys(&mut self) {
        let generation = self.table.generation();
        if let Some((at, seen)) = self.keys_seen {
            let pause = KEYS_EVERY[usize::from(seen == generation)];
            if at.elapsed() < pause {
                return;
            }
        }
        let (table, now) = (Arc::clone(&self.table), now());
        let soon = blocking(move || expiring(&table, now)).await;
        let soon = soon.unwrap_or_default();
        // Where some are left for the next look, that comes soon.
        let mut is_all = true;
        let mut told = 0;
        self.told_keys.retain(|(_, expires_at)| *expires_at > now);
        for (expires_at, alert) in soon {
            let key = (alert.about().to_owned(), expires_at);
            if self.told_keys.contains(&key) {
                continue;
            }
            if told == MOST_KEYS {
                is_all = false;
                break;
            }
            told += 1;
            self.alerts.alert(alert);
            self.told_keys.insert(key);
        }
        let seen = if is_all { generation } else { u64::MAX };
        self.keys_seen = Some((Instant::now(), seen));
    }
}

/// Whether none of its replicas takes requests; None while too few of them were tried to know.
fn is_down(upstream: &Upstream) -> Option<bool> {
    let tried = upstream
        .replicas()
        .iter()
        .filter(|replica| replica.was_tried());
    if tried.clone().any(|replica| replica.is_up()) {
        return Some(false);
    }
    (tried.count() == upstream.replicas().len()).then_some(true)
}

/// The keys that expire soon, by themselves or by their accounts, in the order in which they expire.
fn expiring(table: &Table, now: UnixTime) -> Vec<(UnixTime, Alert)> {
    let entries = table.in_file_order(yield_if_due);
    let mut soon: Vec<(UnixTime, Alert)> = yield_every(&entries, yield_if_due)
        .filter_map(|entry| {
            let (key, account) = (entry.key(), entry.account_rules());
            let judged = JudgedKey::new(key, account.as_deref());
            let expires_at = judged.expires_at()?;
            let is_soon = expires_at > now && expires_at <= now.plus(EXPIRES_SOON);
            (is_soon && !judged.disabled()).then(|| {
                let alert = Alert::KeyExpires {
                    key_id: key.id().to_owned(),
                    name: key.name().to_owned(),
                    account: key.account().map(str::to_owned),
                    expires_at,
                };
                (expires_at, alert)
            })
        })
        .collect();
    soon.sort_by_key(|(expires_at, _)| *expires_at);
    soon
}

/// Delivers what is due.
async fn deliver(alerts: Alerts, database: Arc<Database>) {
    // What became of an attempt and is not written yet. Until it is, nothing else is delivered: it would be delivered
    // again and again.
    let mut unsaved: Option<(PendingAlert, AttemptEnd)> = None;
    let mut is_due = true;
    loop {
        if is_due && let Some(webhook) = alerts.0.webhook.load_full() {
            deliver_due(&alerts, &database, &webhook, &mut unsaved).await;
        }
        tokio::select! {
            () = alerts.0.added.notified() => is_due = true,
            () = sleep(LOOK_EVERY) => is_due = unsaved.is_some() || alerts.summary().pending > 0,
        }
    }
}

async fn deliver_due(
    alerts: &Alerts,
    database: &Arc<Database>,
    webhook: &Webhook,
    unsaved: &mut Option<(PendingAlert, AttemptEnd)>,
) {
    if !save(database, unsaved).await {
        return;
    }
    let reader = Arc::clone(database);
    let due = blocking(move || reader.due_alerts(now().seconds(), MOST_DUE)).await;
    let Some(Ok(due)) = due else {
        return;
    };
    let mut is_more = u32::try_from(due.len()).is_ok_and(|count| count == MOST_DUE);
    for alert in due {
        let sent = webhook.post(&alert.id, &alert.body, now().seconds()).await;
        let has_failed = sent.is_err();
        let end = note(alerts, &alert, sent);
        *unsaved = Some((alert, end));
        if !save(database, unsaved).await || has_failed {
            // The others would wait for the same receiver.
            is_more = false;
            break;
        }
    }
    let reader = Arc::clone(database);
    if let Some(Ok(summary)) = blocking(move || reader.alert_summary()).await {
        alerts.0.metrics.alerts_pending(summary.pending);
        *alerts.summary() = summary;
    }
    if is_more {
        alerts.0.added.notify_one();
    }
}

/// Logs and counts what became of an attempt.
fn note(alerts: &Alerts, alert: &PendingAlert, sent: Result<u16, DeliveryError>) -> AttemptEnd {
    let event = |event: Event| {
        event
            .with("id", alert.id.as_str())
            .with("kind", alert.kind.as_str())
            .with("attempt", alert.attempts.saturating_add(1))
    };
    let error = match sent {
        Ok(_) => {
            alerts.0.metrics.alert("delivered");
            alerts.0.log.event(event(Event::info("alert_delivered")));
            return AttemptEnd::Delivered;
        }
        Err(error) => error.to_string(),
    };
    let attempts = alert.attempts.saturating_add(1);
    let next_at = alert::next_attempt(alert.created_at, attempts, now().seconds());
    let (result, failed) = match next_at {
        Some(next_at) => {
            let next = UnixTime::from_seconds(next_at).to_string();
            let failed = Event::warn("alert_not_delivered").with("next", next);
            ("failed", failed)
        }
        None => ("given_up", Event::error("alert_given_up")),
    };
    alerts.0.metrics.alert(result);
    let failed = event(failed).with("reason", error.as_str());
    alerts.0.log.event(failed);
    AttemptEnd::Failed { error, next_at }
}

/// Writes what became of an attempt. Returns whether nothing is left to write.
async fn save(database: &Arc<Database>, unsaved: &mut Option<(PendingAlert, AttemptEnd)>) -> bool {
    let Some((alert, end)) = unsaved.clone() else {
        return true;
    };
    let writer = Arc::clone(database);
    let now = now().seconds();
    let saved = blocking(move || writer.end_attempt(&alert, &end, now)).await;
    let is_saved = matches!(saved, Some(Ok(())));
    if is_saved {
        *unsaved = None;
    }
    is_saved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::account::fixture::account;
    use crate::policy::account::{AccountRules, KeyDays};
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, Key, KeyFields};

    const DAY: i64 = 24 * 60 * 60;

    #[test]
    fn a_key_is_told_when_its_account_ends_it_and_not_when_its_account_is_disabled() {
        let at = |days: i64| UnixTime::from_seconds(days * DAY);
        let table = Table::default();
        for (id, account, days) in [
            ("own", "short", Some(2)),
            ("by_account", "short", None),
            ("closed", "closed", Some(2)),
            ("never", "nobody", None),
        ] {
            let fields = KeyFields {
                account: Account::parse(account).ok(),
                created_at: Some(at(0)),
                expires_at: days.map(at),
                ..key_fields(id)
            };
            table.insert(Key::from(fields)).unwrap();
        }
        table.put_account(AccountRules {
            max_key_days: KeyDays::of(3),
            ..account("short")
        });
        table.put_account(AccountRules {
            disabled: true,
            ..account("closed")
        });
        let told = expiring(&table, at(1)).into_iter();
        let told: Vec<_> = told
            .map(|(end, alert)| (end, alert.about().to_owned()))
            .collect();
        let expected = [(at(2), "own".to_owned()), (at(3), "by_account".to_owned())];
        assert_eq!(told, expected);
    }
}
