//! Reads `[alerts]`.

use std::net::IpAddr;
use std::time::Duration;

use crate::store::alert_secret::AlertSecret;
use crate::store::config::sections::ConfigReader;
use crate::store::config::tree::Section;
use crate::store::config::{ReplicaUrl, value};

const DEFAULT_SECRET_FILE: &str = "alerts.secret";
const DEFAULT_UPSTREAM_AFTER: Duration = Duration::from_secs(30);
const MIN_UPSTREAM_AFTER: Duration = Duration::from_secs(1);
/// The longest path and query of the webhook, in bytes.
const MAX_TARGET: usize = 2048;

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Where alerts are sent.
    pub webhook: WebhookUrl,
    /// What they are signed with.
    pub secret: AlertSecret,
    /// How long an upstream is down, or up again, before that is told.
    pub upstream_after: Duration,
}

/// The URL of a webhook. Its path and query may hold a secret, so only its server is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    /// Scheme and authority.
    pub server: ReplicaUrl,
    target: String,
}

impl WebhookUrl {
    /// Path and query, for the request.
    #[must_use]
    pub fn reveal_target(&self) -> &str {
        &self.target
    }
}

impl std::fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/[redacted]", self.server)
    }
}

impl ConfigReader<'_> {
    /// None without the section, or if it has a fault. `has_database`: None if that is not known.
    pub(crate) fn alerts(
        &self,
        mut section: Section<'_>,
        has_database: Option<bool>,
    ) -> Option<AlertsConfig> {
        if !section.is_present() {
            return None;
        }
        if !section.has("webhook") {
            section.fault(
                "webhook",
                "is missing; add webhook = \"https://…\" to [alerts], or remove the section",
            );
        }
        if has_database == Some(false) {
            section.fault(
                "webhook",
                "needs a database, which keeps what was told and what is to be told again; set [database] url, or \
                 remove [alerts]",
            );
        }
        let webhook = section.text("webhook", webhook);
        let file = section.text("secret_file", |text| value::path(text, self.folder));
        let file = match section.has("secret_file") {
            true => file,
            false => Some(self.folder.join(DEFAULT_SECRET_FILE)),
        };
        let location = section.location("secret_file");
        let secret = file.and_then(|file| self.faults.record(&location, AlertSecret::read(file)));
        let upstream_after = section.text("upstream_after", |text| match value::duration(text)? {
            after if after < MIN_UPSTREAM_AFTER => {
                Err("is too short; write \"1s\" or more".to_owned())
            }
            after => Ok(after),
        });
        section.reject_unknown_fields();
        Some(AlertsConfig {
            webhook: webhook?,
            secret: secret?,
            upstream_after: upstream_after.unwrap_or(DEFAULT_UPSTREAM_AFTER),
        })
    }
}

/// Messages here never contain the value: it may hold a secret.
fn webhook(text: &str) -> Result<WebhookUrl, String> {
    let start = text.find("://").map_or(0, |scheme| scheme + 3);
    let end = text[start..].find(['/', '?', '#', '\\']);
    let end = end.map_or(text.len(), |end| start + end);
    let (server, target) = text.split_at(end);
    if server.contains('@') {
        return Err(
            "holds a user name or a password; drop it, receivers know alerts by their signature"
                .to_owned(),
        );
    }
    let server = value::base_url(server)?;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"#\\".contains(&byte);
    if target.len() > MAX_TARGET || !target.bytes().all(is_plain) {
        return Err(
            "has a path that is too long, or a fragment, or characters that have to be escaped; write it as the \
             receiver shows it"
                .to_owned(),
        );
    }
    if !server.https && !is_loopback(&server.host) {
        return Err(
            "would cross the network in clear; write https://, or name a receiver on this machine"
                .to_owned(),
        );
    }
    let target = match target.starts_with('/') {
        true => target.to_owned(),
        false => format!("/{target}"),
    };
    Ok(WebhookUrl { server, target })
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_https_or_on_this_machine_and_its_path_is_not_shown() {
        for (text, server, target) in [
            ("https://h.example.com", "https://h.example.com", "/"),
            (
                "https://h.example.com/a/b?c=d",
                "https://h.example.com",
                "/a/b?c=d",
            ),
            (
                "https://h.example.com?c=d",
                "https://h.example.com",
                "/?c=d",
            ),
            ("http://127.0.0.1:99/x", "http://127.0.0.1:99", "/x"),
            ("http://[::1]:99/x", "http://[::1]:99", "/x"),
            ("http://localhost/x", "http://localhost", "/x"),
        ] {
            let url = webhook(text).unwrap();
            assert_eq!(
                (url.server.to_string(), &*url.target),
                (server.to_owned(), target)
            );
            assert_eq!(format!("{url:?}"), format!("{server}/[redacted]"));
        }
        for text in [
            "",
            "h.example.com/secret",
            "ftp://h.example.com/secret",
            "http://h.example.com/secret",
            "http://10.0.0.1/secret",
            "http://localhost.example.com/secret",
            "https://u:secret@h.example.com/",
            "https://h.example.com/secret#x",
            "https://h.example.com/secret secret",
            "https://h.example.com/secret\r\nx: y",
            "https:///secret",
        ] {
            let fault = webhook(text).unwrap_err();
            assert!(!fault.contains("secret"), "{text}: {fault}");
        }
    }
}
