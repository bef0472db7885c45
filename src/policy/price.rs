//! What a request costs: exact decimals, in millionths of the currency's unit.

use std::collections::HashMap;
use std::fmt;

use crate::policy::token_estimate::DEFAULT_OUTPUT;
use crate::policy::usage::RequestCounts;

/// Prices have at most so many digits behind the point.
const MAX_DIGITS: usize = 12;
/// Millionths of millionths: the unit of a price.
const UNIT: u64 = 1_000_000_000_000;
/// The highest price, in whole units.
const MAX_PRICE: u64 = 1_000_000;
/// A higher cost of one request is an error. Sums of such costs stay far from overflow.
const MAX_COST: u128 = 1 << 50;

/// An amount for one thing or for a million tokens: a decimal of at most 12 digits behind the point, not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(u64);

/// Why a text is no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsePriceError {
    /// It is no decimal number, or negative.
    Malformed,
    /// It has more than 12 digits behind the point.
    TooFine,
    /// It is more than a million.
    TooHigh,
}

impl fmt::Display for ParsePriceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is not a price; write a decimal number, like 0.20",
            Self::TooFine => {
                "has more than 12 digits behind the point; round it, like 0.000000000001"
            }
            Self::TooHigh => "is more than 1000000; write a lower price",
        })
    }
}

impl std::error::Error for ParsePriceError {}

impl Price {
    /// Reads a decimal number exactly: digits, and at most one point with digits on both sides.
    ///
    /// # Errors
    /// [`ParsePriceError`] says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, ParsePriceError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return Err(ParsePriceError::Malformed);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > MAX_DIGITS {
            return Err(ParsePriceError::TooFine);
        }
        let whole: u64 = whole.parse().map_err(|_| ParsePriceError::TooHigh)?;
        let padded = format!("{fraction:0<MAX_DIGITS$}");
        let fraction: u64 = padded.parse().map_err(|_| ParsePriceError::Malformed)?;
        match whole.checked_mul(UNIT).map(|price| price + fraction) {
            Some(price) if price <= MAX_PRICE * UNIT => Ok(Self(price)),
            _ => Err(ParsePriceError::TooHigh),
        }
    }
}

/// `[[prices]]`: what the use of one model costs. What has no price costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// The model, by its name in the catalogue.
    pub model: String,
    /// For a million tokens of the input.
    pub input: Price,
    /// For a million cached tokens of the input. None: as for the others.
    pub input_cached: Option<Price>,
    /// For a million tokens of the output, reasoning included.
    pub output: Price,
    /// For a minute of audio.
    pub audio_minute: Price,
    /// For an image.
    pub image: Price,
    /// Tokens of output that a request is expected to make where it does not say how many.
    pub default_output_tokens: Option<u64>,
}

impl ModelPrice {
    /// The cost of a request, rounded to a millionth, half up. None if nothing of it is known.
    #[must_use]
    pub fn cost(&self, counts: &RequestCounts) -> Option<Cost> {
        if !counts.any_known() {
            return None;
        }
        let input = counts.input.unwrap_or(0);
        let cached = counts.input_cached.unwrap_or(0).min(input);
        // In millionths of millionths of millionths, so that nothing is rounded before the end. Each product is less
        // than 2^64 * 2^64, and the sum is checked.
        let product = |count: u64, price: Price, parts: u128| {
            let exact = u128::from(count) * u128::from(price.0);
            // `parts` of a count make what the price is for.
            (exact / parts)
                .checked_mul(1_000_000)?
                .checked_add(exact % parts * 1_000_000 / parts)
        };
        let million = 1_000_000;
        let total = [
            product(input - cached, self.input, million),
            product(cached, self.input_cached.unwrap_or(self.input), million),
            product(counts.output.unwrap_or(0), self.output, million),
            product(
                counts.audio_microseconds.unwrap_or(0),
                self.audio_minute,
                60 * million,
            ),
            product(counts.images.unwrap_or(0), self.image, 1),
        ]
        .into_iter()
        .try_fold(0_u128, |total, part| total.checked_add(part?))?;
        let unit = u128::from(UNIT);
        let millionths = total.checked_add(unit / 2)? / unit;
        let millionths = u64::try_from(millionths).ok()?;
        (u128::from(millionths) <= MAX_COST).then_some(Cost(millionths))
    }
}

