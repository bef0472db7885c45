//! Floor 2: what the gateway tells its operators. Neither part decides anything, and neither ever holds a token, a
//! prompt or a completion.

mod event;
pub mod history;
mod line;
pub mod log;
pub mod metrics;
mod refusals;
pub mod sampler;
mod tally;
