//! A key may use the models that it is allowed, by their exact names, and sees no others (contract 4, step 7).

use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, assert_error, is_error};

#[test]
fn a_model_that_is_unknown_and_one_that_is_not_allowed_get_the_same_bytes() {
    let stand = Stand::new();
    let body = |key: &Key, model: &str| {
        let response = stand.gateway.ask(&Call::chat(&key.token, model));
        assert_error(&response, 404, "model_not_found");
        response.body
    };
    let unknown = body(&stand.all, "no-such-model");
    assert_eq!(unknown, body(&stand.only, "bad"));
    assert_eq!(unknown, body(&stand.all_but, "bad"));
    assert_eq!(unknown, body(&stand.all_but, "no-such-model"));
    let get = |key: &Key, path: &str| {
        let response = stand.gateway.ask(&Call::get(path, &key.token));
        assert_error(&response, 404, "model_not_found");
        response.body
    };
    assert_eq!(unknown, get(&stand.all, "/v1/models/no-such-model"));
    assert_eq!(unknown, get(&stand.only, "/v1/models/bad"));
    assert_eq!(unknown, get(&stand.all_but, "/v1/models/bad"));
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn model_names_match_exactly_or_not_at_all() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let alike = [
        "Good",
        "GOOD",
        "good ",
        " good",
        "good\n",
        "good:online",
        "good:latest",
        "good:adapter",
        "good-2024-08-06",
        "library/good",
        "good\u{0}bad",
        "good\u{0}",
        "gооd",
        "good\u{200b}",
        "ｇｏｏｄ",
        "org/name/",
        "org\\name",
        "*",
        "",
    ];
    for model in alike.iter().filter(|model| !model.is_empty()) {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&Call::chat(&key.token, model));
            let verdict = is_error(&response, 404, "model_not_found");
            cases.check(&format!("{model:?} as {}", key.id), verdict);
        }
    }
    for (key, model, status) in [
        (&stand.all, "good", 200),
        (&stand.all, "bad", 200),
        (&stand.all, "org/name", 200),
        (&stand.only, "good", 200),
        (&stand.only, "bad", 404),
        (&stand.only, "org/name", 404),
        (&stand.all_but, "good", 200),
        (&stand.all_but, "bad", 404),
        (&stand.all_but, "org/name", 200),
    ] {
        let response = stand.gateway.ask(&Call::chat(&key.token, model));
        let verdict = (response.status == status)
            .then_some(())
            .ok_or(response.text());
        cases.check(&format!("{model} as {}", key.id), verdict);
    }
    // However JSON writes it, it is the same name.
    for (key, model, status) in [
        (&stand.all_but, r"\u0062ad", 404),
        (&stand.all_but, r"org\/name", 200),
        (&stand.only, r"g\u006fod", 200),
        (&stand.only, r"\u0062ad", 404),
    ] {
        let call = Call::json(
            "/v1/chat/completions",
            &key.token,
            format!(r#"{{"model":"{model}"}}"#),
        );
        let response = stand.gateway.ask(&call);
        let verdict = (response.status == status)
            .then_some(())
            .ok_or(response.text());
        cases.check(&format!("{model} as {}", key.id), verdict);
    }
    cases.done();
}

#[test]
fn a_list_of_models_shows_those_that_the_key_may_use() {
    let stand = Stand::new();
    let list = |key: &Key| {
        let response = stand.gateway.ask(&Call::get("/v1/models", &key.token));
        assert_eq!(response.status, 200);
        let list = response.json();
        assert_eq!(list["object"], "list");
        let data = list["data"].as_array().expect("a list");
        for model in data {
            assert_eq!(model["object"], "model");
            assert!(
                model["created"].is_i64() || model["created"].is_u64(),
                "{model}"
            );
            assert!(model["owned_by"].is_string(), "{model}");
        }
        let mut ids: Vec<String> = data
            .iter()
            .map(|model| model["id"].as_str().expect("an id").to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(list(&stand.all), ["bad", "good", "org/name"]);
    assert_eq!(list(&stand.only), ["good"]);
    assert_eq!(list(&stand.all_but), ["good", "org/name"]);
    stand.up.untouched().expect("the gateway answers by itself");
}

#[test]
fn a_single_model_is_shown_with_its_id_decoded_once() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (path, id) in [
        ("/v1/models/good", "good"),
        ("/v1/models/org/name", "org/name"),
        ("/v1/models/org%2Fname", "org/name"),
        ("/v1/models/org%2fname", "org/name"),
        ("/v1/models/%67ood", "good"),
    ] {
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        let right = response.status == 200
            && response.json()["id"] == id
            && response.json()["object"] == "model";
        cases.check(path, right.then_some(()).ok_or(response.text()));
    }
    for path in [
        "/v1/models/org%252Fname",
        "/v1/models/%2567ood",
        "/v1/models/good%00",
        "/v1/models/Good",
        "/v1/models/good%20",
        "/v1/models/good/",
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/v1/models/%",
        "/v1/models/../models/good",
    ] {
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        cases.check(path, is_error(&response, 404, "model_not_found"));
    }
    let empty = stand
        .gateway
        .ask(&Call::get("/v1/models/", &stand.all.token));
    cases.check(
        "no id",
        (empty.status == 404).then_some(()).ok_or(empty.text()),
    );
    cases.done();
}
