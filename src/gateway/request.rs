//! A request's life, top to bottom. The numbers are those of the steps at which it can be refused, and their order is
//! a security property: who is asked before what, what before how much, and nothing of the body is read before step 6.
//!
//! [`handle`] never fails: it reads the clock once, calls [`admit_and_forward`] once, and whatever comes of it is
//! logged and counted once, when the [`Record`] is dropped.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};

use crate::gateway::reply::Refusal;
use crate::http::headers::{self, Introduction, RequestId};
use crate::http::io::{InFlight, Line};
use crate::policy::decide::{self, Caller};
use crate::policy::denial::Denial;
use crate::policy::network::{AddressText, ClientAddress};
use crate::policy::route::{self, Endpoint, Route};
use crate::policy::time::UnixTime;
use crate::request_body::coding;
use crate::request_body::collect;
use crate::request_body::model::{self as model_name, Siblings};
use crate::runtime::clock::Watch;
use crate::runtime::wall_clock::unix_time;
use crate::store::config::ClientAddressSource;
use crate::table::Entry;
use crate::upstream::Upstream;
use crate::upstream::outbound::Outbound;
use crate::upstream::pool::{Answer, SendFault};

use super::answers;
use super::lease::Lease;
use super::proxied::Source;
use super::record::Record;
use super::stream::{Guard, Relay, ReplyBody};
use super::worker::Worker;

/// How a request came: what its connection knows.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Who it comes from.
    pub source: Source,
    /// http or https.
    pub scheme: &'static str,
}

/// One request's facts, gathered before it is judged.
struct Inbound<'a> {
    worker: &'a Rc<Worker>,
    origin: Origin,
    parts: Parts,
    now: UnixTime,
    client: ClientAddress,
    request_id: &'a RequestId,
    line: &'a Rc<Line>,
    watch: Rc<Watch>,
}

impl Inbound<'_> {
    /// Forgets the request's head, which stands in the memory that its connection reads into next. The answer's headers
    /// get the place of the request's.
    fn let_go(&mut self) -> HeaderMap {
        self.parts.uri = Uri::default();
        let mut spare = std::mem::take(&mut self.parts.headers);
        spare.clear();
        spare
    }
}

/// Answers a request, whatever it is.
pub async fn handle(
    worker: Rc<Worker>,
    origin: Origin,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    // Who sends requests behind one another lets others have their turn in between.
    if in_flight.line().has_more_than_its_turn() {
        tokio::task::yield_now().await;
    }
    let worker = &worker;
    let started = SystemTime::now();
    let (parts, mut body) = request.into_parts();
    let request_id = RequestId::of(&parts.headers).unwrap_or_else(|| worker.new_request_id());
    let source = &worker.settings.client_address;
    let client = headers::client_address(source, origin.source.address, &parts.headers);
    let id = request_id.clone();
    let mut record = Record::begin(worker, started, id, &parts.method, client);
    let (version, method) = (parts.version, parts.method.clone());
    let page = answers::allowed_origin(worker, &parts.headers).cloned();
    let mut inbound = Inbound {
        worker,
        origin,
        parts,
        now: unix_time(started),
        client,
        request_id: &request_id,
        line: in_flight.line(),
        watch: in_flight.line().watch_request(),
    };

    let result = contain(pin!(admit_and_forward(
        &mut inbound,
        &mut body,
        &mut record
    )))
    .await;
    // Here and not before it is judged: a stranger is known by the credential alone.
    if let Err(refusal) = &result
        && refusal.status() == StatusCode::UNAUTHORIZED
    {
        worker.strangers.wait().await;
    }
    // What follows a CONNECT was meant for a tunnel, and is no request.
    let closes = matches!(
        result,
        Err(Refusal::Malformed(_) | Refusal::HeadTooLarge | Refusal::ShuttingDown)
    ) || method == Method::CONNECT;
    let mut response = result.unwrap_or_else(|refusal| {
        record.refused(&refusal);
        refusal.response().map(ReplyBody::from)
    });

    record.status(response.status());
    if method == Method::HEAD {
        // Its answer has no body, so nobody will ask for the end of it (RFC 9110 9.3.2).
        record.complete();
    }
    let headers = response.headers_mut();
    // hyper does not say of a chunked body that it has ended, even once it was read to its end.
    let is_unread = !record.has_body() && !body.is_end_stream();
    if version != Version::HTTP_2 && (closes || is_unread) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        in_flight.line().leave_unread();
    }
    headers.insert(headers::X_REQUEST_ID, request_id.to_header());
    if let Some(page) = page {
        answers::open_to(page, headers);
    }
    Ok(response.map(|body| body.guarded(Guard { record, in_flight })))
}

