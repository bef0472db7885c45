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

#[path = "../fuzz/dice.rs"]
#[allow(
    dead_code,
    reason = "the fuzz targets use more of it than these tests do"
)]
mod dice;
#[path = "../fuzz/targets/lazy_form.rs"]
mod lazy_form;
mod support;

mod admin;
mod body;
mod certificates;
mod clock_steps;
mod closing;
mod codec;
mod commands;
mod compressed;
mod connection_header;
mod crowd;
mod decide;
mod early_answers;
mod edges;
mod floods;
mod folded;
mod forward;
mod framing;
mod full_disk;
mod fuzz;
mod harness;
mod leaving;
mod lifecycle;
mod multipart;
mod patience;
mod process;
mod proxies;
mod refused_floods;
mod reload;
mod reuse;
mod shortage;
mod signals;
mod slow_peers;
mod slow_tools;
mod soak;
mod stalled_clients;
mod streams;
mod tls;
