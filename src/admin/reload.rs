//! Reloads key file, upstreams, prices, alerts and certificates, each independently. A part with faults stays unchanged.
//!
//! POST /api/reload and SIGHUP use this. Only one reload runs at a time, and it reads files on a blocking thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use serde::Serialize;

use crate::admin::Services;
use crate::admin::change;
use crate::admin::error::ApiError;
use crate::admin::input::{JsonObject, Query};
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::net::tls::{self, TlsError, TlsFieldError};
use crate::observe::log::{Event, Log};
use crate::observe::metrics::Metrics;
use crate::policy::audit::ChangeOrigin;
use crate::policy::price::PriceList;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock::now;
use crate::store::config::{self, Tls, parse::ParsedConfig};
use crate::store::fault::Fault;
use crate::store::key_store::{
    self, DropLimit, FollowState, LastReload, ReloadResult, Reloaded, StoreError,
};
use crate::table::{Difference, Entry, yield_every};
use crate::upstream::{Fleet, UpstreamTlsError};

/// Whether to reload or only to report what a reload would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadMode {
    /// Reload.
    Apply(DropLimit),
    /// Report what a reload would do.
    DryRun(DropLimit),
}

/// What a reload did, or would do.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The result for the key file.
    pub(crate) keys: Result<Reloaded, StoreError>,
    /// The faults of config, upstreams, prices and certificates; empty if all of them were reloaded.
    pub(crate) faults: Vec<Fault>,
    /// Changed settings that only a restart applies.
    pub(crate) restart_needed: Vec<&'static str>,
}

impl Outcome {
    /// The result as one word.
    #[must_use]
    pub(crate) fn result(&self) -> ReloadResult {
        match &self.keys {
            Err(error) => error.result(),
            Ok(_) if self.faults.is_empty() => ReloadResult::Ok,
            Ok(_) => ReloadResult::Faulty,
        }
    }

    /// The result as a sentence.
    #[must_use]
    pub(crate) fn message(&self) -> String {
        let config = match self.faults.as_slice() {
            [] => None,
            [only] => Some(only.to_string()),
            [first, more @ ..] => Some(format!("{first} (and {} more)", more.len())),
        };
        match (&self.keys, config) {
            (Ok(reloaded), None) => key_store::format_key_count(reloaded.keys),
            (Ok(reloaded), Some(config)) => {
                let keys = key_store::format_key_count(reloaded.keys);
                format!("{config}; the key file was loaded, {keys}")
            }
            (Err(error), None) => error.to_string(),
            (Err(error), Some(config)) => format!("{error}; {config}"),
        }
    }
}

#[derive(Serialize)]
struct View {
    generation: u64,
    keys: usize,
    added: usize,
    removed: usize,
    changed: usize,
    restart_needed: Vec<&'static str>,
    #[serde(flatten)]
    ids: Option<ChangedIds>,
}

#[derive(Serialize)]
struct ChangedIds {
    added_ids: Vec<String>,
    removed_ids: Vec<String>,
    changed_ids: Vec<String>,
    /// The name of each of these keys, by id: the new one where it changed.
    names: BTreeMap<String, String>,
    /// The fields that differ, by the id of each changed key.
    changes: BTreeMap<String, Vec<&'static str>>,
}

/// POST /api/reload
pub(super) async fn respond(
    services: &Arc<Services>,
    _: OperatorOnly,
    origin: ChangeOrigin,
    query: &Query,
    body: &[u8],
) -> Result<ApiResponse, ApiError> {
    let mut fields = JsonObject::of(body)?;
    let drops = match fields.switch("force")? {
        true => DropLimit::Ignore,
        false => DropLimit::Enforce,
    };
    let mode = match fields.switch("dry_run")? {
        true => ReloadMode::DryRun(drops),
        false => ReloadMode::Apply(drops),
    };
    fields.finish()?;
    let with_ids = query.switch("ids")?;
    let outcome = reload(services, origin, mode).await;
    // Writing or dropping a million keys would block the runtime's thread too long.
    tokio::task::spawn_blocking(move || build_response(outcome, mode, with_ids))
        .await
        .unwrap_or(Err(ApiError::Internal))
}

/// POST /api/fleet/accept-rollback
pub(super) async fn accept_rollback(
    services: &Arc<Services>,
    _: OperatorOnly,
    origin: ChangeOrigin,
    query: &Query,
    body: &[u8],
) -> Result<ApiResponse, ApiError> {
    let mut fields = JsonObject::of(body)?;
    let dry_run = fields.switch("dry_run")?;
    fields.finish()?;
    let with_ids = query.switch("ids")?;
    let _guard = services.state.reload_lock.lock().await;
    let key_store = services.key_store.on_behalf_of(origin);
    let accepted = key_store.accept_rollback(dry_run).await?;
    tokio::task::spawn_blocking(move || view(&accepted, Vec::new(), with_ids))
        .await
        .map_err(|_| ApiError::Internal)
}

