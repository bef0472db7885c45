//! Process limits and the panic hook.

use crate::observe::log::{Event, Log};
use crate::request_body::audio;

/// Disables core dumps, which could contain tokens, and raises the limit of open files to the maximum. Returns that limit.
pub(super) fn set_process_limits() -> Option<u64> {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    // Errors are ignored: the gateway works without these limits.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    );
    getrlimit(Resource::Nofile).current
}

/// Logs each panic with its place. The message is left out: it could contain data of clients.
pub(super) fn log_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        // A client's damaged file is no defect of the gateway.
        if audio::is_reading() {
            return;
        }
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        log.event(Event::error("panic").with("place", place));
    }));
}
