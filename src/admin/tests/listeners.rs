//! The listeners: limits, shutdown and TLS.

use super::*;

/// Sends bytes, then reads until the other side closes.
async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    // How the connection is closed does not matter.
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

const STATUS: &str = "GET /api/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[test]
fn the_socket_serves_until_the_process_drains() {
    runtime().block_on(async {
        let api = TestApi::new();
        let path = api.folder.path().join("s");
        let (listener, file) = unix_socket::claim(&path, unix_socket::PRIVATE).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let served = tokio::spawn(serve_unix(listener, Arc::clone(&api.services)));
        let connect = async || tokio::net::UnixStream::connect(&path).await;
        let response = exchange(connect().await.unwrap(), STATUS).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        let idle = connect().await.unwrap();
        api.services.lifecycle.advance(Phase::Draining);
        served.await.unwrap();
        assert_eq!(exchange(idle, "").await, "", "idle connections are closed");
        file.release();
        assert!(connect().await.is_err());
    });
}

#[test]
fn silent_connections_keep_nobody_out() {
    runtime().block_on(async {
        let api = TestApi::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_tcp(listener, Arc::clone(&api.services)));
        let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();
        let call = |token: &str| {
            format!("GET /api/status HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n")
        };
        // A connection on which a call was authenticated outlives those that only speak.
        let mut operator = connect().await;
        operator.write_all(call(&api.token).as_bytes()).await.unwrap();
        let mut held = Vec::new();
        for at in 0..600 {
            let mut stream = connect().await;
            let said = match at % 3 {
                0 => "G".to_owned(),
                1 => "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
                _ => String::new(),
            };
            stream.write_all(said.as_bytes()).await.unwrap();
            held.push(stream);
        }
        let response = exchange(connect().await, STATUS).await;
        assert!(response.starts_with("HTTP/1.1 401"), "{response}");
        operator.write_all(STATUS.as_bytes()).await.unwrap();
        let mut responses = String::new();
        operator.read_to_string(&mut responses).await.unwrap();
        assert_eq!(responses.matches("HTTP/1.1 ").count(), 2, "{responses}");
        // The oldest was told to go.
        let mut oldest = held.remove(0);
        assert_eq!(oldest.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
    });
}

#[test]
fn a_body_past_the_limit_is_answered_though_its_sender_goes_on_sending() {
    runtime().block_on(async {
        let api = TestApi::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_tcp(listener, Arc::clone(&api.services)));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /api/keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 4000000\r\n\r\n{}",
            api.token,
            " ".repeat(4_000_000)
        );
        let response = exchange(stream, &request).await;
        assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    });
}

#[test]
fn with_tls_the_listener_speaks_http1_under_the_certificate_and_nothing_in_clear() {
    runtime().block_on(async {
        let mut api = TestApi::new();
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (api.folder.path().join("crt"), api.folder.path().join("key"));
        fs::write(&chain, own.cert.pem()).unwrap();
        fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        let services = Arc::get_mut(&mut api.services).unwrap();
        services.certificates = Some(
            Certificates::load(&Tls {
                first: TlsFiles {
                    certificate: chain.clone(),
                    private_key: key.clone(),
                },
                more: Vec::new(),
                client_ca: None,
            })
            .unwrap(),
        );
        let mut config = Config::clone(&services.config);
        config.admin.tls = true;
        services.config = Arc::new(config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_tcp(listener, Arc::clone(&api.services)));
        let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();

        let mut client =
            rustls::ClientConfig::clone(&crate::net::tls::client_config(Some(&chain)).unwrap());
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = "localhost".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let stream = connector.connect(name, connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let request = STATUS.replace(
            "\r\n\r\n",
            &format!("\r\nauthorization: Bearer {}\r\n\r\n", api.token),
        );
        let response = exchange(stream, &request).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        let response = exchange(connect().await, STATUS).await;
        assert!(!response.contains("HTTP/1.1"), "{response}");
    });
}
