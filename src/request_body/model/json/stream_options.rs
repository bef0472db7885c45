//! Reads the object `stream_options`, at the second level of the document.

use crate::policy::body_fields::folds_to;
use crate::request_body::model::json::{JsonError, JsonErrorKind, Scanner};
use crate::request_body::model::streaming::{
    CONTINUOUS_USAGE, INCLUDE_USAGE, StreamOptions, StreamSwitch,
};

impl Scanner<'_> {
    pub(super) fn stream_options(&mut self) -> Result<StreamOptions, JsonError> {
        let start = self.at;
        if !self.take(b'{') {
            self.value()?;
            return Ok(match &self.bytes[start..self.at] {
                b"null" => StreamOptions::Empty(start..self.at),
                _ => StreamOptions::Other,
            });
        }
        let first_member = self.at;
        self.whitespace();
        if self.take(b'}') {
            return Ok(StreamOptions::Empty(start..self.at));
        }
        let (mut include_usage, mut continuous_usage) =
            (StreamSwitch::Absent, StreamSwitch::Absent);
        loop {
            let name = self.name()?;
            let mut decoded = String::new();
            let text = match name.escaped {
                false => self.text_of(name),
                true => {
                    // Half a surrogate pair is allowed at this level, and no parser makes one of the names of it.
                    let _ = self.unescape(name, |character| decoded.push(character));
                    decoded.split('\0').next().unwrap_or_default()
                }
            };
            let switch = [
                (INCLUDE_USAGE, &mut include_usage),
                (CONTINUOUS_USAGE, &mut continuous_usage),
            ]
            .into_iter()
            .find(|(known, _)| folds_to(text, known))
            .map(|(known, switch)| (switch, !name.escaped && text == known));
            let value_at = self.at;
            self.value_below(2)?;
            if let Some((switch, is_exact)) = switch {
                switch.add(is_exact, &self.bytes[value_at..self.at], value_at..self.at);
            }
            self.whitespace();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(StreamOptions::Object {
                        first_member,
                        include_usage,
                        continuous_usage,
                    });
                }
                _ => return Err(self.error(JsonErrorKind::NoCommaOrEnd)),
            }
            self.whitespace();
        }
    }
}
