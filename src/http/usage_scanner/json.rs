//! Reads the wanted values of one JSON document that comes in pieces, and skips all others at memory speed.
//!
//! It keeps the path of open objects and lists that matter, and a few bytes of the name or value that a piece may end
//! in. It is lenient: an upstream writes the document, and the client that parses it finds its faults. In a document
//! that is not JSON it reads anything or nothing; it never panics and never needs more memory.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use wide::u8x16;

use crate::http::usage_scanner::paths::{FIELDS, Field, Part, Shape};

/// Building a finder costs more than most searches with it.
static TIMINGS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"timings\""));

/// The longest name or value that is read, in bytes. Longer ones are skipped.
const TEXT: usize = 48;
/// The deepest wanted value stands in so many objects and lists.
const DEPTH: usize = 8;
const VECTOR: usize = 16;

/// A larger count is an error of the upstream. Sums of such counts stay far from overflow.
const MAX_COUNT: u64 = 1 << 40;
/// The same for the length of audio: fifty days.
const MAX_MICROSECONDS: u64 = 1 << 42;

/// What one document said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document {
    /// `u64::MAX` for those that it did not say.
    values: [u64; FIELDS],
    pub(crate) usage: bool,
    pub(crate) first_usage: bool,
    pub(crate) timings: bool,
    pub(crate) choices: ChoiceList,
    pub(crate) images: Option<u64>,
    pub(crate) event: EventType,
    /// Where the name of the event stands, as offsets from the start of the event.
    pub(crate) event_name: (usize, usize),
    /// How many pieces of output are not empty.
    pub(crate) pieces: u32,
    /// Where the last of them stands, without its quotes, as offsets from the start of the event.
    pub(crate) piece: (usize, usize),
    /// Where the usage and the timings of the document itself stand, from the quote of the name to the end of the value.
    pub(crate) removable: [Option<(usize, usize)>; 2],
}

/// The list `choices`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChoiceList {
    Absent,
    Empty,
    Filled,
}

/// The name of an event, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Other,
    /// Nothing follows that a client needs.
    Last,
    /// An image was made.
    Image,
}

impl Document {
    const EMPTY: Self = Self {
        values: [u64::MAX; FIELDS],
        usage: false,
        first_usage: false,
        timings: false,
        choices: ChoiceList::Absent,
        images: None,
        event: EventType::Other,
        event_name: (0, 0),
        pieces: 0,
        piece: (0, 0),
        removable: [None, None],
    };

