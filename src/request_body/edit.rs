//! The one place that changes a body: a list of edits by byte offsets, which the scan of the body found. Everything
//! else goes on byte for byte as it was sent.
//!
//! Three kinds of edit cover what the gateway changes: a value is replaced; a member is inserted behind the brace that
//! opens the document; or one behind the brace that opens an object in it. The body is not copied: it is written in
//! slices, before, between and behind the edits.

use std::fmt::Write;
use std::ops::Range;

/// The edits of one body. Without any, it needs no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BodyEdits {
    /// By place, without overlaps.
    edits: Vec<BodyEdit>,
}

/// Text in place of a range of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BodyEdit {
    place: Range<usize>,
    text: String,
}

impl BodyEdits {
    /// Whether the body goes on unchanged.
    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Puts `text` in place of a range of the body. An edit that overlaps an earlier one replaces nothing: no two parts
    /// of a body that the scan finds overlap.
    pub(crate) fn replace(&mut self, place: Range<usize>, text: String) {
        let at = self
            .edits
            .partition_point(|edit| edit.place.start < place.start);
        let is_free = |edit: Option<&BodyEdit>, fits: fn(&Range<usize>, &Range<usize>) -> bool| {
            edit.is_none_or(|edit| fits(&edit.place, &place))
        };
        let before = at.checked_sub(1).and_then(|before| self.edits.get(before));
        if is_free(before, |before, new| before.end <= new.start)
            && is_free(self.edits.get(at), |after, new| new.end <= after.start)
        {
            self.edits.insert(at, BodyEdit { place, text });
        }
    }

    /// Inserts a member into an object that is not empty. `first_member` is the place behind its opening brace, and
    /// `value` is JSON.
    pub(crate) fn insert_member(&mut self, first_member: usize, name: &str, value: &str) {
        let member = format!("{}:{value},", json_string(name));
        self.replace(first_member..first_member, member);
    }

    /// The length of the body after the edits.
    pub(crate) fn edited_length(&self, length: usize) -> usize {
        let removed: usize = self.edits.iter().map(|edit| edit.place.len()).sum();
        let added: usize = self.edits.iter().map(|edit| edit.text.len()).sum();
        length - removed + added
    }

    /// The edited body in slices, in order. Some may be empty.
    pub(crate) fn slices<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.edits.iter().map(|edit| edit.place.end));
        let ends = self.edits.iter().map(|edit| edit.place.start);
        let kept = starts
            .zip(ends.chain([body.len()]))
            .map(|(start, end)| body.get(start..end).unwrap_or_default());
        let texts = self.edits.iter().map(|edit| edit.text.as_bytes());
        let texts = texts.chain([&b""[..]]);
        kept.zip(texts).flat_map(|(kept, text)| [kept, text])
    }
}

/// A text as a JSON string.
pub(crate) fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\0'..='\u{1F}' => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(edits: &BodyEdits, body: &str) -> String {
        let bytes: Vec<u8> = edits.slices(body.as_bytes()).flatten().copied().collect();
        assert_eq!(bytes.len(), edits.edited_length(body.len()));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn edits_change_their_places_and_nothing_else() {
        let body = r#"{"model":"a","stream_options":{"x":1}, "n" : 2}"#;
        let mut edits = BodyEdits::default();
        assert_eq!(edited(&edits, body), body);
        assert!(edits.is_empty());
        let nested = body.find(r#""x""#).unwrap();
        edits.insert_member(nested, "include_usage", "true");
        edits.replace(9..12, json_string("b \"c\""));
        edits.insert_member(1, "cache_salt", r#""s""#);
        assert_eq!(
            edited(&edits, body),
            r#"{"cache_salt":"s","model":"b \"c\"","stream_options":{"include_usage":true,"x":1}, "n" : 2}"#
        );
        edits.replace(10..11, "overlaps".to_owned());
        edits.replace(5..10, "overlaps".to_owned());
        assert!(!edited(&edits, body).contains("overlaps"));
    }

    proptest! {
        #[test]
        fn any_name_is_written_as_json_that_reads_back(name in any::<String>()) {
            let read: String = serde_json::from_str(&json_string(&name)).unwrap();
            prop_assert_eq!(read, name);
        }

        #[test]
        fn edits_in_any_order_give_the_same_body(
            body in "[a-z]{20,40}",
            mut places in prop::collection::vec((0_usize..10, 0_usize..3), 1..5),
        ) {
            places.sort_unstable();
            places.dedup_by_key(|place| place.0);
            let ranges: Vec<_> = places.iter().map(|(at, long)| at * 2..at * 2 + (*long).min(2)).collect();
            let (mut forth, mut back) = (BodyEdits::default(), BodyEdits::default());
            let mut expected = body.clone();
            for range in &ranges {
                forth.replace(range.clone(), "_".to_owned());
            }
            for range in ranges.iter().rev() {
                back.replace(range.clone(), "_".to_owned());
                expected.replace_range(range.clone(), "_");
            }
            prop_assert_eq!(edited(&forth, &body), expected.clone());
            prop_assert_eq!(edited(&back, &body), expected);
        }
    }
}
