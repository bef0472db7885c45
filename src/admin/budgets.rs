//! The budgets of a key: what is left of them, and POST /api/keys/{id}/reset-budgets, which begins them anew within their
//! periods.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use crate::admin::Services;
use crate::admin::change::{with_mark, with_origin};
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::admin::usage::ask;
use crate::observe::log::Event;
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::shared_limit::SharedKind;
use crate::policy::time::UnixTime;
use crate::store::audit::{AuditTrail, entry};
use crate::store::budgets::{self, BudgetLeftView};
use crate::store::database::IfNotWritten;
use crate::store::shared_limits::holder_id;
use crate::table::{Ceiling, LimitHolder};

/// What is left of a key's budgets. What was spent before is read from the database; where it cannot be read, it is shown
/// as not known. Of a key that does not exist, nothing.
pub(super) async fn left(services: &Services, id: &str) -> Vec<BudgetLeftView> {
    let Some(entry) = services.table.by_id(id) else {
        return Vec::new();
    };
    let holder = LimitHolder::Key(entry);
    // The reason is logged.
    let _ = load(services, &holder).await;
    let shared = services.shared_limits.as_ref();
    let link = shared.map(|shared| shared.link());
    if let LimitHolder::Key(entry) = &holder
        && !entry.key().budgets().is_empty()
        && let Some(shared) = shared
        && let Some([Some(ceiling), _]) = Ceiling::of(entry, &services.config.keys.default_limits)
    {
        // What the other gateways have used.
        shared.renewed(&ceiling).await;
    }
    budgets::left(&holder, &services.config.usage.time_zone, link)
}

/// Reads what was spent of the budgets of a key or an account where it is not known yet.
///
/// # Errors
/// There is no database, or it cannot be read.
pub(super) async fn load(services: &Services, holder: &LimitHolder) -> Result<(), ApiError> {
    if !budgets::is_unknown(holder) {
        return Ok(());
    }
    let (table, holder) = (Arc::clone(&services.table), holder.clone());
    let zone = services.config.usage.time_zone.clone();
    ask(services, move |database| {
        budgets::load(database, &table, &holder, &zone)
    })
    .await
}

pub(super) async fn reset(
    services: &Services,
    _: OperatorOnly,
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
        let kinds = budgets.iter();
        let kinds = kinds.map(|budget| SharedKind::Budget(budget.unit, budget.period).label());
        let holder = LimitHolder::Key(Arc::clone(&key));
        database.forget_shared(&holder_id(&holder), &kinds.collect::<Vec<_>>())?;
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
