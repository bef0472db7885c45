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
