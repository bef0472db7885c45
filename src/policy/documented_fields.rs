//! The top-level fields that each route's documentation names, for upstreams with `unknown_fields = "refuse"`.
//!
//! The lists hold names only. A field that is documented may still be refused by [`crate::policy::body_fields`].

use crate::policy::route::Endpoint;

/// The fields that one server documents for some routes.
struct Source {
    /// The server, and where it documents or defines the fields.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for readers; a test checks that each is given")
    )]
    origin: &'static str,
    fields: &'static [&'static str],
}

const OPENAI_CHAT: Source = Source {
    origin: "OpenAI, api-reference/chat/create",
    fields: &[
        "messages",
        "model",
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    ],
};

const OPENAI_COMPLETIONS: Source = Source {
    origin: "OpenAI, api-reference/completions/create",
    fields: &[
        "model",
        "prompt",
        "best_of",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_p",
        "user",
    ],
};

const OPENAI_RESPONSES: Source = Source {
    origin: "OpenAI, api-reference/responses/create",
    fields: &[
        "model",
        "background",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    ],
};

const OPENAI_EMBEDDINGS: Source = Source {
    origin: "OpenAI, api-reference/embeddings/create",
    fields: &["input", "model", "dimensions", "encoding_format", "user"],
};

const OPENAI_MODERATIONS: Source = Source {
    origin: "OpenAI, api-reference/moderations/create",
    fields: &["input", "model"],
};

const OPENAI_SPEECH: Source = Source {
    origin: "OpenAI, api-reference/audio/createSpeech",
    fields: &[
        "input",
        "model",
        "voice",
        "instructions",
        "response_format",
        "speed",
        "stream_format",
    ],
};

const OPENAI_TRANSCRIPTIONS: Source = Source {
    origin: "OpenAI, api-reference/audio/createTranscription and createTranslation",
    fields: &[
        "file",
        "model",
        "chunking_strategy",
        "include",
        "include[]",
        "known_speaker_names",
        "known_speaker_names[]",
        "known_speaker_references",
        "known_speaker_references[]",
        "language",
        "prompt",
        "response_format",
        "stream",
        "temperature",
        "timestamp_granularities",
        "timestamp_granularities[]",
    ],
};

const OPENAI_IMAGES: Source = Source {
    origin: "OpenAI, api-reference/images",
    fields: &[
        "prompt",
        "model",
        "background",
        "image",
        "image[]",
        "input_fidelity",
        "mask",
        "moderation",
        "n",
        "output_compression",
        "output_format",
        "partial_images",
        "quality",
        "response_format",
        "size",
        "stream",
        "style",
        "user",
    ],
};

const ANTHROPIC_MESSAGES: Source = Source {
    origin: "Anthropic, api/messages and api/messages-count-tokens, with the betas of anthropic-sdk-python",
    fields: &[
        "model",
        "messages",
        "max_tokens",
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "mcp_servers",
        "metadata",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    ],
};

const VLLM_SAMPLING: Source = Source {
    origin: "vLLM, vllm/entrypoints/openai: protocol.py of chat_completion, completion and responses",
    fields: &[
        "add_generation_prompt",
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "data_parallel_rank",
        "documents",
        "ec_transfer_params",
        "echo",
        "enable_response_messages",
        "guided_choice",
        "guided_decoding_backend",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "guided_whitespace_pattern",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logits_processors",
        "logprob_token_ids",
        "media_io_kwargs",
        "min_p",
        "min_tokens",
        "mm_processor_kwargs",
        "previous_input_messages",
        "priority",
        "prompt_embeds",
        "prompt_logprobs",
        "repetition_detection",
        "repetition_penalty",
        "request_id",
        "return_prompt_text",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "session_id",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "stream_interval",
        "structural_tag",
        "structured_outputs",
        "thinking_token_budget",
        "top_k",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "vllm_xargs",
        "watermarking",
    ],
};

const SGLANG_SAMPLING: Source = Source {
    origin: "SGLang, python/sglang/srt/entrypoints/openai/protocol.py",
    fields: &[
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "cache_salt",
        "chat_template_kwargs",
        "continue_final_message",
        "custom_labels",
        "custom_logit_processor",
        "custom_params",
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "ebnf",
        "extra_key",
        "ignore_eos",
        "images_config",
        "input_ids",
        "json_schema",
        "lora_path",
        "max_dynamic_patch",
        "min_dynamic_patch",
        "min_p",
        "min_tokens",
        "ngram_corpus_id",
        "no_stop_trim",
        "priority",
        "reasoning",
        "regex",
        "repetition_penalty",
        "response_format",
        "return_cached_tokens_details",
        "return_hidden_states",
        "return_meta_info",
        "return_prompt_token_ids",
        "return_routed_experts",
        "return_token_ids",
        "rid",
        "routed_dp_rank",
        "routed_experts_start_len",
        "separate_reasoning",
        "session_id",
        "session_params",
        "skip_special_tokens",
        "stop_regex",
        "stop_token_ids",
        "stream_reasoning",
        "task",
        "top_k",
        "use_audio_in_video",
    ],
};