fn build_response(
    outcome: Outcome,
    mode: ReloadMode,
    with_ids: bool,
) -> Result<ApiResponse, ApiError> {
    let reloaded = match outcome.keys {
        Ok(reloaded) if outcome.faults.is_empty() => reloaded,
        Ok(reloaded) => {
            let suffix = match mode {
                ReloadMode::Apply(_) => {
                    let keys = key_store::format_key_count(reloaded.keys);
                    format!("; the key file was loaded, {keys}")
                }
                ReloadMode::DryRun(_) => String::new(),
            };
            let faults = outcome.faults;
            return Err(ApiError::Faulty { faults, suffix });
        }
        Err(StoreError::Faulty(error)) => {
            let mut faults = error.faults().to_vec();
            faults.extend(outcome.faults);
            let suffix = String::new();
            return Err(ApiError::Faulty { faults, suffix });
        }
        Err(error) => return Err(error.into()),
    };
    Ok(view(&reloaded, outcome.restart_needed, with_ids))
}

fn view(reloaded: &Reloaded, restart_needed: Vec<&'static str>, with_ids: bool) -> ApiResponse {
    let difference = &reloaded.difference;
    let ids = |entries: &[Arc<Entry>]| {
        yield_every(entries, yield_if_due)
            .map(|entry| entry.key().id().to_owned())
            .collect()
    };
    ApiResponse::json(&View {
        generation: reloaded.generation,
        keys: reloaded.keys,
        added: difference.added.len(),
        removed: difference.removed.len(),
        changed: difference.changed.len(),
        restart_needed,
        ids: with_ids.then(|| ChangedIds {
            added_ids: ids(&difference.added),
            removed_ids: ids(&difference.removed),
            changed_ids: ids(&difference.changed),
            names: names_of(difference),
            changes: changes_of(difference),
        }),
    })
}

fn names_of(difference: &Difference) -> BTreeMap<String, String> {
    let lists = [&difference.added, &difference.removed, &difference.changed];
    lists
        .into_iter()
        .flat_map(|entries| yield_every(entries, yield_if_due))
        .map(|entry| (entry.key().id().to_owned(), entry.key().name().to_owned()))
        .collect()
}

fn changes_of(difference: &Difference) -> BTreeMap<String, Vec<&'static str>> {
    let changed = yield_every(&difference.changed, yield_if_due).zip(&difference.before);
    changed
        .map(|(entry, before)| {
            let fields = entry.key().changed_fields(before.key());
            (entry.key().id().to_owned(), fields)
        })
        .collect()
}

/// Reloads everything that can be reloaded, and logs who started it.
pub(crate) async fn reload(
    services: &Arc<Services>,
    origin: ChangeOrigin,
    mode: ReloadMode,
) -> Outcome {
    let _guard = services.state.reload_lock.lock().await;
    let key_store = services.key_store.on_behalf_of(origin.clone());
    let keys = match mode {
        ReloadMode::Apply(drops) => key_store.reload(drops).await,
        ReloadMode::DryRun(drops) => key_store.dry_run(drops).await,
    };
    let services_again = Arc::clone(services);
    let rest = tokio::task::spawn_blocking(move || settings(&services_again, mode)).await;
    let (faults, restart_needed) = rest.unwrap_or_else(|_| {
        let what = "could not be read again; the log says why";
        (vec![about(services, "", what.to_owned())], Vec::new())
    });
    let outcome = Outcome {
        keys,
        faults,
        restart_needed,
    };
    record_outcome(services, &origin, mode, &outcome);
    outcome
}

