use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use prometheus::IntCounter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::unix_socket;
use crate::observe::history::Minute;
use crate::policy::token::BearerToken;

use crate::store::config::parse::{self, Overrides};
use crate::store::config::{Tls, TlsFiles};
use crate::store::key_file;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A gateway's services in a folder of their own, and the token of its TCP listener.
struct Room {
    folder: TempDir,
    services: Arc<Services>,
    token: String,
}

impl Room {
    fn new() -> Self {
        Self::with("")
    }

    fn with(admin: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keygate.toml");
        let config = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n{admin}\n[[upstreams]]\nname = \"up\"\nurl = \"http://127.0.0.1:9\"\nmodels = [\"good\"]\n"
        );
        fs::write(&file, config).unwrap();
        fs::write(folder.path().join("keys.jsonl"), "").unwrap();
        let config = parse::load(&file, &Overrides::default()).unwrap();
        let token = BearerToken::make(getrandom::fill).unwrap();
        fs::write(&config.admin.token_file, token.reveal()).unwrap();
        let table = Arc::new(Table::default());
        let loaded = key_file::read(&config.keys.file, &table, crate::table::NO_YIELD).unwrap();
        let metrics = Metrics::new().unwrap();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let (log, _writer) = Log::start(crate::observe::log::Form::Json, dropped).unwrap();
        let services = Services {
            keeper: KeyStore::start(&config.keys, Arc::clone(&table), loaded, |_| ()).unwrap(),
            table,
            fleet: Arc::new(Fleet::new(&config.upstreams, metrics.clone()).unwrap()),
            certificates: None,
            metrics,
            log,
            lifecycle: Lifecycle::default(),
            url: "http://localhost:8080/v1".to_owned(),
            config_source: Arc::new(move || parse::read(Some(&file), &Overrides::default())),
            token: Some(access::admin_token(&config.admin.token_file).unwrap()),
            memory: Memory::default(),
            config: Arc::new(config),
        };
        Self {
            folder,
            services: Arc::new(services),
            token: token.reveal().to_owned(),
        }
    }

    fn keys_file(&self) -> PathBuf {
        self.folder.path().join("keys.jsonl")
    }

    async fn send(&self, caller: Caller, request: Request<Full<Bytes>>) -> Answer {
        let response = handle(&self.services, caller, request).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Through the socket.
    async fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        self.send(Caller::Socket { uid: Some(7) }, request).await
    }

    /// Over TCP, with these headers.
    async fn tcp(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let peer = ([198, 51, 100, 9], 5000).into();
        self.send(Caller::Network { peer, local: LOCAL }, request)
            .await
    }

    /// Signs in over TCP, with these headers besides; gives the cookie.
    async fn sign_in(&self, headers: &[(&str, &str)]) -> String {
        let headers = [&FROM_PANEL[..], headers].concat();
        let body = json!({"token": self.token}).to_string();
        let answer = self.tcp("POST", "/api/session", &headers, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.cookie()
    }

    /// The status of a call that the panel makes with this cookie and these headers besides.
    async fn panel_call(&self, call: (&str, &str, &str), headers: &[(&str, &str)]) -> u16 {
        let headers = [&FROM_PANEL[..], headers].concat();
        let answer = self.tcp(call.0, call.1, &headers, call.2).await;
        answer.status.as_u16()
    }

    async fn key(&self, name: &str) -> Value {
        let body = json!({"name": name, "model_access": {"mode": "all"}}).to_string();
        let answer = self.call("POST", "/api/keys", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()
    }
}

/// What the panel's own code sends along.
const FROM_PANEL: [(&str, &str); 3] = [
    ("host", "192.0.2.1:9180"),
    ("x-keygate-panel", "1"),
    ("content-type", "application/json"),
];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The cookie that it sets, as the next call sends it.
    fn cookie(&self) -> String {
        let line = self.headers["set-cookie"].to_str().unwrap();
        line.split_once(';').unwrap().0.to_owned()
    }

    fn field(&self) -> String {
        let json = self.json();
        json["error"]["field"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Every call of the list that needs the token, and some that are not on it.
const CALLS: [(&str, &str, &str); 17] = [
    ("GET", "/metrics", ""),
    ("GET", "/api/keys", ""),
    (
        "POST",
        "/api/keys",
        "{\"name\":\"n\",\"model_access\":{\"mode\":\"all\"}}",
    ),
    ("GET", "/api/keys/key_1", ""),
    ("PATCH", "/api/keys/key_1", "{}"),
    ("DELETE", "/api/keys/key_1", ""),
    ("POST", "/api/reload", ""),
    ("GET", "/api/status", ""),
    ("GET", "/api/models", ""),
    (
        "POST",
        "/api/explain",
        "{\"key\":\"key_1\",\"model\":\"good\",\"from\":\"::1\"}",
    ),
    ("GET", "/api/openapi.json", ""),
    ("GET", "/api/overview", ""),
    ("GET", "/api/session", ""),
    ("DELETE", "/api/session", ""),
    ("OPTIONS", "/api/keys", ""),
    ("POST", "/", ""),
    ("GET", "/panel/nothing.js", ""),
];

#[test]
fn over_tcp_nothing_but_health_and_the_panels_files_is_answered_without_the_token() {
    runtime().block_on(async {
        let room = Room::new();
        let json = ("content-type", "application/json");
        let right = format!("Bearer {}", room.token);
        let host = ("host", "192.0.2.1:9180");
        for (method, path, body) in CALLS {
            for wrong in ["", "Bearer wrong"] {
                let headers = [host, json, ("authorization", wrong)];
                let answer = room.tcp(method, path, &headers, body).await;
                assert_eq!(answer.status, 401, "{method} {path} {wrong:?}");
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
            let headers = [host, json, ("authorization", &right)];
            let answer = room.tcp(method, path, &headers, body).await;
            assert_ne!(answer.status, 401, "{method} {path}");
        }
        for wrong in ["Basic x", "Bearer", "bearer  x", &right[..right.len() - 1]] {
            let headers = [host, ("authorization", wrong)];
            let answer = room.tcp("GET", "/api/status", &headers, "").await;
            assert_eq!(answer.status, 401, "{wrong:?}");
        }
        let twice = [host, ("authorization", &right), ("authorization", &right)];
        let answer = room.tcp("GET", "/api/status", &twice, "").await;
        assert_eq!(answer.status, 401);
        assert_eq!(
            room.tcp("GET", "/healthz", &[("host", "evil")], "")
                .await
                .status,
            200
        );
        assert_eq!(
            room.tcp("GET", "/readyz", &[("host", "evil")], "")
                .await
                .status,
            200
        );
    });
}

#[test]
fn through_the_socket_every_call_is_answered_without_a_token() {
    runtime().block_on(async {
        let room = Room::new();
        for (method, path, body) in CALLS {
            let status = room.call(method, path, body).await.status;
            let expected = match (method, path) {
                ("POST", "/api/keys") => 201,
                ("DELETE", "/api/session") => 204,
                (_, "/api/keys/key_1" | "/panel/nothing.js") => 404,
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
        let mut room = Room::new();
        Arc::get_mut(&mut room.services).unwrap().token = None;
        let right = format!("Bearer {}", room.token);
        let headers = [("host", "localhost"), ("authorization", right.as_str())];
        assert_eq!(
            room.tcp("GET", "/api/status", &headers, "").await.status,
            401
        );
    });
}

#[test]
fn a_foreign_host_or_origin_is_refused_whatever_the_token() {
    runtime().block_on(async {
        let room = Room::with("hosts = [\"admin.example\"]\nopen_metrics = true");
        let right = format!("Bearer {}", room.token);
        let token = ("authorization", right.as_str());
        for (host, status) in [
            ("localhost:1", 200),
            ("192.0.2.1", 200),
            ("admin.example", 200),
            ("evil.example", 421),
            ("127.0.0.1", 421),
        ] {
            let answer = room
                .tcp("GET", "/api/status", &[("host", host), token], "")
                .await;
            assert_eq!(answer.status, status, "{host}");
            assert_eq!(
                room.tcp("GET", "/metrics", &[("host", host)], "")
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
            let answer = room.tcp("GET", "/api/status", &headers, "").await;
            assert_eq!(answer.status, status, "{origin}");
        }
        let two = [("host", "localhost"), ("host", "localhost"), token];
        assert_eq!(room.tcp("GET", "/api/status", &two, "").await.status, 400);
    });
}

#[test]
fn over_tcp_a_body_has_to_say_that_it_is_json() {
    runtime().block_on(async {
        let room = Room::new();
        let right = format!("Bearer {}", room.token);
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
            let answer = room.tcp("POST", "/api/reload", &headers, body).await;
            assert_eq!(answer.status, status, "{kind:?} {body:?}");
        }
    });
}

#[test]
fn a_path_under_another_method_names_those_it_has() {
    runtime().block_on(async {
        let room = Room::new();
        for (method, path, allow) in [
            ("PUT", "/api/keys", "GET, POST"),
            ("POST", "/api/keys/key_1", "GET, PATCH, DELETE"),
            ("GET", "/api/reload", "POST"),
            ("POST", "/readyz", "GET, HEAD"),
        ] {
            let answer = room.call(method, path, "").await;
            assert_eq!(
                (answer.status.as_u16(), &answer.headers["allow"]),
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
            assert_eq!(room.call("GET", path, "").await.status, 404, "{path}");
        }
    });
}

#[test]
fn a_key_is_made_shown_changed_and_deleted() {
    runtime().block_on(async {
        let room = Room::new();
        let body = "{\"name\":\"n\",\"model_access\":{\"mode\":\"exclusive\",\"models\":[\"gone\"]},\"allow_from\":[\"192.0.2.7\"],\
                    \"expires_at\":\"2999-12-31\",\"account\":\"acme\"}";
        let created = room.call("POST", "/api/keys", body).await;
        assert_eq!(created.status, 201);
        let created = created.json();
        assert_eq!(created["url"], "http://localhost:8080/v1");
        assert!(created["warnings"][0].as_str().unwrap().contains("excludes nothing"));
        let token = created["token"].as_str().unwrap();
        let key = &created["key"];
        assert_eq!(key["hint"], token[48..]);
        assert_eq!(key["expires_at"], "3000-01-01T00:00:00Z");
        assert_eq!(key["allow_from"], json!(["192.0.2.7/32"]));
        assert_eq!((&key["state"], &key["requests"], &key["last_used_at"]), (&json!("active"), &json!(0), &Value::Null));
        assert!(key.get("hash").is_none());
        let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
        let shown = room.call("GET", &path, "").await;
        assert_eq!((shown.status.as_u16(), &shown.json()), (200, key));
        assert_eq!(shown.headers["cache-control"], "no-store");
        assert!(!String::from_utf8_lossy(&shown.body).contains(token));
        let changed = room
            .call("PATCH", &path, "{\"disabled\":true,\"expires_at\":null,\"allow_from\":[]}")
            .await
            .json();
        assert_eq!((&changed["state"], &changed["expires_at"]), (&json!("disabled"), &Value::Null));
        assert_eq!((&changed["allow_from"], &changed["account"]), (&json!([]), &json!("acme")));
        let deleted = room.call("DELETE", &path, "").await;
        assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
        for method in ["GET", "PATCH", "DELETE"] {
            assert_eq!(room.call(method, &path, "{}").await.status, 404, "{method}");
        }
        assert_eq!(fs::read_to_string(room.keys_file()).unwrap(), "");
    });
}

#[test]
fn a_body_that_breaks_a_rule_names_its_field() {
    runtime().block_on(async {
        let room = Room::new();
        let all = "\"model_access\":{\"mode\":\"all\"}";
        for (body, status, field) in [
            ("".to_owned(), 400, ""),
            ("{".to_owned(), 400, ""),
            ("[]".to_owned(), 422, ""),
            (format!("{{{all}}}"), 422, "name"),
            (format!("{{\"name\":\"\",{all}}}"), 422, "name"),
            (
                format!("{{\"name\":\"n\",\"name\":\"n\",{all}}}"),
                422,
                "name",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"extra\":1}}"),
                422,
                "extra",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"allow_from\":[\"::1\"]}}"),
                422,
                "allow_from",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"expires_at\":\"2001-01-01\"}}"),
                422,
                "expires_at",
            ),
            (
                "{\"name\":\"n\",\"model_access\":{\"mode\":\"inclusive\"}}".to_owned(),
                422,
                "model_access.models",
            ),
        ] {
            let answer = room.call("POST", "/api/keys", &body).await;
            assert_eq!(
                (answer.status.as_u16(), answer.field().as_str()),
                (status, field),
                "{body} {}",
                answer.json()
            );
        }
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
        assert_eq!(room.call("POST", "/api/keys", &long).await.status, 413);
        assert!(room.services.table.is_empty());
    });
}

#[test]
fn a_list_goes_on_where_it_stopped_though_the_key_there_is_gone() {
    runtime().block_on(async {
        let room = Room::new();
        for name in ["ä", "b", "c", "d"] {
            room.key(name).await;
        }
        let names = |page: &Value| -> Vec<String> {
            let keys = page["keys"].as_array().unwrap().iter();
            keys.map(|key| key["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let first = room.call("GET", "/api/keys?limit=2", "").await.json();
        assert_eq!(names(&first), ["d", "c"]);
        let gone = format!("/api/keys/{}", first["keys"][1]["id"].as_str().unwrap());
        assert_eq!(room.call("DELETE", &gone, "").await.status, 204);
        let next = format!(
            "/api/keys?limit=2&after={}",
            first["next"].as_str().unwrap()
        );
        let second = room.call("GET", &next, "").await.json();
        assert_eq!(
            (names(&second), &second["next"]),
            (vec!["b".to_owned(), "ä".to_owned()], &Value::Null)
        );
        let found = room.call("GET", "/api/keys?query=%C3%84", "").await.json();
        assert_eq!(names(&found), ["ä"]);
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=1", "limit"),
            ("after=x", "after"),
            ("after=", "after"),
            ("query=%ff", ""),
        ] {
            let answer = room.call("GET", &format!("/api/keys?{query}"), "").await;
            assert_eq!(
                (answer.status.as_u16(), answer.field().as_str()),
                (422, field),
                "{query}"
            );
        }
    });
}

#[test]
fn what_a_faulty_key_file_lets_pass_is_what_takes_access_away() {
    runtime().block_on(async {
        let room = Room::new();
        let (first, second) = (room.key("a").await, room.key("b").await);
        let path = |key: &Value| format!("/api/keys/{}", key["key"]["id"].as_str().unwrap());
        fs::write(room.keys_file(), "{\"id\":1}\n").unwrap();

        let created = room
            .call(
                "POST",
                "/api/keys",
                "{\"name\":\"n\",\"model_access\":{\"mode\":\"all\"}}",
            )
            .await;
        assert_eq!(created.status, 422, "{}", created.json());
        let error = &created.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with("keys.jsonl:1: "),
            "{error}"
        );
        assert_eq!(
            (&error["faults"][0]["file"], &error["faults"][0]["line"]),
            (&json!("keys.jsonl"), &json!(1))
        );
        let renamed = room.call("PATCH", &path(&first), "{\"name\":\"x\"}").await;
        assert_eq!(renamed.status, 422);

        let deleted = room.call("DELETE", &path(&first), "").await;
        assert_eq!(
            (deleted.status.as_u16(), &deleted.json()["in_force"]),
            (507, &json!(true))
        );
        assert!(deleted.json()["error"]["message"].is_string());
        assert_eq!(room.call("GET", &path(&first), "").await.status, 404);
        let disabled = room
            .call("PATCH", &path(&second), "{\"disabled\":true}")
            .await;
        assert_eq!(
            (disabled.status.as_u16(), &disabled.json()["in_force"]),
            (507, &json!(true))
        );
        let status = room.call("GET", "/api/status", "").await.json();
        assert_eq!(status["unwritten_changes"], 2, "{status}");
        assert!(status["unwritten_reason"].is_string());
        let metrics = room.call("GET", "/metrics", "").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(text.contains("keygate_unwritten_changes 2\n"), "{text}");
        let reload = room.call("POST", "/api/reload", "").await;
        assert_eq!(reload.status, 422);
    });
}

#[test]
fn a_file_that_drops_too_many_keys_is_refused_unless_forced() {
    runtime().block_on(async {
        let room = Room::new();
        for name in ["a", "b", "c"] {
            room.key(name).await;
        }
        fs::write(room.keys_file(), "").unwrap();
        let create = "{\"name\":\"n\",\"model_access\":{\"mode\":\"all\"}}";
        assert_eq!(room.call("POST", "/api/keys", create).await.status, 409);
        assert_eq!(room.call("POST", "/api/reload", "").await.status, 409);
        let status = room.call("GET", "/api/status", "").await.json();
        assert_eq!(
            (&status["keys"], &status["last_reload"]["result"]),
            (&json!(3), &json!("dropped"))
        );
        let rehearsed = room
            .call(
                "POST",
                "/api/reload?ids=true",
                "{\"force\":true,\"dry_run\":true}",
            )
            .await
            .json();
        assert_eq!(
            (&rehearsed["removed"], &rehearsed["keys"]),
            (&json!(3), &json!(0))
        );
        assert_eq!(rehearsed["removed_ids"].as_array().unwrap().len(), 3);
        assert_eq!(room.services.table.len(), 3);
        let forced = room
            .call("POST", "/api/reload", "{\"force\":true}")
            .await
            .json();
        assert_eq!(
            (&forced["removed"], &forced.get("removed_ids")),
            (&json!(3), &None)
        );
        assert!(room.services.table.is_empty());
    });
}

#[test]
fn a_reload_takes_each_part_alone_and_names_what_needs_a_restart() {
    runtime().block_on(async {
        let room = Room::new();
        let made = room.key("a").await;
        let line = fs::read_to_string(room.keys_file()).unwrap();
        let twin = line.replace(made["key"]["id"].as_str().unwrap(), "key_twin");
        let hash = line.find("blake3:").unwrap() + 7;
        let mut twin = twin.into_bytes();
        let at = twin.windows(7).position(|part| part == b"blake3:").unwrap() + 7;
        twin[at] = if line.as_bytes()[hash] == b'0' {
            b'1'
        } else {
            b'0'
        };
        fs::write(room.keys_file(), [line.as_bytes(), &twin].concat()).unwrap();
        let file = room.folder.path().join("keygate.toml");
        let config = fs::read_to_string(&file).unwrap();

        fs::write(
            &file,
            config.replace("[\"good\"]", "[\"good\", \"new\"]")
                + "[limits]\nheaders = \"nonsense\"\n",
        )
        .unwrap();
        let answer = room.call("POST", "/api/reload", "").await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["field"]),
            (422, &json!("limits.headers")),
            "{error}"
        );
        assert_eq!(
            room.services.table.len(),
            2,
            "the key file is loaded all the same"
        );
        assert!(
            room.services.fleet.routing().upstream_of("new").is_some(),
            "and so are the upstreams"
        );

        fs::write(&file, config.replace("127.0.0.1:9\"", "127.0.0.1:9/path\"")).unwrap();
        fs::write(room.keys_file(), &line).unwrap();
        let answer = room.call("POST", "/api/reload", "").await;
        assert_eq!(answer.status, 422);
        assert_eq!(room.services.table.len(), 1);
        assert!(
            room.services.fleet.routing().upstream_of("new").is_some(),
            "what is faulty stays as it was"
        );
        let status = room.call("GET", "/api/status", "").await.json();
        assert_eq!(status["last_reload"]["result"], "faulty");

        fs::write(&file, "workers = 3\n".to_owned() + &config).unwrap();
        let answer = room.call("POST", "/api/reload", "").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["restart_needed"]),
            (200, &json!(["workers"]))
        );
        assert!(room.services.fleet.routing().upstream_of("new").is_none());
        let status = room.call("GET", "/api/status", "").await.json();
        assert_eq!(status["last_reload"]["result"], "ok");
    });
}

#[test]
fn readiness_ends_when_the_end_is_announced() {
    runtime().block_on(async {
        let room = Room::new();
        assert_eq!(room.call("GET", "/readyz", "").await.status, 200);
        assert_eq!(
            room.call("GET", "/api/status", "").await.json()["draining"],
            false
        );
        room.services.lifecycle.advance(Phase::Announcing);
        assert_eq!(room.call("GET", "/readyz", "").await.status, 503);
        assert_eq!(room.call("GET", "/healthz", "").await.status, 200);
        assert_eq!(
            room.call("GET", "/api/status", "").await.json()["draining"],
            true
        );
    });
}

#[test]
fn a_request_is_explained_by_key_and_by_token() {
    runtime().block_on(async {
        let room = Room::new();
        let made = room.key("a").await;
        let ask = async |who: Value, more: Value| {
            let mut question = json!({"model": "good", "from": "::ffff:192.0.2.7"});
            for fields in [who, more] {
                question
                    .as_object_mut()
                    .unwrap()
                    .extend(fields.as_object().unwrap().clone());
            }
            room.call("POST", "/api/explain", &question.to_string())
                .await
        };
        let (id, token) = (&made["key"]["id"], &made["token"]);
        for who in [json!({"key": id}), json!({"token": token})] {
            let answer = ask(who, json!({})).await;
            assert_eq!(answer.json()["allowed"], true, "{}", answer.json());
            assert!(!String::from_utf8_lossy(&answer.body).contains(token.as_str().unwrap()));
        }
        let unserved = ask(
            json!({"key": id}),
            json!({"model": "bad", "at": "2030-01-01T00:00:00Z"}),
        )
        .await
        .json();
        assert_eq!(
            (&unserved["allowed"], &unserved["denial"]),
            (&json!(false), &json!("model_not_found"))
        );
        let unknown = ask(json!({"key": "key_none"}), json!({})).await.json();
        assert_eq!(unknown["denial"], "invalid_api_key");
        for (who, more, field) in [
            (json!({}), json!({}), "key"),
            (json!({"key": id, "token": token}), json!({}), "token"),
            (json!({"key": id}), json!({"from": "x"}), "from"),
            (json!({"key": id}), json!({"at": "2030-01-01"}), "at"),
            (json!({"key": id}), json!({"model": 1}), "model"),
            (json!({"key": id}), json!({"extra": 1}), "extra"),
        ] {
            let answer = ask(who, more).await;
            assert_eq!(
                (answer.status.as_u16(), answer.field().as_str()),
                (422, field)
            );
        }
    });
}

/// Bytes in, bytes out, until the other side closes.
async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // How a connection is closed is not asked here.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const STATUS: &str = "GET /api/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[test]
fn the_socket_serves_until_the_process_drains() {
    runtime().block_on(async {
        let room = Room::new();
        let path = room.folder.path().join("s");
        let (listener, file) = unix_socket::claim(&path, unix_socket::PRIVATE).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let served = tokio::spawn(serve_unix(listener, Arc::clone(&room.services)));
        let connect = async || tokio::net::UnixStream::connect(&path).await;
        let answer = exchange(connect().await.unwrap(), STATUS).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let idle = connect().await.unwrap();
        room.services.lifecycle.advance(Phase::Draining);
        served.await.unwrap();
        assert_eq!(exchange(idle, "").await, "", "idle connections are closed");
        file.release();
        assert!(connect().await.is_err());
    });
}

#[test]
fn a_listener_closes_connections_past_its_bound_and_recovers() {
    runtime().block_on(async {
        let room = Room::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_tcp(listener, Arc::clone(&room.services)));
        let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..256 {
            let mut stream = connect().await;
            // The first byte of a head: the connection is served, and waits for the rest.
            stream.write_all(b"G").await.unwrap();
            held.push(stream);
        }
        assert_eq!(exchange(connect().await, "").await, "");
        drop(held);
        let health = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for _ in 0..100 {
            if exchange(connect().await, health)
                .await
                .starts_with("HTTP/1.1 200")
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the listener serves nobody any more");
    });
}

#[test]
fn a_body_past_the_limit_is_answered_though_its_sender_goes_on_sending() {
    runtime().block_on(async {
        let room = Room::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_tcp(listener, Arc::clone(&room.services)));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /api/keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 4000000\r\n\r\n{}",
            room.token,
            " ".repeat(4_000_000)
        );
        let answer = exchange(stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    });
}

