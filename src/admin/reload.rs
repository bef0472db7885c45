//! The whole reload: key file, upstreams and certificates, each on its own. What is faulty stays as it was.
//!
//! Used by POST /api/reload and by whoever hears SIGHUP. Reloads take turns, and read and build off the runtime's
//! thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::net::tls::{self, FieldFault, TlsFault};
use crate::observe::log::{Event, Log};
use crate::observe::metrics::Metrics;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::config::{self, Tls, parse::ParsedConfig};
use crate::store::fault::Fault;
use crate::store::key_store::{self, DropLimit, LastReload, ReloadResult, Reloaded, StoreError};
use crate::table::{Entry, yield_every};
use crate::upstream::{Fleet, UpstreamFault};

use super::input::{Object, Query};
use super::reply::{Refusal, Reply};
use super::{Services, now};

/// One reload at a time.
pub(super) type Turn = tokio::sync::Mutex<()>;
/// How the last one ended.
pub(super) type LastOutcome = Mutex<Option<LastReload>>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To reload.
    Reload(DropLimit),
    /// To say what a reload would do.
    Rehearse(DropLimit),
}

/// What a reload did, or would do.
#[derive(Debug)]
pub struct Outcome {
    /// The key file.
    pub keys: Result<Reloaded, StoreError>,
    /// What is wrong with config, upstreams and certificates; empty: all of them were taken over.
    pub faults: Vec<Fault>,
    /// Settings that differ and that only a restart applies.
    pub restart_needed: Vec<&'static str>,
}

impl Outcome {
    /// How it ended.
    #[must_use]
    pub fn result(&self) -> ReloadResult {
        match &self.keys {
            Err(obstacle) => obstacle.result(),
            Ok(_) if self.faults.is_empty() => ReloadResult::Ok,
            Ok(_) => ReloadResult::Faulty,
        }
    }

