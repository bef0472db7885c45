//! Reads the query of a question for usage, in the names of OpenAI's usage API. It does not know who asks: that decides
//! which parameters there are, and whose usage is shown.
//!
//! A parameter that is not known is refused. A filter that is ignored would give a wrong figure.

use crate::policy::audit::AuditAction;
use crate::policy::key::KeyId;
use crate::policy::time::UnixTime;
use crate::store::database::{
    AuditQuery, Bucket, DAY, GroupBy, HOUR, RecordEnd, RecordsQuery, SumsQuery,
};
use crate::store::strict_json::{FieldError, printable};

/// The longest range by the hour, in seconds.
const MAX_BY_HOUR: i64 = 31 * DAY;
/// The longest range by the day, in seconds.
const MAX_BY_DAY: i64 = 400 * DAY;
/// Buckets on a page, unless asked.
const HOURS_ON_PAGE: i64 = 24;
const DAYS_ON_PAGE: i64 = 7;
/// The most buckets on a page: those of the longest range, which touches one more than it is long. Where each has a row for
/// every key, so many would be too long an answer.
const MAX_HOURS_ON_PAGE: i64 = MAX_BY_HOUR / HOUR + 1;
const MAX_DAYS_ON_PAGE: i64 = MAX_BY_DAY / DAY + 1;
const MAX_ON_PAGE_BY_KEY: i64 = 31;
/// The most values of one filter.
const MAX_VALUES: usize = 100;
/// Records on a page, unless asked, and the most.
const RECORDS_ON_PAGE: u32 = 50;
const MAX_RECORDS_ON_PAGE: u32 = 1000;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A key, for its own usage.
    Key,
    /// The operator, for everyone's.
    Operator,
}

/// The decoded parameters of a query, in their order.
pub(crate) struct UsageParameters<'q>(pub(crate) &'q [(String, String)]);

/// A question for sums by bucket, one page of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SumsQuestion {
    /// The question for the page's buckets. Its range is whole buckets.
    pub(crate) sums: SumsQuery,
    /// Seconds of one bucket.
    pub(crate) width: i64,
    /// The first second of the next page. None: this is the last one.
    pub(crate) next: Option<i64>,
}

