//! Top-level fields of a request body that reach beyond the request itself: they name further models, use what an
//! upstream stored for somebody else, or steer the upstream's engine. And the rules by which they are refused.
//!
//! [`FIELDS`] is the list, with the source of each name. It is complete only for the servers that it names: an upstream
//! with `unknown_fields = "refuse"` takes nothing but [`crate::policy::documented_fields`].
//!
//! Invariant: a scan of a body only notes the fields. They are judged after the model, by [`judge`], so that nobody
//! learns the rules of an upstream that the key may not use.

use std::ops::Range;

/// What a field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It chooses further models, adapters or other weights. Refused for keys that are restricted to some models.
    Models,
    /// It uses what the upstream stored for an earlier request, maybe of another user.
    State,
    /// It steers the upstream's engine: its caches, its scheduling, its request ids.
    Engine,
}

/// One field of the list.
#[derive(Debug)]
pub(crate) struct BodyField {
    /// Its name, in lower case.
    pub(crate) name: &'static str,
    pub(crate) reach: Reach,
    /// The server and the place of its documentation or source that define the field.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for readers; a test checks that each is given")
    )]
    source: &'static str,
}

const fn field(name: &'static str, reach: Reach, source: &'static str) -> BodyField {
    BodyField {
        name,
        reach,
        source,
    }
}

use Reach::{Engine, Models, State};

/// The list. To add a field, add a line: nothing else names the fields, except the four constants below.
pub(crate) static FIELDS: [BodyField; 43] = [
    field(
        "models",
        Models,
        "OpenRouter, docs/guides/routing/model-fallbacks",
    ),
    field(
        "route",
        Models,
        "OpenRouter, docs/api-reference/overview: route \"fallback\"",
    ),
    field(
        "preset",
        Models,
        "OpenRouter, docs/guides/features/presets: a stored model list",
    ),
    field(
        "fallbacks",
        Models,
        "LiteLLM, docs/proxy/reliability: client-side fallbacks",
    ),
    field(
        "context_window_fallbacks",
        Models,
        "LiteLLM, docs/proxy/reliability",
    ),
    field(
        "content_policy_fallbacks",
        Models,
        "LiteLLM, docs/proxy/reliability",
    ),
    field(
        "router_settings_override",
        Models,
        "LiteLLM, docs/proxy/keys_teams_router_settings",
    ),
    field(
        "model_list",
        Models,
        "LiteLLM, docs/completion/batching and proxy/user_config",
    ),
    field(
        "user_config",
        Models,
        "LiteLLM, docs/proxy/clientside_auth: a router of the client's own",
    ),
    field(
        "lora_path",
        Models,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "lora",
        Models,
        "llama.cpp, tools/server/README.md: POST /completion",
    ),
    field(
        "lora_request",
        Models,
        "TensorRT-LLM, tensorrt_llm/serve/openai_protocol.py",
    ),
    field("adapters", Models, "mlx-lm, mlx_lm/SERVER.md"),
    field(
        "draft_model",
        Models,
        "mlx-lm, mlx_lm/SERVER.md; LM Studio, docs/api/rest-api",
    ),
    field("adapter_path", Models, "mlx-vlm, mlx_vlm/server.py"),
    field("adapter_id", Models, "LoRAX and TGI, docs/models/adapters"),
    field("adapter_source", Models, "LoRAX, docs/models/adapters"),
    field(
        "previous_response_id",
        State,
        "OpenAI, api-reference/responses/create; vLLM; SGLang",
    ),
    field(
        "conversation",
        State,
        "OpenAI, api-reference/responses/create",
    ),
    field(
        "background",
        State,
        "OpenAI, api-reference/responses/create; vLLM; SGLang",
    ),
    field(
        "prompt",
        State,
        "OpenAI, api-reference/responses/create: a stored prompt, by id",
    ),
    field(
        "container",
        State,
        "Anthropic, api/messages: a container to use again",
    ),
    field(
        "cache_salt",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py; SGLang",
    ),
    field(
        "extra_key",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py: a cache key",
    ),
    field(
        "priority",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py; SGLang",
    ),
    field(
        "vllm_xargs",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py: becomes the engine's extra arguments, kv_transfer_params among \
         them",
    ),
    field(
        "request_id",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py",
    ),
    field("rid", Engine, "SGLang, srt/entrypoints/openai/protocol.py"),
    field(
        "session_id",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py; vLLM",
    ),
    field(
        "session_params",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "id_slot",
        Engine,
        "llama.cpp, tools/server/README.md: POST /completion",
    ),
    field(
        "slot_id",
        Engine,
        "llama.cpp, tools/server/README.md before July 2024: id_slot's old name",
    ),
    field(
        "kv_transfer_params",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py",
    ),
    field(
        "ec_transfer_params",
        Engine,
        "vLLM, entrypoints/openai/chat_completion/protocol.py",
    ),
    field(
        "disaggregated_params",
        Engine,
        "TensorRT-LLM, tensorrt_llm/serve/openai_protocol.py",
    ),
    field(
        "bootstrap_host",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "bootstrap_port",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "bootstrap_room",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "data_parallel_rank",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "routed_dp_rank",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "disagg_prefill_dp_rank",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "ngram_corpus_id",
        Engine,
        "SGLang, srt/entrypoints/openai/protocol.py",
    ),
    field(
        "custom_logit_processor",
        Engine,
        "SGLang, docs: code that the server runs",
    ),
];

