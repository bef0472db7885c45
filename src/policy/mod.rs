//! Floor 0: who may do what, decided without doing anything.
//!
//! Every function here takes facts and the time, and returns a value. Nothing in this folder uses HTTP, sockets, files,
//! the environment, the clock, logs or metrics. So tests need only values, and the gateway, the admin API and
//! `keygate explain` cannot disagree.

pub mod account;
pub mod alert;
pub mod audit;
pub mod audit_chain;
pub mod auto_invite;
pub mod body_fields;
pub mod budget;
pub mod decide;
pub mod denial;
pub(crate) mod documented_fields;
pub mod explain;
pub mod field_kind;
pub mod fleet_link;
pub mod key;
pub mod key_limiter;
pub mod key_limits;
pub mod key_view;
pub mod limit_leases;
pub mod limit_terms;
pub mod model_access;
pub mod network;
pub mod password;
pub mod person;
pub mod price;
pub mod rate_limit;
pub mod route;
pub(crate) mod shared_check;
pub mod shared_limit;
pub mod text;
pub mod time;
pub mod token;
pub mod token_estimate;
pub mod usage;
pub mod widening;
