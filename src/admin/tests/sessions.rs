//! The panel's files and sessions.

use super::*;

#[test]
fn the_panel_is_served_to_anybody_under_a_strict_policy() {
    runtime().block_on(async {
        let api = TestApi::new();
        let host = ("host", "localhost:9180");
        let page = api.tcp("GET", "/", &[host], "").await;
        assert_eq!(page.status, 200);
        assert!(page.body.starts_with(b"<!doctype html>"));
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-cache"),
            (
                "content-security-policy",
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                 font-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
            ),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(page.headers[name], value, "{name}");
        }
        let tag = page.headers["etag"].to_str().unwrap();
        let known = api.tcp("GET", "/", &[host, ("if-none-match", tag)], "").await;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
        assert_eq!(known.headers["etag"], tag);
        assert_eq!(known.headers["cache-control"], "no-cache");
        assert!(known.headers.contains_key("content-security-policy"));
        assert_eq!(api.tcp("HEAD", "/", &[host], "").await.status, 200);
        assert_eq!(api.call("GET", "/", "").await.status, 200);
        for (headers, status) in [
            (&[("host", "evil.example")][..], 421),
            (&[host, ("origin", "http://evil.example")], 403),
            (&[host, ("sec-fetch-site", "cross-site")], 200),
        ] {
            let response = api.tcp("GET", "/", headers, "").await;
            assert_eq!(response.status, status, "{headers:?}");
            assert_eq!(response.headers["x-content-type-options"], "nosniff");
        }
        let refused = api.tcp("GET", "/api/keys", &[host], "").await;
        assert_eq!(refused.headers["cache-control"], "no-store");
    });
}

#[test]
fn who_shows_the_token_once_gets_a_session_of_a_cookie_that_no_script_reads_and_a_secret() {
    runtime().block_on(async {
        let api = TestApi::new();
        let body = json!({"token": api.token}).to_string();
        let response = api.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(response.status, 200);
        let expected = json!({
            "client_address": "198.51.100.9",
            "url": "http://localhost:8080/v1",
            "version": env!("CARGO_PKG_VERSION"),
            "principal": {"kind": "operator"},
            "accounts": [],
        });
        let mut answer = response.json();
        let secret = answer.as_object_mut().unwrap().remove("secret").unwrap();
        let secret = secret.as_str().unwrap();
        assert_eq!(answer, expected);
        let line = response.headers["set-cookie"].to_str().unwrap();
        let (cookie, flags) = line.split_once("; ").unwrap();
        assert_eq!(flags, "HttpOnly; SameSite=Strict; Path=/");
        let id = cookie.strip_prefix("keygate_session=").unwrap();
        assert_eq!(id.len(), 43);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(secret != id && secret.len() == 43);
        let headers = [
            ("host", "localhost"),
            ("cookie", cookie),
            ("x-keygate-session", secret),
        ];
        let shown = api.tcp("GET", "/api/session", &headers, "").await;
        assert_eq!((shown.status.as_u16(), shown.json()), (200, expected));
        assert!(!shown.headers.contains_key("set-cookie"));
        for fewer in [&headers[..1], &headers[..2], &[headers[0], headers[2]]] {
            let without = api.tcp("GET", "/api/session", fewer, "").await;
            assert_eq!(without.status, 401);
            assert_eq!(without.headers["cache-control"], "no-store");
        }
    });
}

#[test]
fn a_cookie_is_for_tls_alone_where_the_page_came_over_tls() {
    runtime().block_on(async {
        let api = TestApi::with("hosts = [\"admin.example\"]");
        let body = json!({"token": api.token}).to_string();
        for (host, origin, is_secure) in [
            ("localhost:9180", "http://localhost:9180", false),
            ("admin.example", "https://admin.example", true),
            ("127.0.0.1:9180", "https://admin.example", true),
        ] {
            let headers = [
                (
                    "host",
                    if host.starts_with("127") {
                        "192.0.2.1:9180"
                    } else {
                        host
                    },
                ),
                ("origin", origin),
                ("content-type", "application/json"),
            ];
            let response = api.tcp("POST", "/api/session", &headers, &body).await;
            assert_eq!(response.status, 200, "{origin}");
            let line = response.headers["set-cookie"].to_str().unwrap();
            assert_eq!(line.ends_with("; Secure"), is_secure, "{line}");
            assert_eq!(line.starts_with("__Host-keygate_session="), is_secure);
            assert!(line.contains("; Path=/") && !line.contains("Domain"));
        }
    });
}

