//! Sends one alert to the webhook.

use std::time::Duration;

use http::{Request, request};

use crate::alerts::signature::sign;
use crate::http::client::{AnswerError, HttpClient};
use crate::store::config::AlertsConfig;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, so that its sender sees no reset.
const MAX_ANSWER: usize = 64 << 10;

/// Where alerts are sent, and how.
#[derive(Debug)]
pub(super) struct Webhook {
    config: AlertsConfig,
    client: HttpClient,
}

/// Why an alert was not delivered.
#[derive(Debug)]
pub(super) enum DeliveryError {
    NoSecret,
    NoAnswer(AnswerError),
    Refused(u16),
}

impl std::fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSecret => f.write_str("the secret_file is missing; reload, and it is made"),
            Self::NoAnswer(error) => error.fmt(f),
            Self::Refused(status) => write!(f, "the receiver answers {status}, and not 2xx"),
        }
    }
}

impl Webhook {
    pub(super) fn new(config: &AlertsConfig) -> Self {
        Self {
            config: config.clone(),
            client: HttpClient::new(TIMEOUT),
        }
    }

    pub(super) fn config(&self) -> &AlertsConfig {
        &self.config
    }

    /// Scheme and authority: what may be shown.
    pub(super) fn server(&self) -> String {
        self.config.webhook.server.to_string()
    }

    /// Sends an alert, and returns the status of the answer.
    ///
    /// # Errors
    /// It was not delivered: its receiver has not answered 2xx.
    pub(super) async fn post(&self, id: &str, body: &str, now: i64) -> Result<u16, DeliveryError> {
        let request = self.request(id, body, now)?;
        let server = &self.config.webhook.server;
        let answer = self
            .client
            .exchange(server, request, body.to_owned(), MAX_ANSWER)
            .await
            .map_err(DeliveryError::NoAnswer)?;
        match answer.status.is_success() {
            true => Ok(answer.status.as_u16()),
            false => Err(DeliveryError::Refused(answer.status.as_u16())),
        }
    }

    fn request(&self, id: &str, body: &str, now: i64) -> Result<request::Builder, DeliveryError> {
        let AlertsConfig {
            webhook, secret, ..
        } = &self.config;
        let secret = secret.reveal().ok_or(DeliveryError::NoSecret)?;
        Ok(Request::post(webhook.reveal_target())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", sign(secret, id, now, body)))
    }
}
