//! Reads the counts of a request in its response, as the response passes.
//!
//! [`UsageScanner::feed`] takes each piece of a body and says what to send in its place: nearly always the piece itself.
//! It needs little memory, however long the response is, and what it cannot read is unknown, never an error. `paths`
//! says where the counts stand, `json` reads documents, `events` reads event streams, `template` recognises events like
//! the last one, `readings` puts together what they said.

mod events;
mod json;
mod paths;
mod readings;
mod template;

use crate::http::usage_scanner::events::EventScanner;
use crate::http::usage_scanner::json::JsonReader;
use crate::http::usage_scanner::readings::Readings;
use crate::policy::usage::RequestCounts;

pub use crate::http::usage_scanner::paths::ResponseKind;

/// What is taken out of a stream because only the gateway asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFilter {
    /// Nothing: every byte passes.
    Nothing,
    /// The event without choices and with a usage, which `include_usage` causes.
    UsageEvent,
    /// That event, and the usage and timings in all others, which `continuous_usage_stats` and `timings_per_token`
    /// cause.
    RunningUsage,
}

/// What to send to the client in place of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward<'s> {
    /// The piece itself.
    Whole,
    /// These bytes; they may be none.
    Instead(&'s [u8]),
}

/// Reads the counts of one response.
#[derive(Debug)]
pub struct UsageScanner(Box<Format>);

#[derive(Debug)]
enum Format {
    Json {
        reader: JsonReader,
        readings: Readings,
        length: usize,
    },
    Events(EventScanner),
}

impl UsageScanner {
    /// For a response that is one JSON document. Every byte of it passes.
    #[must_use]
    pub fn json(kind: ResponseKind) -> Self {
        Self(Box::new(Format::Json {
            reader: JsonReader::new(kind.document_shape()),
            readings: Readings::new(kind),
            length: 0,
        }))
    }

    /// For a stream of server-sent events.
    #[must_use]
    pub fn events(kind: ResponseKind, filter: StreamFilter) -> Self {
        Self(Box::new(Format::Events(EventScanner::new(kind, filter))))
    }

    /// Reads a piece of the body, and says what to send in its place.
    #[inline]
    pub fn feed(&mut self, piece: &[u8]) -> Forward<'_> {
        match &mut *self.0 {
            Format::Events(events) => events.feed(piece),
            Format::Json {
                reader,
                readings,
                length,
            } => {
                let was_done = reader.is_done();
                reader.read(piece, *length);
                *length += piece.len();
                if reader.is_done() && !was_done {
                    readings.add(reader.document());
                }
                Forward::Whole
            }
        }
    }

    /// The same for the body's last piece.
    pub fn feed_last(&mut self, piece: &[u8]) -> Forward<'_> {
        // Most responses come in one piece, and of those the end is enough.
        if let Format::Json {
            reader,
            readings,
            length: 0,
        } = &mut *self.0
            && readings.kind().needs_usage_only()
            && reader.read_usage_at_end(piece)
        {
            readings.add(reader.document());
            return Forward::Whole;
        }
        self.feed(piece)
    }

    /// Whether parts of the response may be taken out.
    #[must_use]
    pub fn takes_out(&self) -> bool {
        match &*self.0 {
            Format::Events(events) => events.filter() != StreamFilter::Nothing,
            Format::Json { .. } => false,
        }
    }

    /// What of the pieces is not sent yet; it goes before the end of the body. An event that has not come whole waits
    /// here, as long as it may be one that a [`StreamFilter`] takes out.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        match &*self.0 {
            Format::Events(events) => events.rest(),
            Format::Json { .. } => &[],
        }
    }

    /// Whether the last event came that means anything to a client: `[DONE]`, `message_stop`, `response.completed`. A
    /// client that leaves now has read a complete response.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &*self.0 {
            Format::Events(events) => events.readings().is_finished(),
            Format::Json { reader, .. } => reader.is_done(),
        }
    }

    /// The counts, of what came so far.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        match &*self.0 {
            Format::Events(events) => events.readings().counts(),
            Format::Json { readings, .. } => readings.counts(),
        }
    }
}

#[cfg(test)]
mod tests;
