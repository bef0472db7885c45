//! `keygate fleet`

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::keys::{can_ask, is_meant, or_dash, text};
use crate::cli::output::{print, table};
use crate::cli::reload::summary;
use crate::cli::{AcceptRollbackArgs, FleetArgs, FleetCommand};

const HEADINGS: [&str; 8] = [
    "NAME",
    "STATE",
    "VERSION",
    "REVISION",
    "BEHIND",
    "LAG",
    "IN FLIGHT",
    "SINCE",
];

pub(super) fn run(args: &FleetArgs) -> Result<ExitCode, CommandError> {
    if let Some(FleetCommand::AcceptRollback(args)) = &args.command {
        accept_rollback(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::GET, "/api/fleet", None)?;
    if !answer.print_json()? {
        print(describe(&answer.value()?))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn accept_rollback(args: &AcceptRollbackArgs) -> Result<(), CommandError> {
    const PATH: &str = "/api/fleet/accept-rollback?ids=true";
    if !args.dry_run && !args.yes && !can_ask() {
        let what = "nothing was accepted: there is no terminal to ask on whether it is meant; look with --dry-run, and add --yes";
        return Err(CommandError::Refused(what.to_owned()));
    }
    let client = Client::of_gateway(&args.gateway)?;
    let call = |dry_run: bool| {
        let body = json!({"dry_run": dry_run});
        client.call(&Method::POST, PATH, Some(&body))
    };
    if !args.dry_run && !args.yes {
        eprint!("{}", summary(&call(true)?.value()?, true));
        if !is_meant("Follow the database as it is, on all gateways?")? {
            return Err(CommandError::Refused("nothing was accepted".to_owned()));
        }
    }
    let answer = call(args.dry_run)?;
    match answer.print_json()? {
        true => Ok(()),
        false => print(summary(&answer.value()?, args.dry_run)),
    }
}

fn describe(fleet: &Value) -> String {
    let mut gateways: Vec<&Value> = fleet["data"].as_array().into_iter().flatten().collect();
    // What needs a look comes first. The order by name stays in each part.
    gateways.sort_by_key(|gateway| match gateway["state"].as_str() {
        Some("behind") => 0,
        Some("not_seen") => 1,
        _ => 2,
    });
    let mut lines = table(HEADINGS, gateways.into_iter().map(row).collect());
    let database = &fleet["database"];
    if database.is_null() {
        lines.push_str("This gateway has its own database.\n");
    } else if database["up"] != true {
        let reason = text(&database["error"]);
        lines.push_str(&match database["read_at"].as_str() {
            Some(_) => format!(
                "The database is away; this is as of {}: {reason}\n",
                text(&database["read_at"])
            ),
            None => {
                format!("The database is away, and the other gateways are not known: {reason}\n")
            }
        });
    }
    lines
}

fn row(gateway: &Value) -> [String; 8] {
    let name = text(&gateway["name"]);
    let number = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    };
    [
        match gateway["is_this"] == true {
            true => format!("{name} (this)"),
            false => name,
        },
        match gateway["state"].as_str() {
            Some("in_sync") => "in sync".to_owned(),
            Some("not_seen") => format!("not seen since {}", or_dash(&gateway["seen_at"])),
            _ => text(&gateway["state"]),
        },
        text(&gateway["version"]),
        number(&gateway["revision"]),
        number(&gateway["behind"]),
        match gateway["lag_seconds"].as_f64() {
            Some(seconds) => format!("{seconds} s"),
            None => "-".to_owned(),
        },
        number(&gateway["in_flight"]),
        or_dash(&gateway["started_at"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gateway(name: &str, state: &str, revision: Option<u64>) -> Value {
        json!({"name": name, "instance": "i", "version": "0.1.0", "started_at": "2027-01-01T00:00:00Z",
               "seen_at": "2027-01-02T00:00:00Z", "revision": revision, "behind": revision.map(|seen| 7 - seen),
               "lag_seconds": revision.map(|_| 0.25), "in_flight": 3, "state": state, "is_this": name == "a"})
    }

    #[test]
    fn gateways_that_are_behind_come_first() {
        let data = [
            gateway("a", "in_sync", Some(7)),
            gateway("b", "not_seen", None),
            gateway("c\u{1b}", "behind", Some(5)),
        ];
        let text = describe(
            &json!({"revision": 7, "database": {"up": true, "error": null}, "data": data}),
        );
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        let since = "2027-01-01T00:00:00Z";
        assert_eq!(
            lines[1..],
            [
                vec![
                    "c\\u{1b}", "behind", "0.1.0", "5", "2", "0.25 s", "3", since
                ],
                vec![
                    "b",
                    "not seen since 2027-01-02T00:00:00Z",
                    "0.1.0",
                    "-",
                    "-",
                    "-",
                    "3",
                    since
                ],
                vec![
                    "a (this)", "in sync", "0.1.0", "7", "0", "0.25 s", "3", since
                ],
            ]
        );
    }

    #[test]
    fn it_is_said_where_nobody_else_can_be_seen() {
        let data = [gateway("a", "in_sync", None)];
        let alone = describe(&json!({"database": null, "data": data}));
        assert!(
            alone.ends_with("\nThis gateway has its own database.\n"),
            "{alone}"
        );
        let away = json!({"up": false, "error": "no route", "read_at": "2027-01-02T00:00:00Z"});
        let away = describe(&json!({"database": away, "data": data}));
        assert!(
            away.contains("as of 2027-01-02T00:00:00Z: no route"),
            "{away}"
        );
        let away = json!({"up": false, "error": "no route", "read_at": null});
        let away = describe(&json!({"database": away, "data": data}));
        assert!(away.contains("not known: no route"), "{away}");
    }
}
