//! The admin API over TCP: every call needs the admin token, and the host, the origin and the media type are checked.

use std::os::unix::fs::PermissionsExt;

use crate::admin::calls::{ids, is_fault};
use crate::support::Cases;
use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;

/// A gateway with the admin API over TCP, and its token.
fn over_tcp(more: impl FnOnce(Setup) -> Setup) -> (Stand, String) {
    let stand = Stand::with(|setup| {
        // Nobody takes the alerts, but they can be tried.
        let setup = setup.set("alerts", "webhook = \"http://127.0.0.1:9\"");
        more(setup.set("admin", "listen = \"127.0.0.1:0\""))
    });
    let file = stand.gateway.path("admin.token");
    let token = std::fs::read_to_string(&file).expect("the admin token");
    let mode = std::fs::metadata(file)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "the admin token is not private");
    (stand, token.trim().to_owned())
}

fn tcp(stand: &Stand, call: &Call) -> Response {
    Client::connect(stand.gateway.admin_address()).ask(call)
}

/// Every call of the API.
const CALLS: [(&str, &str, &str); 24] = [
    ("GET", "/api/keys", ""),
    (
        "POST",
        "/api/keys",
        r#"{"name":"x","model_access":{"mode":"all"}}"#,
    ),
    ("GET", "/api/keys/key_all", ""),
    ("PATCH", "/api/keys/key_all", r#"{"name":"x"}"#),
    ("DELETE", "/api/keys/key_only", ""),
    ("GET", "/api/accounts", ""),
    ("POST", "/api/accounts", r#"{"id":"acme"}"#),
    ("GET", "/api/accounts/acme", ""),
    ("PATCH", "/api/accounts/acme", "{}"),
    ("DELETE", "/api/accounts/acme", ""),
    ("POST", "/api/reload", "{}"),
    ("GET", "/api/status", ""),
    ("GET", "/api/models", ""),
    (
        "POST",
        "/api/explain",
        r#"{"key":"key_all","model":"good","from":"127.0.0.1"}"#,
    ),
    ("GET", "/api/openapi.json", ""),
    ("GET", "/metrics", ""),
    ("GET", "/api/nothing", ""),
    ("GET", "/api/overview", ""),
    ("GET", "/api/refusals", ""),
    (
        "GET",
        "/api/usage?start_time=2001-01-01T00:00:00Z&end_time=2001-01-02T00:00:00Z",
        "",
    ),
    ("GET", "/api/usage/records", ""),
    ("POST", "/api/alerts/test", "{}"),
    ("GET", "/api/audit", ""),
    ("GET", "/api/audit/verify", ""),
];

fn tcp_call(method: &str, path: &str, body: &str) -> Call {
    let call = Call::new(method, path);
    if body.is_empty() {
        call
    } else {
        call.header("content-type", "application/json").body(body)
    }
}

#[test]
fn over_tcp_every_call_needs_the_admin_token() {
    let (stand, admin) = over_tcp(|setup| setup);
    let mut cases = Cases::new();
    for (method, path, body) in CALLS {
        let call = tcp_call(method, path, body);
        let wrong = format!("{}x", &admin[..admin.len() - 1]);
        let (longer, shorter) = (format!("{admin}x"), admin[..admin.len() - 1].to_owned());
        for (name, header) in [
            ("none", None),
            ("empty", Some("Bearer ".to_owned())),
            ("wrong", Some(format!("Bearer {wrong}"))),
            ("longer", Some(format!("Bearer {longer}"))),
            ("shorter", Some(format!("Bearer {shorter}"))),
            ("a key's", Some(format!("Bearer {}", stand.all.token))),
            ("another scheme", Some(format!("Basic {admin}"))),
            ("in lists", Some(format!("Bearer {admin}, Bearer {admin}"))),
        ] {
            let call = header.iter().fold(call.clone(), |call, value| {
                call.header("authorization", value)
            });
            cases.check(
                &format!("{method} {path}, {name}"),
                is_fault(&tcp(&stand, &call), 401, None),
            );
        }
        let twice = call.clone().bearer(&wrong).bearer(&admin);
        cases.check(
            &format!("{method} {path}, two"),
            is_fault(&tcp(&stand, &twice), 401, None),
        );
        let query = Call {
            target: format!("{path}?token={admin}"),
            ..call.clone()
        };
        cases.check(
            &format!("{method} {path}, by query"),
            is_fault(&tcp(&stand, &query), 401, None),
        );
    }
    // Nothing of all that was done.
    let unchanged = stand.gateway.admin_json("GET", "/api/keys", None);
    cases.check(
        "unchanged",
        (ids(&unchanged).len() == 3)
            .then_some(())
            .ok_or(unchanged.to_string()),
    );
    for (method, path, body) in CALLS {
        let response = tcp(&stand, &tcp_call(method, path, body).bearer(&admin));
        let done = matches!(response.status, 200 | 201 | 204)
            || (path == "/api/nothing" && response.status == 404)
            || path == "/api/overview";
        cases.check(
            &format!("{method} {path}, right"),
            done.then_some(())
                .ok_or(format!("{} {}", response.status, response.text())),
        );
        let foreign = response
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control"));
        cases.check(
            path,
            (!foreign).then_some(()).ok_or("CORS headers".to_owned()),
        );
    }
    for path in ["/healthz", "/readyz"] {
        let status = tcp(&stand, &Call::new("GET", path)).status;
        cases.check(
            path,
            (status == 200).then_some(()).ok_or(status.to_string()),
        );
    }
    // The admin token is no key.
    cases.check(
        "data port",
        crate::support::is_error(
            &stand.gateway.ask(&Call::chat(&admin, "good")),
            401,
            "invalid_api_key",
        ),
    );
    let log = stand.gateway.log().join("\n");
    cases.check(
        "log",
        (!log.contains(&admin))
            .then_some(())
            .ok_or("holds the admin token".to_owned()),
    );
    cases.done();
}

#[test]
fn over_tcp_only_hosts_that_are_meant_are_answered() {
    let (stand, admin) = over_tcp(|setup| setup.set("admin", "hosts = [\"admin.example.com\"]"));
    let port = stand.gateway.admin_address().port();
    let mut cases = Cases::new();
    let ask =
        |host: &str, path: &str| tcp(&stand, &Call::get(path, &admin).header("host", host)).status;
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "admin.example.com",
        "Admin.Example.com",
        "localhost:1",
        "admin.example.com:443",
    ] {
        let status = ask(host, "/api/status");
        cases.check(
            host,
            (status == 200).then_some(()).ok_or(status.to_string()),
        );
    }
    let own = format!("127.0.0.1:{port}");
    cases.check(
        &own,
        (ask(&own, "/api/status") == 200)
            .then_some(())
            .ok_or(String::new()),
    );
    for host in [
        "evil.example",
        "127.0.0.2",
        "localhost.evil.example",
        "admin.example.com.evil.example",
        "xadmin.example.com",
        "example.com",
        "0.0.0.0",
        "[::1]",
        "127.1",
        "2130706433",
    ] {
        for path in ["/api/status", "/metrics", "/api/nothing"] {
            let call = Call::get(path, &admin).header("host", host);
            cases.check(
                &format!("{host} {path}"),
                is_fault(&tcp(&stand, &call), 421, None),
            );
        }
        let status = ask(host, "/healthz");
        cases.check(
            host,
            (status == 200)
                .then_some(())
                .ok_or(format!("healthz {status}")),
        );
        let status = ask(host, "/readyz");
        cases.check(
            host,
            (status == 200)
                .then_some(())
                .ok_or(format!("readyz {status}")),
        );
    }
    cases.done();
}

#[test]
fn over_tcp_a_foreign_origin_is_refused() {
    let (stand, admin) = over_tcp(|setup| setup);
    let port = stand.gateway.admin_address().port();
    let mut cases = Cases::new();
    let call = tcp_call(
        "POST",
        "/api/keys",
        r#"{"name":"x","model_access":{"mode":"all"}}"#,
    )
    .bearer(&admin)
    .header("host", &format!("127.0.0.1:{port}"));
    for origin in [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost.evil.example",
        &format!("http://127.0.0.1:{port}.evil.example"),
        "file://",
        "",
    ] {
        let response = tcp(&stand, &call.clone().header("origin", origin));
        cases.check(origin, is_fault(&response, 403, None));
    }
    let own = format!("http://127.0.0.1:{port}");
    let response = tcp(&stand, &call.header("origin", &own));
    cases.check(
        &own,
        (response.status == 201)
            .then_some(())
            .ok_or(response.text()),
    );
    cases.done();
}

#[test]
fn over_tcp_a_body_is_json_and_says_so_and_on_the_socket_it_need_not() {
    let (stand, admin) = over_tcp(|setup| setup);
    let mut cases = Cases::new();
    let body = r#"{"name":"x","model_access":{"mode":"all"}}"#;
    let bare = Call::new("POST", "/api/keys").bearer(&admin).body(body);
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonx",
        "text/plain; application/json",
    ] {
        let response = tcp(&stand, &bare.clone().header("content-type", content_type));
        cases.check(&format!("{content_type:?}"), is_fault(&response, 415, None));
    }
    cases.check("none", is_fault(&tcp(&stand, &bare), 415, None));
    for content_type in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
    ] {
        let response = tcp(&stand, &bare.clone().header("content-type", content_type));
        cases.check(
            content_type,
            (response.status == 201)
                .then_some(())
                .ok_or(response.text()),
        );
    }
    let empty = tcp(&stand, &Call::new("POST", "/api/reload").bearer(&admin));
    cases.check(
        "an empty body",
        (empty.status == 200).then_some(()).ok_or(empty.text()),
    );
    let call = Call::new("POST", "/api/keys").body(body);
    let response = Client::connect_unix(&stand.gateway.socket())
        .expect("the socket")
        .ask(&call);
    cases.check(
        "the socket",
        (response.status == 201)
            .then_some(())
            .ok_or(response.text()),
    );
    cases.done();
}

