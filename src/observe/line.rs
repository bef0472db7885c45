//! How a log line is written: text for people or JSON for machines.
//!
//! Client text is escaped, so that no name, method or model can break a line or drive a terminal. A request's line is
//! written on the request's own thread: numbers, addresses and times do not go through `std::fmt`, which would cost more
//! than everything else about a line, and the date is written out once a second.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::observe::event::{Access, Event, Form};
use crate::policy::network::{AddressText, ClientAddress};
use crate::policy::time::UnixTime;

/// Text of a client's that a line holds at most, in characters.
const MAX_TEXT: usize = 256;

/// Room for most requests' lines.
const USUAL_LENGTH: usize = 512;

/// A [`Name`], put together once, by the compiler.
macro_rules! name {
    ($name:literal) => {
        Name {
            json: concat!(",\"", $name, "\":"),
            text: concat!(" ", $name, "="),
        }
    };
}

/// Lines, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: String,
    second: Second,
}

/// The last second that was written out.
#[derive(Debug, Default)]
struct Second {
    since_1970: Option<u64>,
    /// As in RFC 3339, without fraction and zone.
    text: String,
}

impl Lines {
    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Takes the text out and leaves `empty` to be written to.
    pub(super) fn swap(&mut self, empty: &mut String) {
        std::mem::swap(&mut self.text, empty);
    }

    /// Adds other lines.
    pub(super) fn append(&mut self, other: &Self) {
        self.text.push_str(&other.text);
    }

