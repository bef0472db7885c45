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
//! | GET /api/accounts/{id}/members | the members of an account |
//! | PATCH, DELETE /api/accounts/{id}/members/{person} | another role for a member; removes one |
//! | POST /api/accounts/{id}/members/{person}/reset-password | a link by which a member sets a new password |
//! | GET, POST /api/accounts/{id}/invitations | the open invitations; a new one with its link, which is shown only here |
//! | DELETE /api/accounts/{id}/invitations/{invitation} | takes an invitation back |
//! | POST /api/reload | reads key file, upstreams, prices and certificates again |
//! | POST /api/alerts/test | sends an alert that says nothing, and tells what became of it |
//! | GET /api/fleet | the gateways that share the database, and which of them are behind |
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
//! | GET /api/sign-in | which ways to sign in there are |
//! | GET /api/sign-in/oidc, /api/sign-in/callback | to the identity provider, and back from it |
//! | POST /api/invitations/look | what an invitation is, for the page that its link opens |
//! | GET /api/sessions, DELETE /api/sessions/{id} | a person's own sessions; ends one |
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
mod call;
pub(crate) mod change;
mod connection_limit;
mod cookie;
mod error;
mod explain;
mod gateways;
mod idempotency;
mod input;
mod key_list;
pub(crate) mod keys;
mod known_device;
mod listen;
mod models;
mod openapi;
mod operation;
mod overview;
mod panel;
mod panel_url;
mod passwords;
mod people;
mod person_session;
pub(crate) mod principal;
mod provider_sign_in;
mod refusals;
pub(crate) mod reload;
mod request_head;
mod response;
pub(crate) mod session;
mod session_codes;
mod sign_in;
mod status;
mod throttle;
pub(crate) mod token;
mod usage;
pub(crate) mod wait;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, request};
use http_body::Body;
use http_body_util::Full;

use crate::admin::access::AuthMethod;
pub(crate) use crate::admin::accounts::follow as follow_accounts;
use crate::admin::call::Call;
use crate::admin::error::ApiError;
use crate::admin::gateways::LastGateways;
pub(crate) use crate::admin::gateways::report as report_gateway;
use crate::admin::idempotency::IdempotencyKeys;
use crate::admin::input::{BodyReader, Query};
pub(crate) use crate::admin::listen::{serve_tcp, serve_unix};
use crate::admin::operation::Operation;
use crate::admin::overview::Overview;
pub(crate) use crate::admin::overview::record_history;
use crate::admin::passwords::Passwords;
use crate::admin::provider_sign_in::ProviderSignIns;
use crate::admin::response::ApiResponse;
use crate::admin::session::Sessions;
use crate::admin::throttle::Throttle;
use crate::admin::token::AdminToken;
use crate::alerts::Alerts;
use crate::net::tls::Certificates;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::oidc::Provider;
use crate::policy::audit::ChangeVia;
use crate::policy::price::PriceList;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::config::Config;
use crate::store::config::parse::ParsedConfig;
use crate::store::database::{Database, GatewayIdentity};
use crate::store::key_store::{KeyStore, LastReload};
use crate::store::shared_limits::SharedLimits;
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
    /// Which gateway this is.
    pub(crate) gateway: GatewayIdentity,
    /// The database; None if the config has none.
    pub(crate) database: Option<Arc<Database>>,
    /// The limits that gateways share; None where there is one gateway alone.
    pub(crate) shared_limits: Option<Arc<SharedLimits>>,
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
    /// The company's identity provider; None: people sign in with passwords.
    pub(crate) provider: Option<Provider>,
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
    passwords: Passwords,
    provider_sign_ins: ProviderSignIns,
    overview: Overview,
    gateways: LastGateways,
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
    let access = access::check(services, peer, operation, parts, request_id).await?;
    *auth_method = Some(access.method);
    let operation = operation.ok_or_else(|| Operation::missing(path))?;
    let body = match parts.method {
        Method::POST | Method::PATCH => input.json(peer, &parts.headers).await?,
        _ => Bytes::new(),
    };
    // The body may have taken its time; what its sender may do is asked when all of it is there.
    let principal = access::again(services, &parts.headers, access.principal).await?;
    let via = match access.method {
        AuthMethod::Session => ChangeVia::Panel,
        AuthMethod::NotRequired | AuthMethod::Socket | AuthMethod::Token => ChangeVia::Api,
    };
    let call = Call {
        services,
        peer,
        parts,
        request_id,
        query: Query::of(&parts.uri),
        body,
        via,
    };
    call.answer(operation, principal).await
}

#[cfg(test)]
mod tests;
