//! `keygate reload`

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::cli::ReloadArgs;
use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{escaped, print};
use crate::store::key_store;

pub(super) fn run(args: &ReloadArgs) -> Result<ExitCode, CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let body = json!({"force": args.force, "dry_run": args.dry_run});
    let target = if args.dry_run {
        "/api/reload?ids=true"
    } else {
        "/api/reload"
    };
    let answer = client.call(&Method::POST, target, Some(&body))?;
    if !answer.print_json()? {
        print(summary(&answer.value()?, args.dry_run))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn summary(answer: &Value, dry_run: bool) -> String {
    let done = if dry_run { "would have" } else { "has" };
    let keys = answer["keys"].as_u64().unwrap_or(0);
    let keys = key_store::format_key_count(usize::try_from(keys).unwrap_or(usize::MAX));
    let mut text = format!(
        "the key table {done} {keys}, generation {}: {} added, {} removed, {} changed\n",
        answer["generation"], answer["added"], answer["removed"], answer["changed"]
    );
    for (sign, name) in [
        ("+", "added_ids"),
        ("-", "removed_ids"),
        ("~", "changed_ids"),
    ] {
        for id in answer[name].as_array().into_iter().flatten() {
            let id = id.as_str().unwrap_or_default();
            let name = answer["names"][id].as_str().unwrap_or_default();
            let fields = answer["changes"][id].as_array().into_iter().flatten();
            let fields: Vec<&str> = fields.filter_map(Value::as_str).collect();
            let fields = match fields.as_slice() {
                [] => String::new(),
                fields => format!(" ({})", fields.join(", ")),
            };
            text.push_str(&format!(
                "{sign} {} {}{fields}\n",
                escaped(id),
                escaped(name)
            ));
        }
    }
    let restart: Vec<&str> = answer["restart_needed"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !restart.is_empty() {
        text.push_str(&format!(
            "changed, but only a restart applies it: {}\n",
            restart.join(", ")
        ));
    }
    text
}
