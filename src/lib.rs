//! keygate: an API-key gateway in front of OpenAI-compatible LLM servers. This page is the map of the house.

pub mod cli;
pub mod gateway;
pub mod http;
pub mod observe;
pub mod policy;
pub mod store;
pub mod table;
