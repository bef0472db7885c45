//! Tests of the whole admin API. This file holds what all of them need.

mod attack;
mod authentication;
mod dashboard;
mod fleet;
mod key_calls;
mod known_devices;
mod listeners;
mod people;
mod reloads;
mod roles;
mod sessions;
mod usage_calls;

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

use crate::runtime::lifecycle::Phase;
use crate::runtime::wall_clock::now;
use crate::store::config::parse::{self, Overrides};
use crate::store::config::{Tls, TlsFiles};
use crate::store::key_file;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The services of a gateway in a temporary folder, and the token of its TCP listener.
struct TestApi {
    folder: TempDir,
    services: Arc<Services>,
    token: String,
}

impl TestApi {
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
        let (log, _writer) = Log::start(crate::store::config::LogFormat::Json, dropped).unwrap();
        let services = Services {
            key_store: KeyStore::start(&config.keys, Arc::clone(&table), loaded, |_| ()).unwrap(),
            table,
            fleet: Arc::new(Fleet::new(&config.upstreams, metrics.clone()).unwrap()),
            certificates: None,
            metrics: metrics.clone(),
            log: log.clone(),
            gateway: GatewayIdentity::new("here", now()).unwrap(),
            database: None,
            shared_limits: None,
            alerts: Alerts::new(None, None, String::new(), metrics.clone(), log.clone()),
            prices: Arc::default(),
            lifecycle: Lifecycle::default(),
            url: "http://localhost:8080/v1".to_owned(),
            config_source: Arc::new(move || parse::read(Some(&file), &Overrides::default())),
            provider: None,
            token: Some(token::admin_token(&config.admin.token_file).unwrap()),
            state: AdminState::default(),
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

    async fn send(&self, peer: Peer, request: Request<Full<Bytes>>) -> TestResponse {
        let response = handle(&self.services, peer, request).await;
        let (parts, body) = response.into_parts();
        TestResponse {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Makes a call through the socket.
    async fn call(&self, method: &str, target: &str, body: &str) -> TestResponse {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        self.send(Peer::Socket { uid: Some(7) }, request).await
    }

    /// Makes a call over TCP with these headers.
    async fn tcp(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let peer = ([198, 51, 100, 9], 5000).into();
        self.send(
            Peer::Network {
                address: peer,
                local: LOCAL,
            },
            request,
        )
        .await
    }

    /// Signs in over TCP with further headers.
    async fn sign_in(&self, headers: &[(&str, &str)]) -> TestSession {
        let headers = [&FROM_PANEL[..], headers].concat();
        let body = json!({"token": self.token}).to_string();
        let response = self.tcp("POST", "/api/session", &headers, &body).await;
        assert_eq!(response.status, 200, "{}", response.json());
        response.session()
    }

    /// Makes a call like the panel, with further headers; returns the status.
    async fn panel_call(&self, call: (&str, &str, &str), headers: &[(&str, &str)]) -> u16 {
        let headers = [&FROM_PANEL[..], headers].concat();
        let response = self.tcp(call.0, call.1, &headers, call.2).await;
        response.status.as_u16()
    }

    async fn key(&self, name: &str) -> Value {
        let body = json!({"name": name, "model_access": {"mode": "all"}}).to_string();
        let response = self.call("POST", "/api/keys", &body).await;
        assert_eq!(response.status, 201, "{}", response.json());
        response.json()
    }
}

/// What the client of a session sends with each call.
struct TestSession {
    cookie: String,
    secret: String,
}

impl TestSession {
    fn headers(&self) -> [(&str, &str); 2] {
        [
            ("cookie", &self.cookie),
            ("x-keygate-session", &self.secret),
        ]
    }
}

/// The headers that the panel's code sends.
const FROM_PANEL: [(&str, &str); 3] = [
    ("host", "192.0.2.1:9180"),
    ("x-keygate-panel", "1"),
    ("content-type", "application/json"),
];

struct TestResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl TestResponse {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The session that the response begins.
    fn session(&self) -> TestSession {
        let line = self.headers["set-cookie"].to_str().unwrap();
        TestSession {
            cookie: line.split_once(';').unwrap().0.to_owned(),
            secret: self.json()["secret"].as_str().unwrap().to_owned(),
        }
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

/// Every call that needs the token, and some unknown ones.
const CALLS: [(&str, &str, &str); 43] = [
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
    ("POST", "/api/keys/key_1/rotate", ""),
    ("POST", "/api/keys/key_1/expire-previous", ""),
    ("POST", "/api/keys/key_1/reset-budgets", ""),
    ("GET", "/api/accounts", ""),
    ("POST", "/api/accounts", "{\"id\":\"acme\"}"),
    ("GET", "/api/accounts/acme", ""),
    ("PATCH", "/api/accounts/acme", "{}"),
    ("DELETE", "/api/accounts/acme", ""),
    ("GET", "/api/accounts/acme/members", ""),
    (
        "PATCH",
        "/api/accounts/acme/members/per_1",
        "{\"role\":\"owner\"}",
    ),
    ("DELETE", "/api/accounts/acme/members/per_1", ""),
    (
        "POST",
        "/api/accounts/acme/members/per_1/reset-password",
        "",
    ),
    ("GET", "/api/accounts/acme/invitations", ""),
    (
        "POST",
        "/api/accounts/acme/invitations",
        "{\"email\":\"a@example.com\",\"role\":\"owner\"}",
    ),
    ("DELETE", "/api/accounts/acme/invitations/inv_1", ""),
    ("GET", "/api/sessions", ""),
    ("DELETE", "/api/sessions/ses_1", ""),
    ("POST", "/api/reload", ""),
    ("POST", "/api/fleet/accept-rollback", ""),
    ("POST", "/api/alerts/test", ""),
    ("GET", "/api/status", ""),
    ("GET", "/api/fleet", ""),
    ("GET", "/api/models", ""),
    (
        "POST",
        "/api/explain",
        "{\"key\":\"key_1\",\"model\":\"good\",\"from\":\"::1\"}",
    ),
    ("GET", "/api/openapi.json", ""),
    ("GET", "/api/overview", ""),
    ("GET", "/api/refusals", ""),
    ("GET", "/api/usage?start_time=1&end_time=2", ""),
    ("GET", "/api/usage/records", ""),
    ("GET", "/api/audit", ""),
    ("GET", "/api/audit/verify", ""),
    ("GET", "/api/session", ""),
    ("DELETE", "/api/session", ""),
    ("POST", "/api/session-links", ""),
    ("OPTIONS", "/api/keys", ""),
    ("POST", "/", ""),
    ("GET", "/panel/nothing.js", ""),
];