/// The field whose object may name a stored prompt. In other routes it is a text.
pub(crate) const PROMPT: &str = "prompt";
/// The member of `prompt` that names a stored prompt.
pub(crate) const PROMPT_ID: &str = "id";
const BACKGROUND: &str = "background";
/// The field that the gateway may set itself.
pub(crate) const CACHE_SALT: &str = "cache_salt";

/// The longest name that folds to one of [`FIELDS`], in bytes: a Kelvin sign, for a k, has three.
pub(crate) const MAX_NAME_LENGTH: usize = LONGEST * 3;
const LONGEST: usize = {
    let (mut longest, mut at) = (0, 0);
    while at < FIELD_NAMES.len() {
        if FIELD_NAMES[at].len() > longest {
            longest = FIELD_NAMES[at].len();
        }
        at += 1;
    }
    longest
};

/// For each length of a name, the first letters of the fields that have it, one bit for each. Nearly every field of a
/// usual request is told apart by this alone.
static FIRST_LETTERS: [u32; LONGEST + 1] = {
    let mut letters = [0_u32; LONGEST + 1];
    let mut at = 0;
    while at < FIELD_NAMES.len() {
        let name = FIELD_NAMES[at].as_bytes();
        letters[name.len()] |= 1 << (name[0] - b'a');
        at += 1;
    }
    letters
};
const FIELD_NAMES: [&str; FIELDS.len()] = {
    let mut names = [""; FIELDS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = FIELDS[at].name;
        at += 1;
    }
    names
};

/// A field of the list: its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldIndex(u8);

impl FieldIndex {
    /// The field of this name, whose case may differ: servers written in Go fold case.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if name.is_ascii() {
            let letters = FIRST_LETTERS.get(name.len())?;
            let first = name.as_bytes().first()?.to_ascii_lowercase();
            if !first.is_ascii_lowercase() || letters >> (first - b'a') & 1 == 0 {
                return None;
            }
            return Self::find(|known| known.eq_ignore_ascii_case(name));
        }
        if name.len() > MAX_NAME_LENGTH {
            return None;
        }
        Self::find(|known| folds_to(name, known))
    }

    fn find(is: impl Fn(&str) -> bool) -> Option<Self> {
        let place = FIELDS.iter().position(|field| is(field.name))?;
        u8::try_from(place).ok().map(Self)
    }

    pub(crate) fn field(self) -> &'static BodyField {
        &FIELDS[usize::from(self.0)]
    }

    fn bit(self) -> u64 {
        1 << self.0
    }
}

