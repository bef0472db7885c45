//! What a JSON body says about the stream it asks for, with the places at which the gateway may ask for its usage.

use std::ops::Range;

use crate::policy::body_fields::folds_to;

/// A top-level field about the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamField {
    Stream,
    StreamOptions,
    /// llama.cpp: the counts stand in every event.
    TimingsPerToken,
}

/// The longest name that folds to one of these, in bytes.
const MAX_NAME: usize = 64;
const STREAM: &str = "stream";
const STREAM_OPTIONS: &str = "stream_options";
/// llama.cpp's field.
pub(crate) const TIMINGS_PER_TOKEN: &str = "timings_per_token";
/// The member of the options that asks for the usage.
pub(crate) const INCLUDE_USAGE: &str = "include_usage";
/// The member of the options that asks for it in every event.
pub(crate) const CONTINUOUS_USAGE: &str = "continuous_usage_stats";

impl StreamField {
    /// The field of a name, and whether it is spelled exactly so. Servers written in Go fold case.
    #[inline]
    pub(crate) fn of(name: &str) -> Option<(Self, bool)> {
        let first = *name.as_bytes().first()?;
        if !matches!(first, b's' | b'S' | b't' | b'T' | 0x80..) || name.len() > MAX_NAME {
            return None;
        }
        let fields = [
            (STREAM, Self::Stream),
            (STREAM_OPTIONS, Self::StreamOptions),
            (TIMINGS_PER_TOKEN, Self::TimingsPerToken),
        ];
        let (known, field) = fields
            .into_iter()
            .find(|(known, _)| folds_to(name, known))?;
        Some((field, name == known))
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stream => STREAM,
            Self::StreamOptions => STREAM_OPTIONS,
            Self::TimingsPerToken => TIMINGS_PER_TOKEN,
        }
    }
}

/// What a body says about its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamAsked {
    /// Whether `stream` is true.
    pub(crate) is_stream: bool,
    pub(crate) options: StreamOptions,
    /// Whether it says anything of `timings_per_token`.
    pub(crate) says_timings: bool,
}

/// The value of `stream_options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamOptions {
    #[default]
    Absent,
    /// Null, or an empty object.
    Empty(Range<usize>),
    Object {
        /// Behind its opening brace.
        first_member: usize,
        include_usage: StreamSwitch,
        continuous_usage: StreamSwitch,
    },
    /// Anything else.
    Other,
}

/// A member that is on or off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamSwitch {
    #[default]
    Absent,
    /// False or null.
    Off(Range<usize>),
    /// True, or what some server may take for it: another value, several values, another case.
    On,
}

impl StreamSwitch {
    /// A member of the object whose name folds to this one's.
    pub(crate) fn add(&mut self, is_exact: bool, value: &[u8], place: Range<usize>) {
        let is_off = matches!(value, b"false" | b"null");
        *self = match self {
            Self::Absent if is_exact && is_off => Self::Off(place),
            Self::Absent | Self::Off(_) | Self::On => Self::On,
        };
    }
}
