//! The questions for usage, against a database that holds known records.

use http::header::ACCEPT;

use super::*;
use crate::policy::key::KeyToken;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::store::database::{DAY, Database, DatabaseUrl, HOUR, KeepFor, RecordEnd, UsageRecord};

/// The first second of a day.
const START: i64 = 1_764_288_000;

impl TestApi {
    /// An API with a database that holds these records.
    pub(super) fn with_usage(records: Vec<UsageRecord>) -> Self {
        let mut api = Self::new();
        let url = DatabaseUrl::Sqlite(api.folder.path().join("usage.db"));
        let forever = KeepFor {
            records: 100_000_000_000,
            sums: 100_000_000_000,
            audit: 400 * DAY,
        };
        let key = api.folder.path().join("audit.key");
        let database =
            Database::open(&url, &key, "gateway", "test", forever, Box::new(|_| ())).unwrap();
        let sender = database.sender();
        for record in records {
            sender.add(record);
        }
        let services = Arc::get_mut(&mut api.services).unwrap();
        services.database = Some(Arc::new(database));
        api
    }

    async fn csv(&self, target: &str) -> TestResponse {
        let request = Request::get(target).header("host", "localhost");
        let request = request.header(ACCEPT, "text/csv").body(Full::default());
        let peer = Peer::Socket { uid: None };
        self.send(peer, request.unwrap()).await
    }
}

fn record(key: &str, model: &str, at: i64) -> UsageRecord {
    UsageRecord {
        request_id: format!("{key}-{at}").into(),
        started_at: at * 1000 - 5,
        ended_at: at * 1000,
        key_id: key.into(),
        account: (key == "key_a").then(|| "team".into()),
        model: model.into(),
        upstream: "up".into(),
        route: "/v1/chat/completions".into(),
        status: 200,
        end: RecordEnd::Complete,
        client_address: None,
        first_byte_ms: Some(1),
        duration_ms: 5,
        bytes_in: 10,
        bytes_out: 20,
        counts: RequestCounts {
            input: Some(100),
            certainty: Certainty::Exact,
            ..RequestCounts::UNKNOWN
        },
        cost: None,
    }
}

fn some_records() -> Vec<UsageRecord> {
    vec![
        record("key_a", "good", START),
        record("key_a", "bad", START + HOUR),
        record("key_b", "good", START + HOUR),
        UsageRecord {
            end: RecordEnd::ClientLeft,
            ..record("key_b", "good", START + 25 * HOUR)
        },
    ]
}

fn first_results(page: &Value) -> &Vec<Value> {
    page["data"][0]["results"].as_array().unwrap()
}

