//! POST /api/reload.

use super::*;

#[test]
fn what_a_faulty_key_file_lets_pass_is_what_takes_access_away() {
    runtime().block_on(async {
        let api = TestApi::new();
        let (first, second) = (api.key("a").await, api.key("b").await);
        let path = |key: &Value| format!("/api/keys/{}", key["key"]["id"].as_str().unwrap());
        fs::write(api.keys_file(), "{\"id\":1}\n").unwrap();

        let created = api
            .call(
                "POST",
                "/api/keys",
                "{\"name\":\"n\",\"model_access\":{\"mode\":\"all\"}}",
            )
            .await;
        assert_eq!(created.status, 422, "{}", created.json());
        let error = &created.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with("keys.jsonl:1: "),
            "{error}"
        );
        assert_eq!(
            (&error["faults"][0]["file"], &error["faults"][0]["line"]),
            (&json!("keys.jsonl"), &json!(1))
        );
        let renamed = api.call("PATCH", &path(&first), "{\"name\":\"x\"}").await;
        assert_eq!(renamed.status, 422);

        let deleted = api.call("DELETE", &path(&first), "").await;
        assert_eq!(
            (deleted.status.as_u16(), &deleted.json()["in_force"]),
            (507, &json!(true))
        );
        assert!(deleted.json()["error"]["message"].is_string());
        assert_eq!(api.call("GET", &path(&first), "").await.status, 404);
        let disabled = api
            .call("PATCH", &path(&second), "{\"disabled\":true}")
            .await;
        assert_eq!(
            (disabled.status.as_u16(), &disabled.json()["in_force"]),
            (507, &json!(true))
        );
        let status = api.call("GET", "/api/status", "").await.json();
        assert_eq!(status["unwritten_changes"], 2, "{status}");
        assert!(status["unwritten_reason"].is_string());
        let metrics = api.call("GET", "/metrics", "").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(text.contains("keygate_unwritten_changes 2\n"), "{text}");
        let reload = api.call("POST", "/api/reload", "").await;
        assert_eq!(reload.status, 422);
    });
}

#[test]
fn a_file_that_drops_too_many_keys_is_refused_unless_forced() {
    runtime().block_on(async {
        let api = TestApi::new();
        for name in ["a", "b", "c"] {
            api.key(name).await;
        }
        fs::write(api.keys_file(), "").unwrap();
        let create = "{\"name\":\"n\",\"model_access\":{\"mode\":\"all\"}}";
        assert_eq!(api.call("POST", "/api/keys", create).await.status, 409);
        assert_eq!(api.call("POST", "/api/reload", "").await.status, 409);
        let status = api.call("GET", "/api/status", "").await.json();
        assert_eq!(
            (&status["keys"], &status["last_reload"]["result"]),
            (&json!(3), &json!("dropped"))
        );
        let dry_run = api
            .call(
                "POST",
                "/api/reload?ids=true",
                "{\"force\":true,\"dry_run\":true}",
            )
            .await
            .json();
        assert_eq!(
            (&dry_run["removed"], &dry_run["keys"]),
            (&json!(3), &json!(0))
        );
        assert_eq!(dry_run["removed_ids"].as_array().unwrap().len(), 3);
        assert_eq!(api.services.table.len(), 3);
        let forced = api
            .call("POST", "/api/reload", "{\"force\":true}")
            .await
            .json();
        assert_eq!(
            (&forced["removed"], &forced.get("removed_ids")),
            (&json!(3), &None)
        );
        assert!(api.services.table.is_empty());
    });
}

#[test]
fn a_reload_takes_each_part_alone_and_names_what_needs_a_restart() {
    runtime().block_on(async {
        let api = TestApi::new();
        let made = api.key("a").await;
        let line = fs::read_to_string(api.keys_file()).unwrap();
        let twin = line.replace(made["key"]["id"].as_str().unwrap(), "key_twin");
        let hash = line.find("blake3:").unwrap() + 7;
        let mut twin = twin.into_bytes();
        let at = twin.windows(7).position(|part| part == b"blake3:").unwrap() + 7;
        twin[at] = if line.as_bytes()[hash] == b'0' {
            b'1'
        } else {
            b'0'
        };
        fs::write(api.keys_file(), [line.as_bytes(), &twin].concat()).unwrap();
        let file = api.folder.path().join("keygate.toml");
        let config = fs::read_to_string(&file).unwrap();

        fs::write(
            &file,
            config.replace("[\"good\"]", "[\"good\", \"new\"]")
                + "[limits]\nheaders = \"nonsense\"\n",
        )
        .unwrap();
        let response = api.call("POST", "/api/reload", "").await;
        let error = &response.json()["error"];
        assert_eq!(
            (response.status.as_u16(), &error["field"]),
            (422, &json!("limits.headers")),
            "{error}"
        );
        assert_eq!(
            api.services.table.len(),
            2,
            "the key file is loaded all the same"
        );
        assert!(
            api.services.fleet.routing().upstream_of("new").is_some(),
            "and so are the upstreams"
        );

        fs::write(&file, config.replace("127.0.0.1:9\"", "127.0.0.1:9/path\"")).unwrap();
        fs::write(api.keys_file(), &line).unwrap();
        let response = api.call("POST", "/api/reload", "").await;
        assert_eq!(response.status, 422);
        assert_eq!(api.services.table.len(), 1);
        assert!(
            api.services.fleet.routing().upstream_of("new").is_some(),
            "what is faulty stays as it was"
        );
        let status = api.call("GET", "/api/status", "").await.json();
        assert_eq!(status["last_reload"]["result"], "faulty");

        fs::write(&file, "workers = 3\n".to_owned() + &config).unwrap();
        let response = api.call("POST", "/api/reload", "").await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["restart_needed"]),
            (200, &json!(["workers"]))
        );
        assert!(api.services.fleet.routing().upstream_of("new").is_none());
        let status = api.call("GET", "/api/status", "").await.json();
        assert_eq!(status["last_reload"]["result"], "ok");
    });
}
