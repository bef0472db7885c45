//! The parameters after a header value: `; name=value; name="value"`, strictly as in RFC 9110 5.6.6.
//!
//! Invariant: nothing is skipped or repaired. Empty parameters, spaces around `=` and text after a value are errors,
//! because parsers differ in how they repair them.

/// One parameter, as the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameter<'a> {
    pub(crate) name: &'a [u8],
    /// Without the quotes, but with backslashes. Empty if no valid value follows the `=`.
    pub(crate) value: &'a [u8],
}

impl Parameter<'_> {
    /// Whether this parameter has that name, which is lower-case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether this is the extended or continued form of that parameter (RFC 2231): `name*`, `name*0`, `name*0*`.
    pub(crate) fn extends(&self, name: &str) -> bool {
        let star = self.name.iter().position(|&byte| byte == b'*');
        star.is_some_and(|star| self.name[..star].eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The rest of the header value, from the point where it is no valid parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParameterError<'a>(pub(crate) &'a [u8]);

/// Splits a value at its first `;` and trims spaces before it. The rest is the input of [`parameters`].
pub(crate) fn split_first(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|&byte| byte == b';');
    let (first, rest) = value.split_at(end.unwrap_or(value.len()));
    (first.trim_ascii_end(), rest)
}

/// Iterates over the parameters in `rest`, which is empty or begins with a `;`.
pub(crate) fn parameters(
    mut rest: &[u8],
) -> impl Iterator<Item = Result<Parameter<'_>, ParameterError<'_>>> {
    std::iter::from_fn(move || {
        rest = trim_start(rest);
        if rest.is_empty() {
            return None;
        }
        let Some((parameter, behind)) = parse_parameter(rest) else {
            return Some(Err(ParameterError(std::mem::take(&mut rest))));
        };
        rest = behind;
        Some(Ok(parameter))
    })
}

fn parse_parameter(text: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let text = trim_start(text.strip_prefix(b";")?);
    let (name, text) = token(text);
    let text = text.strip_prefix(b"=")?;
    if name.is_empty() {
        return None;
    }
    let (value, text) = match text.strip_prefix(b"\"") {
        Some(quoted) => quoted_string(quoted)?,
        None => token(text),
    };
    Some((Parameter { name, value }, text))
}

fn quoted_string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some((&text[..at], &text[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| !is_token_byte(byte));
    text.split_at(end.unwrap_or(text.len()))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blank = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    &text[blank.count()..]
}

/// Whether RFC 9110 5.6.2 allows the byte in a token.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        let text_of = |bytes| String::from_utf8_lossy(bytes).into_owned();
        parameters(text.as_bytes())
            .map(|parameter| {
                let parameter = parameter.ok()?;
                Some((text_of(parameter.name), text_of(parameter.value)))
            })
            .collect()
    }

    fn one(name: &str, value: &str) -> Option<Vec<(String, String)>> {
        Some(vec![(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn parameters_are_read_quoted_or_not() {
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read(" \t"), Some(vec![]));
        assert_eq!(read("; a=b"), one("a", "b"));
        assert_eq!(read(";a=b"), one("a", "b"));
        assert_eq!(read(" ;\ta=\"b;c=d\""), one("a", "b;c=d"));
        assert_eq!(read("; a=\"x\\\"y\""), one("a", "x\\\"y"));
        assert_eq!(read("; a="), one("a", ""));
        assert_eq!(read("; a=b ; c=\"\"").map(|all| all.len()), Some(2));
    }

    #[test]
    fn what_is_not_exactly_a_parameter_is_malformed() {
        for text in [
            ";",
            "; ;",
            "; a",
            "; =b",
            "; a =b",
            "; a= b",
            "; a=b c",
            "; a=\"b",
            "; a=\"b\\\"",
            "; a=\"b\"c",
            "; a=b;",
            "; a=b, c=d",
            "a=b",
            "; a=b/c",
            "; \"a\"=b",
            "; a=b==",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
