//! `keygate completions`

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::command_error::CommandError;
use crate::cli::output::print;
use crate::cli::{Cli, CompletionsArgs};

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keygate", &mut script);
    print(script)?;
    Ok(ExitCode::SUCCESS)
}