/// The prices of all models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceList(HashMap<String, ModelPrice>);

impl PriceList {
    /// Of these prices, each of another model.
    #[must_use]
    pub fn new(prices: &[ModelPrice]) -> Self {
        let by_model = |price: &ModelPrice| (price.model.clone(), price.clone());
        Self(prices.iter().map(by_model).collect())
    }

    /// What a request to this model costs. None where the model has no price, or nothing of the request is known.
    #[must_use]
    pub fn cost(&self, model: &str, counts: &RequestCounts) -> Option<Cost> {
        self.0.get(model).and_then(|price| price.cost(counts))
    }

    /// Tokens of output that a request to this model is expected to make where it does not say how many.
    #[must_use]
    pub fn default_output(&self, model: &str) -> u64 {
        let said = self
            .0
            .get(model)
            .and_then(|price| price.default_output_tokens);
        said.unwrap_or(DEFAULT_OUTPUT)
    }
}

/// A cost in millionths of the currency's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(u64);

impl Cost {
    /// Of so many millionths.
    #[must_use]
    pub fn of_millionths(millionths: u64) -> Self {
        Self(millionths)
    }

    /// In millionths.
    #[must_use]
    pub fn millionths(self) -> u64 {
        self.0
    }
}

/// Millionths as a decimal, without zeros at its end: the form of costs and of seconds in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millionths(pub i64);

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (
            self.0.unsigned_abs() / 1_000_000,
            self.0.unsigned_abs() % 1_000_000,
        );
        write!(f, "{sign}{whole}")?;
        if fraction > 0 {
            let fraction = format!("{fraction:06}");
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        Ok(())
    }
}

