//! Reads `[alerts]`.

use std::time::Duration;

use crate::store::alert_secret::AlertSecret;
use crate::store::config::sections::ConfigReader;
use crate::store::config::secure_url::SecureUrl;
use crate::store::config::tree::Section;
use crate::store::config::value;

const DEFAULT_SECRET_FILE: &str = "alerts.secret";
const DEFAULT_UPSTREAM_AFTER: Duration = Duration::from_secs(30);
const MIN_UPSTREAM_AFTER: Duration = Duration::from_secs(1);

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Where alerts are sent. Its path and query may hold a secret.
    pub webhook: SecureUrl,
    /// What they are signed with.
    pub secret: AlertSecret,
    /// How long an upstream is down, or up again, before that is told.
    pub upstream_after: Duration,
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
        let webhook = section.text("webhook", SecureUrl::parse);
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
