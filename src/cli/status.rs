//! `keygate status`

use std::fmt::Write as _;
use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use crate::cli::StatusArgs;
use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{escaped, print};

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::GET, "/api/status", None)?;
    if !answer.print_json()? {
        print(describe(&answer.value()?))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the keys follow the database.
fn key_database(keys: &Value) -> String {
    let text = |value: &Value| value.as_str().map(escaped).unwrap_or_default();
    let revision = match keys["revision"].as_u64() {
        Some(revision) => format!("revision {revision}"),
        None => "not read yet".to_owned(),
    };
    let state = match keys["state"].as_str() {
        Some("in_sync") => "in sync".to_owned(),
        Some("database_behind") => format!(
            "the database is behind since {}: {}",
            text(&keys["since"]),
            text(&keys["error"])
        ),
        _ => format!(
            "the database is away since {}: {}",
            text(&keys["since"]),
            text(&keys["error"])
        ),
    };
    let copy = match keys["copy_error"].as_str() {
        Some(error) => format!("; the last good copy is not on disk: {}", escaped(error)),
        None => String::new(),
    };
    format!("the database, {revision}, {state}{copy}")
}

fn describe(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map(escaped).unwrap_or_default();
    let last = &status["last_reload"];
    let mut lines = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{name}: {value}");
    };
    line("Version", text(&status["version"]));
    line("Generation", status["generation"].to_string());
    line("Keys", status["keys"].to_string());
    line(
        "Last reload",
        format!(
            "{} {}, {}",
            text(&last["at"]),
            text(&last["result"]),
            text(&last["message"])
        ),
    );
    if status["unwritten_changes"] != 0 {
        line(
            "Not on disk yet",
            format!(
                "{} changes: {}",
                status["unwritten_changes"],
                text(&status["unwritten_reason"])
            ),
        );
    }
    let keys = &status["key_database"];
    if !keys.is_null() {
        line("Keys from", key_database(keys));
    }
    let database = &status["database"];
    line(
        "Database",
        match (database.is_null(), database["up"] == true) {
            (true, _) => "none".to_owned(),
            (false, true) => format!("{}, up", text(&database["kind"])),
            (false, false) => format!(
                "{}, cannot be written, {} bytes of usage wait: {}",
                text(&database["kind"]),
                database["waiting_bytes"],
                text(&database["error"])
            ),
        },
    );
    let alerts = &status["alerts"];
    if !alerts.is_null() {
        let last = match alerts["last_delivered_at"].as_str() {
            Some(last) => format!("last delivered {}", escaped(last)),
            None => "none delivered yet".to_owned(),
        };
        let error = match alerts["error"].as_str() {
            Some(error) => format!(": {}", escaped(error)),
            None => String::new(),
        };
        let (receiver, pending) = (text(&alerts["receiver"]), &alerts["pending"]);
        line(
            "Alerts",
            format!("to {receiver}, {last}, {pending} wait{error}"),
        );
    }
    let audit = &status["audit"];
    if !audit.is_null() && (audit["waiting"] != 0 || audit["lost"] != 0) {
        line(
            "Audit",
            format!(
                "{} rows wait for the database, {} were lost",
                audit["waiting"], audit["lost"]
            ),
        );
    }
    line("In flight", status["in_flight"].to_string());
    if status["draining"] == true {
        line("Draining", "yes".to_owned());
    }
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let models: Vec<String> = upstream["models"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        let models = if models.is_empty() {
            "none known".to_owned()
        } else {
            models.join(", ")
        };
        line(
            "Upstream",
            format!("{}, models: {models}", text(&upstream["name"])),
        );
        for replica in upstream["replicas"].as_array().into_iter().flatten() {
            let health = match (&replica["tried"], &replica["up"]) {
                (Value::Bool(false), _) => "not tried yet",
                (_, Value::Bool(true)) => "up",
                _ => "set aside",
            };
            line("  Replica", format!("{} {health}", text(&replica["url"])));
        }
    }
    lines
}
