//! keygate: an API-key gateway in front of OpenAI-compatible LLM servers. This page is the map of the house.
//!
//! Seven floors; a file uses lower floors, its own folder, and rooms of its own floor that stand below it in this table.
//! `tests/layering.rs` checks this. A module is public only if tests, benches or fuzz targets use it; the compiler reports dead code in
//! the others.
//!
//! | floor | rooms | what is done there |
//! | --- | --- | --- |
//! | 6 | [`cli`] | one file a command; `cli::serve` puts the floors together and ends them in good order |
//! | 5 | `admin` | the admin API, on a Unix socket and over TCP, and the panel; knows nothing of the data path |
//! | 4 | `gateway` | the data path: `gateway::serve` accepts, `gateway::request` is a request's life |
//! | 3 | `mail` | mails to people, by SMTP |
//! | 3 | `oidc` | sign-in by the company's identity provider: OpenID Connect, authorization code with PKCE |
//! | 3 | `alerts` | what the operator is told by a webhook: signed, at least once, over restarts |
//! | 3 | `upstream` | the servers behind the gateway: replicas, health, catalogue, connections, answers |
//! | 3 | [`request_body`] | a body: collected under its limits, decoded, and read for the model that it names |
//! | 3 | [`http`] | parts of HTTP, without decisions: heads, framing, headers |
//! | 2 | `net` | sockets: listeners, TLS, Unix sockets, the PROXY protocol |
//! | 2 | [`store`], `observe` | config and key file, the key store between file and table, and the database of usage; metrics and log lines |
//! | 1 | [`table`], [`runtime`] | the key table in memory: readers never wait; timers, fairness, lifecycle, clock |
//! | 0 | [`policy`] | the rules, pure: facts and the time in, a decision out |
//!
//! To learn the program, read `gateway::request` top to bottom, then [`policy::decide`], then [`table`].

mod admin;
mod alerts;
pub mod cli;
mod gateway;
pub mod http;
mod mail;
mod net;
mod observe;
mod oidc;
pub mod policy;
pub mod request_body;
pub mod runtime;
pub mod store;
pub mod table;
mod upstream;
