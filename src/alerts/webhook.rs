//! Sends one alert to the webhook: one request on one connection. A redirect is an answer like any other and not
//! followed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::alerts::signature::sign;
use crate::net::tls;
use crate::net::transport::Transport;
use crate::store::config::AlertsConfig;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, so that its sender sees no reset.
const MAX_ANSWER: usize = 64 << 10;

/// Where alerts are sent, and how.
#[derive(Debug)]
pub(super) struct Webhook {
    config: AlertsConfig,
    /// Why there is none, where one is needed.
    tls: Result<Option<Arc<ClientConfig>>, String>,
}

/// Why an alert was not delivered.
#[derive(Debug)]
pub(super) enum DeliveryError {
    Unreachable(io::Error),
    Tls(String),
    Broken(hyper::Error),
    Refused(u16),
    Silent,
}

impl std::fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "cannot connect to the receiver: {error}"),
            Self::Tls(error) => write!(f, "cannot be sent over TLS: {error}"),
            Self::Broken(error) => write!(f, "the connection to the receiver broke: {error}"),
            Self::Refused(status) => write!(f, "the receiver answers {status}, and not 2xx"),
            Self::Silent => write!(f, "no answer within {} s", TIMEOUT.as_secs()),
        }
    }
}

impl Webhook {
    pub(super) fn new(config: &AlertsConfig) -> Self {
        let tls = match config.webhook.server.https {
            true => tls::client_config(None).map(Some),
            false => Ok(None),
        };
        Self {
            config: config.clone(),
            tls: tls.map_err(|error| error.to_string()),
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
        timeout(TIMEOUT, self.exchange(id, body, now))
            .await
            .unwrap_or(Err(DeliveryError::Silent))
    }

    async fn exchange(&self, id: &str, body: &str, now: i64) -> Result<u16, DeliveryError> {
        let request = self.request(id, body, now)?;
        let transport = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(transport))
            .await
            .map_err(DeliveryError::Broken)?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            // Its errors reach the sender too.
            let _ = connection.await;
        }));
        let sent = sender.send_request(request).await;
        let answer = sent.map_err(DeliveryError::Broken)?;
        let status = answer.status();
        read_some(answer).await;
        drop(connection);
        match status.is_success() {
            true => Ok(status.as_u16()),
            false => Err(DeliveryError::Refused(status.as_u16())),
        }
    }

    fn request(
        &self,
        id: &str,
        body: &str,
        now: i64,
    ) -> Result<Request<Full<Bytes>>, DeliveryError> {
        let AlertsConfig {
            webhook, secret, ..
        } = &self.config;
        let secret = secret.reveal().ok_or_else(|| {
            DeliveryError::Unreachable(io::Error::other("the secret_file is missing"))
        })?;
        Request::post(webhook.reveal_target())
            .header("host", webhook.server.authority())
            .header("content-type", "application/json")
            .header("user-agent", concat!("keygate/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", sign(secret, id, now, body))
            .body(Full::from(body.to_owned()))
            .map_err(|error| DeliveryError::Unreachable(io::Error::other(error)))
    }

    async fn connect(&self) -> Result<Transport, DeliveryError> {
        let server = &self.config.webhook.server;
        let tls = match &self.tls {
            Ok(tls) => tls.clone(),
            Err(error) => return Err(DeliveryError::Tls(error.clone())),
        };
        let socket = TcpStream::connect((&*server.host, server.port)).await;
        let socket = socket.map_err(DeliveryError::Unreachable)?;
        let Some(tls) = tls else {
            return Ok(Transport::Tcp(socket));
        };
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| DeliveryError::Tls(error.to_string()))?;
        let connected = TlsConnector::from(tls).connect(name, socket).await;
        let stream = connected.map_err(|error| DeliveryError::Tls(error.to_string()))?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }
}

/// Reads a short answer to its end, and the beginning of a long one.
async fn read_some(mut answer: Response<Incoming>) {
    let mut read = 0;
    while let Some(Ok(frame)) = answer.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_ANSWER {
            return;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
