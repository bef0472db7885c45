//! The gateways that share a database, and the wait for them, in a real PostgreSQL. The revision of the keys is the test's.

use tokio::sync::watch;

use super::*;
use crate::admin::gateways;
use crate::admin::wait::{WAIT, Waited};
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
            database_behind: false,
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

    /// Makes a key with this query; status and header of the answer.
    async fn create(&self, query: &str) -> TestResponse {
        let body = json!({"name": "n", "model_access": {"mode": "all"}}).to_string();
        self.api
            .call("POST", &format!("/api/keys{query}"), &body)
            .await
    }
}

fn waited(response: &TestResponse) -> Option<&str> {
    let value = response.headers.get(WAIT)?;
    Some(value.to_str().unwrap())
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

#[test]
fn a_change_that_waits_is_answered_when_it_is_in_force_everywhere_or_with_who_is_behind() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(5));
        let alone = stage.create("?wait=60s").await;
        assert_eq!(
            (alone.status, waited(&alone)),
            (StatusCode::CREATED, Some("in-force"))
        );
        stage.report("one", Some(5));
        stage.report("a, \"b\"", Some(4));
        stage.report("gone", Some(4));
        stage.not_seen("gone");
        let behind = stage.create("?wait=3s").await;
        let said = "behind; gateways=\"a%2C%20%22b%22\"";
        assert_eq!(
            (behind.status, waited(&behind)),
            (StatusCode::CREATED, Some(said))
        );
        assert_eq!(
            Waited::of_header(said),
            Some(Waited::Behind(vec!["a, \"b\"".to_owned()]))
        );
        // Without the parameter nobody waits.
        assert_eq!(waited(&stage.create("").await), None);

        let id = behind.json()["key"]["id"].as_str().unwrap().to_owned();
        let key = format!("/api/keys/{id}");
        let keyed = |method: &'static str, path: String, body: &'static str| {
            let api = &stage.api;
            async move { api.call(method, &format!("{path}?wait=60s"), body).await }
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stage.report("a, \"b\"", Some(5));
        };
        let (changed, ()) = tokio::join!(keyed("PATCH", key.clone(), "{\"name\":\"m\"}"), late);
        assert_eq!(
            (changed.status, waited(&changed)),
            (StatusCode::OK, Some("in-force"))
        );
        for (method, path, status) in [
            ("POST", format!("{key}/rotate"), 201),
            ("POST", format!("{key}/expire-previous"), 200),
            ("DELETE", key.clone(), 204),
        ] {
            let done = keyed(method, path, "").await;
            assert_eq!(
                (done.status.as_u16(), waited(&done)),
                (status, Some("in-force"))
            );
        }
        // What was refused is not waited for.
        let refused = keyed("DELETE", key, "").await;
        assert_eq!(
            (refused.status, waited(&refused)),
            (StatusCode::NOT_FOUND, None)
        );

        stage.fixture.edit("ALTER TABLE gateways RENAME TO hidden");
        let unknown = stage.create("?wait=1s").await;
        assert_eq!(
            (unknown.status, waited(&unknown)),
            (StatusCode::CREATED, Some("unknown"))
        );
    });
}

#[test]
fn a_wait_that_cannot_be_changes_nothing() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(5));
        for (query, part) in [
            ("?wait=", "not a duration"),
            ("?wait=5", "not a duration"),
            ("?wait=0s", "from 1s to 60s"),
            ("?wait=999ms", "from 1s to 60s"),
            ("?wait=61s", "from 1s to 60s"),
            ("?wait=1s&wait=1s", "comes twice"),
        ] {
            let refused = stage.create(query).await;
            assert_eq!(
                (refused.status.as_u16(), &*refused.field()),
                (422, "wait"),
                "{query}"
            );
            let message = refused.json()["error"]["message"].to_string();
            assert!(message.contains(part), "{query}: {message}");
        }
        stage.revision.send_replace(None);
        let refused = stage.create("?wait=1s").await;
        assert_eq!((refused.status.as_u16(), &*refused.field()), (422, "wait"));
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains("source = "), "{message}");
        assert_eq!(stage.api.services.table.len(), 0);
    });
}

#[test]
fn whoever_is_no_operator_is_told_no_gateway_by_name() {
    runtime().block_on(async {
        let stage = FleetStage::new(Some(5));
        let (api, address) = (&stage.api, ([192, 0, 2, 1], 9180).into());
        api.services.state.address.set(address).unwrap();
        api.operator("POST", "/api/accounts", json!({"id": "acme"}))
            .await;
        let owner = api.person("acme", "owner@acme.example", "owner").await;
        stage.report("secret-host", Some(4));
        let body = json!({"name": "n", "model_access": {"mode": "all"}, "account": "acme"});
        let made = api
            .in_session(&owner, "POST", "/api/keys?wait=3s", body)
            .await;
        assert_eq!(
            (made.status, waited(&made)),
            (StatusCode::CREATED, Some("behind"))
        );
        let list = api
            .in_session(&owner, "GET", "/api/fleet", Value::Null)
            .await;
        assert_eq!(list.status, 404);
    });
}
