//! Floor 2: files. The config file, the key file, and the key store, which keeps the key file and the key table equal.

pub mod account_json;
mod alert_secret;
pub(crate) mod allowance_json;
pub mod audit;
pub(crate) mod budgets;
pub mod config;
pub mod database;
pub(crate) mod fault;
pub(crate) mod from_database;
pub(crate) mod inject_secret;

pub mod key_file;
pub mod key_json;
pub mod key_revision;
pub mod key_source;
pub mod key_store;
pub(crate) mod lock_file;
pub mod patch;
pub(crate) mod secret_file;
pub(crate) mod shared_limits;
pub(crate) mod strict_json;
