//! Formats log lines, as text for people or JSON for machines.
//!
//! Text from clients is escaped, so that it can neither break a line nor control a terminal. A worker formats its
//! requests' lines itself, so they must be cheap: numbers, addresses and times bypass `std::fmt`, which would cost more
//! than all the rest, and the date is formatted once a second.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::observe::event::{AccessEntry, Event};
use crate::policy::key::KeyToken;
use crate::policy::network::{AddressText, ClientAddress};
use crate::policy::text::is_harmless;
use crate::policy::time::UnixTime;
use crate::policy::usage::RequestCounts;
use crate::store::config::LogFormat;

/// The longest text in a line, in characters; longer text is cut.
const MAX_TEXT: usize = 256;

/// Most access lines fit into this, so the buffer grows once per line at most.
const USUAL_LENGTH: usize = 512;

/// A [`FieldName`], assembled at compile time.
macro_rules! name {
    ($name:literal) => {
        FieldName {
            json: concat!(",\"", $name, "\":"),
            text: concat!(" ", $name, "="),
        }
    };
}

/// Formatted lines, one after the other.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    text: String,
    last_second: FormattedSecond,
}

/// The second that was formatted last. Most lines fall into the same one.
#[derive(Debug, Default)]
struct FormattedSecond {
    since_1970: Option<u64>,
    /// As in RFC 3339, without fraction and zone.
    text: String,
}

impl LogLines {
    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Exchanges the text for an empty string.
    pub(super) fn swap(&mut self, empty: &mut String) {
        std::mem::swap(&mut self.text, empty);
    }

    /// Appends other lines.
    pub(super) fn append(&mut self, other: &Self) {
        self.text.push_str(&other.text);
    }

