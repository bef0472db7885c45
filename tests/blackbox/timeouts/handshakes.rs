//! A TLS handshake that does not end is given up and keeps nobody else waiting.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client};
use crate::support::h2::H2;
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, about_a_second};

#[test]
fn peers_that_never_finish_a_handshake_keep_nobody_waiting() {
    let stand = Stand::with(|setup| {
        setup
            .tls()
            .line("workers = 1")
            .set("timeouts", "tls_handshake = \"10m\"")
    });
    let address = stand.gateway.address;
    let mut hello = Vec::new();
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let config = stand.gateway.authority().client(&["http/1.1"]);
    let mut session = rustls::ClientConnection::new(config, name).expect("a session");
    session.write_tls(&mut hello).expect("a hello");
    let mut peers: Vec<Client> = (0..300)
        .map(|index| {
            let mut peer = Client::connect(address);
            // Silence, a byte, half a hello, a whole one and then silence.
            let bytes = [0, 1, hello.len() / 2, hello.len()][index % 4];
            peer.send(&hello[..bytes]);
            peer
        })
        .collect();
    let config = stand.gateway.authority().client(&["h2"]);
    let h2 = H2::connect_tls(address, config);
    for _ in 0..10 {
        let call = Call::chat(&stand.all.token, "good");
        assert_eq!(stand.gateway.ask(&call).status, 200);
        assert_eq!(h2.ask(&call).status, 200);
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        let ended = peer.ends_within(Duration::from_millis(1));
        assert_eq!(ended, None, "peer {index} was still there all the time");
    }
}

/// Sends a byte each 100 ms until the other side ends the connection; returns how long that took.
fn trickle(client: &mut Client, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        let sent = client.try_send(&[*byte]);
        if sent.is_err() || client.ends_within(Duration::from_millis(100)).is_some() {
            return start.elapsed();
        }
        assert!(start.elapsed() < DEADLINE, "it may go on for ever");
    }
    start.elapsed()
}

#[test]
fn a_tls_handshake_and_the_head_behind_it_have_their_time_however_they_trickle_in() {
    let stand = Stand::with(|setup| {
        setup
            .tls()
            .set("timeouts", "tls_handshake = \"1s\"")
            .set("timeouts", "header_read = \"1s\"")
    });
    let gateway = &stand.gateway;
    let mut cases = Cases::new();
    // A record of 512 bytes, that holds a hello of 508: it comes, but never to its end.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(500, 7);
    let took = trickle(&mut Client::connect(gateway.address), &hello);
    cases.check("a hello that trickles", about_a_second(took));
    for protocol in ["http/1.1", "h2"] {
        let connect = || {
            let config = gateway.authority().client(&[protocol]);
            Client::connect_tls(gateway.address, config).expect("a TLS connection")
        };
        let mut silent = connect();
        let start = Instant::now();
        let ended = silent.ends_within(DEADLINE);
        cases.check(
            &format!("silent once {protocol} is agreed on"),
            ended
                .ok_or("it stays open".to_owned())
                .and_then(|_| about_a_second(start.elapsed())),
        );
        let head = match protocol {
            "h2" => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec(),
            _ => Call::get("/v1/models", &stand.all.token).bytes(),
        };
        let took = trickle(&mut connect(), &head);
        cases.check(
            &format!("a head in {protocol} that trickles"),
            about_a_second(took),
        );
    }
    cases.done();
}

#[test]
fn silent_tls_peers_are_closed() {
    let stand = Stand::with(|setup| setup.tls().set("timeouts", "tls_handshake = \"1s\""));
    let mut silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(stand.gateway.address).expect("connected"))
        .collect();
    for stream in &mut silent[..100] {
        // A hello that never goes on.
        stream
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc])
            .expect("sent");
    }
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(
            !ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "a silent peer is kept"
        );
    }
}
