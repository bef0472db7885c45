//! GET /api/overview.

use super::*;

#[test]
fn the_hour_is_kept_though_nobody_looks() {
    runtime().block_on(async {
        let api = TestApi::new();
        api.services.metrics.begin();
        api.services.metrics.end("allowed", 0.1);
        let began = now();
        let kept = record_history(Arc::clone(&api.services));
        let short = std::time::Duration::from_millis(10);
        assert!(
            tokio::time::timeout(short, kept).await.is_err(),
            "it goes on"
        );
        // The count is still in its minute nearly an hour later.
        api.services.metrics.begin();
        api.services.metrics.end("allowed", 0.1);
        let overview = &api.services.state.overview;
        let minutes = overview.update_history(&api.services, began.plus(59 * 60), |history| {
            history.minutes(began.plus(59 * 60))
        });
        // A new minute may have begun.
        let allowed = |minutes: &[Minute]| -> u64 {
            let counts = minutes
                .iter()
                .filter_map(|minute| minute.outcomes.get("allowed"));
            counts.sum()
        };
        assert_eq!((allowed(&minutes[..2]), allowed(&minutes[58..])), (1, 1));
    });
}

#[test]
fn the_overview_counts_requests_by_minute_and_keys_by_state() {
    runtime().block_on(async {
        let api = TestApi::new();
        let day = 24 * 60 * 60;
        let patch = async |key: &Value, body: Value| {
            let path = format!("/api/keys/{}", key["key"]["id"].as_str().unwrap());
            let response = api.call("PATCH", &path, &body.to_string()).await;
            assert_eq!(response.status, 200, "{}", response.json());
        };
        let ends = |seconds: i64| json!({"expires_at": now().plus(seconds).to_string()});
        for (name, change) in [
            ("active", json!({})),
            ("later", ends(8 * day)),
            ("second", ends(2 * day)),
            ("first", ends(day)),
            ("over", json!({"disabled": true})),
        ] {
            patch(&api.key(name).await, change).await;
        }
        let off = api.key("off").await;
        patch(&off, ends(day)).await;
        patch(&off, json!({"disabled": true})).await;
        api.services.metrics.begin();
        api.services.metrics.end("allowed", 0.1);
        api.services.metrics.begin();
        api.services.metrics.end("allowed", 0.1);
        api.services.metrics.begin();
        api.services.metrics.end("expired_api_key", 0.1);
        api.services
            .metrics
            .response("llama", 200, Duration::ZERO, Duration::from_micros(40));
        let shown = api.call("GET", "/api/overview", "").await.json();
        let minutes = shown["minutes"].as_array().unwrap();
        assert_eq!(minutes.len(), 60);
        // A new minute may have begun between the requests and the call.
        let counted: Vec<&Value> = minutes
            .iter()
            .map(|minute| &minute["outcomes"])
            .filter(|outcomes| **outcomes != json!({}))
            .collect();
        assert_eq!(counted, [&json!({"allowed": 2, "expired_api_key": 1})]);
        assert_eq!(
            shown["keys"],
            json!({"active": 4, "disabled": 2, "expired": 0})
        );
        assert_eq!(shown["expiring_count"], 2);
        let names: Vec<&Value> = shown["expiring"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| &key["name"])
            .collect();
        assert_eq!(names, ["first", "second"]);
        let first = &shown["expiring"][0];
        assert_eq!(first.as_object().unwrap().len(), 4);
        assert_eq!(
            (&first["account"], first["expires_at"].is_string()),
            (&Value::Null, true)
        );
        let p50 = shown["overhead_seconds"]["p50"].as_f64().unwrap();
        assert!((p50 - 0.000_037_5).abs() < 1e-9, "{p50}");
        assert_eq!(shown["last_reload"]["result"], "ok");
        assert_eq!(
            (&shown["in_flight"], &shown["connections"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(shown["generation"], api.services.table.generation());
        patch(&off, json!({"disabled": false})).await;
        let shown = api.call("GET", "/api/overview", "").await.json();
        assert_eq!(
            (&shown["keys"]["active"], &shown["expiring_count"]),
            (&json!(5), &json!(3))
        );
    });
}
