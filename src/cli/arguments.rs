//! Parses arguments: key ids, networks and times.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::admin::keys::MAX_GRACE_SECONDS;
use crate::admin::wait;
use crate::policy::budget::BudgetUnit;
use crate::policy::key::KeyId;
use crate::policy::key_limits::{MAX_LIMIT, UNLIMITED};
use crate::policy::network::parse_network;
use crate::policy::time::{UnixTime, parse_span};
use crate::runtime::wall_clock::now;
use crate::store::allowance_json;
use crate::store::strict_json::printable;

const DAY: i64 = 24 * 60 * 60;

pub(super) fn id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).map_err(|fault| format!("{fault}; keygate keys list shows the ids"))
}

pub(super) fn account_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).map_err(|fault| format!("{fault}; keygate accounts list shows the ids"))
}

pub(super) fn invitation_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).map_err(|fault| format!("{fault}; keygate invite list shows the ids"))
}

/// One `--allow-from` argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllowFromArg {
    /// Any address.
    Any,
    /// An IPv4 network.
    Network(Ipv4Net),
}

pub(super) fn source(text: &str) -> Result<AllowFromArg, String> {
    match text {
        "any" => Ok(AllowFromArg::Any),
        text => parse_network(text)
            .map(AllowFromArg::Network)
            .map_err(|fault| fault.to_string()),
    }
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitArg {
    /// At most so many.
    AtMost(u64),
    /// Not even the config's default.
    Unlimited,
    /// None of its own: the config's default, if there is one.
    Default,
}

impl LimitArg {
    /// As the admin API has it.
    pub(super) fn value(self) -> Value {
        match self {
            Self::AtMost(limit) => limit.into(),
            Self::Unlimited => UNLIMITED.into(),
            Self::Default => Value::Null,
        }
    }
}

pub(super) fn limit(text: &str) -> Result<LimitArg, String> {
    match text {
        "none" => Ok(LimitArg::Unlimited),
        "default" => Ok(LimitArg::Default),
        text => large_number(text)
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .map(LimitArg::AtMost)
            .ok_or_else(|| {
                format!("write a whole number from 1 to {MAX_LIMIT}, like 60 or 100K, or none, or default")
            }),
    }
}

/// A ceiling of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CeilingArg {
    /// At most so many.
    AtMost(u32),
    /// Any number.
    None,
}

impl CeilingArg {
    /// As the admin API has it.
    pub(super) fn value(self) -> Value {
        match self {
            Self::AtMost(most) => most.into(),
            Self::None => Value::Null,
        }
    }
}

pub(super) fn ceiling(text: &str) -> Result<CeilingArg, String> {
    match text {
        "none" => Ok(CeilingArg::None),
        text => text
            .parse()
            .map(CeilingArg::AtMost)
            .map_err(|_| "write a whole number, or none".to_owned()),
    }
}

/// One `--budget` argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum BudgetArg {
    /// No budget.
    None,
    /// One, as the admin API has it.
    Some(Value),
}

pub(super) fn budget(text: &str) -> Result<BudgetArg, String> {
    if text == "none" {
        return Ok(BudgetArg::None);
    }
    let malformed = || {
        "write it like tokens=5M/month, cost=25.00/day or requests=1000/total,observe; or none"
            .to_owned()
    };
    let (unit, rest) = text.split_once('=').ok_or_else(malformed)?;
    let (rest, mode) = rest.split_once(',').unwrap_or((rest, "enforce"));
    let (amount, per) = rest.split_once('/').ok_or_else(malformed)?;
    let is_decimal = BudgetUnit::ALL
        .into_iter()
        .find(|known| known.label() == unit)
        .map(BudgetUnit::is_decimal)
        .ok_or_else(|| {
            format!(
                "{} is no unit; write tokens, requests, cost or audio_seconds",
                printable(unit)
            )
        })?;
    let amount: Value = match is_decimal {
        true => amount.into(),
        false => large_number(amount).ok_or_else(malformed)?.into(),
    };
    let budget = json!({"unit": unit, "amount": amount, "per": per, "mode": mode});
    let list = format!("[{budget}]");
    allowance_json::parse_budgets(&list).map_err(|(field, message)| match field {
        "" => message,
        field => format!("{field}: {message}"),
    })?;
    Ok(BudgetArg::Some(budget))
}

