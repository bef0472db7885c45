//! Floor 1: what every thread of the process needs to take turns and to end in good order: timers, fairness, the
//! phases of the process, the clock on the wall.

pub mod give_way;
pub mod lifecycle;
pub mod timers;
pub mod unauthenticated_queue;
pub mod wall_clock;
