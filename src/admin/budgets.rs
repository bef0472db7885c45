//! POST /api/keys/{id}/reset-budgets: begins the budgets of a key anew within their periods.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use crate::admin::Services;
use crate::admin::change::{with_mark, with_origin};
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::response::ApiResponse;
use crate::admin::usage::ask;
use crate::observe::log::Event;
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::time::UnixTime;
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::IfNotWritten;

pub(super) async fn reset(
    services: &Services,
    origin: ChangeOrigin,
    id: &str,
    body: &[u8],
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    JsonObject::of(body)?.finish()?;
    let key_entry = services.table.by_id(id).ok_or(ApiError::UnknownKey)?;
    if services.database.is_none() {
        return Err(ApiError::NoDatabase);
    }
    let budgets: Vec<_> = key_entry.key().budgets().to_vec();
    let names: Vec<String> = budgets
        .iter()
        .map(|budget| format!("{}/{}", budget.unit.label(), budget.period.label()))
        .collect();
    // The row comes first: more may be used from here on.
    let row = AuditEntry {
        target: Some(id.to_owned()),
        ..entry(
            AuditAction::ResetBudgets,
            origin.clone(),
            Some(json!({"budgets": names})),
        )
    };
    let trail = AuditTrail::of(services.database.clone());
    let mark = trail.record(row, IfNotWritten::Refuse).await?;
    let zone = services.config.usage.time_zone.clone();
    let key = Arc::clone(&key_entry);
    ask(services, move |database| {
        for budget in &budgets {
            database.reset_budget(key.key().id(), budget, now, &zone)?;
        }
        // What is known is from before.
        key.limiter().unload();
        Ok(())
    })
    .await?;
    let event = with_origin(Event::info("change"), &origin)
        .with("action", AuditAction::ResetBudgets.label())
        .with("key_id", id.to_owned())
        .with("result", "ok");
    services.log.event(with_mark(event, mark.as_ref()));
    Ok(ApiResponse::empty(StatusCode::NO_CONTENT))
}
