//! `keygate completions`

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::{Cli, CompletionsArgs};

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keygate", &mut script);
    print(script)?;
    Ok(ExitCode::SUCCESS)
}
