//! Floor 4: the data path. [`accept`] takes connections in, `http1` and `http2` are a connection's life, `request` is a
//! request's from head to last byte, and `relay` a response's.

pub(crate) mod accept;
mod access_record;
mod asked;
mod budgets;
mod client_source;
mod error_response;
mod exchange;
mod file_length;
mod http1;
mod http2;
mod key_usage;
pub(crate) mod keyless;
mod lease;
mod limit_fields;
mod limit_refusal;
mod limit_views;
mod limits;
mod local_responses;
mod refusal;
mod relay;
mod request;
mod upstream_share;
mod usage_request;
pub(crate) mod worker;

#[cfg(test)]
mod tests;
