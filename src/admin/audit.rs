//! GET /api/audit and GET /api/audit/verify: who changed what, and whether the rows are as they were written.

use http::request;
use serde::Serialize;
use serde_json::Value;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::admin::usage::{ask, wants_csv, with_links};
use crate::http::usage_page::{CsvWriter, with_milliseconds};
use crate::http::usage_query::UsageParameters;
use crate::policy::audit::AuditRow;
use crate::policy::audit_chain::{ChainBreak, ChainReport};
use crate::store::database::{AuditQuery, AuditStatus};
use crate::store::strict_json::printable;

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
    account: Option<&'r str>,
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
            account,
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
            account: account.as_deref(),
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
        "n,at,actor,via,action,target,before,after,address,request_id,previous_hash,hash,account",
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
        csv.text(row.account.as_deref());
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
pub(super) async fn verify(
    services: &Services,
    _: OperatorOnly,
    query: &Query,
) -> Result<ApiResponse, ApiError> {
    if let Some((name, _)) = query.pairs().first() {
        return Err(ApiError::invalid(
            &printable(name),
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
