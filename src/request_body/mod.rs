//! Floor 3: the request body: reading it whole within limits, decompressing it, finding the model that it names;
//! the length of an audio file in it.

pub mod audio;
pub mod budget;
pub mod coding;
pub mod collect;
pub(crate) mod edit;
pub mod model;
