//! Writes usage as JSON in the shape of OpenAI's usage API, and as CSV.
//!
//! A count that no record knows is null, and an empty cell in CSV. Costs and seconds are decimal texts, so that no reader
//! rounds them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::http::usage_query::SumsQuestion;
use crate::policy::price::Millionths;
use crate::policy::text::is_harmless;
use crate::policy::time::UnixTime;
use crate::store::database::{StoredRecord, SumsRow, UsageSums};

/// A page of buckets.
#[derive(Serialize)]
pub(crate) struct UsagePage<'r> {
    object: &'static str,
    data: Vec<UsageBucket<'r>>,
    has_more: bool,
    next_page: Option<String>,
    currency: &'r str,
    /// Names of the keys in it, by id. Left out where nobody gave them.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<KeyNames>,
}

/// Names of keys by id. A deleted key has none.
pub(crate) type KeyNames = BTreeMap<String, String>;

#[derive(Serialize)]
struct UsageBucket<'r> {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<UsageResult<'r>>,
}

/// The sums of one group. What the rows are not grouped by is left out, save for the model, which OpenAI's API has always.
#[derive(Serialize)]
struct UsageResult<'r> {
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    /// Outer None: not grouped by it. Inner None: keys without an account.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<Option<&'r str>>,
    model: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'r str>,
    num_model_requests: i64,
    num_errors: i64,
    num_at_least: i64,
    num_unknown: i64,
    input_tokens: Option<i64>,
    input_cached_tokens: Option<i64>,
    output_tokens: Option<i64>,
    output_reasoning_tokens: Option<i64>,
    audio_seconds: Option<String>,
    images: Option<i64>,
    cost: Option<String>,
}

impl<'r> UsagePage<'r> {
    /// The page of a question, from the rows that answer it, which are in the order of their buckets.
    pub(crate) fn of(question: &SumsQuestion, rows: &'r [SumsRow], currency: &'r str) -> Self {
        let (mut data, mut rows) = (Vec::new(), rows.iter().peekable());
        let mut start = question.sums.from;
        while start < question.sums.to {
            let end = start.saturating_add(question.width);
            let mut results = Vec::new();
            while let Some(row) = rows.next_if(|row| row.start < end) {
                results.push(UsageResult::of(row));
            }
            data.push(UsageBucket {
                object: "bucket",
                start_time: start,
                end_time: end,
                results,
            });
            start = end;
        }
        Self {
            object: "page",
            data,
            has_more: question.next.is_some(),
            next_page: question.next.map(|next| next.to_string()),
            currency,
            names: None,
        }
    }

    /// The same with the names of its keys.
    pub(crate) fn with_names(self, names: KeyNames) -> Self {
        Self {
            names: Some(names),
            ..self
        }
    }
}

impl<'r> UsageResult<'r> {
    fn of(row: &'r SumsRow) -> Self {
        let UsageSums {
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
        } = row.sums;
        Self {
            object: "organization.usage.completions.result",
            key: row.key_id.as_deref(),
            account: row
                .account
                .as_deref()
                .map(|account| Some(account).filter(|account| !account.is_empty())),
            model: row.model.as_deref(),
            upstream: row.upstream.as_deref(),
            num_model_requests: requests,
            num_errors: errors,
            num_at_least: at_least,
            num_unknown: unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_seconds: audio_microseconds.map(decimal),
            images,
            cost: cost.map(decimal),
        }
    }
}

/// A page of records.
#[derive(Serialize)]
pub(crate) struct RecordsPage<'r> {
    records: Vec<RecordView<'r>>,
    next: Option<String>,
    currency: &'r str,
    names: KeyNames,
}

#[derive(Serialize)]
struct RecordView<'r> {
    request_id: &'r str,
    gateway: &'r str,
    started_at: String,
    ended_at: String,
    key_id: &'r str,
    account: Option<&'r str>,
    model: &'r str,
    upstream: &'r str,
    route: &'r str,
    status: i64,
    end: &'r str,
    client_address: Option<&'r str>,
    first_byte_ms: Option<i64>,
    duration_ms: i64,
    bytes_in: i64,
    bytes_out: i64,
    input_tokens: Option<u64>,
    input_cached_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_reasoning_tokens: Option<u64>,
    audio_seconds: Option<String>,
    images: Option<u64>,
    certainty: &'static str,
    cost: Option<String>,
}

