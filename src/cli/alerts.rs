//! `keygate alerts test`

use std::process::ExitCode;

use http::Method;

use crate::cli::AlertsCommand;
use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{escaped, print};

pub(super) fn run(command: &AlertsCommand) -> Result<ExitCode, CommandError> {
    let AlertsCommand::Test(args) = command;
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::POST, "/api/alerts/test", None)?;
    let value = answer.value()?;
    let is_delivered = value["delivered"] == true;
    if !answer.print_json()? {
        let reason = value["error"].as_str().map(escaped).unwrap_or_default();
        print(match is_delivered {
            true => format!("delivered: the receiver answers {}\n", value["status"]),
            false => format!("not delivered: {reason}\n"),
        })?;
    }
    Ok(match is_delivered {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
