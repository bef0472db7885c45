//! Recent refusals: who was refused in the last hour, and why.

use serde_json::{Value, json};

use crate::admin::calls::is_fault;
use crate::support::DEADLINE;
use crate::support::client::Call;
use crate::support::eventually;
use crate::support::stand::Stand;
use crate::support::token::Key;

fn rows(stand: &Stand, query: &str) -> Vec<Value> {
    let answer = stand
        .gateway
        .admin_json("GET", &format!("/api/refusals{query}"), None);
    answer["refusals"].as_array().expect("rows").clone()
}

#[test]
fn refusals_are_counted_by_key_address_and_reason_without_any_token() {
    let far = Key::all("key_far").only_from(&["192.0.2.0/24"]);
    let off = Key::all("key_off").disabled();
    let stand = Stand::with(|setup| setup.keys(&[&far, &off]));
    assert_eq!(rows(&stand, ""), [] as [Value; 0]);
    let only = &stand.only.token;
    for (call, times) in [
        (Call::chat(only, "good"), 2),
        (Call::chat(only, "bad"), 3),
        (Call::chat(&far.token, "good"), 2),
        (Call::chat(&off.token, "good"), 1),
        (Call::chat("kg_guessed", "good"), 4),
    ] {
        for _ in 0..times {
            stand.gateway.ask(&call);
        }
    }
    // A request is counted when it ends, which may be after its answer was read.
    let found = eventually("all are counted", DEADLINE, || {
        let found = rows(&stand, "");
        let count: u64 = found.iter().filter_map(|row| row["count"].as_u64()).sum();
        (count == 10).then_some(found)
    });
    let mut short: Vec<Value> = found
        .iter()
        .map(|row| {
            json!([
                row["key"],
                row["name"],
                row["client_address"],
                row["reason"],
                row["count"]
            ])
        })
        .collect();
    short.sort_by_key(ToString::to_string);
    let address = "127.0.0.1";
    assert_eq!(
        short,
        [
            json!(["key_far", "key_far", address, "ip_not_authorized", 2]),
            json!(["key_off", "key_off", address, "invalid_api_key", 1]),
            json!(["key_only", "key_only", address, "model_not_found", 3]),
            json!([null, null, address, "invalid_api_key", 4]),
        ]
    );
    assert!(
        found
            .iter()
            .all(|row| row["last_at"].as_str().is_some_and(|at| at.ends_with('Z')))
    );
    let of_one = rows(&stand, "?key=key_only");
    assert!(
        of_one.len() == 1 && of_one[0]["key"] == "key_only",
        "{of_one:?}"
    );
    assert_eq!(
        rows(&stand, "?key=key_all"),
        [] as [Value; 0],
        "what passed is no refusal"
    );
    let first = stand
        .gateway
        .admin_json("GET", "/api/refusals?limit=1", None);
    assert_eq!(
        (
            first["refusals"].as_array().map(Vec::len),
            &first["left_out"]
        ),
        (Some(1), &json!(3))
    );
    for limit in ["0", "1001", "x"] {
        let refused = stand
            .gateway
            .admin("GET", &format!("/api/refusals?limit={limit}"), None);
        is_fault(&refused, 422, Some("limit")).unwrap_or_else(|wrong| panic!("{limit}: {wrong}"));
    }
    let text = stand.gateway.admin("GET", "/api/refusals", None).text();
    assert!(!text.contains("kg_") && !text.contains("blake3"), "{text}");
    // A key that is gone keeps its rows, without a name.
    assert_eq!(
        stand
            .gateway
            .admin("DELETE", "/api/keys/key_only", None)
            .status,
        204
    );
    assert_eq!(rows(&stand, "?key=key_only")[0]["name"], Value::Null);
}

#[test]
fn a_failing_upstream_is_no_refusal() {
    let stand = Stand::with(|setup| setup.upstream("gone", &["http://127.0.0.1:9"], &["gone"]));
    for _ in 0..2 {
        let response = stand.gateway.ask(&Call::chat(&stand.all.token, "gone"));
        assert!(response.status >= 500, "{}", response.text());
    }
    stand
        .gateway
        .ask(&Call::chat(&stand.all.token, "nobody-serves-this"));
    let found = eventually("the refusal is counted", DEADLINE, || {
        let found = rows(&stand, "");
        (!found.is_empty()).then_some(found)
    });
    let reasons: Vec<&Value> = found.iter().map(|row| &row["reason"]).collect();
    assert_eq!(
        reasons,
        [&json!("model_not_found")],
        "a failure of an upstream is no refusal"
    );
}
