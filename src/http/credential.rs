//! Step 1 of a request: the one bearer token (RFC 6750 2.1).

use crate::policy::denial::Denial;
use crate::policy::token::Presented;

/// The bearer token in the Authorization lines.
///
/// # Errors
/// [`Denial::MissingApiKey`], [`Denial::InvalidApiKey`]
pub fn bearer<'a>(
    mut authorization: impl Iterator<Item = &'a [u8]>,
) -> Result<Presented<'a>, Denial> {
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
        [b' ', token @ ..] => Presented::parse(token).ok_or(Denial::InvalidApiKey),
        [b'\t', ..] => Err(Denial::InvalidApiKey),
        _ => Err(Denial::MissingApiKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str]) -> Result<(), Denial> {
        bearer(lines.iter().map(|line| line.as_bytes())).map(|_| ())
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
}
