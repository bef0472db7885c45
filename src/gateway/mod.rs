//! Floor 4: the data path. [`serve`] accepts connections, `connection` is a connection's life, [`request`] a request's
//! from head to last byte.

mod answers;
mod connection;
pub mod lease;
pub mod proxied;
pub mod record;
pub mod reply;
pub mod request;
pub mod serve;
pub mod stall;
pub mod stream;
pub mod worker;

#[cfg(test)]
mod tests;
