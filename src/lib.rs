//! keygate: an API-key gateway in front of OpenAI-compatible LLM servers. This page is the map of the house.

pub mod http;
pub mod policy;
