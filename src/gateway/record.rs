//! What becomes known of a request while it lives; logged once and counted once, when it ends, however it ends.

use std::time::{Instant, SystemTime};

use http::Method;

use crate::http::reply::Refusal;
use crate::observe::log::{Access, End, Log};
use crate::observe::metrics::Metrics;
use crate::policy::denial::Denial;
use crate::policy::network::ClientAddress;

/// Bytes of a model's name that are kept for the log line.
const MOST_MODEL: usize = 1024;

/// See the module's page. Dropping it logs and counts.
#[derive(Debug)]
pub struct Record {
    log: Log,
    metrics: Metrics,
    began: Instant,
    access: Option<Access>,
    outcome: &'static str,
    ended: Option<End>,
}

impl Record {
    /// A request's head was read.
    #[must_use]
    pub fn begin(
        log: Log,
        metrics: Metrics,
        started: SystemTime,
        request_id: &str,
        method: &Method,
        client: ClientAddress,
    ) -> Self {
        metrics.in_flight().inc();
        let access = Access {
            started,
            duration: std::time::Duration::ZERO,
            first_byte: None,
            request_id: request_id.into(),
            key_id: None,
            client,
            method: known(method),
            route: None,
            model: None,
            upstream: None,
            status: None,
            denial: None,
            bytes_in: 0,
            bytes_out: 0,
            end: End::ClientLeft,
        };
        Self {
            log,
            metrics,
            began: Instant::now(),
            access: Some(access),
            outcome: "allowed",
            ended: None,
        }
    }

    /// The key it is judged by.
    pub fn key(&mut self, id: &str) {
        self.note(|access| access.key_id = Some(id.into()));
    }

    /// The route it takes.
    pub fn route(&mut self, route: &'static str) {
        self.note(|access| access.route = Some(route));
    }

    /// The body it came with.
    pub fn body(&mut self, bytes: usize) {
        self.note(|access| access.bytes_in = bytes as u64);
    }

    /// The model it names, as far as a log line holds it: a client may send a name of any length.
    pub fn model(&mut self, model: &str) {
        let shown = &model[..model.floor_char_boundary(MOST_MODEL)];
        self.note(|access| access.model = Some(shown.into()));
    }

    /// The upstream it goes to.
    pub fn upstream(&mut self, name: &str) {
        self.note(|access| access.upstream = Some(name.into()));
    }

    /// The upstream answers.
    pub fn answered(&mut self, upstream: &str, status: http::StatusCode) {
        let first_byte = self.began.elapsed();
        self.metrics
            .response(upstream, status.as_str(), first_byte.as_secs_f64());
        self.note(|access| access.first_byte = Some(first_byte));
    }

    /// It is refused, or failed.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.outcome = refusal.code();
        self.note(|access| access.denial = Some(refusal.code()));
        if matches!(refusal, Refusal::Upstream(_) | Refusal::UpstreamRejected) {
            self.ended = Some(End::UpstreamFailed);
        }
    }

    /// What was permitted is so no longer.
    pub fn revoked(&mut self, denial: Denial) {
        self.outcome = denial.label();
        self.note(|access| access.denial = Some(denial.label()));
        self.ended = Some(End::Revoked);
    }

    /// The upstream broke off or fell silent in the middle of its answer.
    pub fn upstream_failed(&mut self) {
        self.ended = Some(End::UpstreamFailed);
    }

    /// The status of its answer.
    pub fn status(&mut self, status: http::StatusCode) {
        self.note(|access| access.status = Some(status.as_u16()));
    }

    /// So many bytes of its answer go out.
    pub fn sent(&mut self, bytes: usize) {
        self.note(|access| access.bytes_out += bytes as u64);
    }

    /// Its answer went out whole.
    pub fn complete(&mut self) {
        self.ended.get_or_insert(End::Complete);
    }

    fn note(&mut self, note: impl FnOnce(&mut Access)) {
        if let Some(access) = &mut self.access {
            note(access);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.in_flight().dec();
        let Some(mut access) = self.access.take() else {
            return;
        };
        access.duration = self.began.elapsed();
        access.end = self.ended.unwrap_or(End::ClientLeft);
        self.metrics
            .request(self.outcome, access.duration.as_secs_f64());
        self.log.access(access);
    }
}

/// The method's name, where HTTP knows it (RFC 9110 9.3, RFC 5789): a client may send anything.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
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