    pub(crate) fn value(&self, field: Field) -> Option<u64> {
        Some(self.values[field as usize]).filter(|value| *value != u64::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonState {
    /// Before the document.
    Start,
    /// In an object of the path: a name, a comma or the end comes.
    Members,
    Name,
    NameEscape,
    /// Behind a name or in a list: a value comes.
    Value,
    /// In a list of the path: a value, a comma or the end comes.
    Items,
    Literal,
    Text,
    TextEscape,
    /// In an object or a list that does not matter.
    Skipped,
    SkippedText,
    SkippedEscape,
    Done,
    /// Not JSON: the rest is not read.
    Broken,
}

/// Reads one document after another.
#[derive(Debug)]
pub(crate) struct JsonReader {
    root: &'static Shape,
    state: JsonState,
    path: [&'static Shape; DEPTH],
    depth: usize,
    /// Objects and lists that are open and do not matter.
    skipped: u64,
    /// The shape of the value that comes or is read.
    shape: &'static Shape,
    text: [u8; TEXT],
    text_length: usize,
    text_fits: bool,
    text_start: usize,
    /// Where the name of the current member of the document itself starts.
    member_start: usize,
    document: Document,
}

impl JsonReader {
    pub(crate) fn new(root: &'static Shape) -> Self {
        Self {
            root,
            state: JsonState::Start,
            path: [&Shape::Nothing; DEPTH],
            depth: 0,
            skipped: 0,
            shape: &Shape::Nothing,
            text: [0; TEXT],
            text_length: 0,
            text_fits: true,
            text_start: 0,
            member_start: 0,
            document: Document::EMPTY,
        }
    }

    /// Begins another document.
    pub(crate) fn restart(&mut self) {
        self.state = JsonState::Start;
        self.depth = 0;
        self.skipped = 0;
        self.document = Document::EMPTY;
    }

    /// What the document said so far.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == JsonState::Done
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state == JsonState::Broken
    }

    /// Reads no more of this document.
    pub(crate) fn give_up(&mut self) {
        self.state = JsonState::Broken;
    }

    /// Reads a whole document from its member `usage` on, where that is the only part of it that matters and stands near
    /// the end, as servers write it. Returns whether it was so; otherwise nothing is read.
    ///
    /// In JSON, a name with its quotes and a colon stands nowhere but in an object. If what follows it ends just that
    /// object and with it the document, then the object is the document itself.
    pub(crate) fn read_usage_at_end(&mut self, document: &[u8]) -> bool {
        // Before an object only whitespace may stand, as for one that comes in pieces.
        if document.trim_ascii_start().first() != Some(&b'{') {
            return false;
        }
        let Some(at) = last_usage(document) else {
            return false;
        };
        self.path[0] = self.root;
        self.depth = 1;
        self.state = JsonState::Members;
        let end = at + self.read(&document[at..], at);
        let is_whole = self.is_done() && document[end..].iter().all(u8::is_ascii_whitespace);
        // Where they stand before it, timings may say what the usage does not.
        let says_all = self.document.value(Field::Cached).is_some()
            || self.document.timings
            || !self.root.has_timings()
            || TIMINGS.find(document).is_none();
        if !(is_whole && says_all) {
            self.restart();
            return false;
        }
        true
    }

    /// Reads a piece. `offset` is the place of its first byte. Returns how many bytes it read: all, unless the document
    /// has ended or is not JSON.
    pub(crate) fn read(&mut self, piece: &[u8], offset: usize) -> usize {
        let mut at = 0;
        while at < piece.len() {
            at = match self.state {
                JsonState::Start => self.start(piece, at),
                JsonState::Members => self.members(piece, at, offset),
                JsonState::Name => self.name(piece, at, offset),
                JsonState::Value => self.value(piece, at, offset),
                JsonState::Items => self.items(piece, at, offset),
                JsonState::Literal => self.literal(piece, at),
                JsonState::Text => self.text(piece, at, offset),
                JsonState::Skipped => self.skipped(piece, at),
                JsonState::SkippedText => self.skipped_text(piece, at),
                JsonState::NameEscape => self.after_escape(at, JsonState::Name),
                JsonState::TextEscape => self.after_escape(at, JsonState::Text),
                JsonState::SkippedEscape => self.after_escape(at, JsonState::SkippedText),
                JsonState::Done | JsonState::Broken => return at,
            };
        }
        at
    }

    fn after_escape(&mut self, at: usize, state: JsonState) -> usize {
        self.state = state;
        at + 1
    }

    fn start(&mut self, piece: &[u8], at: usize) -> usize {
        match piece[at] {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' => {
                self.path[0] = self.root;
                self.depth = 1;
                self.state = JsonState::Members;
            }
            _ => self.state = JsonState::Broken,
        }
        at + 1
    }

    fn members(&mut self, piece: &[u8], mut at: usize, offset: usize) -> usize {
        // Most documents have no space there.
        if let [b',', b'"', ..] = piece[at..] {
            at += 1;
        }
        match piece[at] {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => {}
            b'"' => {
                if self.depth == 1 {
                    self.member_start = offset + at;
                }
                self.begin_text();
                self.state = JsonState::Name;
            }
            b'}' => self.close(offset + at + 1),
            _ => self.state = JsonState::Broken,
        }
        at + 1
    }

    fn name(&mut self, piece: &[u8], at: usize, offset: usize) -> usize {
        let Some(stop) = string_stop(piece, at) else {
            self.take_text(&piece[at..]);
            return piece.len();
        };
        if piece[stop] == b'\\' {
            // No wanted name is written with escapes.
            self.text_fits = false;
            self.state = JsonState::NameEscape;
            return stop + 1;
        }
        let members = match self.path[self.depth - 1] {
            Shape::Object(_, members) => *members,
            _ => &[],
        };
        // Most names are whole in one piece, and need no copy.
        let name = match self.text_length {
            0 if self.text_fits => &piece[at..stop],
            _ => {
                self.take_text(&piece[at..stop]);
                match self.text_fits {
                    true => &self.text[..self.text_length],
                    false => &[],
                }
            }
        };
        self.shape = members
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(&Shape::Nothing, |(_, shape)| shape);
        self.state = JsonState::Value;
        match piece.get(stop + 1..) {
            Some([b':', _, ..]) => self.value(piece, stop + 2, offset),
            _ => stop + 1,
        }
    }

    fn items(&mut self, piece: &[u8], at: usize, offset: usize) -> usize {
        match piece[at] {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => at + 1,
            b']' => {
                self.close(offset + at + 1);
                at + 1
            }
            _ => {
                if let Shape::List(part, items) = self.path[self.depth - 1] {
                    self.shape = items;
                    match part {
                        Part::Choices => self.document.choices = ChoiceList::Filled,
                        Part::Images => {
                            let counted = self.document.images.unwrap_or(0);
                            self.document.images = Some(counted + 1);
                        }
                        Part::Other | Part::Usage | Part::FirstUsage | Part::Timings => {}
                    }
                }
                self.value(piece, at, offset)
            }
        }
    }

    fn value(&mut self, piece: &[u8], at: usize, offset: usize) -> usize {
        let fits = self.depth < DEPTH;
        match (piece[at], self.shape) {
            (b' ' | b'\t' | b'\n' | b'\r' | b':', _) => self.state = JsonState::Value,
            (b'{', Shape::Object(part, _)) if fits => {
                match part {
                    Part::Usage => self.document.usage = true,
                    Part::FirstUsage => self.document.first_usage = true,
                    Part::Timings => self.document.timings = true,
                    Part::Other | Part::Choices | Part::Images => {}
                }
                self.open(JsonState::Members);
            }
            (b'[', Shape::List(part, _)) if fits => {
                match part {
                    Part::Choices if self.document.choices == ChoiceList::Absent => {
                        self.document.choices = ChoiceList::Empty;
                    }
                    Part::Images => self.document.images = Some(0),
                    _ => {}
                }
                self.open(JsonState::Items);
            }
            (b'{' | b'[', _) => {
                self.skipped = 1;
                self.state = JsonState::Skipped;
            }
            (b'"', _) => {
                self.begin_text();
                self.text_start = offset + at + 1;
                self.state = JsonState::Text;
            }
            (b'}' | b']' | b',', _) => self.state = JsonState::Broken,
            _ => {
                self.begin_text();
                self.state = JsonState::Literal;
                return at;
            }
        }
        at + 1
    }

    fn literal(&mut self, piece: &[u8], at: usize) -> usize {
        let rest = &piece[at..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
        let leaf = matches!(self.shape, Shape::Leaf(_));
        if leaf {
            self.take_text(&rest[..length.unwrap_or(rest.len())]);
        }
        match length {
            None => piece.len(),
            Some(length) => {
                if leaf {
                    self.set_value();
                }
                self.after_value();
                at + length
            }
        }
    }

    fn text(&mut self, piece: &[u8], at: usize, offset: usize) -> usize {
        let stop = string_stop(piece, at);
        let end = stop.unwrap_or(piece.len());
        match self.shape {
            Shape::Leaf(Field::Content) => {
                // Whether it is empty is all that matters.
                self.text_length |= usize::from(end > at);
            }
            Shape::Leaf(_) => self.take_text(&piece[at..end]),
            _ => {}
        }
        let Some(stop) = stop else {
            return piece.len();
        };
        if piece[stop] == b'\\' {
            match self.shape {
                Shape::Leaf(Field::Content) => self.text_length = 1,
                _ => self.text_fits = false,
            }
            self.state = JsonState::TextEscape;
            return stop + 1;
        }
        match self.shape {
            Shape::Leaf(Field::Content) if self.text_length > 0 => {
                self.document.pieces = self.document.pieces.saturating_add(1);
                self.document.piece = (self.text_start, offset + stop);
            }
            Shape::Leaf(field) => {
                if *field == Field::Type {
                    self.document.event_name = (self.text_start, offset + stop);
                }
                self.set_value();
            }
            _ => {}
        }
        self.after_value();
        stop + 1
    }

    fn skipped(&mut self, piece: &[u8], mut at: usize) -> usize {
        while let Some(stop) = bracket_or_quote(piece, at) {
            at = stop + 1;
            match piece[stop] {
                b'"' => {
                    self.state = JsonState::SkippedText;
                    at = self.skipped_text(piece, at);
                    if self.state != JsonState::Skipped {
                        return at;
                    }
                }
                b'{' | b'[' => self.skipped += 1,
                _ => {
                    self.skipped -= 1;
                    if self.skipped == 0 {
                        self.after_value();
                        return at;
                    }
                }
            }
        }
        piece.len()
    }

    fn skipped_text(&mut self, piece: &[u8], at: usize) -> usize {
        let Some(stop) = string_stop(piece, at) else {
            return piece.len();
        };
        self.state = match piece[stop] {
            b'"' => JsonState::Skipped,
            _ => JsonState::SkippedEscape,
        };
        stop + 1
    }

    fn open(&mut self, state: JsonState) {
        self.path[self.depth] = self.shape;
        self.depth += 1;
        self.state = state;
    }

    /// An object or a list of the path ended before `end`.
    fn close(&mut self, end: usize) {
        let closed = self.path[self.depth - 1];
        self.depth -= 1;
        if self.depth == 1 {
            let place = match closed {
                Shape::Object(Part::Usage, _) => Some(0),
                Shape::Object(Part::Timings, _) => Some(1),
                _ => None,
            };
            if let Some(place) = place {
                self.document.removable[place] = Some((self.member_start, end));
            }
        }
        self.after_value();
    }

    fn after_value(&mut self) {
        self.state = match self.depth {
            0 => JsonState::Done,
            depth => match self.path[depth - 1] {
                Shape::List(..) => JsonState::Items,
                _ => JsonState::Members,
            },
        };
    }

    fn begin_text(&mut self) {
        self.text_length = 0;
        self.text_fits = true;
    }

    fn take_text(&mut self, bytes: &[u8]) {
        let end = self.text_length + bytes.len();
        match self.text.get_mut(self.text_length..end) {
            Some(room) if self.text_fits => {
                room.copy_from_slice(bytes);
                self.text_length = end;
            }
            _ => self.text_fits = false,
        }
    }

    fn set_value(&mut self) {
        let text = match self.text_fits {
            true => &self.text[..self.text_length],
            false => return,
        };
        let Shape::Leaf(field) = self.shape else {
            return;
        };
        let value = match field {
            Field::Type => {
                self.document.event = event_type(text);
                return;
            }
            Field::Content => return,
            Field::Seconds | Field::Duration => {
                millionths(text).filter(|value| *value <= MAX_MICROSECONDS)
            }
            _ => millionths(text)
                .filter(|value| value % 1_000_000 == 0)
                .map(|value| value / 1_000_000)
                .filter(|value| *value <= MAX_COUNT),
        };
        if let Some(value) = value {
            self.document.values[*field as usize] = value;
        }
    }
}

/// Where the last name `usage` begins, with its quote. It is looked for near the end only.
fn last_usage(document: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"usage\":";
    /// Of its letters the least frequent, and where it stands.
    const RARE: (u8, usize) = (b'g', 4);
    /// So many of this letter are looked at.
    const TRIES: usize = 16;
    memchr::memrchr_iter(RARE.0, document)
        .take(TRIES)
        .filter_map(|rare| rare.checked_sub(RARE.1))
        .find(|at| {
            // With a backslash before its quote it is part of a text.
            document[*at..].starts_with(NAME) && (*at == 0 || document[at - 1] != b'\\')
        })
}

fn event_type(name: &[u8]) -> EventType {
    match name {
        b"message_stop"
        | b"response.completed"
        | b"response.incomplete"
        | b"response.failed"
        | b"transcript.text.done"
        | b"speech.audio.done" => EventType::Last,
        b"image_generation.completed" | b"image_edit.completed" => EventType::Image,
        _ => EventType::Other,
    }
}

/// A decimal number that is not negative, in millionths; further digits are cut off. None where it has an exponent, or
/// is no number.
fn millionths(text: &[u8]) -> Option<u64> {
    // Nearly every count has few digits, whose number cannot overflow.
    if (1..=12).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) {
        let number = text
            .iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        return Some(number * 1_000_000);
    }
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b"0"[..]),
    };
    if whole.is_empty() || fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add_digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    let whole = whole.iter().try_fold(0, add_digit)?;
    let padded = fraction.iter().chain(std::iter::repeat(&b'0')).take(6);
    whole
        .checked_mul(1_000_000)?
        .checked_add(padded.into_iter().try_fold(0, add_digit)?)
}

/// The next quote or backslash.
#[inline]
fn string_stop(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if let Some(block) = rest.first_chunk::<VECTOR>() {
        let block = u8x16::new(*block);
        let stops = block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'));
        let stops = stops.to_bitmask();
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize);
        }
        return memchr::memchr2(b'"', b'\\', &rest[VECTOR..]).map(|stop| at + VECTOR + stop);
    }
    let stop = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    stop.map(|stop| at + stop)
}

/// The next quote, or bracket of an object or a list.
#[inline]
fn bracket_or_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(block) = bytes.get(at..)?.first_chunk::<VECTOR>() {
        let block = u8x16::new(*block);
        // `[` and `{`, and `]` and `}`, differ in this bit alone.
        let folded = block | u8x16::splat(0x20);
        let stops = folded.simd_eq(u8x16::splat(b'{'))
            | folded.simd_eq(u8x16::splat(b'}'))
            | block.simd_eq(u8x16::splat(b'"'));
        let stops = stops.to_bitmask();
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize);
        }
        at += VECTOR;
    }
    let stop = bytes[at..]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'));
    stop.map(|stop| at + stop)
}
