//! GET /api/fleet: the gateways that share the database. Each reports itself there, and reads who else has.
//!
//! A report is sent every two seconds, and at once when other keys are in force. No request waits for it. While the
//! database is away, the gateways are shown as they were read last.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::admin::Services;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::observe::log::Event;
use crate::policy::time::UnixTime;
use crate::runtime::wall_clock::now;
use crate::store::database::{
    Database, DatabaseError, GatewayIdentity, GatewayList, GatewayReport, SeenGateway,
};
use crate::store::key_store::FollowStatus;

/// The time between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Changes of keys that follow each other faster share a report.
const REPORT_GAP: Duration = Duration::from_millis(50);
/// A report reads the list too, where it is older than this.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// How long a call waits for the database, before it shows what was read last.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The gateways as they were read last.
#[derive(Default)]
pub(super) struct LastGateways {
    /// Held by whoever reads. Those who wait for it take over what was read meanwhile.
    reading: tokio::sync::Mutex<()>,
    last: ArcSwapOption<GatewaysRead>,
}

pub(super) struct GatewaysRead {
    /// When the read began.
    pub(super) begun: Instant,
    at: UnixTime,
    pub(super) list: GatewayList,
}

impl LastGateways {
    /// The gateways as they are, or were after `since`.
    pub(super) async fn read(
        &self,
        database: &Arc<Database>,
        since: Instant,
    ) -> Result<Arc<GatewaysRead>, DatabaseError> {
        let _reading = self.reading.lock().await;
        let last = self.last.load_full();
        if let Some(last) = last.filter(|last| last.begun >= since) {
            return Ok(last);
        }
        let begun = Instant::now();
        let list = asked(database, Database::gateways).await?;
        let read = Arc::new(GatewaysRead {
            begun,
            at: now(),
            list: list.flatten().unwrap_or_default(),
        });
        self.last.store(Some(Arc::clone(&read)));
        Ok(read)
    }
}

/// The database, where other gateways may have it too.
pub(super) fn shared_database(services: &Services) -> Option<&Arc<Database>> {
    let database = services.database.as_ref();
    database.filter(|database| database.is_shared())
}

/// Reports this gateway to the others, for ever.
pub(crate) async fn report(services: Arc<Services>) {
    let Some(database) = shared_database(&services) else {
        return;
    };
    let mut revision = services.key_store.revision();
    let mut is_away = false;
    loop {
        // What changes from here on is another report.
        revision.borrow_and_update();
        let failed = report_once(&services, database).await.err();
        if failed.is_some() != is_away {
            is_away = failed.is_some();
            log_reports(&services, failed);
        }
        sleep(REPORT_GAP).await;
        tokio::select! {
            () = sleep(REPORT_EVERY.saturating_sub(REPORT_GAP)) => {}
            Ok(()) = revision.changed() => {}
        }
    }
}

async fn report_once(services: &Services, database: &Arc<Database>) -> Result<(), DatabaseError> {
    let report = this_gateway(services);
    asked(database, move |database| database.report_gateway(&report)).await?;
    let since = Instant::now();
    let since = since.checked_sub(LIST_EVERY).unwrap_or(since);
    let read = services.state.gateways.read(database, since).await?;
    let seen = read.list.seen();
    services.metrics.gateways(seen);
    let seen = u64::try_from(seen).unwrap_or(u64::MAX);
    services.key_store.gateways_seen(seen);
    if let Some(shared) = &services.shared_limits {
        shared.see_gateways(seen);
    }
    Ok(())
}

fn log_reports(services: &Services, failed: Option<DatabaseError>) {
    services.log.event(match failed {
        Some(error) => {
            let message =
                "this gateway cannot be reported to the others, which do not see it in 10 s";
            let event = Event::warn("fleet").with("message", message);
            event.with("reason", error.to_string())
        }
        None => {
            Event::info("fleet").with("message", "this gateway is reported to the others again")
        }
    });
}

fn this_gateway(services: &Services) -> GatewayReport {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a lag is no number of more than 63 bits"
    )]
    let lag = |seconds: f64| (seconds * 1000.0).round() as i64;
    GatewayReport {
        gateway: services.gateway.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: *services.key_store.revision().borrow(),
        database_behind: services
            .key_store
            .status()
            .database
            .as_ref()
            .is_some_and(FollowStatus::is_behind),
        lag_ms: services.metrics.last_fleet_lag().map(lag),
        in_flight: services.metrics.in_flight(),
    }
}

