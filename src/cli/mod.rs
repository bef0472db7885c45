//! Floor 6: commands.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands speak to whoever typed them"
)]

pub mod demo;
pub mod serve;
mod stand_in;
