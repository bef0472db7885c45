//! Pipelined requests are each judged by their own key and answered in their order.

use crate::support::assert_error;
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;

#[test]
fn pipelined_requests_are_each_judged_by_their_own_key_and_answered_in_order() {
    let stand = Stand::new();
    let mut client = Client::connect(stand.gateway.address);
    let mut bytes = Call::get("/v1/key", &stand.all.token).bytes();
    bytes.extend(Call::get("/v1/key", &stand.only.token).bytes());
    bytes.extend(Call::chat(&stand.only.token, "good").bytes());
    bytes.extend(Call::chat(&stand.only.token, "bad").bytes());
    bytes.extend(Call::get("/v1/key", "sk-unknown").bytes());
    client.send(&bytes);
    assert_eq!(client.answer().json()["id"], "key_all");
    assert_eq!(client.answer().json()["id"], "key_only");
    assert_eq!(client.answer().status, 200);
    assert_error(&client.answer(), 404, "model_not_found");
    assert_error(&client.answer(), 401, "invalid_api_key");
    assert_eq!(stand.up.requests().len(), 1);
}
