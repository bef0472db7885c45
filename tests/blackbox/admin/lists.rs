//! Keys are listed page by page and found by a search.

use serde_json::json;

use crate::admin::calls::{all, create, ids, is_fault};
use crate::support::Cases;
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::Key;

#[test]
fn keys_are_listed_newest_first_page_by_page() {
    let old = Key::all("key_older").with("created_at", "2001-01-01T00:00:00Z");
    let same = Key::all("key_same_second").with("created_at", "2001-01-01T00:00:00Z");
    let oldest = Key::all("key_oldest").with("created_at", "2000-01-01T00:00:00Z");
    let stand = Stand::with(|setup| setup.keys(&[&oldest, &old, &same]));
    // Without created_at they come last, the later in the file first.
    let expected = [
        "key_same_second",
        "key_older",
        "key_oldest",
        "key_all_but",
        "key_only",
        "key_all",
    ];
    let whole = stand.gateway.admin_json("GET", "/api/keys", None);
    assert_eq!(ids(&whole), expected);
    assert_eq!(whole["next"], json!(null));
    let made = create(&stand.gateway, &all("newest"));
    let newest = made["key"]["id"].as_str().expect("an id").to_owned();
    let mut pages = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/keys?limit=2{after}");
        let page = stand.gateway.admin_json("GET", &path, None);
        let ids = ids(&page);
        assert!(ids.len() <= 2);
        pages.extend(ids);
        let Some(next) = page["next"].as_str() else {
            break;
        };
        assert!(
            next.chars()
                .all(|sign| sign.is_ascii_alphanumeric() || "-_.~".contains(sign)),
            "{next} is not URL-safe"
        );
        after = format!("&after={next}");
    }
    let mut all = vec![newest];
    all.extend(expected.iter().map(|id| (*id).to_owned()));
    assert_eq!(pages, all);
    // The place stays valid when its key is gone.
    let page = stand.gateway.admin_json("GET", "/api/keys?limit=2", None);
    let next = page["next"].as_str().expect("more").to_owned();
    assert_eq!(
        stand
            .gateway
            .admin("DELETE", &format!("/api/keys/{}", all[1]), None)
            .status,
        204
    );
    let page = stand
        .gateway
        .admin_json("GET", &format!("/api/keys?limit=2&after={next}"), None);
    assert_eq!(ids(&page), all[2..4]);
    let mut cases = Cases::new();
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=",
        "after=%00",
        "after=nonsense!",
    ] {
        let response = stand
            .gateway
            .admin("GET", &format!("/api/keys?{query}"), None);
        cases.check(
            query,
            is_fault(&response, response.status, None).and_then(|()| {
                matches!(response.status, 400 | 422)
                    .then_some(())
                    .ok_or(response.text())
            }),
        );
    }
    cases.done();
    assert_eq!(
        stand
            .gateway
            .admin("GET", "/api/keys?limit=1000", None)
            .status,
        200
    );
}

#[test]
fn keys_are_found_by_name_id_account_and_hint_whatever_the_case() {
    let web = Key::all("key_web")
        .with("name", "Web Site")
        .with("account", "ACME")
        .with("hint", "x9Qz");
    let batch = Key::all("key_batch")
        .with("name", "Nächtlicher Lauf")
        .with("account", "other");
    let stand = Stand::with(|setup| setup.keys(&[&web, &batch]));
    for (query, found) in [
        ("web%20site", &["key_web"][..]),
        ("WEB+SITE", &["key_web"]),
        ("acm", &["key_web"]),
        ("X9qz", &["key_web"]),
        ("KEY_BATCH", &["key_batch"]),
        ("n%C3%84CHT", &["key_batch"]),
        ("no-such-key", &[]),
        ("blake3", &[]),
        (
            "",
            &["key_batch", "key_web", "key_all_but", "key_only", "key_all"],
        ),
    ] {
        let list = stand
            .gateway
            .admin_json("GET", &format!("/api/keys?query={query}"), None);
        assert_eq!(ids(&list), found, "{query}");
    }
}

#[test]
fn the_default_page_holds_fifty() {
    let keys: Vec<Key> = (0..60).map(|at| Key::all(&format!("key_{at}"))).collect();
    let stand = Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()));
    let page = stand.gateway.admin_json("GET", "/api/keys", None);
    assert_eq!(ids(&page).len(), 50);
    assert!(page["next"].is_string());
}

/// Keys that differ in everything a list can be filtered and sorted by.
fn varied() -> Stand {
    let keys = [
        Key::only("key_web", &["Tiny-Chat"])
            .only_from(&["192.0.2.0/24"])
            .with("name", "Web")
            .with("account", "acme")
            .with("created_at", "2001-01-01T00:00:00Z")
            .expires("2100-01-01T00:00:00Z"),
        Key::all_but("key_off", &["Tiny-Chat"])
            .disabled()
            .with("name", "app")
            .with("created_at", "2003-01-01T00:00:00Z")
            .with("account", "Acme"),
        Key::all("key_over")
            .with("name", "élan")
            .with("account", "other")
            .with("created_at", "2002-01-01T00:00:00Z")
            .expires("2020-01-01T00:00:00Z"),
        Key::all("key_later")
            .with("name", "app")
            .expires("2100-01-01T00:00:01Z"),
    ];
    Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()))
}

