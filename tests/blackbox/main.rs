//! Black-box tests: the running binary over its sockets, against what its contract promises and nothing else.
//!
//! Every test starts its own gateway on a port of its own (`support::gateway`), in front of an upstream that writes
//! down each byte it sees (`support::recorder`). Whatever waits has a deadline; nothing sleeps to hope.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that cannot go on has failed, and says where"
)]

mod support;

mod admin;
mod body;
mod certificates;
mod commands;
mod decide;
mod edges;
mod floods;
mod forward;
mod framing;
mod fuzz;
mod harness;
mod lifecycle;
mod multipart;
mod patience;
mod process;
mod reload;
mod streams;
mod tls;
