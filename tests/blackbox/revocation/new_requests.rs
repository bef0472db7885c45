//! A key that is deleted is refused from the answer to the delete on, and sooner where the key file is held up.

use std::fs::File;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::admin::calls::is_fault;
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::{assert_error, eventually};

#[test]
fn a_delete_does_not_wait_for_whoever_holds_the_key_files_lock() {
    let stand = Stand::new();
    let lock = File::create(stand.gateway.path(".keys.jsonl.lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let path = "/api/keys/key_all";
        let deleting = scope.spawn(|| stand.gateway.admin("DELETE", path, None));
        let call = Call::chat(&stand.all.token, "good");
        let refused = eventually("the key is refused", Duration::from_secs(2), || {
            let response = stand.gateway.ask(&call);
            (response.status != 200).then_some(response)
        });
        assert_error(&refused, 401, "invalid_api_key");
        drop(lock);
        assert_eq!(deleting.join().unwrap().status, 204);
    });
}

#[test]
fn a_delete_does_not_wait_for_another_change_that_waits_for_the_lock() {
    let stand = Stand::new();
    let lock = File::create(stand.gateway.path(".keys.jsonl.lock")).unwrap();
    lock.lock().unwrap();
    let becomes_unknown = |token: &str| {
        let call = Call::chat(token, "good");
        eventually("the key is refused", Duration::from_secs(2), || {
            let response = stand.gateway.ask(&call);
            (response.status == 401).then_some(())
        });
    };
    let disable = json!({"disabled": true});
    thread::scope(|scope| {
        let revoke = |method, id: &str, body| {
            let path = format!("/api/keys/{id}");
            let stand = &stand;
            scope.spawn(move || stand.gateway.admin(method, &path, body).status)
        };
        let first = revoke("DELETE", &stand.all.id, None);
        becomes_unknown(&stand.all.token);
        let second = revoke("DELETE", &stand.only.id, None);
        let third = revoke("PATCH", &stand.all_but.id, Some(&disable));
        becomes_unknown(&stand.only.token);
        becomes_unknown(&stand.all_but.token);
        assert!(!first.is_finished(), "nothing waited for the lock");
        drop(lock);
        let answers = [first, second, third].map(|answer| answer.join().unwrap());
        assert_eq!(answers, [204, 204, 200]);
    });
}

#[test]
fn a_deleted_key_is_gone_at_the_answer() {
    let stand = Stand::new();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let response = stand.gateway.admin("DELETE", "/api/keys/key_all", None);
    assert_eq!((response.status, response.body.len()), (204, 0));
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        401,
        "invalid_api_key",
    );
    assert!(!stand.gateway.key_file().contains("key_all\""));
    for method in ["GET", "DELETE"] {
        let again = stand.gateway.admin(method, "/api/keys/key_all", None);
        is_fault(&again, 404, None).expect("not found");
    }
    let patched = stand.gateway.admin(
        "PATCH",
        "/api/keys/key_all",
        Some(&json!({"disabled": true})),
    );
    is_fault(&patched, 404, None).expect("not found");
}