/// The ids of the whole list, page by page, without those of every stand.
fn listed(stand: &Stand, query: &str, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/keys?limit={limit}&{query}{after}");
        let page = stand.gateway.admin_json("GET", &path, None);
        found.extend(ids(&page));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    found.retain(|id| !["key_all", "key_only", "key_all_but"].contains(&id.as_str()));
    found
}

#[test]
fn keys_are_found_by_model_network_and_state() {
    let stand = varied();
    for (query, found) in [
        ("query=tiny-ch", &["key_off", "key_web"][..]),
        ("query=192.0.2", &["key_web"]),
        ("query=0/24", &["key_web"]),
        ("query=Disabled", &["key_off"]),
        ("query=expired", &["key_over"]),
        ("query=expire", &[]),
        ("query=198.51.100", &[]),
        ("state=active", &["key_web", "key_later"]),
        ("state=disabled", &["key_off"]),
        ("state=expired", &["key_over"]),
        ("account=acme", &["key_web"]),
        ("account=acm", &[]),
        ("model=Tiny-Chat", &["key_over", "key_web", "key_later"]),
        ("model=tiny-chat", &["key_off", "key_over", "key_later"]),
        (
            "expires_before=2100-01-01T00:00:00Z",
            &["key_over", "key_web"],
        ),
        ("expires_before=2099-12-31", &["key_over", "key_web"]),
        ("expires_before=2020-01-01", &["key_over"]),
        (
            "model=good&state=active&query=app&expires_before=2101-01-01",
            &["key_later"],
        ),
        ("model=good&state=disabled&account=other", &[]),
    ] {
        assert_eq!(listed(&stand, query, 50), found, "{query}");
        assert_eq!(listed(&stand, query, 1), found, "{query}");
    }
}

#[test]
fn keys_are_sorted_by_each_column_in_both_directions() {
    let stand = varied();
    let chat = Call::chat(&stand.all.token, "good");
    assert_eq!(stand.gateway.ask(&chat).status, 200);
    let first = stand
        .gateway
        .admin_json("GET", "/api/keys?sort=-requests&limit=1", None);
    assert_eq!(ids(&first), ["key_all"]);
    let first = stand
        .gateway
        .admin_json("GET", "/api/keys?sort=last_used_at&limit=1", None);
    assert_eq!(ids(&first), ["key_all"]);
    for (sort, order) in [
        ("name", ["key_off", "key_later", "key_web", "key_over"]),
        ("-name", ["key_over", "key_web", "key_off", "key_later"]),
        ("account", ["key_off", "key_web", "key_over", "key_later"]),
        ("-account", ["key_over", "key_off", "key_web", "key_later"]),
        (
            "expires_at",
            ["key_over", "key_web", "key_later", "key_off"],
        ),
        (
            "-expires_at",
            ["key_later", "key_web", "key_over", "key_off"],
        ),
        (
            "created_at",
            ["key_web", "key_over", "key_off", "key_later"],
        ),
        (
            "-created_at",
            ["key_off", "key_over", "key_web", "key_later"],
        ),
        ("requests", ["key_off", "key_over", "key_web", "key_later"]),
    ] {
        for limit in [1, 2, 50] {
            assert_eq!(
                listed(&stand, &format!("sort={sort}"), limit),
                order,
                "{sort}, {limit} a page"
            );
        }
    }
    // The place stays valid when its key is gone.
    let page = stand.gateway.admin_json(
        "GET",
        "/api/keys?sort=name&query=e&limit=3&state=active",
        None,
    );
    let next = page["next"].as_str().expect("more").to_owned();
    let whole =
        ids(&stand
            .gateway
            .admin_json("GET", "/api/keys?sort=name&query=e&state=active", None));
    let gone = stand
        .gateway
        .admin("DELETE", &format!("/api/keys/{}", whole[2]), None);
    assert_eq!(gone.status, 204);
    let path = format!("/api/keys?sort=name&query=e&state=active&after={next}");
    assert_eq!(
        ids(&stand.gateway.admin_json("GET", &path, None)),
        whole[3..]
    );
}

#[test]
fn a_parameter_of_the_list_that_cannot_be_is_named() {
    let stand = Stand::new();
    let page = stand
        .gateway
        .admin_json("GET", "/api/keys?sort=name&limit=1", None);
    let next = page["next"].as_str().expect("more").to_owned();
    let mut cases = Cases::new();
    for (query, field) in [
        ("state=Active", "state"),
        ("state=", "state"),
        ("account=", "account"),
        ("model=", "model"),
        ("expires_before=soon", "expires_before"),
        ("expires_before=2027-01-01T00:00:00", "expires_before"),
        ("sort=", "sort"),
        ("sort=hash", "sort"),
        ("sort=--name", "sort"),
        ("sort=name&sort=name", "sort"),
        (&format!("after={next}"), "after"),
        (&format!("sort=requests&after={next}"), "after"),
        ("sort=name&after=00000000000000000000000000000000", "after"),
    ] {
        let path = format!("/api/keys?{query}");
        let response = stand.gateway.admin("GET", &path, None);
        cases.check(query, is_fault(&response, 422, Some(field)));
    }
    cases.done();
}
