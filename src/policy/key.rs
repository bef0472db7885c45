//! A key: everything except its token.
//!
//! Invariant: every [`Key`] is valid. Text from a file, an argument or a request becomes one only through the parsing
//! constructors here; each returns an error that names the broken rule.

use std::fmt;
use std::sync::Arc;

use crate::policy::budget::Budget;
use crate::policy::key_limits::{KeyAllowance, KeyLimits};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::person::PersonId;
use crate::policy::text;
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

/// Longest name or account, in characters.
pub const MAX_NAME: usize = 100;

/// One key. Id and name share one allocation, since a table may hold a million keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The id followed by the name.
    text: Box<str>,
    id_length: u8,
    hint: Option<Hint>,
    disabled: bool,
    hash: TokenHash,
    model_access: ModelAccess,
    allow_from: AllowFrom,
    account: Option<Account>,
    created_by: Option<PersonId>,
    /// Boxed, since few keys have one.
    previous: Option<Box<PreviousToken>>,
    /// None where nothing is set.
    allowance: Option<Box<KeyAllowance>>,
    expires_at: StoredTime,
    created_at: StoredTime,
}

/// The fields of a key, to create or change one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFields {
    /// Unique within a table.
    pub id: KeyId,
    /// A name for people; not necessarily unique.
    pub name: KeyName,
    /// The hash of the bearer token; unique within a table.
    pub hash: TokenHash,
    /// The last four characters of the token, if keygate created it.
    pub hint: Option<Hint>,
    /// The token that the last rotation replaced.
    pub previous: Option<PreviousToken>,
    /// Which models the key may use.
    pub model_access: ModelAccess,
    /// From where the key may be used.
    pub allow_from: AllowFrom,
    /// The key is refused from this time on.
    pub expires_at: Option<UnixTime>,
    /// When the key was created, if known.
    pub created_at: Option<UnixTime>,
    /// The account that owns the key.
    pub account: Option<Account>,
    /// The person who created the key; None: an operator, or nobody knows.
    pub created_by: Option<PersonId>,
    /// How fast the key may be used, and how much of it.
    pub allowance: KeyAllowance,
    /// Whether the key is refused, as if it did not exist.
    pub disabled: bool,
}

impl KeyFields {
    /// A key that is enabled and never expires, with what every key has. Both rules on its use are arguments, so that
    /// nothing is allowed by default.
    #[must_use]
    pub fn new(
        id: KeyId,
        name: KeyName,
        hash: TokenHash,
        model_access: ModelAccess,
        allow_from: AllowFrom,
    ) -> Self {
        Self {
            id,
            name,
            hash,
            hint: None,
            previous: None,
            model_access,
            allow_from,
            expires_at: None,
            created_at: None,
            account: None,
            created_by: None,
            allowance: KeyAllowance::default(),
            disabled: false,
        }
    }
}

impl From<KeyFields> for Key {
    fn from(fields: KeyFields) -> Self {
        let KeyFields {
            id,
            name,
            hash,
            hint,
            previous,
            model_access,
            allow_from,
            expires_at,
            created_at,
            account,
            created_by,
            allowance,
            disabled,
        } = fields;
        let allowance = Some(allowance).filter(|allowance| !allowance.is_unset());
        let id_length = u8::try_from(id.0.len()).unwrap_or(u8::MAX);
        let text = [&*id.0, &*name.0].concat().into_boxed_str();
        let (expires_at, created_at) = (StoredTime::new(expires_at), StoredTime::new(created_at));
        Self {
            text,
            id_length,
            hint,
            disabled,
            hash,
            model_access,
            allow_from,
            account,
            created_by,
            previous: previous.map(Box::new),
            allowance: allowance.map(Box::new),
            expires_at,
            created_at,
        }
    }
}

