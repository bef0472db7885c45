//! Where the counts stand in each kind of response, as data.
//!
//! The shapes follow the documentation of OpenAI, Anthropic, vLLM, SGLang, llama.cpp and Ollama. A response that is one
//! document needs less of it than the events of a stream: it says its usage once, at its top.

/// Which response is read: it follows from the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// chat/completions and completions.
    Chat,
    /// embeddings, rerank, score and moderations.
    Embeddings,
    /// responses.
    Responses,
    /// messages.
    Messages,
    /// audio/transcriptions, audio/translations and audio/speech.
    Audio,
    /// images.
    Images,
}

impl ResponseKind {
    /// The kind of a served path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" | "/v1/completions" => Self::Chat,
            "/v1/embeddings" | "/v1/rerank" | "/v1/score" | "/v1/moderations" => Self::Embeddings,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/audio/transcriptions" | "/v1/audio/translations" | "/v1/audio/speech" => {
                Self::Audio
            }
            "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations" => Self::Images,
            _ => return None,
        })
    }

    /// Whether the usage of a response that is one document says all that can be known of it, save for llama.cpp's timings.
    pub(crate) fn needs_usage_only(self) -> bool {
        match self {
            Self::Chat | Self::Embeddings | Self::Responses | Self::Messages => true,
            Self::Audio | Self::Images => false,
        }
    }

    /// Of a response that is one document.
    pub(crate) fn document_shape(self) -> &'static Shape {
        match self {
            Self::Chat => &CHAT_DOCUMENT,
            Self::Embeddings | Self::Responses | Self::Messages => &USAGE_DOCUMENT,
            Self::Audio => &AUDIO_DOCUMENT,
            Self::Images => &IMAGES,
        }
    }

    /// Of an event of a stream.
    pub(crate) fn event_shape(self) -> &'static Shape {
        match self {
            Self::Chat => &CHAT,
            Self::Embeddings => &USAGE_DOCUMENT,
            Self::Responses => &RESPONSES,
            Self::Messages => &MESSAGES,
            Self::Audio => &AUDIO,
            Self::Images => &IMAGES,
        }
    }
}

/// What is wanted of a JSON value.
#[derive(Debug)]
pub(crate) enum Shape {
    Object(Part, &'static [(&'static [u8], Shape)]),
    List(Part, &'static Shape),
    /// A number or a text.
    Leaf(Field),
    Nothing,
}

impl Shape {
    /// Whether it is an object that may have timings among its members.
    pub(crate) fn has_timings(&self) -> bool {
        let Self::Object(_, members) = self else {
            return false;
        };
        let is_timings = |(_, shape): &(_, Self)| matches!(shape, Self::Object(Part::Timings, _));
        members.iter().any(is_timings)
    }
}

/// An object or a list whose presence matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Other,
    Usage,
    /// The usage of a message that has only begun: its output is not final.
    FirstUsage,
    Timings,
    Choices,
    /// One entry an image.
    Images,
}

/// A value that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Input,
    Output,
    Total,
    Cached,
    Reasoning,
    /// Anthropic: input that was read from the cache, and is not part of the input.
    CacheRead,
    /// Anthropic: input that was written to the cache, and is not part of the input.
    CacheCreation,
    /// llama.cpp: input that was processed; the cached input is not part of it.
    PromptN,
    CacheN,
    PredictedN,
    Seconds,
    Duration,
    /// The name of an event.
    Type,
    /// A piece of output.
    Content,
}

/// How many fields there are.
pub(crate) const FIELDS: usize = Field::Content as usize + 1;

use Field as F;
use Shape::{Leaf, List, Object};

