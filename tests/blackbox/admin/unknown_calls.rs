//! Calls that the admin API does not have, and bytes that are no calls.

use crate::admin::calls::is_fault;
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, eventually};

#[test]
fn what_the_api_does_not_have_is_told_in_its_own_shape() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (method, path, status) in [
        ("GET", "/api/nothing", 404),
        ("GET", "/api", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models", 404),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/api/keys/", 404),
        ("GET", "/api/keys/a/b", 404),
        ("POST", "/api/keys/a/b/rotate", 404),
        ("POST", "/api/keys//rotate", 404),
        ("POST", "/api/keys/no_such_key/rotate", 404),
        ("POST", "/api/keys/no_such_key/expire-previous", 404),
        ("GET", "/api/keys/key_all/rotate", 405),
        ("DELETE", "/api/keys/key_all/expire-previous", 405),
        ("GET", "/api/keys/no_such_key", 404),
        ("GET", "/api/keys/%2e%2e", 404),
        ("GET", "//api/keys", 404),
        ("PUT", "/api/keys", 405),
        ("DELETE", "/api/keys", 405),
        ("POST", "/api/keys/key_all", 405),
        ("PUT", "/api/keys/key_all", 405),
        ("GET", "/api/reload", 405),
        ("POST", "/api/status", 405),
        ("POST", "/api/models", 405),
        ("GET", "/api/explain", 405),
        ("POST", "/metrics", 405),
        ("DELETE", "/healthz", 405),
    ] {
        let response = stand.gateway.admin(method, path, None);
        cases.check(
            &format!("{method} {path}"),
            is_fault(&response, status, None),
        );
        if status == 405 {
            cases.check(
                &format!("{method} {path}"),
                response
                    .header("allow")
                    .map(|_| ())
                    .ok_or("no Allow".to_owned()),
            );
        }
    }
    cases.done();
    let document = stand.gateway.admin_json("GET", "/api/openapi.json", None);
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    for path in [
        "/api/keys",
        "/api/keys/{id}",
        "/api/keys/{id}/rotate",
        "/api/keys/{id}/expire-previous",
        "/api/reload",
        "/api/status",
        "/api/models",
        "/api/explain",
    ] {
        assert!(
            document["paths"].get(path).is_some(),
            "{path} is not described"
        );
    }
}

#[test]
fn nonsense_on_the_admin_socket_harms_nothing() {
    let stand = Stand::new();
    let mut noise = vec![0_u8; 256 << 10];
    getrandom::fill(&mut noise).expect("random bytes");
    let wide = format!(
        "GET /api/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "w".repeat(4 << 20)
    );
    let mut held = Vec::new();
    for bytes in [
        noise.as_slice(),
        b"\0\0\0\0",
        b"GET /api/status HTTP/1.1\r\n",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\n{",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        wide.as_bytes(),
    ] {
        let mut client = Client::connect_unix(&stand.gateway.socket()).expect("the socket");
        let _ = client.try_send(bytes);
        held.push(client);
    }
    let flood = (0..500).filter_map(|_| Client::connect_unix(&stand.gateway.socket()).ok());
    held.extend(flood);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    drop(held);
    eventually("the socket answers again", DEADLINE, || {
        let mut client = Client::connect_unix(&stand.gateway.socket()).ok()?;
        client
            .try_send(&Call::new("GET", "/api/status").bytes())
            .ok()?;
        (!client.silent_for(DEADLINE) && client.unread().starts_with(b"HTTP/1.1 200")).then_some(())
    });
}
