//! `keygate usage` and `keygate usage records`

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{self, escaped, print};
use crate::cli::{UsageArgs, UsageBy, UsageCommand, UsageFilters, UsageForm, UsageRecordsArgs};
use crate::policy::price::Millionths;
use crate::policy::time::UnixTime;
use crate::request_body::model::form_query;
use crate::runtime::wall_clock::now;

/// The most buckets of a range of 400 days.
const MOST_DAYS: &str = "401";
const DEFAULT_DAYS: i64 = 7;
const DAY: i64 = 86_400;

pub(super) fn run(args: &UsageArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(UsageCommand::Records(args)) => records(args),
        None => sums(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn sums(args: &UsageArgs) -> Result<(), CommandError> {
    let (filters, now) = (&args.filters, now());
    let week_ago = now.plus(-DEFAULT_DAYS * DAY);
    let (from, to) = (filters.from.unwrap_or(week_ago), filters.to.unwrap_or(now));
    if from >= to {
        let message = "--from is not before --to; without them they are 7 days ago and now";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let mut query = Parameters::of(filters);
    if filters.from.is_none() {
        query.add("start_time", from.seconds());
    }
    match args.by {
        UsageBy::Day => {
            query.add("bucket_width", "1d");
            query.add("limit", MOST_DAYS);
        }
        by => {
            query.add("bucket_width", "all");
            query.add("group_by", by.name());
        }
    }
    let target = query.target("/api/usage");
    let Some(page) = ask(&args.form, &target)? else {
        return Ok(());
    };
    let mut lines = sums_of(&page, args.by);
    if args.by != UsageBy::Day {
        sort(&mut lines);
    }
    let currency = page["currency"].as_str().map(escaped).unwrap_or_default();
    print(table(args.by, lines, &currency, output::terminal_width()))
}

fn records(args: &UsageRecordsArgs) -> Result<(), CommandError> {
    if let (Some(from), Some(to)) = (args.filters.from, args.filters.to)
        && from >= to
    {
        let message = "--from is not before --to; name an earlier start or a later end";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let mut query = Parameters::of(&args.filters);
    query.add("limit", args.limit);
    if let Some(end) = args.end {
        query.add("end", end.name());
    }
    let Some(page) = ask(&args.form, &query.target("/api/usage/records"))? else {
        return Ok(());
    };
    let records = page["records"].as_array().into_iter().flatten();
    let headings = [
        "ENDED", "KEY", "MODEL", "STATUS", "END", "INPUT", "OUTPUT", "COST", "REQUEST",
    ];
    let row = |record: &Value| {
        let cell = |field: &str| shown(&record[field]);
        [
            cell("ended_at"),
            key_shown(&page, &record["key_id"]),
            cell("model"),
            cell("status"),
            cell("end"),
            cell("input_tokens"),
            cell("output_tokens"),
            cell("cost"),
            cell("request_id"),
        ]
    };
    print(output::table(headings, records.map(row).collect()))
}

/// Asks, and prints the answer where it is wanted as it is. Otherwise returns it.
fn ask(form: &UsageForm, target: &str) -> Result<Option<Value>, CommandError> {
    let client = Client::of_gateway(&form.gateway)?;
    if form.csv {
        print(client.csv(target).map_err(in_words_of_the_shell)?)?;
        return Ok(None);
    }
    let answer = client.call(&Method::GET, target, None);
    let answer = answer.map_err(in_words_of_the_shell)?;
    if answer.print_json()? {
        return Ok(None);
    }
    answer.value().map(Some)
}

/// The gateway names the parameters of its API.
fn in_words_of_the_shell(error: CommandError) -> CommandError {
    match error {
        CommandError::Refused(message) => CommandError::Refused(
            message
                .replace("start_time", "--from")
                .replace("end_time", "--to"),
        ),
        other => other,
    }
}

/// The parameters of a call.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn of(filters: &UsageFilters) -> Self {
        let UsageFilters {
            from,
            to,
            keys,
            account,
            model,
            upstream,
        } = filters;
        let mut query = Self(Vec::new());
        for key in keys {
            query.add("key", key.as_str());
        }
        let time = |time: &UnixTime| time.seconds().to_string();
        for (name, value) in [
            ("start_time", from.as_ref().map(time)),
            ("end_time", to.as_ref().map(time)),
            ("account", account.clone()),
            ("model", model.clone()),
            ("upstream", upstream.clone()),
        ] {
            if let Some(value) = value {
                query.add(name, value);
            }
        }
        query
    }

    fn add(&mut self, name: &'static str, value: impl ToString) {
        self.0.push((name, value.to_string()));
    }

    fn target(&self, path: &str) -> String {
        let pairs = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        format!("{path}?{}", form_query(pairs))
    }
}

/// A line of the table: a day, a key, …
struct UsageLine {
    name: String,
    sums: LineSums,
}

/// The numbers of a line. None where nobody knows.
#[derive(Clone, Copy, Default)]
struct LineSums {
    requests: i64,
    errors: i64,
    at_least: i64,
    unknown: i64,
    input: Option<i64>,
    cached: Option<i64>,
    output: Option<i64>,
    images: Option<i64>,
    /// In millionths of a second.
    audio: Option<i64>,
    /// In millionths.
    cost: Option<i64>,
}

impl LineSums {
    fn of(result: &Value) -> Self {
        let count = |name: &str| result[name].as_i64();
        let decimal = |name: &str| result[name].as_str().and_then(millionths);
        Self {
            requests: count("num_model_requests").unwrap_or(0),
            errors: count("num_errors").unwrap_or(0),
            at_least: count("num_at_least").unwrap_or(0),
            unknown: count("num_unknown").unwrap_or(0),
            input: count("input_tokens"),
            cached: count("input_cached_tokens"),
            output: count("output_tokens"),
            images: count("images"),
            audio: decimal("audio_seconds"),
            cost: decimal("cost"),
        }
    }

    fn add(&mut self, other: &Self) {
        let known = |sum: &mut Option<i64>, other: Option<i64>| {
            if let Some(other) = other {
                *sum = Some(sum.unwrap_or(0).saturating_add(other));
            }
        };
        self.requests += other.requests;
        self.errors += other.errors;
        self.at_least += other.at_least;
        self.unknown += other.unknown;
        known(&mut self.input, other.input);
        known(&mut self.cached, other.cached);
        known(&mut self.output, other.output);
        known(&mut self.images, other.images);
        known(&mut self.audio, other.audio);
        known(&mut self.cost, other.cost);
    }

    fn tokens(&self) -> (i64, i64) {
        let tokens = self.input.unwrap_or(0) + self.output.unwrap_or(0);
        (tokens, self.requests)
    }
}

fn sums_of(page: &Value, by: UsageBy) -> Vec<UsageLine> {
    let mut lines = Vec::new();
    for bucket in page["data"].as_array().into_iter().flatten() {
        for result in bucket["results"].as_array().into_iter().flatten() {
            let name = match by {
                UsageBy::Day => {
                    let start = bucket["start_time"].as_i64().unwrap_or_default();
                    let start = UnixTime::from_seconds(start).to_string();
                    start.get(..10).unwrap_or_default().to_owned()
                }
                UsageBy::Key => key_shown(page, &result["key"]),
                by => shown(&result[by.name()]),
            };
            let sums = LineSums::of(result);
            lines.push(UsageLine { name, sums });
        }
    }
    lines
}

/// Sorts by cost where a line has one, then by tokens, and the largest first.
fn sort(lines: &mut [UsageLine]) {
    lines.sort_by_key(|line| std::cmp::Reverse((line.sums.cost, line.sums.tokens())));
}

/// A column: its heading, its text in a line, and whether it goes first where the terminal is narrow.
type Column = (String, fn(&LineSums) -> String, bool);

/// The table, with the sums at its foot. A column that has nothing to say is left out. Where the terminal is narrow, names
/// are cut and lesser columns left out.
fn table(by: UsageBy, mut lines: Vec<UsageLine>, currency: &str, width: Option<usize>) -> String {
    const LEAST_NAME: usize = 10;
    let mut total = LineSums::default();
    for line in &lines {
        total.add(&line.sums);
    }
    let mut columns: Vec<Column> = vec![
        (
            "REQUESTS".to_owned(),
            |sums| sums.requests.to_string(),
            false,
        ),
        ("ERRORS".to_owned(), |sums| sums.errors.to_string(), true),
        ("INPUT".to_owned(), |sums| count(sums.input), false),
        ("CACHED".to_owned(), |sums| count(sums.cached), true),
        ("OUTPUT".to_owned(), |sums| count(sums.output), false),
    ];
    if total.audio.is_some() {
        columns.push(("AUDIO S".to_owned(), |sums| decimal(sums.audio), true));
    }
    if total.images.is_some() {
        columns.push(("IMAGES".to_owned(), |sums| count(sums.images), true));
    }
    if total.cost.is_some() {
        columns.push((format!("COST {currency}"), |sums| decimal(sums.cost), false));
    }
    lines.push(UsageLine {
        name: "TOTAL".to_owned(),
        sums: total,
    });
    let width_of = |(heading, text, _): &Column| {
        let cells = lines.iter().map(|line| text(&line.sums).len());
        cells.fold(heading.chars().count(), usize::max)
    };
    let mut widths: Vec<usize> = columns.iter().map(width_of).collect();
    let longest = lines.iter().map(|line| line.name.chars().count());
    let mut name_width = longest.fold(by.heading().len(), usize::max);
    if let Some(width) = width {
        let numbers = |widths: &[usize]| widths.iter().map(|width| width + 2).sum::<usize>();
        while numbers(&widths) + LEAST_NAME > width
            && let Some(lesser) = columns.iter().rposition(|(_, _, lesser)| *lesser)
        {
            columns.remove(lesser);
            widths.remove(lesser);
        }
        let room = width.saturating_sub(numbers(&widths)).max(LEAST_NAME);
        name_width = name_width.min(room);
    }
    let headings: Vec<String> = columns
        .iter()
        .map(|(heading, _, _)| heading.clone())
        .collect();
    let mut text = row(by.heading(), name_width, &headings, &widths);
    for line in &lines {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, text, _)| text(&line.sums))
            .collect();
        text.push_str(&row(&line.name, name_width, &cells, &widths));
    }
    if total.at_least + total.unknown > 0 {
        text.push_str(&format!(
            "Of {} requests, {} used at least what is counted, and of {} nothing is known.\n",
            total.requests, total.at_least, total.unknown
        ));
    }
    text
}

