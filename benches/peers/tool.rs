//! The two ends of `benches/peers/run`: a stand-in for an LLM server, and the load. Both are one thread over epoll and
//! cost less than any proxy between them, so that what is measured is the proxy. `run.py` starts it:
//!
//! - `upstream --port P`: answers chat completions, whole or as streams
//! - `load --url URL …`: asks, checks every answer, and prints what it saw as one line of JSON
//! - `keys --count N --file F …`: a key file, the tokens of its keys, and lists of them as peers want them
//! - `body --bytes N`: the body of a request, for another program's load
//! - `certificate --folder F`: a certificate and its key for the TLS cases
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is for run.py and for the person at the terminal"
)]

#[path = "tool/framing.rs"]
mod framing;
#[path = "tool/load.rs"]
mod load;
#[path = "tool/materials.rs"]
mod materials;
#[path = "tool/options.rs"]
mod options;
#[path = "tool/request.rs"]
mod request;
#[path = "tool/socket.rs"]
mod socket;
#[path = "tool/upstream.rs"]
mod upstream;

use std::process::ExitCode;

use options::Options;

/// What goes wrong here is told and ends the run.
pub(crate) type Fault = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let options = Options::new(arguments);
    let result = match command.as_str() {
        "upstream" => upstream::run(&options),
        "load" => load::run(&options),
        "keys" => materials::keys(&options),
        "certificate" => materials::certificate(&options),
        "body" => request::print_body(&options),
        // What `cargo bench` does with every bench.
        _ => {
            println!("the ends of a comparison with other proxies: bash benches/peers/run");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("peers {command}: {fault}");
            ExitCode::FAILURE
        }
    }
}
