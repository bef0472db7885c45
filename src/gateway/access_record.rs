//! What becomes known of a request while it lives; logged once, counted once and recorded once, when it ends, however it
//! ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use crate::gateway::file_length::FileLength;
use crate::gateway::limits::ReservedUse;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::request_id::RequestId;
use crate::http::usage_scanner::{Forward, UsageScanner};
use crate::observe::log::{AccessEntry, RequestEnd};
use crate::policy::denial::Denial;
use crate::policy::key::KeyToken;
use crate::policy::network::ClientAddress;
use crate::policy::token::TokenHash;
use crate::policy::usage::RequestCounts;
use crate::store::database::{RecordEnd, UsageRecord};
use crate::table::Entry;
use crate::upstream::Upstream;
use crate::upstream::pool::SendError;

/// Bytes of a model's name that are kept for the log line: a client may send a name of any length.
const MAX_MODEL: usize = 1024;

/// See the module's page. Dropping it logs, counts and records.
#[derive(Debug)]
pub(super) struct AccessRecord {
    worker: Rc<Worker>,
    started: SystemTime,
    began: Instant,
    first_byte: Option<Duration>,
    request_id: RequestId,
    client_request_id: Option<RequestId>,
    client: ClientAddress,
    method: &'static str,
    entry: Option<Arc<Entry>>,
    token: Option<KeyToken>,
    route: Option<&'static str>,
    model: Option<Arc<str>>,
    upstream: Option<Arc<Upstream>>,
    status: Option<u16>,
    denial: Option<&'static str>,
    /// Reads the counts in the response; None where it has none that can be read.
    scanner: Option<UsageScanner>,
    /// What was taken of its key's limits.
    reserved: Option<Box<ReservedUse>>,
    /// Whether a load balancer asks for the gateway's health. It does so every second or more often.
    is_health_check: bool,
    /// Whether a limit or a budget refused it, so that it used nothing and has no usage record.
    is_limited: bool,
    /// Whether the upstream may have worked for it.
    is_asked: bool,
    /// The length of the audio file that was sent with it.
    file_length: Option<FileLength>,
    /// How long it took, once it has ended.
    duration: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    ended: Option<RequestEnd>,
}

impl AccessRecord {
    /// A request's head was read.
    #[must_use]
    pub(super) fn begin(
        worker: &Rc<Worker>,
        started: SystemTime,
        request_id: RequestId,
        client_request_id: Option<RequestId>,
        method: &str,
        client: ClientAddress,
    ) -> Self {
        worker.metrics.begin();
        Self {
            worker: Rc::clone(worker),
            started,
            began: Instant::now(),
            first_byte: None,
            request_id,
            client_request_id,
            client,
            method: known(method),
            entry: None,
            token: None,
            route: None,
            model: None,
            upstream: None,
            status: None,
            denial: None,
            scanner: None,
            reserved: None,
            is_health_check: false,
            is_limited: false,
            is_asked: false,
            file_length: None,
            duration: None,
            bytes_in: 0,
            bytes_out: 0,
            ended: None,
        }
    }

    /// It is a health check.
    pub(super) fn health_check(&mut self) {
        self.is_health_check = true;
    }

    /// The key it is judged by, found by a token with this hash.
    pub(super) fn key(&mut self, entry: &Arc<Entry>, hash: &TokenHash) {
        self.token = entry.key().token_of(hash);
        self.entry = Some(Arc::clone(entry));
    }

