//! What the gateway answers by itself: the models a key may use, what a key allows, its own health, and browsers'
//! questions about other origins.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::Serialize;

use crate::gateway::reply;
use crate::http::headers;
use crate::net::proxy_protocol::Told;
use crate::policy::decide::Caller;
use crate::policy::denial::Denial;
use crate::policy::key::Key;
use crate::policy::key_view::KeyView;
use crate::policy::network::ClientAddress;
use crate::policy::route;
use crate::store::config::ClientAddressSource;
use crate::upstream::Routing;

use super::proxied::Source;
use super::worker::Worker;

/// A model in OpenAI's form.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// OpenAI's list.
#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// What `GET /v1/key` shows besides the key.
#[derive(Serialize)]
struct ClientDetails {
    client_address: Option<String>,
    client_address_reason: &'static str,
}

/// The catalogue, as far as the key may use it.
pub(super) fn models(worker: &Worker, caller: Caller<'_>) -> Response<Bytes> {
    let routing = worker.fleet.routing();
    let data = usable(&routing, caller.key())
        .map(|id| model(worker, id))
        .collect();
    reply::ok(&ModelList {
        object: "list",
        data,
    })
}

/// One model, if the key may use it.
///
/// # Errors
/// [`Denial::ModelNotFound`], as a request for it would be refused.
pub(super) fn one_model(
    worker: &Worker,
    caller: Caller<'_>,
    id: &str,
) -> Result<Response<Bytes>, Denial> {
    let served = worker.fleet.routing().upstream_of(id).is_some();
    let permit = caller.for_model(id, served)?;
    Ok(reply::ok(&model(worker, permit.model())))
}

/// What the key allows, and where its owner is seen to come from.
pub(super) fn key(
    worker: &Worker,
    caller: Caller<'_>,
    source: Source,
    headers: &HeaderMap,
) -> Response<Bytes> {
    let (key, routing) = (caller.key(), worker.fleet.routing());
    let believed = &worker.settings.client_address;
    let client = headers::client_address(believed, source.address, headers);
    let details = ClientDetails {
        client_address: match client {
            ClientAddress::Known(address) => Some(address.to_string()),
            ClientAddress::Unknown => None,
        },
        client_address_reason: reason(believed, source, headers),
    };
    let models = usable(&routing, key).collect();
    reply::ok(&KeyView::for_owner(key, models, details))
}

/// Why the client's address is taken to be what it is. No other address is told: a proxy's is the operator's business.
fn reason(believed: &ClientAddressSource, source: Source, headers: &HeaderMap) -> &'static str {
    match (believed, source.told) {
        (_, Some(Told::Client(_))) => "a trusted proxy named it by the PROXY protocol",
        (_, Some(Told::Itself)) => "a trusted proxy spoke for itself by the PROXY protocol",
        (_, Some(Told::Nobody)) => "a trusted proxy named no client by the PROXY protocol",
        (ClientAddressSource::XForwardedFor { trusted_proxies }, None) => {
            headers::forwarded_reason(source.address, headers, trusted_proxies)
        }
        (_, None) if source.address.is_none() => "the connection came over a Unix socket",
        (ClientAddressSource::Peer, None) => "the connection came from it",
        (ClientAddressSource::ProxyProtocol { .. }, None) => {
            "the connection came from it, and it is no trusted proxy"
        }
    }
}

fn usable<'a>(routing: &'a Routing, key: &'a Key) -> impl Iterator<Item = &'a str> {
    routing
        .models()
        .map(|(model, _)| model)
        .filter(|model| key.model_access().allows(model))
}

fn model<'a>(worker: &Worker, id: &'a str) -> Model<'a> {
    Model {
        id,
        object: "model",
        created: worker.settings.started,
        owned_by: "keygate",
    }
}

/// What is answered without a key: health, where the config has it on this port, and preflights.
pub(super) fn without_key(worker: &Worker, parts: &Parts) -> Option<Response<Bytes>> {
    health(worker, parts).or_else(|| preflight(worker, parts))
}

fn health(worker: &Worker, parts: &Parts) -> Option<Response<Bytes>> {
    let is_asked = worker.settings.public_health && parts.method == Method::GET;
    let (status, text) = match parts.uri.path() {
        "/healthz" if is_asked => (StatusCode::OK, "ok\n"),
        "/readyz" if is_asked && worker.is_ready() => (StatusCode::OK, "ready\n"),
        "/readyz" if is_asked => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => return None,
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Some(response)
}

/// A browser's question whether a page of a listed origin may call a served path (Fetch standard, CORS protocol).
fn preflight(worker: &Worker, parts: &Parts) -> Option<Response<Bytes>> {
    if parts.method != Method::OPTIONS {
        return None;
    }
    allowed_origin(worker, &parts.headers)?;
    let Err(Denial::MethodNotAllowed { allow }) = route::of("OPTIONS", parts.uri.path()) else {
        return None;
    };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(allow),
    );
    if let Some(asked) = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    Some(response)
}

/// Lets a page of a listed origin read the answer.
pub(super) fn open_to(origin: HeaderValue, response: &mut HeaderMap) {
    response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id"),
    );
    response.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// The request's Origin, where the config lists it.
pub(super) fn allowed_origin<'h>(
    worker: &Worker,
    headers: &'h HeaderMap,
) -> Option<&'h HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let is_listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
    worker
        .settings
        .cors_origins
        .iter()
        .any(is_listed)
        .then_some(origin)
}