impl<'r> RecordsPage<'r> {
    /// A page of these records. `next`: the last one's id, if there are more.
    pub(crate) fn of(
        records: &'r [StoredRecord],
        next: Option<i64>,
        currency: &'r str,
        names: KeyNames,
    ) -> Self {
        Self {
            records: records.iter().map(RecordView::of).collect(),
            next: next.map(|next| next.to_string()),
            currency,
            names,
        }
    }
}

impl<'r> RecordView<'r> {
    fn of(record: &'r StoredRecord) -> Self {
        let counts = &record.counts;
        let audio = counts.audio_microseconds;
        Self {
            request_id: &record.request_id,
            gateway: &record.gateway,
            started_at: with_milliseconds(record.started_at),
            ended_at: with_milliseconds(record.ended_at),
            key_id: &record.key_id,
            account: record.account.as_deref(),
            model: &record.model,
            upstream: &record.upstream,
            route: &record.route,
            status: record.status,
            end: &record.end,
            client_address: record.client_address.as_deref(),
            first_byte_ms: record.first_byte_ms,
            duration_ms: record.duration_ms,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            input_tokens: counts.input,
            input_cached_tokens: counts.input_cached,
            output_tokens: counts.output,
            output_reasoning_tokens: counts.output_reasoning,
            audio_seconds: audio.map(|audio| decimal(i64::try_from(audio).unwrap_or(i64::MAX))),
            images: counts.images,
            certainty: counts.certainty.label(),
            cost: record.cost.map(decimal),
        }
    }
}

/// The sums as CSV (RFC 4180), with a line of headings.
pub(crate) fn sums_csv(
    question: &SumsQuestion,
    rows: &[SumsRow],
    currency: &str,
    names: &KeyNames,
) -> String {
    let mut csv = CsvWriter::with_headings(
        "start_time,end_time,key,key_name,account,model,upstream,num_model_requests,num_errors,num_at_least,num_unknown,\
         input_tokens,input_cached_tokens,output_tokens,output_reasoning_tokens,audio_seconds,images,cost,currency",
    );
    for row in rows {
        let (result, sums) = (UsageResult::of(row), &row.sums);
        csv.text(Some(&UnixTime::from_seconds(row.start).to_string()));
        let end = row.start.saturating_add(question.width);
        csv.text(Some(&UnixTime::from_seconds(end).to_string()));
        for name in [
            result.key,
            name_of(result.key, names),
            result.account.flatten(),
            result.model,
            result.upstream,
        ] {
            csv.text(name);
        }
        for count in [sums.requests, sums.errors, sums.at_least, sums.unknown] {
            csv.number(Some(count));
        }
        csv.number(sums.input_tokens);
        csv.number(sums.input_cached_tokens);
        csv.number(sums.output_tokens);
        csv.number(sums.output_reasoning_tokens);
        csv.text(result.audio_seconds.as_deref());
        csv.number(sums.images);
        csv.text(result.cost.as_deref());
        csv.text(Some(currency));
        csv.end_line();
    }
    csv.text
}

/// Records as CSV, with a line of headings.
pub(crate) fn records_csv(records: &[StoredRecord], currency: &str, names: &KeyNames) -> String {
    let mut csv = CsvWriter::with_headings(
        "request_id,gateway,started_at,ended_at,key_id,key_name,account,model,upstream,route,status,end,client_address,\
         first_byte_ms,duration_ms,bytes_in,bytes_out,input_tokens,input_cached_tokens,output_tokens,\
         output_reasoning_tokens,audio_seconds,images,certainty,cost,currency",
    );
    for record in records {
        let view = RecordView::of(record);
        csv.text(Some(view.request_id));
        csv.text(Some(view.gateway));
        csv.text(Some(&view.started_at));
        csv.text(Some(&view.ended_at));
        csv.text(Some(view.key_id));
        csv.text(name_of(Some(view.key_id), names));
        csv.text(view.account);
        csv.text(Some(view.model));
        csv.text(Some(view.upstream));
        csv.text(Some(view.route));
        csv.number(Some(view.status));
        csv.text(Some(view.end));
        csv.text(view.client_address);
        csv.number(view.first_byte_ms);
        for number in [view.duration_ms, view.bytes_in, view.bytes_out] {
            csv.number(Some(number));
        }
        csv.number(view.input_tokens);
        csv.number(view.input_cached_tokens);
        csv.number(view.output_tokens);
        csv.number(view.output_reasoning_tokens);
        csv.text(view.audio_seconds.as_deref());
        csv.number(view.images);
        csv.text(Some(view.certainty));
        csv.text(view.cost.as_deref());
        csv.text(Some(currency));
        csv.end_line();
    }
    csv.text
}

