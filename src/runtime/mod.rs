//! Floor 1: what every thread of the process needs to take turns and to end in good order: timers, fairness, the
//! phases of the process, the clock on the wall.

pub(crate) mod cooperative_yield;
pub mod flush_coalescer;
pub mod lifecycle;
pub mod timers;
pub mod unauthenticated_queue;
pub(crate) mod wall_clock;