    /// Appends a request's line.
    pub(super) fn access(&mut self, format: LogFormat, access: &AccessEntry<'_>) {
        let ended = access.started + access.duration;
        let counts = access.counts.unwrap_or(RequestCounts::UNKNOWN);
        let fields: [(FieldName, FieldValue<'_>); 23] = [
            (
                name!("request_id"),
                FieldValue::Word(Some(access.request_id)),
            ),
            (
                name!("client_request_id"),
                FieldValue::Word(access.client_request_id),
            ),
            (name!("key_id"), FieldValue::Word(access.key_id)),
            (
                name!("token"),
                FieldValue::Rare(access.token.map(KeyToken::label)),
            ),
            (name!("client"), FieldValue::Address(access.client)),
            (name!("method"), FieldValue::Word(Some(access.method))),
            (name!("route"), FieldValue::Word(access.route)),
            (name!("model"), FieldValue::Text(access.model)),
            (name!("upstream"), FieldValue::Text(access.upstream)),
            (
                name!("status"),
                FieldValue::Number(access.status.map(u64::from)),
            ),
            (name!("denial"), FieldValue::Word(access.denial)),
            (name!("bytes_in"), FieldValue::Number(Some(access.bytes_in))),
            (
                name!("bytes_out"),
                FieldValue::Number(Some(access.bytes_out)),
            ),
            (
                name!("first_byte_ms"),
                FieldValue::Milliseconds(access.first_byte),
            ),
            (
                name!("duration_ms"),
                FieldValue::Milliseconds(Some(access.duration)),
            ),
            (name!("input_tokens"), FieldValue::Number(counts.input)),
            (
                name!("input_cached_tokens"),
                FieldValue::Number(counts.input_cached),
            ),
            (name!("output_tokens"), FieldValue::Number(counts.output)),
            (
                name!("output_reasoning_tokens"),
                FieldValue::Number(counts.output_reasoning),
            ),
            (
                name!("audio_seconds"),
                FieldValue::Milliseconds(
                    counts
                        .audio_microseconds
                        .map(|length| Duration::from_micros(length / 1000)),
                ),
            ),
            (name!("images"), FieldValue::Number(counts.images)),
            (
                name!("certainty"),
                FieldValue::Word(access.counts.map(|counts| counts.certainty.label())),
            ),
            (name!("end"), FieldValue::Word(Some(access.end.label()))),
        ];
        self.text.reserve(USUAL_LENGTH);
        match format {
            LogFormat::Json => {
                self.text.push_str("{\"event\":\"access\",\"time\":\"");
                self.time(ended);
                self.text.push_str("\",\"started\":\"");
                self.time(access.started);
                self.text.push_str("\",\"ended\":\"");
                self.time(ended);
                self.text.push('"');
                for (name, value) in fields.into_iter().filter(|(_, value)| value.is_shown()) {
                    self.text.push_str(name.json);
                    value.write_json(&mut self.text);
                }
                self.text.push_str(",\"level\":\"info\"}\n");
            }
            LogFormat::Text => {
                self.time(access.started);
                self.text.push_str(" access ended=");
                self.time(ended);
                for (name, value) in fields.into_iter().filter(|(_, value)| value.is_known()) {
                    self.text.push_str(name.text);
                    value.write_text(&mut self.text);
                }
                self.text.push('\n');
            }
        }
    }

    /// Appends an event's line.
    pub(super) fn event(&mut self, format: LogFormat, event: &Event) {
        match format {
            LogFormat::Json => {
                self.text.push_str("{\"event\":");
                write_json_text(&mut self.text, event.name);
                self.text.push_str(",\"time\":\"");
                self.time(event.at);
                self.text.push_str("\",\"level\":");
                write_json_text(&mut self.text, event.level);
                for (name, value) in &event.fields {
                    self.text.push(',');
                    write_json_text(&mut self.text, name);
                    self.text.push(':');
                    write_json_value(&mut self.text, value);
                }
                self.text.push_str("}\n");
            }
            LogFormat::Text => {
                self.time(event.at);
                for word in [event.level, event.name] {
                    self.text.push(' ');
                    self.text.push_str(word);
                }
                for (name, value) in &event.fields {
                    self.text.push(' ');
                    self.text.push_str(name);
                    self.text.push('=');
                    match value {
                        Value::String(value) => write_word(&mut self.text, value),
                        other => write_json_value(&mut self.text, other),
                    }
                }
                self.text.push('\n');
            }
        }
    }

    /// Appends a time as in RFC 3339, in UTC with milliseconds.
    fn time(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.last_second.since_1970 != Some(since.as_secs()) {
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let whole = UnixTime::from_seconds(seconds).to_string();
            self.last_second.since_1970 = Some(since.as_secs());
            whole
                .trim_end_matches('Z')
                .clone_into(&mut self.last_second.text);
        }
        self.text.push_str(&self.last_second.text);
        self.text.push('.');
        write_thousandths(&mut self.text, since.subsec_millis());
        self.text.push('Z');
    }
}

/// The name of a field, with the punctuation of each format.
struct FieldName {
    json: &'static str,
    text: &'static str,
}

enum FieldValue<'a> {
    /// Text of ours that needs no escape in either format.
    Word(Option<&'a str>),
    /// The same, and left out of JSON too where it is unknown.
    Rare(Option<&'a str>),
    /// Text from a client or an operator.
    Text(Option<&'a str>),
    Address(ClientAddress),
    Number(Option<u64>),
    Milliseconds(Option<Duration>),
}

impl FieldValue<'_> {
    fn is_known(&self) -> bool {
        !matches!(
            self,
            Self::Word(None)
                | Self::Rare(None)
                | Self::Text(None)
                | Self::Number(None)
                | Self::Milliseconds(None)
        )
    }

    /// Whether it stands in a JSON line.
    fn is_shown(&self) -> bool {
        !matches!(self, Self::Rare(None))
    }

    fn write_json(&self, text: &mut String) {
        match self {
            Self::Word(Some(word)) | Self::Rare(Some(word)) => {
                text.push('"');
                text.push_str(word);
                text.push('"');
            }
            Self::Text(Some(value)) => write_json_text(text, &shortened(value)),
            Self::Address(address) => {
                text.push('"');
                write_address(text, *address);
                text.push('"');
            }
            Self::Number(Some(number)) => write_number(text, *number),
            Self::Milliseconds(Some(time)) => write_milliseconds(text, *time),
            Self::Word(None)
            | Self::Rare(None)
            | Self::Text(None)
            | Self::Number(None)
            | Self::Milliseconds(None) => {
                text.push_str("null");
            }
        }
    }

    fn write_text(&self, text: &mut String) {
        match self {
            Self::Word(Some(word)) | Self::Rare(Some(word)) => text.push_str(word),
            Self::Text(Some(value)) => write_word(text, &shortened(value)),
            Self::Address(address) => write_address(text, *address),
            Self::Number(_)
            | Self::Milliseconds(_)
            | Self::Word(None)
            | Self::Rare(None)
            | Self::Text(None) => {
                self.write_json(text);
            }
        }
    }
}

fn shortened(value: &str) -> Cow<'_, str> {
    if value.len() <= MAX_TEXT {
        return value.into();
    }
    match value.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &value[..end]).into(),
        None => value.into(),
    }
}

/// A value in a text line, quoted if it has spaces or needs escapes.
fn write_word(text: &mut String, value: &str) {
    if !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    {
        text.push_str(value);
    } else {
        write_json_text(text, value);
    }
}

/// A JSON value, with every text in it escaped.
fn write_json_value(text: &mut String, value: &Value) {
    match value {
        Value::String(value) => write_json_text(text, value),
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                text.push(if index == 0 { '[' } else { ',' });
                write_json_value(text, value);
            }
            text.push_str(if values.is_empty() { "[]" } else { "]" });
        }
        Value::Object(fields) => {
            for (index, (name, value)) in fields.iter().enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                write_json_text(text, name);
                text.push(':');
                write_json_value(text, value);
            }
            text.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => put(text, format_args!("{value}")),
    }
}

/// A JSON string (RFC 8259 7). Characters that could control a terminal are escaped too.
fn write_json_text(text: &mut String, value: &str) {
    text.push('"');
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        text.push_str(value);
    } else {
        for character in value.chars() {
            write_json_character(text, character);
        }
    }
    text.push('"');
}

