//! Calls of the admin API that several files make, and how they look at its answers.

use serde_json::{Value, json};

use crate::support::client::Response;
use crate::support::gateway::Gateway;

pub fn create(gateway: &Gateway, record: &Value) -> Value {
    let response = gateway.admin("POST", "/api/keys", Some(record));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()
}

pub fn all(name: &str) -> Value {
    json!({"name": name, "model_access": {"mode": "all"}})
}

/// Whether a response is an error of the admin API.
pub fn is_fault(response: &Response, status: u16, field: Option<&str>) -> Result<(), String> {
    let wrong = || Err(format!("{} {}", response.status, response.text()));
    if response.status != status {
        return wrong();
    }
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return wrong();
    };
    let error = &body["error"];
    let named = field.is_none_or(|field| {
        error["field"]
            .as_str()
            .is_some_and(|named| named.contains(field))
    });
    let json = response
        .header("content-type")
        .is_some_and(|value| value.starts_with("application/json"));
    if error["message"]
        .as_str()
        .is_some_and(|text| !text.is_empty())
        && named
        && json
    {
        Ok(())
    } else {
        wrong()
    }
}

pub fn ids(list: &Value) -> Vec<String> {
    list["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| key["id"].as_str().expect("an id").to_owned())
        .collect()
}
