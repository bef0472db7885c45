//! Server-sent events (WHATWG HTML 9.2): whether a response is a stream of them, and where one ends.

use crate::http::fields::Fields;
use crate::policy::field_kind::FieldKind;

/// Whether a response's body is a stream of events, encoded or not.
#[must_use]
pub fn is_event_stream(fields: &Fields) -> bool {
    let kind = fields.first(FieldKind::ContentType).unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
}

/// Events after which a stream's API sends nothing more: of Anthropic's messages, and of OpenAI's responses and audio.
/// The text `[DONE]` ends the streams of its chat.
const FINAL_EVENTS: [&[u8]; 6] = [
    b"message_stop",
    b"response.completed",
    b"response.failed",
    b"response.incomplete",
    b"speech.audio.done",
    b"transcript.text.done",
];
/// Bytes of a line that are kept where it comes in pieces: more than a final event needs.
const MAX_LINE_START: usize = 64;

/// Follows a stream however it is cut into pieces: whether it stands between two events, and whether its last event
/// was among them.
#[derive(Clone, Copy, Debug)]
pub struct EventFollower {
    /// The last three bytes.
    tail: [u8; 3],
    /// The beginning of a line whose end has not come.
    line: [u8; MAX_LINE_START],
    line_length: usize,
    has_final_event: bool,
}

impl Default for EventFollower {
    /// At the beginning of a stream, which is between events.
    fn default() -> Self {
        Self {
            tail: *b"\n\n\n",
            line: [0; MAX_LINE_START],
            line_length: 0,
            has_final_event: false,
        }
    }
}

impl EventFollower {
    /// Follows the next piece of the stream.
    pub fn follow(&mut self, piece: &[u8]) {
        let kept = piece.len().min(self.tail.len());
        self.tail.rotate_left(kept);
        let from = self.tail.len() - kept;
        self.tail[from..].copy_from_slice(&piece[piece.len() - kept..]);
        if self.has_final_event {
            return;
        }
        let mut rest = piece;
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            let line = &rest[..end];
            self.has_final_event |= match self.line_length {
                0 => is_of_final_event(line),
                _ => {
                    self.keep(line);
                    is_of_final_event(&self.line[..self.line_length])
                }
            };
            self.line_length = 0;
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    fn keep(&mut self, part: &[u8]) {
        let place = &mut self.line[self.line_length..];
        let count = part.len().min(place.len());
        place[..count].copy_from_slice(&part[..count]);
        self.line_length += count;
    }

    /// Whether the stream stands between two events: behind an empty line, whose end is LF, CRLF or CR.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        matches!(
            self.tail,
            [_, b'\n', b'\n'] | [b'\n', b'\r', b'\n'] | [_, b'\r', b'\r']
        )
    }

    /// Whether the stream's last event came whole: its client needs nothing more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.has_final_event && self.is_between_events()
    }
}

/// Whether a line belongs to an event with which a stream ends: by its `event` field, or by its data, which is `[DONE]` or
/// a JSON object that begins with the event's type.
fn is_of_final_event(line: &[u8]) -> bool {
    if let Some(name) = line.strip_prefix(b"event:") {
        return FINAL_EVENTS.contains(&name.trim_ascii());
    }
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start) else {
        return false;
    };
    if data.first() != Some(&b'{') {
        return data.trim_ascii_end() == b"[DONE]";
    }
    let mut rest = &data[1..];
    for part in [&b"\"type\""[..], b":", b"\""] {
        let Some(behind) = rest.trim_ascii_start().strip_prefix(part) else {
            return false;
        };
        rest = behind;
    }
    let end = memchr::memchr(b'"', rest).unwrap_or(0);
    FINAL_EVENTS.contains(&&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_between(pieces: &[&str]) -> bool {
        let mut follower = EventFollower::default();
        for piece in pieces {
            follower.follow(piece.as_bytes());
        }
        follower.is_between_events()
    }

    #[test]
    fn an_empty_line_ends_an_event_however_it_is_cut() {
        for stream in [
            "data: a\n\n",
            "data: a\r\n\r\n",
            "data: a\r\r",
            ": c\n\n",
            "",
        ] {
            for at in 0..=stream.len() {
                let (one, other) = stream.split_at(at);
                assert!(is_between(&[one, other]), "{one:?} {other:?}");
            }
            let bytes: Vec<&str> = stream.split("").collect();
            assert!(is_between(&bytes), "{stream:?}");
        }
    }

    #[test]
    fn inside_an_event_nothing_may_be_added() {
        for stream in [
            "data: a",
            "data: a\n",
            "data: a\r\n",
            "data: a\r",
            "\n\nd",
            "data: a\n\ndata",
        ] {
            assert!(!is_between(&[stream]), "{stream:?}");
        }
    }

    fn is_finished(stream: &str) -> bool {
        let mut whole = EventFollower::default();
        whole.follow(stream.as_bytes());
        for at in 0..=stream.len() {
            let mut cut = EventFollower::default();
            for piece in [&stream[..at], &stream[at..]] {
                cut.follow(piece.as_bytes());
            }
            assert_eq!(cut.is_finished(), whole.is_finished(), "{stream:?} at {at}");
        }
        let mut bytes = EventFollower::default();
        stream.bytes().for_each(|byte| bytes.follow(&[byte]));
        assert_eq!(bytes.is_finished(), whole.is_finished(), "{stream:?}");
        whole.is_finished()
    }

    #[test]
    fn the_last_event_of_each_api_is_known_once_it_is_whole() {
        let long = format!(
            "data: {{\"type\": \"response.completed\", \"response\": \"{}\"}}\r\n\r\n",
            "x".repeat(500)
        );
        for finished in [
            "data: {\"id\":1}\n\ndata: [DONE]\n\n",
            "data:[DONE]\r\n\r\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            "data: {\"type\":\"message_stop\"}\n\n",
            "event: response.completed\ndata: {}\n\n",
            "event:response.incomplete\rdata: {}\r\r",
            "data: [DONE]\n\n: a comment\n\n",
            &long,
        ] {
            assert!(is_finished(finished), "{finished:?}");
        }
        for running in [
            "",
            "data: [DONE]\n",
            "data: [DONE]",
            "event: message_stop\ndata: {}\n",
            "data: a [DONE]\n\n",
            "data: [DONE]x\n\n",
            "data: {\"a\":\"[DONE]\"}\n\n",
            "data: {\"delta\":{\"type\":\"message_stop\"}}\n\n",
            "data: {\"type\":\"response.completed_not\"}\n\n",
            ": event: message_stop\n\n",
            "event: message_stopped\n\n",
            "xdata: [DONE]\n\n",
        ] {
            assert!(!is_finished(running), "{running:?}");
        }
    }

    #[test]
    fn the_media_type_says_that_it_is_a_stream_of_events() {
        let is_one = |value: &str| {
            let mut fields = Fields::default();
            fields.restart(b"");
            fields.push("content-type", value.as_bytes());
            is_event_stream(&fields)
        };
        assert!(is_one("text/event-stream"));
        assert!(is_one("Text/Event-Stream ; charset=utf-8"));
        assert!(!is_one("text/event-streams"));
        assert!(!is_one("application/json"));
    }
}
