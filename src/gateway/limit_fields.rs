//! The header fields that tell what is left of limits: OpenAI's ("Rate limits", its API reference), and Anthropic's.

use crate::http::fields::Fields;
use crate::policy::field_kind::FieldKind;
use crate::policy::rate_limit::Remaining;
use crate::policy::route::ApiStyle;
use crate::policy::time::UnixTime;
use crate::runtime::wall_clock::now;

/// The names of the header fields of one kind of limit.
pub(super) struct FieldNames {
    openai: [&'static str; 3],
    anthropic: [&'static str; 3],
}

pub(super) const REQUESTS: FieldNames = FieldNames {
    openai: [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ],
    anthropic: [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
};
pub(super) const TOKENS: FieldNames = FieldNames {
    openai: [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ],
    anthropic: [
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ],
};

/// Adds the three fields of one kind of limit.
pub(super) fn add(style: ApiStyle, names: &FieldNames, remaining: Remaining, fields: &mut Fields) {
    let ([limit, left, reset], resets) = match style {
        ApiStyle::OpenAi => (names.openai, duration_text(remaining.reset_after)),
        ApiStyle::Anthropic => (names.anthropic, time_text(remaining.reset_after)),
    };
    let mut push = |name, value: &[u8]| fields.push_as(FieldKind::NotToClient, name, value);
    let mut number = itoa::Buffer::new();
    push(limit, number.format(remaining.limit).as_bytes());
    push(left, number.format(remaining.remaining).as_bytes());
    push(reset, resets.as_bytes());
}

/// Milliseconds as OpenAI writes them: `120ms`, `1s`, `6m0s`. From a second on in whole seconds, rounded up.
fn duration_text(millis: u64) -> String {
    let (mut text, mut number) = (String::with_capacity(16), itoa::Buffer::new());
    let mut push = |count: u64, unit| {
        text.push_str(number.format(count));
        text.push_str(unit);
    };
    if millis < 1000 {
        push(millis, "ms");
        return text;
    }
    let seconds = millis.div_ceil(1000);
    if seconds >= 60 {
        push(seconds / 60, "m");
    }
    push(seconds % 60, "s");
    text
}

/// So many milliseconds from now, as Anthropic writes it (RFC 3339), rounded up.
pub(super) fn time_text(millis: u64) -> String {
    let seconds = i64::try_from(millis.div_ceil(1000)).unwrap_or(0);
    let time: UnixTime = now().plus(seconds);
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_as_openai_does() {
        let texts = [0, 120, 999, 1000, 1001, 59_999, 60_000, 360_000].map(duration_text);
        assert_eq!(
            texts,
            ["0ms", "120ms", "999ms", "1s", "2s", "1m0s", "1m0s", "6m0s"]
        );
    }
}