#[test]
fn an_admin_token_that_is_there_is_kept() {
    let up = Recorder::answering();
    let setup = Setup::before(&up)
        .set("admin", "listen = \"127.0.0.1:0\"")
        .secret("my-own-admin-token-of-some-length-0123456789");
    std::fs::write(
        setup.path("admin.token"),
        "my-own-admin-token-of-some-length-0123456789\n",
    )
    .expect("written");
    std::fs::set_permissions(
        setup.path("admin.token"),
        std::fs::Permissions::from_mode(0o600),
    )
    .expect("private");
    let gateway = setup.start();
    let call = Call::get(
        "/api/status",
        "my-own-admin-token-of-some-length-0123456789",
    );
    assert_eq!(
        Client::connect(gateway.admin_address()).ask(&call).status,
        200
    );
}

#[test]
fn metrics_over_tcp_are_open_only_where_the_config_says_so() {
    let (closed, admin) = over_tcp(|setup| setup);
    assert_eq!(tcp(&closed, &Call::new("GET", "/metrics")).status, 401);
    assert_eq!(tcp(&closed, &Call::get("/metrics", &admin)).status, 200);
    let (open, _) = over_tcp(|setup| setup.set("admin", "open_metrics = true"));
    assert_eq!(tcp(&open, &Call::new("GET", "/metrics")).status, 200);
    assert_eq!(tcp(&open, &Call::new("GET", "/api/status")).status, 401);
    let foreign = Call::new("GET", "/metrics").header("host", "evil.example");
    assert_eq!(tcp(&open, &foreign).status, 421);
}

