//! How many tokens a request will use, before anybody knows: what is reserved of a limit or a budget.

/// A body's text has about so many bytes for each token.
const BYTES_PER_TOKEN: u64 = 4;
/// Tokens of output that a request is expected to make where neither it nor the config says how many.
pub const DEFAULT_OUTPUT: u64 = 1024;

/// What a body says about the size of its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedOutput {
    /// The largest of `max_tokens`, `max_completion_tokens`, `max_output_tokens` and `n_predict`.
    tokens: Option<u64>,
    /// The largest of `n` and `best_of`.
    answers: Option<u64>,
}

/// A top-level field that says how much output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputField {
    /// Tokens of each answer.
    Tokens,
    /// How many answers.
    Answers,
}

impl OutputField {
    /// The field of a name.
    #[inline]
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" | "n_predict" => {
                Some(Self::Tokens)
            }
            "n" | "best_of" => Some(Self::Answers),
            _ => None,
        }
    }
}

impl AskedOutput {
    /// Notes the value of a field, as it is written in JSON. What is no number from 0 on says nothing.
    pub fn add(&mut self, field: OutputField, value: &str) {
        let Some(number) = whole_number(value) else {
            return;
        };
        let known = match field {
            OutputField::Tokens => &mut self.tokens,
            OutputField::Answers => &mut self.answers,
        };
        *known = (*known).max(Some(number));
    }

    /// The tokens of the input that a request is expected to have: a quarter of the bytes of its text.
    #[must_use]
    pub fn expected_input(&self, text_bytes: u64) -> u64 {
        text_bytes / BYTES_PER_TOKEN
    }

    /// The tokens that a request is expected to use: a quarter of the bytes of its text, and the output it asks for, or
    /// `default_output` where it asks for none.
    #[must_use]
    pub fn expected_tokens(&self, text_bytes: u64, default_output: u64) -> u64 {
        let output = self.tokens.unwrap_or(default_output);
        let answers = self.answers.unwrap_or(1).max(1);
        self.expected_input(text_bytes)
            .saturating_add(output.saturating_mul(answers))
    }
}

/// A JSON number, rounded up; more than fits is the most that fits.
fn whole_number(value: &str) -> Option<u64> {
    if let Ok(number) = value.parse::<u64>() {
        return Some(number);
    }
    let number = value.parse::<f64>().ok().filter(|number| *number >= 0.0)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is not negative, and a cast from f64 keeps to the range of u64"
    )]
    Some(number.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_field_of_each_kind_counts() {
        let mut asked = AskedOutput::default();
        assert_eq!(asked.expected_tokens(403, 50), 150);
        for (name, value) in [
            ("max_tokens", "10"),
            ("max_completion_tokens", "1e2"),
            ("n_predict", "-1"),
            ("max_output_tokens", "\"7\""),
            ("n", "2"),
            ("best_of", "3"),
        ] {
            asked.add(OutputField::of(name).unwrap(), value);
        }
        assert_eq!(asked.expected_tokens(0, 50), 300);
        assert_eq!(OutputField::of("N"), None);
    }

    #[test]
    fn no_number_overflows() {
        let mut asked = AskedOutput::default();
        for value in ["1e400", "99999999999999999999999", "18446744073709551615"] {
            asked.add(OutputField::Tokens, value);
            asked.add(OutputField::Answers, value);
        }
        assert_eq!(asked.expected_tokens(u64::MAX, 0), u64::MAX);
    }
}
