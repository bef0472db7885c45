//! Who changed what: the audit rows of sign-ins, the log lines of changes, GET /api/audit and GET /api/audit/verify.

use http::HeaderMap;
use http::request;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::access::AuthMethod;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::response::ApiResponse;
use crate::admin::usage::{ask, wants_csv, with_links};
use crate::admin::{Peer, Services, session};
use crate::http::request_id::RequestIds;
use crate::http::usage_page::{CsvWriter, with_milliseconds};
use crate::http::usage_query::UsageParameters;
use crate::observe::log::Event;
use crate::policy::audit::{
    AuditAction, AuditEntry, AuditMark, AuditRow, ChainBreak, ChainReport, ChangeOrigin, ChangeVia,
};
use crate::policy::network::ClientAddress;
use crate::store::audit::{AuditError, AuditTrail, entry};
use crate::store::database::{AuditQuery, AuditStatus, IfNotWritten};

/// The actor that has the admin token.
pub(super) const OPERATOR: &str = "operator";
/// The longest `before` or `after` of a log line, in bytes. The row has all of it.
const MAX_LOGGED: usize = 4 << 10;

/// An id that no other call has.
pub(super) fn request_id() -> String {
    let mut seed = [0; 32];
    match getrandom::fill(&mut seed) {
        Ok(()) => RequestIds::new(seed).make().as_str().to_owned(),
        Err(_) => "req_unknown".to_owned(),
    }
}

/// Who makes a call that was let in.
pub(super) fn origin(
    services: &Services,
    peer: Peer,
    method: AuthMethod,
    headers: &HeaderMap,
    request_id: &str,
) -> ChangeOrigin {
    let via = match method {
        AuthMethod::Session => ChangeVia::Panel,
        AuthMethod::NotRequired | AuthMethod::Socket | AuthMethod::Token => ChangeVia::Api,
    };
    let mut origin = unknown(services, peer, headers, via, request_id);
    if let Peer::Network { .. } = peer {
        origin.actor = OPERATOR.to_owned();
    }
    origin
}

/// Somebody who has not shown who it is. A peer on the socket is known in any case.
pub(super) fn unknown(
    services: &Services,
    peer: Peer,
    headers: &HeaderMap,
    via: ChangeVia,
    request_id: &str,
) -> ChangeOrigin {
    let (actor, via, address) = match peer {
        Peer::Socket { .. } => (peer.to_string(), ChangeVia::Socket, None),
        Peer::Network { .. } => {
            let address = match session::client(services, peer, headers) {
                ClientAddress::Known(address) => Some(address.to_string()),
                ClientAddress::Unknown => None,
            };
            ("unknown".to_owned(), via, address)
        }
    };
    ChangeOrigin {
        actor,
        via,
        address,
        request_id: Some(request_id.to_owned()),
    }
}

/// Adds who asked for a change.
pub(super) fn with_origin(event: Event, origin: &ChangeOrigin) -> Event {
    event
        .with("who", origin.to_string())
        .with("actor", origin.actor.clone())
        .with("via", origin.via.label())
        .with("address", origin.address.clone())
        .with("request_id", origin.request_id.clone())
}

/// Adds the number and the hash of the audit row.
pub(super) fn with_mark(event: Event, mark: Option<&AuditMark>) -> Event {
    event
        .with("n", mark.map(|mark| mark.n))
        .with("hash", mark.map(|mark| mark.hash.clone()))
}

/// The line of a change of a key that is in force.
pub(super) fn change_line(entry: &AuditEntry, mark: Option<&AuditMark>, is_written: bool) -> Event {
    let (before, after) = (object(&entry.before), object(&entry.after));
    let names = after.as_object().or(before.as_object());
    let fields: Vec<&String> = match entry.action {
        AuditAction::Delete => Vec::new(),
        _ => names.into_iter().flat_map(|fields| fields.keys()).collect(),
    };
    let result = match is_written {
        true => "ok",
        false => "in_force_not_written",
    };
    let event = with_origin(Event::info("change"), &entry.origin)
        .with("action", entry.action.label())
        .with("key_id", entry.target.clone())
        .with("fields", json!(fields))
        .with("before", before)
        .with("after", after)
        .with("result", result);
    with_mark(event, mark)
}

