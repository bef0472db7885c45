//! What the database keeps: records, sums, uses of keys; and a batch of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::policy::price::Cost;
use crate::policy::usage::{Certainty, RequestCounts};

/// Seconds of an hour.
pub const HOUR: i64 = 3600;
/// Seconds of a day.
pub const DAY: i64 = 86_400;
/// A sum of counts grows no further. The database has the same limit, so that no numbers of an upstream overflow there;
/// JSON readers take up to it exactly.
pub(crate) const MAX_SUM: i64 = 1 << 53;
/// What the heap needs beside the bytes of a shared text, about.
const ALLOCATION: usize = 32;

/// One request that passed all checks. It has no content, no token and no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The gateway's id of the request.
    pub request_id: Box<str>,
    /// In milliseconds since 1970.
    pub started_at: i64,
    /// In milliseconds since 1970. The record counts in this hour.
    pub ended_at: i64,
    /// The key.
    pub key_id: Arc<str>,
    /// The key's account at that time.
    pub account: Option<Arc<str>>,
    /// The model, by its name in the catalogue.
    pub model: Arc<str>,
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The label of the route.
    pub route: Cow<'static, str>,
    /// The status that the client got.
    pub status: u16,
    /// How it ended.
    pub end: RecordEnd,
    /// The client's address, if it is known.
    pub client_address: Option<IpAddr>,
    /// To the response's first byte. None if there was none.
    pub first_byte_ms: Option<u32>,
    /// From the request's first byte to the response's last.
    pub duration_ms: u32,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// What it used.
    pub counts: RequestCounts,
    /// What it cost, by the price at that time.
    pub cost: Option<Cost>,
}

/// How a recorded request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordEnd {
    /// The client got all of it.
    Complete,
    /// The client left.
    ClientLeft,
    /// The key was revoked.
    Revoked,
    /// The upstream failed.
    UpstreamFailed,
}

impl RecordEnd {
    const ALL: [Self; 4] = [
        Self::Complete,
        Self::ClientLeft,
        Self::Revoked,
        Self::UpstreamFailed,
    ];

    /// Its name in the database and in the admin API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Revoked => "revoked",
            Self::UpstreamFailed => "upstream_failed",
        }
    }

    /// The end of a name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.label() == label)
    }
}

impl UsageRecord {
    /// Whether it counts as an error: its status is 400 or more, or the upstream failed.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.status >= 400 || self.end == RecordEnd::UpstreamFailed
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let account = self.account.as_deref().unwrap_or_default();
        [
            &*self.request_id,
            &*self.key_id,
            account,
            &*self.model,
            &*self.upstream,
        ]
        .into_iter()
        .fold(size_of::<Self>(), |sum, text| sum + ALLOCATION + text.len())
    }
}

/// Requests of a key that passed the checks before the body, since the last time this was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key_id: Arc<str>,
    /// The last such request, in seconds since 1970.
    pub last_used_at: i64,
    /// How many.
    pub requests: u64,
}

impl KeyUse {
    pub(crate) fn add(&mut self, requests: u64, last_used_at: i64) {
        self.requests = self.requests.saturating_add(requests);
        self.last_used_at = self.last_used_at.max(last_used_at);
    }
}

/// Sums of records. A count that no record knows is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSums {
    /// Records.
    pub requests: i64,
    /// Those of them that were errors.
    pub errors: i64,
    /// Those whose counts are *at least*.
    pub at_least: i64,
    /// Those whose counts are *unknown*.
    pub unknown: i64,
    /// Tokens of the input, cached ones included.
    pub input_tokens: Option<i64>,
    /// Cached tokens of the input.
    pub input_cached_tokens: Option<i64>,
    /// Tokens of the output, reasoning included.
    pub output_tokens: Option<i64>,
    /// Tokens of reasoning.
    pub output_reasoning_tokens: Option<i64>,
    /// Audio, in microseconds.
    pub audio_microseconds: Option<i64>,
    /// Images.
    pub images: Option<i64>,
    /// Cost, in millionths of the currency's unit.
    pub cost: Option<i64>,
}

impl UsageSums {
    /// The sums of one record.
    #[must_use]
    pub fn of(record: &UsageRecord) -> Self {
        let RequestCounts {
            input,
            input_cached,
            output,
            output_reasoning,
            audio_microseconds,
            images,
            certainty,
        } = record.counts;
        Self {
            requests: 1,
            errors: i64::from(record.is_error()),
            at_least: i64::from(certainty == Certainty::AtLeast),
            unknown: i64::from(certainty == Certainty::Unknown),
            input_tokens: input.map(whole),
            input_cached_tokens: input_cached.map(whole),
            output_tokens: output.map(whole),
            output_reasoning_tokens: output_reasoning.map(whole),
            audio_microseconds: audio_microseconds.map(whole),
            images: images.map(whole),
            cost: record.cost.map(|cost| whole(cost.millionths())),
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        let Self {
            requests,
            errors,
            at_least,
            unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_microseconds,
            images,
            cost,
        } = other;
        self.requests = self.requests.saturating_add(*requests);
        self.errors = self.errors.saturating_add(*errors);
        self.at_least = self.at_least.saturating_add(*at_least);
        self.unknown = self.unknown.saturating_add(*unknown);
        add_known(&mut self.input_tokens, *input_tokens);
        add_known(&mut self.input_cached_tokens, *input_cached_tokens);
        add_known(&mut self.output_tokens, *output_tokens);
        add_known(&mut self.output_reasoning_tokens, *output_reasoning_tokens);
        add_known(&mut self.audio_microseconds, *audio_microseconds);
        add_known(&mut self.images, *images);
        add_known(&mut self.cost, *cost);
    }
}

fn add_known(sum: &mut Option<i64>, other: Option<i64>) {
    if let Some(other) = other {
        *sum = Some(sum.unwrap_or(0).saturating_add(other).min(MAX_SUM));
    }
}

/// A count as databases keep it.
pub(crate) fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What sums are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SumsKey {
    /// The first second of the hour.
    pub hour: i64,
    /// The key.
    pub key_id: Arc<str>,
    /// The account, if any.
    pub account: Option<Arc<str>>,
    /// The model.
    pub model: Arc<str>,
    /// The upstream.
    pub upstream: Arc<str>,
}

impl SumsKey {
    fn of(record: &UsageRecord) -> Self {
        Self {
            hour: record.ended_at.div_euclid(1000).div_euclid(HOUR) * HOUR,
            key_id: Arc::clone(&record.key_id),
            account: record.account.clone(),
            model: Arc::clone(&record.model),
            upstream: Arc::clone(&record.upstream),
        }
    }
}

/// Sums by hour, key, account, model and upstream.
pub(crate) type SumsMap = HashMap<SumsKey, UsageSums>;

/// Adds a record to the sums.
pub(crate) fn add_to_sums(sums: &mut SumsMap, record: &UsageRecord) {
    sums.entry(SumsKey::of(record))
        .or_default()
        .add(&UsageSums::of(record));
}

/// What is written in one transaction. The number makes it count once, however often it is written.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The writer: another one for each start of a gateway.
    pub(crate) writer: Arc<str>,
    pub(crate) gateway: Arc<str>,
    /// Grows with each batch of the writer.
    pub(crate) number: i64,
    /// In seconds since 1970.
    pub(crate) now: i64,
    pub(crate) records: Vec<UsageRecord>,
    /// The sums of these records, and of records that were dropped.
    pub(crate) sums: SumsMap,
    pub(crate) key_uses: Vec<KeyUse>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sums.is_empty() && self.key_uses.is_empty()
    }
}