    /// The key, where it is known.
    pub(super) fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }

    /// What was taken of its key's limits.
    pub(super) fn reserve(&mut self, reserved: ReservedUse) {
        self.reserved = Some(Box::new(reserved));
    }

    /// It is sent to its upstream from now on.
    pub(super) fn asked(&mut self) {
        self.is_asked = true;
    }

    /// The route it takes.
    pub(super) fn route(&mut self, route: &'static str) {
        self.route = Some(route);
    }

    /// The body it came with, read to its end.
    pub(super) fn body(&mut self, bytes: usize) {
        self.bytes_in = bytes as u64;
    }

    /// The model it names.
    pub(super) fn model(&mut self, model: &Arc<str>) {
        self.model = Some(match model.floor_char_boundary(MAX_MODEL) {
            all if all == model.len() => Arc::clone(model),
            most => model[..most].into(),
        });
    }

    /// The upstream it goes to.
    pub(super) fn upstream(&mut self, upstream: &Arc<Upstream>) {
        self.upstream = Some(Arc::clone(upstream));
    }

    /// The upstream answers; `overhead` is the gateway's own time on the request.
    pub(super) fn answered(&mut self, status: StatusCode, overhead: Duration) {
        let first_byte = self.began.elapsed();
        let upstream = self
            .upstream
            .as_ref()
            .map_or("", |upstream| upstream.name());
        let metrics = &self.worker.metrics;
        metrics.response(upstream, status.as_u16(), first_byte, overhead);
        self.first_byte = Some(first_byte);
    }

    /// It is refused, or failed.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.denial = Some(refusal.code());
        self.is_limited = refusal.is_of_limits();
        let never_sent = SendError::is_before_sending;
        if matches!(refusal, Refusal::Upstream(error) if never_sent(error)) {
            self.is_asked = false;
        }
        // Before the client is told: its next request may come at once.
        if !self.is_asked
            && let Some(reserved) = self.reserved.take()
        {
            reserved.cancel();
        }
        if matches!(refusal, Refusal::Upstream(_) | Refusal::UpstreamRejected) {
            self.ended = Some(RequestEnd::UpstreamFailed);
        }
    }

    /// What was permitted is so no longer.
    pub(super) fn revoked(&mut self, denial: Denial) {
        self.denial = Some(denial.label());
        self.ended = Some(RequestEnd::Revoked);
    }

    /// The upstream broke off or fell silent in the middle of its answer.
    pub(super) fn upstream_failed(&mut self) {
        self.ended = Some(RequestEnd::UpstreamFailed);
    }

    /// The status of its answer.
    pub(super) fn status(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
    }

    /// The counts are read in its answer.
    pub(super) fn scan_with(&mut self, scanner: UsageScanner) {
        self.scanner = Some(scanner);
    }

    /// An audio file came with it, whose length is being read.
    pub(super) fn file_length(&mut self, length: FileLength) {
        self.file_length = Some(length);
    }

    /// The upstream has sent a piece of its answer: what goes out in its place.
    #[inline]
    pub(super) fn relayed<'r>(&'r mut self, piece: &'r [u8]) -> &'r [u8] {
        let fed = self.scanner.as_mut().map(|scanner| scanner.feed(piece));
        Self::passed(fed, piece, &mut self.bytes_out)
    }

    /// The same for the answer's last piece.
    #[inline]
    pub(super) fn relayed_last<'r>(&'r mut self, piece: &'r [u8]) -> &'r [u8] {
        let fed = self
            .scanner
            .as_mut()
            .map(|scanner| scanner.feed_last(piece));
        Self::passed(fed, piece, &mut self.bytes_out)
    }

    fn passed<'r>(fed: Option<Forward<'r>>, piece: &'r [u8], bytes_out: &mut u64) -> &'r [u8] {
        let bytes = match fed {
            None | Some(Forward::Whole) => piece,
            Some(Forward::Instead(bytes)) => bytes,
        };
        *bytes_out += bytes.len() as u64;
        bytes
    }

    /// The upstream's answer has ended: what of it waits to go out.
    pub(super) fn rest(&mut self) -> &[u8] {
        let rest = self.scanner.as_ref().map_or(&b""[..], UsageScanner::rest);
        self.bytes_out += rest.len() as u64;
        rest
    }

    /// The upstream's answer has come whole: what was reserved is settled. Where the length of a file may count, that waits
    /// for the end of the record.
    pub(super) fn upstream_finished(&mut self) {
        if self.reserved.is_some() && self.file_length.is_none() {
            let counts = self.counts();
            self.settle(counts.as_ref());
        }
    }

    fn settle(&mut self, counts: Option<&RequestCounts>) {
        let Some(reserved) = self.reserved.take() else {
            return;
        };
        match counts {
            Some(counts) if self.is_asked => {
                // One whose client has left before the answer began has not failed: its upstream may have worked for it.
                let has_failed = self.status.is_some_and(|status| status >= 400);
                let prices = self.worker.prices.load();
                let model = self.model.as_ref();
                let cost = model.and_then(|model| prices.cost(model, counts));
                reserved.settle(counts, cost, has_failed);
            }
            Some(_) | None => reserved.cancel(),
        }
    }

    /// Whether parts of the answer may be taken out, and a rest may wait.
    pub(super) fn takes_out(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::takes_out)
    }

    /// Whether the last event of a stream has come: its client needs nothing more.
    pub(super) fn has_final_event(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::is_finished)
    }

    /// So many bytes of the gateway's own go out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Its answer went out whole.
    pub(super) fn complete(&mut self) {
        self.ended.get_or_insert(RequestEnd::Complete);
    }

    /// It has ended. Where its record needs the length of a file that is still being read, it is logged, counted and
    /// recorded when that is done, and nobody waits for it.
    pub(super) fn end(mut self) {
        let Some(mut length) = self.file_length.take_if(|length| length.is_pending()) else {
            return;
        };
        if !self.lacks_audio_length(&self.scanned_counts()) {
            return;
        }
        self.duration = Some(self.began.elapsed());
        let late = self.worker.late_record();
        tokio::task::spawn_local(async move {
            length.wait().await;
            self.file_length = Some(length);
            drop(self);
            drop(late);
        });
    }

    fn scanned_counts(&self) -> RequestCounts {
        let scanner = self.scanner.as_ref();
        scanner.map_or(RequestCounts::UNKNOWN, UsageScanner::counts)
    }

    /// Whether the upstream did its work and did not say how long the audio was.
    fn lacks_audio_length(&self, counts: &RequestCounts) -> bool {
        let is_success = |status| (200..300).contains(&status);
        counts.audio_microseconds.is_none()
            && self.first_byte.is_some()
            && self.status.is_some_and(is_success)
    }

    /// What it used, where it passed all checks: only then it has an upstream.
    fn counts(&self) -> Option<RequestCounts> {
        if self.is_limited {
            return None;
        }
        self.upstream.as_ref()?;
        let counts = self.scanned_counts();
        let length = self.file_length.as_ref().and_then(FileLength::known);
        Some(match length {
            Some(length) if self.lacks_audio_length(&counts) => {
                let microseconds = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
                counts.with_file_length(microseconds, self.end_kind() == RequestEnd::Complete)
            }
            Some(_) | None => counts,
        })
    }

    /// The record of its use, where it passed all checks.
    fn usage_record(&self, counts: RequestCounts, duration: Duration) -> Option<UsageRecord> {
        let (entry, upstream) = (self.entry.as_deref()?, self.upstream.as_deref()?);
        let (model, route) = (self.model.as_ref()?, self.route?);
        let since_1970 = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_at = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
        let duration_ms = whole_milliseconds(duration);
        Some(UsageRecord {
            request_id: self.request_id.as_str().into(),
            started_at,
            ended_at: started_at.saturating_add(i64::from(duration_ms)),
            key_id: entry.key().id().into(),
            account: entry.key().account().map(Arc::from),
            model: Arc::clone(model),
            upstream: upstream.name().into(),
            route: route.into(),
            status: self.status.unwrap_or(0),
            end: match self.end_kind() {
                RequestEnd::Complete => RecordEnd::Complete,
                RequestEnd::ClientLeft => RecordEnd::ClientLeft,
                RequestEnd::Revoked => RecordEnd::Revoked,
                RequestEnd::UpstreamFailed => RecordEnd::UpstreamFailed,
            },
            client_address: match self.client {
                ClientAddress::Known(address) => Some(address),
                ClientAddress::Unknown => None,
            },
            first_byte_ms: self.first_byte.map(whole_milliseconds),
            duration_ms,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            counts,
            cost: self.worker.prices.load().cost(model, &counts),
        })
    }

    fn end_kind(&self) -> RequestEnd {
        self.ended.unwrap_or(RequestEnd::ClientLeft)
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let duration = self.duration.unwrap_or_else(|| self.began.elapsed());
        let outcome = self.denial.unwrap_or("allowed");
        self.worker.metrics.end(outcome, duration.as_secs_f64());
        let counts = self.counts();
        if let (Some(counts), Some(model)) = (&counts, &self.model) {
            self.worker.metrics.usage(model, counts);
        }
        self.settle(counts.as_ref());
        if let (Some(counts), Some(usage)) = (counts, &self.worker.usage)
            && let Some(record) = self.usage_record(counts, duration)
        {
            usage.add(record);
        }
        if self.is_health_check && self.status == Some(200) {
            // It says nothing, and would drown what does.
            return;
        }
        self.worker.log.access(&AccessEntry {
            started: self.started,
            duration,
            first_byte: self.first_byte,
            request_id: self.request_id.as_str(),
            client_request_id: self.client_request_id.as_ref().map(RequestId::as_str),
            key_id: self.entry.as_ref().map(|entry| entry.key().id()),
            token: self.token.filter(|token| *token == KeyToken::Previous),
            client: self.client,
            method: self.method,
            route: self.route,
            model: self.model.as_deref(),
            upstream: self.upstream.as_ref().map(|upstream| upstream.name()),
            status: self.status,
            denial: self.denial,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            counts,
            end: self.end_kind(),
        });
    }
}

fn whole_milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The method's name, where HTTP knows it (RFC 9110 9.3, RFC 5789): a client may send anything.
fn known(method: &str) -> &'static str {
    match method {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "other",
    }
}
