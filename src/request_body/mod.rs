//! Floor 3: a request's body: collected whole under its limits, decoded, and read for the model that it names.

pub mod coding;
pub mod collect;
pub mod model;
