//! `keygate panel-link`: a link to the panel of a running gateway that signs in once.

use std::process::ExitCode;

use http::Method;

use crate::cli::PanelLinkArgs;
use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::output::{escaped, print};

pub(super) fn run(args: &PanelLinkArgs) -> Result<ExitCode, CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::POST, "/api/session-links", None)?;
    if !answer.print_json()? {
        let link = answer.value()?["link"].as_str().map(escaped);
        // Alone on standard output, so that a script can open it.
        print(format!("{}\n", link.unwrap_or_default()))?;
        eprintln!("It signs in once, within five minutes. Whoever has it can use the panel.");
    }
    Ok(ExitCode::SUCCESS)
}
