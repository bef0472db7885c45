//! The gateways that share a database, in a real PostgreSQL. The revision of the keys is the test's.

use tokio::sync::watch;

use super::*;
use crate::admin::gateways;
use crate::policy::time::UnixTime;
use crate::store::database::{Fixture, GatewayReport};

/// How long a test waits for what is to happen.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Calls what waits for the database, off the thread of the runtime.
fn off<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(call).join().unwrap())
}

/// An API of one gateway of several.
struct FleetStage {
    api: TestApi,
    fixture: Fixture,
    database: Arc<Database>,
    revision: watch::Sender<Option<u64>>,
}

impl FleetStage {
    fn new(revision: Option<u64>) -> Self {
        let mut api = TestApi::new();
        let fixture = Fixture::postgres();
        let database = Arc::new(off(|| fixture.open("test")));
        let (revision, seen) = watch::channel(revision);
        let services = Arc::get_mut(&mut api.services).unwrap();
        services.database = Some(Arc::clone(&database));
        services.key_store = services.key_store.clone().with_revision(seen);
        let stage = Self {
            api,
            fixture,
            database,
            revision,
        };
        stage.commit(*stage.revision.borrow());
        stage
    }

    /// Puts the database's revision up.
    fn commit(&self, revision: Option<u64>) {
        // The first statement also makes the tables.
        off(|| self.database.gateways().unwrap());
        let revision = revision.unwrap_or(0);
        self.fixture.edit(&format!(
            "UPDATE revisions SET value = {revision} WHERE name = 'keys'"
        ));
    }

    /// Another gateway reports itself.
    fn report(&self, name: &str, revision: Option<u64>) {
        let report = GatewayReport {
            gateway: GatewayIdentity {
                name: name.to_owned(),
                instance: format!("instance of {name}"),
                started_at: UnixTime::from_seconds(1_800_000_000),
            },
            version: "0.0.9".to_owned(),
            revision,
            lag_ms: Some(1500),
            in_flight: 2,
        };
        off(|| self.database.report_gateway(&report).unwrap());
    }

    fn not_seen(&self, name: &str) {
        self.fixture.edit(&format!(
            "UPDATE gateways SET seen_at = seen_at - INTERVAL '11 seconds' WHERE name = '{name}'"
        ));
    }

    async fn list(&self) -> Value {
        self.api.operator("GET", "/api/fleet", Value::Null).await
    }
}

#[test]
fn a_gateway_with_a_database_of_its_own_lists_itself() {
    runtime().block_on(async {
        for api in [TestApi::new(), TestApi::with_usage(Vec::new())] {
            let list = api.operator("GET", "/api/fleet", Value::Null).await;
            assert_eq!(
                (&list["object"], &list["revision"], &list["database"]),
                (&json!("list"), &Value::Null, &Value::Null)
            );
            let gateway = &list["data"][0];
            assert_eq!(list["data"].as_array().unwrap().len(), 1);
            assert_eq!(
                (&gateway["name"], &gateway["state"], &gateway["is_this"]),
                (&json!("here"), &json!("in_sync"), &json!(true))
            );
            assert_eq!(gateway["instance"].as_str().unwrap().len(), 32);
            assert_eq!(gateway["revision"], Value::Null);
        }
    });
}

#[test]
fn each_gateway_is_listed_with_how_far_it_is_behind() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(9));
        stage.report("at", Some(9));
        stage.report("behind", Some(6));
        stage.report("file", None);
        stage.report("gone", Some(9));
        // Its database was restored from a backup.
        stage.report("restored", Some(11));
        stage.not_seen("gone");
        let list = stage.list().await;
        assert_eq!(
            (&list["revision"], &list["database"]["up"]),
            (&json!(9), &json!(true))
        );
        let rows: Vec<Value> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| json!([row["name"], row["revision"], row["behind"], row["state"]]))
            .collect();
        assert_eq!(
            rows,
            [
                json!(["at", 9, 0, "in_sync"]),
                json!(["behind", 6, 3, "behind"]),
                json!(["file", null, null, "behind"]),
                json!(["gone", 9, 0, "not_seen"]),
                json!(["restored", 11, -2, "behind"]),
                json!(["here", 9, 0, "in_sync"]),
            ]
        );
        let first = &list["data"][0];
        assert_eq!(
            json!([
                first["version"],
                first["started_at"],
                first["lag_seconds"],
                first["in_flight"],
                first["is_this"]
            ]),
            json!(["0.0.9", "2027-01-15T08:00:00Z", 1.5, 2, false])
        );
        assert!(UnixTime::parse(first["seen_at"].as_str().unwrap()).is_ok());
    });
}

#[test]
fn while_the_database_fails_the_gateways_are_shown_as_they_were_read_last() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(9));
        stage.fixture.edit("ALTER TABLE gateways RENAME TO hidden");
        let list = stage.list().await;
        let database = &list["database"];
        assert_eq!(
            (&database["up"], &database["read_at"]),
            (&json!(false), &Value::Null)
        );
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
        stage.fixture.edit("ALTER TABLE hidden RENAME TO gateways");
        stage.report("other", Some(9));
        let good = stage.list().await;
        stage.fixture.edit("ALTER TABLE gateways RENAME TO hidden");
        let list = stage.list().await;
        assert_eq!(list["data"][0], good["data"][0]);
        let database = &list["database"];
        assert_eq!(database["read_at"], good["database"]["read_at"]);
        assert!(database["error"].as_str().unwrap().contains("gateways"));
    });
}

#[test]
fn a_gateway_reports_itself_at_once_when_its_keys_change() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(1));
        stage.api.services.metrics.fleet_lag(0.25);
        let reported = async |revision: u64| {
            let until = tokio::time::Instant::now() + TIMEOUT;
            let mut since = tokio::time::Instant::now();
            loop {
                let services = &stage.api.services;
                let read = services.state.gateways.read(&stage.database, since).await;
                let read = read.unwrap();
                let own = read.list.gateways.first();
                if own.is_some_and(|own| own.report.revision == Some(revision)) {
                    return own.unwrap().report.clone();
                }
                since = tokio::time::Instant::now();
                assert!(since < until, "{:?}", read.list);
            }
        };
        let test = async {
            let first = reported(1).await;
            assert_eq!(first.gateway, stage.api.services.gateway);
            assert_eq!((first.lag_ms, first.in_flight), (Some(250), 0));
            let begun = std::time::Instant::now();
            for revision in 2..12 {
                stage.revision.send_replace(Some(revision));
                reported(revision).await;
            }
            // With the time between reports alone, it would be 20 s.
            assert!(begun.elapsed() < Duration::from_secs(10));
        };
        tokio::select! {
            () = test => {}
            () = gateways::report(Arc::clone(&stage.api.services)) => panic!("it reports no more"),
        }
        let metrics = stage.api.call("GET", "/metrics", "").await;
        let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
        for line in [
            "keygate_gateways 1",
            "keygate_fleet_revision 11",
            "keygate_fleet_lag_seconds 0.25",
        ] {
            assert!(metrics.contains(line), "{line} in\n{metrics}");
        }
    });
}
