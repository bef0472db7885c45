//! Reads `[sign_in]`: how persons sign in to the panel.

use crate::policy::auto_invite::AutoInvite;
use crate::policy::key::KeyId;
use crate::policy::person::{EmailAddress, Role};
use crate::store::config::mail::MailConfig;
use crate::store::config::sections::{ConfigReader, values};
use crate::store::config::secure_url::SecureUrl;
use crate::store::config::tree::Section;
use crate::store::config::{Credential, files, value};

const DEFAULT_SCOPES: [&str; 3] = ["openid", "email", "profile"];
/// The scope that makes an OAuth request one of OpenID Connect.
const REQUIRED_SCOPE: &str = "openid";
const DEFAULT_SESSION_HOURS: usize = 8;
const MAX_SESSION_HOURS: usize = 30 * 24;
const DEFAULT_IDLE_MINUTES: usize = 30;
const MAX_IDLE_MINUTES: usize = 24 * 60;
/// The longest client id or scope, in bytes.
const MAX_WORD: usize = 256;

/// `[sign_in]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInConfig {
    /// The company's identity provider; None: persons have passwords.
    pub oidc: Option<OidcConfig>,
    /// How invitations are sent by mail; None: whoever makes one gives the link.
    pub mail: Option<MailConfig>,
    /// The panel's address, as browsers of people see it; None: that of the listener.
    pub url: Option<String>,
    /// Who is an operator: persons of the identity provider, by their verified addresses.
    pub operators: Vec<EmailAddress>,
    /// How long a session lasts at most, in seconds.
    pub session: i64,
    /// How long a session lasts without a call, in seconds.
    pub idle: i64,
}

/// `[sign_in.oidc]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// The issuer, exactly as it is written: tokens are compared with it.
    pub issuer: String,
    /// The issuer's server and path.
    pub issuer_url: SecureUrl,
    /// The gateway's name at the provider.
    pub client_id: String,
    /// The gateway's secret at the provider; None: it has none there (a public client).
    pub client_secret: Option<Credential>,
    /// What is asked of the provider.
    pub scopes: Vec<String>,
    /// The provider's name for people.
    pub name: String,
    /// Who is a member of which account by what the provider says.
    pub auto_invite: Vec<AutoInvite>,
}

