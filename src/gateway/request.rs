//! A request's life, top to bottom. The numbers are those of the steps at which it can be refused, and their order is
//! a security property: who is asked before what, what before how much, and nothing of the body is read before step 6.
//!
//! [`handle`] never fails: it reads the clock once, calls [`admit_and_forward`] once, and whatever comes of it is
//! logged and counted once, when the [`AccessRecord`] is dropped.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use http::StatusCode;

use crate::gateway::access_record::AccessRecord;
use crate::gateway::asked::{self, Asked};
use crate::gateway::client_source::ClientSource;
use crate::gateway::error_response::ErrorFormat;
use crate::gateway::exchange::{BodyLength, BodyPart, Exchange};
use crate::gateway::file_length::FileLength;
use crate::gateway::key_usage;
use crate::gateway::lease::Lease;
use crate::gateway::limit_views;
use crate::gateway::limits::{RequestLimits, RunningRequest};
use crate::gateway::local_responses::{self, LocalResponse};
use crate::gateway::refusal::Refusal;
use crate::gateway::relay::{self, BrokenOff};
use crate::gateway::upstream_share::UpstreamShare;
use crate::gateway::usage_request::ask_for_usage;
use crate::gateway::worker::Worker;
use crate::http::client_address::client_address;
use crate::http::credential;
use crate::http::event_stream::is_event_stream;
use crate::http::fields::Fields;
use crate::http::forwarded_headers::{self, ForwardedHeaders};
use crate::http::head::{HeadError, RequestHead};
use crate::http::request_id::RequestId;
use crate::http::usage_scanner::{ResponseKind, UsageScanner};
use crate::policy::account::JudgedKey;
use crate::policy::decide::{self, Permit};
use crate::policy::denial::Denial;
use crate::policy::field_kind::FieldKind;
use crate::policy::network::{AddressText, ClientAddress};
use crate::policy::route::{self, ApiStyle, Route};
use crate::policy::time::UnixTime;
use crate::request_body::edit::BodyEdits;
use crate::request_body::model::FilePlace;
use crate::runtime::flush_coalescer::ready_tasks_ran;
use crate::runtime::wall_clock::unix_time;
use crate::store::config::ClientAddressSource;
use crate::table::Entry;
use crate::upstream::Upstream;
use crate::upstream::outbound::OutboundRequest;
use crate::upstream::pool::UpstreamResponse;

/// How a request came: what its connection knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Who it comes from.
    pub(super) source: ClientSource,
    /// http or https.
    pub(super) scheme: &'static str,
}

/// One request's facts, gathered before it is judged.
struct Inbound<'a> {
    worker: &'a Rc<Worker>,
    origin: Origin,
    started: SystemTime,
    now: UnixTime,
    client: ClientAddress,
    request_id: RequestId,
    /// The id that the client gave it.
    client_request_id: Option<RequestId>,
    /// The API of its path.
    style: ApiStyle,
    /// The Origin of a web page that the config lets read responses.
    web_origin: Option<&'a str>,
}

/// Why a request has no whole response.
enum Failure {
    Refused(Refusal),
    BrokenOff,
}

