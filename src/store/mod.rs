//! Floor 2: what is at rest. The config file, the key file, and the keeper that brings the key file and the key table
//! into step.

pub mod config;
pub mod fault;

pub mod key_file;
pub mod key_json;
pub mod key_store;
pub mod lock_file;
pub mod patch;
pub mod strict_json;