const USAGE: &[(&[u8], Shape)] = &[
    (b"prompt_tokens", Leaf(F::Input)),
    (b"completion_tokens", Leaf(F::Output)),
    (b"total_tokens", Leaf(F::Total)),
    (b"input_tokens", Leaf(F::Input)),
    (b"output_tokens", Leaf(F::Output)),
    // SGLang writes it here.
    (b"reasoning_tokens", Leaf(F::Reasoning)),
    (b"prompt_tokens_details", Object(Part::Other, CACHED)),
    (b"input_tokens_details", Object(Part::Other, CACHED)),
    (b"completion_tokens_details", Object(Part::Other, REASONING)),
    (b"output_tokens_details", Object(Part::Other, REASONING)),
    // Anthropic.
    (b"cache_read_input_tokens", Leaf(F::CacheRead)),
    (b"cache_creation_input_tokens", Leaf(F::CacheCreation)),
    // Transcriptions.
    (b"seconds", Leaf(F::Seconds)),
];
const CACHED: &[(&[u8], Shape)] = &[(b"cached_tokens", Leaf(F::Cached))];
const REASONING: &[(&[u8], Shape)] = &[(b"reasoning_tokens", Leaf(F::Reasoning))];

const TIMINGS: Shape = Object(
    Part::Timings,
    &[
        (b"prompt_n", Leaf(F::PromptN)),
        (b"cache_n", Leaf(F::CacheN)),
        (b"predicted_n", Leaf(F::PredictedN)),
    ],
);

const FUNCTION: Shape = Object(
    Part::Other,
    &[
        (b"name", Leaf(F::Content)),
        (b"arguments", Leaf(F::Content)),
    ],
);
const DELTA: Shape = Object(
    Part::Other,
    &[
        (b"content", Leaf(F::Content)),
        (b"reasoning_content", Leaf(F::Content)),
        (b"reasoning", Leaf(F::Content)),
        (b"refusal", Leaf(F::Content)),
        (
            b"tool_calls",
            List(
                Part::Other,
                &Object(Part::Other, &[(b"function", FUNCTION)]),
            ),
        ),
        (b"function_call", FUNCTION),
    ],
);
const CHOICES: Shape = List(
    Part::Choices,
    &Object(
        Part::Other,
        &[(b"delta", DELTA), (b"text", Leaf(F::Content))],
    ),
);

static CHAT: Shape = Object(
    Part::Other,
    &[
        (b"choices", CHOICES),
        (b"usage", Object(Part::Usage, USAGE)),
        (b"timings", TIMINGS),
    ],
);

static CHAT_DOCUMENT: Shape = Object(
    Part::Other,
    &[
        (b"usage", Object(Part::Usage, USAGE)),
        (b"timings", TIMINGS),
    ],
);

static USAGE_DOCUMENT: Shape = Object(Part::Other, &[(b"usage", Object(Part::Usage, USAGE))]);

static RESPONSES: Shape = Object(
    Part::Other,
    &[
        (b"type", Leaf(F::Type)),
        (b"delta", Leaf(F::Content)),
        (b"usage", Object(Part::Usage, USAGE)),
        (
            b"response",
            Object(Part::Other, &[(b"usage", Object(Part::Usage, USAGE))]),
        ),
    ],
);

static MESSAGES: Shape = Object(
    Part::Other,
    &[
        (b"type", Leaf(F::Type)),
        (
            b"delta",
            Object(
                Part::Other,
                &[
                    (b"text", Leaf(F::Content)),
                    (b"thinking", Leaf(F::Content)),
                    (b"partial_json", Leaf(F::Content)),
                ],
            ),
        ),
        (b"usage", Object(Part::Usage, USAGE)),
        (
            b"message",
            Object(Part::Other, &[(b"usage", Object(Part::FirstUsage, USAGE))]),
        ),
    ],
);

static AUDIO: Shape = Object(
    Part::Other,
    &[
        (b"type", Leaf(F::Type)),
        (b"delta", Leaf(F::Content)),
        // vLLM streams transcriptions in the form of chats.
        (b"choices", CHOICES),
        (b"usage", Object(Part::Usage, USAGE)),
        (b"duration", Leaf(F::Duration)),
    ],
);

static AUDIO_DOCUMENT: Shape = Object(
    Part::Other,
    &[
        (b"usage", Object(Part::Usage, USAGE)),
        (b"duration", Leaf(F::Duration)),
    ],
);

static IMAGES: Shape = Object(
    Part::Other,
    &[
        (b"type", Leaf(F::Type)),
        (b"data", List(Part::Images, &Shape::Nothing)),
        (b"usage", Object(Part::Usage, USAGE)),
    ],
);
