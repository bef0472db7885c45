//! What the process asks of the system for its own safety.

use crate::observe::log::{Event, Log};

/// No core dump may hold a token; every descriptor the system grants is for connections. Returns how many it grants.
pub(super) fn set_process_limits() -> Option<u64> {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    // Where the system refuses, the gateway is no less a gateway.
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

/// A panic is a line like any other; what it says holds no client's data, since none is ever formatted into one.
pub(super) fn log_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        log.event(Event::error("panic").with("place", place));
    }));
}