impl Millionths {
    /// Reads a decimal that is not negative, with at most six digits behind its point, exactly.
    #[must_use]
    pub fn parse(text: &str) -> Option<u64> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 6 {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let fraction: u64 = format!("{fraction:0<6}").parse().ok()?;
        whole.checked_mul(1_000_000)?.checked_add(fraction)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::usage::Certainty;

    fn price(text: &str) -> Price {
        Price::parse(text).unwrap()
    }

    fn prices() -> ModelPrice {
        ModelPrice {
            model: "m".to_owned(),
            input: price("0.20"),
            input_cached: Some(price("0.05")),
            output: price("0.60"),
            audio_minute: price("0.006"),
            image: price("0.04"),
            default_output_tokens: None,
        }
    }

    fn counts() -> RequestCounts {
        RequestCounts {
            certainty: Certainty::Exact,
            ..RequestCounts::UNKNOWN
        }
    }

    fn cost(counts: &RequestCounts) -> Option<u64> {
        prices().cost(counts).map(Cost::millionths)
    }

    #[test]
    fn a_price_is_read_exactly() {
        assert_eq!(price("0.20"), Price(200_000_000_000));
        assert_eq!(price("0.2"), price("0.200000000000000000"));
        assert_eq!(price("0.000000000001"), Price(1));
        assert_eq!(price("1000000"), Price(MAX_PRICE * UNIT));
        assert_eq!(price("00.10"), price("0.1"));
        for (text, error) in [
            ("", ParsePriceError::Malformed),
            (".5", ParsePriceError::Malformed),
            ("5.", ParsePriceError::Malformed),
            ("-1", ParsePriceError::Malformed),
            ("+1", ParsePriceError::Malformed),
            ("1e-3", ParsePriceError::Malformed),
            ("1_000", ParsePriceError::Malformed),
            ("inf", ParsePriceError::Malformed),
            ("1.2.3", ParsePriceError::Malformed),
            ("0.0000000000001", ParsePriceError::TooFine),
            ("1000000.000000000001", ParsePriceError::TooHigh),
            ("99999999999999999999999", ParsePriceError::TooHigh),
        ] {
            assert_eq!(Price::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_cost_counts_cached_input_once_and_at_its_own_price() {
        let tokens = RequestCounts {
            input: Some(1_000_000),
            input_cached: Some(400_000),
            output: Some(500_000),
            output_reasoning: Some(100_000),
            ..counts()
        };
        // 0.6 * 0.20 + 0.4 * 0.05 + 0.5 * 0.60
        assert_eq!(cost(&tokens), Some(440_000));
        let more_cached_than_input = RequestCounts {
            input: Some(10),
            input_cached: Some(u64::MAX),
            ..counts()
        };
        assert_eq!(cost(&more_cached_than_input), Some(1));
    }

    #[test]
    fn audio_and_images_cost_by_the_minute_and_by_the_piece() {
        let audio = RequestCounts {
            audio_microseconds: Some(90_000_000),
            ..counts()
        };
        assert_eq!(cost(&audio), Some(9_000));
        let images = RequestCounts {
            images: Some(3),
            ..counts()
        };
        assert_eq!(cost(&images), Some(120_000));
    }

    #[test]
    fn what_is_not_known_costs_nothing_and_is_not_zero() {
        assert_eq!(cost(&RequestCounts::UNKNOWN), None);
        let at_least = RequestCounts {
            output: Some(5),
            certainty: Certainty::AtLeast,
            ..RequestCounts::UNKNOWN
        };
        assert_eq!(cost(&at_least), Some(3));
    }

    #[test]
    fn a_cost_is_rounded_once_at_its_end() {
        // 2 * 0.2 + 1 * 0.6 = 1.0 millionths; each alone would be rounded to 0 and 1.
        let both = RequestCounts {
            input: Some(2),
            output: Some(1),
            ..counts()
        };
        assert_eq!(cost(&both), Some(1));
        let half = RequestCounts {
            input: Some(5),
            input_cached: Some(2),
            ..counts()
        };
        // 3 * 0.2 + 2 * 0.05 = 0.7
        assert_eq!(cost(&half), Some(1));
    }

    #[test]
    fn a_decimal_is_written_without_zeros_at_its_end() {
        for (millionths, text) in [
            (0, "0"),
            (1, "0.000001"),
            (1_500_000, "1.5"),
            (12_000_000, "12"),
            (-250_000, "-0.25"),
            (i64::MIN, "-9223372036854.775808"),
        ] {
            assert_eq!(Millionths(millionths).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn no_counts_overflow(
            input in any::<Option<u64>>(),
            cached in any::<Option<u64>>(),
            output in any::<Option<u64>>(),
            audio in any::<Option<u64>>(),
            images in any::<Option<u64>>(),
        ) {
            let counts = RequestCounts {
                input,
                input_cached: cached,
                output,
                output_reasoning: None,
                audio_microseconds: audio,
                images,
                certainty: Certainty::Exact,
            };
            let highest = price("1000000");
            let prices = ModelPrice {
                input: highest,
                input_cached: None,
                output: highest,
                audio_minute: highest,
                image: highest,
                default_output_tokens: None,
                ..prices()
            };
            let _ = prices.cost(&counts);
        }

        #[test]
        fn a_cost_is_what_whole_numbers_say(input in 0_u64..1 << 40, output in 0_u64..1 << 40) {
            let counts = RequestCounts { input: Some(input), output: Some(output), ..counts() };
            // 0.20 and 0.60 for a million tokens: 2 and 6 tenths of a millionth for one.
            let tenths = 2 * input + 6 * output;
            prop_assert_eq!(cost(&counts), Some((tenths + 5) / 10));
        }
    }
}
