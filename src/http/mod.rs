//! Floor 3: the parts a request passes through, without decisions: sockets and TLS, headers, bodies, upstreams,
//! replies. They say what they saw; what follows from it is decided above and below.

pub mod body;
pub mod clock;
pub mod coding;
pub mod headers;
pub mod io;
pub mod lifecycle;
pub mod model_name;
pub mod proxy_protocol;
pub mod reply;
pub mod tls;
pub mod turn;
pub mod unix_socket;
pub mod upstream;
