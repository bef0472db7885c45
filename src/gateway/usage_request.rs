//! Asks an upstream for the usage of a stream, where the client did not: the one change of a body that a client did not
//! ask for, and what it adds to the stream is taken out again.

use crate::http::usage_scanner::{ResponseKind, StreamFilter};
use crate::request_body::edit::BodyEdits;
use crate::request_body::model::Places;
use crate::request_body::model::streaming::{
    CONTINUOUS_USAGE, INCLUDE_USAGE, StreamOptions, StreamSwitch, TIMINGS_PER_TOKEN,
};
use crate::store::config::{Engine, UsageMode};
use crate::upstream::Upstream;

/// Adds what asks for the usage of a streamed chat or completion to the edits of its body. Returns what is to be taken
/// out of the stream.
pub(super) fn ask_for_usage(
    upstream: &Upstream,
    kind: Option<ResponseKind>,
    places: &Places,
    edits: &mut BodyEdits,
) -> StreamFilter {
    let mode = upstream.usage();
    let (Some(ResponseKind::Chat), Some(document)) = (kind, places.first_member) else {
        return StreamFilter::Nothing;
    };
    if mode == UsageMode::Read || !places.stream.is_stream {
        return StreamFilter::Nothing;
    }
    let is_running = mode == UsageMode::Running;
    let by_timings = is_running && upstream.engine() == Some(Engine::LlamaCpp);
    let by_options = is_running && !by_timings;
    let object = match by_options {
        true => format!("{{\"{INCLUDE_USAGE}\":true,\"{CONTINUOUS_USAGE}\":true}}"),
        false => format!("{{\"{INCLUDE_USAGE}\":true}}"),
    };
    match &places.stream.options {
        StreamOptions::Absent => edits.insert_member(document, "stream_options", &object),
        StreamOptions::Empty(place) => edits.replace(place.clone(), object),
        StreamOptions::Object {
            first_member,
            include_usage,
            continuous_usage,
        } => {
            // A client that asked for either sees what it asked for, and nothing is changed.
            if *include_usage == StreamSwitch::On || *continuous_usage == StreamSwitch::On {
                return StreamFilter::Nothing;
            }
            let asked = [
                (INCLUDE_USAGE, include_usage, true),
                (CONTINUOUS_USAGE, continuous_usage, by_options),
            ];
            let mut members = String::new();
            for (name, switch, _) in asked.into_iter().filter(|(_, _, is_asked)| *is_asked) {
                match switch {
                    StreamSwitch::Off(place) => edits.replace(place.clone(), "true".to_owned()),
                    StreamSwitch::Absent | StreamSwitch::On => {
                        members.push_str(&format!("\"{name}\":true,"));
                    }
                }
            }
            if !members.is_empty() {
                edits.replace(*first_member..*first_member, members);
            }
        }
        StreamOptions::Other => return StreamFilter::Nothing,
    }
    if by_timings && !places.stream.says_timings {
        edits.insert_member(document, TIMINGS_PER_TOKEN, "true");
        return StreamFilter::RunningUsage;
    }
    match by_options {
        true => StreamFilter::RunningUsage,
        false => StreamFilter::UsageEvent,
    }
}