fn row(name: &str, name_width: usize, cells: &[String], widths: &[usize]) -> String {
    let mut line: String = match name.chars().count() > name_width {
        true => name.chars().take(name_width - 1).chain(['…']).collect(),
        false => name.to_owned(),
    };
    line.extend(std::iter::repeat_n(' ', name_width - line.chars().count()));
    for (cell, width) in cells.iter().zip(widths) {
        line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        line.push_str(cell);
    }
    line.push('\n');
    line
}

fn count(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn decimal(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| Millionths(value).to_string())
}

/// A key's id, and its name where there is still such a key.
fn key_shown(page: &Value, id: &Value) -> String {
    let name = id.as_str().and_then(|id| page["names"][id].as_str());
    match name {
        Some(name) => format!("{} ({})", shown(id), escaped(name)),
        None => shown(id),
    }
}

/// A text or a number as it is shown; a dash for nothing.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => escaped(text),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => "-".to_owned(),
    }
}

/// A decimal of at most six digits behind its point, in millionths.
fn millionths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{fraction:0<6}");
    let whole: i64 = whole.parse().ok()?;
    let fraction: i64 = fraction.get(..6)?.parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page() -> Value {
        let result = |model: &str, input: Value, cost: Value| {
            json!({"model": model, "num_model_requests": 2, "num_errors": 0, "num_at_least": 1, "num_unknown": 0,
                   "input_tokens": input, "output_tokens": 7, "cost": cost})
        };
        let long = "a-model-with-a-name-that-is-longer-than-any-terminal-should-have-to-show";
        let results = [
            result(long, json!(9), json!("0.5")),
            result("m\u{1b}", Value::Null, Value::Null),
        ];
        json!({"data": [{"start_time": 1_800_000_000, "results": results}]})
    }

    #[test]
    fn the_table_has_its_sums_at_its_foot_and_nothing_that_steers_a_terminal() {
        let table = table(
            UsageBy::Model,
            sums_of(&page(), UsageBy::Model),
            "EUR",
            None,
        );
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            [
                "MODEL", "REQUESTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "COST", "EUR"
            ]
        );
        assert_eq!(lines[2], ["m\\u{1b}", "2", "0", "-", "-", "7", "-"]);
        assert_eq!(lines[3], ["TOTAL", "4", "0", "9", "-", "14", "0.5"]);
        assert_eq!(
            lines[4].join(" "),
            "Of 4 requests, 2 used at least what is counted, and of 0 nothing is known."
        );
        let days = sums_of(&page(), UsageBy::Day);
        assert_eq!(days[0].name, "2027-01-15");
    }

    #[test]
    fn the_table_fits_the_terminal() {
        for width in [46, 60, 80, 200] {
            let table = table(
                UsageBy::Model,
                sums_of(&page(), UsageBy::Model),
                "EUR",
                Some(width),
            );
            let rows = table.lines().take(4);
            let longest = rows.map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width, "{width}:\n{table}");
            assert!(
                table.contains("REQUESTS") && table.contains("COST EUR"),
                "{table}"
            );
            assert_eq!(table.contains("ERRORS"), width >= 60, "{width}:\n{table}");
        }
    }

    #[test]
    fn lines_are_sorted_by_cost_and_without_one_by_tokens() {
        let sorted = |results: &[(&str, i64, Value)]| -> Vec<String> {
            let results: Vec<Value> = results
                .iter()
                .map(|(model, input, cost)| {
                    json!({"model": model, "num_model_requests": 1, "input_tokens": input, "cost": cost})
                })
                .collect();
            let page = json!({"data": [{"start_time": 0, "results": results}]});
            let mut lines = sums_of(&page, UsageBy::Model);
            sort(&mut lines);
            lines.into_iter().map(|line| line.name).collect()
        };
        let few = ("few", 1, Value::Null);
        let many = ("many", 1_000, Value::Null);
        assert_eq!(sorted(&[few.clone(), many.clone()]), ["many", "few"]);
        let cheap = ("cheap", 500, json!("9.5"));
        let dear = ("dear", 2, json!("10"));
        assert_eq!(
            sorted(&[few, many, cheap, dear]),
            ["dear", "cheap", "many", "few"]
        );
    }

    #[test]
    fn costs_are_summed_without_rounding() {
        for (text, value) in [("0.000001", 1), ("12", 12_000_000), ("0.5", 500_000)] {
            assert_eq!(millionths(text), Some(value));
        }
        assert_eq!(millionths("x"), None);
    }
}
