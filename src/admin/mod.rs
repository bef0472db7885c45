//! Floor 5: the admin API, over HTTP/1.1 on a Unix socket and on TCP.
//!
//! | call | answer |
//! | --- | --- |
//! | GET /healthz, /readyz | whether the process lives; whether it takes requests |
//! | GET /metrics | Prometheus text |
//! | GET /api/keys | a page of keys, newest first |
//! | POST /api/keys | a new key with its token, which is shown this once |
//! | GET, PATCH, DELETE /api/keys/{id} | one key, changed or deleted |
//! | POST /api/reload | key file, upstreams and certificates, read again |
//! | GET /api/status | generation, keys, last reload, upstreams and their health |
//! | GET /api/models | the catalogue, and how many keys may use each model |
//! | GET /api/overview | what the dashboard draws: the last hour, and how the keys stand |
//! | POST /api/explain | what the gateway would decide, and by which rule |
//! | POST, GET, DELETE /api/session | sign in to the panel, see where from, sign out |
//! | GET /api/openapi.json | this table as OpenAPI 3.1 |
//! | GET /, /panel/{file} | the panel, which is a page that calls the above |
//!
//! [`Route::of`] is this list as code; whether a call needs the token and what answers it both hang on the [`Route`]
//! it gives, so that nothing is served that was not also judged. The Unix socket's permissions are its lock; TCP
//! needs the admin token, or the panel's session. Invariant: what took long is done off the runtime's thread, and no
//! answer but that to POST /api/keys holds a token.

pub mod access;
mod explain;
mod input;
pub mod keys;
mod listen;
mod models;
mod openapi;
mod overview;
mod panel;
pub mod reload;
mod reply;
pub mod session;
mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use http_body_util::Full;

use crate::http::headers;
use crate::net::tls::Certificates;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::runtime::wall_clock::now;
use crate::store::config::Config;
use crate::store::config::parse::ParsedConfig;
use crate::store::key_store::KeyStore;
use crate::table::Table;
use crate::upstream::Fleet;

use access::{AdminToken, Pass, Throttle};
use input::{Input, Query};
use keys::Keyring;
pub use listen::{serve_tcp, serve_unix};
use overview::Overview;
pub use overview::keep_the_hour;
use reload::{LastOutcome, Turn};
use reply::{Refusal, Reply};
use session::Sessions;

/// Reads the config again, for a reload.
pub type ConfigSource = Arc<dyn Fn() -> ParsedConfig + Send + Sync>;

/// What the admin API shows and changes.
pub struct Services {
    /// The config that the process started with.
    pub config: Arc<Config>,
    /// The key table.
    pub table: Arc<Table>,
    /// Who changes table and key file.
    pub keeper: KeyStore,
    /// The upstreams.
    pub fleet: Arc<Fleet>,
    /// The certificates of the data port, and of the TCP listener where `admin.tls` is set.
    pub certificates: Option<Certificates>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where change lines go.
    pub log: Log,
    /// The phase of the process.
    pub lifecycle: Lifecycle,
    /// The OpenAI Compatible URL, ending in `/v1`.
    pub url: String,
    /// How to read the config again.
    pub config_source: ConfigSource,
    /// The TCP listener's token; without one, everything that needs it is refused there.
    pub token: Option<AdminToken>,
    /// What the admin API remembers between calls; begins empty.
    pub memory: Memory,
}

/// What the admin API remembers between calls.
#[derive(Default)]
pub struct Memory {
    reloading: Turn,
    last_reload: LastOutcome,
    throttle: Throttle,
    sessions: Sessions,
    overview: Overview,
}

/// Who is calling, as the connection says.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    /// Through the Unix socket: whoever may open it.
    Socket {
        /// The process's user.
        uid: Option<u32>,
    },
    /// Over TCP: has to show the token.
    Network {
        /// Where the caller is.
        peer: SocketAddr,
        /// The address the connection came in on.
        local: IpAddr,
    },
}

impl std::fmt::Display for Caller {
    /// As change lines name it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Socket { uid: None } => f.write_str("socket"),
            Self::Network { peer, .. } => {
                write!(f, "admin token from {}", peer.ip().to_canonical())
            }
        }
    }
}

