//! What the gateway answers by itself: the models a key may use, what a key allows, its own health, and browsers'
//! questions about other origins.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::gateway::client_source::ClientSource;
use crate::gateway::limit_views::{LimitView, limit_views};
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::buffer::BufferPool;
use crate::http::client_address::{client_address, forwarded_reason};
use crate::http::fields::Fields;
use crate::http::head::RequestHead;
use crate::net::proxy_protocol::ProxyIdentity;
use crate::policy::account::JudgedKey;
use crate::policy::decide::Caller;
use crate::policy::denial::Denial;
use crate::policy::field_kind::FieldKind;
use crate::policy::key_view::KeyView;
use crate::policy::network::ClientAddress;
use crate::policy::route;
use crate::policy::time::UnixTime;
use crate::store::budgets::BudgetLeftView;
use crate::store::config::ClientAddressSource;
use crate::table::Entry;
use crate::upstream::Routing;

/// A response that the gateway makes itself, its body whole.
#[derive(Debug)]
pub(super) struct LocalResponse {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its own header fields.
    pub(super) fields: Fields,
    /// Its body.
    pub(super) body: Bytes,
}

impl LocalResponse {
    /// A response without a body and header fields.
    #[must_use]
    pub(super) fn new(status: StatusCode, buffers: &BufferPool) -> Self {
        let mut fields = buffers.take_fields();
        fields.restart(b"");
        // What a key may see is nobody else's, and the next change may make it another (RFC 9111 5.2.2.5).
        fields.push("cache-control", b"no-store");
        Self {
            status,
            fields,
            body: Bytes::new(),
        }
    }

    /// The same with JSON as its body.
    #[must_use]
    pub(super) fn with_json(mut self, body: Bytes) -> Self {
        self.fields.push("content-type", b"application/json");
        self.body = body;
        self
    }

    /// A 200 with this value as JSON.
    #[must_use]
    pub(super) fn ok(value: &impl Serialize, buffers: &BufferPool) -> Self {
        Self::of_json(json(value), buffers)
    }

    /// A 200 with this JSON text.
    #[must_use]
    pub(super) fn of_json(text: Bytes, buffers: &BufferPool) -> Self {
        Self::new(StatusCode::OK, buffers).with_json(text)
    }
}

/// A value as JSON text.
#[must_use]
pub(super) fn json(value: &impl Serialize) -> Bytes {
    // Plain structs of text and numbers always serialize.
    serde_json::to_vec(value).unwrap_or_default().into()
}
/// The longest name that is looked up again with a tag, in bytes.
const MAX_HINTED_NAME: usize = 512;

/// A model in OpenAI's form.
#[derive(Serialize)]
struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// OpenAI's list.
#[derive(Serialize)]
struct ModelListObject<'a> {
    object: &'static str,
    data: Vec<ModelObject<'a>>,
}

/// What `GET /v1/key` shows besides the key.
#[derive(Serialize)]
struct ClientDetails {
    /// Which of the key's tokens was used.
    token: &'static str,
    limits: Vec<LimitView>,
    budgets: Vec<BudgetLeftView>,
    client_address: Option<String>,
    client_address_reason: &'static str,
}

/// A model in Anthropic's form (its API reference, "Models").
#[derive(Serialize)]
struct AnthropicModel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: String,
}

/// Anthropic's list, all on one page.
#[derive(Serialize)]
struct AnthropicModelList<'a> {
    data: Vec<AnthropicModel<'a>>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

/// The catalogue, as far as the key may use it.
pub(super) fn models(worker: &Worker, caller: Caller<'_>, head: &RequestHead) -> LocalResponse {
    let routing = worker.fleet.routing();
    if is_for_anthropic(head) {
        let models = usable(&routing, caller.judged());
        let data: Vec<_> = models.map(|id| anthropic_model(worker, id)).collect();
        let list = AnthropicModelList {
            has_more: false,
            first_id: data.first().map(|model| model.id),
            last_id: data.last().map(|model| model.id),
            data,
        };
        return LocalResponse::ok(&list, &worker.buffers);
    }
    let data = usable(&routing, caller.judged())
        .map(|id| model(worker, id))
        .collect();
    let list = ModelListObject {
        object: "list",
        data,
    };
    LocalResponse::ok(&list, &worker.buffers)
}