const LLAMA_CPP_SAMPLING: Source = Source {
    origin: "llama.cpp, tools/server/README.md: POST /completion and /v1/chat/completions",
    fields: &[
        "cache_prompt",
        "chat_template_kwargs",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "grammar",
        "id_slot",
        "ignore_eos",
        "input_prefix",
        "input_suffix",
        "json_schema",
        "lora",
        "min_keep",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "n_cache_reuse",
        "n_cmpl",
        "n_discard",
        "n_indent",
        "n_keep",
        "n_predict",
        "n_probs",
        "parse_tool_calls",
        "post_sampling_probs",
        "reasoning_budget_tokens",
        "reasoning_control",
        "reasoning_format",
        "repeat_last_n",
        "repeat_penalty",
        "response_fields",
        "return_progress",
        "return_tokens",
        "samplers",
        "t_max_predict_ms",
        "thinking_forced_open",
        "timings_per_token",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    ],
};

const OLLAMA_SAMPLING: Source = Source {
    origin: "Ollama, docs/api/openai-compatibility and openai/openai.go",
    fields: &["debug_render_only", "reasoning", "reasoning_effort"],
};

const POOLING: Source = Source {
    origin: "vLLM, vllm/entrypoints/pooling; SGLang, protocol.py; llama.cpp, tools/server/README.md",
    fields: &[
        "add_generation_prompt",
        "add_special_tokens",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "content",
        "continue_final_message",
        "data_1",
        "data_2",
        "dimensions",
        "documents",
        "embd_normalize",
        "embed_dtype",
        "encoding_format",
        "endianness",
        "input",
        "instruct",
        "instruction",
        "items",
        "label_token_ids",
        "lora_path",
        "max_tokens_per_doc",
        "media_io_kwargs",
        "messages",
        "mm_processor_kwargs",
        "normalize",
        "priority",
        "queries",
        "query",
        "request_id",
        "return_documents",
        "rid",
        "softmax",
        "text_1",
        "text_2",
        "texts",
        "top_n",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_activation",
        "user",
    ],
};

const VLLM_TRANSCRIPTIONS: Source = Source {
    origin: "vLLM, vllm/entrypoints/openai/speech_to_text/protocol.py; SGLang, protocol.py",
    fields: &[
        "frequency_penalty",
        "hotwords",
        "max_completion_tokens",
        "min_p",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stream_continuous_usage_stats",
        "stream_include_usage",
        "to_language",
        "top_k",
        "top_p",
        "use_beam_search",
        "n",
        "length_penalty",
        "include_stop_str_in_output",
        "vllm_xargs",
    ],
};

const SGLANG_IMAGES: Source = Source {
    origin: "SGLang, python/sglang/multimodal_gen/runtime/entrypoints/openai/protocol.py; vLLM-Omni",
    fields: &[
        "diffusers_kwargs",
        "enable_teacache",
        "generator_device",
        "guidance_scale",
        "negative_prompt",
        "num_inference_steps",
        "seed",
        "true_cfg_scale",
    ],
};

const VLLM_SPEECH: Source = Source {
    origin: "vLLM-Omni, docs/serving/speech_api",
    fields: &[
        "language",
        "max_new_tokens",
        "ref_audio",
        "ref_text",
        "stream",
        "task_type",
    ],
};

/// The documented fields of one route.
#[derive(Clone, Copy)]
pub(crate) struct Documented(&'static [&'static Source]);

impl Documented {
    /// The fields of a route.
    pub(crate) fn of(endpoint: Endpoint) -> Self {
        Self(match endpoint.path() {
            "/v1/chat/completions" => &[
                &OPENAI_CHAT,
                &VLLM_SAMPLING,
                &SGLANG_SAMPLING,
                &LLAMA_CPP_SAMPLING,
                &OLLAMA_SAMPLING,
            ],
            "/v1/completions" => &[
                &OPENAI_COMPLETIONS,
                &VLLM_SAMPLING,
                &SGLANG_SAMPLING,
                &LLAMA_CPP_SAMPLING,
                &OLLAMA_SAMPLING,
            ],
            "/v1/responses" => &[&OPENAI_RESPONSES, &VLLM_SAMPLING, &SGLANG_SAMPLING],
            "/v1/messages" | "/v1/messages/count_tokens" => &[
                &ANTHROPIC_MESSAGES,
                &VLLM_SAMPLING,
                &SGLANG_SAMPLING,
                &LLAMA_CPP_SAMPLING,
            ],
            "/v1/embeddings" => &[&OPENAI_EMBEDDINGS, &POOLING],
            "/v1/moderations" => &[&OPENAI_MODERATIONS],
            "/v1/rerank" | "/v1/score" => &[&OPENAI_MODERATIONS, &POOLING],
            "/v1/audio/speech" => &[&OPENAI_SPEECH, &VLLM_SPEECH],
            "/v1/audio/transcriptions" | "/v1/audio/translations" => {
                &[&OPENAI_TRANSCRIPTIONS, &VLLM_TRANSCRIPTIONS]
            }
            "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations" => {
                &[&OPENAI_IMAGES, &SGLANG_IMAGES]
            }
            _ => &[],
        })
    }

    /// Whether a field of exactly this name is documented.
    pub(crate) fn has(self, name: &str) -> bool {
        self.has_bytes(name.as_bytes())
    }

    /// The same, for a name that may not be UTF-8.
    pub(crate) fn has_bytes(self, name: &[u8]) -> bool {
        let mut fields = self.0.iter().flat_map(|source| source.fields);
        fields.any(|field| field.as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::route;

    #[test]
    fn every_served_route_has_a_list_that_holds_the_model() {
        for endpoint in route::ENDPOINTS {
            let documented = Documented::of(endpoint);
            assert!(documented.has("model"), "{}", endpoint.path());
            assert!(!documented.has("Model") && !documented.has("never_heard_of"));
            for source in documented.0 {
                assert!(source.origin.len() > 5);
            }
        }
    }
}