#[test]
fn the_openapi_document_lists_what_is_served_and_nothing_else() {
    runtime().block_on(async {
        let room = Room::new();
        let document = room.call("GET", "/api/openapi.json", "").await.json();
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
                assert!(
                    Route::of(&method.to_uppercase(), &path).is_some(),
                    "{method} {path}"
                );
                described += 1;
            }
        }
        let served = CALLS
            .iter()
            .filter(|(method, path, _)| Route::of(method, path).is_some())
            .count();
        assert_eq!(
            described,
            served + 5,
            "health and readiness, with GET and HEAD, and signing in need no token"
        );
    });
}

#[test]
fn the_panel_is_served_to_anybody_under_a_strict_policy() {
    runtime().block_on(async {
        let room = Room::new();
        let host = ("host", "localhost:9180");
        let page = room.tcp("GET", "/", &[host], "").await;
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
        let known = room.tcp("GET", "/", &[host, ("if-none-match", tag)], "").await;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
        assert_eq!(known.headers["etag"], tag);
        assert_eq!(known.headers["cache-control"], "no-cache");
        assert!(known.headers.contains_key("content-security-policy"));
        assert_eq!(room.tcp("HEAD", "/", &[host], "").await.status, 200);
        assert_eq!(room.call("GET", "/", "").await.status, 200);
        for (headers, status) in [
            (&[("host", "evil.example")][..], 421),
            (&[host, ("origin", "http://evil.example")], 403),
            (&[host, ("sec-fetch-site", "cross-site")], 200),
        ] {
            let answer = room.tcp("GET", "/", headers, "").await;
            assert_eq!(answer.status, status, "{headers:?}");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
        let refused = room.tcp("GET", "/api/keys", &[host], "").await;
        assert_eq!(refused.headers["cache-control"], "no-store");
    });
}

#[test]
fn who_shows_the_token_once_gets_a_session_in_a_cookie_that_no_script_reads() {
    runtime().block_on(async {
        let room = Room::new();
        let body = json!({"token": room.token}).to_string();
        let answer = room.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(answer.status, 200);
        let expected = json!({
            "client_address": "198.51.100.9",
            "url": "http://localhost:8080/v1",
            "version": env!("CARGO_PKG_VERSION"),
        });
        assert_eq!(answer.json(), expected);
        let line = answer.headers["set-cookie"].to_str().unwrap();
        let (cookie, flags) = line.split_once("; ").unwrap();
        assert_eq!(flags, "HttpOnly; SameSite=Strict; Path=/");
        let id = cookie.strip_prefix("keygate_session=").unwrap();
        assert_eq!(id.len(), 43);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let headers = [("host", "localhost"), ("cookie", cookie)];
        let shown = room.tcp("GET", "/api/session", &headers, "").await;
        assert_eq!((shown.status.as_u16(), shown.json()), (200, expected));
        assert!(!shown.headers.contains_key("set-cookie"));
        let without = room.tcp("GET", "/api/session", &headers[..1], "").await;
        assert_eq!(without.status, 401);
        assert_eq!(without.headers["cache-control"], "no-store");
    });
}

#[test]
fn a_cookie_is_for_tls_alone_where_the_page_came_over_tls() {
    runtime().block_on(async {
        let room = Room::with("hosts = [\"admin.example\"]");
        let body = json!({"token": room.token}).to_string();
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
            let answer = room.tcp("POST", "/api/session", &headers, &body).await;
            assert_eq!(answer.status, 200, "{origin}");
            let line = answer.headers["set-cookie"].to_str().unwrap();
            assert_eq!(line.ends_with("; Secure"), is_secure, "{line}");
        }
    });
}

