//! Floor 1: what every thread of the process needs to take turns and to end in good order: timers, fairness, the
//! phases of the process, the clocks.

pub(crate) mod cooperative_yield;
pub mod flush_coalescer;
pub mod lifecycle;
pub(crate) mod monotonic;
pub mod timers;
pub mod unauthenticated_queue;
pub(crate) mod wall_clock;