/// A panic is one request's, and is answered.
async fn contain<T>(
    mut request: Pin<&mut impl Future<Output = Result<T, Refusal>>>,
) -> Result<T, Refusal> {
    // What is left of a panic. It stands outside what is caught, so that an answer is not moved with every poll.
    let mut result = Err(Refusal::Internal);
    poll_fn(|cx| {
        let poll = || match request.as_mut().poll(cx) {
            Poll::Ready(ended) => {
                result = ended;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        };
        catch_unwind(AssertUnwindSafe(poll)).unwrap_or(Poll::Ready(()))
    })
    .await;
    result
}

async fn admit_and_forward(
    inbound: &mut Inbound<'_>,
    body: &mut Incoming,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    let (worker, parts) = (inbound.worker, &inbound.parts);
    #[cfg(test)]
    super::tests::panic_where_asked(parts.uri.query().unwrap_or_default().as_bytes());
    headers::check_size(parts, worker.settings.head)?;
    headers::check_framing(parts)?;
    if let Some(answer) = answers::without_key(worker, parts) {
        return Ok(answer.map(ReplyBody::from));
    }
    worker.check_open()?;

    // Read before the key is looked up: a change after that is noticed by the lease.
    let generation = worker.table.generation();
    let token = headers::bearer(&parts.headers)?; // 1
    let entry = worker.table.find(&token.hash()); // 2
    if let Some(entry) = &entry {
        record.key(entry);
    }
    let key = entry.as_deref().map(Entry::key);
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
        Route::Key => {
            let headers = &parts.headers;
            Ok(answers::key(worker, caller, inbound.origin.source, headers).map(ReplyBody::from))
        }
    }
}

/// What a request asks for, once its body is read: the very bytes that were checked, and the model they name.
struct Asked {
    body: collect::Spooled,
    model: Arc<str>,
    read: Instant,
    is_decoded: bool,
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
    let coding = coding::of(&parts.headers)?;
    let (limits, clock, watch) = (&worker.settings.bodies, &worker.clock, &inbound.watch);
    let body = match coding {
        None => collect::spool(body, limits, clock, watch).await?,
        // Apart, so that a decoder's state makes no other request larger.
        Some(coding) => {
            Box::pin(collect::spool_decoded(body, coding, limits, clock, watch)).await?
        }
    };
    let read = Instant::now();
    record.body(body.received());
    let is_all = caller.key().model_access().is_all();
    let siblings = if is_all {
        Siblings::Allowed
    } else {
        Siblings::Refused
    };
    let model = Arc::from(model_name::read(&format, body.bytes(), siblings)?);
    record.model(&model);
    Ok(Asked {
        body,
        model,
        read,
        is_decoded: coding.is_some(),
    })
}

/// Steps 7 and 8: whether the model may be used, and the request's way to its upstream and back.
async fn forward(
    inbound: &mut Inbound<'_>,
    asked: Asked,
    caller: Caller<'_>,
    entry: &Entry,
    generation: u64,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    let worker = inbound.worker;
    let routing = worker.fleet.routing();
    let upstream = routing.upstream_of(&asked.model);
    let permit = caller.for_model(Arc::clone(&asked.model), upstream.is_some())?; // 7
    let upstream = upstream.ok_or(Denial::ModelNotFound)?;
    record.upstream(upstream);

    let table = Arc::clone(&worker.table);
    let watch = Rc::clone(&inbound.watch);
    let mut lease = Lease::new(permit, entry, table, generation, watch);
    let outbound = outbound(inbound, upstream, &asked);
    let _share = asked.body.into_share();
    let spare = inbound.let_go();
    let mut answer = send(worker, &mut lease, upstream, outbound, spare, record).await?; // 8
    let status = answer.head().status;
    record.answered(upstream.name(), status, answer.overhead(asked.read));
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Refusal::UpstreamRejected);
    }

    let headers = answer.take_headers();
    let relay = Relay::new(answer, &headers, lease, inbound.line, worker);
    let mut response = Response::new(relay.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Sends the request, for as long as it is permitted.
async fn send(
    worker: &Rc<Worker>,
    lease: &mut Lease,
    upstream: &Upstream,
    outbound: Outbound,
    spare: HeaderMap,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let permit = lease.permit().clone();
    let watch = Rc::clone(lease.watch());
    let pool = &worker.pool;
    let mut sending = pin!(pool.send(&permit, upstream, outbound, spare, &watch));
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

fn outbound(inbound: &Inbound<'_>, upstream: &Upstream, asked: &Asked) -> Outbound {
    let Inbound { worker, parts, .. } = inbound;
    let body = asked.body.bytes();
    let peer = inbound
        .origin
        .source
        .address
        .map(|peer| peer.to_canonical());
    let peer_text = peer.map(AddressText::of);
    let introduction = Introduction {
        request_id: inbound.request_id.as_str(),
        peer: peer_text.as_ref().map(AddressText::as_str),
        came_through: &came_through(inbound, peer),
        scheme: inbound.origin.scheme,
        length: body.len(),
        is_decoded: asked.is_decoded,
    };
    let request_line = (parts.method.as_str(), headers::target(&parts.uri));
    let write = |lines: &mut Vec<u8>| headers::write_outbound(lines, &parts.headers, &introduction);
    Outbound::new(upstream, request_line, worker.pool.room(), write, body)
}

/// The list of a peer that is believed, for X-Forwarded-For as the upstream sees it; else nothing.
fn came_through(inbound: &Inbound<'_>, peer: Option<IpAddr>) -> Vec<u8> {
    match &inbound.worker.settings.client_address {
        ClientAddressSource::XForwardedFor { trusted_proxies }
            if peer.is_some_and(|peer| trusted_proxies.iter().any(|net| net.contains(&peer))) =>
        {
            headers::forwarded_list(&inbound.parts.headers)
        }
        ClientAddressSource::XForwardedFor { .. }
        | ClientAddressSource::ProxyProtocol { .. }
        | ClientAddressSource::Peer => Vec::new(),
    }
}