/// One model, if the key may use it.
///
/// # Errors
/// As a request for it would be refused.
pub(super) fn one_model(
    worker: &Worker,
    caller: Caller<'_>,
    id: &str,
    head: &RequestHead,
) -> Result<LocalResponse, Refusal> {
    let routing = worker.fleet.routing();
    let sent_as = routing.sent_as(id).cloned();
    let permit = caller
        .for_model(id, sent_as, |id| routing.upstream_of(id).cloned())
        .map_err(|denial| no_model(worker, caller, id, denial))?;
    if is_for_anthropic(head) {
        let model = anthropic_model(worker, permit.model());
        return Ok(LocalResponse::ok(&model, &worker.buffers));
    }
    let model = model(worker, permit.model());
    Ok(LocalResponse::ok(&model, &worker.buffers))
}

/// The tag that Ollama takes where a model's name has none.
const DEFAULT_TAG: &str = ":latest";

/// Why a request gets no model. While an upstream was never heard of, a model that nobody serves may be one of its own.
/// Otherwise the refusal names a model that the key may use and that differs from the one it asked for only by Ollama's
/// default tag. A key that may not use a model gets the same bytes as for any unknown model.
pub(super) fn no_model(
    worker: &Worker,
    caller: Caller<'_>,
    asked: &str,
    denial: Denial,
) -> Refusal {
    let may_use = caller.judged().allows_as(asked, None);
    if may_use && worker.fleet.routing().unheard().next().is_some() {
        return Refusal::NotReady;
    }
    let tagged = match asked.strip_suffix(DEFAULT_TAG) {
        Some(untagged) => untagged.to_owned(),
        // Longer names are in no catalogue, and are not copied.
        None if asked.len() <= MAX_HINTED_NAME => format!("{asked}{DEFAULT_TAG}"),
        None => return denial.into(),
    };
    let routing = worker.fleet.routing();
    let sent_as = routing.sent_as(&tagged).cloned();
    let permit = caller.for_model(tagged.as_str(), sent_as, |id| {
        routing.upstream_of(id).map(drop)
    });
    match (denial, permit) {
        (Denial::ModelNotFound, Ok(_)) => Refusal::SimilarModel(tagged),
        (denial, Ok(_) | Err(_)) => denial.into(),
    }
}

/// What the key allows under its account, and where its owner is seen to come from.
pub(super) fn key(
    worker: &Rc<Worker>,
    (caller, entry): (Caller<'_>, &Arc<Entry>),
    budgets: Vec<BudgetLeftView>,
    source: ClientSource,
    head: &RequestHead,
) -> LocalResponse {
    let (key, routing) = (caller.judged(), worker.fleet.routing());
    let believed = &worker.settings.client_address;
    let forwarded_for = head.fields().all(FieldKind::XForwardedFor);
    let client = client_address(believed, source.address, forwarded_for);
    let details = ClientDetails {
        limits: limit_views(worker, entry),
        budgets,
        client_address: match client {
            ClientAddress::Known(address) => Some(address.to_string()),
            ClientAddress::Unknown => None,
        },
        token: caller.token().label(),
        client_address_reason: reason(believed, source, head.fields()),
    };
    let models = usable(&routing, key).collect();
    let view = KeyView::for_owner(key, models, details);
    LocalResponse::ok(&view, &worker.buffers)
}

/// Why the client's address is taken to be what it is. No other address is told: a proxy's is the operator's business.
fn reason(believed: &ClientAddressSource, source: ClientSource, fields: &Fields) -> &'static str {
    match (believed, source.identity) {
        (_, Some(ProxyIdentity::Client(_))) => "a trusted proxy named it by the PROXY protocol",
        (_, Some(ProxyIdentity::Local)) => "a trusted proxy spoke for itself by the PROXY protocol",
        (_, Some(ProxyIdentity::NoAddress)) => {
            "a trusted proxy named no client by the PROXY protocol"
        }
        (ClientAddressSource::XForwardedFor { trusted_proxies }, None) => {
            let forwarded_for = fields.all(FieldKind::XForwardedFor);
            forwarded_reason(source.address, forwarded_for, trusted_proxies)
        }
        (_, None) if source.address.is_none() => "the connection came over a Unix socket",
        (ClientAddressSource::Peer, None) => "the connection came from it",
        (ClientAddressSource::ProxyProtocol { .. }, None) => {
            "the connection came from it, and it is no trusted proxy"
        }
    }
}

