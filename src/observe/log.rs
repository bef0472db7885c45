//! Log lines on standard error: one line an event, text for people or JSON for machines.
//!
//! Whoever logs hands over facts and goes on: one thread formats and writes them. When standard error is too slow,
//! lines are given up and counted; a request never waits for its log line. Client text is escaped, so that no name,
//! method or model can break a line or drive a terminal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;
use serde_json::{Map, Value};

use crate::policy::network::ClientAddress;

use super::refusals::Refusals;

/// Lines that may wait to be written.
const QUEUE: usize = 16_384;
/// Bytes that are written at once, at most.
const WRITE_AT_ONCE: usize = 64 << 10;
/// The pause between two writes: lines are gathered, and a busy worker need not wake the writer for each.
const GATHER: Duration = Duration::from_millis(5);
/// Text of a client's that a line holds at most, in characters.
const MAX_TEXT: usize = 256;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where log lines go. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Log(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    lines: SyncSender<Line>,
    dropped: IntCounter,
    refusals: Refusals,
}

/// Writes what is waiting before the process ends.
#[derive(Debug)]
pub struct Writer {
    log: Log,
    thread: JoinHandle<()>,
}

/// What there is to say of one request, taken when it ended.
#[derive(Debug)]
pub struct Access {
    /// When its head was read.
    pub started: SystemTime,
    /// From its head to its end.
    pub duration: Duration,
    /// From its head to the head of its answer, where there was one.
    pub first_byte: Option<Duration>,
    /// Its x-request-id.
    pub request_id: Box<str>,
    /// The key it was judged by.
    pub key_id: Option<Box<str>>,
    /// Where it was judged to come from.
    pub client: ClientAddress,
    /// Its method, where it is one that HTTP knows.
    pub method: &'static str,
    /// Its route, where one is served.
    pub route: Option<&'static str>,
    /// The model it named, once it was read.
    pub model: Option<Box<str>>,
    /// The upstream it was sent to.
    pub upstream: Option<Box<str>>,
    /// The status of its answer; None where there was none.
    pub status: Option<u16>,
    /// Why it was refused or failed.
    pub denial: Option<&'static str>,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of its answer's body.
    pub bytes_out: u64,
    /// How it ended.
    pub end: End,
}

