//! Calls on keys.

use super::*;
use crate::policy::time::UnixTime;

#[test]
fn a_key_is_made_shown_changed_and_deleted() {
    runtime().block_on(async {
        let api = TestApi::new();
        let body = "{\"name\":\"n\",\"model_access\":{\"mode\":\"exclusive\",\"models\":[\"gone\"]},\"allow_from\":[\"192.0.2.7\"],\
                    \"expires_at\":\"2999-12-31\",\"account\":\"acme\"}";
        let created = api.call("POST", "/api/keys", body).await;
        assert_eq!(created.status, 201);
        let created = created.json();
        assert_eq!(created["url"], "http://localhost:8080/v1");
        assert!(created["warnings"][0].as_str().unwrap().contains("excludes nothing"));
        let token = created["token"].as_str().unwrap();
        let key = &created["key"];
        assert_eq!(key["hint"], token[48..]);
        assert_eq!(key["expires_at"], "3000-01-01T00:00:00Z");
        assert_eq!(key["allow_from"], json!(["192.0.2.7/32"]));
        assert_eq!((&key["state"], &key["requests"], &key["last_used_at"]), (&json!("active"), &json!(0), &Value::Null));
        assert!(key.get("hash").is_none());
        let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
        let shown = api.call("GET", &path, "").await;
        assert_eq!((shown.status.as_u16(), &shown.json()), (200, key));
        assert_eq!(shown.headers["cache-control"], "no-store");
        assert!(!String::from_utf8_lossy(&shown.body).contains(token));
        let changed = api
            .call("PATCH", &path, "{\"disabled\":true,\"expires_at\":null,\"allow_from\":[]}")
            .await
            .json();
        assert_eq!((&changed["state"], &changed["expires_at"]), (&json!("disabled"), &Value::Null));
        assert_eq!((&changed["allow_from"], &changed["account"]), (&json!([]), &json!("acme")));
        let deleted = api.call("DELETE", &path, "").await;
        assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
        for method in ["GET", "PATCH", "DELETE"] {
            assert_eq!(api.call(method, &path, "{}").await.status, 404, "{method}");
        }
        assert_eq!(fs::read_to_string(api.keys_file()).unwrap(), "");
    });
}

#[test]
fn a_rotation_shows_a_new_token_once_and_until_when_the_old_one_works() {
    runtime().block_on(async {
        let api = TestApi::new();
        let created = api.key("n").await;
        let path = format!("/api/keys/{}", created["key"]["id"].as_str().unwrap());
        let rotate = format!("{path}/rotate");
        assert_eq!(created["key"]["previous"], Value::Null);
        let before = now();
        let rotated = api.call("POST", &rotate, "").await;
        assert_eq!(rotated.status, 201);
        let rotated = rotated.json();
        let fields: Vec<_> = created.as_object().unwrap().keys().collect();
        assert_eq!(
            rotated.as_object().unwrap().keys().collect::<Vec<_>>(),
            fields
        );
        assert_eq!(rotated["warnings"], json!([]));
        let (old, new) = (
            created["token"].as_str().unwrap(),
            rotated["token"].as_str().unwrap(),
        );
        assert_ne!(old, new);
        let key = &rotated["key"];
        assert_eq!(key["hint"], new[48..]);
        let previous = &key["previous"];
        let fields: Vec<_> = previous.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["hint", "last_used_at", "not_after"]);
        assert_eq!(
            (&previous["hint"], &previous["last_used_at"]),
            (&json!(old[48..]), &Value::Null)
        );
        let end = UnixTime::parse(previous["not_after"].as_str().unwrap()).unwrap();
        assert!(
            (86_400..=86_402).contains(&(end.seconds() - before.seconds())),
            "a day"
        );
        assert_eq!(&api.call("GET", &path, "").await.json(), key);

        let again = api
            .call("POST", &rotate, "{\"grace_seconds\":60.0}")
            .await
            .json();
        let warning = again["warnings"][0].as_str().unwrap();
        assert!(
            warning.contains(&old[48..]) && warning.contains("has ended"),
            "{warning}"
        );
        assert_eq!(again["key"]["previous"]["hint"], new[48..]);
        let ended = api
            .call("POST", &format!("{path}/expire-previous"), "{}")
            .await;
        assert_eq!(
            (ended.status.as_u16(), &ended.json()["previous"]),
            (200, &Value::Null)
        );
        assert_eq!(ended.headers["etag"].len(), 18);
        let at_once = api
            .call("POST", &rotate, "{\"grace_seconds\":0}")
            .await
            .json();
        assert_eq!(
            (&at_once["key"]["previous"], &at_once["warnings"]),
            (&Value::Null, &json!([]))
        );
        api.call("PATCH", &path, "{\"disabled\":true}").await;
        let disabled = api.call("POST", &rotate, "").await.json();
        assert!(
            disabled["warnings"][0]
                .as_str()
                .unwrap()
                .contains("disabled")
        );

        for (body, status, field) in [
            ("{\"grace_seconds\":7776001}", 422, "grace_seconds"),
            ("{\"grace_seconds\":-1}", 422, "grace_seconds"),
            ("{\"grace_seconds\":1.5}", 422, "grace_seconds"),
            ("{\"grace_seconds\":\"60\"}", 422, "grace_seconds"),
            ("{\"grace\":60}", 422, "grace"),
            ("[]", 422, ""),
            ("{", 400, ""),
        ] {
            let response = api.call("POST", &rotate, body).await;
            assert_eq!(
                (response.status.as_u16(), &*response.field()),
                (status, field),
                "{body}"
            );
        }
        let extra = api
            .call("POST", &format!("{path}/expire-previous"), "{\"now\":1}")
            .await;
        assert_eq!((extra.status.as_u16(), &*extra.field()), (422, "now"));
    });
}

