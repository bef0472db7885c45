//! Who has signed in, by the identity provider.

use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::ZeroizeOnDrop;

use crate::policy::key::KeyName;
use crate::policy::person::EmailAddress;

/// Claims that belong together: whether an address is verified is said of the address beside it.
const EMAIL: &str = "email";
const EMAIL_VERIFIED: &str = "email_verified";

/// A person, as the provider knows them. Issuer and subject together name the person for ever; the rest may change.
#[derive(Debug)]
pub(crate) struct OidcIdentity {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// None: the provider says none, or one that is no address.
    pub(crate) email: Option<EmailAddress>,
    /// Whether the provider has made sure that the address is the person's. Without this anyone may have written it.
    pub(crate) email_verified: bool,
    /// None: the provider says none, or one that cannot be shown.
    pub(crate) name: Option<String>,
    /// All that the provider says.
    pub(crate) claims: Map<String, Value>,
    /// Proves to the provider, at sign-out, whose session is to end.
    pub(crate) id_token: ProviderToken,
}

/// A token that the provider made. It is shown to nobody but the provider, and an ID token to its person's browser. Its
/// memory is wiped when it is dropped.
#[derive(Clone, Deserialize, ZeroizeOnDrop)]
pub(crate) struct ProviderToken(String);

impl ProviderToken {
    /// The text, for the provider.
    #[must_use]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ProviderToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl OidcIdentity {
    pub(super) fn new(
        issuer: &str,
        subject: &str,
        claims: Map<String, Value>,
        id_token: ProviderToken,
    ) -> Self {
        let text = |name| claims.get(name).and_then(Value::as_str);
        // Some providers write it as a text.
        let verified = claims.get(EMAIL_VERIFIED);
        let email_verified = verified.is_some_and(|value| *value == true || *value == "true");
        Self {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            email: text(EMAIL).and_then(|text| EmailAddress::parse(text).ok()),
            email_verified,
            name: text("name")
                .filter(|name| KeyName::parse(name).is_ok())
                .map(str::to_owned),
            claims,
            id_token,
        }
    }

    /// The address, if the provider has made sure that it is the person's.
    #[must_use]
    pub(crate) fn verified_email(&self) -> Option<&EmailAddress> {
        self.email.as_ref().filter(|_| self.email_verified)
    }

    /// Whether this is one of these operators.
    #[must_use]
    pub(crate) fn is_among(&self, operators: &[EmailAddress]) -> bool {
        self.verified_email()
            .is_some_and(|email| operators.contains(email))
    }
}

/// Adds what the ID token does not say to its claims. An address comes with what is said of it, or not at all.
pub(super) fn add_claims(claims: &mut Map<String, Value>, mut more: Map<String, Value>) {
    match claims.contains_key(EMAIL) {
        true => {
            more.remove(EMAIL_VERIFIED);
        }
        false => {
            claims.remove(EMAIL_VERIFIED);
        }
    }
    for (name, value) in more {
        claims.entry(name).or_insert(value);
    }
}
