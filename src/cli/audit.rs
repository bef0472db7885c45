//! `keygate audit` and `keygate audit verify`

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{self, escaped, print, print_line};
use crate::cli::{AuditArgs, AuditCommand, AuditListArgs, GatewayArgs};
use crate::policy::time::UnixTime;
use crate::request_body::model::form_query;

pub(super) fn run(args: &AuditArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(AuditCommand::Verify(args)) => verify(&args.gateway),
        None => list(&args.list).map(|()| ExitCode::SUCCESS),
    }
}

fn list(args: &AuditListArgs) -> Result<(), CommandError> {
    let AuditListArgs {
        key,
        actor,
        action,
        from,
        to,
        limit,
        csv,
        gateway,
    } = args;
    let time = |time: &UnixTime| time.seconds().to_string();
    let parameters = [
        ("key", key.as_ref().map(|key| key.as_str().to_owned())),
        ("actor", actor.clone()),
        ("action", action.clone()),
        ("start_time", from.as_ref().map(time)),
        ("end_time", to.as_ref().map(time)),
        ("limit", Some(limit.to_string())),
    ];
    let named = parameters
        .iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)));
    let target = format!("/api/audit?{}", form_query(named));
    let client = Client::of_gateway(gateway)?;
    if *csv {
        return print(client.csv(&target)?);
    }
    let answer = client.call(&Method::GET, &target, None)?;
    if answer.print_json()? {
        return Ok(());
    }
    let page = answer.value()?;
    let rows = page["rows"].as_array().into_iter().flatten();
    let headings = ["N", "AT", "ACTOR", "VIA", "ACTION", "KEY", "CHANGE"];
    let row = |row: &Value| {
        [
            row["n"].to_string(),
            text(&row["at"]),
            text(&row["actor"]),
            text(&row["via"]),
            text(&row["action"]),
            text(&row["target"]),
            change(row),
        ]
    };
    print(output::table(headings, rows.map(row).collect()))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), escaped)
}

/// `name: "a" -> "b"`, for each field that changed.
fn change(row: &Value) -> String {
    let (before, after) = (&row["before"], &row["after"]);
    let names = after.as_object().or(before.as_object());
    let changes = names.into_iter().flatten().map(|(name, _)| {
        let value = |fields: &Value| escaped(&fields[name].to_string());
        let name = escaped(name);
        match (before.get(&name).is_some(), after.get(&name).is_some()) {
            (true, true) => format!("{name}: {} -> {}", value(before), value(after)),
            (true, false) => format!("{name}: {}", value(before)),
            (false, _) => format!("{name}: {}", value(after)),
        }
    });
    changes.collect::<Vec<String>>().join(", ")
}

fn verify(gateway: &GatewayArgs) -> Result<ExitCode, CommandError> {
    let client = Client::of_gateway(gateway)?;
    let answer = client.call(&Method::GET, "/api/audit/verify", None)?;
    let report = answer.value()?;
    let is_intact = report["intact"] == true;
    if !answer.print_json()? {
        print_line(match is_intact {
            true => intact(&report),
            false => format!(
                "broken at row {}: {}; the rows before it are as they were written",
                report["broken"]["n"],
                text(&report["broken"]["message"])
            ),
        })?;
        if report["waiting"] != 0 || report["lost"] != 0 {
            print_line(format!(
                "{} rows wait for the database, {} were lost",
                report["waiting"], report["lost"]
            ))?;
        }
    }
    Ok(match is_intact {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn intact(report: &Value) -> String {
    if report["rows"] == 0 {
        return "intact: there are no rows yet".to_owned();
    }
    format!(
        "intact: rows {} to {} are as they were written; the hash of the last one is {}",
        report["first"],
        report["intact_to"],
        text(&report["hash"])
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_shown_by_its_fields_and_steers_no_terminal() {
        let row = json!({
            "before": {"name": "a", "account": null},
            "after": {"name": "b\u{202e}", "account": "acme", "token": "replaced"},
        });
        assert_eq!(
            change(&row),
            "account: null -> \"acme\", name: \"a\" -> \"b\\u{202e}\", token: \"replaced\""
        );
        assert_eq!(
            change(&json!({"before": {"name": "a"}, "after": null})),
            "name: \"a\""
        );
        assert_eq!(change(&json!({"before": null, "after": null})), "");
    }
}