#[test]
fn a_wrong_token_or_link_signs_nobody_in_and_is_answered_late() {
    runtime().block_on(async {
        let room = Room::new();
        let old = room.token.replace("kg_", "kg-");
        for wrong in ["", "wrong", "kg_wrong", &old, &"x".repeat(600)] {
            for field in ["token", "link"] {
                let began = std::time::Instant::now();
                let body = json!({field: wrong}).to_string();
                let answer = room.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
                assert_eq!(answer.status, 401, "{field} {wrong}");
                assert!(began.elapsed() >= std::time::Duration::from_millis(190));
                assert!(!answer.headers.contains_key("set-cookie"));
                assert_eq!(answer.json()["error"]["field"], Value::Null);
            }
        }
        for (body, status, field) in [
            ("", 422, "token"),
            ("{}", 422, "token"),
            ("{\"token\":null}", 422, "token"),
            ("{\"token\":7}", 422, "token"),
            ("{\"token\":\"a\",\"link\":\"b\"}", 422, "link"),
            ("{\"token\":\"a\",\"extra\":1}", 422, "extra"),
            ("{", 400, ""),
        ] {
            let answer = room.tcp("POST", "/api/session", &FROM_PANEL, body).await;
            let found = (answer.status.as_u16(), answer.field());
            assert_eq!(found, (status, field.to_owned()), "{body}");
        }
    });
}

