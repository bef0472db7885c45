//! Which settings only a restart applies.

use crate::store::config::{Admin, Config, Keys, Limits, Timeouts};

/// The settings that differ and that a reload does not apply. It applies the upstreams, the certificates (from other
/// files too, but not whether there is one), the clients' CA, and what the key file holds.
#[must_use]
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    // Taken apart without `..`, so that a new field cannot be forgotten here.
    let Config {
        file: _,
        listen,
        public_url,
        workers,
        public_health,
        cors_origins,
        tls,
        keys,
        admin,
        client_address,
        limits,
        timeouts,
        log_format,
        upstreams: _,
    } = old;
    let Keys {
        file,
        named: _,
        watch,
        max_drop_percent,
    } = keys;
    let Admin {
        socket,
        listen: admin_listen,
        token_file,
        hosts,
        tls: admin_tls,
        open_metrics,
    } = admin;
    let Limits {
        request_body,
        buffered_bodies,
        headers,
        connections,
    } = limits;
    let Timeouts {
        header_read,
        body_idle,
        tls_handshake,
        keep_alive,
        client_write,
        upstream_connect,
        upstream_first_byte,
        stream_idle,
        upstream_keep_alive,
        drain,
        drain_delay,
    } = timeouts;
    let differs = [
        ("listen", *listen != new.listen),
        ("public_url", *public_url != new.public_url),
        ("workers", *workers != new.workers),
        ("public_health", *public_health != new.public_health),
        ("cors_origins", *cors_origins != new.cors_origins),
        ("tls", tls.is_some() != new.tls.is_some()),
        ("keys.file", *file != new.keys.file),
        ("keys.watch", *watch != new.keys.watch),
        (
            "keys.max_drop_percent",
            *max_drop_percent != new.keys.max_drop_percent,
        ),
        ("admin.socket", *socket != new.admin.socket),
        ("admin.listen", *admin_listen != new.admin.listen),
        ("admin.token_file", *token_file != new.admin.token_file),
        ("admin.hosts", *hosts != new.admin.hosts),
        ("admin.tls", *admin_tls != new.admin.tls),
        (
            "admin.open_metrics",
            *open_metrics != new.admin.open_metrics,
        ),
        ("client_address", *client_address != new.client_address),
        (
            "limits.request_body",
            *request_body != new.limits.request_body,
        ),
        (
            "limits.buffered_bodies",
            *buffered_bodies != new.limits.buffered_bodies,
        ),
        ("limits.headers", *headers != new.limits.headers),
        ("limits.connections", *connections != new.limits.connections),
        (
            "timeouts.header_read",
            *header_read != new.timeouts.header_read,
        ),
        ("timeouts.body_idle", *body_idle != new.timeouts.body_idle),
        (
            "timeouts.tls_handshake",
            *tls_handshake != new.timeouts.tls_handshake,
        ),
        (
            "timeouts.keep_alive",
            *keep_alive != new.timeouts.keep_alive,
        ),
        (
            "timeouts.client_write",
            *client_write != new.timeouts.client_write,
        ),
        (
            "timeouts.upstream_connect",
            *upstream_connect != new.timeouts.upstream_connect,
        ),
        (
            "timeouts.upstream_first_byte",
            *upstream_first_byte != new.timeouts.upstream_first_byte,
        ),
        (
            "timeouts.stream_idle",
            *stream_idle != new.timeouts.stream_idle,
        ),
        (
            "timeouts.upstream_keep_alive",
            *upstream_keep_alive != new.timeouts.upstream_keep_alive,
        ),
        ("timeouts.drain", *drain != new.timeouts.drain),
        (
            "timeouts.drain_delay",
            *drain_delay != new.timeouts.drain_delay,
        ),
        ("log.format", *log_format != new.log_format),
    ];
    differs
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
}
