//! Floor 6: commands.
pub mod serve;