#[test]
fn guessing_keeps_neither_a_right_sign_in_nor_the_socket_waiting() {
    runtime().block_on(async {
        let room = Arc::new(Room::new());
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let room = Arc::clone(&room);
            let guess = async move {
                let body = "{\"token\":\"guess\"}";
                room.tcp("POST", "/api/session", &FROM_PANEL, body)
                    .await
                    .status
            };
            guesses.spawn(guess);
        }
        // Those that find no seat to wait in are answered at once.
        let mut answered = 0;
        while answered < 36 {
            tokio::task::yield_now().await;
            while let Some(status) = guesses.try_join_next() {
                assert_eq!(status.unwrap(), 401);
                answered += 1;
            }
        }
        room.sign_in(&[]).await;
        assert_eq!(room.call("GET", "/api/status", "").await.status, 200);
        assert!(guesses.try_join_next().is_none(), "the others still wait");
        for status in guesses.join_all().await {
            assert_eq!(status, 401);
        }
    });
}

#[test]
fn with_a_session_every_call_is_answered_and_changes_only_to_the_panels_own_code() {
    runtime().block_on(async {
        let room = Room::new();
        let cookie = room.sign_in(&[]).await;
        let bare = [("host", "192.0.2.1:9180"), ("cookie", cookie.as_str())];
        let json = ("content-type", "application/json");
        // Signing out comes last.
        let (sign_out, calls): (Vec<_>, Vec<_>) = CALLS
            .into_iter()
            .partition(|call| call.0 == "DELETE" && call.1 == "/api/session");
        for call @ (method, path, body) in calls.into_iter().chain(sign_out) {
            let with = async |headers: &[(&str, &str)]| {
                let headers = [&bare[..], headers].concat();
                room.tcp(method, path, &headers, body).await.status.as_u16()
            };
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
                ("cookie", cookie.as_str()),
                ("origin", "http://192.0.2.1:9180"),
                ("sec-fetch-site", "same-origin"),
            ];
            let status = room.panel_call(call, &own).await;
            assert!(
                ![401, 403, 421].contains(&status),
                "{method} {path}: {status}"
            );
        }
        assert_eq!(room.tcp("GET", "/api/keys", &bare, "").await.status, 401);
    });
}

