//! Questions to the database, and their answers.

use crate::policy::usage::RequestCounts;
use crate::store::database::record::{DAY, HOUR, RecordEnd, UsageSums};

/// The width of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// One hour, in UTC.
    Hour,
    /// One day, in UTC.
    Day,
    /// The whole range is one bucket; its sums are put together from days.
    WholeDays,
    /// The same from hours.
    WholeHours,
}

impl Bucket {
    /// Seconds of the sums that it is made of. The ends of the range are multiples of this.
    #[must_use]
    pub fn width(self) -> i64 {
        match self {
            Self::Hour | Self::WholeHours => HOUR,
            Self::Day | Self::WholeDays => DAY,
        }
    }
}

/// What the rows are grouped by, beside the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// A row for each key.
    pub key: bool,
    /// A row for each account.
    pub account: bool,
    /// A row for each model.
    pub model: bool,
    /// A row for each upstream.
    pub upstream: bool,
}

/// Asks for sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumsQuery {
    /// The first second of the range; the bucket that it is in counts whole.
    pub from: i64,
    /// The first second behind the range; the bucket that the second before it is in counts whole.
    pub to: i64,
    /// The width of a bucket.
    pub bucket: Bucket,
    /// What the rows are grouped by.
    pub group_by: GroupBy,
    /// Only these keys; empty: all.
    pub keys: Vec<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Only this model.
    pub model: Option<String>,
    /// Only this upstream.
    pub upstream: Option<String>,
}

impl SumsQuery {
    /// The range, to whole buckets.
    pub(crate) fn range(&self) -> (i64, i64) {
        let width = self.bucket.width();
        let from = self.from.div_euclid(width).saturating_mul(width);
        let last = self.to.saturating_sub(1).div_euclid(width);
        (from, last.saturating_add(1).saturating_mul(width))
    }

    /// The row that sums of one key belong to. None if the question does not ask for them.
    pub(crate) fn row_of(
        &self,
        start: i64,
        key_id: &str,
        account: &str,
        model: &str,
        upstream: &str,
    ) -> Option<SumsRow> {
        let (from, to) = self.range();
        let is_asked =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        let fits = (from..to).contains(&start)
            && (self.keys.is_empty() || self.keys.iter().any(|key| key == key_id))
            && is_asked(&self.account, account)
            && is_asked(&self.model, model)
            && is_asked(&self.upstream, upstream);
        let grouped = |by: bool, text: &str| by.then(|| text.to_owned());
        fits.then(|| SumsRow {
            start: match self.bucket {
                Bucket::Hour | Bucket::Day => start,
                Bucket::WholeDays | Bucket::WholeHours => from,
            },
            key_id: grouped(self.group_by.key, key_id),
            account: grouped(self.group_by.account, account),
            model: grouped(self.group_by.model, model),
            upstream: grouped(self.group_by.upstream, upstream),
            sums: UsageSums::default(),
        })
    }
}

/// The sums of one bucket and group. Buckets and groups without a record have no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumsRow {
    /// The first second of the bucket.
    pub start: i64,
    /// Where the rows are grouped by it: the key.
    pub key_id: Option<String>,
    /// Where the rows are grouped by it: the account; empty for keys without one.
    pub account: Option<String>,
    /// Where the rows are grouped by it: the model.
    pub model: Option<String>,
    /// Where the rows are grouped by it: the upstream.
    pub upstream: Option<String>,
    /// The sums.
    pub sums: UsageSums,
}

impl SumsRow {
    fn group(&self) -> (i64, [&Option<String>; 4]) {
        let Self {
            start,
            key_id,
            account,
            model,
            upstream,
            sums: _,
        } = self;
        (*start, [key_id, account, model, upstream])
    }

    pub(crate) fn is_of_group(&self, other: &Self) -> bool {
        self.group() == other.group()
    }

    /// The order of the rows: by bucket, then by group.
    pub(crate) fn compare(&self, other: &Self) -> std::cmp::Ordering {
        self.group().cmp(&other.group())
    }
}

/// Asks for single records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsQuery {
    /// Only this key.
    pub key_id: Option<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Only this model.
    pub model: Option<String>,
    /// Only this upstream.
    pub upstream: Option<String>,
    /// Only this end.
    pub end: Option<RecordEnd>,
    /// Only records that ended at this second or later.
    pub from: Option<i64>,
    /// Only records that ended before this second.
    pub to: Option<i64>,
    /// Only records behind this one: the `id` of the last one of the page before.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// A record as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Grows with each record.
    pub id: i64,
    /// The gateway's id of the request.
    pub request_id: String,
    /// The gateway.
    pub gateway: String,
    /// In milliseconds since 1970.
    pub started_at: i64,
    /// In milliseconds since 1970.
    pub ended_at: i64,
    /// The key.
    pub key_id: String,
    /// The account.
    pub account: Option<String>,
    /// The model.
    pub model: String,
    /// The upstream.
    pub upstream: String,
    /// The route.
    pub route: String,
    /// The status.
    pub status: i64,
    /// How it ended, by its name.
    pub end: String,
    /// The client's address.
    pub client_address: Option<String>,
    /// To the first byte.
    pub first_byte_ms: Option<i64>,
    /// In all.
    pub duration_ms: i64,
    /// Bytes of the request body.
    pub bytes_in: i64,
    /// Bytes of the response body.
    pub bytes_out: i64,
    /// What it used.
    pub counts: RequestCounts,
    /// In millionths of the currency's unit.
    pub cost: Option<i64>,
}

/// How often a key was used in all, and when last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyUse {
    /// The key.
    pub key_id: String,
    /// In seconds since 1970.
    pub last_used_at: i64,
    /// Requests that passed the checks before the body.
    pub requests: u64,
}