    /// The same in a sentence.
    #[must_use]
    pub fn message(&self) -> String {
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
            (Err(obstacle), None) => obstacle.to_string(),
            (Err(obstacle), Some(config)) => format!("{obstacle}; {config}"),
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
    ids: Option<Ids>,
}

#[derive(Serialize)]
struct Ids {
    added_ids: Vec<String>,
    removed_ids: Vec<String>,
    changed_ids: Vec<String>,
}

/// POST /api/reload
pub(super) async fn answer(
    services: &Arc<Services>,
    who: &str,
    query: &Query,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let mut wishes = Object::of(body)?;
    let drops = match wishes.switch("force")? {
        true => DropLimit::Ignore,
        false => DropLimit::Enforce,
    };
    let wish = match wishes.switch("dry_run")? {
        true => Wish::Rehearse(drops),
        false => Wish::Reload(drops),
    };
    wishes.finish()?;
    let with_ids = query.switch("ids")?;
    let outcome = reload(services, who, wish).await;
    // To tell a million keys, or to forget them, is no work for the runtime's thread.
    tokio::task::spawn_blocking(move || shown(outcome, wish, with_ids))
        .await
        .unwrap_or(Err(Refusal::Internal))
}

fn shown(outcome: Outcome, wish: Wish, with_ids: bool) -> Result<Reply, Refusal> {
    let reloaded = match outcome.keys {
        Ok(reloaded) if outcome.faults.is_empty() => reloaded,
        Ok(reloaded) => {
            let besides = match wish {
                Wish::Reload(_) => {
                    let keys = key_store::format_key_count(reloaded.keys);
                    format!("; the key file was loaded, {keys}")
                }
                Wish::Rehearse(_) => String::new(),
            };
            let faults = outcome.faults;
            return Err(Refusal::Faulty { faults, besides });
        }
        Err(StoreError::Faulty(error)) => {
            let mut faults = error.faults().to_vec();
            faults.extend(outcome.faults);
            let besides = String::new();
            return Err(Refusal::Faulty { faults, besides });
        }
        Err(obstacle) => return Err(obstacle.into()),
    };
    let difference = &reloaded.difference;
    let ids = |entries: &[Arc<Entry>]| {
        yield_every(entries, yield_if_due)
            .map(|entry| entry.key().id().to_owned())
            .collect()
    };
    Ok(Reply::json(&View {
        generation: reloaded.generation,
        keys: reloaded.keys,
        added: difference.added.len(),
        removed: difference.removed.len(),
        changed: difference.changed.len(),
        restart_needed: outcome.restart_needed,
        ids: with_ids.then(|| Ids {
            added_ids: ids(&difference.added),
            removed_ids: ids(&difference.removed),
            changed_ids: ids(&difference.changed),
        }),
    }))
}

/// Reloads all that can be reloaded, and logs who asked for it.
pub async fn reload(services: &Arc<Services>, who: &str, wish: Wish) -> Outcome {
    let _turn = services.memory.reloading.lock().await;
    let keys = match wish {
        Wish::Reload(drops) => services.keeper.reload(drops).await,
        Wish::Rehearse(drops) => services.keeper.dry_run(drops).await,
    };
    let services_again = Arc::clone(services);
    let rest = tokio::task::spawn_blocking(move || settings(&services_again, wish)).await;
    let (faults, restart_needed) = rest.unwrap_or_else(|_| {
        let what = "could not be read again; the log says why";
        (vec![about(services, "", what.to_owned())], Vec::new())
    });
    let outcome = Outcome {
        keys,
        faults,
        restart_needed,
    };
    note_outcome(services, who, wish, &outcome);
    outcome
}

/// Upstreams and certificates, and what is wrong with the config they stand in.
fn settings(services: &Services, wish: Wish) -> (Vec<Fault>, Vec<&'static str>) {
    let ParsedConfig {
        config,
        upstreams,
        tls,
        keys: _,
        socket: _,
    } = (services.config_source)();
    let mut restart_needed = Vec::new();
    let mut faults = match config {
        Ok(config) => {
            restart_needed = config::restart::restart_needed(&services.config, &config);
            Vec::new()
        }
        Err(faults) => faults,
    };
    if let Ok(upstreams) = upstreams
        && let Err(UpstreamFault { upstream, fault }) = fleet(services, wish, &upstreams)
    {
        let field = format!("upstreams.{upstream}.ca_file");
        faults.push(about_tls(services, &field, &fault));
    }
    if let Ok(Some(tls)) = tls {
        let of_config = faults.iter().any(|fault| fault.section() == "tls");
        let found = certificates(services, wish, &tls);
        // A file's fault is mostly known by its line already.
        if !of_config {
            let about = |(field, fault): &FieldFault| about_tls(services, field, fault);
            faults.extend(found.iter().map(about));
        }
    }
    (faults, restart_needed)
}

fn fleet(
    services: &Services,
    wish: Wish,
    upstreams: &[config::UpstreamConfig],
) -> Result<(), UpstreamFault> {
    match wish {
        Wish::Reload(_) => services.fleet.reload(upstreams),
        Wish::Rehearse(_) => Fleet::check(upstreams),
    }
}

/// Whether there is TLS at all is settled at start.
fn certificates(services: &Services, wish: Wish, tls: &Tls) -> Vec<FieldFault> {
    match (wish, &services.certificates) {
        (Wish::Reload(_), Some(certificates)) => certificates.reload(tls),
        (Wish::Rehearse(_), _) | (Wish::Reload(_), None) => tls::check(tls),
    }
}

fn note_outcome(services: &Services, who: &str, wish: Wish, outcome: &Outcome) {
    let result = outcome.result();
    let event = match result {
        ReloadResult::Ok => Event::info("change"),
        ReloadResult::Faulty | ReloadResult::Dropped | ReloadResult::Failed => {
            Event::error("change")
        }
    };
    let action = match wish {
        Wish::Reload(_) => "reload",
        Wish::Rehearse(_) => "rehearse_reload",
    };
    let mut event = event
        .with("action", action)
        .with("who", who)
        .with("result", result.label())
        .with("message", outcome.message())
        .with("restart_needed", outcome.restart_needed.clone());
    if let Ok(reloaded) = &outcome.keys {
        event = event
            .with("generation", reloaded.generation)
            .with("added", reloaded.difference.added.len())
            .with("removed", reloaded.difference.removed.len())
            .with("changed", reloaded.difference.changed.len());
    }
    services.log.event(event);
    if let Wish::Rehearse(_) = wish {
        return;
    }
    // The keeper's own events count how the key file fared.
    if outcome.keys.is_ok() && result != ReloadResult::Ok {
        services.metrics.reload(result.label());
    }
    let last = LastReload {
        at: now(),
        result,
        message: outcome.message(),
    };
    *services
        .memory
        .last_reload
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(last);
}

/// The last reload: a whole one, or one of the key file alone, at start or because it was seen to change.
pub(super) fn last(services: &Services) -> LastReload {
    let of_keys = services.keeper.status().last_reload.clone();
    let whole = services
        .memory
        .last_reload
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match whole {
        Some(whole) if whole.at >= of_keys.at => whole,
        _ => of_keys,
    }
}

/// Logs and counts what the keeper did: for [`key_store::KeyStore::start`].
pub fn note(log: &Log, metrics: &Metrics, now: UnixTime, event: &key_store::KeyStoreEvent<'_>) {
    let loaded = |name, reloaded: &Reloaded| {
        Event::info(name)
            .with("keys", reloaded.keys)
            .with("generation", reloaded.generation)
            .with("added", reloaded.difference.added.len())
            .with("removed", reloaded.difference.removed.len())
            .with("changed", reloaded.difference.changed.len())
    };
    log.event(match event {
        key_store::KeyStoreEvent::Reloaded(reloaded) => {
            metrics.reload(ReloadResult::Ok.label());
            metrics.last_reload(now.seconds());
            loaded("key_file_loaded", reloaded)
        }
        key_store::KeyStoreEvent::ReloadFailed(obstacle) => {
            metrics.reload(obstacle.result().label());
            Event::error("key_file_refused")
                .with("result", obstacle.result().label())
                .with("reason", obstacle.to_string())
        }
        key_store::KeyStoreEvent::Merged(reloaded) => loaded("key_file_merged", reloaded),
        key_store::KeyStoreEvent::WriteFailed { error, pending } => {
            metrics.unwritten_changes(*pending);
            Event::error("key_file_not_written")
                .with("reason", error.to_string())
                .with("unwritten", *pending)
        }
        key_store::KeyStoreEvent::PendingWritten { written } => {
            metrics.unwritten_changes(0);
            Event::info("key_file_caught_up").with("written", *written)
        }
    });
}

fn about_tls(services: &Services, field: &str, fault: &TlsFault) -> Fault {
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