impl ConfigReader<'_> {
    /// None if it has a fault. `has_database`: None if that is not known.
    pub(crate) fn sign_in(
        &self,
        mut section: Section<'_>,
        has_database: Option<bool>,
    ) -> Option<SignInConfig> {
        let oidc_section = section.section("oidc");
        let has_oidc = oidc_section.is_present();
        let oidc = match has_oidc {
            true => Some(self.oidc(oidc_section, has_database)),
            false => None,
        };
        if section.has("operators") && !has_oidc {
            section.fault(
                "operators",
                "needs an identity provider, which knows whose addresses they are; add [sign_in.oidc], or remove it",
            );
        }
        let operators = values(section.texts("operators", |text| {
            EmailAddress::parse(text).map_err(|error| error.to_string())
        }));
        let mail_section = section.section("mail");
        let has_mail = mail_section.is_present();
        let mail = self.mail(mail_section);
        let url = section.text("url", panel_url);
        let mut seconds = |name, unit: usize, default, most| {
            let count = section.number(name, 1, most).unwrap_or(default);
            i64::try_from(count * unit).unwrap_or(i64::MAX)
        };
        let session = seconds(
            "session_hours",
            3600,
            DEFAULT_SESSION_HOURS,
            MAX_SESSION_HOURS,
        );
        let idle = seconds("idle_minutes", 60, DEFAULT_IDLE_MINUTES, MAX_IDLE_MINUTES);
        section.reject_unknown_fields();
        let oidc = match oidc {
            Some(None) => return None,
            _ if has_mail && mail.is_none() => return None,
            Some(Some(oidc)) => Some(oidc),
            None => None,
        };
        Some(SignInConfig {
            oidc,
            mail,
            url,
            operators,
            session,
            idle,
        })
    }

    /// None if it has a fault.
    fn oidc(&self, mut section: Section<'_>, has_database: Option<bool>) -> Option<OidcConfig> {
        for (required, example) in [
            ("issuer", "https://login.example.com"),
            ("client_id", "keygate"),
        ] {
            if !section.has(required) {
                section.fault(
                    required,
                    format!("is missing; add {required} = {example:?} to [sign_in.oidc]"),
                );
            }
        }
        if has_database == Some(false) {
            section.fault(
                "issuer",
                "needs a database, which keeps who may do what; set [database] url, or remove [sign_in.oidc]",
            );
        }
        let issuer = section.text("issuer", |text| Ok((text.to_owned(), issuer_url(text)?)));
        let client_id = section.text("client_id", |text| word(text, "client id"));
        let client_secret = section.text("client_secret_file", |text| {
            Credential::parse(&files::read(&value::path(text, self.folder)?)?)
        });
        let name = section.text("name", value::name);
        let scopes = self.scopes(&mut section);
        let mut auto_invite = Vec::new();
        for rule in section.sections("auto_invite").into_iter().flatten() {
            auto_invite.extend(auto_invite_rule(rule));
        }
        section.reject_unknown_fields();
        let (issuer, issuer_url) = issuer?;
        Some(OidcConfig {
            name: name.unwrap_or_else(|| issuer_url.server.host.clone()),
            issuer,
            issuer_url,
            client_id: client_id?,
            client_secret,
            scopes,
            auto_invite,
        })
    }

    fn scopes(&self, section: &mut Section<'_>) -> Vec<String> {
        let location = section.location("scopes");
        let Some(scopes) = section.texts("scopes", |text| word(text, "scope")) else {
            return DEFAULT_SCOPES.map(str::to_owned).to_vec();
        };
        let scopes = values(Some(scopes));
        if !scopes.iter().any(|scope| scope == REQUIRED_SCOPE) {
            let fault = "lacks \"openid\", without which nobody is identified; add it";
            self.faults.add(&location, fault);
        }
        scopes
    }
}

/// An entry of `auto_invite`.
fn auto_invite_rule(mut section: Section<'_>) -> Option<AutoInvite> {
    if !section.is_present() {
        return None;
    }
    for (required, example) in [
        ("claim", "groups"),
        ("value", "ai-team"),
        ("account", "acme"),
        ("role", "member"),
    ] {
        if !section.has(required) {
            section.fault(
                required,
                format!("is missing; add {required} = {example:?} to this rule"),
            );
        }
    }
    let claim = section.text("claim", value::name);
    let wanted = section.text("value", value::name);
    let account = section.text("account", |text| {
        KeyId::parse(text).map_err(|error| format!("{error}; write the account's id"))
    });
    let role = section.text("role", |text| {
        Role::of_label(text).ok_or_else(|| {
            format!(
                "{} is no role; write \"viewer\", \"member\" or \"owner\"",
                value::quoted(text)
            )
        })
    });
    section.reject_unknown_fields();
    Some(AutoInvite {
        claim: claim?,
        value: wanted?,
        account: account?,
        role: role?,
    })
}

/// The panel's address, without a path: the panel is served at its root.
fn panel_url(text: &str) -> Result<String, String> {
    let url = SecureUrl::parse(text)?;
    match url.reveal_target() {
        "/" => Ok(url.server.to_string()),
        _ => Err(
            "has a path; write the address alone, like \"https://panel.example.com\"".to_owned(),
        ),
    }
}

/// An issuer, which has neither query nor fragment (OpenID Connect Discovery 1.0, 2).
fn issuer_url(text: &str) -> Result<SecureUrl, String> {
    let url = SecureUrl::parse(text)?;
    match url.reveal_target().contains('?') {
        true => Err("has a query; write the issuer as its provider shows it".to_owned()),
        false => Ok(url),
    }
}

/// A client id or a scope (RFC 6749 3.3).
fn word(text: &str, what: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
    match (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "is no {what}: one word of at most {MAX_WORD} visible ASCII characters; write it as the provider shows it"
        )),
    }
}