#[test]
fn a_session_is_no_way_around_host_or_a_wrong_token() {
    runtime().block_on(async {
        let room = Room::new();
        let cookie = room.sign_in(&[]).await;
        for (headers, status) in [
            (
                &[("host", "evil.example"), ("cookie", cookie.as_str())][..],
                421,
            ),
            (
                &[
                    ("host", "localhost"),
                    ("cookie", &cookie),
                    ("authorization", "Bearer wrong"),
                ],
                401,
            ),
            (
                &[
                    ("host", "localhost"),
                    ("cookie", &cookie),
                    ("authorization", "Basic eDp5"),
                ],
                200,
            ),
        ] {
            let answer = room.tcp("GET", "/api/keys", headers, "").await;
            assert_eq!(answer.status, status, "{headers:?}");
        }
        let body = json!({"token": room.token}).to_string();
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
            let answer = room.tcp("POST", "/api/session", headers, &body).await;
            assert_eq!(answer.status, status, "{headers:?}");
            assert!(!answer.headers.contains_key("set-cookie"));
        }
    });
}

#[test]
fn a_sign_in_makes_a_new_id_and_ends_the_one_it_came_with() {
    runtime().block_on(async {
        let room = Room::new();
        let first = room.sign_in(&[]).await;
        let elsewhere = room.sign_in(&[]).await;
        let second = room.sign_in(&[("cookie", &first)]).await;
        assert!(first != second && first != elsewhere && second != elsewhere);
        for (cookie, status) in [(&first, 401), (&second, 200), (&elsewhere, 200)] {
            let call = ("GET", "/api/session", "");
            assert_eq!(room.panel_call(call, &[("cookie", cookie)]).await, status);
        }
    });
}