impl Key {
    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.text[..usize::from(self.id_length)]
    }

    /// The id, owned.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.id().into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[usize::from(self.id_length)..]
    }

    /// The hash of the token.
    #[must_use]
    pub fn hash(&self) -> &TokenHash {
        &self.hash
    }

    /// The token's last four characters.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_ref().map(Hint::as_str)
    }

    /// The token that the last rotation replaced. It may have ended.
    #[must_use]
    pub fn previous(&self) -> Option<&PreviousToken> {
        self.previous.as_deref()
    }

    /// The hashes of its tokens: the current one, then the previous one.
    pub fn hashes(&self) -> impl Iterator<Item = &TokenHash> {
        let previous = self.previous().map(PreviousToken::hash);
        std::iter::once(&self.hash).chain(previous)
    }

    /// Which of the key's tokens has this hash; None if neither has.
    #[must_use]
    pub fn token_of(&self, hash: &TokenHash) -> Option<KeyToken> {
        if self.hash == *hash {
            return Some(KeyToken::Current);
        }
        let is_previous = |previous: &PreviousToken| previous.hash == *hash;
        self.previous()
            .is_some_and(is_previous)
            .then_some(KeyToken::Previous)
    }

    /// Until when the token with this hash can be used, if the key does not change: the earlier of the key's expiry and
    /// the token's own end.
    #[must_use]
    pub fn usable_until(&self, hash: &TokenHash) -> Option<UnixTime> {
        let previous = self.previous().filter(|previous| previous.hash == *hash);
        let own_end = previous.map(PreviousToken::not_after);
        own_end.into_iter().chain(self.expires_at()).min()
    }

    /// The key with a new token. The one that it has now becomes the previous one, until `not_after`; with None it ends.
    /// A token that was the previous one before ends in either case.
    #[must_use]
    pub fn rotated(
        &self,
        hash: TokenHash,
        hint: Option<Hint>,
        not_after: Option<UnixTime>,
    ) -> Self {
        let previous = not_after.map(|not_after| PreviousToken {
            hash: self.hash,
            hint: self.hint,
            not_after,
        });
        Self::from(KeyFields {
            hash,
            hint,
            previous,
            ..self.fields()
        })
    }

    /// Which models it may use.
    #[must_use]
    pub fn model_access(&self) -> &ModelAccess {
        &self.model_access
    }

    /// Where it may be used from.
    #[must_use]
    pub fn allow_from(&self) -> &AllowFrom {
        &self.allow_from
    }

    /// The account that owns the key.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.account.as_ref().map(|account| &*account.0)
    }

    /// The id of the person who created the key; None: an operator, or nobody knows.
    #[must_use]
    pub fn created_by(&self) -> Option<&str> {
        self.created_by.as_ref().map(PersonId::as_str)
    }

    /// The time from which the key is refused.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixTime> {
        self.expires_at.get()
    }

    /// When the key was created.
    #[must_use]
    pub fn created_at(&self) -> Option<UnixTime> {
        self.created_at.get()
    }

    /// How fast it may be used, and how much of it; None where nothing is set.
    #[must_use]
    pub fn allowance(&self) -> Option<&KeyAllowance> {
        self.allowance.as_deref()
    }

    /// Its own limits.
    #[must_use]
    pub fn limits(&self) -> KeyLimits {
        self.allowance()
            .map_or_else(KeyLimits::default, |allowance| allowance.limits)
    }

    /// Its budgets.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        self.allowance().map_or(&[], |allowance| &allowance.budgets)
    }

    /// Whether the key is disabled.
    #[must_use]
    pub fn disabled(&self) -> bool {
        self.disabled
    }

    /// Whether the key has expired at `now`. It has at exactly its expiry time.
    #[must_use]
    pub fn expired(&self, now: UnixTime) -> bool {
        self.expires_at.get().is_some_and(|end| now >= end)
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: UnixTime) -> KeyState {
        match (self.disabled, self.expired(now)) {
            (true, _) => KeyState::Disabled,
            (false, true) => KeyState::Expired,
            (false, false) => KeyState::Active,
        }
    }

    /// The names of the fields that differ, as the key file writes them.
    #[must_use]
    pub fn changed_fields(&self, before: &Self) -> Vec<&'static str> {
        let Self {
            text: _,
            id_length: _,
            hint,
            disabled,
            hash,
            model_access,
            allow_from,
            account,
            created_by,
            previous,
            allowance: _,
            expires_at,
            created_at,
        } = self;
        let differs = [
            ("id", self.id() != before.id()),
            ("name", self.name() != before.name()),
            ("hash", *hash != before.hash),
            ("hint", *hint != before.hint),
            ("previous", *previous != before.previous),
            ("model_access", *model_access != before.model_access),
            ("allow_from", *allow_from != before.allow_from),
            ("expires_at", *expires_at != before.expires_at),
            ("created_at", *created_at != before.created_at),
            ("account", *account != before.account),
            ("created_by", *created_by != before.created_by),
            ("limits", self.limits() != before.limits()),
            ("budgets", self.budgets() != before.budgets()),
            ("disabled", *disabled != before.disabled),
        ];
        let changed = differs.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(name, _)| name).collect()
    }

    /// The fields, to create a changed key.
    #[must_use]
    pub fn fields(&self) -> KeyFields {
        KeyFields {
            id: self.key_id(),
            name: KeyName(self.name().into()),
            hash: self.hash,
            hint: self.hint,
            previous: self.previous().cloned(),
            model_access: self.model_access.clone(),
            allow_from: self.allow_from.clone(),
            expires_at: self.expires_at(),
            created_at: self.created_at(),
            account: self.account.clone(),
            created_by: self.created_by.clone(),
            allowance: self.allowance().cloned().unwrap_or_default(),
            disabled: self.disabled,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

/// The token that a rotation replaced. It still works for a while, so that the key's users can change to the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousToken {
    hash: TokenHash,
    hint: Option<Hint>,
    not_after: UnixTime,
}

impl PreviousToken {
    /// A token that is refused from `not_after` on.
    #[must_use]
    pub fn new(hash: TokenHash, hint: Option<Hint>, not_after: UnixTime) -> Self {
        Self {
            hash,
            hint,
            not_after,
        }
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> &TokenHash {
        &self.hash
    }

    /// Its last four characters.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_ref().map(Hint::as_str)
    }

    /// The time from which it is refused.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Whether it has ended at `now`. It has at exactly `not_after`.
    #[must_use]
    pub fn ended(&self, now: UnixTime) -> bool {
        now >= self.not_after
    }
}

/// One of the two tokens that a key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyToken {
    /// The one that the key was created with, or that the last rotation made.
    Current,
    /// The one that the last rotation replaced.
    Previous,
}

