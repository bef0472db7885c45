//! The program: arguments in, one command run, its exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    keygate::cli::run()
}
