//! Floor 2: everything on a socket below HTTP: listeners, Unix sockets, TLS, the PROXY protocol.

pub(crate) mod listen;
pub(crate) mod proxy_protocol;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod unix_socket;
