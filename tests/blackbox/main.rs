//! Black-box tests: the running binary over its sockets, against what its contract promises and nothing else.
//!
//! A folder for each kind of promise, so that the test of a rule is found by the rule; the lines below say which. What
//! several folders need is in `support`.
//!
//! Every test starts its own gateway on a port of its own (`support::gateway`), in front of an upstream that writes
//! down each byte it sees (`support::recorder`). Whatever waits has a deadline; nothing sleeps to hope.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that cannot go on has failed, and says where"
)]

#[path = "../fuzz/dice.rs"]
#[allow(
    dead_code,
    reason = "the fuzz targets use more of it than these tests do"
)]
mod dice;
#[path = "../fuzz/targets/lazy_form.rs"]
mod lazy_form;
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "the unit tests of the database use more of it")]
mod postgres;
mod support;

/// Where a client is: networks that a key may come from, proxies that name their clients, and the PROXY protocol.
mod addresses {
    mod load_balancers;
    mod networks;
    mod proxy_protocol;
    mod x_forwarded_for;
}

/// What the keys of an account may have at most, together and each.
mod accounts {
    mod calls;
    mod ceilings;
    mod limits;
}

/// The admin API: keys, lists and explain, who may call it, and what the metrics and the log say of what happened.
mod admin {
    pub mod calls;
    mod explain;
    mod keys;
    mod lists;
    mod metrics_and_log;
    mod mutated;
    mod over_tcp;
    mod refusals;
    mod revisions;
    mod unknown_calls;
}

/// Every change has one row, in the order of the changes, and nobody can change a row unnoticed.
mod audit {
    mod chain;
    mod limits;
    mod rotation;
    mod rows;
    mod shell;
    pub mod trail;
    mod unwritable;
}

/// Which request bodies are taken: their size, their media type, their coding, and the pieces they come in.
mod bodies {
    mod compressed;
    mod limits;
    mod media_type;
    mod pieces;
}

/// The command line: what each command prints, its exit status, and the demo.
mod commands {
    mod demo;
    mod keys;
    pub mod ran;
    mod running_gateway;
    mod terminal;
    mod wait;
    mod without_gateway;
}

/// A client's connection: kept between requests however long the client is idle, and let go when the client leaves.
mod connections {
    mod closing;
    mod kept;
    mod leaving;
    mod pipelining;
}

/// What `deploy/fleet` runs: gateways behind HAProxy, and a role of PostgreSQL that may do no more than it must.
mod fleet {
    mod behind_haproxy;
    mod rights;
}

/// Clients that try to exhaust memory, descriptors or processor time harm no other client.
mod floods {
    mod connections;
    mod descriptors;
    pub mod http2;
    mod refused;
    mod stalled_clients;
    mod unread;
}

/// What an upstream is sent, what comes back to the client, and what happens when the upstream is broken.
mod forwarding {
    mod answers;
    mod broken_answers;
    mod catalogue;
    mod replicas;
    mod request_headers;
    mod reuse;
    mod upstream_connections;
}

/// A request that is not HTTP or that two servers could read in two ways is refused, or forwarded in one clean framing.
mod framing {
    mod bodies;
    mod codec;
    mod connection_header;
    mod early_answers;
    mod expect;
    mod heads;
    pub mod http2;
    mod refused_uploads;
    mod targets;
    pub mod verdict;
}

/// Who is let in: tokens, expiry, and the order and form of refusals.
mod keys {
    mod expiry;
    mod refusals;
    mod tokens;
}

/// The process from start to end: what it refuses to start with, how it stops, and what it may do on its machine.
mod lifecycle {
    mod end;
    pub mod full_disk;
    mod key_file_at_start;
    mod log;
    mod process;
    mod start;
}

/// Many clients at once: nobody gets another's answer, and nothing of them stays behind.
mod load {
    mod crowd;
    mod idle;
    mod soak;
}

/// Which models a key may use, however a request names them.
mod models {
    mod access;
    mod aliases;
    mod cache_salt;
    mod fields;
    mod forms_of_clients;
    mod json;
    mod multipart;
    pub mod mutated;
    mod query;
}

/// The people of an account: invited, signed in to the panel, with what their role lets them do, and gone at once.
mod people {
    mod known_devices;
    mod members;
    pub mod panel;
    mod shell;
}

/// Changes of the key file and the config while the gateway runs: taken whole or not at all, and never lost.
mod reload {
    mod config;
    mod key_file;
    mod signals;
    mod under_load;
    mod writes;
}

/// A key that is taken back: refused from the next request on, and its running requests end within a second.
mod revocation {
    mod expiry;
    mod new_requests;
    pub mod streams;
}

/// How fast a key may be used, and how many of its requests may run at the same time.
mod limits {
    mod budgets;
    mod concurrent;
    mod crowd;
    mod rates;
    mod shell;
}

/// A key that gets a new token: the old one works on for a while, then as if it had never been.
mod rotation {
    mod calls;
    pub mod rotated;
    mod shell;
    mod streams;
    mod tokens;
}

/// Which paths and methods are served, and what a browser on another origin may ask.
mod routes {
    mod anthropic;
    mod browsers;
    mod head;
    mod paths;
}

/// Several gateways with one database of PostgreSQL, and what holds while its server is away.
mod shared_database {
    mod commands;
    mod disk;
    mod eight;
    mod faults;
    mod fleet;
    pub mod gateways;
    mod keys;
    mod limits;
    mod pooler;
    mod spool;
}

/// An answer reaches the client chunk by chunk, at the speed at which the client reads.
mod streaming {
    mod streams;
}

/// A client or an upstream that is slow or silent is given up when its time is over, and not before.
mod timeouts {
    mod bodies;
    mod clock_steps;
    mod handshakes;
    mod heads;
    mod idle;
    mod slowhttptest;
    mod unread_answers;
    mod upstreams;
}

/// TLS toward clients and upstreams: versions, certificates, and certificates that change at run time.
mod tls {
    mod certificates;
    mod client_certificates;
    mod protocols;
    mod upstreams;
}

/// What the operator is told by a webhook.
mod alerts {
    mod webhook;
}

/// What each request used: read in its answer, kept in the database, and never in the way of a request.
mod usage {
    mod audio;
    mod records;
    mod streams;
}

/// Who used what: the questions of a key's holder, of the operator, and of the shell.
mod usage_questions {
    pub mod calls;
    mod key;
    mod shell;
}