/// Whether `name` is equal to `plain`, which is lower-case ASCII, without regard to case. Go's encoding/json takes two
/// non-ASCII letters for s and k, and Java takes the dotless and the dotted i of Turkish for i.
pub(crate) fn folds_to(name: &str, plain: &str) -> bool {
    let folded = name.chars().map(|character| match character {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(plain.chars())
}

/// What a field's value is, as far as that decides whether the field does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberValue {
    Null,
    False,
    /// An empty string or an empty list.
    Empty,
    /// An object with a member `id` that is not null.
    ObjectWithId,
    Other,
}

/// Whether a field with this value does anything.
pub(crate) fn has_effect(field: &BodyField, value: MemberValue) -> bool {
    match (field.reach, field.name) {
        (Models, _) => matches!(value, MemberValue::ObjectWithId | MemberValue::Other),
        (State, PROMPT) => value == MemberValue::ObjectWithId,
        (State, BACKGROUND) => !matches!(value, MemberValue::Null | MemberValue::False),
        (State | Engine, _) => value != MemberValue::Null,
    }
}

/// The fields of one body that [`judge`] needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NotedFields {
    /// A bit for each field of [`FIELDS`] that has an effect.
    set: u64,
    /// The first name that is not documented for the route, as it is written in the body; where that was looked for.
    unknown: Option<Range<usize>>,
    salt: Salt,
}

/// Where the body has a field `cache_salt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Salt {
    /// Nowhere.
    #[default]
    Absent,
    /// Once, with its value at this place.
    Once(Range<usize>),
    /// More than once, or in another case: setting one of them would not set what each parser reads.
    Several,
}

impl NotedFields {
    pub(crate) fn add(&mut self, field: FieldIndex) {
        self.set |= field.bit();
    }

    pub(crate) fn add_unknown(&mut self, name: Range<usize>) {
        self.unknown.get_or_insert(name);
    }

    /// A field whose name folds to `cache_salt`.
    pub(crate) fn add_salt(&mut self, name: &str, value: Range<usize>) {
        self.salt = match self.salt {
            Salt::Absent if name == CACHE_SALT => Salt::Once(value),
            Salt::Absent | Salt::Once(_) | Salt::Several => Salt::Several,
        };
    }

    /// Where `cache_salt` is.
    pub(crate) fn salt(&self) -> &Salt {
        &self.salt
    }

    fn first(&self, reach: Reach) -> Option<&'static str> {
        if self.set == 0 {
            return None;
        }
        let noted = |place: &usize| self.set >> place & 1 == 1;
        let mut fields = FIELDS.iter().enumerate();
        fields
            .find(|(place, field)| field.reach == reach && noted(place))
            .map(|(_, field)| field.name)
    }
}

/// What an upstream takes from every client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRules {
    /// Whether clients may use what it stored: its users then see each other's.
    pub stateful: bool,
    /// Fields that steer its engine.
    pub client_fields: Taken,
    /// Fields that no documentation names.
    pub unknown_fields: Taken,
    /// Whether the gateway sets `cache_salt` itself.
    pub sets_cache_salt: bool,
}

impl FieldRules {
    /// The rules of an upstream whose config sets none.
    pub const USUAL: Self = Self {
        stateful: false,
        client_fields: Taken::Refuse,
        unknown_fields: Taken::Pass,
        sets_cache_salt: false,
    };
}

/// Whether fields of a kind are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They are forwarded.
    Pass,
    /// The request is refused.
    Refuse,
}