#[test]
fn a_wrong_token_or_link_signs_nobody_in_and_is_answered_late() {
    runtime().block_on(async {
        let api = TestApi::new();
        let old = api.token.replace("kg_", "kg-");
        for wrong in ["", "wrong", "kg_wrong", &old, &"x".repeat(600)] {
            for field in ["token", "link"] {
                let began = std::time::Instant::now();
                let body = json!({field: wrong}).to_string();
                let response = api.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
                assert_eq!(response.status, 401, "{field} {wrong}");
                assert!(began.elapsed() >= std::time::Duration::from_millis(190));
                assert!(!response.headers.contains_key("set-cookie"));
                let error = &response.json()["error"];
                assert_eq!(error["field"], Value::Null);
                let is_link = field == "link";
                assert_eq!(error["code"] == "wrong_link", is_link, "{error}");
            }
        }
        for (body, status, field) in [
            ("", 422, "token"),
            ("{}", 422, "token"),
            ("{\"token\":null}", 422, "token"),
            ("{\"token\":7}", 422, "token"),
            ("{\"token\":\"a\",\"link\":\"b\"}", 422, "link"),
            ("{\"token\":\"a\",\"password\":\"b\"}", 422, "password"),
            ("{\"email\":\"a\"}", 422, "password"),
            (
                "{\"email\":\"a\",\"invitation\":\"c\",\"password\":\"b\"}",
                422,
                "invitation",
            ),
            ("{\"token\":\"a\",\"extra\":1}", 422, "extra"),
            ("{", 400, ""),
        ] {
            let response = api.tcp("POST", "/api/session", &FROM_PANEL, body).await;
            let found = (response.status.as_u16(), response.field());
            assert_eq!(found, (status, field.to_owned()), "{body}");
        }
    });
}

#[test]
fn guessing_keeps_neither_a_right_sign_in_nor_the_socket_waiting() {
    runtime().block_on(async {
        let api = Arc::new(TestApi::new());
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let api = Arc::clone(&api);
            let guess = async move {
                let body = "{\"token\":\"guess\"}";
                api.tcp("POST", "/api/session", &FROM_PANEL, body)
                    .await
                    .status
            };
            guesses.spawn(guess);
        }
        // Responses without a permit are sent immediately.
        let mut answered = 0;
        while answered < 36 {
            tokio::task::yield_now().await;
            while let Some(status) = guesses.try_join_next() {
                assert_eq!(status.unwrap(), 401);
                answered += 1;
            }
        }
        api.sign_in(&[]).await;
        assert_eq!(api.call("GET", "/api/status", "").await.status, 200);
        assert!(guesses.try_join_next().is_none(), "the others still wait");
        for status in guesses.join_all().await {
            assert_eq!(status, 401);
        }
    });
}

#[test]
fn with_a_session_every_call_is_answered_and_changes_only_to_the_panels_own_code() {
    runtime().block_on(async {
        let api = TestApi::new();
        let session = api.sign_in(&[]).await;
        let [cookie, secret] = session.headers();
        let bare = [("host", "192.0.2.1:9180"), cookie, secret];
        let json = ("content-type", "application/json");
        // Sign-out is last, since it ends the session.
        let (sign_out, calls): (Vec<_>, Vec<_>) = CALLS
            .into_iter()
            .partition(|call| call.0 == "DELETE" && call.1 == "/api/session");
        for call @ (method, path, body) in calls.into_iter().chain(sign_out) {
            let with = async |headers: &[(&str, &str)]| {
                let headers = [&bare[..], headers].concat();
                api.tcp(method, path, &headers, body).await.status.as_u16()
            };
            let alone = [cookie, ("x-keygate-panel", "1"), json];
            for secrets in [
                &[][..],
                &[("x-keygate-session", "wrong")],
                &[secret, secret],
            ] {
                let headers = [&bare[..1], &alone, secrets].concat();
                let response = api.tcp(method, path, &headers, body).await;
                assert_eq!(response.status, 401, "{method} {path}");
                let message = response.json()["error"]["message"].to_string();
                assert!(message.contains("X-Keygate-Session"), "{message}");
            }
            if method != "GET" {
                for headers in [
                    &[][..],
                    &[json],
                    &[("x-keygate-panel", "1")],
                    &[("x-keygate-panel", "1"), ("content-type", "text/plain")],
                    &[("x-keygate-panel", "0"), json],
                    &[("x-keygate-panel", "1"), ("x-keygate-panel", "1"), json],
                ] {
                    assert_eq!(with(headers).await, 403, "{method} {path} {headers:?}");
                }
            }
            for foreign in [
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", ""),
                ("origin", "http://192.0.2.1:3000"),
                ("origin", "http://192.0.2.1"),
                ("origin", "http://localhost:9180"),
                ("origin", "http://evil.example"),
                ("origin", "null"),
            ] {
                let headers = [foreign, ("x-keygate-panel", "1"), json];
                assert_eq!(with(&headers).await, 403, "{method} {path} {foreign:?}");
            }
            let own = [
                cookie,
                secret,
                ("origin", "http://192.0.2.1:9180"),
                ("sec-fetch-site", "same-origin"),
            ];
            let status = api.panel_call(call, &own).await;
            assert!(
                ![401, 403, 421].contains(&status),
                "{method} {path}: {status}"
            );
        }
        assert_eq!(api.tcp("GET", "/api/keys", &bare, "").await.status, 401);
    });
}