fn name_of<'n>(id: Option<&str>, names: &'n KeyNames) -> Option<&'n str> {
    id.and_then(|id| names.get(id)).map(String::as_str)
}

/// Writes CSV as RFC 4180 says, with nothing in it that steers a terminal or a spreadsheet.
pub(crate) struct CsvWriter {
    text: String,
    line_begins: bool,
}

impl CsvWriter {
    pub(crate) fn with_headings(headings: &str) -> Self {
        Self {
            text: format!("{headings}\r\n"),
            line_begins: true,
        }
    }

    fn separate(&mut self) {
        if !self.line_begins {
            self.text.push(',');
        }
        self.line_begins = false;
    }

    pub(crate) fn number(&mut self, number: Option<impl std::fmt::Display>) {
        self.separate();
        if let Some(number) = number {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{number}");
        }
    }

    pub(crate) fn text(&mut self, text: Option<&str>) {
        self.separate();
        let text = text.unwrap_or_default();
        // Spreadsheets take a cell that begins so for a formula, and a name in it may come from elsewhere.
        let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let quoted = formula || text.contains([',', '"']);
        self.text.push_str(if quoted { "\"" } else { "" });
        self.text.push_str(if formula { "'" } else { "" });
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\"\""),
                // Others could steer the terminal of who prints it.
                character if !is_harmless(character) => {
                    self.text.extend(character.escape_unicode());
                }
                character => self.text.push(character),
            }
        }
        self.text.push_str(if quoted { "\"" } else { "" });
    }

    pub(crate) fn end_line(&mut self) {
        self.text.push_str("\r\n");
        self.line_begins = true;
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

fn decimal(millionths: i64) -> String {
    Millionths(millionths).to_string()
}

/// A time in milliseconds since 1970, in RFC 3339.
pub(crate) fn with_milliseconds(time: i64) -> String {
    let seconds = UnixTime::from_seconds(time.div_euclid(1000)).to_string();
    let seconds = seconds.trim_end_matches('Z');
    format!("{seconds}.{:03}Z", time.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::usage_query::{Asker, UsageParameters};
    use crate::policy::usage::{Certainty, RequestCounts};
    use crate::store::database::DAY;

    fn question(query: &[(&str, &str)]) -> SumsQuestion {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let pairs: Vec<_> = query.iter().map(own).collect();
        let now = UnixTime::from_seconds(10 * DAY);
        let parameters = UsageParameters(&pairs);
        parameters.sums(Asker::Operator, now, false).unwrap()
    }

    fn row(start: i64, account: &str, sums: UsageSums) -> SumsRow {
        SumsRow {
            start,
            key_id: None,
            account: Some(account.to_owned()),
            model: Some("=m,\"x\"".to_owned()),
            upstream: None,
            sums,
        }
    }

    fn known() -> UsageSums {
        UsageSums {
            requests: 3,
            errors: 1,
            at_least: 1,
            unknown: 1,
            input_tokens: Some(9),
            input_cached_tokens: Some(0),
            output_tokens: None,
            output_reasoning_tokens: None,
            audio_microseconds: Some(1_500_000),
            images: None,
            cost: Some(20),
        }
    }

    #[test]
    fn a_page_has_every_bucket_and_the_shape_of_openai() {
        let question = question(&[
            ("start_time", "0"),
            ("limit", "3"),
            ("group_by", "account,model"),
        ]);
        let rows = [
            row(DAY, "", known()),
            row(DAY, "team", UsageSums::default()),
        ];
        let page = serde_json::to_value(UsagePage::of(&question, &rows, "EUR")).unwrap();
        assert_eq!(page["object"], "page");
        assert_eq!(
            (&page["has_more"], &page["next_page"]),
            (&json!(true), &json!("259200"))
        );
        assert_eq!(page["currency"], "EUR");
        let data = page["data"].as_array().unwrap();
        let starts: Vec<&Value> = data.iter().map(|bucket| &bucket["start_time"]).collect();
        assert_eq!(starts, [&json!(0), &json!(DAY), &json!(2 * DAY)]);
        assert_eq!(
            (&data[0]["object"], &data[0]["end_time"]),
            (&json!("bucket"), &json!(DAY))
        );
        assert_eq!(data[0]["results"], json!([]));
        let result = json!({
            "object": "organization.usage.completions.result", "account": null, "model": "=m,\"x\"",
            "num_model_requests": 3, "num_errors": 1, "num_at_least": 1, "num_unknown": 1,
            "input_tokens": 9, "input_cached_tokens": 0, "output_tokens": null, "output_reasoning_tokens": null,
            "audio_seconds": "1.5", "images": null, "cost": "0.00002",
        });
        assert_eq!(data[1]["results"][0], result);
        assert_eq!(data[1]["results"][1]["account"], "team");
    }

    #[test]
    fn csv_quotes_what_needs_it_and_no_cell_is_a_formula() {
        let question = question(&[("start_time", "0"), ("group_by", "account,model")]);
        let csv = sums_csv(
            &question,
            &[row(DAY, "a,b", known())],
            "EUR",
            &KeyNames::new(),
        );
        let lines: Vec<&str> = csv.split("\r\n").collect();
        let expected = "1970-01-02T00:00:00Z,1970-01-03T00:00:00Z,,,\"a,b\",\"'=m,\"\"x\"\"\",,3,1,1,1,9,0,,,1.5,,0.00002,EUR";
        assert_eq!(lines[1..], [expected, ""]);
        let odd = sums_csv(
            &question,
            &[row(DAY, "a\u{202e}\u{1b}\n", known())],
            "EUR",
            &KeyNames::new(),
        );
        assert!(odd.contains(",a\\u{202e}\\u{1b}\\u{a},"), "{odd}");
        let columns = lines[0].split(',').count();
        assert_eq!((columns, &lines[0][..10]), (19, "start_time"));
    }

    #[test]
    fn a_record_has_its_times_to_the_millisecond_and_unknown_counts_are_null() {
        let record = StoredRecord {
            id: 7,
            request_id: "r".to_owned(),
            gateway: "g".to_owned(),
            started_at: 1_800_000_000_007,
            ended_at: 1_800_000_001_250,
            key_id: "key_1".to_owned(),
            account: None,
            model: "m".to_owned(),
            upstream: "u".to_owned(),
            route: "/v1/chat/completions".to_owned(),
            status: 200,
            end: "complete".to_owned(),
            client_address: None,
            first_byte_ms: None,
            duration_ms: 1243,
            bytes_in: 1,
            bytes_out: 2,
            counts: RequestCounts {
                certainty: Certainty::AtLeast,
                output: Some(5),
                ..RequestCounts::UNKNOWN
            },
            cost: Some(1_000_000),
        };
        let records = [record];
        let names = KeyNames::from([("key_1".to_owned(), "web, site".to_owned())]);
        let csv = records_csv(&records, "EUR", &names);
        assert!(csv.contains("key_1,\"web, site\",,m,"), "{csv}");
        let page = RecordsPage::of(&records, Some(7), "EUR", names);
        let page = serde_json::to_value(page).unwrap();
        assert_eq!(page["names"], json!({"key_1": "web, site"}));
        let view = &page["records"][0];
        assert_eq!(view["started_at"], "2027-01-15T08:00:00.007Z");
        assert_eq!(view["ended_at"], "2027-01-15T08:00:01.250Z");
        assert_eq!(
            (&view["input_tokens"], &view["output_tokens"]),
            (&Value::Null, &json!(5))
        );
        assert_eq!(
            (&view["cost"], &view["certainty"]),
            (&json!("1"), &json!("at_least"))
        );
        assert_eq!(page["next"], "7");
        let csv = records_csv(&records, "EUR", &KeyNames::new());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
        assert!(lines[1].ends_with(",5,,,,at_least,1,EUR"), "{}", lines[1]);
    }
}
