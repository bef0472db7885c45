//! Floor 4: the data path. [`serve`] accepts connections, [`request`] is a request's life from head to last byte.

mod answers;
mod back_row;
pub mod lease;
pub mod listen;
pub mod proxied;
pub mod record;
pub mod request;
pub mod serve;
pub mod stall;
pub mod stream;
pub mod worker;

#[cfg(test)]
mod tests;
