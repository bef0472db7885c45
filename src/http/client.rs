//! Sends single requests to servers that the config names or that those name: one request on one connection. A redirect
//! is an answer like any other and not followed.
//!
//! Invariants: certificates are verified by the system's roots. An exchange ends in time, whatever the server does, and no
//! more of an answer's body is kept than was asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::net::tls;
use crate::net::transport::Transport;
use crate::store::config::ReplicaUrl;

/// A client, for any server.
#[derive(Debug)]
pub(crate) struct HttpClient {
    /// Why there is none. It matters only where a server needs it.
    tls: Result<Arc<ClientConfig>, String>,
    deadline: Duration,
}

/// A whole answer. Its body may hold a secret, so it is wiped when it is dropped.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Or why it did not arrive whole.
    pub(crate) body: Result<Zeroizing<Vec<u8>>, AnswerError>,
}

/// Why a request has no whole answer. No message here repeats what was sent or received.
#[derive(Debug)]
pub(crate) enum AnswerError {
    /// The request cannot be written in HTTP.
    Request(http::Error),
    /// The server cannot be connected to.
    Unreachable(io::Error),
    /// There is no TLS with the server.
    Tls(String),
    /// The connection broke.
    Broken(hyper::Error),
    /// The body is longer than this, in bytes.
    TooLong(usize),
    /// There was no whole answer within this time.
    Silent(Duration),
}

impl std::fmt::Display for AnswerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(error) => write!(f, "the request cannot be sent: {error}"),
            Self::Unreachable(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) => write!(f, "cannot be sent over TLS: {error}"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::TooLong(most) => write!(f, "the answer is longer than {} KiB", most >> 10),
            Self::Silent(deadline) => {
                write!(f, "no whole answer within {} s", deadline.as_secs_f64())
            }
        }
    }
}

impl std::error::Error for AnswerError {}

impl HttpClient {
    /// Reads the system's roots. `deadline`: for each exchange, from connecting to the body's last byte.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            tls: tls::client_config(None).map_err(|error| error.to_string()),
            deadline,
        }
    }

    /// Sends a request, of which the server's fields are added here, and reads at most `most` bytes of the answer's body.
    ///
    /// # Errors
    /// There is no answer. An answer whose body breaks off or is too long is one.
    pub(crate) async fn exchange(
        &self,
        server: &ReplicaUrl,
        request: request::Builder,
        body: impl Into<Bytes>,
        most: usize,
    ) -> Result<Answer, AnswerError> {
        let exchange = self.exchange_at_leisure(server, request, body.into(), most);
        timeout(self.deadline, exchange)
            .await
            .unwrap_or(Err(AnswerError::Silent(self.deadline)))
    }

    async fn exchange_at_leisure(
        &self,
        server: &ReplicaUrl,
        request: request::Builder,
        body: Bytes,
        most: usize,
    ) -> Result<Answer, AnswerError> {
        let request = request
            .header("host", server.authority())
            .header("user-agent", concat!("keygate/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(AnswerError::Request)?;
        let transport = self.connect(server).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(transport))
            .await
            .map_err(AnswerError::Broken)?;
        let _connection = AbortOnDrop(tokio::spawn(async move {
            // Its errors reach the sender too.
            let _ = connection.await;
        }));
        let sent = sender.send_request(request).await;
        let (head, body) = sent.map_err(AnswerError::Broken)?.into_parts();
        Ok(Answer {
            status: head.status,
            body: read(body, most).await,
        })
    }

    async fn connect(&self, server: &ReplicaUrl) -> Result<Transport, AnswerError> {
        let socket = TcpStream::connect((&*server.host, server.port)).await;
        let socket = socket.map_err(AnswerError::Unreachable)?;
        if !server.https {
            return Ok(Transport::Tcp(socket));
        }
        let tls = self.tls.clone().map_err(AnswerError::Tls)?;
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| AnswerError::Tls(error.to_string()))?;
        let connected = TlsConnector::from(tls).connect(name, socket).await;
        let stream = connected.map_err(|error| AnswerError::Tls(error.to_string()))?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }
}

/// Reads a short body to its end, and the beginning of a long one.
async fn read(mut body: Incoming, most: usize) -> Result<Zeroizing<Vec<u8>>, AnswerError> {
    let mut read = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(AnswerError::Broken)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if data.len() > most - read.len() {
            return Err(AnswerError::TooLong(most));
        }
        read.extend_from_slice(data);
    }
    Ok(read)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// What becomes of a request whose server sends this, and keeps the connection open if `then_waits`.
    async fn exchange(sent: String, then_waits: bool, most: usize) -> Result<Answer, AnswerError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let length = socket.read(&mut head).await.unwrap();
            socket.write_all(sent.as_bytes()).await.unwrap();
            if then_waits {
                std::future::pending::<()>().await;
            }
            String::from_utf8(head[..length].to_vec()).unwrap()
        });
        let url = ReplicaUrl {
            https: false,
            host: "127.0.0.1".to_owned(),
            port,
        };
        let deadline = if then_waits { 200 } else { 30_000 };
        let client = HttpClient::new(Duration::from_millis(deadline));
        let request = http::Request::get("/x?y");
        let answer = client.exchange(&url, request, "", most).await;
        match then_waits {
            true => server.abort(),
            false => {
                let head = server.await.unwrap();
                assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
                assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")));
            }
        }
        answer
    }

    fn head(length: usize) -> String {
        format!("HTTP/1.1 302 X\r\nlocation: /else\r\ncontent-length: {length}\r\n\r\n")
    }

    #[tokio::test]
    async fn an_answer_of_any_status_is_an_answer_and_no_redirect_is_followed() {
        let answer = exchange(head(5) + "hello", false, 5).await.unwrap();
        assert_eq!(answer.status, 302);
        assert_eq!(answer.body.unwrap().as_slice(), b"hello");
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_limit_and_a_part_of_one_is_none() {
        let answer = exchange(head(5) + "hello", false, 4).await.unwrap();
        assert!(matches!(answer.body, Err(AnswerError::TooLong(4))));
        let answer = exchange(head(6) + "hello", false, 6).await.unwrap();
        assert!(matches!(answer.body, Err(AnswerError::Broken(_))));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_given_up() {
        for sent in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"] {
            let answer = exchange(sent.to_owned(), true, 5).await;
            assert!(matches!(answer, Err(AnswerError::Silent(_))), "{sent}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = ReplicaUrl {
            https: true,
            host: "127.0.0.1".to_owned(),
            port,
        };
        let client = HttpClient::new(Duration::from_secs(30));
        let answer = client.exchange(&url, http::Request::get("/"), "", 1).await;
        assert!(matches!(answer, Err(AnswerError::Unreachable(_))));
    }
}
