//! Checks that a query names no model, and reads and writes queries. No query of a forwarded request may name one: some
//! upstreams prefer the query to the body.

use std::fmt::Write as _;

use crate::request_body::model::name::MODEL;

/// Whether any name in the query is `model` or `model[]`, after splitting at `&` and `;`, percent-decoding and case
/// folding.
pub(crate) fn names_model(query: &str) -> bool {
    query
        .as_bytes()
        .split(|byte| matches!(byte, b'&' | b';'))
        .filter_map(|pair| pair.split(|&byte| byte == b'=').next())
        .any(|name| {
            let folded = || percent_decoded(name).map(|byte| byte.to_ascii_lowercase());
            folded().eq(MODEL.bytes()) || folded().eq(MODEL.bytes().chain(*b"[]"))
        })
}

/// The decoded parameters of `application/x-www-form-urlencoded` (URL Standard 5.1), in their order. None if an escape is
/// not UTF-8.
pub(crate) fn form_parameters(query: &str) -> Option<Vec<(String, String)>> {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        String::from_utf8(percent_decoded(spaced.as_bytes()).collect()).ok()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Parameters as a query, to be read by [`form_parameters`].
pub(crate) fn form_query<'p>(parameters: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        if !query.is_empty() {
            query.push('&');
        }
        push_encoded(&mut query, name);
        query.push('=');
        push_encoded(&mut query, value);
    }
    query
}

/// One name or value as it stands in a query of [`form_query`].
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    push_encoded(&mut encoded, text);
    encoded
}

/// Percent-encodes all but the unreserved characters (RFC 3986 2.3).
fn push_encoded(query: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            query.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(query, "%{byte:02X}");
        }
    }
}

/// Percent-decodes a text. Invalid escapes are left as they are.
pub(crate) fn percent_decoded(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, others) = rest.split_first()?;
        if let (b'%', Some(byte)) = (first, others.get(..2).and_then(hex)) {
            rest = &others[2..];
            return Some(byte);
        }
        rest = others;
        Some(first)
    })
}

fn hex(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, &digit| {
        let digit = u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        Some(value << 4 | digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_that_names_a_model_is_found_however_it_is_written() {
        for query in [
            "model=bad",
            "model",
            "model=",
            "Model=bad",
            "MODEL",
            "m%6fdel=bad",
            "m%6Fdel=bad",
            "%6d%6f%64%65%6c=x",
            "%4Dodel",
            "a;model=bad",
            "a&model=bad",
            "a=b;;&&model",
            "model[]=bad",
            "model%5b%5d=bad",
            "model%5B]=bad",
            "Model[]",
            "model&a=b",
            "model;a",
            "model==",
        ] {
            assert!(names_model(query), "{query}");
        }
    }

    #[test]
    fn every_other_query_passes() {
        for query in [
            "",
            "&",
            "a=model",
            "a=b&c=model",
            "models=x",
            "xmodel=1",
            "model.x=1",
            "api-version=2024-02-01",
            "%",
            "%6",
            "%zzmodel",
            "model%",
            "model%26=1",
            "a%26model=1",
            "a%3Dmodel",
            "%256dodel=1",
            "limit=20&after=model",
        ] {
            assert!(!names_model(query), "{query}");
        }
    }

    #[test]
    fn parameters_are_decoded_once_and_in_their_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let read = form_parameters("a=1&&b%5B%5D=x+%2525&c&=d").unwrap();
        let expected = [
            pair("a", "1"),
            pair("b[]", "x %25"),
            pair("c", ""),
            pair("", "d"),
        ];
        assert_eq!(read, expected);
        assert_eq!(form_parameters("a=%ff"), None);
    }

    #[test]
    fn a_model_after_ten_thousand_parameters_is_found() {
        let query = "a=b&".repeat(10_001) + "model=bad";
        assert!(names_model(&query));
    }

    proptest! {
        #[test]
        fn parameters_survive_their_query(name in "\\PC{0,9}", value in "\\PC{0,9}") {
            let query = form_query([("a", ""), (&name, &value)]);
            let read = form_parameters(&query).unwrap();
            prop_assert_eq!(&read[1], &(name, value));
        }

        #[test]
        fn any_mixture_of_case_and_escapes_is_found(
            choices in prop::collection::vec(0_u8..4, 5),
            before in "[a-z=&;]{0,10}[&;]",
            after in "([=&;].{0,10})?",
        ) {
            let name: String = MODEL.chars().zip(choices).map(|(letter, choice)| {
                let letter = if choice & 1 == 1 { letter.to_ascii_uppercase() } else { letter };
                if choice & 2 == 2 { format!("%{:02x}", u32::from(letter)) } else { letter.to_string() }
            }).collect();
            let query = format!("{before}{name}{after}");
            prop_assert!(names_model(&query), "{}", query);
        }
    }
}
