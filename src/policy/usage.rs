//! What one request used, and how certain that is.

/// How certain the counts of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Certainty {
    /// The upstream said them, or they are the length of the audio file that was sent.
    Exact,
    /// The response ended before the upstream said them: at least so much was used.
    AtLeast,
    /// Nothing is known.
    Unknown,
}

impl Certainty {
    /// Its name in the database, in metrics and in the admin API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::AtLeast => "at_least",
            Self::Unknown => "unknown",
        }
    }

    /// The certainty of a name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        [Self::Exact, Self::AtLeast, Self::Unknown]
            .into_iter()
            .find(|certainty| certainty.label() == label)
    }
}

/// What one request used. A count that is not known is None, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCounts {
    /// Tokens of the input, cached ones included, whatever the upstream's convention.
    pub input: Option<u64>,
    /// Those of them that came from the upstream's cache.
    pub input_cached: Option<u64>,
    /// Tokens of the output, reasoning included.
    pub output: Option<u64>,
    /// Those of them that were reasoning.
    pub output_reasoning: Option<u64>,
    /// The length of the audio, in microseconds.
    pub audio_microseconds: Option<u64>,
    /// Images made.
    pub images: Option<u64>,
    /// How certain these are.
    pub certainty: Certainty,
}

impl RequestCounts {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        input: None,
        input_cached: None,
        output: None,
        output_reasoning: None,
        audio_microseconds: None,
        images: None,
        certainty: Certainty::Unknown,
    };

    /// The counts with the length of the audio file that was sent, where the upstream did not say it. `is_complete`:
    /// the response came to its end.
    #[must_use]
    pub fn with_file_length(mut self, microseconds: u64, is_complete: bool) -> Self {
        if self.audio_microseconds.is_none() {
            self.audio_microseconds = Some(microseconds);
            self.certainty = match self.certainty {
                Certainty::Unknown if is_complete => Certainty::Exact,
                Certainty::Unknown => Certainty::AtLeast,
                known @ (Certainty::Exact | Certainty::AtLeast) => known,
            };
        }
        self
    }

    /// Whether any count is known.
    #[must_use]
    pub fn any_known(&self) -> bool {
        let Self {
            input,
            input_cached: _,
            output,
            output_reasoning: _,
            audio_microseconds,
            images,
            certainty: _,
        } = self;
        input
            .or(*output)
            .or(*audio_microseconds)
            .or(*images)
            .is_some()
    }
}
