//! Reads the counts in a stream of server-sent events (WHATWG HTML 9.2), and takes out what only the gateway asked for.
//!
//! Nearly all events of a stream differ in one text alone, the piece of output, or in a running number beside it. So the
//! last event that was read whole is kept as a template: an event like it says the same, and is not parsed.
//!
//! A byte waits only where it may belong to what is taken out: in an event that has not come whole. No client can use
//! such an event before its end.

use crate::http::usage_scanner::Forward;
use crate::http::usage_scanner::StreamFilter;
use crate::http::usage_scanner::json::{ChoiceList, JsonReader};
use crate::http::usage_scanner::paths::ResponseKind;
use crate::http::usage_scanner::readings::Readings;
use crate::http::usage_scanner::template::Template;

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;
/// So many bytes of an unfinished event wait; a longer event passes as it is.
const MAX_HELD: usize = 64 << 10;
/// Longer events are no templates.
const MAX_TEMPLATE: usize = 4 << 10;
/// How OpenAI's streams end.
const DONE: &[u8] = b"[DONE]";
const DATA: &[u8] = b"data:";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The line that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineKind {
    /// So many bytes of it came, all of them those of `data:`.
    Start(usize),
    Data,
    Comment,
    Other,
}

/// The data of the event that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    None,
    Json,
    /// So many bytes came, all of them those of `[DONE]`.
    Done(usize),
    Other,
}

#[derive(Debug)]
pub(crate) struct EventScanner {
    kind: ResponseKind,
    filter: StreamFilter,
    reader: JsonReader,
    readings: Readings,
    line: LineKind,
    line_length: usize,
    /// Whether the last byte was a CR, so that a LF belongs to it.
    after_return: bool,
    payload: Payload,
    /// Bytes of the event so far; 0 between events.
    event_length: usize,
    /// Whether there are only comments in the event.
    only_comments: bool,
    /// Whether bytes of the event have been passed on already.
    passed_on: bool,
    /// Whether the event before was taken out, and a LF that belongs to its end goes too.
    took_out: bool,
    is_first_event: bool,
    template: Template,
    held: Vec<u8>,
    output: Vec<u8>,
}

/// What of the current piece was written to the output already.
struct Progress {
    /// Up to here.
    copied: usize,
    /// Where the current event starts in the piece; 0 if it started earlier.
    event_start: usize,
    /// Whether the output differs from the piece.
    changed: bool,
}

impl EventScanner {
    pub(crate) fn new(kind: ResponseKind, filter: StreamFilter) -> Self {
        Self {
            kind,
            filter,
            reader: JsonReader::new(kind.event_shape()),
            readings: Readings::new(kind),
            line: LineKind::Start(0),
            line_length: 0,
            after_return: false,
            payload: Payload::None,
            event_length: 0,
            only_comments: true,
            passed_on: false,
            took_out: false,
            is_first_event: true,
            template: Template::default(),
            held: Vec::new(),
            output: Vec::new(),
        }
    }

    pub(crate) fn filter(&self) -> StreamFilter {
        self.filter
    }

    pub(crate) fn readings(&self) -> &Readings {
        &self.readings
    }

