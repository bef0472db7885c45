//! What the documents of one response said, put together: the counts of the request.

use crate::http::usage_scanner::json::{Document, EventType};
use crate::http::usage_scanner::paths::{Field, ResponseKind};
use crate::policy::usage::{Certainty, RequestCounts};

/// The counts of a response so far.
#[derive(Debug)]
pub(crate) struct Readings {
    kind: ResponseKind,
    input: Option<u64>,
    cached: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
    seconds: Option<u64>,
    duration: Option<u64>,
    images: Option<u64>,
    /// llama.cpp.
    prompt_n: Option<u64>,
    cache_n: Option<u64>,
    predicted_n: Option<u64>,
    /// Events with a piece of output since the output was last said.
    pieces: u64,
    is_finished: bool,
}

impl Readings {
    pub(crate) fn new(kind: ResponseKind) -> Self {
        Self {
            kind,
            input: None,
            cached: None,
            output: None,
            reasoning: None,
            cache_read: None,
            cache_creation: None,
            seconds: None,
            duration: None,
            images: None,
            prompt_n: None,
            cache_n: None,
            predicted_n: None,
            pieces: 0,
            is_finished: false,
        }
    }

    pub(crate) fn kind(&self) -> ResponseKind {
        self.kind
    }

    /// Adds an event with a piece of output, of which nothing else is to be read.
    pub(crate) fn add_piece(&mut self) {
        self.pieces += 1;
    }

    /// The event that ends a stream came.
    pub(crate) fn finish(&mut self) {
        self.is_finished = true;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Adds what a whole document said. What a later one says replaces what an earlier one said.
    pub(crate) fn add(&mut self, document: &Document) {
        let value = |field| document.value(field);
        if document.pieces > 0 {
            self.pieces += 1;
        }
        if document.first_usage {
            self.add_message_input(document);
        }
        if document.usage {
            match self.kind {
                ResponseKind::Messages => self.add_message_input(document),
                ResponseKind::Chat
                | ResponseKind::Embeddings
                | ResponseKind::Responses
                | ResponseKind::Audio
                | ResponseKind::Images => {
                    self.input = value(Field::Input).or(self.input);
                    if self.kind == ResponseKind::Embeddings {
                        self.input = value(Field::Input).or(value(Field::Total)).or(self.input);
                    }
                    self.cached = value(Field::Cached).or(self.cached);
                }
            }
            self.reasoning = value(Field::Reasoning).or(self.reasoning);
            self.seconds = value(Field::Seconds).or(self.seconds);
            let rest = || value(Field::Total)?.checked_sub(value(Field::Input)?);
            if let Some(output) = value(Field::Output).or_else(rest) {
                self.output = Some(output);
                self.pieces = 0;
            }
        }
        if document.timings
            && let Some(predicted) = value(Field::PredictedN)
        {
            self.prompt_n = value(Field::PromptN);
            self.cache_n = value(Field::CacheN);
            self.predicted_n = Some(predicted);
            if self.output.is_none() {
                self.pieces = 0;
            }
        }
        self.duration = value(Field::Duration).or(self.duration);
        match document.event {
            EventType::Last => self.is_finished = true,
            EventType::Image => self.images = Some(self.images.unwrap_or(0) + 1),
            EventType::Other => self.images = document.images.or(self.images),
        }
    }

    /// Anthropic's counts are cumulative, and an event may repeat some as 0.
    fn add_message_input(&mut self, document: &Document) {
        let largest = |known: &mut Option<u64>, field| *known = (*known).max(document.value(field));
        largest(&mut self.input, Field::Input);
        largest(&mut self.cache_read, Field::CacheRead);
        largest(&mut self.cache_creation, Field::CacheCreation);
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        let mut counts = RequestCounts {
            input: self.input,
            input_cached: self.cached,
            output: self.output,
            output_reasoning: self.reasoning,
            audio_microseconds: None,
            images: None,
            certainty: Certainty::Exact,
        };
        let is_exact = match self.kind {
            ResponseKind::Chat => self.chat(&mut counts),
            ResponseKind::Embeddings => {
                counts.output = None;
                counts.input.is_some()
            }
            ResponseKind::Responses => self.pieces == 0 && counts.output.is_some(),
            ResponseKind::Messages => {
                let known = self.input.or(self.cache_read).or(self.cache_creation);
                counts.input_cached = self.cache_read;
                counts.input = known.map(|_| {
                    let parts = [self.input, self.cache_read, self.cache_creation];
                    parts.into_iter().flatten().sum()
                });
                self.pieces == 0 && counts.output.is_some()
            }
            ResponseKind::Audio => {
                counts.audio_microseconds = self.seconds.or(self.duration);
                self.pieces == 0 && counts.any_known()
            }
            ResponseKind::Images => {
                counts.images = self.images;
                self.pieces == 0 && counts.any_known()
            }
        };
        if self.pieces > 0 {
            counts.output = Some(counts.output.unwrap_or(0).saturating_add(self.pieces));
        }
        counts.certainty = match (is_exact, counts.any_known()) {
            (true, _) => Certainty::Exact,
            (false, true) => Certainty::AtLeast,
            (false, false) => Certainty::Unknown,
        };
        counts
    }

    /// Fills in what llama.cpp says in its timings. Returns whether the counts are exact.
    fn chat(&self, counts: &mut RequestCounts) -> bool {
        counts.input_cached = counts.input_cached.or(self.cache_n);
        if self.output.is_some() || self.predicted_n.is_none() {
            return self.pieces == 0 && self.output.is_some() && self.input.is_some();
        }
        counts.output = self.predicted_n;
        let cached = self.cache_n.unwrap_or(0);
        counts.input = counts.input.or(self.prompt_n.map(|new| new + cached));
        // Builds that do not say how much was cached leave that out of the input.
        self.pieces == 0 && self.prompt_n.is_some() && self.cache_n.is_some()
    }
}
