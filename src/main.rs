//! The program: arguments in, one command run, its exit status out.

use std::process::ExitCode;

/// The system's own keeps what a reload of many keys leaves behind, and takes a twentieth of a request's steps more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    keygate::cli::run()
}
