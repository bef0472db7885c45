//! The program: runs the command that the arguments name.

use std::process::ExitCode;

/// glibc's malloc keeps memory that large reloads freed, and costs 5 % more instructions a request.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    keygate::cli::run()
}
