//! Reads `[sign_in.mail]`: how invitations are sent by mail.

use std::net::IpAddr;

use crate::policy::person::EmailAddress;
use crate::store::config::sections::ConfigReader;
use crate::store::config::tree::Section;
use crate::store::config::{Credential, files, value};

/// `[sign_in.mail]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailConfig {
    /// The name or the address of the server.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How the way there is protected.
    pub tls: MailTls,
    /// Whom the mails come from.
    pub from: EmailAddress,
    /// How the gateway signs in at the server; None: it does not.
    pub account: Option<MailAccount>,
}

/// The gateway's account at the mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailAccount {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Credential,
}

/// How the way to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// TLS from the first byte (RFC 8314 3.3).
    Tls,
    /// TLS after STARTTLS, which has to be offered (RFC 3207).
    StartTls,
    /// Not at all: to a server on this machine alone.
    None,
}

impl MailTls {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tls" => Ok(Self::Tls),
            "starttls" => Ok(Self::StartTls),
            "none" => Ok(Self::None),
            other => Err(format!(
                "{} is no protection; write \"tls\", \"starttls\" or, to a server on this machine, \"none\"",
                value::quoted(other)
            )),
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Tls => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

impl ConfigReader<'_> {
    /// None without the section, or if it has a fault.
    pub(crate) fn mail(&self, mut section: Section<'_>) -> Option<MailConfig> {
        if !section.is_present() {
            return None;
        }
        for (required, example) in [
            ("server", "smtp.example.com"),
            ("from", "keygate@example.com"),
        ] {
            if !section.has(required) {
                section.fault(
                    required,
                    format!("is missing; add {required} = {example:?} to [sign_in.mail]"),
                );
            }
        }
        let tls = match section.has("tls") {
            true => section.text("tls", MailTls::parse),
            false => Some(MailTls::Tls),
        };
        let server = section.text("server", server);
        let from = section.text("from", |text| {
            EmailAddress::parse(text).map_err(|error| error.to_string())
        });
        let user = section.text("username", value::name);
        let password = section.text("password_file", |text| {
            Credential::parse(&files::read(&value::path(text, self.folder)?)?)
        });
        if section.has("username") != section.has("password_file") {
            let missing = match section.has("username") {
                true => "password_file",
                false => "username",
            };
            section.fault(
                missing,
                "is missing; set username and password_file, or none of them",
            );
        }
        let (tls, (server, port)) = (tls?, server?);
        if tls == MailTls::None && !is_loopback(&server) {
            section.fault(
                "tls",
                "would send links that let people in across the network in clear; write \"tls\" or \"starttls\"",
            );
        }
        section.reject_unknown_fields();
        Some(MailConfig {
            server,
            port: port.unwrap_or(tls.port()),
            tls,
            from: from?,
            account: user
                .zip(password)
                .map(|(user, password)| MailAccount { user, password }),
        })
    }
}

/// A host, and its port where it is named.
fn server(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || {
        format!(
            "{} is no server; write its name, like \"smtp.example.com\" or \"smtp.example.com:587\"",
            value::quoted(text)
        )
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => {
            (host, Some(port.parse().map_err(|_| wrong())?))
        }
        _ => (text, None),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    match !host.is_empty() && host.bytes().all(is_plain) && port != Some(0) {
        true => Ok((host.to_owned(), port)),
        false => Err(wrong()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or(host == "localhost", |address| {
        address.to_canonical().is_loopback()
    })
}
