//! Floor 3: parts of HTTP, without decisions: heads, framing, headers. They say what they saw; what follows from it is
//! decided above and below.

pub mod headers;
pub mod io;
