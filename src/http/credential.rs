//! Step 1 of a request: the one bearer token. It comes in Authorization (RFC 6750 2.1), or without that in x-api-key, as
//! Anthropic's clients send it, or in api-key, as Azure's do.

use crate::http::fields::{FieldLine, Fields};
use crate::policy::denial::Denial;
use crate::policy::field_kind::FieldKind;
use crate::policy::token::Presented;

/// How many names a header of [`FieldKind::ApiKey`] can have.
const API_KEY_NAMES: usize = 2;

/// The bearer token of a request. The same token may stand in more than one of the three headers.
///
/// # Errors
/// [`Denial::MissingApiKey`]; [`Denial::InvalidApiKey`], also where a header is repeated or two of them differ.
pub fn token(fields: &Fields) -> Result<Presented<'_>, Denial> {
    if fields.count(FieldKind::ApiKey) == 0 {
        return bearer(fields.all(FieldKind::Authorization));
    }
    let mut tokens = Vec::with_capacity(3);
    if fields.count(FieldKind::Authorization) > 0 {
        tokens.push(behind_scheme(fields.all(FieldKind::Authorization))?);
    }
    let is_api_key = |line: &&FieldLine| line.kind() == FieldKind::ApiKey;
    let lines: Vec<&FieldLine> = fields.lines().filter(is_api_key).collect();
    if lines.len() > API_KEY_NAMES {
        return Err(Denial::InvalidApiKey);
    }
    for (index, line) in lines.iter().enumerate() {
        let is_repeated = lines[..index]
            .iter()
            .any(|other| fields.name(other).eq_ignore_ascii_case(fields.name(line)));
        if is_repeated {
            return Err(Denial::InvalidApiKey);
        }
        tokens.push(fields.value(line));
    }
    match tokens.as_slice() {
        [] => Err(Denial::MissingApiKey),
        [first, others @ ..] if others.iter().any(|other| other != first) => {
            Err(Denial::InvalidApiKey)
        }
        [b"", ..] => Err(Denial::MissingApiKey),
        [token, ..] => parse(token),
    }
}

/// The bearer token in the Authorization lines.
///
/// # Errors
/// [`Denial::MissingApiKey`], [`Denial::InvalidApiKey`]
pub fn bearer<'a>(authorization: impl Iterator<Item = &'a [u8]>) -> Result<Presented<'a>, Denial> {
    behind_scheme(authorization).and_then(parse)
}

fn parse(token: &[u8]) -> Result<Presented<'_>, Denial> {
    Presented::parse(token).ok_or(Denial::InvalidApiKey)
}

/// The text behind the scheme `Bearer`.
fn behind_scheme<'a>(
    mut authorization: impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], Denial> {
    let line = authorization.next().ok_or(Denial::MissingApiKey)?;
    if authorization.next().is_some() {
        return Err(Denial::InvalidApiKey);
    }
    let (scheme, rest) = line
        .split_at_checked("Bearer".len())
        .ok_or(Denial::MissingApiKey)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Err(Denial::MissingApiKey);
    }
    match rest {
        [] => Err(Denial::MissingApiKey),
        [b' ' | b'\t', blanks @ ..] if blanks.iter().all(|byte| matches!(byte, b' ' | b'\t')) => {
            Err(Denial::MissingApiKey)
        }
        [b' ', token @ ..] => Ok(token),
        [b'\t', ..] => Err(Denial::InvalidApiKey),
        _ => Err(Denial::MissingApiKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str]) -> Result<(), Denial> {
        let lines: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
        check_fields(&lines)
    }

    fn check_fields(lines: &[(&str, &str)]) -> Result<(), Denial> {
        let mut fields = Fields::default();
        fields.restart(b"");
        for (name, value) in lines {
            fields.push(name, value.as_bytes());
        }
        token(&fields).map(|_| ())
    }

    #[test]
    fn a_bearer_token_is_taken_with_its_scheme_in_any_case() {
        for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
            assert_eq!(check(&[&format!("{scheme} sk-token")]), Ok(()));
        }
    }

    #[test]
    fn no_credential_is_told_from_a_bad_one() {
        for missing in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  \t"],
            &["Basic dTpw"],
            &["Bearersk"],
            &["sk-token"],
            &["Bearer,"],
        ] {
            assert_eq!(check(missing), Err(Denial::MissingApiKey), "{missing:?}");
        }
        let long = format!("Bearer {}", "x".repeat(513));
        for invalid in [
            &["Bearer  a"][..],
            &["Bearer\ta"],
            &["Bearer a b"],
            &["Bearer a, Bearer b"],
            &["Bearer a", "Bearer a"],
            &["Bearer a", "Basic x"],
            &["", ""],
            &["Bearer ä"],
            &[&long],
            &["Bearer kg_x"],
        ] {
            assert_eq!(check(invalid), Err(Denial::InvalidApiKey), "{invalid:?}");
        }
    }

    #[test]
    fn without_authorization_an_api_key_header_is_the_token() {
        for taken in [
            &[("x-api-key", "a")][..],
            &[("X-Api-Key", "a")],
            &[("api-key", "a")],
            &[("api-key", "a"), ("x-api-key", "a")],
            &[("authorization", "bearer a"), ("x-api-key", "a")],
            &[
                ("x-api-key", "a"),
                ("authorization", "Bearer a"),
                ("api-key", "a"),
            ],
        ] {
            assert_eq!(check_fields(taken), Ok(()), "{taken:?}");
        }
        for missing in ["x-api-key", "api-key"] {
            assert_eq!(check_fields(&[(missing, "")]), Err(Denial::MissingApiKey));
        }
    }

    #[test]
    fn headers_that_differ_or_come_twice_are_no_credential() {
        let long = "x".repeat(513);
        for invalid in [
            &[("x-api-key", "a"), ("api-key", "b")][..],
            &[("x-api-key", "a"), ("X-API-Key", "a")],
            &[("api-key", "a"), ("api-key", "b")],
            &[("authorization", "Bearer a"), ("x-api-key", "b")],
            &[("authorization", "Bearer a"), ("x-api-key", "")],
            &[
                ("authorization", "Bearer a"),
                ("authorization", "Bearer a"),
                ("x-api-key", "a"),
            ],
            &[("x-api-key", "Bearer a")],
            &[("x-api-key", "ä")],
            &[("x-api-key", &long)],
            &[("x-api-key", "kg_x")],
        ] {
            assert_eq!(
                check_fields(invalid),
                Err(Denial::InvalidApiKey),
                "{invalid:?}"
            );
        }
        // Another scheme is not a token, and does not agree with one.
        let basic = [("authorization", "Basic dTpw"), ("x-api-key", "a")];
        assert_eq!(check_fields(&basic), Err(Denial::MissingApiKey));
    }
}
