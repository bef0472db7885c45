//! How the gateway stands: for people, and for what watches it.

use serde::Serialize;

use crate::runtime::lifecycle::Phase;

use super::reply::Reply;
use super::{Services, reload};

#[derive(Serialize)]
struct View {
    version: &'static str,
    generation: u64,
    keys: usize,
    last_reload: LastReload,
    /// Deletes and disables in force that the key file does not hold yet, and why it does not.
    unwritten_changes: usize,
    unwritten_reason: Option<String>,
    upstreams: Vec<Upstream>,
    in_flight: i64,
    draining: bool,
}

/// How the last reload ended.
#[derive(Serialize)]
pub(super) struct LastReload {
    at: String,
    result: &'static str,
    message: String,
}

impl LastReload {
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
struct Upstream {
    name: String,
    models: Vec<String>,
    replicas: Vec<Replica>,
}

#[derive(Serialize)]
struct Replica {
    url: String,
    up: bool,
}

/// GET /api/status
pub(super) fn status(services: &Services) -> Reply {
    let keeper = services.keeper.status();
    let routing = services.fleet.routing();
    let upstreams = routing.upstreams().iter().map(|upstream| Upstream {
        name: upstream.name().to_owned(),
        models: upstream.models(),
        replicas: upstream
            .replicas()
            .iter()
            .map(|replica| Replica {
                url: replica.url().to_string(),
                up: replica.is_up(),
            })
            .collect(),
    });
    Reply::json(&View {
        version: env!("CARGO_PKG_VERSION"),
        generation: services.table.generation(),
        keys: services.table.len(),
        last_reload: LastReload::of(services),
        unwritten_changes: keeper.pending,
        unwritten_reason: keeper.pending_error.as_ref().map(ToString::to_string),
        upstreams: upstreams.collect(),
        in_flight: services.metrics.in_flight(),
        draining: services.lifecycle.phase() != Phase::Running,
    })
}

/// GET /metrics
pub(super) fn metrics(services: &Services) -> Reply {
    let metrics = &services.metrics;
    metrics.table(services.table.len(), services.table.generation());
    metrics.unwritten_changes(services.keeper.status().pending);
    Reply::metrics(metrics.render())
}
