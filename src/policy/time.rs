//! Times of keys: whole seconds in UTC, written as in RFC 3339.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

/// Why a text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseTimeError {
    /// Not RFC 3339, or outside of the years 0000 to 9999.
    Malformed,
    /// Date and time without an offset, so the instant is unknown.
    NoZone,
}

impl fmt::Display for ParseTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is not an RFC 3339 time; write it like 2027-02-01T00:00:00Z",
            Self::NoZone => "has no time zone; add Z for UTC, or an offset like +01:00",
        })
    }
}

impl std::error::Error for ParseTimeError {}

impl UnixTime {
    /// From seconds since 1970.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0
    }

    /// The time `seconds` later.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Parses an RFC 3339 time with an offset. Drops fractions of a second, so that a key never expires late.
    ///
    /// # Errors
    /// [`ParseTimeError`] says what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, ParseTimeError> {
        if !has_rfc3339_shape(text) {
            return Err(ParseTimeError::Malformed);
        }
        let (date_time, rest) = text.split_at(DATE_TIME.len());
        let date_time: DateTime = date_time.parse().map_err(|_| ParseTimeError::Malformed)?;
        let zone = match rest.strip_prefix('.') {
            Some(fraction) => {
                let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
                if zone.len() == fraction.len() {
                    return Err(ParseTimeError::Malformed);
                }
                zone
            }
            None => rest,
        };
        let time = seconds_of(date_time) - offset_of(zone)?;
        // Other times have no RFC 3339 form.
        (FIRST..=LAST)
            .contains(&time)
            .then_some(Self(time))
            .ok_or(ParseTimeError::Malformed)
    }

    /// Parses a time like [`UnixTime::parse`], or a date, which means the end of that day in UTC.
    ///
    /// # Errors
    /// [`ParseTimeError`] says what is wrong and how to write it.
    pub fn parse_expiry(text: &str) -> Result<Self, ParseTimeError> {
        if text.len() != DATE.len() {
            return Self::parse(text);
        }
        let day: Date = text.parse().map_err(|_| ParseTimeError::Malformed)?;
        // The last day of the year 9999 ends one second early, since the next second has no RFC 3339 form.
        Ok(Self((seconds_of(day.at(0, 0, 0, 0)) + DAY).min(LAST)))
    }
}

/// A span like `30d` or `12h`, in seconds. None: it is not written so, or too long for any clock.
#[must_use]
pub fn parse_span(text: &str) -> Option<i64> {
    let (count, unit) = [("d", DAY), ("h", 60 * 60)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    let is_plain = !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit());
    let count: i64 = count.parse().ok().filter(|_| is_plain)?;
    count.checked_mul(unit).filter(|span| *span <= LAST)
}

const DATE: &str = "2027-02-01";
const DATE_TIME: &str = "2027-02-01T00:00:00";
const DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z: the range of a year with four digits.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;
const EPOCH: Date = Date::constant(1970, 1, 1);

fn seconds_of(time: DateTime) -> i64 {
    time.duration_since(EPOCH.at(0, 0, 0, 0)).as_secs()
}

/// The offset in seconds: `Z`, or hours and minutes (RFC 3339 5.6).
fn offset_of(zone: &str) -> Result<i64, ParseTimeError> {
    match zone.as_bytes() {
        [] => Err(ParseTimeError::NoZone),
        b"Z" | b"z" => Ok(0),
        [
            sign @ (b'+' | b'-'),
            h1 @ b'0'..=b'9',
            h2 @ b'0'..=b'9',
            b':',
            m1 @ b'0'..=b'9',
            m2 @ b'0'..=b'9',
        ] => {
            let two = |tens: &u8, ones: &u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let (hours, minutes) = (two(h1, h2), two(m1, m2));
            if hours > 23 || minutes > 59 {
                return Err(ParseTimeError::Malformed);
            }
            let offset = hours * 3600 + minutes * 60;
            Ok(if *sign == b'-' { -offset } else { offset })
        }
        _ => Err(ParseTimeError::Malformed),
    }
}

/// Whether the text has the fixed columns of RFC 3339. General parsers accept more.
fn has_rfc3339_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 19
        && bytes.is_ascii()
        && (0..19).all(|at| match at {
            4 | 7 => bytes[at] == b'-',
            10 => matches!(bytes[at], b'T' | b't' | b' '),
            13 | 16 => bytes[at] == b':',
            _ => bytes[at].is_ascii_digit(),
        })
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match EPOCH
            .at(0, 0, 0, 0)
            .checked_add(SignedDuration::from_secs(self.0))
        {
            Ok(time) => write!(f, "{}", time.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_with_any_zone_and_written_as_utc() {
        for (text, written) in [
            ("2027-02-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            ("2027-02-01t01:00:00z", "2027-02-01T01:00:00Z"),
            ("2027-02-01T01:00:00+01:00", "2027-02-01T00:00:00Z"),
            ("2027-02-01T00:00:00.999Z", "2027-02-01T00:00:00Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
            ("2027-02-01T00:00:00-23:59", "2027-02-01T23:59:00Z"),
        ] {
            assert_eq!(
                UnixTime::parse(text).unwrap().to_string(),
                written,
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_without_a_zone_says_so() {
        assert_eq!(
            UnixTime::parse("2027-02-01T00:00:00"),
            Err(ParseTimeError::NoZone)
        );
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "2027-02-01",
            "tomorrow",
            "1800000000",
            "2027-13-01T00:00:00Z",
            "2027-02-30T00:00:00Z",
            "2027-2-1T0:0:0Z",
            "20270201T000000Z",
            "+012027-02-01T00:00:00Z",
            "2027-02-01T00:00Z",
            "2027-02-01T00:00:00[UTC]",
            "2027-02-01T00:00:00Z[Europe/Paris]",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(
                UnixTime::parse(text),
                Err(ParseTimeError::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bare_date_lasts_through_its_day() {
        assert_eq!(
            UnixTime::parse_expiry("2027-01-31").unwrap().to_string(),
            "2027-02-01T00:00:00Z"
        );
        assert_eq!(
            UnixTime::parse_expiry("2028-02-28").unwrap().to_string(),
            "2028-02-29T00:00:00Z"
        );
        assert!(UnixTime::parse_expiry("2027-02-30").is_err());
        assert_eq!(
            UnixTime::parse_expiry("9999-12-31").unwrap().to_string(),
            "9999-12-31T23:59:59Z"
        );
    }

    #[test]
    fn a_span_is_days_or_hours() {
        assert_eq!(parse_span("90d"), Some(90 * DAY));
        assert_eq!(parse_span("012h"), Some(12 * 3600));
        for bad in ["", "d", "90", "-1d", "+1d", "1.5h", "3w", "99999999999d"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_survives_its_text_form(seconds in FIRST..=LAST) {
            let time = UnixTime::from_seconds(seconds);
            prop_assert_eq!(UnixTime::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = UnixTime::parse_expiry(&text);
        }
    }
}