#[test]
fn signing_out_ends_the_session_at_once_and_no_other() {
    runtime().block_on(async {
        let room = Room::new();
        let (cookie, other) = (room.sign_in(&[]).await, room.sign_in(&[]).await);
        let both = [&FROM_PANEL[..], &[("cookie", &cookie)]].concat();
        let answer = room.tcp("DELETE", "/api/session", &both, "").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
        assert_eq!(
            answer.headers["set-cookie"],
            "keygate_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"
        );
        let again = ("DELETE", "/api/session", "");
        assert_eq!(room.panel_call(again, &[("cookie", &cookie)]).await, 401);
        for (cookie, status) in [(&cookie, 401), (&other, 200)] {
            let call = ("GET", "/api/keys", "");
            assert_eq!(room.panel_call(call, &[("cookie", cookie)]).await, status);
        }
    });
}

#[test]
fn a_link_signs_in_once() {
    runtime().block_on(async {
        let room = Room::new();
        let link = session::one_time_link(&room.services, now()).unwrap();
        let body = json!({"link": link.reveal()}).to_string();
        let foreign = [&FROM_PANEL[..], &[("sec-fetch-site", "cross-site")]].concat();
        let refused = room.tcp("POST", "/api/session", &foreign, &body).await;
        assert_eq!(refused.status, 403, "and the link is not used up");
        let answer = room.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(answer.status, 200);
        let cookie = answer.cookie();
        let call = ("GET", "/api/keys", "");
        assert_eq!(room.panel_call(call, &[("cookie", &cookie)]).await, 200);
        let again = room.tcp("POST", "/api/session", &FROM_PANEL, &body).await;
        assert_eq!(again.status, 401);
    });
}

