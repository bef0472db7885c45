//! Floor 5: the admin API, over HTTP/1.1 on a Unix socket and on TCP.
//!
//! | call | response |
//! | --- | --- |
//! | GET /healthz, /readyz | whether the process runs; whether it takes requests |
//! | GET /metrics | Prometheus text |
//! | GET /api/keys | a page of keys |
//! | POST /api/keys | a new key with its token, which is shown only here |
//! | GET, PATCH, DELETE /api/keys/{id} | one key: show, change, delete |
//! | POST /api/keys/{id}/rotate | a new token for a key, which is shown only here; the old one works for a while |
//! | POST /api/keys/{id}/expire-previous | ends the token that the last rotation replaced |
//! | POST /api/keys/{id}/reset-budgets | begins the budgets of a key anew within their periods |
//! | GET, POST /api/accounts | a page of accounts; a new account |
//! | GET, PATCH, DELETE /api/accounts/{id} | one account: show, change, delete with its keys |
//! | POST /api/reload | reads key file, upstreams, prices and certificates again |
//! | POST /api/alerts/test | sends an alert that says nothing, and tells what became of it |
//! | GET /api/status | generation, keys, last reload, upstreams and their health |
//! | GET /api/models | all models, and how many keys may use each |
//! | GET /api/overview | the dashboard's data: the last hour, and key counts |
//! | GET /api/refusals | the refused requests of the last hour, by key, address and reason |
//! | GET /api/usage | tokens, requests and cost, by hour or day and by key, account, model, upstream |
//! | GET /api/usage/records | single requests, newest first |
//! | GET /api/audit | who changed what, newest first |
//! | GET /api/audit/verify | whether the audit rows are as they were written |
//! | POST /api/explain | what the gateway would decide, and which rule decides |
//! | POST, GET, DELETE /api/session | sign in to the panel, show the session, sign out |
//! | POST /api/session-links | a link to the panel that signs in once; on the socket alone |
//! | GET /api/openapi.json | this table as OpenAPI 3.1 |
//! | GET /, /panel/{file} | the panel: a page that uses this API |
//!
//! [`Operation::of`] is this list as code. The [`Operation`] determines both which authentication a call needs and who
//! handles it, so nothing is served without a check. The Unix socket is protected by its file permissions. TCP needs the
//! admin token or a session of the panel. Invariants: slow work does not run on the runtime's thread, and only the
//! responses to POST /api/keys and POST /api/keys/{id}/rotate contain a token.

mod access;
mod accounts;
mod alerts;
mod audit;
mod budgets;
pub(crate) mod change;
mod connection_limit;
mod error;
mod explain;
mod idempotency;
mod input;
mod key_list;
pub(crate) mod keys;
mod listen;
mod models;
mod openapi;
mod operation;
mod overview;
mod panel;
mod refusals;
pub(crate) mod reload;
mod request_head;
mod response;
pub(crate) mod session;
mod status;
mod throttle;
pub(crate) mod token;
mod usage;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, request};
use http_body::Body;
use http_body_util::Full;

use crate::admin::access::AuthMethod;
use crate::admin::accounts::AccountApi;
use crate::admin::error::ApiError;
use crate::admin::idempotency::IdempotencyKeys;
use crate::admin::input::{BodyReader, Query};
use crate::admin::keys::KeyApi;
pub(crate) use crate::admin::listen::{serve_tcp, serve_unix};
use crate::admin::operation::Operation;
use crate::admin::overview::Overview;
pub(crate) use crate::admin::overview::record_history;
use crate::admin::response::ApiResponse;
use crate::admin::session::Sessions;
use crate::admin::throttle::Throttle;
use crate::admin::token::AdminToken;
use crate::alerts::Alerts;
use crate::net::tls::Certificates;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::policy::audit::ChangeVia;
use crate::policy::price::PriceList;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::runtime::wall_clock::now;
use crate::store::config::Config;
use crate::store::config::parse::ParsedConfig;
use crate::store::database::Database;
use crate::store::key_store::{KeyStore, LastReload};
use crate::table::Table;
use crate::upstream::Fleet;

/// The id of a call, also in its audit row and its log line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Reads the config again, for a reload.
pub(crate) type ConfigSource = Arc<dyn Fn() -> ParsedConfig + Send + Sync>;