    /// A request's line.
    pub(super) fn access(&mut self, form: Form, access: &Access<'_>) {
        let ended = access.started + access.duration;
        let facts: [(Name, Fact<'_>); 14] = [
            (name!("request_id"), Fact::Word(Some(access.request_id))),
            (name!("key_id"), Fact::Word(access.key_id)),
            (name!("client"), Fact::Address(access.client)),
            (name!("method"), Fact::Word(Some(access.method))),
            (name!("route"), Fact::Word(access.route)),
            (name!("model"), Fact::Text(access.model)),
            (name!("upstream"), Fact::Text(access.upstream)),
            (name!("status"), Fact::Number(access.status.map(u64::from))),
            (name!("denial"), Fact::Word(access.denial)),
            (name!("bytes_in"), Fact::Number(Some(access.bytes_in))),
            (name!("bytes_out"), Fact::Number(Some(access.bytes_out))),
            (
                name!("first_byte_ms"),
                Fact::Milliseconds(access.first_byte),
            ),
            (
                name!("duration_ms"),
                Fact::Milliseconds(Some(access.duration)),
            ),
            (name!("end"), Fact::Word(Some(access.end.label()))),
        ];
        self.text.reserve(USUAL_LENGTH);
        match form {
            Form::Json => {
                self.text.push_str("{\"event\":\"access\",\"time\":\"");
                self.time(ended);
                self.text.push_str("\",\"started\":\"");
                self.time(access.started);
                self.text.push_str("\",\"ended\":\"");
                self.time(ended);
                self.text.push('"');
                for (name, fact) in facts {
                    self.text.push_str(name.json);
                    fact.write_json(&mut self.text);
                }
                self.text.push_str(",\"level\":\"info\"}\n");
            }
            Form::Text => {
                self.time(access.started);
                self.text.push_str(" access ended=");
                self.time(ended);
                for (name, fact) in facts.into_iter().filter(|(_, fact)| fact.is_known()) {
                    self.text.push_str(name.text);
                    fact.write_text(&mut self.text);
                }
                self.text.push('\n');
            }
        }
    }

    /// An event's line.
    pub(super) fn event(&mut self, form: Form, event: &Event) {
        match form {
            Form::Json => {
                self.text.push_str("{\"event\":");
                write_json_text(&mut self.text, event.name);
                self.text.push_str(",\"time\":\"");
                self.time(event.at);
                self.text.push_str("\",\"level\":");
                write_json_text(&mut self.text, event.level);
                for (name, value) in &event.facts {
                    self.text.push(',');
                    write_json_text(&mut self.text, name);
                    self.text.push(':');
                    match value {
                        Value::String(value) => write_json_text(&mut self.text, value),
                        other => self.text.push_str(&other.to_string()),
                    }
                }
                self.text.push_str("}\n");
            }
            Form::Text => {
                self.time(event.at);
                for word in [event.level, event.name] {
                    self.text.push(' ');
                    self.text.push_str(word);
                }
                for (name, value) in &event.facts {
                    self.text.push(' ');
                    self.text.push_str(name);
                    self.text.push('=');
                    match value {
                        Value::String(value) => write_word(&mut self.text, value),
                        other => self.text.push_str(&other.to_string()),
                    }
                }
                self.text.push('\n');
            }
        }
    }

    /// RFC 3339, UTC, to the millisecond.
    fn time(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second.since_1970 != Some(since.as_secs()) {
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let whole = UnixTime::from_seconds(seconds).to_string();
            self.second.since_1970 = Some(since.as_secs());
            whole
                .trim_end_matches('Z')
                .clone_into(&mut self.second.text);
        }
        self.text.push_str(&self.second.text);
        self.text.push('.');
        write_thousandths(&mut self.text, since.subsec_millis());
        self.text.push('Z');
    }
}

/// A fact's name with the signs that stand around it.
struct Name {
    json: &'static str,
    text: &'static str,
}

enum Fact<'a> {
    /// Letters, digits and signs that need no escape in any form of line.
    Word(Option<&'a str>),
    /// Whatever a client or an operator wrote.
    Text(Option<&'a str>),
    Address(ClientAddress),
    Number(Option<u64>),
    Milliseconds(Option<Duration>),
}

impl Fact<'_> {
    fn is_known(&self) -> bool {
        !matches!(
            self,
            Self::Word(None) | Self::Text(None) | Self::Number(None) | Self::Milliseconds(None)
        )
    }

    fn write_json(&self, text: &mut String) {
        match self {
            Self::Word(Some(word)) => {
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
            Self::Word(None) | Self::Text(None) | Self::Number(None) | Self::Milliseconds(None) => {
                text.push_str("null");
            }
        }
    }

    fn write_text(&self, text: &mut String) {
        match self {
            Self::Word(Some(word)) => text.push_str(word),
            Self::Text(Some(value)) => write_word(text, &shortened(value)),
            Self::Address(address) => write_address(text, *address),
            Self::Number(_) | Self::Milliseconds(_) | Self::Word(None) | Self::Text(None) => {
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

/// A word of a text line: quoted where it would not stand as one word.
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

/// A JSON string (RFC 8259 7) in which control, format and line-separating characters are escaped too.
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

/// Neither a control character nor one that changes the direction or the lines of the text around it.
#[must_use]
pub fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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

/// Milliseconds with three digits behind the point.
fn write_milliseconds(text: &mut String, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    write_number(text, micros / 1000);
    text.push('.');
    write_thousandths(text, u32::try_from(micros % 1000).unwrap_or(0));
}

/// Three digits.
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
    use crate::observe::event::End;

    fn access(model: &str) -> Access<'_> {
        Access {
            started: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
            duration: Duration::from_micros(1500),
            first_byte: None,
            request_id: "r-1",
            key_id: Some("key_1"),
            client: ClientAddress::Unknown,
            method: "POST",
            route: Some("/v1/embeddings"),
            model: Some(model),
            upstream: None,
            status: Some(404),
            denial: Some("model_not_found"),
            bytes_in: 7,
            bytes_out: 9,
            end: End::Complete,
        }
    }

    fn line(form: Form, access: &Access<'_>) -> String {
        let mut lines = Lines::default();
        lines.access(form, access);
        lines.text
    }

    #[test]
    fn an_access_line_is_one_json_object_with_both_times() {
        let line = line(Form::Json, &access("m"));
        let value: Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(value["started"], "2027-01-15T08:00:00.123Z");
        assert_eq!(value["ended"], "2027-01-15T08:00:00.124Z");
        assert_eq!(value["denial"], "model_not_found");
        assert_eq!(value["upstream"], Value::Null);
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
            for form in [Form::Json, Form::Text] {
                let mut event = Lines::default();
                event.event(form, &Event::warn("name").with("text", hostile));
                for line in [line(form, &access(hostile)), event.text] {
                    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
                    assert!(line.trim_end().chars().all(is_harmless), "{line:?}");
                    if form == Form::Json {
                        let value: Value = serde_json::from_str(&line).unwrap();
                        assert!(value["model"] == hostile || value["text"] == hostile);
                    }
                }
            }
        }
    }

    #[test]
    fn long_client_text_is_cut() {
        let line = line(Form::Json, &access(&"é".repeat(100_000)));
        assert!(line.len() < 2_000);
    }

    #[test]
    fn numbers_and_times_are_written_as_the_library_writes_them() {
        for micros in [0, 1, 999, 1000, 12_345_678, u64::MAX] {
            let mut text = String::new();
            write_milliseconds(&mut text, Duration::from_micros(micros));
            assert_eq!(text, format!("{}.{:03}", micros / 1000, micros % 1000));
        }
        let mut lines = Lines::default();
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
