//! Responses as the documentation of each server shows them, with their known oddities.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) name: &'static str,
    pub(super) kind: ResponseKind,
    pub(super) is_stream: bool,
    pub(super) body: &'static str,
    pub(super) counts: RequestCounts,
    pub(super) is_finished: bool,
}

const NONE: RequestCounts = RequestCounts::UNKNOWN;

const fn exact(
    input: u64,
    cached: Option<u64>,
    output: u64,
    reasoning: Option<u64>,
) -> RequestCounts {
    RequestCounts {
        input: Some(input),
        input_cached: cached,
        output: Some(output),
        output_reasoning: reasoning,
        certainty: Certainty::Exact,
        ..NONE
    }
}

const fn stream(
    name: &'static str,
    kind: ResponseKind,
    body: &'static str,
    counts: RequestCounts,
    is_finished: bool,
) -> Recorded {
    Recorded {
        name,
        kind,
        is_stream: true,
        body,
        counts,
        is_finished,
    }
}

const fn whole(
    name: &'static str,
    kind: ResponseKind,
    body: &'static str,
    counts: RequestCounts,
) -> Recorded {
    Recorded {
        name,
        kind,
        is_stream: false,
        body,
        counts,
        is_finished: true,
    }
}

pub(super) static RECORDED: &[Recorded] = &[
    stream(
        "OpenAI, include_usage: null in each chunk, obfuscation",
        ResponseKind::Chat,
        concat!(
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1694268190,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"aB\"}\n\n",
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1694268190,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"x\"}\n\n",
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1694268190,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1694268190,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":10,\"total_tokens\":29,\"prompt_tokens_details\":{\"cached_tokens\":4,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":2,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(19, Some(4), 10, Some(2)),
        true,
    ),
    whole(
        "OpenAI, whole",
        ResponseKind::Chat,
        "{\n  \"id\": \"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\n  \"object\": \"chat.completion\",\n  \"created\": 1741569952,\n  \"choices\": [\n    {\n      \"index\": 0,\n      \"message\": {\"role\": \"assistant\", \"content\": \"Hello! \\\"usage\\\":{}\", \"refusal\": null, \"annotations\": []},\n      \"logprobs\": null,\n      \"finish_reason\": \"stop\"\n    }\n  ],\n  \"usage\": {\n    \"prompt_tokens\": 19,\n    \"completion_tokens\": 10,\n    \"total_tokens\": 29,\n    \"prompt_tokens_details\": {\"cached_tokens\": 0},\n    \"completion_tokens_details\": {\"reasoning_tokens\": 0}\n  },\n  \"service_tier\": \"default\"\n}\n",
        exact(19, Some(0), 10, Some(0)),
    ),
    stream(
        "vLLM, continuous_usage_stats or forced usage: in each chunk",
        ResponseKind::Chat,
        concat!(
            "data: {\"id\":\"chatcmpl-2\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":11,\"completion_tokens\":0}}\n\n",
            "data: {\"id\":\"chatcmpl-2\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"One\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":12,\"completion_tokens\":1}}\n\n",
            "data: {\"id\":\"chatcmpl-2\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" two\"},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":14,\"completion_tokens\":3}}\n\n",
            "data: {\"id\":\"chatcmpl-2\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":14,\"completion_tokens\":3}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(11, None, 3, None),
        true,
    ),
    stream(
        "vLLM, cut with running usage",
        ResponseKind::Chat,
        concat!(
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"One\"}}],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":12,\"completion_tokens\":1}}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" two\"}}],\"usage\":{\"prompt_tokens\":11,\"total_tokens\":14,\"completion_tokens\":3}}\n\n",
        ),
        exact(11, None, 3, None),
        false,
    ),
    stream(
        "vLLM, completions",
        ResponseKind::Chat,
        concat!(
            "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\" San\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null}],\"usage\":null}\n\n",
            "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\" Jose\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":null}\n\n",
            "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":7,\"completion_tokens\":2}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(5, None, 2, None),
        true,
    ),
    stream(
        "SGLang, all fields written, cached tokens null, reasoning in usage",
        ResponseKind::Chat,
        concat!(
            "data: {\"id\":\"a1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":null,\"tool_calls\":null},\"logprobs\":null,\"finish_reason\":null,\"matched_stop\":null}],\"usage\":null}\n\n",
            "data: {\"id\":\"a1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":null,\"content\":null,\"reasoning_content\":\"Let\",\"tool_calls\":null},\"logprobs\":null,\"finish_reason\":null,\"matched_stop\":null}],\"usage\":null}\n\n",
            "data: {\"id\":\"a1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":34,\"total_tokens\":54,\"completion_tokens\":20,\"prompt_tokens_details\":null,\"reasoning_tokens\":7}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(34, None, 20, Some(7)),
        true,
    ),
    stream(
        "llama.cpp, timings and no usage",
        ResponseKind::Chat,
        concat!(
            "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"created\":1751000000,\"id\":\"chatcmpl-x\",\"model\":\"m.gguf\",\"system_fingerprint\":\"b6100-abc\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"created\":1751000000,\"id\":\"chatcmpl-x\",\"model\":\"m.gguf\",\"system_fingerprint\":\"b6100-abc\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"created\":1751000000,\"id\":\"chatcmpl-x\",\"model\":\"m.gguf\",\"system_fingerprint\":\"b6100-abc\",\"object\":\"chat.completion.chunk\",\"timings\":{\"cache_n\":236,\"prompt_n\":1,\"prompt_ms\":30.958,\"prompt_per_token_ms\":30.958,\"prompt_per_second\":32.301828283480845,\"predicted_n\":35,\"predicted_ms\":661.064,\"predicted_per_token_ms\":18.887542857142858,\"predicted_per_second\":52.94494935437416}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(237, Some(236), 35, None),
        true,
    ),
    stream(
        "llama.cpp, include_usage: usage and timings in the last chunk",
        ResponseKind::Chat,
        concat!(
            "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"created\":1,\"id\":\"c\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[],\"created\":1,\"id\":\"c\",\"model\":\"m\",\"object\":\"chat.completion.chunk\",\"usage\":{\"completion_tokens\":35,\"prompt_tokens\":237,\"total_tokens\":272},\"timings\":{\"cache_n\":236,\"prompt_n\":1,\"predicted_n\":35}}\n\n",
            "data: [DONE]\n\n",
        ),
        exact(237, Some(236), 35, None),
        true,
    ),
    stream(
        "Ollama, CRLF, a comment, no [DONE]",
        ResponseKind::Chat,
        concat!(
            ": keep-alive\r\n\r\n",
            "data: {\"id\":\"chatcmpl-99\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"The\"},\"finish_reason\":null}]}\r\n\r\n",
            "data: {\"id\":\"chatcmpl-99\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" sky\"},\"finish_reason\":\"stop\"}]}\r\n\r\n",
            ": a comment\r\n",
            "data: {\"id\":\"chatcmpl-99\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[],\"usage\":{\"prompt_tokens\":26,\"completion_tokens\":298,\"total_tokens\":324}}\r\n\r\n",
        ),
        exact(26, None, 298, None),
        false,
    ),
    stream(
        "a server that writes spaces, and an event in several lines",
        ResponseKind::Chat,
        "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\ndata: {\"choices\" :\ndata: [ ] ,\ndata:   \"usage\": {\"prompt_tokens\": 1,\ndata: \"completion_tokens\": 2}}\n\ndata: [DONE]\n\n",
        exact(1, None, 2, None),
        true,
    ),
    whole(
        "vLLM, embeddings",
        ResponseKind::Embeddings,
        "{\"id\":\"embd-1\",\"object\":\"list\",\"created\":1,\"model\":\"m\",\"data\":[{\"index\":0,\"object\":\"embedding\",\"embedding\":[0.0023064255,-0.009327292,1e-5]}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8,\"completion_tokens\":0,\"prompt_tokens_details\":null}}",
        RequestCounts {
            input: Some(8),
            certainty: Certainty::Exact,
            ..NONE
        },
    ),
    whole(
        "vLLM, rerank: the total alone",
        ResponseKind::Embeddings,
        "{\"id\":\"rerank-1\",\"model\":\"m\",\"usage\":{\"total_tokens\":56},\"results\":[{\"index\":1,\"document\":{\"text\":\"Paris\"},\"relevance_score\":0.99}]}",
        RequestCounts {
            input: Some(56),
            certainty: Certainty::Exact,
            ..NONE
        },
    ),
    whole(
        "OpenAI, moderation: no usage",
        ResponseKind::Embeddings,
        "{\"id\":\"modr-1\",\"model\":\"omni-moderation-latest\",\"results\":[{\"flagged\":false}]}",
        NONE,
    ),
    whole(
        "OpenAI, response",
        ResponseKind::Responses,
        "{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"completed\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hi\"}]}],\"usage\":{\"input_tokens\":36,\"input_tokens_details\":{\"cached_tokens\":3},\"output_tokens\":87,\"output_tokens_details\":{\"reasoning_tokens\":5},\"total_tokens\":123}}",
        exact(36, Some(3), 87, Some(5)),
    ),
    stream(
        "OpenAI, response in a stream",
        ResponseKind::Responses,
        concat!(
            "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\",\"usage\":null}}\n\n",
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"Hi\",\"logprobs\":[],\"obfuscation\":\"4j\"}\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":9,\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"output\":[{\"content\":[{\"text\":\"Hi\"}]}],\"usage\":{\"input_tokens\":37,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":11,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":48}}}\n\n",
        ),
        exact(37, Some(0), 11, Some(0)),
        true,
    ),
    stream(
        "Anthropic, message in a stream",
        ResponseKind::Messages,
        concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"claude\",\"stop_reason\":null,\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":1000,\"output_tokens\":1}}}\n\n",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"!\"}}\n\n",
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":15}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ),
        exact(1125, Some(1000), 15, None),
        true,
    ),
    stream(
        "Anthropic, cut",
        ResponseKind::Messages,
        concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm\"}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n",
        ),
        RequestCounts {
            input: Some(25),
            output: Some(2),
            certainty: Certainty::AtLeast,
            ..NONE
        },
        false,
    ),
    whole(
        "Anthropic, whole",
        ResponseKind::Messages,
        "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}],\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":5,\"output_tokens\":12}}",
        exact(15, Some(5), 12, None),
    ),
    stream(
        "vLLM, messages: the input in the last event",
        ResponseKind::Messages,
        concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":0,\"output_tokens\":0}}}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":7,\"output_tokens\":3}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\ndata: [DONE]\n\n",
        ),
        exact(7, None, 3, None),
        true,
    ),
    whole(
        "OpenAI, transcription with its length",
        ResponseKind::Audio,
        "{\"text\":\"Hello\",\"usage\":{\"type\":\"duration\",\"seconds\":9}}",
        RequestCounts {
            audio_microseconds: Some(9_000_000),
            certainty: Certainty::Exact,
            ..NONE
        },
    ),
    whole(
        "whisper, verbose_json",
        ResponseKind::Audio,
        "{\"task\":\"transcribe\",\"language\":\"english\",\"duration\":8.470000267028809,\"text\":\"Hi\",\"segments\":[{\"id\":0,\"duration\":1}]}",
        RequestCounts {
            audio_microseconds: Some(8_470_000),
            certainty: Certainty::Exact,
            ..NONE
        },
    ),
    whole(
        "a length of many years is not believed",
        ResponseKind::Audio,
        "{\"text\":\"Hi\",\"duration\":9000000000000}",
        NONE,
    ),
    whole(
        "OpenAI, transcription in tokens",
        ResponseKind::Audio,
        "{\"text\":\"Imagine\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"input_token_details\":{\"text_tokens\":0,\"audio_tokens\":14},\"output_tokens\":45,\"total_tokens\":59}}",
        exact(14, None, 45, None),
    ),
    stream(
        "OpenAI, transcription in a stream",
        ResponseKind::Audio,
        "data: {\"type\":\"transcript.text.delta\",\"delta\":\"I\",\"logprobs\":[]}\n\ndata: {\"type\":\"transcript.text.done\",\"text\":\"I see\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":31,\"total_tokens\":45}}\n\n",
        exact(14, None, 31, None),
        true,
    ),
    whole(
        "OpenAI, images",
        ResponseKind::Images,
        "{\"created\":1713833628,\"data\":[{\"b64_json\":\"iVBORw0KGgo=\"},{\"b64_json\":\"iVBORw0KGgo=\"}],\"usage\":{\"total_tokens\":100,\"input_tokens\":50,\"output_tokens\":50,\"input_tokens_details\":{\"text_tokens\":10,\"image_tokens\":40}}}",
        RequestCounts {
            images: Some(2),
            ..exact(50, None, 50, None)
        },
    ),
    stream(
        "OpenAI, images in a stream",
        ResponseKind::Images,
        "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"aa\"}\n\nevent: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"aa\",\"usage\":{\"total_tokens\":100,\"input_tokens\":50,\"output_tokens\":50}}\n\n",
        RequestCounts {
            images: Some(1),
            ..exact(50, None, 50, None)
        },
        false,
    ),
];

/// Pieces of streams that meet in any order.
pub(super) const PARTS: &[&str] = &[
    "data: ",
    "data:",
    "event: x\n",
    ": comment\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\r\r",
    "\u{feff}",
    "[DONE]",
    "data: [DONE]\n\n",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\\"",
    ",",
    ":",
    "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}",
    "\"usage\":{\"input_tokens\":1,\"output_tokens\":2}",
    "\"usage\":null",
    "\"timings\":{\"prompt_n\":1,\"cache_n\":0,\"predicted_n\":3}",
    "\"choices\":[]",
    "\"choices\":[{\"delta\":{\"content\":\"x\"}}]",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\r",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n\r\n",
    "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2},\"choices\":[]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\\\"b\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\\\\\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\nb\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\r",
    // Events that differ in a word: a running number, or a name that matters.
    "data: {\"type\":\"x.delta\",\"n\":1,\"delta\":\"hi\",\"o\":\"abc\"}\n\n",
    "data: {\"type\":\"x.delta\",\"n\":2,\"delta\":\"hi\",\"o\":\"d\"}\n\n",
    "data: {\"type\":\"x.delta\",\"n\":33,\"delta\":\"hi\",\"o\":\"ef-9\"}\n\n",
    "data: {\"type\":\"x.delta\",\"n\":4,\"delta\":\"hi\",\"o\":\"\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"foo\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"timings\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"bar\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"predicted_n\":3}}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\",\"content\":\"hi\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"content\":\"a\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"role\":\"a\",\"content\":\"hi\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"role\":\"a\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"name\":\"a\",\"content\":\"hi\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"name\":\"a\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"reasoning\":\"a\",\"content\":\"hi\"}}],\"o\":\"b\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"reasoning\":\"a\"}}],\"o\":\"b\"}\n\n",
    "data: {\"delta\":{\"text\":\"hi\"},\"type\":\"message_stop\"}\n\n",
    "data: {\"type\":\"message_stop\",\"delta\":{\"text\":\"hi\"}}\n\n",
    "data: {\"delta\":{\"text\":\"hi\"},\"type\":\"content_block_delta\"}\n\n",
    "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"hi\"}}\n\n",
    "data: {\"delta\":{\"text\":\"hi\"},\"type\":\"other\"}\n\n",
    "data: {\"type\":\"other\",\"delta\":{\"text\":\"hi\"}}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"o\":\"x\\u0041\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"o\":\"x\\n\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"o\":\"xa\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"o\":\"xb\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"o\":\"xcc\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n",
    "data: {\"type\":\"x\",\"delta\":\"hi\",\"duration\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":1}\n\n",
    "data: {\"type\":\"x\",\"delta\":\"hi\",\"duration\":1}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":2.5}\n\n",
    "data: {\"type\":\"x\",\"delta\":\"hi\",\"duration\":2.5}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":true}\n\n",
    "data: {\"type\":\"x\",\"delta\":\"hi\",\"duration\":true}\n\n",
];