/// Why a body's fields are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldDenial {
    /// A field uses what the upstream stored.
    State(&'static str),
    /// A field steers the upstream's engine.
    Engine(&'static str),
    /// A field is not documented for the route: the place of its name in the body.
    Unknown(Range<usize>),
}

/// Judges the fields of a body by the rules of the upstream that it goes to.
///
/// # Errors
/// [`FieldDenial`]: state before engine fields, and those before unknown ones.
pub(crate) fn judge(noted: &NotedFields, rules: FieldRules) -> Result<(), FieldDenial> {
    if !rules.stateful
        && let Some(field) = noted.first(State)
    {
        return Err(FieldDenial::State(field));
    }
    if rules.client_fields == Taken::Refuse
        && let Some(field) = noted.first(Engine)
    {
        return Err(FieldDenial::Engine(field));
    }
    if rules.sets_cache_salt && noted.salt == Salt::Several {
        return Err(FieldDenial::Engine(CACHE_SALT));
    }
    match (&noted.unknown, rules.unknown_fields) {
        (Some(name), Taken::Refuse) => Err(FieldDenial::Unknown(name.clone())),
        (Some(_), Taken::Pass) | (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_source_and_fits_into_the_set() {
        assert!(FIELDS.len() <= 64);
        for (place, field) in FIELDS.iter().enumerate() {
            assert!(field.source.len() > 5, "{field:?}");
            let lower = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(field.name.bytes().all(lower), "{field:?}");
            let found = FieldIndex::of(field.name).unwrap();
            assert_eq!(usize::from(found.0), place, "{} is there twice", field.name);
        }
        for name in [PROMPT, BACKGROUND, CACHE_SALT] {
            assert!(FieldIndex::of(name).is_some(), "{name}");
        }
    }

    #[test]
    fn names_are_found_as_go_folds_them_and_no_others() {
        for field in &FIELDS {
            let upper = field.name.to_ascii_uppercase();
            let kelvin = field.name.replace('k', "\u{212A}").replace('s', "\u{17F}");
            for name in [upper, kelvin] {
                assert!(name.len() <= MAX_NAME_LENGTH);
                assert_eq!(FieldIndex::of(&name).unwrap().field().name, field.name);
            }
            for name in [
                format!("{}s", field.name),
                format!(" {}", field.name),
                field.name.replace('_', "-") + "-",
                format!("{}\u{e9}", field.name),
            ] {
                assert!(FieldIndex::of(&name).is_none_or(|found| found.field().name != field.name));
            }
        }
        for name in ["", "messages", "metadata", "stream", "store", "_", "ü"] {
            assert_eq!(FieldIndex::of(name), None, "{name}");
        }
    }

    #[test]
    fn every_character_that_folds_into_a_refused_name_is_folded() {
        let letters: String = FIELDS.iter().map(|field| field.name).collect();
        for letter in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let lower: String = letter.to_lowercase().collect();
            let through_upper: String =
                letter.to_uppercase().flat_map(char::to_lowercase).collect();
            for folded in [lower, through_upper] {
                let mut characters = folded.chars();
                if let (Some(one), None) = (characters.next(), characters.next())
                    && letters.contains(one)
                {
                    assert!(
                        folds_to(&letter.to_string(), &one.to_string()),
                        "{letter:?}"
                    );
                }
            }
        }
    }

    fn noted(names: &[&str]) -> NotedFields {
        let mut noted = NotedFields::default();
        for name in names {
            noted.add(FieldIndex::of(name).unwrap());
        }
        noted
    }

    #[test]
    fn an_upstream_opens_each_kind_on_its_own() {
        let both = noted(&["priority", "conversation"]);
        let usual = FieldRules::USUAL;
        assert_eq!(judge(&both, usual), Err(FieldDenial::State("conversation")));
        let stateful = FieldRules {
            stateful: true,
            ..usual
        };
        assert_eq!(judge(&both, stateful), Err(FieldDenial::Engine("priority")));
        let open = FieldRules {
            client_fields: Taken::Pass,
            ..stateful
        };
        assert_eq!(judge(&both, open), Ok(()));
        assert_eq!(judge(&noted(&["lora"]), usual), Ok(()));
        let mut unknown = noted(&[]);
        unknown.add_unknown(3..5);
        assert_eq!(judge(&unknown, usual), Ok(()));
        let documented_only = FieldRules {
            unknown_fields: Taken::Refuse,
            ..usual
        };
        assert_eq!(
            judge(&unknown, documented_only),
            Err(FieldDenial::Unknown(3..5))
        );
    }

    #[test]
    fn a_salt_of_the_gateway_stands_alone() {
        let rules = FieldRules {
            client_fields: Taken::Pass,
            sets_cache_salt: true,
            ..FieldRules::USUAL
        };
        let mut salted = NotedFields::default();
        salted.add_salt("cache_salt", 1..5);
        assert_eq!(judge(&salted, rules), Ok(()));
        salted.add_salt("cache_salt", 7..9);
        assert_eq!(judge(&salted, rules), Err(FieldDenial::Engine(CACHE_SALT)));
        let mut folded = NotedFields::default();
        folded.add_salt("Cache_Salt", 1..5);
        assert_eq!(judge(&folded, rules), Err(FieldDenial::Engine(CACHE_SALT)));
    }
}