impl UsageParameters<'_> {
    /// The question for sums that these parameters ask. With `all_at_once` a page has all buckets unless a limit is asked.
    pub(crate) fn sums(
        &self,
        asker: Asker,
        now: UnixTime,
        all_at_once: bool,
    ) -> Result<SumsQuestion, FieldError> {
        const OF_KEY: &[&str] = &[
            "start_time",
            "end_time",
            "bucket_width",
            "group_by",
            "model",
            "limit",
            "page",
        ];
        const OF_OPERATOR: &[&str] = &["key", "account", "upstream"];
        self.refuse_others(match asker {
            Asker::Key => &[OF_KEY],
            Asker::Operator => &[OF_KEY, OF_OPERATOR],
        })?;
        let from = self.time("start_time")?.ok_or_else(|| {
            invalid(
                "start_time",
                "is missing; send Unix seconds or an RFC 3339 time",
            )
        })?;
        let to = self.time("end_time")?.unwrap_or(now.seconds());
        if from >= to {
            return Err(invalid(
                "start_time",
                "is not before end_time; send an earlier one",
            ));
        }
        let span = to.saturating_sub(from);
        let bucket = match (self.once("bucket_width")?, asker) {
            (None | Some("1d"), _) => Bucket::Day,
            (Some("1h"), _) => Bucket::Hour,
            (Some("all"), Asker::Operator) if span <= MAX_BY_HOUR => Bucket::WholeHours,
            (Some("all"), Asker::Operator) => Bucket::WholeDays,
            (Some(_), Asker::Operator) => {
                return Err(invalid(
                    "bucket_width",
                    "must be 1h, 1d, or all for one bucket",
                ));
            }
            (Some(_), Asker::Key) => return Err(invalid("bucket_width", "must be 1h or 1d")),
        };
        let group_by = self.group_by(asker)?;
        let (longest, on_page, most) = match bucket {
            Bucket::Hour => (MAX_BY_HOUR, HOURS_ON_PAGE, MAX_HOURS_ON_PAGE),
            Bucket::Day => (MAX_BY_DAY, DAYS_ON_PAGE, MAX_DAYS_ON_PAGE),
            Bucket::WholeHours | Bucket::WholeDays => (MAX_BY_DAY, 1, 1),
        };
        if span > longest {
            return Err(invalid(
                "start_time",
                &format!(
                    "is more than {} days before end_time; ask for a shorter range, or by wider buckets",
                    longest / DAY
                ),
            ));
        }
        let most = match group_by.key || group_by.account {
            true => most.min(MAX_ON_PAGE_BY_KEY),
            false => most,
        };
        let (first, end) = whole(from, to, bucket.width());
        let width = match bucket {
            Bucket::Hour | Bucket::Day => bucket.width(),
            Bucket::WholeHours | Bucket::WholeDays => end - first,
        };
        let on_page = match self.whole_number("limit", most)? {
            Some(limit) => limit,
            None if all_at_once => most,
            None => on_page,
        };
        let page = match self.once("page")? {
            None => first,
            Some(page) => place_of(page)
                .filter(|start| (first..end).contains(start) && (start - first) % width == 0)
                .ok_or_else(|| {
                    invalid(
                        "page",
                        "is no page of this range; take it from an answer's next_page",
                    )
                })?,
        };
        let page_end = page.saturating_add(on_page.saturating_mul(width)).min(end);
        Ok(SumsQuestion {
            sums: SumsQuery {
                from: page,
                to: page_end,
                bucket,
                group_by,
                keys: self.several("key")?,
                account: self.once("account")?.map(str::to_owned),
                model: self.once("model")?.map(str::to_owned),
                upstream: self.once("upstream")?.map(str::to_owned),
            },
            width,
            next: (page_end < end).then_some(page_end),
        })
    }

    /// The question for records that these parameters ask.
    pub(crate) fn records(&self) -> Result<RecordsQuery, FieldError> {
        self.refuse_others(&[&[
            "start_time",
            "end_time",
            "key",
            "account",
            "model",
            "upstream",
            "end",
            "after",
            "limit",
        ]])?;
        let text = |name| Ok(self.once(name)?.map(str::to_owned));
        let end = self.once("end")?.map(|label| {
            RecordEnd::of_label(label).ok_or_else(|| {
                invalid(
                    "end",
                    "must be complete, client_left, revoked or upstream_failed",
                )
            })
        });
        let after = self.once("after")?.map(|text| {
            place_of(text).ok_or_else(|| {
                invalid(
                    "after",
                    "is no place in the list; take it from an answer's next",
                )
            })
        });
        let limit = self.whole_number("limit", i64::from(MAX_RECORDS_ON_PAGE))?;
        Ok(RecordsQuery {
            key_id: text("key")?,
            account: text("account")?,
            model: text("model")?,
            upstream: text("upstream")?,
            end: end.transpose()?,
            from: self.time("start_time")?,
            to: self.time("end_time")?,
            after: after.transpose()?,
            limit: limit
                .and_then(|limit| u32::try_from(limit).ok())
                .unwrap_or(RECORDS_ON_PAGE),
        })
    }

    /// The question for audit rows that these parameters ask.
    pub(crate) fn audit(&self) -> Result<AuditQuery, FieldError> {
        self.refuse_others(&[&[
            "start_time",
            "end_time",
            "key",
            "account",
            "actor",
            "action",
            "after",
            "limit",
        ]])?;
        let text = |name| Ok(self.once(name)?.map(str::to_owned));
        let action = text("action")?;
        if let Some(action) = &action
            && AuditAction::of_label(action).is_none()
        {
            let known: Vec<&str> = AuditAction::labels().collect();
            let message = format!("must be one of {}", known.join(", "));
            return Err(invalid("action", &message));
        }
        let key_id = text("key")?;
        if let Some(id) = &key_id
            && KeyId::parse(id).is_err()
        {
            return Err(invalid("key", "must be the id of a key"));
        }
        let after = self.once("after")?.map(|text| {
            place_of(text).ok_or_else(|| {
                invalid(
                    "after",
                    "is no place in the list; take it from an answer's next",
                )
            })
        });
        let limit = self.whole_number("limit", i64::from(MAX_RECORDS_ON_PAGE))?;
        Ok(AuditQuery {
            key_id,
            account: text("account")?,
            actor: text("actor")?,
            action,
            from: self.time("start_time")?,
            to: self.time("end_time")?,
            after: after.transpose()?,
            limit: limit
                .and_then(|limit| u32::try_from(limit).ok())
                .unwrap_or(RECORDS_ON_PAGE),
        })
    }

    fn refuse_others(&self, known: &[&[&str]]) -> Result<(), FieldError> {
        let is_known = |name: &str| known.iter().any(|names| names.contains(&name));
        match self.0.iter().find(|(name, _)| !is_known(plain(name))) {
            None => Ok(()),
            Some((name, _)) => Err(invalid(
                &printable(name),
                "is no known parameter; remove it",
            )),
        }
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |(known, _)| plain(known) == name);
        of_name.map(|(_, value)| value.as_str())
    }

    /// A parameter that may come once.
    fn once<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, FieldError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(invalid(name, "comes twice; send it once")),
        }
    }

    /// A parameter that may come several times.
    fn several(&self, name: &str) -> Result<Vec<String>, FieldError> {
        let values: Vec<String> = self.values(name).map(str::to_owned).collect();
        match values.len() <= MAX_VALUES {
            true => Ok(values),
            false => Err(invalid(
                name,
                &format!("comes over {MAX_VALUES} times; send fewer"),
            )),
        }
    }

    /// Names with commas between them, in one parameter or in several.
    fn group_by(&self, asker: Asker) -> Result<GroupBy, FieldError> {
        let mut group_by = GroupBy::default();
        for name in self.values("group_by").flat_map(|names| names.split(',')) {
            let by = match (name, asker) {
                ("model", _) => &mut group_by.model,
                ("key", Asker::Operator) => &mut group_by.key,
                ("account", Asker::Operator) => &mut group_by.account,
                ("upstream", Asker::Operator) => &mut group_by.upstream,
                (_, Asker::Operator) => {
                    return Err(invalid(
                        "group_by",
                        "must be key, account, model or upstream, or several with commas between them",
                    ));
                }
                (_, Asker::Key) => return Err(invalid("group_by", "must be model")),
            };
            *by = true;
        }
        Ok(group_by)
    }

    /// In seconds since 1970.
    fn time(&self, name: &str) -> Result<Option<i64>, FieldError> {
        let Some(text) = self.once(name)? else {
            return Ok(None);
        };
        let time = match place_of(text) {
            // A later time has no RFC 3339 form, and may be one in milliseconds.
            Some(seconds) => Some(UnixTime::from_seconds(seconds))
                .filter(|time| UnixTime::parse(&time.to_string()) == Ok(*time)),
            None => UnixTime::parse(text).ok(),
        };
        time.map(|time| Some(time.seconds())).ok_or_else(|| {
            invalid(
                name,
                "must be Unix seconds, or an RFC 3339 time with its zone like 2027-02-01T00:00:00Z",
            )
        })
    }

    fn whole_number(&self, name: &str, most: i64) -> Result<Option<i64>, FieldError> {
        let Some(text) = self.once(name)? else {
            return Ok(None);
        };
        place_of(text)
            .filter(|number| (1..=most).contains(number))
            .map(Some)
            .ok_or_else(|| invalid(name, &format!("must be a number from 1 to {most}")))
    }
}