/// What is asked for: the API list as code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'p> {
    Health,
    Ready,
    Metrics,
    ListKeys,
    CreateKey,
    ShowKey(&'p str),
    ChangeKey(&'p str),
    DeleteKey(&'p str),
    Reload,
    Status,
    Models,
    Overview,
    Explain,
    SignIn,
    ShowSession,
    SignOut,
    OpenApi,
    PanelFile(&'static panel::File),
}

/// Every method that a path is served under.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PATCH", "DELETE"];

impl<'p> Route<'p> {
    /// The route of a method and a path, byte for byte.
    fn of(method: &str, path: &'p str) -> Option<Self> {
        Some(match (method, path) {
            ("GET" | "HEAD", "/healthz") => Self::Health,
            ("GET" | "HEAD", "/readyz") => Self::Ready,
            ("GET", "/metrics") => Self::Metrics,
            ("GET", "/api/keys") => Self::ListKeys,
            ("POST", "/api/keys") => Self::CreateKey,
            ("POST", "/api/reload") => Self::Reload,
            ("GET", "/api/status") => Self::Status,
            ("GET", "/api/models") => Self::Models,
            ("GET", "/api/overview") => Self::Overview,
            ("POST", "/api/explain") => Self::Explain,
            ("POST", "/api/session") => Self::SignIn,
            ("GET", "/api/session") => Self::ShowSession,
            ("DELETE", "/api/session") => Self::SignOut,
            ("GET", "/api/openapi.json") => Self::OpenApi,
            (_, path) => {
                if let Some(file) = panel::File::at(path) {
                    return matches!(method, "GET" | "HEAD").then_some(Self::PanelFile(file));
                }
                let id = path.strip_prefix("/api/keys/")?;
                if id.is_empty() || id.contains('/') {
                    return None;
                }
                match method {
                    "GET" => Self::ShowKey(id),
                    "PATCH" => Self::ChangeKey(id),
                    "DELETE" => Self::DeleteKey(id),
                    _ => return None,
                }
            }
        })
    }

    /// Why nothing is served here: no such path, or another method.
    fn missing(path: &str) -> Refusal {
        let allow: Vec<&str> = METHODS
            .into_iter()
            .filter(|method| Route::of(method, path).is_some())
            .collect();
        if allow.is_empty() {
            Refusal::UnknownPath
        } else {
            Refusal::MethodNotAllowed(allow.join(", "))
        }
    }
}

/// Answers one call. Never fails: what is refused is an answer too.
pub async fn handle<B>(
    services: &Arc<Services>,
    caller: Caller,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let (parts, body) = request.into_parts();
    let mut input = Input::new(body);
    let answer = answer(services, caller, &parts, &mut input).await;
    // A client that is still sending when the connection closes would lose its answer.
    input.drain().await;
    answer.map_or_else(Refusal::into_response, Reply::into_response)
}

async fn answer<B>(
    services: &Arc<Services>,
    caller: Caller,
    parts: &request::Parts,
    input: &mut Input<B>,
) -> Result<Reply, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    headers::check_framing(parts).map_err(|fault| Refusal::Malformed(fault.0.to_owned()))?;
    let path = parts.uri.path();
    let route = Route::of(parts.method.as_str(), path);
    let pass = access::check(services, caller, route, parts).await?;
    let route = route.ok_or_else(|| Route::missing(path))?;
    let query = Query::of(&parts.uri);
    let keyring = Keyring {
        table: &services.table,
        keeper: &services.keeper,
        routing: Some(services.fleet.routing()),
        url: &services.url,
    };
    let who = match pass {
        Pass::Session => session::who(services, caller, &parts.headers),
        Pass::Open | Pass::Socket | Pass::Token => caller.to_string(),
    };
    let log = &services.log;
    match route {
        Route::Health => Ok(Reply::text("ok\n")),
        Route::Ready => ready(services),
        Route::Metrics => Ok(status::metrics(services)),
        Route::ListKeys => keyring.list(&query?, now()).await,
        Route::CreateKey => {
            let body = input.json(caller, &parts.headers).await?;
            let done = keyring.create(&body, now()).await;
            keys::log_change(log, &who, "create", &done);
            done.outcome
        }
        Route::ShowKey(id) => keyring.show(id, now()),
        Route::ChangeKey(id) => {
            let body = input.json(caller, &parts.headers).await?;
            let done = keyring.change(id, &body, now()).await;
            keys::log_change(log, &who, "change", &done);
            done.outcome
        }
        Route::DeleteKey(id) => {
            let done = keyring.delete(id).await;
            keys::log_change(log, &who, "delete", &done);
            done.outcome
        }
        Route::Reload => {
            let body = input.json(caller, &parts.headers).await?;
            reload::answer(services, &who, &query?, &body).await
        }
        Route::Status => Ok(status::status(services)),
        Route::Models => models::answer(services, now()).await,
        Route::Explain => {
            let body = input.json(caller, &parts.headers).await?;
            explain::answer(services, &body, now())
        }
        Route::Overview => overview::answer(services, now()).await,
        Route::SignIn => {
            let body = input.json(caller, &parts.headers).await?;
            session::sign_in(services, caller, &parts.headers, &body, now()).await
        }
        Route::ShowSession => Ok(session::show(services, caller, &parts.headers)),
        Route::SignOut => session::sign_out(services, &who, &parts.headers),
        Route::PanelFile(file) => file.answer(&parts.headers),
        Route::OpenApi => Ok(openapi::document()),
    }
}

fn ready(services: &Services) -> Result<Reply, Refusal> {
    if services.lifecycle.phase() != Phase::Running {
        Err(Refusal::NotReady("the gateway is shutting down"))
    } else if !services.fleet.is_ready() {
        Err(Refusal::NotReady(
            "the upstreams were not asked for their models yet",
        ))
    } else {
        Ok(Reply::text("ready\n"))
    }
}

#[cfg(test)]
mod tests;