    /// Reads a piece. Returns what takes its place on the way to the client.
    #[inline]
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Forward<'_> {
        let at = match self.event_length == 0 && !self.after_return {
            true => self.skip_alike(piece, 0),
            false => 0,
        };
        if at == piece.len() {
            return Forward::Whole;
        }
        self.feed_from(piece, at)
    }

    /// Skips events like the last one.
    #[inline]
    fn skip_alike(&mut self, piece: &[u8], mut at: usize) -> usize {
        while let Some((length, has_text)) = self.template.matching(&piece[at..]) {
            if has_text {
                self.readings.add_piece();
            }
            at += length;
        }
        at
    }

    fn feed_from(&mut self, piece: &[u8], mut at: usize) -> Forward<'_> {
        self.output.clear();
        let mut progress = Progress {
            copied: 0,
            event_start: at,
            changed: false,
        };
        if self.event_length > 0 {
            progress.event_start = 0;
        }
        let started_here = |scanner: &Self, at: usize| scanner.event_length <= at;
        while at < piece.len() {
            if self.after_return {
                self.after_return = false;
                if piece[at] == b'\n' {
                    at = self.take_feed(at, &mut progress);
                    continue;
                }
            }
            self.took_out = false;
            if self.event_length == 0 {
                at = self.skip_alike(piece, at);
                progress.event_start = at;
                if at == piece.len() {
                    break;
                }
                self.begin_event();
            }
            let step = self.line(&piece[at..]);
            at += step.length;
            self.event_length += step.length;
            if step.ends_event {
                let here = started_here(self, at);
                self.end_event(piece, at, here, &mut progress);
            } else if step.ends_comment && self.only_comments {
                // Comments pass at once.
                let here = started_here(self, at);
                self.pass(here, &mut progress);
                self.event_length = 0;
            }
        }
        let here = started_here(self, at);
        self.end_piece(piece, here, progress)
    }

    /// A LF behind a CR belongs to the same line end.
    fn take_feed(&mut self, at: usize, progress: &mut Progress) -> usize {
        if self.event_length > 0 {
            self.event_length += 1;
        } else if self.took_out {
            progress.copied = at + 1;
            progress.changed = true;
        }
        self.took_out = false;
        at + 1
    }

    fn begin_event(&mut self) {
        self.reader.restart();
        self.line = LineKind::Start(0);
        self.line_length = 0;
        self.payload = Payload::None;
        self.only_comments = true;
        self.passed_on = false;
    }

    /// Reads to the end of the line, or of what came of it.
    fn line(&mut self, rest: &[u8]) -> LineStep {
        match self.line {
            LineKind::Start(matched) => self.line_start(rest, matched),
            LineKind::Data => {
                let end = memchr::memchr2(b'\n', b'\r', rest);
                let data = &rest[..end.unwrap_or(rest.len())];
                self.data(data);
                self.end_of_line(rest, end)
            }
            LineKind::Comment | LineKind::Other => {
                let end = memchr::memchr2(b'\n', b'\r', rest);
                self.end_of_line(rest, end)
            }
        }
    }

    fn line_start(&mut self, rest: &[u8], matched: usize) -> LineStep {
        let byte = rest[0];
        if matches!(byte, b'\n' | b'\r') {
            self.line = LineKind::Other;
            let mut step = self.end_of_line(rest, Some(0));
            step.ends_event = matched == 0;
            return step;
        }
        let mut length = 1;
        if matched == 0 && rest.starts_with(DATA) {
            length = DATA.len();
            self.line = LineKind::Data;
        } else if DATA.get(matched) == Some(&byte) {
            self.line = match matched + 1 == DATA.len() {
                true => LineKind::Data,
                false => LineKind::Start(matched + 1),
            };
        } else if matched == 0 && self.is_first_event && BYTE_ORDER_MARK.contains(&byte) {
            // A byte-order mark may stand before the first line.
        } else {
            self.line = match byte {
                b':' if matched == 0 => LineKind::Comment,
                _ => LineKind::Other,
            };
        }
        if self.line != LineKind::Comment {
            self.only_comments = false;
        }
        LineStep::within(length)
    }

    fn end_of_line(&mut self, rest: &[u8], end: Option<usize>) -> LineStep {
        let Some(end) = end else {
            return LineStep::within(rest.len());
        };
        let ends_comment = self.line == LineKind::Comment;
        if self.line == LineKind::Data {
            // The lines of one event's data are joined by line feeds.
            self.reader.read(b"\n", self.event_length + end);
        }
        self.line = LineKind::Start(0);
        self.line_length = 0;
        let mut length = end + 1;
        if rest[end] == b'\r' {
            match rest.get(length) {
                Some(b'\n') => length += 1,
                Some(_) => {}
                None => self.after_return = true,
            }
        }
        LineStep {
            length,
            ends_event: false,
            ends_comment,
        }
    }

    fn data(&mut self, data: &[u8]) {
        self.line_length += data.len();
        if self.line_length > MAX_LINE {
            self.reader.give_up();
            return;
        }
        let mut data = data;
        let mut offset = self.event_length;
        if self.payload == Payload::None {
            let trimmed = data.trim_ascii_start();
            offset += data.len() - trimmed.len();
            data = trimmed;
            self.payload = match data.first() {
                None => return,
                Some(b'{') => Payload::Json,
                Some(b'[') => Payload::Done(0),
                Some(_) => Payload::Other,
            };
        }
        match self.payload {
            Payload::Json => {
                let was_done = self.reader.is_done();
                self.reader.read(data, offset);
                if self.reader.is_done() && !was_done {
                    self.readings.add(self.reader.document());
                }
            }
            Payload::Done(matched) => {
                let expected = DONE.get(matched..).unwrap_or_default();
                let data = data.trim_ascii_end();
                self.payload = match expected.starts_with(data) {
                    true => Payload::Done(matched + data.len()),
                    false => Payload::Other,
                };
                if self.payload == Payload::Done(DONE.len()) {
                    self.readings.finish();
                }
            }
            Payload::None | Payload::Other => {}
        }
    }

    fn end_event(&mut self, piece: &[u8], end: usize, here: bool, progress: &mut Progress) {
        self.is_first_event = false;
        let start = progress.event_start;
        if !self.passed_on && self.is_extra() {
            self.begin_change(piece, here, progress);
            self.held.clear();
            progress.copied = end;
            self.took_out = true;
        } else if !self.passed_on && self.filter == StreamFilter::RunningUsage && self.has_usage() {
            self.begin_change(piece, here, progress);
            let from = if here { start } else { progress.copied };
            self.held.extend_from_slice(&piece[from..end]);
            let removable = self.reader.document().removable;
            without_members(&self.held, removable, &mut self.output);
            self.held.clear();
            progress.copied = end;
        } else {
            self.pass(here, progress);
            self.learn(piece, end, here, start);
        }
        self.event_length = 0;
    }

    /// Writes out what stands before the event.
    fn begin_change(&mut self, piece: &[u8], here: bool, progress: &mut Progress) {
        progress.changed = true;
        if here {
            let before = &piece[progress.copied..progress.event_start];
            self.output.extend_from_slice(before);
            progress.copied = progress.event_start;
        }
    }

    /// The event passes as it is.
    fn pass(&mut self, here: bool, progress: &mut Progress) {
        if !here && !self.held.is_empty() {
            self.output.append(&mut self.held);
            progress.changed = true;
        }
    }

    /// Keeps the event as the template, where it came whole and says nothing but its one piece of output.
    fn learn(&mut self, piece: &[u8], end: usize, here: bool, start: usize) {
        let document = self.reader.document();
        let says_more = document.usage
            || document.first_usage
            || document.timings
            || document.choices == ChoiceList::Empty
            || self.readings.is_finished()
            || end - start > MAX_TEMPLATE;
        if here && self.reader.is_done() && document.pieces == 1 && !says_more && !self.after_return
        {
            let fixed = match self.kind {
                ResponseKind::Chat | ResponseKind::Responses | ResponseKind::Messages => {
                    Some(document.event_name)
                }
                // A length may stand beside the piece.
                ResponseKind::Audio | ResponseKind::Embeddings | ResponseKind::Images => None,
            };
            self.template
                .learn(&piece[start..end], document.piece, fixed);
        }
    }

    fn end_piece(&mut self, piece: &[u8], here: bool, mut progress: Progress) -> Forward<'_> {
        if self.event_length > 0 {
            let from = match here {
                true => progress.event_start,
                false => progress.copied,
            };
            if self.may_change() && self.held.len() + piece.len() - from <= MAX_HELD {
                self.begin_change(piece, here, &mut progress);
                self.held.extend_from_slice(&piece[from..]);
                return Forward::Instead(&self.output);
            }
            self.pass(here, &mut progress);
            self.passed_on = true;
        }
        if !progress.changed {
            return Forward::Whole;
        }
        self.output.extend_from_slice(&piece[progress.copied..]);
        Forward::Instead(&self.output)
    }

    /// What still waits when the stream ends.
    pub(crate) fn rest(&self) -> &[u8] {
        match self.is_extra() {
            true => &[],
            false => &self.held,
        }
    }

    /// Whether the event is the one that asking for usage causes: a usage without choices.
    fn is_extra(&self) -> bool {
        let document = self.reader.document();
        self.filter != StreamFilter::Nothing
            && self.kind == ResponseKind::Chat
            && self.event_length > 0
            && self.payload == Payload::Json
            && self.reader.is_done()
            && document.usage
            && document.choices == ChoiceList::Empty
    }

    fn has_usage(&self) -> bool {
        let is_there = |place: &Option<_>| place.is_some();
        self.kind == ResponseKind::Chat
            && self.reader.is_done()
            && self.reader.document().removable.iter().any(is_there)
    }

    /// Whether the unfinished event may still be one that does not pass as it is.
    fn may_change(&self) -> bool {
        if self.passed_on || self.kind != ResponseKind::Chat || self.only_comments {
            return false;
        }
        let may_be_json = match self.payload {
            Payload::None => true,
            Payload::Json => !self.reader.is_broken(),
            Payload::Done(_) | Payload::Other => false,
        };
        match self.filter {
            StreamFilter::Nothing => false,
            StreamFilter::UsageEvent => {
                let document = self.reader.document();
                let says_no = self.reader.is_done() && !document.usage;
                may_be_json && document.choices != ChoiceList::Filled && !says_no
            }
            StreamFilter::RunningUsage => may_be_json,
        }
    }
}

/// How far a step went.
struct LineStep {
    length: usize,
    ends_event: bool,
    ends_comment: bool,
}

impl LineStep {
    fn within(length: usize) -> Self {
        Self {
            length,
            ends_event: false,
            ends_comment: false,
        }
    }
}

/// Writes an event without some members of its document, each with one comma beside it.
fn without_members(event: &[u8], members: [Option<(usize, usize)>; 2], output: &mut Vec<u8>) {
    let mut members: Vec<(usize, usize)> = members.into_iter().flatten().collect();
    members.sort_unstable();
    let mut copied = 0;
    for (start, end) in members {
        let (mut start, mut end) = (start, end.min(event.len()));
        let behind = event[end..].trim_ascii_start();
        let before = event[..start].trim_ascii_end();
        if before.len() > copied && before.last() == Some(&b',') {
            start = before.len() - 1;
        } else if behind.first() == Some(&b',') {
            end = event.len() - behind.len() + 1;
        }
        if let Some(between) = event.get(copied..start) {
            output.extend_from_slice(between);
        }
        copied = end;
    }
    output.extend_from_slice(&event[copied..]);
}