/// Everything that the admin API shows and changes.
pub(crate) struct Services {
    /// The config that the process started with.
    pub(crate) config: Arc<Config>,
    /// The key table.
    pub(crate) table: Arc<Table>,
    /// Changes the key table and the key file.
    pub(crate) key_store: KeyStore,
    /// The upstreams.
    pub(crate) fleet: Arc<Fleet>,
    /// The certificates of the data port, and of the TCP listener if `admin.tls` is set.
    pub(crate) certificates: Option<Certificates>,
    /// The metrics.
    pub(crate) metrics: Metrics,
    /// The log; every change is logged.
    pub(crate) log: Log,
    /// The database; None if the config has none.
    pub(crate) database: Option<Arc<Database>>,
    /// What the operator is told by a webhook. A reload changes where.
    pub(crate) alerts: Alerts,
    /// The prices in force. A reload replaces them.
    pub(crate) prices: Arc<ArcSwap<PriceList>>,
    /// The phase of the process.
    pub(crate) lifecycle: Lifecycle,
    /// The OpenAI Compatible URL, ending in `/v1`.
    pub(crate) url: String,
    /// Reads the config again.
    pub(crate) config_source: ConfigSource,
    /// The token of the TCP listener. Without one, TCP refuses everything that needs a token.
    pub(crate) token: Option<AdminToken>,
    /// What the admin API keeps between calls; empty at start.
    pub(crate) state: AdminState,
}

/// What the admin API keeps between calls.
#[derive(Default)]
pub(crate) struct AdminState {
    /// The address of the TCP listener, once it listens.
    pub(crate) address: OnceLock<SocketAddr>,
    /// Held during a reload.
    reload_lock: tokio::sync::Mutex<()>,
    /// Held during a change of an account: the accounts that are in force otherwise than the database has them.
    account_changes: tokio::sync::Mutex<BTreeSet<String>>,
    last_reload: Mutex<Option<LastReload>>,
    throttle: Throttle,
    idempotency_keys: IdempotencyKeys,
    sessions: Sessions,
    overview: Overview,
}

/// The client of the admin API, as known from its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// A process that may open the Unix socket.
    Socket {
        /// The process's user id.
        uid: Option<u32>,
    },
    /// A client over TCP, which needs the token.
    Network {
        /// The peer's address.
        address: SocketAddr,
        /// The local address of the connection.
        local: IpAddr,
    },
}

impl std::fmt::Display for Peer {
    /// The form in log lines.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Socket { uid: None } => f.write_str("socket"),
            Self::Network { address, .. } => {
                write!(f, "admin token from {}", address.ip().to_canonical())
            }
        }
    }
}

