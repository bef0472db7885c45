//! Asks an upstream for the usage of a stream, where the client did not: the one change of a body that a client did not
//! ask for, and what it adds to the stream is taken out again.

use crate::http::usage_scanner::{ResponseKind, StreamFilter};
use crate::request_body::edit::BodyEdits;
use crate::request_body::model::Places;
use crate::request_body::model::streaming::{
    CONTINUOUS_USAGE, INCLUDE_USAGE, StreamOptions, StreamSwitch, TIMINGS_PER_TOKEN,
};
use crate::store::config::{Engine, UsageMode};

/// Adds what asks an upstream of this mode and engine for the usage of a streamed chat or completion to the edits of
/// its body. Returns what is to be taken
/// out of the stream.
pub(super) fn ask_for_usage(
    (mode, engine): (UsageMode, Option<Engine>),
    kind: Option<ResponseKind>,
    places: &Places,
    edits: &mut BodyEdits,
) -> StreamFilter {
    let (Some(ResponseKind::Chat), Some(document)) = (kind, places.first_member) else {
        return StreamFilter::Nothing;
    };
    if mode == UsageMode::Read || !places.stream.is_stream {
        return StreamFilter::Nothing;
    }
    let is_running = mode == UsageMode::Running;
    let by_timings = is_running && engine == Some(Engine::LlamaCpp);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::request_body::model::{self, BodyFormat, ExtraModelFields};

    /// The body as it goes out, and what is taken out of the stream.
    fn asked(mode: UsageMode, engine: Option<Engine>, body: &str) -> (String, StreamFilter) {
        let facts = model::scan(
            &BodyFormat::Json,
            body.as_bytes(),
            ExtraModelFields::Allowed,
            None,
        )
        .unwrap();
        let mut edits = BodyEdits::default();
        let kind = Some(ResponseKind::Chat);
        let filter = ask_for_usage((mode, engine), kind, &facts.places, &mut edits);
        let edited: Vec<u8> = edits.slices(body.as_bytes()).flatten().copied().collect();
        assert_eq!(edited.len(), edits.edited_length(body.len()));
        (String::from_utf8(edited).unwrap(), filter)
    }

    #[test]
    fn llama_cpp_is_asked_for_timings_once() {
        let engine = Some(Engine::LlamaCpp);
        let (sent, filter) = asked(UsageMode::Running, engine, r#"{"model":"m","stream":true}"#);
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent["timings_per_token"], true);
        assert_eq!(filter, StreamFilter::RunningUsage);
        let own = r#"{"model":"m","stream":true,"timings_per_token":true}"#;
        let (sent, filter) = asked(UsageMode::Running, engine, own);
        assert_eq!(sent.matches("timings_per_token").count(), 1);
        assert_eq!(filter, StreamFilter::UsageEvent);
    }

    fn options() -> impl Strategy<Value = Option<Value>> {
        let switch = prop_oneof![
            Just(None),
            Just(Some(json!(null))),
            Just(Some(json!(false))),
            Just(Some(json!(true))),
            Just(Some(json!(1))),
        ];
        let object = (switch.clone(), switch, any::<bool>()).prop_map(|(usage, running, more)| {
            let mut object = serde_json::Map::new();
            if more {
                object.insert("a".to_owned(), json!({ INCLUDE_USAGE: true, "b": [1, {}] }));
            }
            object.extend(usage.map(|usage| (INCLUDE_USAGE.to_owned(), usage)));
            object.extend(running.map(|running| (CONTINUOUS_USAGE.to_owned(), running)));
            Some(Value::Object(object))
        });
        prop_oneof![
            Just(None),
            Just(Some(json!(null))),
            Just(Some(json!([1]))),
            object
        ]
    }

    proptest! {
        #[test]
        fn a_body_says_what_it_said_and_asks_for_usage_or_is_unchanged(
            stream in prop_oneof![Just(json!(true)), Just(json!(false)), Just(json!("true"))],
            options in options(),
            mode in prop_oneof![Just(UsageMode::Ask), Just(UsageMode::Read), Just(UsageMode::Running)],
            is_pretty in any::<bool>(),
        ) {
            let mut body = json!({"model": "m", "stream": stream, "z": {"stream": 1}});
            if let Some(options) = &options {
                body["stream_options"] = options.clone();
            }
            let text = match is_pretty {
                true => serde_json::to_string_pretty(&body).unwrap(),
                false => body.to_string(),
            };
            let (sent, filter) = asked(mode, None, &text);
            let is_off = |name| {
                let value = options.as_ref().and_then(|options| options.get(name));
                value.is_none_or(|value| value.is_null() || *value == false)
            };
            let is_object = options.as_ref().is_none_or(|options| options.is_null() || options.is_object());
            let asks = mode != UsageMode::Read
                && stream == true
                && is_object
                && is_off(INCLUDE_USAGE)
                && is_off(CONTINUOUS_USAGE);
            if !asks {
                prop_assert_eq!(sent, text);
                prop_assert_eq!(filter, StreamFilter::Nothing);
                return Ok(());
            }
            if !body["stream_options"].is_object() {
                body["stream_options"] = json!({});
            }
            body["stream_options"][INCLUDE_USAGE] = json!(true);
            let expected = match mode {
                UsageMode::Running => {
                    body["stream_options"][CONTINUOUS_USAGE] = json!(true);
                    StreamFilter::RunningUsage
                }
                UsageMode::Ask | UsageMode::Read => StreamFilter::UsageEvent,
            };
            prop_assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), body);
            prop_assert_eq!(filter, expected);
        }
    }
}
