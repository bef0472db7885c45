//! Keys are listed page by page and found by a search.

use serde_json::json;

use crate::admin::calls::{all, create, ids, is_fault};
use crate::support::Cases;
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