impl<R: Into<Refusal>> From<R> for Failure {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

/// Answers a request, whatever it is.
pub(super) async fn handle<E: Exchange>(worker: &Rc<Worker>, origin: Origin, exchange: &mut E) {
    let inbound = Inbound::of(worker, origin, exchange.head());
    let mut record = inbound.begin_record(exchange.head().method());
    let result = contain(pin!(admit_and_forward(&inbound, exchange, &mut record))).await;
    conclude(&inbound, exchange, &mut record, result).await;
    record.end();
}

/// Answers a head that breaks a rule of HTTP. Nothing of it is believed, not even its method.
pub(super) async fn refuse_head<E: Exchange>(
    worker: &Rc<Worker>,
    origin: Origin,
    error: HeadError,
    exchange: &mut E,
) {
    let inbound = Inbound::of(worker, origin, &RequestHead::default());
    let mut record = inbound.begin_record("");
    conclude(&inbound, exchange, &mut record, Err(error.into())).await;
}

/// Answers a refusal, and breaks off what cannot be finished.
async fn conclude<E: Exchange>(
    inbound: &Inbound<'_>,
    exchange: &mut E,
    record: &mut AccessRecord,
    result: Result<(), Failure>,
) {
    let refusal = match result {
        Ok(()) => return record.complete(),
        Err(Failure::Refused(refusal)) if !exchange.has_begun() => refusal,
        Err(Failure::Refused(_) | Failure::BrokenOff) => return exchange.abort(),
    };
    // Only 401s are delayed; before authentication nobody can tell who has a key.
    if refusal.status() == StatusCode::UNAUTHORIZED {
        inbound.worker.unauthenticated.wait().await;
    }
    record.refused(&refusal);
    if refusal.ends_connection() {
        exchange.close_after();
    }
    let format = inbound.error_format();
    let response = format.response(&refusal, &inbound.worker.buffers);
    match inbound.respond(exchange, record, response).await {
        Ok(()) => record.complete(),
        Err(_) => exchange.abort(),
    }
}

/// A panic is one request's: the others of its worker go on.
async fn contain(
    mut request: Pin<&mut impl Future<Output = Result<(), Failure>>>,
) -> Result<(), Failure> {
    poll_fn(|cx| {
        let poll = || request.as_mut().poll(cx);
        catch_unwind(AssertUnwindSafe(poll)).unwrap_or(Poll::Ready(Err(Refusal::Internal.into())))
    })
    .await
}

async fn admit_and_forward<E: Exchange>(
    inbound: &Inbound<'_>,
    exchange: &mut E,
    record: &mut AccessRecord,
) -> Result<(), Failure> {
    let (worker, head) = (inbound.worker, exchange.head());
    if let Some(response) = local_responses::health(worker, head) {
        record.health_check();
        return inbound.respond(exchange, record, response).await;
    }
    if inbound.web_origin.is_some()
        && let Some(response) = local_responses::preflight(worker, head)
    {
        return inbound.respond(exchange, record, response).await;
    }
    worker.check_open()?;

    // Read before the key is looked up: a change after that is noticed by the lease.
    let generation = worker.table.generation();
    let token = credential::token(head.fields())?; // 1
    let hash = token.hash();
    let entry = worker.table.find(&hash); // 2
    if let Some(entry) = &entry {
        record.key(entry, &hash);
    }
    let account = entry.as_deref().and_then(Entry::account_rules);
    let key = entry.as_deref().map(Entry::key);
    let key = key.map(|key| JudgedKey::new(key, account.as_deref()));
    let caller = decide::caller(key, &hash, inbound.client, inbound.now)?; // 2 to 4
    let entry = entry.as_ref().ok_or(Denial::InvalidApiKey)?;
    if entry.account().is_some() && !worker.table.knows_accounts() {
        // Its account may forbid what the key allows.
        return Err(Refusal::NotReady.into());
    }
    worker.table.count(entry, caller.token(), inbound.now);
    if let Some(usage) = &worker.usage {
        usage.add_key_use(entry.key().id(), inbound.now.seconds());
    }
    exchange.authenticated();

    let route = route::of(head.method(), head.path())?; // 5
    record.route(route.label());
    let response = match route {
        Route::Forward(endpoint) => {
            let limits = RequestLimits::of(worker, entry);
            if let Some(limits) = &limits {
                limits.check().await?; // 4b
            }
            let asked = asked::read(worker, endpoint, (caller, entry), exchange, record).await?; // 6
            let served_by = |_: &str| asked.upstream.clone();
            let sent_as = asked.sent_as.clone();
            let permit = caller
                .for_model(Arc::clone(&asked.model), sent_as, served_by)
                .map_err(|denial| {
                    local_responses::no_model(worker, caller, &asked.model, denial)
                })?; // 7
            record.upstream(permit.target());
            asked.judge_fields(permit.target())?;
            let running = match limits {
                Some(limits) => {
                    let expected = asked.expected_use(worker, endpoint);
                    let (running, reserved) = limits.take(expected).await?; // 7b
                    record.reserve(reserved);
                    running
                }
                None => RunningRequest::default(),
            };
            let passage = Passage {
                permit,
                generation,
                running,
            };
            return forward(inbound, asked, passage, entry, exchange, record).await; // 8
        }
        Route::Models => local_responses::models(worker, caller, head),
        Route::Model(id) => local_responses::one_model(worker, caller, &id, head)?,
        Route::Key => {
            let budgets = limit_views::budget_views(worker, entry).await;
            let head = exchange.head();
            local_responses::key(
                worker,
                (caller, entry),
                budgets,
                inbound.origin.source,
                head,
            )
        }
        // Boxed, so that it makes no other request larger.
        Route::KeyUsage => Box::pin(key_usage::answer(worker, caller, inbound.now, exchange))
            .await?
            .ok_or(Failure::BrokenOff)?,
    };
    inbound.respond(exchange, record, response).await
}

/// What lets a request go to its upstream.
struct Passage {
    permit: Permit<Arc<Upstream>>,
    generation: u64,
    /// Its place among those of its key; held until the upstream is released.
    running: RunningRequest,
}

/// Step 8: the request's way to its upstream and back.
async fn forward<E: Exchange>(
    inbound: &Inbound<'_>,
    mut asked: Asked,
    passage: Passage,
    entry: &Arc<Entry>,
    exchange: &mut E,
    record: &mut AccessRecord,
) -> Result<(), Failure> {
    let worker = inbound.worker;
    let Passage {
        permit,
        generation,
        mut running,
    } = passage;
    let _share = UpstreamShare::take(worker, entry)?;
    let (table, timer_entry) = (Arc::clone(&worker.table), Rc::clone(exchange.timer_entry()));
    let mut lease = Lease::new(permit, entry, table, generation, timer_entry);
    let read_at = asked.read_at;
    let kind = ResponseKind::of_path(asked.path);
    let mut edits = asked.body_edits(lease.permit(), entry.key())?;
    let upstream = lease.permit().target();
    let filter = ask_for_usage(
        (upstream.usage(), upstream.engine()),
        kind,
        &asked.places,
        &mut edits,
    );
    if kind == Some(ResponseKind::Audio)
        && let FilePlace::At(file) = &asked.places.file
    {
        let (body, shared) = asked.body.share();
        asked.body = body;
        record.file_length(FileLength::read(worker, shared, file.clone()));
    }
    let outbound = inbound.outbound(exchange.head(), lease.permit().target(), asked, edits);
    exchange.release_head();
    record.asked();
    running.asked();
    let sent = send(worker, &mut lease, outbound, exchange, record).await;
    if let Err(Failure::Refused(Refusal::Upstream(error))) = &sent
        && error.is_before_sending()
    {
        running.finish();
    }
    let mut response = sent?;
    let status = response.status();
    record.answered(status, response.overhead(read_at));
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        running.finish();
        return Err(Refusal::UpstreamRejected.into());
    }
    record.status(status);
    let is_stream = is_event_stream(response.fields());
    if let Some(kind) = kind
        && status.is_success()
        && response.fields().count(FieldKind::ContentEncoding) == 0
    {
        record.scan_with(match is_stream {
            true => UsageScanner::events(kind, filter),
            false => UsageScanner::json(kind),
        });
    }
    let length = match record.takes_out() {
        true => BodyLength::Unknown,
        false => response.length().into(),
    };
    if is_stream {
        // nginx would hold it back to fill its buffers.
        response.fields().push("x-accel-buffering", b"no");
    }
    inbound.begin(exchange, record, status, response.fields(), length);
    let format = inbound.error_format();
    relay::relay(worker, exchange, (response, running), lease, format, record)
        .await
        .map_err(|BrokenOff| Failure::BrokenOff)
}

