//! Floor 2: metrics and log lines. Nothing here decides anything, and nothing here ever holds a token, a prompt or a
//! completion.

mod counters;
mod event;
pub(crate) mod history;
mod line;
mod lock;
pub(crate) mod log;
pub(crate) mod metrics;
mod refusal_limit;
pub(crate) mod refusals;
pub(crate) mod sampler;
