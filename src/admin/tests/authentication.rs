//! Who may call over TCP and through the socket, and which paths exist.

use super::*;

#[test]
fn over_tcp_nothing_but_health_and_the_panels_files_is_answered_without_the_token() {
    runtime().block_on(async {
        let api = TestApi::new();
        let json = ("content-type", "application/json");
        let right = format!("Bearer {}", api.token);
        let host = ("host", "192.0.2.1:9180");
        for (method, path, body) in CALLS {
            for wrong in ["", "Bearer wrong"] {
                let headers = [host, json, ("authorization", wrong)];
                let response = api.tcp(method, path, &headers, body).await;
                assert_eq!(response.status, 401, "{method} {path} {wrong:?}");
                assert_eq!(response.headers["www-authenticate"], "Bearer");
            }
            let headers = [host, json, ("authorization", &right)];
            let response = api.tcp(method, path, &headers, body).await;
            assert_ne!(response.status, 401, "{method} {path}");
        }
        for wrong in ["Basic x", "Bearer", "bearer  x", &right[..right.len() - 1]] {
            let headers = [host, ("authorization", wrong)];
            let response = api.tcp("GET", "/api/status", &headers, "").await;
            assert_eq!(response.status, 401, "{wrong:?}");
        }
        let twice = [host, ("authorization", &right), ("authorization", &right)];
        let response = api.tcp("GET", "/api/status", &twice, "").await;
        assert_eq!(response.status, 401);
        assert_eq!(
            api.tcp("GET", "/healthz", &[("host", "evil")], "")
                .await
                .status,
            200
        );
        assert_eq!(
            api.tcp("GET", "/readyz", &[("host", "evil")], "")
                .await
                .status,
            200
        );
    });
}

#[test]
fn through_the_socket_every_call_is_answered_without_a_token() {
    runtime().block_on(async {
        let api = TestApi::with_usage(Vec::new());
        for (method, path, body) in CALLS {
            let status = api.call(method, path, body).await.status;
            let expected = match (method, path) {
                ("POST", "/api/keys" | "/api/accounts") => 201,
                ("DELETE", "/api/session" | "/api/accounts/acme") => 204,
                // Nothing listens over TCP here, and the keys come from a file.
                ("POST", "/api/session-links" | "/api/fleet/accept-rollback") => 409,
                // There are no alerts here.
                ("POST", "/api/alerts/test") => 404,
                (_, "/panel/nothing.js") => 404,
                (_, path) if path.starts_with("/api/keys/key_1") => 404,
                // The account is gone by then, and who comes by the socket has no sessions of persons.
                (_, path) if path.starts_with("/api/accounts/acme/") => 404,
                (_, path) if path.starts_with("/api/sessions") => 404,
                ("OPTIONS", _) | ("POST", "/") => 405,
                _ => 200,
            };
            assert_eq!(status, expected, "{method} {path}");
        }
    });
}

#[test]
fn without_a_token_of_its_own_a_listener_refuses_every_token() {
    runtime().block_on(async {
        let mut api = TestApi::new();
        Arc::get_mut(&mut api.services).unwrap().token = None;
        let right = format!("Bearer {}", api.token);
        let headers = [("host", "localhost"), ("authorization", right.as_str())];
        assert_eq!(
            api.tcp("GET", "/api/status", &headers, "").await.status,
            401
        );
    });
}