/// Reloads upstreams, prices, alerts and certificates. Returns the faults, and the settings that need a restart.
fn settings(services: &Services, mode: ReloadMode) -> (Vec<Fault>, Vec<&'static str>) {
    let ParsedConfig {
        config,
        upstreams,
        tls,
        prices,
        alerts,
        keys: _,
        socket: _,
    } = (services.config_source)();
    let mut restart_needed = Vec::new();
    let mut faults = match config {
        Ok(config) => {
            restart_needed = config::restart::restart_needed(&services.config, &config);
            if let ReloadMode::Apply(_) = mode {
                for warning in config.warnings() {
                    let event = Event::warn("config").with("message", warning.to_string());
                    services.log.event(event);
                }
            }
            Vec::new()
        }
        Err(faults) => faults,
    };
    let upstreams = upstreams.map(|mut upstreams| match mode {
        ReloadMode::Apply(_) => config::provide_secrets(&mut upstreams).map(|()| upstreams),
        ReloadMode::DryRun(_) => Ok(upstreams),
    });
    if let Ok(Err((file, error))) = &upstreams {
        faults.push(Fault {
            file: file.clone(),
            line: 0,
            field: "inject".to_owned(),
            message: format!("cannot be made ({error}); let the gateway's user write there, or set inject_secret_file"),
        });
    }
    if let Ok(Ok(upstreams)) = upstreams
        && let Err(UpstreamTlsError { upstream, error }) = fleet(services, mode, &upstreams)
    {
        let field = format!("upstreams.{upstream}.ca_file");
        faults.push(about_tls(services, &field, &error));
    }
    if let (Ok(prices), ReloadMode::Apply(_)) = (&prices, mode) {
        services.prices.store(Arc::new(PriceList::new(prices)));
    }
    if let (Ok(mut alerts), ReloadMode::Apply(_)) = (alerts, mode) {
        match config::provide_alert_secret(alerts.as_mut()) {
            Ok(()) => services.alerts.reload(alerts.as_ref()),
            Err((file, error)) => faults.push(Fault {
                file,
                line: 0,
                field: "alerts.secret_file".to_owned(),
                message: format!(
                    "cannot be made ({error}); let the gateway's user write there, or name another file"
                ),
            }),
        }
    }
    if let Ok(Some(tls)) = tls {
        let of_config = faults.iter().any(|fault| fault.section() == "tls");
        let found = certificates(services, mode, &tls);
        // If [tls] has a fault in the config, that fault already says what is wrong.
        if !of_config {
            let about = |(field, fault): &TlsFieldError| about_tls(services, field, fault);
            faults.extend(found.iter().map(about));
        }
    }
    (faults, restart_needed)
}

fn fleet(
    services: &Services,
    mode: ReloadMode,
    upstreams: &[config::UpstreamConfig],
) -> Result<(), UpstreamTlsError> {
    match mode {
        ReloadMode::Apply(_) => services.fleet.reload(upstreams),
        ReloadMode::DryRun(_) => Fleet::check(upstreams),
    }
}

/// Without certificates at the start there is no TLS until a restart, so they are only checked.
fn certificates(services: &Services, mode: ReloadMode, tls: &Tls) -> Vec<TlsFieldError> {
    match (mode, &services.certificates) {
        (ReloadMode::Apply(_), Some(certificates)) => certificates.reload(tls),
        (ReloadMode::DryRun(_), _) | (ReloadMode::Apply(_), None) => tls::check(tls),
    }
}

fn record_outcome(services: &Services, origin: &ChangeOrigin, mode: ReloadMode, outcome: &Outcome) {
    let result = outcome.result();
    let event = match result {
        ReloadResult::Ok => Event::info("change"),
        ReloadResult::Faulty | ReloadResult::Dropped | ReloadResult::Failed => {
            Event::error("change")
        }
    };
    let action = match mode {
        ReloadMode::Apply(_) => "reload",
        ReloadMode::DryRun(_) => "rehearse_reload",
    };
    let mut event = change::with_origin(event, origin)
        .with("action", action)
        .with("result", result.label())
        .with("message", outcome.message())
        .with("restart_needed", outcome.restart_needed.clone());
    if let Ok(reloaded) = &outcome.keys {
        event = event
            .with("generation", reloaded.generation)
            .with("added", reloaded.difference.added.len())
            .with("removed", reloaded.difference.removed.len())
            .with("changed", reloaded.difference.changed.len())
            .with("n", reloaded.audit.as_ref().map(|mark| mark.n))
            .with(
                "hash",
                reloaded.audit.as_ref().map(|mark| mark.hash.clone()),
            );
    }
    services.log.event(event);
    if let ReloadMode::DryRun(_) = mode {
        return;
    }
    // The key store counts the other results by its own events.
    if outcome.keys.is_ok() && result != ReloadResult::Ok {
        services.metrics.reload(result.label());
    }
    let last = LastReload {
        at: now(),
        result,
        message: outcome.message(),
    };
    *services
        .state
        .last_reload
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(last);
}

/// The last reload: a whole one, or one of the key file alone, at start or after the file changed.
pub(super) fn last(services: &Services) -> LastReload {
    let of_keys = services.key_store.status().last_reload.clone();
    let whole = services
        .state
        .last_reload
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match whole {
        Some(whole) if whole.at >= of_keys.at => whole,
        _ => of_keys,
    }
}

