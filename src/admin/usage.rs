//! GET /api/usage and GET /api/usage/records: who used what, as JSON or as CSV.

use std::sync::Arc;

use http::header::{ACCEPT, HeaderValue, LINK, VARY};
use http::request;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::KeyScope;
use crate::admin::response::ApiResponse;
use crate::http::usage_page::{KeyNames, RecordsPage, UsagePage, records_csv, sums_csv};
use crate::http::usage_query::{Asker, UsageParameters};
use crate::observe::log::Event;
use crate::policy::time::UnixTime;
use crate::request_body::model::form_query;
use crate::store::database::{Database, DatabaseError};
use crate::table::Table;

/// GET /api/usage
pub(super) async fn sums(
    services: &Services,
    (query, scope): (&Query, KeyScope),
    parts: &request::Parts,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let as_csv = wants_csv(parts);
    // Whoever takes a table takes all of it.
    let question = UsageParameters(query.pairs()).sums(Asker::Operator, now, as_csv)?;
    let currency = services.config.usage.currency.clone();
    let next = question.next.map(|next| next.to_string());
    let table = Arc::clone(&services.table);
    let answer = ask(services, move |database| {
        let rows = database.sums(&question.sums)?;
        let names = names_of(
            &table,
            &scope,
            rows.iter().filter_map(|row| row.key_id.as_deref()),
        );
        Ok(match (as_csv, question.sums.group_by.key) {
            (true, _) => ApiResponse::csv(sums_csv(&question, &rows, &currency, &names)),
            (false, false) => ApiResponse::json(&UsagePage::of(&question, &rows, &currency)),
            (false, true) => {
                let page = UsagePage::of(&question, &rows, &currency);
                ApiResponse::json(&page.with_names(names))
            }
        })
    });
    Ok(with_links(answer.await?, parts, query, ("page", next)))
}

/// GET /api/usage/records
pub(super) async fn records(
    services: &Services,
    (query, scope): (&Query, KeyScope),
    parts: &request::Parts,
) -> Result<ApiResponse, ApiError> {
    let as_csv = wants_csv(parts);
    let mut question = UsageParameters(query.pairs()).records()?;
    let currency = services.config.usage.currency.clone();
    let table = Arc::clone(&services.table);
    let answer = ask(services, move |database| {
        let limit = usize::try_from(question.limit).unwrap_or(usize::MAX);
        // One more says whether there is another page.
        question.limit = question.limit.saturating_add(1);
        let mut records = database.records(&question)?;
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().map(|last| last.id).filter(|_| more);
        let names = names_of(
            &table,
            &scope,
            records.iter().map(|record| record.key_id.as_str()),
        );
        let answer = match as_csv {
            true => ApiResponse::csv(records_csv(&records, &currency, &names)),
            false => ApiResponse::json(&RecordsPage::of(&records, next, &currency, names)),
        };
        Ok((answer, next.map(|next| next.to_string())))
    });
    let (answer, next) = answer.await?;
    Ok(with_links(answer, parts, query, ("after", next)))
}

/// The names of those of these keys that are in the table, and that the caller may see: a key may have moved to another
/// account.
fn names_of<'r>(table: &Table, scope: &KeyScope, ids: impl Iterator<Item = &'r str>) -> KeyNames {
    let mut names = KeyNames::new();
    for id in ids {
        if !names.contains_key(id)
            && let Some(entry) = table.by_id(id)
            && scope.sees(entry.key())
        {
            names.insert(id.to_owned(), entry.key().name().to_owned());
        }
    }
    names
}

/// Asks the database on a thread that may wait for the disk.
pub(super) async fn ask<T: Send + 'static>(
    services: &Services,
    question: impl FnOnce(&Database) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, ApiError> {
    let database = services.database.as_ref().ok_or(ApiError::NoDatabase)?;
    let database = Arc::clone(database);
    let answer = tokio::task::spawn_blocking(move || question(&database));
    let answer = answer.await.map_err(|_| ApiError::Internal)?;
    answer.map_err(|error| {
        let event = Event::warn("database").with("message", "cannot be read");
        services.log.event(event.with("reason", error.to_string()));
        ApiError::DatabaseFailed
    })
}

/// Whether CSV is named in Accept, and JSON is not.
pub(super) fn wants_csv(parts: &request::Parts) -> bool {
    let named = |name: &str| {
        let values = parts.headers.get_all(ACCEPT).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let mut kinds = texts.flat_map(|text| text.split(','));
        kinds.any(|kind| {
            let kind = kind.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case(name)
        })
    };
    named("text/csv") && !named("application/json")
}

/// Adds what says that the form depends on Accept, and where the next page is (RFC 8288): CSV has no other place for it.
pub(super) fn with_links(
    answer: ApiResponse,
    parts: &request::Parts,
    query: &Query,
    (cursor, next): (&str, Option<String>),
) -> ApiResponse {
    let answer = answer.with(VARY, HeaderValue::from_static("Accept"));
    let Some(next) = next else {
        return answer;
    };
    let kept = query.pairs().iter().filter(|(name, _)| name != cursor);
    let kept = kept.map(|(name, value)| (name.as_str(), value.as_str()));
    let query = form_query(kept.chain([(cursor, next.as_str())]));
    let link = format!("<{}?{query}>; rel=\"next\"", parts.uri.path());
    match HeaderValue::try_from(link) {
        Ok(link) => answer.with(LINK, link),
        Err(_) => answer,
    }
}