#[test]
fn a_sessions_cookie_opens_nothing_without_the_secret_that_belongs_to_it() {
    let (stand, admin) = over_tcp(|setup| setup);
    let sign_in = || {
        let body = format!("{{\"token\":\"{admin}\"}}");
        let response = tcp(&stand, &tcp_call("POST", "/api/session", &body));
        assert_eq!(response.status, 200, "{}", response.text());
        let cookie = response.header("set-cookie").expect("a cookie");
        let (cookie, flags) = cookie.split_once("; ").expect("flags");
        assert!(flags.contains("HttpOnly") && flags.contains("SameSite=Strict"));
        let secret = response.json()["secret"]
            .as_str()
            .expect("a secret")
            .to_owned();
        (cookie.to_owned(), secret)
    };
    let ((cookie, secret), (_, other)) = (sign_in(), sign_in());
    assert!(!cookie.contains(&secret));
    let id = cookie.split_once('=').expect("a value").1;
    let mut cases = Cases::new();
    for (method, path, body) in CALLS {
        let call = tcp_call(method, path, body)
            .header("cookie", &cookie)
            .header("x-keygate-panel", "1");
        let call = match body {
            "" => call.header("content-type", "application/json"),
            _ => call,
        };
        for (name, secret) in [
            ("none", None),
            ("empty", Some("")),
            ("another's", Some(&*other)),
            ("the cookie's", Some(id)),
        ] {
            let call = secret.iter().fold(call.clone(), |call, secret| {
                call.header("x-keygate-session", secret)
            });
            cases.check(
                &format!("{method} {path}, {name}"),
                is_fault(&tcp(&stand, &call), 401, None),
            );
        }
        let alone = tcp_call(method, path, body).header("x-keygate-session", &secret);
        cases.check(
            &format!("{method} {path}, no cookie"),
            is_fault(&tcp(&stand, &alone), 401, None),
        );
    }
    for (method, path, body) in CALLS {
        let call = tcp_call(method, path, body)
            .header("cookie", &cookie)
            .header("x-keygate-session", &secret)
            .header("x-keygate-panel", "1");
        let call = match body {
            "" => call.header("content-type", "application/json"),
            _ => call,
        };
        let response = tcp(&stand, &call);
        let done = matches!(response.status, 200 | 201 | 204)
            || (path == "/api/nothing" && response.status == 404);
        cases.check(
            &format!("{method} {path}, both"),
            done.then_some(())
                .ok_or(format!("{} {}", response.status, response.text())),
        );
    }
    let log = stand.gateway.log().join("\n");
    let told = [&*secret, id].iter().any(|code| log.contains(code));
    cases.check(
        "log",
        (!told)
            .then_some(())
            .ok_or("holds a session's codes".to_owned()),
    );
    cases.done();
}
