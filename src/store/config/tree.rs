//! Reads a TOML document section by section, and collects all faults with their lines.
//!
//! Invariant: every faulty field that is read adds a fault, and so does every field that is not read, by
//! [`Section::reject_unknown_fields`].

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, TableLike, Value};

use crate::store::config::value::quoted;
use crate::store::fault::Fault;

/// The position of a field or value: file, line and path.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    file: PathBuf,
    line: usize,
    field: String,
}

impl Location {
    /// A flag of the command line.
    pub(crate) fn flag(name: &str) -> Self {
        Self {
            file: PathBuf::from("command line"),
            line: 0,
            field: name.to_owned(),
        }
    }

    /// The line, counted from 1; 0 for a flag or a whole file.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// A file as a whole.
    pub(crate) fn file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            field: String::new(),
        }
    }
}

/// A value with its location, for checks that compare values.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) location: Location,
    pub(crate) value: T,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    /// Adds a fault: `what; remedy`.
    pub(crate) fn add(&self, location: &Location, message: impl Into<String>) {
        let Location { file, line, field } = location.clone();
        self.0.borrow_mut().push(Fault {
            file,
            line,
            field,
            message: message.into(),
        });
    }

    /// Returns the value, or adds the fault and returns None.
    pub(crate) fn record<T>(&self, location: &Location, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.add(location, message)).ok()
    }

    /// The faults of one section so far.
    pub(crate) fn section_faults(&self, section: &str) -> Vec<Fault> {
        let faults = self.0.borrow();
        let concerns = |fault: &&Fault| fault.section() == section;
        faults.iter().filter(concerns).cloned().collect()
    }

    /// All faults, by line.
    pub(crate) fn into_sorted(self) -> Vec<Fault> {
        let mut faults = self.0.into_inner();
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// A document that is valid TOML.
pub(crate) struct TomlDocument {
    file: PathBuf,
    document: Document<String>,
    lines: LineIndex,
}

impl TomlDocument {
    /// Adds a fault with its line and returns None if the text is not TOML.
    pub(crate) fn parse(file: &Path, text: &[u8], faults: &Faults) -> Option<Self> {
        let lines = LineIndex::of(text);
        let at = |offset| Location {
            line: lines.line_at(offset),
            ..Location::file(file)
        };
        let text = match std::str::from_utf8(text) {
            Ok(text) => text.to_owned(),
            Err(error) => {
                let location = at(error.valid_up_to());
                faults.add(&location, "is not UTF-8; save the file as UTF-8");
                return None;
            }
        };
        match Document::parse(text) {
            Ok(document) => Some(Self {
                file: file.to_owned(),
                document,
                lines,
            }),
            Err(error) => {
                let location = at(error.span().map_or(0, |span| span.start));
                let what = error.message().replace('\n', ", ");
                faults.add(
                    &location,
                    format!("is not TOML: {what}; correct this line, then check again"),
                );
                None
            }
        }
    }

    /// The fields outside any section.
    pub(crate) fn root<'a>(&'a self, faults: &'a Faults) -> Section<'a> {
        Section {
            tree: Some(self),
            faults,
            table: Some(self.document.as_table()),
            location: Location::file(&self.file),
            known_fields: Vec::new(),
        }
    }
}

/// One section of the document. If `table` is None, all its fields are absent.
pub(crate) struct Section<'a> {
    tree: Option<&'a TomlDocument>,
    faults: &'a Faults,
    table: Option<&'a dyn TableLike>,
    location: Location,
    known_fields: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// A section without fields.
    pub(crate) fn absent(faults: &'a Faults, location: Location) -> Self {
        Self {
            tree: None,
            faults,
            table: None,
            location,
            known_fields: Vec::new(),
        }
    }

    /// Whether the file contains the section.
    pub(crate) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the section contains the field, faulty or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(name))
    }

    /// Whether the field is an empty list.
    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        let array = self.table.and_then(|table| table.get(name)?.as_array());
        array.is_some_and(toml_edit::Array::is_empty)
    }

    /// The location of a field. If it is missing, its line is the section's first.
    pub(crate) fn location(&self, name: &str) -> Location {
        let entry = self.table.and_then(|table| table.get_key_value(name));
        let span = entry.and_then(|(key, item)| item.span().or(key.span()));
        let line = self.line_at(span).unwrap_or(self.location.line);
        let field = match self.location.field.as_str() {
            "" => name.to_owned(),
            section => format!("{section}.{name}"),
        };
        Location {
            file: self.location.file.clone(),
            line,
            field,
        }
    }

    pub(crate) fn fault(&self, name: &str, message: impl Into<String>) {
        self.faults.add(&self.location(name), message);
    }

    /// A string, parsed by `read`.
    pub(crate) fn text<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.get(name)?;
        let value = text_of(item.as_value(), item.type_name());
        self.faults
            .record(&self.location(name), value.and_then(read))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let item = self.get(name)?;
        let value = item.as_bool().ok_or_else(|| {
            let found = with_article(item.type_name());
            format!("is {found}; write true or false")
        });
        self.faults.record(&self.location(name), value)
    }

    /// A whole number within `from..=to`.
    pub(crate) fn number(&mut self, name: &'static str, from: usize, to: usize) -> Option<usize> {
        let item = self.get(name)?;
        let value = item.as_integer().map(usize::try_from);
        let value = match value {
            Some(Ok(number)) if (from..=to).contains(&number) => Ok(number),
            Some(_) => Err(format!("is out of bounds; write {from} to {to}")),
            None => Err(format!(
                "is {}; write a whole number, without quotes",
                with_article(item.type_name())
            )),
        };
        self.faults.record(&self.location(name), value)
    }

    /// A string or an integer, parsed by `read`. An integer is read as if it were in quotes.
    pub(crate) fn text_or_number<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.table?.get(name).and_then(Item::as_integer) {
            Some(number) => {
                self.get(name)?;
                let value = read(&number.to_string());
                self.faults.record(&self.location(name), value)
            }
            None => self.text(name, read),
        }
    }

    /// A decimal number, parsed by `read` from its digits as they are written, so that nothing is rounded. It may stand
    /// in quotes.
    pub(crate) fn number_text<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.table?.get(name);
        if !item.is_some_and(|item| item.is_float() || item.is_integer()) {
            return self.text(name, read);
        }
        let item = self.get(name)?;
        let written = self.tree?.document.raw().get(item.span()?)?;
        let value = read(&written.replace('_', ""));
        self.faults.record(&self.location(name), value)
    }

    /// A list of strings, each parsed by `read`. Faulty entries are left out.
    pub(crate) fn texts<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<T>>> {
        let item = self.get(name)?;
        let Some(array) = item.as_array() else {
            let found = with_article(item.type_name());
            self.fault(
                name,
                format!("is {found}; write a list, like [\"a\", \"b\"]"),
            );
            return None;
        };
        let mut taken = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let mut location = self.location(name);
            location.line = self.line_at(value.span()).unwrap_or(location.line);
            location.field = format!("{}[{index}]", location.field);
            let text = text_of(Some(value), value.type_name());
            if let Some(value) = self.faults.record(&location, text.and_then(&read)) {
                taken.push(Located { location, value });
            }
        }
        Some(taken)
    }

    /// A string, or a list of at least one. Faulty entries are left out.
    pub(crate) fn text_or_texts<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<T>>> {
        let is_list = self.table?.get(name).is_some_and(Item::is_array);
        match is_list {
            true if self.is_empty_list(name) => {
                self.get(name)?;
                self.fault(name, "is an empty list; name at least one");
                None
            }
            true => self.texts(name, read),
            false => {
                let value = self.text(name, read)?;
                let location = self.location(name);
                Some(vec![Located { location, value }])
            }
        }
    }

    /// A table of strings, whose names and values are parsed by `read`. Faulty entries are left out.
    pub(crate) fn texts_by_name<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<(Located<T>, T)>> {
        let item = self.get(name)?;
        let Some(table) = item.as_table_like() else {
            let found = with_article(item.type_name());
            self.fault(
                name,
                format!("is {found}; write a table, like {{ \"a\" = \"b\" }}"),
            );
            return None;
        };
        let mut taken = Vec::new();
        for (key, item) in table.iter() {
            let mut location = self.location(name);
            location.line = self.line_at(item.span()).unwrap_or(location.line);
            location.field = format!("{}.{}", location.field, quoted(key));
            let text = text_of(item.as_value(), item.type_name());
            let key = self.faults.record(&location, read(key));
            let value = self.faults.record(&location, text.and_then(&read));
            if let (Some(key), Some(value)) = (key, value) {
                let key = Located {
                    location,
                    value: key,
                };
                taken.push((key, value));
            }
        }
        Some(taken)
    }

    /// A subsection.
    pub(crate) fn section(&mut self, name: &'static str) -> Section<'a> {
        let location = self.location(name);
        let Some(item) = self.get(name) else {
            return Section::absent(self.faults, location);
        };
        let table = item.as_table_like();
        if table.is_none() {
            let found = with_article(item.type_name());
            self.fault(
                name,
                format!("is {found}; write [{name}] on a line of its own, and its fields below it"),
            );
        }
        self.subsection(table, location)
    }

    /// The sections of a list like `[[upstreams]]`. None if the field is missing or not a list of sections.
    pub(crate) fn sections(&mut self, name: &'static str) -> Option<Vec<Section<'a>>> {
        let item = self.get(name)?;
        let path = self.location(name).field;
        let remedy = format!("write [[{path}]] on a line of its own, and its fields below it");
        let tables: Vec<(Option<&'a dyn TableLike>, _)> = match (item, item.as_array()) {
            (Item::ArrayOfTables(tables), _) => tables
                .iter()
                .map(|table| (Some(table as &dyn TableLike), table.span()))
                .collect(),
            (_, Some(values)) => values
                .iter()
                .map(|value| {
                    let table = value.as_inline_table();
                    (table.map(|table| table as &dyn TableLike), value.span())
                })
                .collect(),
            _ => {
                let found = with_article(item.type_name());
                self.fault(name, format!("is {found}; {remedy}"));
                return None;
            }
        };
        let mut sections = Vec::new();
        for (index, (table, span)) in tables.into_iter().enumerate() {
            let mut location = self.location(name);
            location.line = self.line_at(span).unwrap_or(location.line);
            location.field = format!("{}[{index}]", location.field);
            if table.is_none() {
                self.faults
                    .add(&location, format!("is not a section; {remedy}"));
            }
            sections.push(self.subsection(table, location));
        }
        Some(sections)
    }

    /// Adds a fault for every field that was not read. Call this last; it consumes the section.
    pub(crate) fn reject_unknown_fields(self) {
        for (name, _) in self.table.into_iter().flat_map(TableLike::iter) {
            if self.known_fields.contains(&name) {
                continue;
            }
            let remedy = match closest(name, &self.known_fields) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it, or use one of {}", self.known_fields.join(", ")),
            };
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let mut location = self.location(name);
            if name.is_empty() || !name.chars().all(bare) {
                let end = location.field.len() - name.len();
                location.field.replace_range(end.., &quoted(name));
            }
            self.faults.add(
                &location,
                format!("is not a field of this section; {remedy}"),
            );
        }
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Item> {
        self.known_fields.push(name);
        self.table?.get(name)
    }

    fn subsection(&self, table: Option<&'a dyn TableLike>, location: Location) -> Self {
        Self {
            tree: self.tree,
            faults: self.faults,
            table,
            location,
            known_fields: Vec::new(),
        }
    }

    fn line_at(&self, span: Option<std::ops::Range<usize>>) -> Option<usize> {
        Some(self.tree?.lines.line_at(span?.start))
    }
}

/// The offsets of the line ends of a text.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn of(text: &[u8]) -> Self {
        Self(memchr::memchr_iter(b'\n', text).collect())
    }

    /// The line of the byte at `offset`, counted from 1.
    fn line_at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

fn text_of<'a>(value: Option<&'a Value>, type_name: &str) -> Result<&'a str, String> {
    value.and_then(Value::as_str).ok_or_else(|| {
        let found = with_article(type_name);
        format!("is {found}; write a text in double quotes")
    })
}

fn with_article(type_name: &str) -> String {
    let vowel = type_name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {type_name}", if vowel { "an" } else { "a" })
}

/// The known name that was probably meant: at most two edits away, or one is a prefix of the other.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let beginning =
        |known: &&&str| name.len() >= 3 && (known.starts_with(name) || name.starts_with(**known));
    let (distance, close) = known
        .iter()
        .map(|known| (edit_distance(name, known), known))
        .min_by_key(|(distance, _)| *distance)?;
    if distance <= 2 && distance < name.len().min(close.len()) {
        return Some(close);
    }
    known.iter().find(beginning).copied()
}

/// The Levenshtein distance.
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
