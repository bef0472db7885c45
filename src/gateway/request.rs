//! A request's life, top to bottom. The numbers are those of the steps at which it can be refused, and their order is
//! a security property: who is asked before what, what before how much, and nothing of the body is read before step 6.
//!
//! [`handle`] never fails: it reads the clock once, calls [`admit_and_forward`] once, and whatever comes of it is
//! logged and counted once, when the [`Record`] is dropped.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use crate::http::body;
use crate::http::headers::{self, Introduction};
use crate::http::io::{InFlight, Line};
use crate::http::model_name::{self, Siblings};
use crate::http::reply::Refusal;
use crate::http::upstream::Upstream;
use crate::http::upstream::pool::{Answer, Outbound, SendFault};
use crate::policy::decide::{self, Caller};
use crate::policy::denial::Denial;
use crate::policy::network::ClientAddress;
use crate::policy::route::{self, Endpoint, Route};
use crate::policy::time::UnixTime;
use crate::store::config::ClientAddressSource;
use crate::store::wall_clock::unix_time;
use crate::table::Entry;

use super::answers;
use super::lease::Lease;
use super::record::Record;
use super::stream::{Guard, Relay, ReplyBody};
use super::worker::Worker;

/// How a request came: what its connection knows.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The socket's peer; None on a Unix socket.
    pub peer: Option<IpAddr>,
    /// http or https.
    pub scheme: &'static str,
}

/// One request's facts, gathered before it is judged.
struct Inbound<'a> {
    worker: &'a Rc<Worker>,
    origin: Origin,
    parts: &'a Parts,
    now: UnixTime,
    client: ClientAddress,
    request_id: &'a str,
    line: Rc<Line>,
}

/// Answers a request, whatever it is.
pub async fn handle(
    worker: &Rc<Worker>,
    origin: Origin,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let started = SystemTime::now();
    let (parts, mut body) = request.into_parts();
    let request_id =
        headers::request_id(&parts.headers).map_or_else(|| worker.new_request_id(), str::to_owned);
    let source = &worker.settings.client_address;
    let client = headers::client_address(source, origin.peer, &parts.headers);
    let (log, metrics) = (worker.log.clone(), worker.metrics.clone());
    let mut record = Record::begin(log, metrics, started, &request_id, &parts.method, client);
    let line = Rc::clone(in_flight.line());
    let inbound = Inbound {
        worker,
        origin,
        parts: &parts,
        now: unix_time(started),
        client,
        request_id: &request_id,
        line,
    };

    let result = contain(admit_and_forward(&inbound, &mut body, &mut record)).await;
    // What follows a CONNECT was meant for a tunnel, and is no request.
    let closes = matches!(result, Err(Refusal::Malformed(_) | Refusal::ShuttingDown))
        || parts.method == Method::CONNECT;
    let mut response = result.unwrap_or_else(|refusal| {
        record.refused(&refusal);
        refusal.response().map(ReplyBody::from)
    });

    record.status(response.status());
    if parts.method == Method::HEAD {
        // Its answer has no body, so nobody will ask for the end of it (RFC 9110 9.3.2).
        record.complete();
    }
    let is_unread = !body.is_end_stream();
    if parts.version != Version::HTTP_2 && (closes || is_unread) {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        inbound.line.leave_unread();
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(headers::X_REQUEST_ID, value);
    }
    answers::open_to_origin(worker, &parts.headers, response.headers_mut());
    response.map(|body| body.guarded(Guard { record, in_flight }))
}

/// A panic is one request's, and is answered.
async fn contain<T>(request: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let mut request = pin!(request);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Err(Refusal::Internal)))
    })
    .await
}

async fn admit_and_forward(
    inbound: &Inbound<'_>,
    body: &mut Incoming,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    let Inbound { worker, parts, .. } = inbound;
    #[cfg(test)]
    super::tests::panic_where_asked(parts.uri.query().unwrap_or_default().as_bytes());
    headers::check_framing(parts)?;
    if let Some(answer) = answers::without_key(worker, parts) {
        return Ok(answer.map(ReplyBody::from));
    }
    worker.check_open()?;

    // Read before the key is looked up: a change after that is noticed by the lease.
    let generation = worker.table.generation();
    let token = headers::bearer(&parts.headers)?; // 1
    let entry = worker.table.find(&token.hash()); // 2
    let key = entry.as_deref().map(Entry::key);
    if let Some(key) = key {
        record.key(key.id());
    }
    let caller = decide::caller(key, inbound.client, inbound.now)?; // 2 to 4
    let entry = entry.as_deref().ok_or(Denial::InvalidApiKey)?;
    worker.table.count(entry, inbound.now);

    let route = route::of(parts.method.as_str(), parts.uri.path())?; // 5
    record.route(route.label());
    match route {
        Route::Forward(endpoint) => {
            let asked = read_model(inbound, endpoint, caller, body, record).await?; // 6
            forward(inbound, asked, caller, entry, generation, record).await // 7, 8
        }
        Route::Models => Ok(answers::models(worker, caller).map(ReplyBody::from)),
        Route::Model(id) => Ok(answers::one_model(worker, caller, &id)?.map(ReplyBody::from)),
        Route::Key => Ok(answers::key(worker, caller, inbound.client).map(ReplyBody::from)),
    }
}

