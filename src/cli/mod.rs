//! Floor 6: commands.
pub mod demo;
pub mod serve;
mod stand_in;
