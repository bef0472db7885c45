//! GET /api/status and GET /metrics.

use serde::Serialize;

use crate::admin::alerts::AlertsView;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::admin::{Services, reload};
use crate::runtime::lifecycle::Phase;
use crate::store::database::AuditStatus;
use crate::store::key_store::{FollowState, FollowStatus};

#[derive(Serialize)]
struct View {
    version: &'static str,
    generation: u64,
    keys: usize,
    last_reload: LastReloadView,
    /// Deletes and disables that are in force but not in the key file yet, and why not.
    unwritten_changes: usize,
    unwritten_reason: Option<String>,
    /// How the keys follow the database that several gateways share; None: they come from the key file.
    key_database: Option<KeyDatabaseView>,
    /// None: the config has no database.
    database: Option<DatabaseView>,
    /// None: the config has no database.
    audit: Option<AuditView>,
    /// None: the config has no alerts.
    alerts: Option<AlertsView>,
    upstreams: Vec<UpstreamView>,
    in_flight: i64,
    draining: bool,
}

/// How the last reload ended.
#[derive(Serialize)]
pub(super) struct LastReloadView {
    at: String,
    result: &'static str,
    message: String,
}

impl LastReloadView {
    pub(super) fn of(services: &Services) -> Self {
        let last = reload::last(services);
        Self {
            at: last.at.to_string(),
            result: last.result.label(),
            message: last.message,
        }
    }
}

#[derive(Serialize)]
struct KeyDatabaseView {
    state: &'static str,
    since: String,
    /// None: the keys could not be read yet.
    revision: Option<u64>,
    /// Why the database is not followed.
    error: Option<String>,
    /// Why the last good copy is not on disk.
    copy_error: Option<String>,
}

impl KeyDatabaseView {
    fn of(status: &FollowStatus, revision: Option<u64>) -> Self {
        Self {
            state: status.state.label(),
            since: status.since.to_string(),
            revision,
            error: match &status.state {
                FollowState::InSync => None,
                FollowState::NotFollowed(error) => Some(error.to_string()),
            },
            copy_error: status.copy_error.clone(),
        }
    }
}

#[derive(Serialize)]
struct DatabaseView {
    kind: &'static str,
    up: bool,
    error: Option<String>,
    waiting_bytes: usize,
    dropped_records: u64,
}

#[derive(Serialize)]
struct AuditView {
    waiting: usize,
    lost: u64,
}

#[derive(Serialize)]
struct UpstreamView {
    name: String,
    models: Vec<String>,
    replicas: Vec<ReplicaView>,
}

#[derive(Serialize)]
struct ReplicaView {
    url: String,
    up: bool,
    /// False while no connection to it was tried, so that `up` is a guess; left out afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    tried: Option<bool>,
}

/// GET /api/status
pub(super) fn status(services: &Services, _: OperatorOnly) -> ApiResponse {
    let key_store = services.key_store.status();
    let routing = services.fleet.routing();
    let upstreams = routing.upstreams().iter().map(|upstream| UpstreamView {
        name: upstream.name().to_owned(),
        models: upstream.models(),
        replicas: upstream
            .replicas()
            .iter()
            .map(|replica| ReplicaView {
                url: replica.url().to_string(),
                up: replica.is_up(),
                tried: (!replica.was_tried()).then_some(false),
            })
            .collect(),
    });
    ApiResponse::json(&View {
        version: env!("CARGO_PKG_VERSION"),
        generation: services.table.generation(),
        keys: services.table.len(),
        last_reload: LastReloadView::of(services),
        unwritten_changes: key_store.pending,
        unwritten_reason: key_store.pending_error.as_ref().map(ToString::to_string),
        key_database: key_store
            .database
            .as_ref()
            .map(|status| KeyDatabaseView::of(status, *services.key_store.revision().borrow())),
        database: services.database.as_ref().map(|database| {
            let status = database.status();
            DatabaseView {
                kind: database.kind(),
                up: status.up,
                error: status.error,
                waiting_bytes: status.waiting_bytes,
                dropped_records: status.dropped_records,
            }
        }),
        audit: services.database.as_ref().map(|database| {
            let AuditStatus { waiting, lost } = database.audit_status();
            AuditView { waiting, lost }
        }),
        alerts: AlertsView::of(services),
        upstreams: upstreams.collect(),
        in_flight: services.metrics.in_flight(),
        draining: services.lifecycle.phase() != Phase::Running,
    })
}

/// Keys in the metric of budgets. More would be too many labels for Prometheus.
const MOST_BUDGETS: usize = 50;

/// GET /metrics
pub(super) fn metrics(services: &Services) -> ApiResponse {
    let metrics = &services.metrics;
    metrics.table(services.table.len(), services.table.generation());
    metrics.unwritten_changes(services.key_store.status().pending);
    if let Some(database) = &services.database {
        let status = database.status();
        metrics.database(status.up, status.waiting_bytes, status.dropped_records);
        let AuditStatus { waiting, lost } = database.audit_status();
        metrics.audit(waiting, lost);
    }
    metrics.fleet_revision(*services.key_store.revision().borrow());
    let fullest = services.table.fullest_budgets(MOST_BUDGETS);
    let ratios = fullest
        .iter()
        .map(|(entry, ratio)| (entry.key().id(), *ratio));
    metrics.budgets(ratios);
    ApiResponse::metrics(metrics.render())
}