impl Access {
    /// Whether it was refused before anything of its body was read.
    fn is_refused_early(&self) -> bool {
        self.denial.is_some() && self.route.is_none()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer was given whole.
    Complete,
    /// The client left before that.
    ClientLeft,
    /// Its key or access was taken away meanwhile.
    Revoked,
    /// The upstream broke off or fell silent.
    UpstreamFailed,
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Revoked => "revoked",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

/// Anything else worth a line: a change, a warning, a start.
#[derive(Debug)]
pub struct Event {
    at: SystemTime,
    level: &'static str,
    name: &'static str,
    facts: Map<String, Value>,
}

impl Event {
    /// Something that happened as intended.
    #[must_use]
    pub fn info(name: &'static str) -> Self {
        Self::new("info", name)
    }

    /// Something an operator should look at.
    #[must_use]
    pub fn warn(name: &'static str) -> Self {
        Self::new("warn", name)
    }

    /// Something that failed.
    #[must_use]
    pub fn error(name: &'static str) -> Self {
        Self::new("error", name)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    fn new(level: &'static str, name: &'static str) -> Self {
        Self {
            at: SystemTime::now(),
            level,
            name,
            facts: Map::new(),
        }
    }
}

enum Line {
    Access(Box<Access>),
    Event(Box<Event>),
    End,
}

impl Log {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(form: Form, dropped: IntCounter) -> std::io::Result<(Self, Writer)> {
        let (lines, waiting) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(form, &waiting))?;
        let refusals = Refusals::new(Instant::now());
        let log = Self(Arc::new(Queue {
            lines,
            dropped,
            refusals,
        }));
        Ok((log.clone(), Writer { log, thread }))
    }

    /// Hands over a request's line, unless it is one too many of a flood of refused ones.
    pub fn access(&self, access: Access) {
        if access.is_refused_early() && !self.0.refusals.has_room(Instant::now()) {
            return;
        }
        self.offer(Line::Access(Box::new(access)));
    }

    /// Tells how many lines of refused requests were left out, where there is something to tell. To be called often.
    pub fn tell_left_out(&self) {
        if let Some(count) = self.0.refusals.left_out(Instant::now()) {
            self.event(Event::warn("refusals_left_out").with("count", count));
        }
    }

    /// Hands over an event's line.
    pub fn event(&self, event: Event) {
        self.offer(Line::Event(Box::new(event)));
    }

    fn offer(&self, line: Line) {
        if let Err(TrySendError::Full(_)) = self.0.lines.try_send(line) {
            self.0.dropped.inc();
        }
    }
}

impl Writer {
    /// Writes what is waiting, up to `patience`, and ends the thread.
    pub fn finish(self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut told = false;
        while Instant::now() < end && !self.thread.is_finished() {
            told = told || self.log.0.lines.try_send(Line::End).is_ok();
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn write_all(form: Form, waiting: &Receiver<Line>) {
    let mut text = String::new();
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        let mut ends = false;
        while let Some(line) = next {
            match line {
                Line::Access(access) => format_access(&mut text, form, &access),
                Line::Event(event) => format_event(&mut text, form, &event),
                Line::End => ends = true,
            }
            if text.len() >= WRITE_AT_ONCE {
                write_out(&mut text);
            }
            next = waiting.try_recv().ok();
        }
        write_out(&mut text);
        if ends {
            return;
        }
        std::thread::sleep(GATHER);
    }
}

fn write_out(text: &mut String) {
    // Nobody is left to be told where standard error is closed or full.
    let _ = std::io::stderr().write_all(text.as_bytes());
    text.clear();
}

fn format_access(text: &mut String, form: Form, access: &Access) {
    let ended = access.started + access.duration;
    let facts: [(&str, Fact<'_>); 16] = [
        ("ended", Fact::Time(ended)),
        ("request_id", Fact::Text(Some(&access.request_id))),
        ("key_id", Fact::Text(access.key_id.as_deref())),
        ("client", Fact::Address(access.client)),
        ("method", Fact::Text(Some(access.method))),
        ("route", Fact::Text(access.route)),
        ("model", Fact::Text(access.model.as_deref())),
        ("upstream", Fact::Text(access.upstream.as_deref())),
        ("status", Fact::Number(access.status.map(u64::from))),
        ("denial", Fact::Text(access.denial)),
        ("bytes_in", Fact::Number(Some(access.bytes_in))),
        ("bytes_out", Fact::Number(Some(access.bytes_out))),
        ("first_byte_ms", Fact::Milliseconds(access.first_byte)),
        ("duration_ms", Fact::Milliseconds(Some(access.duration))),
        ("end", Fact::Text(Some(access.end.label()))),
        ("level", Fact::Text(Some("info"))),
    ];
    match form {
        Form::Json => {
            text.push_str("{\"event\":\"access\",\"time\":\"");
            write_time(text, ended);
            text.push_str("\",\"started\":\"");
            write_time(text, access.started);
            text.push('"');
            for (name, fact) in facts {
                text.push_str(",\"");
                text.push_str(name);
                text.push_str("\":");
                fact.write_json(text);
            }
            text.push_str("}\n");
        }
        Form::Text => {
            write_time(text, access.started);
            text.push_str(" access");
            for (name, fact) in facts
                .into_iter()
                .take(15)
                .filter(|(_, fact)| fact.is_known())
            {
                text.push(' ');
                text.push_str(name);
                text.push('=');
                fact.write_text(text);
            }
            text.push('\n');
        }
    }
}

fn format_event(text: &mut String, form: Form, event: &Event) {
    match form {
        Form::Json => {
            text.push_str("{\"event\":");
            write_json_text(text, event.name);
            text.push_str(",\"time\":\"");
            write_time(text, event.at);
            text.push_str("\",\"level\":");
            write_json_text(text, event.level);
            for (name, value) in &event.facts {
                text.push(',');
                write_json_text(text, name);
                text.push(':');
                match value {
                    Value::String(value) => write_json_text(text, value),
                    other => text.push_str(&other.to_string()),
                }
            }
            text.push_str("}\n");
        }
        Form::Text => {
            write_time(text, event.at);
            for word in [event.level, event.name] {
                text.push(' ');
                text.push_str(word);
            }
            for (name, value) in &event.facts {
                text.push(' ');
                text.push_str(name);
                text.push('=');
                match value {
                    Value::String(value) => write_word(text, value),
                    other => text.push_str(&other.to_string()),
                }
            }
            text.push('\n');
        }
    }
}

enum Fact<'a> {
    Time(SystemTime),
    Text(Option<&'a str>),
    Address(ClientAddress),
    Number(Option<u64>),
    Milliseconds(Option<Duration>),
}

impl Fact<'_> {
    fn is_known(&self) -> bool {
        !matches!(
            self,
            Self::Text(None) | Self::Number(None) | Self::Milliseconds(None)
        )
    }

    fn write_json(&self, text: &mut String) {
        match self {
            Self::Time(time) => {
                text.push('"');
                write_time(text, *time);
                text.push('"');
            }
            Self::Text(Some(value)) => write_json_text(text, &shortened(value)),
            Self::Address(address) => put(text, format_args!("\"{address}\"")),
            Self::Number(Some(number)) => put(text, format_args!("{number}")),
            Self::Milliseconds(Some(time)) => {
                put(text, format_args!("{:.3}", time.as_secs_f64() * 1e3))
            }
            Self::Text(None) | Self::Number(None) | Self::Milliseconds(None) => {
                text.push_str("null")
            }
        }
    }

    fn write_text(&self, text: &mut String) {
        match self {
            Self::Time(time) => write_time(text, *time),
            Self::Text(Some(value)) => write_word(text, &shortened(value)),
            Self::Address(address) => put(text, format_args!("{address}")),
            Self::Number(_) | Self::Milliseconds(_) | Self::Text(None) => self.write_json(text),
        }
    }
}

fn shortened(value: &str) -> std::borrow::Cow<'_, str> {
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
    for character in value.chars() {
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
    text.push('"');
}

/// Neither a control character nor one that changes the direction or the lines of the text around it.
#[must_use]
pub fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// RFC 3339, UTC, to the millisecond.
fn write_time(text: &mut String, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let whole = crate::policy::time::UnixTime::from_seconds(seconds).to_string();
    put(
        text,
        format_args!(
            "{}.{:03}Z",
            whole.trim_end_matches('Z'),
            since.subsec_millis()
        ),
    );
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(model: &str) -> Access {
        Access {
            started: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
            duration: Duration::from_micros(1500),
            first_byte: None,
            request_id: "r-1".into(),
            key_id: Some("key_1".into()),
            client: ClientAddress::Unknown,
            method: "POST",
            route: Some("/v1/embeddings"),
            model: Some(model.into()),
            upstream: None,
            status: Some(404),
            denial: Some("model_not_found"),
            bytes_in: 7,
            bytes_out: 9,
            end: End::Complete,
        }
    }

    #[test]
    fn an_access_line_is_one_json_object_with_both_times() {
        let mut line = String::new();
        format_access(&mut line, Form::Json, &access("m"));
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
                let mut line = String::new();
                format_access(&mut line, form, &access(hostile));
                let mut event = String::new();
                format_event(&mut event, form, &Event::warn("name").with("text", hostile));
                for line in [line, event] {
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
        let mut line = String::new();
        format_access(&mut line, Form::Json, &access(&"é".repeat(100_000)));
        assert!(line.len() < 2_000);
    }
}