fn usable<'a>(routing: &'a Routing, key: JudgedKey<'a>) -> impl Iterator<Item = &'a str> {
    routing
        .models()
        .map(|(model, _)| model)
        .filter(move |model| {
            let sent_as = routing.sent_as(model).map(|name| &**name);
            key.allows_as(model, sent_as)
        })
}

fn model<'a>(worker: &Worker, id: &'a str) -> ModelObject<'a> {
    ModelObject {
        id,
        object: "model",
        created: worker.settings.started,
        owned_by: "keygate",
    }
}

fn anthropic_model<'a>(worker: &Worker, id: &'a str) -> AnthropicModel<'a> {
    let started = i64::try_from(worker.settings.started).unwrap_or(0);
    AnthropicModel {
        kind: "model",
        id,
        display_name: id,
        created_at: UnixTime::from_seconds(started).to_string(),
    }
}

/// Whether a client of Anthropic's API asks: each of them sends this header.
fn is_for_anthropic(head: &RequestHead) -> bool {
    let fields = head.fields();
    let mut names = fields.lines().map(|line| fields.name(line));
    names.any(|name| name.eq_ignore_ascii_case(b"anthropic-version"))
}

/// A health check, where the config has it on this port.
pub(super) fn health(worker: &Worker, head: &RequestHead) -> Option<LocalResponse> {
    if !worker.settings.public_health || !matches!(head.method(), "GET" | "HEAD") {
        return None;
    }
    let (status, text) = match head.path() {
        "/healthz" => (StatusCode::OK, "ok\n"),
        "/readyz" if worker.is_ready() => (StatusCode::OK, "ready\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => return None,
    };
    let mut response = LocalResponse::new(status, &worker.buffers);
    response.fields.push("content-type", b"text/plain");
    response.body = Bytes::from_static(text.as_bytes());
    Some(response)
}

/// A browser's question whether a page of a listed origin may call a served path (Fetch standard, CORS protocol).
pub(super) fn preflight(worker: &Worker, head: &RequestHead) -> Option<LocalResponse> {
    if head.method() != "OPTIONS" {
        return None;
    }
    let Err(Denial::MethodNotAllowed { allow }) = route::of("OPTIONS", head.path()) else {
        return None;
    };
    let mut response = LocalResponse::new(StatusCode::NO_CONTENT, &worker.buffers);
    let fields = &mut response.fields;
    fields.push("access-control-allow-methods", allow.as_bytes());
    if let Some(asked) = head.fields().first(FieldKind::AccessControlRequestHeaders) {
        fields.push("access-control-allow-headers", asked);
    }
    fields.push("access-control-max-age", b"600");
    Some(response)
}

/// The request's Origin, where the config lists it.
pub(super) fn listed_origin<'w>(worker: &'w Worker, fields: &Fields) -> Option<&'w str> {
    let origin = fields.first(FieldKind::Origin)?;
    let mut listed = worker.settings.cors_origins.iter();
    listed
        .find(|listed| listed.as_bytes() == origin)
        .map(String::as_str)
}