#[test]
fn usage_is_summed_by_bucket_group_and_filter() {
    runtime().block_on(async {
        let api = TestApi::with_usage(some_records());
        let ask = async |query: &str| {
            let target = format!(
                "/api/usage?start_time={START}&end_time={}{query}",
                START + 26 * HOUR
            );
            let response = api.call("GET", &target, "").await;
            assert_eq!(response.status, 200, "{}", response.json());
            assert_eq!(response.headers["vary"], "Accept");
            response.json()
        };
        let days = ask("").await;
        assert_eq!(days["data"].as_array().unwrap().len(), 2);
        let all = &first_results(&days)[0];
        assert_eq!(
            (&all["num_model_requests"], &all["input_tokens"]),
            (&json!(3), &json!(300))
        );
        assert_eq!(
            (&all["output_tokens"], &all["model"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            (&days["has_more"], &days["currency"]),
            (&json!(false), &json!("EUR"))
        );
        let by_key = ask("&group_by=key&bucket_width=all").await;
        let rows = first_results(&by_key).iter();
        let rows: Vec<_> = rows
            .map(|row| (&row["key"], &row["num_model_requests"]))
            .collect();
        assert_eq!(
            rows,
            [(&json!("key_a"), &json!(2)), (&json!("key_b"), &json!(2))]
        );
        let by_account = ask("&group_by=account&bucket_width=all").await;
        let rows = first_results(&by_account).iter().map(|row| &row["account"]);
        assert_eq!(rows.collect::<Vec<_>>(), [&Value::Null, &json!("team")]);
        let two = ask("&key=key_a&key=key_b&model=good&bucket_width=all").await;
        assert_eq!(first_results(&two)[0]["num_model_requests"], 3);
        let hour = ask("&bucket_width=1h&limit=2").await;
        assert_eq!(hour["next_page"], json!((START + 2 * HOUR).to_string()));
        let next = ask(&format!("&bucket_width=1h&page={}", START + 2 * HOUR)).await;
        assert_eq!(
            (
                &next["data"][23]["results"][0]["num_model_requests"],
                &next["next_page"]
            ),
            (&json!(1), &Value::Null)
        );
    });
}

#[test]
fn usage_as_csv_is_the_whole_range_at_once() {
    runtime().block_on(async {
        let api = TestApi::with_usage(some_records());
        let query = format!(
            "start_time={START}&end_time={}&bucket_width=1h",
            START + 26 * HOUR
        );
        let all = api.csv(&format!("/api/usage?{query}")).await;
        assert_eq!(all.headers["content-type"], "text/csv; charset=utf-8");
        assert!(!all.headers.contains_key("link"));
        let text = String::from_utf8(all.body.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 1 + 3, "{text}");
        let part = api.csv(&format!("/api/usage?{query}&limit=2")).await;
        let link = format!(
            "</api/usage?{query}&limit=2&page={}>; rel=\"next\"",
            START + 2 * HOUR
        );
        assert_eq!(part.headers["link"], link.as_str());
        let records = api.csv("/api/usage/records?limit=3").await;
        let text = String::from_utf8(records.body.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 1 + 3, "{text}");
        let link = records.headers["link"].to_str().unwrap();
        assert!(
            link.starts_with("</api/usage/records?limit=3&after="),
            "{link}"
        );
    });
}

#[test]
fn records_come_newest_first_page_by_page_and_by_filter() {
    runtime().block_on(async {
        let api = TestApi::with_usage(some_records());
        let mut seen = Vec::new();
        let mut target = "/api/usage/records?limit=3".to_owned();
        loop {
            let page = api.call("GET", &target, "").await.json();
            let records = page["records"].as_array().unwrap();
            seen.extend(
                records
                    .iter()
                    .map(|record| record["request_id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => target = format!("/api/usage/records?limit=3&after={next}"),
                None => break,
            }
        }
        let newest_first = [("key_b", 25), ("key_b", 1), ("key_a", 1), ("key_a", 0)];
        assert_eq!(
            seen,
            newest_first.map(|(key, hour)| format!("{key}-{}", START + hour * HOUR))
        );
        let left = api
            .call("GET", "/api/usage/records?end=client_left&key=key_b", "")
            .await
            .json();
        assert_eq!(left["records"].as_array().unwrap().len(), 1);
        assert_eq!(left["records"][0]["end"], "client_left");
    });
}

#[test]
fn a_bad_question_names_its_field_and_one_without_a_database_says_so() {
    runtime().block_on(async {
        let api = TestApi::with_usage(Vec::new());
        for (target, field) in [
            ("/api/usage", "start_time"),
            (
                "/api/usage?start_time=1&end_time=2&group_by=day",
                "group_by",
            ),
            ("/api/usage?start_time=1&end_time=2&user=x", "user"),
            ("/api/usage/records?end=lost", "end"),
        ] {
            let response = api.call("GET", target, "").await;
            assert_eq!(
                (response.status.as_u16(), response.field().as_str()),
                (422, field),
                "{target}"
            );
        }
        let api = TestApi::new();
        for target in ["/api/usage?start_time=1&end_time=2", "/api/usage/records"] {
            let response = api.call("GET", target, "").await;
            assert_eq!(response.status, 404);
            let error = &response.json()["error"];
            assert_eq!(error["code"], "usage_unavailable");
            assert!(error["message"].as_str().unwrap().contains("[database]"));
        }
    });
}

#[test]
fn keys_that_nobody_used_for_long_are_found() {
    runtime().block_on(async {
        let api = TestApi::with_usage(Vec::new());
        let line = |id: &str, made: &str| {
            let hash = BearerToken::make(getrandom::fill).unwrap().hash();
            let hash = hash.to_string();
            json!({"id": id, "hash": hash, "name": id, "model_access": {"mode": "all"}, "created_at": made}).to_string()
        };
        let long_ago = "2001-01-01T00:00:00Z";
        let lines = [
            line("key_never_used", long_ago),
            line("key_used_long_ago", long_ago),
            line("key_used", long_ago),
        ];
        fs::write(api.keys_file(), lines.join("\n") + "\n").unwrap();
        assert_eq!(api.call("POST", "/api/reload", "").await.status, 200);
        api.key("new").await;
        let table = &api.services.table;
        let used = table.by_id("key_used").unwrap();
        table.count(&used, KeyToken::Current, now().plus(-89 * DAY));
        let used_long_ago = table.by_id("key_used_long_ago").unwrap();
        table.count(&used_long_ago, KeyToken::Current, now().plus(-91 * DAY));
        let found = async |query: &str| {
            let page = api.call("GET", &format!("/api/keys?{query}"), "").await.json();
            let keys = page["keys"].as_array().unwrap().iter();
            let ids: Vec<String> = keys.map(|key| key["id"].as_str().unwrap().to_owned()).collect();
            ids
        };
        assert_eq!(found("unused_for=90d").await, ["key_used_long_ago", "key_never_used"]);
        assert_eq!(found("unused_for=90d&query=never").await, ["key_never_used"]);
        assert_eq!(found("unused_for=24h").await.len(), 3);
        for bad in ["", "90", "0d", "3w", "-1d"] {
            let response = api.call("GET", &format!("/api/keys?unused_for={bad}"), "").await;
            assert_eq!((response.status.as_u16(), response.field().as_str()), (422, "unused_for"), "{bad}");
        }
        let api = TestApi::new();
        let response = api.call("GET", "/api/keys?unused_for=90d", "").await;
        assert_eq!(response.json()["error"]["code"], "usage_unavailable");
    });
}