#[test]
fn a_session_is_no_way_around_host_or_a_wrong_token() {
    runtime().block_on(async {
        let api = TestApi::new();
        let session = api.sign_in(&[]).await;
        let [cookie, secret] = session.headers();
        for (headers, status) in [
            (&[("host", "evil.example"), cookie, secret][..], 421),
            (
                &[
                    ("host", "localhost"),
                    cookie,
                    secret,
                    ("authorization", "Bearer wrong"),
                ],
                401,
            ),
            (
                &[
                    ("host", "localhost"),
                    cookie,
                    secret,
                    ("authorization", "Basic eDp5"),
                ],
                200,
            ),
        ] {
            let response = api.tcp("GET", "/api/keys", headers, "").await;
            assert_eq!(response.status, status, "{headers:?}");
        }
        let body = json!({"token": api.token}).to_string();
        for (headers, status) in [
            (&[("host", "evil.example")][..], 421),
            (
                &[("host", "localhost"), ("origin", "http://evil.example")],
                403,
            ),
            (
                &[("host", "localhost"), ("origin", "http://localhost:3000")],
                403,
            ),
            (
                &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
                403,
            ),
            (
                &[("host", "localhost"), ("content-type", "text/plain")],
                415,
            ),
            (&[("host", "localhost")], 415),
        ] {
            let response = api.tcp("POST", "/api/session", headers, &body).await;
            assert_eq!(response.status, status, "{headers:?}");
            assert!(!response.headers.contains_key("set-cookie"));
        }
    });
}

#[test]
fn a_sign_in_makes_a_new_id_and_ends_the_one_it_came_with() {
    runtime().block_on(async {
        let api = TestApi::new();
        let first = api.sign_in(&[]).await;
        let elsewhere = api.sign_in(&[]).await;
        let second = api.sign_in(&first.headers()).await;
        let codes = [&first, &second, &elsewhere]
            .map(TestSession::headers)
            .concat();
        let codes: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(codes.len(), 6);
        for (session, status) in [(&first, 401), (&second, 200), (&elsewhere, 200)] {
            let call = ("GET", "/api/session", "");
            assert_eq!(api.panel_call(call, &session.headers()).await, status);
        }
    });
}

#[test]
fn signing_out_ends_the_session_at_once_and_no_other() {
    runtime().block_on(async {
        let api = TestApi::new();
        let (session, other) = (api.sign_in(&[]).await, api.sign_in(&[]).await);
        let both = [&FROM_PANEL[..], &session.headers()].concat();
        let response = api.tcp("DELETE", "/api/session", &both, "").await;
        assert_eq!((response.status.as_u16(), response.body.len()), (204, 0));
        assert_eq!(
            response.headers["set-cookie"],
            "keygate_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"
        );
        let again = ("DELETE", "/api/session", "");
        assert_eq!(api.panel_call(again, &session.headers()).await, 401);
        for (session, status) in [(&session, 401), (&other, 200)] {
            let call = ("GET", "/api/keys", "");
            assert_eq!(api.panel_call(call, &session.headers()).await, status);
        }
    });
}

#[test]
fn a_link_signs_in_once() {
    runtime().block_on(async {
        let api = TestApi::new();
        let address = &api.services.state.address;
        let off = api.call("POST", "/api/session-links", "").await;
        assert_eq!(off.status, 409, "nothing listens over TCP yet");
        address.set(([192, 0, 2, 1], 9180).into()).unwrap();
        let made = api.call("POST", "/api/session-links", "{}").await;
        assert_eq!(made.status, 201);
        let link = made.json()["link"].as_str().unwrap().to_owned();
        let code = link.strip_prefix("http://192.0.2.1:9180/#link=").unwrap();
        assert_eq!(code.len(), 43);
        let body = json!({"link": code}).to_string();
        let foreign = [&FROM_PANEL[..], &[("sec-fetch-site", "cross-site")]].concat();
        let refused = api.tcp("POST", "/api/session", &foreign, &body).await;
        assert_eq!(refused.status, 403, "and the link is not used up");
        let response = api.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(response.status, 200);
        let session = response.session();
        let call = ("GET", "/api/keys", "");
        assert_eq!(api.panel_call(call, &session.headers()[..1]).await, 401);
        assert_eq!(api.panel_call(call, &session.headers()).await, 200);
        let again = api.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(again.status, 401);
    });
}

#[test]
fn behind_a_trusted_proxy_a_session_shows_the_address_that_the_gateway_would_judge() {
    runtime().block_on(async {
        let api = TestApi::with(
            "[client_address]\nfrom = \"x-forwarded-for\"\ntrusted_proxies = [\"198.51.100.9\"]",
        );
        let session = api.sign_in(&[]).await;
        for (forwarded, expected) in [
            (Some("203.0.113.5"), json!("203.0.113.5")),
            (Some("::ffff:203.0.113.5"), json!("203.0.113.5")),
            (Some("2001:db8::5"), json!("2001:db8::5")),
            (Some("junk"), Value::Null),
            (None, Value::Null),
        ] {
            let mut headers = vec![("host", "localhost")];
            headers.extend(session.headers());
            headers.extend(forwarded.map(|list| ("x-forwarded-for", list)));
            let response = api.tcp("GET", "/api/session", &headers, "").await;
            assert_eq!(response.json()["client_address"], expected, "{forwarded:?}");
        }
        assert_eq!(
            api.call("GET", "/api/session", "").await.json()["client_address"],
            Value::Null
        );
    });
}
