//! The refused requests of the last hour, by key, client address and reason, for operators who look for the cause.
//!
//! Only refused requests pay for it. Memory is bounded: anybody can cause refused requests, from many addresses, so when
//! [`MOST_ROWS`] are known, a quarter of them goes: those without a key first, then those that are longest ago. So a flood
//! of requests without a key drops a key's refusals last. It never holds a token.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::observe::lock::lock;
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;

/// The most rows that are kept. A row takes about 200 bytes.
const MOST_ROWS: usize = 4096;
/// Requests are counted in parts of the hour, of this many seconds each.
const PART_SECONDS: i64 = 5 * 60;
/// How many parts are kept, including the current one.
const PARTS: i64 = 12;

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct RecentRefusals(Mutex<HashMap<RefusalSource, RefusalCounts>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct RefusalSource {
    key_id: Option<Box<str>>,
    client: ClientAddress,
    reason: &'static str,
}

#[derive(Debug)]
struct RefusalCounts {
    last: UnixTime,
    /// By number of the part, modulo their count.
    parts: [u32; PARTS as usize],
}

/// Equal refusals of the last hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusalRow {
    /// The key, if the token is one's. It may be disabled or expired.
    pub(crate) key_id: Option<Box<str>>,
    /// The client's address.
    pub(crate) client: ClientAddress,
    /// The error's code.
    pub(crate) reason: &'static str,
    /// How many.
    pub(crate) count: u64,
    /// When the last one was.
    pub(crate) last: UnixTime,
}

impl RecentRefusals {
    /// Counts one.
    pub(super) fn record(
        &self,
        key_id: Option<&str>,
        client: ClientAddress,
        reason: &'static str,
        now: UnixTime,
    ) {
        let source = RefusalSource {
            key_id: key_id.map(Into::into),
            client,
            reason,
        };
        let mut rows = lock(&self.0);
        if rows.len() >= MOST_ROWS && !rows.contains_key(&source) {
            make_room(&mut rows);
        }
        let counts = rows.entry(source).or_insert(RefusalCounts {
            last: now,
            parts: [0; PARTS as usize],
        });
        counts.advance(now);
        let part = &mut counts.parts[place_of(part_of(now))];
        *part = part.saturating_add(1);
    }

    /// Those of the last hour, the latest first; of one key, if it is named.
    #[must_use]
    pub(crate) fn rows(&self, key_id: Option<&str>, now: UnixTime) -> Vec<RefusalRow> {
        let rows = lock(&self.0);
        let wanted = rows
            .iter()
            .filter(|(source, _)| key_id.is_none() || source.key_id.as_deref() == key_id);
        let mut found: Vec<RefusalRow> = wanted
            .map(|(source, counts)| RefusalRow {
                key_id: source.key_id.clone(),
                client: source.client,
                reason: source.reason,
                count: counts.within_hour(now),
                last: counts.last,
            })
            .filter(|row| row.count > 0)
            .collect();
        drop(rows);
        found.sort_by(|one, other| {
            let order = |row: &RefusalRow| (row.last, row.count);
            order(other).cmp(&order(one))
        });
        found
    }
}

impl RefusalCounts {
    /// Empties the parts between the last refusal and this one.
    fn advance(&mut self, now: UnixTime) {
        let (before, current) = (part_of(self.last), part_of(now));
        // After the clock was set back, the counts belong to times that are still to come.
        let passed = current - before;
        if !(0..PARTS).contains(&passed) {
            self.parts = [0; PARTS as usize];
        }
        for part in before + 1..=current.min(before + PARTS) {
            self.parts[place_of(part)] = 0;
        }
        self.last = now;
    }

    fn within_hour(&self, now: UnixTime) -> u64 {
        let (last, current) = (part_of(self.last), part_of(now));
        (last - PARTS + 1..=last)
            .filter(|part| (current - PARTS + 1..=current).contains(part))
            .map(|part| u64::from(self.parts[place_of(part)]))
            .sum()
    }
}

fn part_of(time: UnixTime) -> i64 {
    time.seconds().div_euclid(PART_SECONDS)
}

fn place_of(part: i64) -> usize {
    usize::try_from(part.rem_euclid(PARTS)).unwrap_or(0)
}

/// Drops a quarter of the rows, so that this is rarely needed.
fn make_room(rows: &mut HashMap<RefusalSource, RefusalCounts>) {
    let rank =
        |source: &RefusalSource, counts: &RefusalCounts| (source.key_id.is_some(), counts.last);
    let mut ranks: Vec<_> = rows
        .iter()
        .map(|(source, counts)| rank(source, counts))
        .collect();
    let (_, &mut least_kept, _) = ranks.select_nth_unstable(MOST_ROWS / 4);
    let mut room = MOST_ROWS / 4;
    rows.retain(|source, counts| {
        let goes = room > 0 && rank(source, counts) <= least_kept;
        room -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv6Addr};

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn client(number: u128) -> ClientAddress {
        ClientAddress::Known(IpAddr::V6(Ipv6Addr::from(number)))
    }

    #[test]
    fn equal_refusals_are_one_row_for_an_hour() {
        let refusals = RecentRefusals::default();
        let start = 1_800_000_000;
        for minute in 0..30 {
            refusals.record(
                Some("key_1"),
                client(1),
                "model_not_found",
                at(start + minute * 60),
            );
        }
        refusals.record(None, client(1), "invalid_api_key", at(start + 60));
        refusals.record(Some("key_1"), client(2), "model_not_found", at(start + 120));
        let counts = |now: i64| -> Vec<u64> {
            let rows = refusals.rows(None, at(start + now * 60));
            rows.iter().map(|row| row.count).collect()
        };
        assert_eq!(counts(30), [30, 1, 1]);
        let first = &refusals.rows(None, at(start + 30 * 60))[0];
        assert_eq!((first.last, first.client), (at(start + 29 * 60), client(1)));
        assert_eq!(refusals.rows(Some("key_1"), at(start)).len(), 2);
        assert_eq!(refusals.rows(Some("key_2"), at(start)), []);
        assert_eq!(counts(61), [25], "whole parts of five minutes go");
        assert_eq!(counts(80), [5]);
        assert_eq!(counts(90), [0; 0]);
        // After a pause, the old counts are not there again.
        refusals.record(
            Some("key_1"),
            client(1),
            "model_not_found",
            at(start + 90 * 60),
        );
        assert_eq!(counts(90), [1]);
        refusals.record(Some("key_1"), client(1), "model_not_found", at(start));
        assert_eq!(counts(0)[0], 1, "the clock was set back");
    }

    #[test]
    fn a_flood_takes_bounded_memory_and_drops_no_keys_refusals() {
        let refusals = RecentRefusals::default();
        for number in 0..100 {
            refusals.record(Some("key_1"), client(number), "ip_not_authorized", at(0));
        }
        for number in 0..20_000 {
            refusals.record(None, client(number), "invalid_api_key", at(1));
            assert!(lock(&refusals.0).len() <= MOST_ROWS);
        }
        assert_eq!(refusals.rows(Some("key_1"), at(1)).len(), 100);
        let all = refusals.rows(None, at(1));
        assert!(all.len() > MOST_ROWS / 2);
        let last = client(19_999);
        assert!(
            all.iter().any(|row| row.client == last),
            "the latest is kept"
        );
        for number in 0..20_000 {
            refusals.record(Some("key_2"), client(number), "ip_not_authorized", at(2));
        }
        assert!(lock(&refusals.0).len() <= MOST_ROWS);
    }
}