/// Sends the request and waits for the response's head, for as long as the request is permitted and its client stays.
async fn send<E: Exchange>(
    worker: &Rc<Worker>,
    lease: &mut Lease,
    outbound: OutboundRequest,
    exchange: &mut E,
    record: &mut AccessRecord,
) -> Result<UpstreamResponse, Failure> {
    ready_tasks_ran().await;
    let permit = lease.permit().clone();
    let entry = Rc::clone(exchange.timer_entry());
    let mut sending = pin!(worker.pool.send(&permit, outbound, &entry));
    poll_fn(|cx| {
        if let Err(denial) = lease.check() {
            record.revoked(denial);
            return Poll::Ready(Err(denial.into()));
        }
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent.map_err(Failure::from));
        }
        if exchange.poll_closed(cx).is_ready() {
            return Poll::Ready(Err(Failure::BrokenOff));
        }
        entry.register(cx);
        Poll::Pending
    })
    .await
}

impl<'a> Inbound<'a> {
    fn of(worker: &'a Rc<Worker>, origin: Origin, head: &RequestHead) -> Self {
        let fields = head.fields();
        let started = SystemTime::now();
        let client = client_address(
            &worker.settings.client_address,
            origin.source.address,
            fields.all(FieldKind::XForwardedFor),
        );
        Self {
            worker,
            origin,
            started,
            now: unix_time(started),
            client,
            request_id: worker.new_request_id(),
            client_request_id: RequestId::from_client(fields.only(FieldKind::XRequestId)),
            style: ApiStyle::of(head.path()),
            web_origin: local_responses::listed_origin(worker, fields),
        }
    }

