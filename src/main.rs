//! temp
use keygate::store::config::LogFormat;
use keygate::store::config::parse::{self, Overrides};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    if command == "demo" {
        return keygate::cli::demo::run();
    }
    let (mut file, mut overrides) = (None, Overrides::default());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--config" => file = args.next(),
            "--log-format" => {
                overrides.log_format = Some(if args.next().as_deref() == Some("json") {
                    LogFormat::Json
                } else {
                    LogFormat::Text
                })
            }
            "--listen" => overrides.listen.extend(args.next()),
            "--upstream" => overrides.upstreams.extend(args.next()),
            "--keys" => overrides.keys = args.next().map(Into::into),
            "--socket" => overrides.socket = args.next().map(Into::into),
            _ => return ExitCode::from(2),
        }
    }
    let config = match &file {
        Some(f) => parse::load(Path::new(f), &overrides),
        None => parse::without_file(&overrides),
    };
    match config {
        Ok(config) => {
            let source = Arc::new(move || parse::read(file.as_deref().map(Path::new), &overrides));
            match keygate::cli::serve::serve(config, source, async |_, _| ()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    eprintln!("{e}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(faults) => {
            for x in faults {
                eprintln!("{x}");
            }
            ExitCode::FAILURE
        }
    }
}
