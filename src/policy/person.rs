//! Persons: who they are, and what their role in an account lets them do.

use std::fmt;
use std::sync::Arc;

use crate::policy::text;

/// The longest e-mail address, in bytes (RFC 5321 4.5.3.1.3, less its angle brackets).
pub const MAX_EMAIL: usize = 254;

/// The id of a person, of the form of a key's id. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PersonId(Arc<str>);

/// A text that is no id of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersonIdError;

impl fmt::Display for PersonIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be the id of a person: 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
    }
}

impl std::error::Error for PersonIdError {}

impl PersonId {
    /// # Errors
    /// The text does not have that form.
    pub fn parse(text: &str) -> Result<Self, PersonIdError> {
        match text::is_id(text) {
            true => Ok(Self(text.into())),
            false => Err(PersonIdError),
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a person may do in an account. A greater role may do all that a smaller one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See keys, usage and models of the account.
    Viewer,
    /// Also create keys, and change, rotate and delete those that they created.
    Member,
    /// Also do so with all keys, invite and remove members, and see what was done in the account.
    Owner,
}

impl Role {
    /// All of them, the smallest first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Member, Self::Owner];

    /// The name in API, config and database.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }

    /// The role of a name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.label() == label)
    }
}

/// An e-mail address. Two that differ in the case of ASCII letters alone are one person's. Other letters stay as they are:
/// some of them would become ASCII letters, and the address that of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmailAddress(String);

/// A text that is no e-mail address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmailError;

impl fmt::Display for EmailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an e-mail address; write it like alice@example.com")
    }
}

impl std::error::Error for EmailError {}

impl EmailAddress {
    /// One `@` with text on both sides, at most [`MAX_EMAIL`] bytes, without spaces and characters that cannot be seen.
    /// Whether mail arrives there, only a mail can tell.
    ///
    /// # Errors
    /// The text does not have that form.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let text = text.trim_matches(' ');
        let mut sides = text.split('@');
        let (Some(name), Some(domain), None) = (sides.next(), sides.next(), sides.next()) else {
            return Err(EmailError);
        };
        let is_plain = |character: char| {
            text::is_harmless(character)
                && !character.is_whitespace()
                && !matches!(character, '<' | '>' | '"' | ',' | ';' | '\\')
        };
        let fits = !name.is_empty()
            && !domain.is_empty()
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && text.len() <= MAX_EMAIL
            && text.chars().all(is_plain);
        match fits {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(EmailError),
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greater_role_comes_after_a_smaller_one() {
        assert!(Role::Viewer < Role::Member && Role::Member < Role::Owner);
        for role in Role::ALL {
            assert_eq!(Role::of_label(role.label()), Some(role));
        }
        assert_eq!(Role::of_label("Owner"), None);
    }

    #[test]
    fn addresses_that_differ_in_case_alone_are_one() {
        let alice = EmailAddress::parse(" Alice@Example.COM ").unwrap();
        assert_eq!(alice.as_str(), "alice@example.com");
        assert!(EmailAddress::parse("jürgen+x@bücher.example").is_ok());
        // The Kelvin sign.
        let other = EmailAddress::parse("\u{212a}ate@example.com").unwrap();
        assert_ne!(other, EmailAddress::parse("kate@example.com").unwrap());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("a@{}", "b".repeat(MAX_EMAIL));
        for text in [
            "",
            "alice",
            "@example.com",
            "alice@",
            "a@b@c",
            "a b@example.com",
            "a@example.com\nBcc: b@example.com",
            "<a@example.com>",
            "a@exa\u{202e}mple.com",
            "a@.example",
            "a@example.",
            "a,b@example.com",
            &long,
        ] {
            assert_eq!(EmailAddress::parse(text), Err(EmailError), "{text:?}");
        }
    }
}
