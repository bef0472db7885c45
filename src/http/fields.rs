//! Header fields of one message: its head's text, and where in it each line stands.
//!
//! A head is copied once, as it came, and classified in one pass ([`FieldKind`]). Lines that pass are then copied from
//! here in stretches, so that a header costs neither an allocation nor a hash.

use crate::policy::field_kind::{FIELD_KINDS, FieldKind};

/// Most lines that one head has.
pub const MAX_FIELDS: usize = 128;

/// One header line, as places in its head's text.
#[derive(Clone, Copy, Debug)]
pub struct FieldLine {
    start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
    kind: FieldKind,
    /// `name: value` and CRLF, with no other white space: it can be copied as it stands.
    is_plain: bool,
}

impl FieldLine {
    /// What the field is to the gateway.
    #[must_use]
    pub fn kind(&self) -> FieldKind {
        self.kind
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<FieldLine>,
    /// Memory for the lines that [`Self::retain`] keeps.
    spare: Vec<FieldLine>,
    first: [u8; FIELD_KINDS],
    count: [u8; FIELD_KINDS],
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            lines: Vec::new(),
            spare: Vec::new(),
            first: [0; FIELD_KINDS],
            count: [0; FIELD_KINDS],
        }
    }
}

impl Fields {
    /// Forgets all fields and puts a new text in place, whose lines are then told by [`Self::index`].
    pub fn restart(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.lines.clear();
        self.count = [0; FIELD_KINDS];
    }

    /// Bytes of memory that the text holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Notes a line that stands in the text: the places of its name and of its value.
    pub fn index(&mut self, name: std::ops::Range<usize>, value: std::ops::Range<usize>) {
        let kind = FieldKind::of(&self.text[name.clone()]);
        // An empty value has no place of its own: the parser says none.
        let is_plain = value.start == name.end + 2
            && self.text[name.end + 1] == b' '
            && self.text.get(value.end..value.end + 2) == Some(b"\r\n");
        self.note(FieldLine {
            start: place(name.start),
            name_end: place(name.end),
            value_start: place(value.start),
            value_end: place(value.end),
            kind,
            is_plain,
        });
    }

    /// Appends a line of its own.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_as(FieldKind::of(name.as_bytes()), name, value);
    }

    /// Appends a line of its own, where the kind of its name is known.
    pub fn push_as(&mut self, kind: FieldKind, name: &str, value: &[u8]) {
        let start = self.text.len();
        self.text.reserve(name.len() + value.len() + 4);
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.text.extend_from_slice(part);
        }
        let name_end = start + name.len();
        let value_start = name_end + 2;
        self.note(FieldLine {
            start: place(start),
            name_end: place(name_end),
            value_start: place(value_start),
            value_end: place(value_start + value.len()),
            kind,
            is_plain: true,
        });
    }

    fn note(&mut self, line: FieldLine) {
        let kind = line.kind as usize;
        if self.count[kind] == 0 {
            self.first[kind] = u8::try_from(self.lines.len()).unwrap_or(u8::MAX);
        }
        self.count[kind] = self.count[kind].saturating_add(1);
        self.lines.push(line);
    }

    /// Forgets the lines that do not stay; all are there until each was asked about.
    pub fn retain(&mut self, stays: impl Fn(&Self, &FieldLine) -> bool) {
        let mut kept = std::mem::take(&mut self.spare);
        kept.extend(self.lines.iter().filter(|line| stays(self, line)));
        self.lines.clear();
        self.count = [0; FIELD_KINDS];
        for line in kept.drain(..) {
            self.note(line);
        }
        self.spare = kept;
    }

    /// All lines, in their order.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &FieldLine> + Clone {
        self.lines.iter()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A line's name, in the case it came in.
    #[must_use]
    pub fn name(&self, line: &FieldLine) -> &[u8] {
        &self.text[line.start as usize..line.name_end as usize]
    }

    /// A line's value, without the white space around it.
    #[must_use]
    pub fn value(&self, line: &FieldLine) -> &[u8] {
        &self.text[line.value_start as usize..line.value_end as usize]
    }

    /// How many lines are of this kind.
    #[must_use]
    pub fn count(&self, kind: FieldKind) -> usize {
        usize::from(self.count[kind as usize])
    }

    /// The values of a kind's lines, in their order.
    pub fn all(&self, kind: FieldKind) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        let from = match self.count(kind) {
            0 => self.lines.len(),
            _ => usize::from(self.first[kind as usize]),
        };
        let lines = self.lines[from..].iter();
        lines
            .filter(move |line| line.kind == kind)
            .map(|line| self.value(line))
    }

    /// The first value of a kind.
    #[must_use]
    pub fn first(&self, kind: FieldKind) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// The value of a kind that has exactly one line.
    #[must_use]
    pub fn only(&self, kind: FieldKind) -> Option<&[u8]> {
        (self.count(kind) == 1).then(|| self.first(kind)).flatten()
    }

    /// Writes the lines that are chosen, with their line ends; neighbours that need no rewriting are copied at once.
    pub fn write(&self, out: &mut Vec<u8>, chosen: impl Fn(&FieldLine) -> bool) {
        let mut stretch = 0..0;
        for line in self.lines.iter().filter(|line| chosen(line)) {
            let start = line.start as usize;
            if !line.is_plain {
                for part in [self.name(line), b": ", self.value(line), b"\r\n"] {
                    // What stands before it is written first.
                    out.extend_from_slice(&self.text[std::mem::take(&mut stretch)]);
                    out.extend_from_slice(part);
                }
                continue;
            }
            if stretch.end != start {
                out.extend_from_slice(&self.text[stretch]);
                stretch = start..start;
            }
            stretch.end = line.value_end as usize + 2;
        }
        out.extend_from_slice(&self.text[stretch]);
    }
}

/// A head is far shorter than this; [`crate::http::head`] and the upstream's reader bound it.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_stand_or_put_right() {
        let mut fields = Fields::default();
        fields.restart(b"A: 1\r\nhost: h\r\nb:2 \r\nC: 3\r\nd: 4\r\n");
        for (name, value) in [
            (0..1, 3..4),
            (6..10, 12..13),
            (15..16, 17..18),
            (21..22, 24..25),
            (27..28, 30..31),
        ] {
            fields.index(name, value);
        }
        let mut out = Vec::new();
        fields.write(&mut out, |line| line.kind() != FieldKind::Host);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "A: 1\r\nb: 2\r\nC: 3\r\nd: 4\r\n"
        );
        assert_eq!(fields.only(FieldKind::Host), Some(&b"h"[..]));
        assert_eq!(fields.all(FieldKind::Other).count(), 4);
        fields.push("x-request-id", b"r");
        assert_eq!(fields.first(FieldKind::XRequestId), Some(&b"r"[..]));
    }
}