/// Asks the database on a thread that may wait for it. None: the process ends.
async fn asked<T: Send + 'static>(
    database: &Arc<Database>,
    ask: impl FnOnce(&Database) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<Option<T>, DatabaseError> {
    let database = Arc::clone(database);
    let asked = tokio::task::spawn_blocking(move || ask(&database)).await;
    asked.ok().transpose()
}

#[derive(Serialize)]
struct ListView {
    object: &'static str,
    /// None: no gateway has its keys from the database.
    revision: Option<u64>,
    /// None: no other gateway has the database, or there is none.
    database: Option<SharedDatabaseView>,
    data: Vec<GatewayView>,
}

#[derive(Serialize)]
struct SharedDatabaseView {
    up: bool,
    /// Why the gateways cannot be read.
    error: Option<String>,
    /// As of when they are shown; None: they were not read yet.
    read_at: Option<String>,
}

#[derive(Serialize)]
struct GatewayView {
    name: String,
    instance: String,
    version: String,
    started_at: String,
    seen_at: String,
    revision: Option<u64>,
    /// How many revisions it lacks. Less than 0: it has seen some that the database lacks.
    behind: Option<i64>,
    lag_seconds: Option<f64>,
    in_flight: i64,
    state: &'static str,
    is_this: bool,
}

/// GET /api/fleet
pub(super) async fn list(services: &Services, _: OperatorOnly) -> ApiResponse {
    let Some(database) = shared_database(services) else {
        return ApiResponse::json(&view(services, None, &GatewayList::default()));
    };
    let gateways = &services.state.gateways;
    let read = timeout(READ_TIMEOUT, gateways.read(database, Instant::now())).await;
    let (read, error) = match read {
        Ok(Ok(read)) => (Some(read), None),
        Ok(Err(error)) => (gateways.last.load_full(), Some(error.to_string())),
        Err(_) => {
            let error = "the server of the database does not answer; look whether it runs";
            (gateways.last.load_full(), Some(error.to_owned()))
        }
    };
    let state = SharedDatabaseView {
        up: error.is_none(),
        error,
        read_at: read.as_ref().map(|read| read.at.to_string()),
    };
    let none = GatewayList::default();
    let list = read.as_ref().map_or(&none, |read| &read.list);
    ApiResponse::json(&view(services, Some(state), list))
}

fn view(services: &Services, database: Option<SharedDatabaseView>, list: &GatewayList) -> ListView {
    let here = &services.gateway.instance;
    let is_here = |gateway: &SeenGateway| gateway.report.gateway.instance == *here;
    // Until its first report, and without a shared database, it is in no list.
    let missing = (!list.gateways.iter().any(is_here)).then(|| SeenGateway {
        report: this_gateway(services),
        seen_at: now(),
        unseen_ms: 0,
    });
    let all = list.gateways.iter().chain(&missing);
    ListView {
        object: "list",
        revision: list.revision,
        database,
        data: all
            .map(|gateway| gateway_view(gateway, list.revision, is_here(gateway)))
            .collect(),
    }
}

fn gateway_view(gateway: &SeenGateway, newest: Option<u64>, is_this: bool) -> GatewayView {
    let SeenGateway {
        report:
            GatewayReport {
                gateway:
                    GatewayIdentity {
                        name,
                        instance,
                        started_at,
                    },
                version,
                revision,
                database_behind,
                lag_ms,
                in_flight,
            },
        seen_at,
        unseen_ms: _,
    } = gateway;
    let state = match () {
        () if !gateway.is_seen() => "not_seen",
        () if *revision == newest && !database_behind => "in_sync",
        () => "behind",
    };
    #[allow(
        clippy::cast_precision_loss,
        reason = "a lag is no number of more than 52 bits"
    )]
    let seconds = |milliseconds: i64| milliseconds as f64 / 1000.0;
    GatewayView {
        name: name.clone(),
        instance: instance.clone(),
        version: version.clone(),
        started_at: started_at.to_string(),
        seen_at: seen_at.to_string(),
        revision: *revision,
        behind: newest
            .zip(*revision)
            .map(|(newest, seen)| newest.wrapping_sub(seen).cast_signed()),
        lag_seconds: lag_ms.map(seconds),
        in_flight: *in_flight,
        state,
        is_this,
    }
}
