//! What the dashboard draws: the last hour by minutes, and how the keys stand.
//!
//! The hour is kept by a task that reads the counters every other second; no request pays for it. Keys are counted
//! off the runtime's thread, and again only once the table changed, or the time took a key to its next state.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::observe::history::{History, Minute, Sample};
use crate::policy::key::KeyState;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::table::{Entry, Table, drop_incrementally, yield_every};

use super::reply::{Refusal, Reply};
use super::status::LastReload;
use super::{Services, now};

/// How often the counters are read.
const SAMPLED: Duration = Duration::from_secs(2);
/// How far ahead a key's end is worth a word.
const SOON_SECONDS: i64 = 7 * 24 * 60 * 60;
/// How many keys that end soon are listed.
const MOST_EXPIRING: usize = 100;

/// What is kept between calls.
#[derive(Default)]
pub(super) struct Overview {
    history: Mutex<History>,
    /// Locked while keys are counted, so that nobody counts them beside.
    census: tokio::sync::Mutex<Option<Arc<Census>>>,
}

impl Overview {
    /// Takes in the counters, and reads what is wanted of the hour.
    pub(super) fn hour<T>(
        &self,
        services: &Services,
        now: UnixTime,
        read: impl FnOnce(&History) -> T,
    ) -> T {
        let sample = Sample::of(&services.metrics);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.note(now, sample);
        read(&history)
    }

    async fn census(&self, table: &Arc<Table>, now: UnixTime) -> Result<Arc<Census>, Refusal> {
        let mut kept = self.census.lock().await;
        if let Some(census) = &*kept
            && census.holds(table.generation(), now)
        {
            return Ok(Arc::clone(census));
        }
        let table = Arc::clone(table);
        // Every key is looked at: a million take longer than a runtime's thread may be away.
        let counted = tokio::task::spawn_blocking(move || Census::of(&table, now));
        let census = Arc::new(counted.await.map_err(|_| Refusal::Internal)?);
        *kept = Some(Arc::clone(&census));
        Ok(census)
    }
}

/// Keeps the last hour, for as long as it is polled.
pub async fn keep_the_hour(services: Arc<Services>) {
    loop {
        services.memory.overview.hour(&services, now(), |_| ());
        tokio::time::sleep(SAMPLED).await;
    }
}

/// How the keys stood when they were counted.
#[derive(Debug)]
struct Census {
    generation: u64,
    since: UnixTime,
    /// When the next key changes its state, or comes to end soon.
    until: Option<UnixTime>,
    active: usize,
    disabled: usize,
    expired: usize,
    expiring_count: usize,
    expiring: Vec<Arc<Entry>>,
}

impl Census {
    fn of(table: &Table, now: UnixTime) -> Self {
        let mut census = Self {
            // Read first: a change meanwhile makes this one old.
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
        let keys = yield_every(&entries, yield_if_due).map(|entry| entry.key());
        for (place, key) in keys.enumerate() {
            match key.state(now) {
                KeyState::Active => census.active += 1,
                KeyState::Disabled => {
                    census.disabled += 1;
                    continue;
                }
                KeyState::Expired => {
                    census.expired += 1;
                    continue;
                }
            }
            let Some(end) = key.expires_at() else {
                continue;
            };
            let next = if end <= soon {
                census.expiring_count += 1;
                first.push((end, place));
                if first.len() > MOST_EXPIRING {
                    first.pop();
                }
                end
            } else {
                end.plus(-SOON_SECONDS)
            };
            census.until = Some(census.until.map_or(next, |until| until.min(next)));
        }
        let first = first.into_sorted_vec().into_iter();
        census.expiring = first
            .map(|(_, place)| Arc::clone(&entries[place]))
            .collect();
        drop_incrementally(entries, yield_if_due);
        census
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
    overhead_seconds: Overhead,
    keys: Keys,
    expiring_count: usize,
    expiring: Vec<Expiring<'c>>,
    last_reload: LastReload,
    generation: u64,
}

#[derive(Serialize)]
struct MinuteView {
    #[serde(serialize_with = "as_text")]
    at: UnixTime,
    outcomes: std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Overhead {
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Serialize)]
struct Keys {
    active: usize,
    disabled: usize,
    expired: usize,
}

#[derive(Serialize)]
struct Expiring<'c> {
    id: &'c str,
    name: &'c str,
    account: Option<&'c str>,
    expires_at: Option<String>,
}

fn as_text<S: Serializer>(time: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// GET /api/overview
pub(super) async fn answer(services: &Services, now: UnixTime) -> Result<Reply, Refusal> {
    let overview = &services.memory.overview;
    let census = overview.census(&services.table, now).await?;
    let (minutes, overhead_seconds) = overview.hour(services, now, |history| {
        let overhead = Overhead {
            p50: history.overhead(now, 0.5),
            p99: history.overhead(now, 0.99),
        };
        (history.minutes(now), overhead)
    });
    let minute = |Minute { at, outcomes }| MinuteView { at, outcomes };
    let expiring = census.expiring.iter().map(|entry| entry.key());
    Ok(Reply::json(&View {
        now,
        in_flight: services.metrics.in_flight(),
        connections: services.metrics.connections().get(),
        minutes: minutes.into_iter().map(minute).collect(),
        overhead_seconds,
        keys: Keys {
            active: census.active,
            disabled: census.disabled,
            expired: census.expired,
        },
        expiring_count: census.expiring_count,
        expiring: expiring
            .map(|key| Expiring {
                id: key.id(),
                name: key.name(),
                account: key.account(),
                expires_at: key.expires_at().map(|time| time.to_string()),
            })
            .collect(),
        last_reload: LastReload::of(services),
        generation: services.table.generation(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::Key;
    use crate::policy::key::fixture::key_fields;

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
            let census = Census::of(&table, at(now));
            let counted = (census.active, census.expired, census.expiring_count);
            assert_eq!((census.until, counted), (until.map(at), counts), "{now}");
            assert!(census.holds(generation, at(now)));
            assert!(!census.holds(generation + 1, at(now)));
            assert!(
                !census.holds(generation, at(now - 1)),
                "the clock was set back"
            );
            if let Some(until) = until {
                assert!(census.holds(generation, at(until - 1)));
                assert!(!census.holds(generation, at(until)));
            }
        }
    }

    #[test]
    fn of_many_keys_that_end_soon_the_first_hundred_are_listed() {
        let ends = |place: i64| DAY + (place * 7919) % 250;
        let table = table((0..250).map(|place| key(&format!("key_{place}"), Some(ends(place)))));
        let census = Census::of(&table, at(0));
        assert_eq!((census.expiring_count, census.expiring.len()), (250, 100));
        let listed: Vec<_> = census
            .expiring
            .iter()
            .map(|entry| entry.key().expires_at().unwrap().seconds())
            .collect();
        assert_eq!(listed, (DAY..DAY + 100).collect::<Vec<_>>());
    }
}