impl KeyToken {
    /// The word in the log and the API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key can be used.
    Active,
    /// An operator disabled the key.
    Disabled,
    /// The key has expired.
    Expired,
}

impl KeyState {
    /// The word in the API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
        }
    }
}

/// The value of a field breaks its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFieldError(&'static str);

impl fmt::Display for KeyFieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for KeyFieldError {}

/// A key's id: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// # Errors
    /// The text does not have that form.
    pub fn parse(text: &str) -> Result<Self, KeyFieldError> {
        match text::is_id(text) {
            true => Ok(Self(text.into())),
            false => Err(KeyFieldError(
                "must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
            )),
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key's name: 1 to 100 characters that can be seen (see [`text::is_harmless`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// # Errors
    /// The text does not have that form.
    pub fn parse(text: &str) -> Result<Self, KeyFieldError> {
        check_text(text).map(|()| Self(text.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The account that owns a key, by its id, or a label where there is no such account: 1 to 100 characters that can be
/// seen. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account(Arc<str>);

impl Account {
    /// # Errors
    /// The text does not have that form.
    pub fn parse(text: &str) -> Result<Self, KeyFieldError> {
        check_text(text).map(|()| Self(text.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The last four characters of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hint([u8; 4]);

impl Hint {
    /// # Errors
    /// The text is not four visible ASCII characters.
    pub fn parse(text: &str) -> Result<Self, KeyFieldError> {
        match <[u8; 4]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_graphic) => Ok(Self(bytes)),
            _ => Err(KeyFieldError(
                "must be the token's last 4 characters, or absent",
            )),
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

fn check_text(value: &str) -> Result<(), KeyFieldError> {
    if !(1..=MAX_NAME).contains(&value.chars().count()) {
        return Err(KeyFieldError("must be 1 to 100 characters long"));
    }
    match text::name_fault(value) {
        Some(fault) => Err(KeyFieldError(fault)),
        None => Ok(()),
    }
}

/// An optional time in eight bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct StoredTime(i64);

impl StoredTime {
    fn new(time: Option<UnixTime>) -> Self {
        Self(time.map_or(i64::MIN, UnixTime::seconds))
    }

    fn get(self) -> Option<UnixTime> {
        (self.0 != i64::MIN).then(|| UnixTime::from_seconds(self.0))
    }
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_returns_the_fields_it_was_created_from() {
        let fields = KeyFields {
            id: KeyId::parse("key_1").unwrap(),
            name: KeyName::parse("wéb site").unwrap(),
            hash: TokenHash::of(b"token"),
            hint: Some(Hint::parse("x9Qz").unwrap()),
            previous: Some(PreviousToken::new(
                TokenHash::of(b"old"),
                None,
                UnixTime::from_seconds(7),
            )),
            model_access: ModelAccess::All,
            allow_from: AllowFrom::Anywhere,
            expires_at: Some(UnixTime::from_seconds(10)),
            created_at: None,
            account: Some(Account::parse("acme").unwrap()),
            created_by: Some(PersonId::parse("per_1").unwrap()),
            allowance: KeyAllowance::default(),
            disabled: false,
        };
        let key = Key::from(fields.clone());
        assert_eq!(key.fields(), fields);
        assert_eq!(
            (key.id(), key.name(), key.hint(), key.account()),
            ("key_1", "wéb site", Some("x9Qz"), Some("acme"))
        );
    }

    #[test]
    fn a_key_expires_at_the_instant_it_names() {
        let mut fields = fixture::key_fields("key_1");
        fields.expires_at = Some(UnixTime::from_seconds(10));
        let key = Key::from(fields);
        assert!(!key.expired(UnixTime::from_seconds(9)));
        assert!(key.expired(UnixTime::from_seconds(10)));
        assert_eq!(key.state(UnixTime::from_seconds(10)).label(), "expired");
    }

    #[test]
    fn a_rotated_key_has_both_tokens_until_the_older_one_ends() {
        let hint = |text| Hint::parse(text).ok();
        let hashes = [b"first", b"other", b"third"].map(|token| TokenHash::of(token));
        let [first, second, third] = &hashes;
        let key = Key::from(KeyFields {
            hash: *first,
            hint: hint("aaaa"),
            expires_at: Some(UnixTime::from_seconds(100)),
            ..fixture::key_fields("key_1")
        });
        let end = UnixTime::from_seconds(10);
        let rotated = key.rotated(*second, hint("bbbb"), Some(end));
        assert_eq!(rotated.changed_fields(&key), ["hash", "hint", "previous"]);
        assert_eq!(rotated.token_of(second), Some(KeyToken::Current));
        assert_eq!(rotated.token_of(first), Some(KeyToken::Previous));
        assert_eq!(rotated.token_of(third), None);
        assert_eq!(rotated.usable_until(first), Some(end));
        assert_eq!(rotated.usable_until(second), key.expires_at());
        let previous = rotated.previous().unwrap();
        assert_eq!(previous.hint(), Some("aaaa"));
        assert!(!previous.ended(UnixTime::from_seconds(9)) && previous.ended(end));
        // The older of the two is gone once the key is rotated again, and with no grace both are.
        let again = rotated.rotated(*third, None, Some(end));
        assert_eq!(again.token_of(first), None);
        assert_eq!(again.token_of(second), Some(KeyToken::Previous));
        let at_once = again.rotated(*first, None, None);
        assert_eq!(at_once.previous(), None);
        assert_eq!(at_once.token_of(third), None);
    }

    #[test]
    fn a_key_that_expires_first_ends_its_previous_token_too() {
        let key = Key::from(KeyFields {
            expires_at: Some(UnixTime::from_seconds(5)),
            ..fixture::key_fields("key_1")
        });
        let rotated = key.rotated(TokenHash::of(b"new"), None, Some(UnixTime::from_seconds(9)));
        assert_eq!(rotated.usable_until(key.hash()), key.expires_at());
    }

    #[test]
    fn ids_names_and_hints_keep_to_their_form() {
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(KeyId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(KeyId::parse(&"x".repeat(64)).is_ok());
        for bad in [
            "",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "a\u{202e}b",
            "\u{200b}",
            &"é".repeat(101),
        ] {
            assert!(KeyName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(KeyName::parse(&"é".repeat(100)).is_ok());
        for bad in ["", "abc", "abcde", "ab c", "äbc"] {
            assert!(Hint::parse(bad).is_err(), "{bad:?}");
        }
    }
}
