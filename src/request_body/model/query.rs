//! Checks that a query names no model. No query may: some upstreams prefer the query to the body.

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
    fn a_model_after_ten_thousand_parameters_is_found() {
        let query = "a=b&".repeat(10_001) + "model=bad";
        assert!(names_model(&query));
    }

    proptest! {
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