#[test]
fn behind_a_trusted_proxy_a_session_shows_the_address_that_the_gateway_would_judge() {
    runtime().block_on(async {
        let room = Room::with(
            "[client_address]\nfrom = \"x-forwarded-for\"\ntrusted_proxies = [\"198.51.100.9\"]",
        );
        let cookie = room.sign_in(&[]).await;
        for (forwarded, expected) in [
            (Some("203.0.113.5"), json!("203.0.113.5")),
            (Some("::ffff:203.0.113.5"), json!("203.0.113.5")),
            (Some("2001:db8::5"), json!("2001:db8::5")),
            (Some("junk"), Value::Null),
            (None, Value::Null),
        ] {
            let mut headers = vec![("host", "localhost"), ("cookie", cookie.as_str())];
            headers.extend(forwarded.map(|list| ("x-forwarded-for", list)));
            let answer = room.tcp("GET", "/api/session", &headers, "").await;
            assert_eq!(answer.json()["client_address"], expected, "{forwarded:?}");
        }
        assert_eq!(
            room.call("GET", "/api/session", "").await.json()["client_address"],
            Value::Null
        );
    });
}

#[test]
fn the_hour_is_kept_though_nobody_looks() {
    runtime().block_on(async {
        let room = Room::new();
        room.services.metrics.begin();
        room.services.metrics.end("allowed", 0.1);
        let began = now();
        let kept = keep_the_hour(Arc::clone(&room.services));
        let short = std::time::Duration::from_millis(10);
        assert!(
            tokio::time::timeout(short, kept).await.is_err(),
            "it goes on"
        );
        // What was noted then stays there when somebody looks, nearly an hour later.
        room.services.metrics.begin();
        room.services.metrics.end("allowed", 0.1);
        let overview = &room.services.memory.overview;
        let minutes = overview.hour(&room.services, began.plus(59 * 60), |history| {
            history.minutes(began.plus(59 * 60))
        });
        // By then a minute may have begun.
        let allowed = |minutes: &[Minute]| -> u64 {
            let counts = minutes
                .iter()
                .filter_map(|minute| minute.outcomes.get("allowed"));
            counts.sum()
        };
        assert_eq!((allowed(&minutes[..2]), allowed(&minutes[58..])), (1, 1));
    });
}