#[test]
fn a_foreign_host_or_origin_is_refused_whatever_the_token() {
    runtime().block_on(async {
        let api = TestApi::with("hosts = [\"admin.example\"]\nopen_metrics = true");
        let right = format!("Bearer {}", api.token);
        let token = ("authorization", right.as_str());
        for (host, status) in [
            ("localhost:1", 200),
            ("192.0.2.1", 200),
            ("admin.example", 200),
            ("evil.example", 421),
            ("127.0.0.1", 421),
        ] {
            let response = api
                .tcp("GET", "/api/status", &[("host", host), token], "")
                .await;
            assert_eq!(response.status, status, "{host}");
            assert_eq!(
                api.tcp("GET", "/metrics", &[("host", host)], "")
                    .await
                    .status,
                status
            );
        }
        for (origin, status) in [
            ("http://localhost:9180", 200),
            ("https://LOCALHOST:9180", 200),
            ("https://admin.example", 200),
            ("http://localhost", 403),
            ("http://localhost:1", 403),
            ("http://192.0.2.1:9180", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
            ("http://admin.example.evil", 403),
            ("http://localhost:9180.evil.example", 403),
        ] {
            let headers = [("host", "localhost:9180"), token, ("origin", origin)];
            let response = api.tcp("GET", "/api/status", &headers, "").await;
            assert_eq!(response.status, status, "{origin}");
        }
        let two = [("host", "localhost"), ("host", "localhost"), token];
        assert_eq!(api.tcp("GET", "/api/status", &two, "").await.status, 400);
    });
}

#[test]
fn over_tcp_a_body_has_to_say_that_it_is_json() {
    runtime().block_on(async {
        let api = TestApi::new();
        let right = format!("Bearer {}", api.token);
        let base = [("host", "localhost"), ("authorization", right.as_str())];
        for (kind, body, status) in [
            (Some("application/json"), "{}", 200),
            (Some("Application/JSON; charset=utf-8"), "{}", 200),
            (Some("text/plain"), "{}", 415),
            (Some("application/x-www-form-urlencoded"), "{}", 415),
            (None, "{}", 415),
            (None, "", 200),
            (Some("text/plain"), "", 200),
        ] {
            let mut headers = base.to_vec();
            headers.extend(kind.map(|kind| ("content-type", kind)));
            let response = api.tcp("POST", "/api/reload", &headers, body).await;
            assert_eq!(response.status, status, "{kind:?} {body:?}");
        }
    });
}

#[test]
fn a_path_under_another_method_names_those_it_has() {
    runtime().block_on(async {
        let api = TestApi::new();
        for (method, path, allow) in [
            ("PUT", "/api/keys", "GET, HEAD, POST"),
            ("POST", "/api/keys/key_1", "GET, HEAD, PATCH, DELETE"),
            ("GET", "/api/reload", "POST"),
            ("POST", "/readyz", "GET, HEAD"),
        ] {
            let response = api.call(method, path, "").await;
            assert_eq!(
                (response.status.as_u16(), &response.headers["allow"]),
                (405, &HeaderValue::from_static(allow))
            );
        }
        for path in [
            "/api/keys/",
            "/api/keys/a/b",
            "/api//keys",
            "/API/keys",
            "/api/keys%2f",
            "/metrics/",
        ] {
            assert_eq!(api.call("GET", path, "").await.status, 404, "{path}");
        }
    });
}

#[test]
fn readiness_ends_when_the_end_is_announced() {
    runtime().block_on(async {
        let api = TestApi::new();
        assert_eq!(api.call("GET", "/readyz", "").await.status, 200);
        assert_eq!(
            api.call("GET", "/api/status", "").await.json()["draining"],
            false
        );
        api.services.lifecycle.advance(Phase::Announcing);
        assert_eq!(api.call("GET", "/readyz", "").await.status, 503);
        assert_eq!(api.call("GET", "/healthz", "").await.status, 200);
        assert_eq!(
            api.call("GET", "/api/status", "").await.json()["draining"],
            true
        );
    });
}

#[test]
fn the_openapi_document_lists_what_is_served_and_nothing_else() {
    runtime().block_on(async {
        let api = TestApi::new();
        let document = api.call("GET", "/api/openapi.json", "").await.json();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut described = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations
                .as_object()
                .unwrap()
                .keys()
                .filter(|name| *name != "parameters")
            {
                let path = path.replace("{id}", "key_1");
                let path = path.replace("{person}", "per_1");
                let path = path.replace("{invitation}", "inv_1");
                assert!(
                    Operation::of(&method.to_uppercase(), &path).is_some(),
                    "{method} {path}"
                );
                described += 1;
            }
        }
        let served = CALLS
            .iter()
            .filter(|(method, path, _)| {
                Operation::of(method, path.split('?').next().unwrap()).is_some()
            })
            .count();
        assert_eq!(
            described,
            served + 9,
            "health and readiness, with GET and HEAD, and the page for signing in need no token"
        );
    });
}