/// OpenAI's libraries write a list's name with brackets.
fn plain(name: &str) -> &str {
    match name {
        "group_by[]" => "group_by",
        "key[]" => "key",
        name => name,
    }
}

/// A whole number, digits only.
fn place_of(text: &str) -> Option<i64> {
    let is_plain = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_plain.then(|| text.parse().ok())?
}

/// The range in whole buckets.
fn whole(from: i64, to: i64, width: i64) -> (i64, i64) {
    let first = from.div_euclid(width) * width;
    let end = (to - 1).div_euclid(width) * width + width;
    (first, end)
}

fn invalid(field: &str, message: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn pairs(query: &str) -> Vec<(String, String)> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn sums(asker: Asker, query: &str) -> Result<SumsQuestion, FieldError> {
        let now = UnixTime::from_seconds(NOW);
        UsageParameters(&pairs(query)).sums(asker, now, false)
    }

    #[test]
    fn a_range_is_whole_buckets_and_a_page_has_a_week_or_a_day() {
        // NOW is 2027-01-15T08:00:00Z.
        let days = sums(Asker::Key, "start_time=2027-01-01T23:30:00Z").unwrap();
        let first = 1_798_761_600;
        assert_eq!((days.sums.from, days.sums.to), (first, first + 7 * DAY));
        assert_eq!((days.width, days.next), (DAY, Some(first + 7 * DAY)));
        let query = format!(
            "start_time=2027-01-01T23:30:00Z&page={}&limit=8",
            first + 7 * DAY
        );
        let rest = sums(Asker::Key, &query).unwrap();
        assert_eq!(
            (rest.sums.from, rest.sums.to),
            (first + 7 * DAY, first + 15 * DAY)
        );
        assert_eq!(rest.next, None);
        let hours = format!("start_time={}&bucket_width=1h&end_time={NOW}", NOW - 1);
        let hours = sums(Asker::Key, &hours).unwrap();
        assert_eq!((hours.sums.from, hours.sums.to), (NOW - HOUR, NOW));
        assert_eq!((hours.sums.bucket, hours.next), (Bucket::Hour, None));
    }

    #[test]
    fn the_whole_range_can_be_one_bucket() {
        for (days, bucket) in [(31, Bucket::WholeHours), (32, Bucket::WholeDays)] {
            let from = NOW - days * DAY;
            let query = format!("start_time={from}&bucket_width=all&group_by=key,model");
            let whole = sums(Asker::Operator, &query).unwrap();
            assert_eq!(whole.sums.bucket, bucket);
            assert_eq!(
                (whole.next, whole.width),
                (None, whole.sums.to - whole.sums.from)
            );
            assert!(whole.sums.group_by.key && whole.sums.group_by.model);
        }
    }

    #[test]
    fn a_list_is_read_in_every_form_that_libraries_write() {
        for query in [
            "group_by=key,model",
            "group_by=key&group_by=model",
            "group_by[]=key&group_by[]=model",
        ] {
            let asked = sums(Asker::Operator, &format!("start_time={}&{query}", NOW - 1)).unwrap();
            let both = GroupBy {
                key: true,
                model: true,
                ..GroupBy::default()
            };
            assert_eq!(asked.sums.group_by, both, "{query}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_field() {
        let late = NOW - 1;
        for (query, field) in [
            ("", "start_time"),
            ("start_time=", "start_time"),
            ("start_time=yesterday", "start_time"),
            ("start_time=-1", "start_time"),
            ("start_time=1800000000000", "start_time"),
            ("start_time=2027-01-01", "start_time"),
            ("start_time=1800000000", "start_time"),
            ("start_time=1&start_time=2", "start_time"),
            ("start_time=1700000000", "start_time"),
            ("start_time=1797000000&bucket_width=1h", "start_time"),
            ("start_time=1&end_time=1", "start_time"),
            ("start_time=1&end_time=x", "end_time"),
            (
                &format!("start_time={late}&bucket_width=1m"),
                "bucket_width",
            ),
            (
                &format!("start_time={late}&bucket_width=all"),
                "bucket_width",
            ),
            (&format!("start_time={late}&group_by=key"), "group_by"),
            (&format!("start_time={late}&group_by="), "group_by"),
            (&format!("start_time={late}&limit=0"), "limit"),
            (&format!("start_time={late}&limit=402"), "limit"),
            (&format!("start_time={late}&limit=+7"), "limit"),
            (&format!("start_time={late}&page=1"), "page"),
            (&format!("start_time={late}&page=next"), "page"),
            (&format!("start_time={late}&key=key_1"), "key"),
            (&format!("start_time={late}&account=a"), "account"),
            (&format!("start_time={late}&upstream=a"), "upstream"),
            (&format!("start_time={late}&x=a"), "x"),
        ] {
            let error = sums(Asker::Key, query).unwrap_err();
            assert_eq!(error.field, field, "{query}: {error}");
        }
        let error = sums(
            Asker::Operator,
            &format!("start_time={late}&group_by=key&limit=32"),
        )
        .unwrap_err();
        assert_eq!(error.field, "limit");
    }

    #[test]
    fn the_longest_ranges_are_taken() {
        for (days, width) in [(31, "1h"), (400, "1d")] {
            let query = format!("start_time={}&bucket_width={width}", NOW - days * DAY);
            assert!(sums(Asker::Key, &query).is_ok(), "{width}");
        }
    }

    #[test]
    fn records_are_asked_by_filters_and_a_bad_one_is_refused() {
        let query = "key=k&account=a&model=m&upstream=u&end=client_left&after=7&limit=1000&start_time=1&end_time=2";
        let asked = UsageParameters(&pairs(query)).records().unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expected = RecordsQuery {
            key_id: text("k"),
            account: text("a"),
            model: text("m"),
            upstream: text("u"),
            end: Some(RecordEnd::ClientLeft),
            from: Some(1),
            to: Some(2),
            after: Some(7),
            limit: 1000,
        };
        assert_eq!(asked, expected);
        for (query, field) in [
            ("end=done", "end"),
            ("after=x", "after"),
            ("limit=1001", "limit"),
            ("group_by=key", "group_by"),
            ("key=a&key=b", "key"),
        ] {
            assert_eq!(
                UsageParameters(&pairs(query)).records().unwrap_err().field,
                field
            );
        }
    }
}