fn write_json_character(text: &mut String, character: char) {
    match character {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        _ if is_harmless(character) => text.push(character),
        _ => {
            let mut units = [0_u16; 2];
            for unit in character.encode_utf16(&mut units) {
                put(text, format_args!("\\u{unit:04x}"));
            }
        }
    }
}

fn write_address(text: &mut String, address: ClientAddress) {
    match address {
        ClientAddress::Known(address) => text.push_str(AddressText::of(address).as_str()),
        ClientAddress::Unknown => text.push_str("unknown"),
    }
}

fn write_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Milliseconds with three decimals.
fn write_milliseconds(text: &mut String, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    write_number(text, micros / 1000);
    text.push('.');
    write_thousandths(text, u32::try_from(micros % 1000).unwrap_or(0));
}

/// Three digits with leading zeros.
fn write_thousandths(text: &mut String, number: u32) {
    for place in [100, 10, 1] {
        let digit = char::from_digit(number / place % 10, 10);
        text.push(digit.unwrap_or('0'));
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::event::RequestEnd;

    fn access(model: &str) -> AccessEntry<'_> {
        AccessEntry {
            started: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
            duration: Duration::from_micros(1500),
            first_byte: None,
            request_id: "r-1",
            client_request_id: Some("mine"),
            key_id: Some("key_1"),
            token: None,
            client: ClientAddress::Unknown,
            method: "POST",
            route: Some("/v1/embeddings"),
            model: Some(model),
            upstream: None,
            status: Some(404),
            denial: Some("model_not_found"),
            bytes_in: 7,
            bytes_out: 9,
            counts: None,
            end: RequestEnd::Complete,
        }
    }

    fn line(format: LogFormat, access: &AccessEntry<'_>) -> String {
        let mut lines = LogLines::default();
        lines.access(format, access);
        lines.text
    }

    #[test]
    fn an_access_line_is_one_json_object_with_both_times() {
        let line = line(LogFormat::Json, &access("m"));
        let value: Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(value["started"], "2027-01-15T08:00:00.123Z");
        assert_eq!(value["ended"], "2027-01-15T08:00:00.124Z");
        assert_eq!(value["denial"], "model_not_found");
        assert_eq!(value["upstream"], Value::Null);
    }

    #[test]
    fn the_token_stands_in_a_line_only_where_it_was_the_previous_one() {
        let previous = AccessEntry {
            token: Some(KeyToken::Previous),
            ..access("m")
        };
        for (format, field) in [
            (LogFormat::Json, r#""key_id":"key_1","token":"previous","#),
            (LogFormat::Text, " key_id=key_1 token=previous "),
        ] {
            assert!(line(format, &previous).contains(field));
            assert!(!line(format, &access("m")).contains("token\":\""));
            assert!(!line(format, &access("m")).contains(" token="));
        }
    }

    #[test]
    fn client_text_cannot_break_a_line_or_drive_a_terminal() {
        for hostile in [
            "a\nb",
            "a\r\nb",
            "\u{1b}[31m",
            "\u{202e}gnp",
            "\"}\n{\"",
            "\u{2028}",
            "\0",
            "\u{e0041}",
        ] {
            for format in [LogFormat::Json, LogFormat::Text] {
                let mut event = LogLines::default();
                let nested = serde_json::json!([hostile, {hostile: [hostile, 1, null]}, [], {}]);
                let warning = Event::warn("name").with("text", hostile);
                event.event(format, &warning.with("list", nested.clone()));
                for line in [line(format, &access(hostile)), event.text] {
                    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
                    assert!(line.trim_end().chars().all(is_harmless), "{line:?}");
                    if format == LogFormat::Json {
                        let value: Value = serde_json::from_str(&line).unwrap();
                        assert!(value["model"] == hostile || value["text"] == hostile);
                        assert!(value["list"] == Value::Null || value["list"] == nested);
                    }
                }
            }
        }
    }

    #[test]
    fn long_client_text_is_cut() {
        let line = line(LogFormat::Json, &access(&"é".repeat(100_000)));
        assert!(line.len() < 2_000);
    }

    #[test]
    fn numbers_and_times_are_written_as_the_library_writes_them() {
        for micros in [0, 1, 999, 1000, 12_345_678, u64::MAX] {
            let mut text = String::new();
            write_milliseconds(&mut text, Duration::from_micros(micros));
            assert_eq!(text, format!("{}.{:03}", micros / 1000, micros % 1000));
        }
        let mut lines = LogLines::default();
        for milliseconds in [999, 1000, 999, 61_001] {
            lines.time(UNIX_EPOCH + Duration::from_millis(milliseconds));
            lines.text.push(' ');
        }
        assert_eq!(
            lines.text,
            "1970-01-01T00:00:00.999Z 1970-01-01T00:00:01.000Z 1970-01-01T00:00:00.999Z 1970-01-01T00:01:01.001Z "
        );
    }
}
