//! Instants and dates as keys carry them: whole seconds, UTC, RFC 3339.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

/// Why a text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFault {
    /// Not RFC 3339, or out of the years 0000 to 9999.
    Malformed,
    /// A date and time that says no offset: which instant is meant cannot be known.
    NoZone,
}

impl fmt::Display for TimeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is not an RFC 3339 time; write it like 2027-02-01T00:00:00Z",
            Self::NoZone => "has no time zone; add Z for UTC, or an offset like +01:00",
        })
    }
}

impl std::error::Error for TimeFault {}

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

    /// This instant and `seconds` more.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Reads an RFC 3339 time with a zone. Fractions of a second are cut off, so that an expiry never comes late.
    ///
    /// # Errors
    /// [`TimeFault`] says what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, TimeFault> {
        if !has_rfc3339_shape(text) {
            return Err(TimeFault::Malformed);
        }
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            let seconds = instant.as_nanosecond().div_euclid(1_000_000_000);
            return i64::try_from(seconds)
                .map(Self)
                .map_err(|_| TimeFault::Malformed);
        }
        match text.parse::<jiff::civil::DateTime>() {
            Ok(_) if !text.ends_with(['Z', 'z']) => Err(TimeFault::NoZone),
            _ => Err(TimeFault::Malformed),
        }
    }

    /// Reads a time as [`UnixTime::parse`] does, or a bare date, which means through the end of that day, UTC.
    ///
    /// # Errors
    /// [`TimeFault`] says what is wrong and how to write it.
    pub fn parse_expiry(text: &str) -> Result<Self, TimeFault> {
        if text.len() != 10 {
            return Self::parse(text);
        }
        let day: Date = text.parse().map_err(|_| TimeFault::Malformed)?;
        let after = day.tomorrow().map_err(|_| TimeFault::Malformed)?;
        let midnight = after
            .to_zoned(TimeZone::UTC)
            .map_err(|_| TimeFault::Malformed)?;
        Ok(Self(midnight.timestamp().as_second()))
    }
}

/// Date, `T`, time to the second at least: the RFC's fixed columns, which general parsers are more liberal about.
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
        && !text.contains(['[', ','])
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(instant) => write!(f, "{}", instant.strftime("%Y-%m-%dT%H:%M:%SZ")),
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
            Err(TimeFault::NoZone)
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
            assert_eq!(UnixTime::parse(text), Err(TimeFault::Malformed), "{text}");
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
        assert!(UnixTime::parse_expiry("9999-12-31").is_err());
    }

    proptest! {
        #[test]
        fn every_instant_survives_its_text_form(seconds in 0_i64..253_402_214_400) {
            let time = UnixTime::from_seconds(seconds);
            prop_assert_eq!(UnixTime::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = UnixTime::parse_expiry(&text);
        }
    }
}