    fn begin_record(&self, method: &str) -> AccessRecord {
        AccessRecord::begin(
            self.worker,
            self.started,
            self.request_id.clone(),
            self.client_request_id.clone(),
            method,
            self.client,
        )
    }

    /// The id in the response: the client's own where it sent one.
    fn id_for_client(&self) -> &RequestId {
        self.client_request_id.as_ref().unwrap_or(&self.request_id)
    }

    fn error_format(&self) -> ErrorFormat<'_> {
        ErrorFormat {
            style: self.style,
            request_id: self.id_for_client().as_str(),
        }
    }

    /// Begins a response with what every response has of the gateway's own.
    fn begin<E: Exchange>(
        &self,
        exchange: &mut E,
        record: &AccessRecord,
        status: StatusCode,
        fields: &mut Fields,
        length: BodyLength,
    ) {
        let id = self.id_for_client().as_str().as_bytes();
        fields.push("x-request-id", id);
        if self.style == ApiStyle::Anthropic {
            // Where Anthropic's libraries look for it.
            fields.push("request-id", id);
        }
        if status != StatusCode::UNAUTHORIZED
            && let Some(limits) = record
                .entry()
                .and_then(|entry| RequestLimits::of(self.worker, entry))
        {
            limits.add_fields(self.style, fields);
        }
        if let Some(origin) = self.web_origin {
            fields.push("access-control-allow-origin", origin.as_bytes());
            fields.push("access-control-expose-headers", b"x-request-id");
            fields.push("vary", b"Origin");
        }
        if fields.count(FieldKind::Date) == 0 {
            // When the response began (RFC 9110 6.6.1), which may be long after the request.
            fields.push("date", &self.worker.date(SystemTime::now()));
        }
        exchange.begin(status, fields, length);
    }

    /// Sends a response of the gateway's own.
    async fn respond<E: Exchange>(
        &self,
        exchange: &mut E,
        record: &mut AccessRecord,
        mut response: LocalResponse,
    ) -> Result<(), Failure> {
        record.status(response.status);
        let length = BodyLength::Known(response.body.len() as u64);
        self.begin(
            exchange,
            record,
            response.status,
            &mut response.fields,
            length,
        );
        self.worker.buffers.give_fields(response.fields);
        record.sent(response.body.len());
        relay::send(self.worker, exchange, BodyPart::Last(&response.body))
            .await
            .map_err(|_| Failure::BrokenOff)
    }

    /// The request as it goes out.
    fn outbound(
        &self,
        head: &RequestHead,
        upstream: &Upstream,
        asked: Asked,
        edits: BodyEdits,
    ) -> OutboundRequest {
        let peer = self.origin.source.address.map(|peer| peer.to_canonical());
        let peer_text = peer.map(AddressText::of);
        let forwarded = ForwardedHeaders {
            request_id: self.request_id.as_str(),
            peer: peer_text.as_ref().map(AddressText::as_str),
            peer_is_trusted: match &self.worker.settings.client_address {
                ClientAddressSource::XForwardedFor { trusted_proxies } => {
                    peer.is_some_and(|peer| {
                        trusted_proxies
                            .iter()
                            .any(|network| network.contains(&peer))
                    })
                }
                ClientAddressSource::ProxyProtocol { .. } | ClientAddressSource::Peer => false,
            },
            scheme: self.origin.scheme,
            listed: upstream.forward_headers(),
            content_type: &asked.format.content_type(),
            length: edits.edited_length(asked.body.bytes().len()),
            is_changed: asked.is_decoded || !edits.is_empty(),
        };
        let request_line = (head.method(), head.target());
        let write = |out: &mut Vec<u8>| forwarded_headers::write(out, head, &forwarded);
        OutboundRequest::new(
            &self.worker.buffers,
            upstream,
            request_line,
            write,
            asked.body,
            edits,
        )
    }
}
