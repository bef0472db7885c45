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

/// Follows a stream however it is cut into pieces: whether it stands between two events.
#[derive(Clone, Copy, Debug)]
pub struct EventFollower {
    /// The last three bytes.
    tail: [u8; 3],
}

impl Default for EventFollower {
    /// At the beginning of a stream, which is between events.
    fn default() -> Self {
        Self { tail: *b"\n\n\n" }
    }
}

impl EventFollower {
    /// Follows the next piece of the stream.
    pub fn follow(&mut self, piece: &[u8]) {
        let kept = piece.len().min(self.tail.len());
        self.tail.rotate_left(kept);
        let from = self.tail.len() - kept;
        self.tail[from..].copy_from_slice(&piece[piece.len() - kept..]);
    }

    /// Whether the stream stands between two events: behind an empty line, whose end is LF, CRLF or CR.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        matches!(
            self.tail,
            [_, b'\n', b'\n'] | [b'\n', b'\r', b'\n'] | [_, b'\r', b'\r']
        )
    }
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