#[test]
fn a_body_that_breaks_a_rule_names_its_field() {
    runtime().block_on(async {
        let api = TestApi::new();
        let all = "\"model_access\":{\"mode\":\"all\"}";
        for (body, status, field) in [
            ("".to_owned(), 400, ""),
            ("{".to_owned(), 400, ""),
            ("[]".to_owned(), 422, ""),
            (format!("{{{all}}}"), 422, "name"),
            (format!("{{\"name\":\"\",{all}}}"), 422, "name"),
            (
                format!("{{\"name\":\"n\",\"name\":\"n\",{all}}}"),
                422,
                "name",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"extra\":1}}"),
                422,
                "extra",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"allow_from\":[\"::1\"]}}"),
                422,
                "allow_from",
            ),
            (
                format!("{{\"name\":\"n\",{all},\"expires_at\":\"2001-01-01\"}}"),
                422,
                "expires_at",
            ),
            (
                "{\"name\":\"n\",\"model_access\":{\"mode\":\"inclusive\"}}".to_owned(),
                422,
                "model_access.models",
            ),
        ] {
            let response = api.call("POST", "/api/keys", &body).await;
            assert_eq!(
                (response.status.as_u16(), response.field().as_str()),
                (status, field),
                "{body} {}",
                response.json()
            );
        }
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
        assert_eq!(api.call("POST", "/api/keys", &long).await.status, 413);
        assert!(api.services.table.is_empty());
    });
}

#[test]
fn a_list_goes_on_where_it_stopped_though_the_key_there_is_gone() {
    runtime().block_on(async {
        let api = TestApi::new();
        for name in ["ä", "b", "c", "d"] {
            api.key(name).await;
        }
        let names = |page: &Value| -> Vec<String> {
            let keys = page["keys"].as_array().unwrap().iter();
            keys.map(|key| key["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let first = api.call("GET", "/api/keys?limit=2", "").await.json();
        assert_eq!(names(&first), ["d", "c"]);
        let gone = format!("/api/keys/{}", first["keys"][1]["id"].as_str().unwrap());
        assert_eq!(api.call("DELETE", &gone, "").await.status, 204);
        let next = format!(
            "/api/keys?limit=2&after={}",
            first["next"].as_str().unwrap()
        );
        let second = api.call("GET", &next, "").await.json();
        assert_eq!(
            (names(&second), &second["next"]),
            (vec!["b".to_owned(), "ä".to_owned()], &Value::Null)
        );
        let found = api.call("GET", "/api/keys?query=%C3%84", "").await.json();
        assert_eq!(names(&found), ["ä"]);
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=1", "limit"),
            ("after=x", "after"),
            ("after=", "after"),
            ("query=%ff", "query"),
            ("%ff=a", ""),
        ] {
            let response = api.call("GET", &format!("/api/keys?{query}"), "").await;
            assert_eq!(
                (response.status.as_u16(), response.field().as_str()),
                (422, field),
                "{query}"
            );
        }
    });
}

#[test]
fn a_request_is_explained_by_key_and_by_token() {
    runtime().block_on(async {
        let api = TestApi::new();
        let made = api.key("a").await;
        let ask = async |who: Value, more: Value| {
            let mut question = json!({"model": "good", "from": "::ffff:192.0.2.7"});
            for fields in [who, more] {
                question
                    .as_object_mut()
                    .unwrap()
                    .extend(fields.as_object().unwrap().clone());
            }
            api.call("POST", "/api/explain", &question.to_string())
                .await
        };
        let (id, token) = (&made["key"]["id"], &made["token"]);
        for who in [json!({"key": id}), json!({"token": token})] {
            let response = ask(who, json!({})).await;
            assert_eq!(response.json()["allowed"], true, "{}", response.json());
            assert!(!String::from_utf8_lossy(&response.body).contains(token.as_str().unwrap()));
        }
        let unserved = ask(
            json!({"key": id}),
            json!({"model": "bad", "at": "2030-01-01T00:00:00Z"}),
        )
        .await
        .json();
        assert_eq!(
            (&unserved["allowed"], &unserved["denial"]),
            (&json!(false), &json!("model_not_found"))
        );
        let unknown = ask(json!({"key": "key_none"}), json!({})).await.json();
        assert_eq!(unknown["denial"], "invalid_api_key");
        for (who, more, field) in [
            (json!({}), json!({}), "key"),
            (json!({"key": id, "token": token}), json!({}), "token"),
            (json!({"key": id}), json!({"from": "x"}), "from"),
            (json!({"key": id}), json!({"at": "2030-01-01"}), "at"),
            (json!({"key": id}), json!({"model": 1}), "model"),
            (json!({"key": id}), json!({"extra": 1}), "extra"),
        ] {
            let response = ask(who, more).await;
            assert_eq!(
                (response.status.as_u16(), response.field().as_str()),
                (422, field)
            );
        }
    });
}
