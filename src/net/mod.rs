//! Floor 2: sockets, before any HTTP is spoken on them: listeners, Unix sockets, TLS, the PROXY protocol.

pub mod listen;
pub mod proxy_protocol;
pub mod tls;
pub mod transport;
pub mod unix_socket;
