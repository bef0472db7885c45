//! The options in the Connection lines of a head, and the header fields that they name (RFC 9110 7.6.1).

use std::collections::HashSet;

use crate::http::fields::Fields;
use crate::policy::field_kind::FieldKind;

/// Most options that one head may have.
pub const MAX_CONNECTION_OPTIONS: usize = 100;

/// The options of a head, without empty ones.
pub fn connection_options(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields
        .all(FieldKind::Connection)
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// Forgets the fields that the options name, save the Connection lines themselves. Each name is looked at once, however
/// many there are: comparing each with every field took milliseconds for a head of the size that is taken.
pub fn forget_named(fields: &mut Fields) {
    let named: HashSet<Vec<u8>> = connection_options(fields)
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    fields.retain(|fields, line| {
        line.kind() == FieldKind::Connection
            || !named.contains(&fields.name(line).to_ascii_lowercase())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        fields.restart(b"");
        for (name, value) in lines {
            fields.push(name, value.as_bytes());
        }
        fields
    }

    fn names(fields: &Fields) -> Vec<&[u8]> {
        fields.lines().map(|line| fields.name(line)).collect()
    }

    #[test]
    fn options_are_listed_over_all_lines_without_white_space_and_empty_ones() {
        let fields = fields(&[
            ("connection", " a ,, b\t"),
            ("x", "c"),
            ("Connection", "c,"),
        ]);
        let options: Vec<&[u8]> = connection_options(&fields).collect();
        assert_eq!(options, [b"a", b"b", b"c"]);
    }

    #[test]
    fn fields_are_forgotten_by_their_whole_name_in_any_case() {
        let mut fields = fields(&[
            ("X-One", "1"),
            ("connection", "x-one, X-TWO"),
            ("x-two", "2"),
            ("x-two-more", "3"),
            ("x-tw", "4"),
            ("x-two", "5"),
        ]);
        forget_named(&mut fields);
        assert_eq!(names(&fields), [&b"connection"[..], b"x-two-more", b"x-tw"]);
    }
}
