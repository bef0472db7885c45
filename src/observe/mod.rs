//! Floor 2: metrics and log lines. Nothing here decides anything, and nothing here ever holds a token, a prompt or a
//! completion.

mod counters;
mod event;
pub mod history;
mod line;
mod lock;
pub mod log;
pub mod metrics;
mod refusal_limit;
pub mod sampler;
