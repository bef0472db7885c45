//! GET /api/overview: the dashboard's data, which is the last hour by minute and the number of keys by state.
//!
//! A task reads the counters every two seconds, so requests pay nothing for the history. Keys are counted on a blocking
//! thread, and again only after the table changed or a key came into another state.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::admin::status::LastReloadView;
use crate::observe::history::{History, Minute, Sample};
use crate::policy::account::JudgedKey;
use crate::policy::key::KeyState;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock::now;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

/// The time between two reads of the counters.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// A key that expires within this time is listed as expiring.
const SOON_SECONDS: i64 = 7 * 24 * 60 * 60;
/// The most expiring keys that are listed.
const MOST_EXPIRING: usize = 100;

/// Data that is kept between calls.
#[derive(Default)]
pub(super) struct Overview {
    history: Mutex<History>,
    /// Locked while keys are counted, so that only one call counts at a time.
    summary: tokio::sync::Mutex<Option<Arc<KeySummary>>>,
}

impl Overview {
    /// Records the counters, then reads the history.
    pub(super) fn update_history<T>(
        &self,
        services: &Services,
        now: UnixTime,
        read: impl FnOnce(&History) -> T,
    ) -> T {
        let sample = Sample::of(&services.metrics);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.record(now, sample);
        read(&history)
    }

    async fn summary(
        &self,
        table: &Arc<Table>,
        now: UnixTime,
    ) -> Result<Arc<KeySummary>, ApiError> {
        let mut kept = self.summary.lock().await;
        if let Some(summary) = &*kept
            && summary.holds(table.generation(), now)
        {
            return Ok(Arc::clone(summary));
        }
        let table = Arc::clone(table);
        // This looks at every key. With a million keys it would block the runtime's thread too long.
        let counted = tokio::task::spawn_blocking(move || KeySummary::of(&table, now));
        let summary = Arc::new(counted.await.map_err(|_| ApiError::Internal)?);
        *kept = Some(Arc::clone(&summary));
        Ok(summary)
    }
}

/// Records the counters regularly. Never ends.
pub(crate) async fn record_history(services: Arc<Services>) {
    loop {
        services
            .state
            .overview
            .update_history(&services, now(), |_| ());
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}

/// The keys by state, when they were counted. They are judged with their accounts.
#[derive(Debug)]
struct KeySummary {
    generation: u64,
    since: UnixTime,
    /// When the next key changes its state or becomes an expiring one.
    until: Option<UnixTime>,
    active: usize,
    disabled: usize,
    expired: usize,
    expiring_count: usize,
    expiring: Vec<(UnixTime, Arc<Entry>)>,
}

impl KeySummary {
    fn of(table: &Table, now: UnixTime) -> Self {
        let mut summary = Self {
            // Read first: a change during the count makes this summary out of date.
            generation: table.generation(),
            since: now,
            until: None,
            active: 0,
            disabled: 0,
            expired: 0,
            expiring_count: 0,
            expiring: Vec::new(),
        };
        let soon = now.plus(SOON_SECONDS);
        let entries = table.in_file_order(yield_if_due);
        let mut first = BinaryHeap::with_capacity(MOST_EXPIRING + 1);
        for (place, entry) in yield_every(&entries, yield_if_due).enumerate() {
            let account = entry.account_rules();
            let key = JudgedKey::new(entry.key(), account.as_deref());
            match key.state(now) {
                KeyState::Active => summary.active += 1,
                KeyState::Disabled => {
                    summary.disabled += 1;
                    continue;
                }
                KeyState::Expired => {
                    summary.expired += 1;
                    continue;
                }
            }
            let Some(end) = key.expires_at() else {
                continue;
            };
            let next = if end <= soon {
                summary.expiring_count += 1;
                first.push((end, place));
                if first.len() > MOST_EXPIRING {
                    first.pop();
                }
                end
            } else {
                end.plus(-SOON_SECONDS)
            };
            summary.until = Some(summary.until.map_or(next, |until| until.min(next)));
        }
        let first = first.into_sorted_vec().into_iter();
        summary.expiring = first
            .map(|(end, place)| (end, Arc::clone(&entries[place])))
            .collect();
        drop_incrementally(entries, yield_if_due);
        summary
    }

    fn holds(&self, generation: u64, now: UnixTime) -> bool {
        self.generation == generation
            && self.since <= now
            && self.until.is_none_or(|until| now < until)
    }
}

#[derive(Serialize)]
struct View<'c> {
    #[serde(serialize_with = "as_text")]
    now: UnixTime,
    in_flight: i64,
    connections: i64,
    minutes: Vec<MinuteView>,
    overhead_seconds: OverheadView,
    keys: KeyCounts,
    expiring_count: usize,
    expiring: Vec<ExpiringKeyView<'c>>,
    last_reload: LastReloadView,
    generation: u64,
}

#[derive(Serialize)]
struct MinuteView {
    #[serde(serialize_with = "as_text")]
    at: UnixTime,
    outcomes: std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct OverheadView {
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Serialize)]
struct KeyCounts {
    active: usize,
    disabled: usize,
    expired: usize,
}

