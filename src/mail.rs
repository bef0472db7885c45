//! Floor 3: sends mails to people. It knows no persons and no invitations: an address and a text.

use std::fmt;
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::policy::person::EmailAddress;
use crate::store::config::{MailConfig, MailTls};

/// For a whole mail.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a mail was not sent.
#[derive(Debug)]
pub(crate) enum MailError {
    /// It cannot be written: the address is none that mail has a form for.
    Address,
    /// The server cannot be reached, or refuses it.
    Server(lettre::transport::smtp::Error),
    /// It took too long.
    Slow,
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("the address has no form that mail knows"),
            Self::Server(error) => write!(f, "the mail server: {error}"),
            Self::Slow => write!(
                f,
                "the mail server took longer than {} s",
                TIMEOUT.as_secs()
            ),
        }
    }
}

impl std::error::Error for MailError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Server(error) => Some(error),
            Self::Address | Self::Slow => None,
        }
    }
}

/// Sends a mail of plain text.
///
/// # Errors
/// It was not sent, as far as is known.
pub(crate) async fn send(
    config: &MailConfig,
    to: &EmailAddress,
    subject: &str,
    text: String,
) -> Result<(), MailError> {
    let address = |address: &EmailAddress| address.as_str().parse().map_err(|_| MailError::Address);
    let mail = Message::builder()
        .from(address(&config.from)?)
        .to(address(to)?)
        .subject(subject)
        .header(ContentType::TEXT_PLAIN)
        .body(text)
        .map_err(|_| MailError::Address)?;
    let server = transport(config).map_err(MailError::Server)?;
    let sent = tokio::time::timeout(TIMEOUT, server.send(mail)).await;
    sent.map_err(|_| MailError::Slow)?
        .map(drop)
        .map_err(MailError::Server)
}

fn transport(
    config: &MailConfig,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, lettre::transport::smtp::Error> {
    let tls = || TlsParameters::new(config.server.clone());
    let tls = match config.tls {
        MailTls::Tls => Tls::Wrapper(tls()?),
        MailTls::StartTls => Tls::Required(tls()?),
        MailTls::None => Tls::None,
    };
    // The name of this machine is nobody's business, and may be no name of mail's.
    let name = ClientId::Domain("keygate".to_owned());
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.server)
        .port(config.port)
        .tls(tls)
        .hello_name(name)
        .timeout(Some(TIMEOUT));
    if let Some(account) = &config.account {
        let password = account.password.reveal().to_owned();
        builder = builder.credentials(Credentials::new(account.user.clone(), password));
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// A mail server that takes one mail, or refuses its receiver; what it was told.
    async fn serve(listener: TcpListener, refuses: bool) -> String {
        let (socket, _) = listener.accept().await.unwrap();
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut told = String::new();
        write.write_all(b"220 here\r\n").await.unwrap();
        let mut is_data = false;
        while let Some(line) = lines.next_line().await.unwrap() {
            told.push_str(&line);
            told.push('\n');
            let answer: &[u8] = match (is_data, line.as_str()) {
                (true, ".") => {
                    is_data = false;
                    b"250 taken\r\n"
                }
                (true, _) => continue,
                (false, "DATA") => {
                    is_data = true;
                    b"354 go on\r\n"
                }
                (false, "QUIT") => {
                    let _ = write.write_all(b"221 bye\r\n").await;
                    break;
                }
                (false, line) if refuses && line.starts_with("RCPT") => b"550 nobody here\r\n",
                (false, _) => b"250 ok\r\n",
            };
            write.write_all(answer).await.unwrap();
        }
        told
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test)
    }

    async fn sent(refuses: bool) -> (Result<(), MailError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = MailConfig {
            server: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            tls: MailTls::None,
            from: EmailAddress::parse("keygate@example.com").unwrap(),
            account: None,
        };
        let to = EmailAddress::parse("alice@example.com").unwrap();
        let text = "Grüße\n.\nhttps://panel.example/#invitation=x".to_owned();
        let server = tokio::spawn(serve(listener, refuses));
        let sent = send(&config, &to, "Invitation", text).await;
        (sent, server.await.unwrap())
    }

    #[test]
    fn a_mail_reaches_the_server_whole() {
        run(async {
            let (sent, told) = sent(false).await;
            sent.unwrap();
            for part in [
                "MAIL FROM:<keygate@example.com>",
                "RCPT TO:<alice@example.com>",
                "Subject: Invitation",
                "#invitation=",
            ] {
                assert!(told.contains(part), "{part}: {told}");
            }
        });
    }

    #[test]
    fn a_refusal_and_a_server_that_is_not_there_are_errors_that_say_so() {
        run(async {
            let (refused, _) = sent(true).await;
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("nobody here"), "{error}");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let config = MailConfig {
                server: "127.0.0.1".to_owned(),
                port,
                tls: MailTls::None,
                from: EmailAddress::parse("keygate@example.com").unwrap(),
                account: None,
            };
            let to = EmailAddress::parse("alice@example.com").unwrap();
            let sent = send(&config, &to, "Invitation", String::new()).await;
            assert!(matches!(sent, Err(MailError::Server(_))));
        });
    }
}