#[test]
fn the_overview_counts_requests_by_minute_and_keys_by_state() {
    runtime().block_on(async {
        let room = Room::new();
        let day = 24 * 60 * 60;
        let patch = async |key: &Value, body: Value| {
            let path = format!("/api/keys/{}", key["key"]["id"].as_str().unwrap());
            let answer = room.call("PATCH", &path, &body.to_string()).await;
            assert_eq!(answer.status, 200, "{}", answer.json());
        };
        let ends = |seconds: i64| json!({"expires_at": now().plus(seconds).to_string()});
        for (name, change) in [
            ("active", json!({})),
            ("later", ends(8 * day)),
            ("second", ends(2 * day)),
            ("first", ends(day)),
            ("over", json!({"disabled": true})),
        ] {
            patch(&room.key(name).await, change).await;
        }
        let off = room.key("off").await;
        patch(&off, ends(day)).await;
        patch(&off, json!({"disabled": true})).await;
        room.services.metrics.begin();
        room.services.metrics.end("allowed", 0.1);
        room.services.metrics.begin();
        room.services.metrics.end("allowed", 0.1);
        room.services.metrics.begin();
        room.services.metrics.end("expired_api_key", 0.1);
        room.services
            .metrics
            .response("llama", 200, Duration::ZERO, Duration::from_micros(40));
        let shown = room.call("GET", "/api/overview", "").await.json();
        let minutes = shown["minutes"].as_array().unwrap();
        assert_eq!(minutes.len(), 60);
        // Between counting and asking a minute may have begun.
        let counted: Vec<&Value> = minutes
            .iter()
            .map(|minute| &minute["outcomes"])
            .filter(|outcomes| **outcomes != json!({}))
            .collect();
        assert_eq!(counted, [&json!({"allowed": 2, "expired_api_key": 1})]);
        assert_eq!(
            shown["keys"],
            json!({"active": 4, "disabled": 2, "expired": 0})
        );
        assert_eq!(shown["expiring_count"], 2);
        let names: Vec<&Value> = shown["expiring"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| &key["name"])
            .collect();
        assert_eq!(names, ["first", "second"]);
        let first = &shown["expiring"][0];
        assert_eq!(first.as_object().unwrap().len(), 4);
        assert_eq!(
            (&first["account"], first["expires_at"].is_string()),
            (&Value::Null, true)
        );
        let p50 = shown["overhead_seconds"]["p50"].as_f64().unwrap();
        assert!((p50 - 0.000_037_5).abs() < 1e-9, "{p50}");
        assert_eq!(shown["last_reload"]["result"], "ok");
        assert_eq!(
            (&shown["in_flight"], &shown["connections"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(shown["generation"], room.services.table.generation());
        patch(&off, json!({"disabled": false})).await;
        let shown = room.call("GET", "/api/overview", "").await.json();
        assert_eq!(
            (&shown["keys"]["active"], &shown["expiring_count"]),
            (&json!(5), &json!(3))
        );
    });
}

#[test]
fn with_tls_the_listener_speaks_http1_under_the_certificate_and_nothing_in_clear() {
    runtime().block_on(async {
        let mut room = Room::new();
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (
            room.folder.path().join("crt"),
            room.folder.path().join("key"),
        );
        fs::write(&chain, own.cert.pem()).unwrap();
        fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        let services = Arc::get_mut(&mut room.services).unwrap();
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
        tokio::spawn(serve_tcp(listener, Arc::clone(&room.services)));
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
            &format!("\r\nauthorization: Bearer {}\r\n\r\n", room.token),
        );
        let answer = exchange(stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let answer = exchange(connect().await, STATUS).await;
        assert!(!answer.contains("HTTP/1.1"), "{answer}");
    });
}
