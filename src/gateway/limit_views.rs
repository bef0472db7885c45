//! What is left of the limits and budgets of a key, as its owner sees it.

use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use crate::gateway::budgets;
use crate::gateway::limit_fields::time_text;
use crate::gateway::limits::RequestLimits;
use crate::gateway::worker::Worker;
use crate::policy::key_limiter::KeyLimiter;
use crate::policy::key_limits::LimitKind;
use crate::store::budgets::{BudgetLeftView, left};
use crate::table::{Ceiling, Entry};

/// A limit as the owner of the key sees it.
#[derive(Debug, Serialize)]
pub(super) struct LimitView {
    name: &'static str,
    limit: u64,
    remaining: u64,
    /// When nothing of it is used any more, if nothing more is; null where nobody knows.
    resets_at: Option<String>,
}

/// The limits in force for a key under its account, and what is left of them.
pub(super) fn limit_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<LimitView> {
    let Some(limits) = RequestLimits::of(worker, entry) else {
        return Vec::new();
    };
    let view = |kind: LimitKind| {
        let left = match kind {
            LimitKind::RequestsPerMinute => {
                limits.least_left(|rates| rates.requests_per_minute, KeyLimiter::requests_left)
            }
            LimitKind::TokensPerMinute => {
                limits.least_left(|rates| rates.tokens_per_minute, KeyLimiter::tokens_left)
            }
            LimitKind::ConcurrentRequests => {
                limits.least_left(|rates| rates.concurrent_requests, KeyLimiter::places_left)
            }
        }?;
        let has_reset = kind != LimitKind::ConcurrentRequests;
        Some(LimitView {
            name: kind.name(),
            limit: left.limit,
            remaining: left.remaining,
            resets_at: has_reset.then(|| time_text(left.reset_after)),
        })
    };
    LimitKind::ALL.into_iter().filter_map(view).collect()
}

/// The budgets of a key and then those of its account, and what is left of them.
pub(super) async fn budget_views(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Vec<BudgetLeftView> {
    let ceilings = Ceiling::of(entry, &worker.settings.default_limits);
    let mut views = Vec::new();
    for ceiling in ceilings.into_iter().flatten().flatten() {
        let holder = &ceiling.holder;
        // Where it cannot be read, it is shown as not known.
        let _ = Box::pin(budgets::load(worker, holder)).await;
        if let Some(shared) = &worker.shared_limits {
            // What the other gateways have used.
            Box::pin(shared.renewed(&ceiling)).await;
        }
        let link = worker.shared_limits.as_ref().map(|shared| shared.link());
        views.extend(left(holder, &worker.settings.time_zone, link));
    }
    views
}
