use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::buffer::BufferPool;
use crate::upstream::head::MAX_HEAD;

/// A connection in the middle of an exchange, and its read buffer.
struct Exchange {
    connection: UpstreamConnection,
    read: ReadBuffer,
    head: ResponseHead,
}

impl Exchange {
    async fn of(mut connection: UpstreamConnection, request: &[u8]) -> Result<Self, ExchangeError> {
        let (pool, timer) = (BufferPool::default(), TickTimer::default());
        let mut request = OutboundRequest::from_text(&pool, request.to_vec());
        let mut read = ReadBuffer::new(&pool);
        let mut head = ResponseHead::awaited(pool.take_fields());
        let entry = timer.entry();
        let exchange = connection.exchange(&mut request, &mut read, &mut head, &timer, &entry);
        let sent = exchange.await?;
        assert_eq!(sent, request.len());
        Ok(Self {
            connection,
            read,
            head,
        })
    }

    async fn body(&mut self) -> Result<Vec<u8>, BrokenResponse> {
        let mut body = Vec::new();
        loop {
            let next = poll_fn(|cx| {
                self.connection
                    .poll_piece(cx, &mut self.read, &mut self.head.framing)
            });
            match next.await {
                None => return Ok(body),
                Some(piece) => body.extend_from_slice(self.read.at(piece?)),
            }
        }
    }

    fn is_reusable(&self) -> bool {
        self.head.keeps_open && self.head.framing.is_done() && self.read.is_empty()
    }
}

/// What a client receives of `response` (status and body, or an error), and whether the connection can be reused.
async fn exchange(response: &[u8]) -> (Result<(u16, Vec<u8>), String>, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let response = response.to_vec();
    let server = async move {
        let mut request = [0_u8; 64];
        let count = server.read(&mut request).await.unwrap();
        assert_eq!(&request[..count], b"POST / HTTP/1.1\r\n\r\nbody");
        for piece in response.chunks(7.max(response.len() / 64)) {
            // The client may have closed already.
            if server.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = server.shutdown().await;
    };
    let client = async move {
        let connection = UpstreamConnection::new(Transport::Tcp(stream));
        let mut exchange = match Exchange::of(connection, b"POST / HTTP/1.1\r\n\r\nbody").await {
            Ok(exchange) => exchange,
            Err(error) => return (Err(format!("{error:?}")), false),
        };
        let body = exchange.body().await.map_err(|error| error.to_string());
        let status = exchange.head.status.as_u16();
        (body.map(|body| (status, body)), exchange.is_reusable())
    };
    let both = async { tokio::join!(server, client).1 };
    tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .unwrap()
}

async fn accepts(response: &str, status: u16, body: &str, kept: bool) {
    let (result, reusable) = exchange(response.as_bytes()).await;
    assert_eq!(
        result,
        Ok((status, body.as_bytes().to_vec())),
        "{response:?}"
    );
    assert_eq!(reusable, kept, "{response:?}");
}

async fn refuses(response: &str) {
    let (result, _) = exchange(response.as_bytes()).await;
    assert!(result.is_err(), "{response:?}: {result:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn every_framing_is_read_to_its_end() {
    accepts(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        200,
        "hello",
        true,
    )
    .await;
    accepts(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        200,
        "",
        true,
    )
    .await;
    // A server may send a body anyway, so the connection is not reused.
    accepts("HTTP/1.1 204 No Content\r\n\r\n", 204, "", false).await;
    for (status, length) in [(204, 2), (304, 2), (204, 0)] {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
        accepts(&head, status, "", false).await;
    }
    let chunked = "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n";
    accepts(chunked, 204, "", false).await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    accepts(
        &format!("{chunked}5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"),
        200,
        "hello!",
        true,
    )
    .await;
    accepts(
        &format!("{chunked}5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"),
        200,
        "hello",
        true,
    )
    .await;
    accepts(
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
        200,
        "until close",
        false,
    )
    .await;
    accepts(
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        200,
        "hi",
        false,
    )
    .await;
    accepts(
        "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nhi",
        200,
        "hi",
        false,
    )
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn data_after_a_response_belongs_to_no_request_and_ends_the_connection() {
    accepts(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
        200,
        "hi",
        false,
    )
    .await;
    accepts("HTTP/1.1 204 No Content\r\n\r\nbody", 204, "", false).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_ambiguous_response_is_refused() {
    for headers in [
        "content-length: 2\r\ntransfer-encoding: chunked",
        "content-length: 2\r\ncontent-length: 2",
        "content-length: +2",
        "content-length: 2, 2",
        "content-length: ",
        "content-length: 0x2",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "x: a\0b",
        "x: a\r\n b",
        "x : a",
        "no colon",
    ] {
        refuses(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\nhi")).await;
    }
    refuses("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
    refuses("garbage\r\n\r\n").await;
    refuses("HTTP/2 200 OK\r\n\r\n").await;
    refuses(&format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "y".repeat(MAX_HEAD)
    ))
    .await;
}

/// A TLS connection and its server. Each write of the server is sent as a separate TLS record.
async fn over_tls() -> (
    UpstreamConnection,
    tokio_rustls::server::TlsStream<TcpStream>,
) {
    use std::sync::Arc;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.unwrap())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let (stream, served) = tokio::join!(
        connector.connect("localhost".try_into().unwrap(), socket),
        acceptor.accept(accepted)
    );
    let stream = Transport::Tls(Box::new(stream.unwrap().into()));
    (UpstreamConnection::new(stream), served.unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_whose_tls_holds_more_than_its_response_is_not_quiet() {
    for leftover in ["", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
        let (mut connection, mut server) = over_tls().await;
        let response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        server.write_all(response.as_bytes()).await.unwrap();
        server.write_all(leftover.as_bytes()).await.unwrap();
        server.flush().await.unwrap();
        // The rest was decrypted with the response, or is still in the socket.
        let mut read = vec![0; response.len()];
        connection.transport.read_exact(&mut read).await.unwrap();
        assert_eq!(connection.is_quiet(), leftover.is_empty());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn broken_chunks_are_refused() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "10000000000000002\r\nhello",
        "5\r\nhelloXX0\r\n\r\n",
        "\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhel",
        "5\r\nhello\r\n0\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
    ] {
        refuses(&format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ))
        .await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_response_that_ends_early_is_an_error() {
    refuses("").await;
    refuses("HTTP/1.1 200").await;
    refuses("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell").await;
}

#[tokio::test(flavor = "current_thread")]
async fn interim_responses_are_skipped_up_to_a_limit() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    accepts(&format!("{}{last}", interim.repeat(16)), 200, "hi", true).await;
    refuses(&format!("{}{last}", interim.repeat(17))).await;
    refuses(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n{last}"
    ))
    .await;
}
