//! Usage records as gateways write them: of many keys and five models, 20 000 in each second of their own time.

use std::sync::Arc;

use keygate::policy::usage::{Certainty, RequestCounts};
use keygate::store::database::{RecordEnd, UsageRecord};

/// When the first one ended, in seconds since 1970.
pub(crate) const START: i64 = 1_764_288_000;

/// What records have in common.
pub(crate) struct Parts {
    keys: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    upstream: Arc<str>,
}

impl Parts {
    pub(crate) fn new(keys: usize) -> Self {
        let key = |key| format!("key_{key:022}").into();
        let model = |model| format!("llama-{model}-70b").into();
        Self {
            keys: (0..keys).map(key).collect(),
            models: (0..5).map(model).collect(),
            upstream: "llama".into(),
        }
    }

    /// Each number has a record of its own.
    pub(crate) fn record(&self, number: usize) -> UsageRecord {
        let ended_at = (START + number as i64 / 20_000) * 1000;
        UsageRecord {
            request_id: format!("{number:032x}").into(),
            started_at: ended_at - 800,
            ended_at,
            key_id: Arc::clone(&self.keys[number.wrapping_mul(2_654_435_761) % self.keys.len()]),
            account: None,
            model: Arc::clone(&self.models[number % self.models.len()]),
            upstream: Arc::clone(&self.upstream),
            route: "/v1/chat/completions".into(),
            status: 200,
            end: RecordEnd::Complete,
            client_address: Some([192, 0, 2, 7].into()),
            first_byte_ms: Some(40),
            duration_ms: 800,
            bytes_in: 2_000,
            bytes_out: 20_000,
            counts: RequestCounts {
                input: Some(500),
                input_cached: Some(100),
                output: Some(200),
                output_reasoning: None,
                audio_microseconds: None,
                images: None,
                certainty: Certainty::Exact,
            },
            cost: None,
        }
    }
}