#[derive(Serialize)]
struct ExpiringKeyView<'c> {
    id: &'c str,
    name: &'c str,
    account: Option<&'c str>,
    #[serde(serialize_with = "as_text")]
    expires_at: UnixTime,
}

fn as_text<S: Serializer>(time: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// GET /api/overview
pub(super) async fn respond(
    services: &Services,
    _: OperatorOnly,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let overview = &services.state.overview;
    let summary = overview.summary(&services.table, now).await?;
    let (minutes, overhead_seconds) = overview.update_history(services, now, |history| {
        let overhead = OverheadView {
            p50: history.overhead(now, 0.5),
            p99: history.overhead(now, 0.99),
        };
        (history.minutes(now), overhead)
    });
    let minute = |Minute { at, outcomes }| MinuteView { at, outcomes };
    let expiring = summary.expiring.iter();
    Ok(ApiResponse::json(&View {
        now,
        in_flight: services.metrics.in_flight(),
        connections: services.metrics.connections().get(),
        minutes: minutes.into_iter().map(minute).collect(),
        overhead_seconds,
        keys: KeyCounts {
            active: summary.active,
            disabled: summary.disabled,
            expired: summary.expired,
        },
        expiring_count: summary.expiring_count,
        expiring: expiring
            .map(|(end, entry)| ExpiringKeyView {
                id: entry.key().id(),
                name: entry.key().name(),
                account: entry.key().account(),
                expires_at: *end,
            })
            .collect(),
        last_reload: LastReloadView::of(services),
        generation: services.table.generation(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::account::fixture::account;
    use crate::policy::account::{AccountRules, KeyDays};
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, Key, KeyFields};

    const DAY: i64 = 24 * 60 * 60;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn key(id: &str, expires_at: Option<i64>) -> Key {
        let mut fields = key_fields(id);
        fields.expires_at = expires_at.map(at);
        fields.into()
    }

    fn table(keys: impl IntoIterator<Item = Key>) -> Table {
        let table = Table::default();
        for key in keys {
            table.insert(key).unwrap();
        }
        table
    }

    #[test]
    fn a_count_holds_until_the_table_changes_or_a_key_comes_of_age() {
        let table = table([key("a", None), key("b", Some(10 * DAY))]);
        let generation = table.generation();
        for (now, until, counts) in [
            (0, Some(3 * DAY), (2, 0, 0)),
            (3 * DAY - 1, Some(3 * DAY), (2, 0, 0)),
            (3 * DAY, Some(10 * DAY), (2, 0, 1)),
            (10 * DAY - 1, Some(10 * DAY), (2, 0, 1)),
            (10 * DAY, None, (1, 1, 0)),
        ] {
            let summary = KeySummary::of(&table, at(now));
            let counted = (summary.active, summary.expired, summary.expiring_count);
            assert_eq!((summary.until, counted), (until.map(at), counts), "{now}");
            assert!(summary.holds(generation, at(now)));
            assert!(!summary.holds(generation + 1, at(now)));
            assert!(
                !summary.holds(generation, at(now - 1)),
                "the clock was set back"
            );
            if let Some(until) = until {
                assert!(summary.holds(generation, at(until - 1)));
                assert!(!summary.holds(generation, at(until)));
            }
        }
    }

    #[test]
    fn keys_are_counted_with_their_accounts() {
        let of = |id: &str, account: &str, expires_at| {
            Key::from(KeyFields {
                account: Account::parse(account).ok(),
                created_at: Some(at(0)),
                ..key(id, expires_at).fields()
            })
        };
        let table = table([
            of("own", "short", Some(2 * DAY)),
            of("by_account", "short", None),
            of("closed", "closed", None),
            of("free", "nobody", None),
        ]);
        table.put_account(AccountRules {
            max_key_days: KeyDays::of(3),
            ..account("short")
        });
        table.put_account(AccountRules {
            disabled: true,
            ..account("closed")
        });
        let counts = |now| {
            let summary = KeySummary::of(&table, at(now));
            (summary.active, summary.disabled, summary.expired)
        };
        assert_eq!(counts(0), (3, 1, 0));
        assert_eq!(counts(3 * DAY), (1, 1, 2));
        let summary = KeySummary::of(&table, at(0));
        let listed: Vec<_> = summary
            .expiring
            .iter()
            .map(|(end, entry)| (end.seconds() / DAY, entry.key().id()))
            .collect();
        assert_eq!(listed, [(2, "own"), (3, "by_account")]);
        assert_eq!(summary.until, Some(at(2 * DAY)));
    }

    #[test]
    fn of_many_keys_that_end_soon_the_first_hundred_are_listed() {
        let ends = |place: i64| DAY + (place * 7919) % 250;
        let table = table((0..250).map(|place| key(&format!("key_{place}"), Some(ends(place)))));
        let summary = KeySummary::of(&table, at(0));
        assert_eq!((summary.expiring_count, summary.expiring.len()), (250, 100));
        let listed: Vec<_> = summary
            .expiring
            .iter()
            .map(|(end, _)| end.seconds())
            .collect();
        assert_eq!(listed, (DAY..DAY + 100).collect::<Vec<_>>());
    }
}