/// What a request asks for, once its body is read: the very bytes that were checked, and the model they name.
struct Asked {
    body: body::Spooled,
    model: String,
    read: Instant,
}

/// Step 6: the body, whole, and the one model it names.
async fn read_model(
    inbound: &Inbound<'_>,
    endpoint: Endpoint,
    caller: Caller<'_>,
    body: &mut Incoming,
    record: &mut Record,
) -> Result<Asked, Refusal> {
    let Inbound { worker, parts, .. } = inbound;
    let mut expectations = parts.headers.get_all(header::EXPECT).iter();
    if expectations.any(|expectation| !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Refusal::Expectation);
    }
    model_name::check_query(parts.uri.query())?;
    let format = model_name::check_headers(endpoint.body(), &parts.headers)?;
    let watch = worker.clock.watch();
    let body = body::spool(body, &worker.settings.bodies, &worker.clock, &watch).await?;
    let read = Instant::now();
    record.body(body.bytes().len());
    let is_all = caller.key().model_access().is_all();
    let siblings = if is_all {
        Siblings::Allowed
    } else {
        Siblings::Refused
    };
    let model = model_name::read(&format, body.bytes(), siblings)?.into_owned();
    record.model(&model);
    Ok(Asked { body, model, read })
}

/// Steps 7 and 8: whether the model may be used, and the request's way to its upstream and back.
async fn forward(
    inbound: &Inbound<'_>,
    asked: Asked,
    caller: Caller<'_>,
    entry: &Entry,
    generation: u64,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    let Inbound { worker, parts, .. } = inbound;
    let routing = worker.fleet.routing();
    let upstream = routing.upstream_of(&asked.model);
    let permit = caller.for_model(&asked.model, upstream.is_some())?; // 7
    let upstream = upstream.ok_or(Denial::ModelNotFound)?;
    record.upstream(upstream.name());

    let outbound = outbound(inbound, parts, asked.body.bytes());
    let table = Arc::clone(&worker.table);
    let mut lease = Lease::new(permit, entry, table, generation, worker.clock.watch());
    let answer = send(worker, &mut lease, upstream, &outbound, record).await?; // 8
    worker
        .metrics
        .overhead(answer.overhead(asked.read).as_secs_f64());
    record.answered(upstream.name(), answer.head().status);
    if matches!(
        answer.head().status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        return Err(Refusal::UpstreamRejected);
    }

    let mut response = Response::new(());
    *response.status_mut() = answer.head().status;
    *response.headers_mut() = passed_on(&answer);
    let relay = Relay::new(
        answer,
        lease,
        &inbound.line,
        &worker.clock,
        worker.settings.relay,
    );
    Ok(response.map(|()| relay.into()))
}

/// Sends the request, for as long as it is permitted.
async fn send(
    worker: &Rc<Worker>,
    lease: &mut Lease,
    upstream: &Upstream,
    outbound: &Outbound,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let permit = lease.permit().clone();
    let watch = worker.clock.watch();
    let mut sending = pin!(worker.pool.send(&permit, upstream, outbound, &watch));
    poll_fn(|cx| {
        if let Err(denial) = lease.check() {
            record.revoked(denial);
            return Poll::Ready(Err(Refusal::Denied(denial)));
        }
        lease.watch().register(cx);
        sending
            .as_mut()
            .poll(cx)
            .map_err(|fault: SendFault| Refusal::Upstream(fault))
    })
    .await
}

fn outbound(inbound: &Inbound<'_>, parts: &Parts, body: &Bytes) -> Outbound {
    let forwarded_for = forwarded_for(inbound);
    let introduction = Introduction {
        request_id: inbound.request_id,
        forwarded_for: &forwarded_for,
        scheme: inbound.origin.scheme,
        length: body.len(),
    };
    Outbound {
        request_line: format!("{} {}", parts.method, headers::target(&parts.uri)),
        headers: headers::outbound(&parts.headers, &introduction),
        body: body.clone(),
    }
}

/// X-Forwarded-For as the upstream sees it: the peer's address, behind the list of a peer that is believed.
fn forwarded_for(inbound: &Inbound<'_>) -> Vec<u8> {
    let Some(peer) = inbound.origin.peer.map(|peer| peer.to_canonical()) else {
        return Vec::new();
    };
    let mut list = match &inbound.worker.settings.client_address {
        ClientAddressSource::XForwardedFor { trusted_proxies }
            if trusted_proxies
                .iter()
                .any(|network| network.contains(&peer)) =>
        {
            headers::forwarded_list(&inbound.parts.headers)
        }
        ClientAddressSource::XForwardedFor { .. } | ClientAddressSource::Peer => Vec::new(),
    };
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.to_string().as_bytes());
    list
}

/// The headers of an upstream's answer that the client gets.
fn passed_on(answer: &Answer) -> HeaderMap {
    let head = answer.head();
    let named = headers::named_by_connection(&head.headers);
    let passes = |name: &header::HeaderName| {
        headers::passes_to_client(name.as_str()) && !named.contains(name)
    };
    let passing = head.headers.iter().filter(|(name, _)| passes(name));
    passing
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