/// A whole number, also with K, M or G behind it.
fn large_number(text: &str) -> Option<u64> {
    let (digits, factor) = [("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap_or((text, 1));
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_plain)?;
    number.checked_mul(factor)
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryArg {
    /// Never.
    Never,
    /// At this time.
    At(UnixTime),
}

pub(super) fn expiry(text: &str) -> Result<ExpiryArg, String> {
    expiry_from(text, now())
}

pub(super) fn time(text: &str) -> Result<UnixTime, String> {
    UnixTime::parse(text).map_err(|fault| fault.to_string())
}

/// The start of a range: a span before now, the start of a day in UTC, or a time.
pub(super) fn since(text: &str) -> Result<UnixTime, String> {
    moment(text, now(), true)
}

/// The end of a range: a span before now, the end of a day in UTC, or a time.
pub(super) fn until(text: &str) -> Result<UnixTime, String> {
    moment(text, now(), false)
}

fn moment(text: &str, now: UnixTime, starts: bool) -> Result<UnixTime, String> {
    let malformed = || {
        "write a date like 2026-11-01, an RFC 3339 time with its zone, or a span before now like 7d or 24h".to_owned()
    };
    if is_span(text) {
        return parse_span(text)
            .map(|span| now.plus(-span))
            .filter(|moment| moment.seconds() > 0)
            .ok_or_else(malformed);
    }
    if let Ok(time) = UnixTime::parse(text) {
        return Ok(time);
    }
    let end_of_day = UnixTime::parse_expiry(text).map_err(|_| malformed())?;
    Ok(end_of_day.plus(if starts { -DAY } else { 0 }))
}

fn is_span(text: &str) -> bool {
    text.ends_with(['d', 'h'])
}

/// How long a key was not used.
pub(super) fn span(text: &str) -> Result<String, String> {
    match parse_span(text) {
        Some(1..) => Ok(text.to_owned()),
        Some(_) | None => Err("write a span like 90d or 12h".to_owned()),
    }
}

/// How long to wait for other gateways, as the admin API takes it.
pub(super) fn wait(text: &str) -> Result<String, String> {
    wait::duration(text).map(|_| text.to_owned())
}

/// How long a key's old token works on, in seconds.
pub(super) fn grace(text: &str) -> Result<u32, String> {
    parse_span(text)
        .and_then(|span| u32::try_from(span).ok())
        .filter(|span| (1..=MAX_GRACE_SECONDS).contains(span))
        .ok_or_else(|| "write a span like 7d or 12h, at most 90d; --now for none".to_owned())
}

fn expiry_from(text: &str, now: UnixTime) -> Result<ExpiryArg, String> {
    if text == "never" {
        return Ok(ExpiryArg::Never);
    }
    if !is_span(text) {
        return UnixTime::parse_expiry(text).map(ExpiryArg::At).map_err(|_| {
            "write a date like 2027-01-31, an RFC 3339 time with its zone, a span like 30d or 12h, or never"
                .to_owned()
        });
    }
    let end = parse_span(text).map(|span| now.plus(span));
    // Times after the year 9999 have no RFC 3339 form.
    end.filter(|end| *end > now && UnixTime::parse(&end.to_string()) == Ok(*end))
        .map(ExpiryArg::At)
        .ok_or_else(|| "write a span like 30d or 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_spans_days_or_times() {
        let now = UnixTime::from_seconds(1_800_000_000);
        for (text, start, end) in [
            ("7d", "2027-01-08T08:00:00Z", "2027-01-08T08:00:00Z"),
            ("24h", "2027-01-14T08:00:00Z", "2027-01-14T08:00:00Z"),
            ("2026-11-01", "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
            (
                "2026-11-01T01:00:00+01:00",
                "2026-11-01T00:00:00Z",
                "2026-11-01T00:00:00Z",
            ),
        ] {
            assert_eq!(
                moment(text, now, true).unwrap().to_string(),
                start,
                "{text}"
            );
            assert_eq!(moment(text, now, false).unwrap().to_string(), end, "{text}");
        }
        for bad in [
            "",
            "d",
            "-1d",
            "7",
            "7w",
            "yesterday",
            "99999d",
            "99999999999999999999d",
            "2026-13-01",
        ] {
            assert!(moment(bad, now, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grace_is_a_span_of_at_most_90_days() {
        assert_eq!(grace("7d"), Ok(604_800));
        assert_eq!(grace("1h"), Ok(3600));
        assert_eq!(grace("90d"), Ok(MAX_GRACE_SECONDS));
        for bad in ["", "0h", "91d", "2161h", "30", "-1d", "7w", "9999999999d"] {
            assert!(grace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_end_is_a_date_a_time_a_span_or_never() {
        let now = UnixTime::from_seconds(1_800_000_000);
        for (text, end) in [
            ("2027-01-31", "2027-02-01T00:00:00Z"),
            ("2027-02-01T01:00:00+01:00", "2027-02-01T00:00:00Z"),
            ("30d", "2027-02-14T08:00:00Z"),
            ("12h", "2027-01-15T20:00:00Z"),
        ] {
            let Ok(ExpiryArg::At(at)) = expiry_from(text, now) else {
                panic!("{text} is an end");
            };
            assert_eq!(at.to_string(), end, "{text}");
        }
        assert_eq!(expiry_from("never", now), Ok(ExpiryArg::Never));
        for bad in [
            "",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5h",
            "3w",
            "30",
            "tomorrow",
            "99999999d",
            "99999999999999999999d",
            "2027-02-01T00:00:00",
        ] {
            assert!(expiry_from(bad, now).is_err(), "{bad}");
        }
    }
}