fn object(text: &Option<String>) -> Value {
    let text = text.as_deref().filter(|text| text.len() <= MAX_LOGGED);
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Records a sign-in. It must not begin where this fails.
pub(super) async fn record_sign_in(
    services: &Services,
    origin: ChangeOrigin,
    way: &'static str,
) -> Result<Option<AuditMark>, AuditError> {
    let entry = entry(AuditAction::SignIn, origin, Some(json!({"with": way})));
    let trail = AuditTrail::of(services.database.clone());
    trail.record(entry, IfNotWritten::Refuse).await
}

/// Records that a wrong token or link was shown.
pub(super) async fn record_failed_sign_in(
    services: &Services,
    origin: ChangeOrigin,
    way: &'static str,
) {
    let Some(count) = services.state.throttle.row() else {
        return;
    };
    let after = json!({"count": count, "with": way});
    let entry = entry(AuditAction::SignInFailed, origin, Some(after));
    let trail = AuditTrail::of(services.database.clone());
    // The sign-in is refused in any case.
    let _ = trail.record(entry, IfNotWritten::Wait).await;
}

/// Records and logs something that needs no more words.
pub(super) async fn record_done(
    services: &Services,
    action: AuditAction,
    origin: ChangeOrigin,
    if_not_written: IfNotWritten,
) -> Result<(), AuditError> {
    let entry = entry(action, origin.clone(), None);
    let trail = AuditTrail::of(services.database.clone());
    let mark = trail.record(entry, if_not_written).await?;
    let event = with_origin(Event::info("change"), &origin)
        .with("action", action.label())
        .with("result", "ok");
    services.log.event(with_mark(event, mark.as_ref()));
    Ok(())
}

#[derive(Serialize)]
struct RowsView<'r> {
    rows: Vec<RowView<'r>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct RowView<'r> {
    n: i64,
    at: String,
    actor: &'r str,
    via: &'r str,
    action: &'r str,
    target: Option<&'r str>,
    before: Value,
    after: Value,
    address: Option<&'r str>,
    request_id: Option<&'r str>,
    previous_hash: &'r str,
    hash: &'r str,
}

impl<'r> RowView<'r> {
    fn of(row: &'r AuditRow) -> Self {
        let AuditRow {
            n,
            at,
            actor,
            via,
            action,
            target,
            before,
            after,
            address,
            request_id,
            previous_hash,
            hash,
        } = row;
        let value = |text: &Option<String>| {
            let text = text.as_deref();
            // What somebody wrote into the database by hand may be no JSON; it is shown as it is.
            let value = text.map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.into()));
            value.unwrap_or_default()
        };
        Self {
            n: *n,
            at: with_milliseconds(*at),
            actor,
            via,
            action,
            target: target.as_deref(),
            before: value(before),
            after: value(after),
            address: address.as_deref(),
            request_id: request_id.as_deref(),
            previous_hash,
            hash,
        }
    }
}

/// GET /api/audit
pub(super) async fn rows(
    services: &Services,
    query: &Query,
    parts: &request::Parts,
) -> Result<ApiResponse, ApiError> {
    let as_csv = wants_csv(parts);
    let mut question: AuditQuery = UsageParameters(query.pairs()).audit()?;
    if services.database.is_none() {
        return Err(ApiError::NoAudit);
    }
    let answer = ask(services, move |database| {
        let limit = usize::try_from(question.limit).unwrap_or(usize::MAX);
        // One more says whether there is another page.
        question.limit = question.limit.saturating_add(1);
        let mut rows = database.audit_rows(&question)?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| last.n.to_string());
        let answer = match as_csv {
            true => ApiResponse::csv(csv(&rows)),
            false => ApiResponse::json(&RowsView {
                rows: rows.iter().map(RowView::of).collect(),
                next: next.clone(),
            }),
        };
        Ok((answer, next))
    });
    let (answer, next) = answer.await?;
    Ok(with_links(answer, parts, query, ("after", next)))
}

fn csv(rows: &[AuditRow]) -> String {
    let mut csv = CsvWriter::with_headings(
        "n,at,actor,via,action,target,before,after,address,request_id,previous_hash,hash",
    );
    for row in rows {
        csv.number(Some(row.n));
        csv.text(Some(&with_milliseconds(row.at)));
        for text in [&row.actor, &row.via, &row.action] {
            csv.text(Some(text));
        }
        for text in [
            &row.target,
            &row.before,
            &row.after,
            &row.address,
            &row.request_id,
        ] {
            csv.text(text.as_deref());
        }
        for text in [&row.previous_hash, &row.hash] {
            csv.text(Some(text));
        }
        csv.end_line();
    }
    csv.into_text()
}

#[derive(Serialize)]
struct VerifyView {
    intact: bool,
    rows: u64,
    first: Option<i64>,
    /// Up to here all rows are as they were written.
    intact_to: i64,
    hash: String,
    broken: Option<BreakView>,
    /// Rows that wait for the database, and rows that were lost since the start.
    waiting: usize,
    lost: u64,
}

#[derive(Serialize)]
struct BreakView {
    n: i64,
    what: &'static str,
    message: String,
}

/// GET /api/audit/verify
pub(super) async fn verify(services: &Services, query: &Query) -> Result<ApiResponse, ApiError> {
    if let Some((name, _)) = query.pairs().first() {
        return Err(ApiError::invalid(
            &crate::store::strict_json::printable(name),
            "is no known parameter; remove it",
        ));
    }
    if services.database.is_none() {
        return Err(ApiError::NoAudit);
    }
    let answer = ask(services, |database| {
        Ok((database.verify_audit()?, database.audit_status()))
    });
    let (report, status) = answer.await?;
    let ChainReport {
        rows,
        first,
        intact_to,
        broken,
    } = report;
    let AuditStatus { waiting, lost } = status;
    let view = |broken: &ChainBreak| BreakView {
        n: broken.n(),
        what: broken.label(),
        message: broken.to_string(),
    };
    Ok(ApiResponse::json(&VerifyView {
        intact: broken.is_none(),
        rows,
        first,
        intact_to: intact_to.n,
        hash: intact_to.hash,
        broken: broken.as_ref().map(view),
        waiting,
        lost,
    }))
}