/// Handles one call. It never fails: errors become responses too. The response has the [`AuthMethod`] of a call that was
/// let in among its extensions.
pub(crate) async fn handle<B>(
    services: &Arc<Services>,
    peer: Peer,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let (parts, body) = request.into_parts();
    let mut input = BodyReader::new(body);
    let mut auth_method = None;
    let request_id = change::request_id();
    let response = respond(
        services,
        peer,
        (&parts, &request_id),
        &mut input,
        &mut auth_method,
    )
    .await;
    // If the connection closes while the client still sends, the client loses the response.
    input.drain().await;
    let mut response = response.map_or_else(ApiError::into_response, ApiResponse::into_response);
    if let Some(auth_method) = auth_method {
        response.extensions_mut().insert(auth_method);
    }
    if let Ok(request_id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    response
}

async fn respond<B>(
    services: &Arc<Services>,
    peer: Peer,
    (parts, request_id): (&request::Parts, &str),
    input: &mut BodyReader<B>,
    auth_method: &mut Option<AuthMethod>,
) -> Result<ApiResponse, ApiError>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    request_head::check(parts).map_err(|what| ApiError::Malformed(what.to_owned()))?;
    let path = parts.uri.path();
    let operation = Operation::of(parts.method.as_str(), path);
    let method = access::check(services, peer, operation, parts, request_id).await?;
    *auth_method = Some(method);
    let operation = operation.ok_or_else(|| Operation::missing(path))?;
    let query = Query::of(&parts.uri);
    let via = match method {
        AuthMethod::Session => ChangeVia::Panel,
        AuthMethod::NotRequired | AuthMethod::Socket | AuthMethod::Token => ChangeVia::Api,
    };
    let origin = change::origin(services, peer, &parts.headers, via, request_id);
    let key_store = services.key_store.on_behalf_of(origin.clone());
    let key_api = KeyApi {
        table: &services.table,
        key_store: &key_store,
        routing: Some(services.fleet.routing()),
        url: &services.url,
        keeps_uses: services.database.is_some(),
    };
    let log = &services.log;
    match operation {
        Operation::Health => Ok(ApiResponse::text("ok\n")),
        Operation::Ready => ready(services),
        Operation::Metrics => Ok(status::metrics(services)),
        Operation::ListKeys => key_api.list(&query?, now()).await,
        Operation::CreateKey => {
            let body = input.json(peer, &parts.headers).await?;
            let idempotency_keys = &services.state.idempotency_keys;
            let repeat = idempotency_keys.of(&parts.headers, "create")?;
            let done = key_api.create(&body, repeat, now()).await;
            keys::log_change(log, &origin, "create", &done);
            done.outcome
        }
        Operation::ShowKey(id) => {
            let left = budgets::left(services, id).await;
            key_api.show(id, left, now())
        }
        Operation::ChangeKey(id) => {
            let body = input.json(peer, &parts.headers).await?;
            let expected = keys::expected_revision(&parts.headers);
            let done = key_api.change(id, expected, &body, now()).await;
            keys::log_change(log, &origin, "change", &done);
            done.outcome
        }
        Operation::DeleteKey(id) => {
            let expected = keys::expected_revision(&parts.headers);
            let done = key_api.delete(id, expected).await;
            keys::log_change(log, &origin, "delete", &done);
            done.outcome
        }
        Operation::RotateKey(id) => {
            let body = input.json(peer, &parts.headers).await?;
            let expected = keys::expected_revision(&parts.headers);
            let idempotency_keys = &services.state.idempotency_keys;
            let repeat = idempotency_keys.of(&parts.headers, id)?;
            let done = key_api.rotate(id, expected, &body, repeat, now()).await;
            keys::log_change(log, &origin, "rotate", &done);
            done.outcome
        }
        Operation::ExpirePrevious(id) => {
            let body = input.json(peer, &parts.headers).await?;
            let expected = keys::expected_revision(&parts.headers);
            let done = key_api.expire_previous(id, expected, &body, now()).await;
            keys::log_change(log, &origin, "expire_previous", &done);
            done.outcome
        }
        Operation::ResetBudgets(id) => {
            let body = input.json(peer, &parts.headers).await?;
            budgets::reset(services, origin, id, &body, now()).await
        }
        Operation::ListAccounts => AccountApi::new(services, origin)?.list(&query?).await,
        Operation::CreateAccount => {
            let body = input.json(peer, &parts.headers).await?;
            let api = AccountApi::new(services, origin)?;
            accounts::to_its_end(async move { api.create(&body, now()).await }).await
        }
        Operation::ShowAccount(id) => AccountApi::new(services, origin)?.show(id).await,
        Operation::ChangeAccount(id) => {
            let body = input.json(peer, &parts.headers).await?;
            let expected = keys::expected_revision(&parts.headers);
            let (api, id) = (AccountApi::new(services, origin)?, id.to_owned());
            accounts::to_its_end(async move { api.change(&id, &expected, &body).await }).await
        }
        Operation::DeleteAccount(id) => {
            let expected = keys::expected_revision(&parts.headers);
            let named = accounts::named_keys(&query?)?;
            let key_store = key_store.clone();
            let (api, id) = (AccountApi::new(services, origin)?, id.to_owned());
            accounts::to_its_end(async move { api.delete(&id, &expected, named, &key_store).await })
                .await
        }
        Operation::Reload => {
            let body = input.json(peer, &parts.headers).await?;
            reload::respond(services, origin, &query?, &body).await
        }
        Operation::TestAlert => {
            let body = input.json(peer, &parts.headers).await?;
            alerts::test(services, &origin, &body).await
        }
        Operation::Status => Ok(status::status(services)),
        Operation::Models => models::respond(services, now()).await,
        Operation::Explain => {
            let body = input.json(peer, &parts.headers).await?;
            explain::respond(services, &body, now()).await
        }
        Operation::Overview => overview::respond(services, now()).await,
        Operation::Refusals => refusals::respond(services, &query?, now()),
        Operation::Usage => usage::sums(services, &query?, parts, now()).await,
        Operation::UsageRecords => usage::records(services, &query?, parts).await,
        Operation::Audit => audit::rows(services, &query?, parts).await,
        Operation::VerifyAudit => audit::verify(services, &query?).await,
        Operation::SignIn => {
            let body = input.json(peer, &parts.headers).await?;
            session::sign_in(services, peer, (&parts.headers, request_id), &body, now()).await
        }
        Operation::MakeSignInLink => {
            let body = input.json(peer, &parts.headers).await?;
            session::make_link(services, peer, origin, &body, now()).await
        }
        Operation::ShowSession => Ok(session::show(services, peer, &parts.headers)),
        Operation::SignOut => session::sign_out(services, origin, &parts.headers).await,
        Operation::PanelFile(file) => file.response(&parts.headers),
        Operation::OpenApi => Ok(openapi::document()),
    }
}

fn ready(services: &Services) -> Result<ApiResponse, ApiError> {
    if services.lifecycle.phase() != Phase::Running {
        Err(ApiError::NotReady("the gateway is shutting down"))
    } else if !services.fleet.is_ready() {
        Err(ApiError::NotReady(
            "the upstreams were not asked for their models yet",
        ))
    } else {
        let routing = services.fleet.routing();
        let unheard = routing.unheard().map(|upstream| {
            let name = upstream.name();
            format!("not ready: upstream {name} has not said yet which models it serves\n")
        });
        let lines: String = unheard.collect();
        Ok(ApiResponse::text(format!("ready\n{lines}")))
    }
}

#[cfg(test)]
mod tests;
