//! Floor 3: parts of HTTP, without decisions: heads, framing, headers, buffers. They say what they saw; what follows
//! from it is decided above and below.

pub mod buffer;
pub(crate) mod client;
pub mod client_address;
pub mod connection_options;
pub mod credential;
pub mod event_stream;
pub mod fields;
pub mod forwarded_headers;
pub mod framing;
pub mod head;
pub mod request_id;
pub(crate) mod usage_page;
pub(crate) mod usage_query;
pub mod usage_scanner;