/// Logs and counts the events of the key store: the callback for [`key_store::KeyStore::start`].
pub(crate) fn record_event(
    log: &Log,
    metrics: &Metrics,
    now: UnixTime,
    event: &key_store::KeyStoreEvent<'_>,
) {
    let loaded = |name, reloaded: &Reloaded| {
        Event::info(name)
            .with("keys", reloaded.keys)
            .with("generation", reloaded.generation)
            .with("added", reloaded.difference.added.len())
            .with("removed", reloaded.difference.removed.len())
            .with("changed", reloaded.difference.changed.len())
            .with("n", reloaded.audit.as_ref().map(|mark| mark.n))
            .with(
                "hash",
                reloaded.audit.as_ref().map(|mark| mark.hash.clone()),
            )
    };
    log.event(match event {
        key_store::KeyStoreEvent::Reloaded(reloaded) => {
            metrics.reload(ReloadResult::Ok.label());
            metrics.last_reload(now.seconds());
            loaded("key_file_loaded", reloaded)
        }
        key_store::KeyStoreEvent::ReloadFailed(error) => {
            metrics.reload(error.result().label());
            Event::error("key_file_refused")
                .with("result", error.result().label())
                .with("reason", error.to_string())
        }
        key_store::KeyStoreEvent::Merged(reloaded) => loaded("key_file_merged", reloaded),
        key_store::KeyStoreEvent::Changed {
            entry,
            mark,
            is_written,
        } => change::change_line(entry, *mark, *is_written),
        key_store::KeyStoreEvent::WriteFailed { error, pending } => {
            metrics.unwritten_changes(*pending);
            let event = match error {
                StoreError::Database(_) => "keys_not_written",
                StoreError::Faulty(_)
                | StoreError::DropLimit(_)
                | StoreError::Audit(_)
                | StoreError::Io(_) => "key_file_not_written",
            };
            Event::error(event)
                .with("reason", error.to_string())
                .with("unwritten", *pending)
        }
        key_store::KeyStoreEvent::Followed {
            changed,
            removed,
            revision,
            lag,
        } => {
            metrics.fleet_lag(lag.as_secs_f64());
            Event::info("keys_followed")
                .with("changed", *changed)
                .with("removed", *removed)
                .with("revision", *revision)
                .with("lag_ms", lag.as_millis().to_string())
        }
        key_store::KeyStoreEvent::FollowChanged(state) => follow_line(state),
        key_store::KeyStoreEvent::KeyUnreadable { id, reason } => {
            let message = "this key in the database cannot be read, and is refused; use a version of keygate that knows it";
            of_key(Event::error("key_unreadable"), message, id).with("reason", *reason)
        }
        key_store::KeyStoreEvent::KeysUnreadable { more } => {
            let message = "further keys in the database cannot be read, and are refused; use a version of keygate that knows them";
            Event::error("key_unreadable")
                .with("message", message)
                .with("more", *more)
        }
        key_store::KeyStoreEvent::PendingDropped { id } => {
            let message = "a change that took access away while the database was away is not carried out: the key was changed \
                           there since";
            of_key(Event::warn("keys"), message, id)
        }
        key_store::KeyStoreEvent::PendingKept { id } => {
            let message = "another gateway has changed this key too, before access was taken away here, or it cannot be told \
                           which was first; what was taken away here is taken away";
            of_key(Event::warn("keys"), message, id)
        }
        key_store::KeyStoreEvent::CopyIncomplete { missing } => {
            let message = "a file of the last good copy of the keys is missing: somebody has removed it, or restored the other \
                           one alone; it is written anew once the keys of the database are in force";
            Event::error("keys")
                .with("message", message)
                .with("file", missing.display().to_string())
        }
        key_store::KeyStoreEvent::CopyFailed { error } => {
            let message = "the last good copy of the keys is not on disk: a start without the database would be with older keys";
            Event::error("keys")
                .with("message", message)
                .with("reason", *error)
        }
        key_store::KeyStoreEvent::PendingWritten { written } => {
            metrics.unwritten_changes(0);
            Event::info("key_file_caught_up").with("written", *written)
        }
    });
}

fn of_key(event: Event, message: &str, id: &str) -> Event {
    event.with("message", message).with("key_id", id)
}

fn follow_line(state: &FollowState) -> Event {
    match state {
        FollowState::InSync => {
            Event::info("keys").with("message", "the keys are those of the database")
        }
        FollowState::NotFollowed(error) => {
            let message = "the keys in force are those of before, or of the last good copy: the database cannot be followed";
            Event::error("keys")
                .with("message", message)
                .with("reason", error.to_string())
        }
    }
}

fn about_tls(services: &Services, field: &str, fault: &TlsError) -> Fault {
    let mut about = about(
        services,
        field,
        format!("{fault}; mend the file, or name another"),
    );
    if let Some(file) = fault.file() {
        about.file = file.into();
    }
    about
}

fn about(services: &Services, field: &str, message: String) -> Fault {
    Fault {
        file: services
            .config
            .file
            .clone()
            .unwrap_or_else(|| PathBuf::from("command line")),
        line: 0,
        field: field.to_owned(),
        message,
    }
}
