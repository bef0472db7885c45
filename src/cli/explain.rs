//! `keygate explain`

use std::process::ExitCode;

use http::Method;
use serde_json::json;

use crate::cli::ExplainArgs;
use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::keys::token_on_stdin;
use crate::cli::output::{escaped, print_line};

pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode, CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let mut question = json!({
        "model": args.model,
        "from": args.from.to_string(),
        "at": args.at.map(|at| at.to_string()),
    });
    match &args.key {
        Some(id) => question["key"] = id.as_str().into(),
        None => question["token"] = token_on_stdin()?.as_str().into(),
    }
    let answer = client.call(&Method::POST, "/api/explain", Some(&question))?;
    if !answer.print_json()? {
        let explanation = answer.value()?;
        print_line(escaped(explanation["reason"].as_str().unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}
