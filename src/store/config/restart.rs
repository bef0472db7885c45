//! The settings that only a restart applies.
//!
//! Every config struct is destructured without `..`, so that the compiler refuses a new field that is not listed here.

use crate::store::config::{
    AdminConfig, AuditConfig, Config, KeysConfig, LimitsConfig, SignInConfig, Timeouts, UsageConfig,
};

/// A setting's name in the config file, and whether its value differs.
type Setting = (&'static str, bool);

/// The settings that differ and that a reload does not apply. A reload applies the upstreams, the prices, the certificates (also
/// from other files, but not whether TLS is on), the clients' CA, and the content of the key file.
#[must_use]
pub(crate) fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
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
        database,
        gateway_name,
        usage,
        audit,
        // A reload applies them.
        prices: _,
        alerts: _,
        sign_in,
    } = old;
    let mut settings = vec![
        ("listen", *listen != new.listen),
        ("public_url", *public_url != new.public_url),
        ("workers", *workers != new.workers),
        ("public_health", *public_health != new.public_health),
        ("cors_origins", *cors_origins != new.cors_origins),
        ("tls", tls.is_some() != new.tls.is_some()),
    ];
    settings.extend(compare_keys(keys, &new.keys));
    settings.extend(compare_admin(admin, &new.admin));
    settings.push(("client_address", *client_address != new.client_address));
    settings.extend(compare_limits(limits, &new.limits));
    settings.extend(compare_timeouts(timeouts, &new.timeouts));
    settings.push(("log.format", *log_format != new.log_format));
    settings.push(("database.url", *database != new.database));
    settings.push(("database.gateway_name", *gateway_name != new.gateway_name));
    settings.extend(compare_usage(usage, &new.usage));
    let AuditConfig { keep, key_file } = audit;
    settings.push(("audit.keep", *keep != new.audit.keep));
    // By default it goes with the database.
    let other_key = *key_file != new.audit.key_file && *database == new.database;
    settings.push(("audit.key_file", other_key));
    settings.extend(compare_sign_in(sign_in, &new.sign_in));
    settings
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
}

fn compare_usage(old: &UsageConfig, new: &UsageConfig) -> [Setting; 6] {
    let UsageConfig {
        records,
        sums,
        currency,
        time_zone,
        spool,
    } = old;
    // By default it goes with the database and the key file.
    let both = || spool.as_ref().zip(new.spool.as_ref());
    [
        ("usage.records", *records != new.records),
        ("usage.sums", *sums != new.sums),
        ("usage.currency", *currency != new.currency),
        ("usage.time_zone", *time_zone != new.time_zone),
        (
            "usage.spool",
            both().is_some_and(|(old, new)| old.folder != new.folder),
        ),
        (
            "usage.spool_max",
            both().is_some_and(|(old, new)| old.max_bytes != new.max_bytes),
        ),
    ]
}

fn compare_sign_in(old: &SignInConfig, new: &SignInConfig) -> [Setting; 6] {
    let SignInConfig {
        oidc,
        mail,
        url,
        operators,
        session,
        idle,
    } = old;
    [
        ("sign_in.oidc", *oidc != new.oidc),
        ("sign_in.mail", *mail != new.mail),
        ("sign_in.url", *url != new.url),
        ("sign_in.operators", *operators != new.operators),
        ("sign_in.session_hours", *session != new.session),
        ("sign_in.idle_minutes", *idle != new.idle),
    ]
}

fn compare_keys(old: &KeysConfig, new: &KeysConfig) -> [Setting; 7] {
    let KeysConfig {
        source,
        file,
        max_stale,
        named: _,
        watch,
        max_drop_percent,
        default_limits,
        limits_unavailable,
    } = old;
    [
        ("keys.source", *source != new.source),
        ("keys.file", *file != new.file),
        ("keys.max_stale", *max_stale != new.max_stale),
        ("keys.watch", *watch != new.watch),
        (
            "keys.max_drop_percent",
            *max_drop_percent != new.max_drop_percent,
        ),
        ("keys.default_limits", *default_limits != new.default_limits),
        (
            "keys.limits_unavailable",
            *limits_unavailable != new.limits_unavailable,
        ),
    ]
}

fn compare_admin(old: &AdminConfig, new: &AdminConfig) -> [Setting; 6] {
    let AdminConfig {
        socket,
        listen,
        token_file,
        hosts,
        tls,
        open_metrics,
    } = old;
    [
        ("admin.socket", *socket != new.socket),
        ("admin.listen", *listen != new.listen),
        ("admin.token_file", *token_file != new.token_file),
        ("admin.hosts", *hosts != new.hosts),
        ("admin.tls", *tls != new.tls),
        ("admin.open_metrics", *open_metrics != new.open_metrics),
    ]
}

fn compare_limits(old: &LimitsConfig, new: &LimitsConfig) -> [Setting; 4] {
    let LimitsConfig {
        request_body,
        buffered_bodies,
        headers,
        connections,
    } = old;
    [
        ("limits.request_body", *request_body != new.request_body),
        (
            "limits.buffered_bodies",
            *buffered_bodies != new.buffered_bodies,
        ),
        ("limits.headers", *headers != new.headers),
        ("limits.connections", *connections != new.connections),
    ]
}

fn compare_timeouts(old: &Timeouts, new: &Timeouts) -> [Setting; 12] {
    let Timeouts {
        header_read,
        body_idle,
        tls_handshake,
        keep_alive,
        client_write,
        upstream_connect,
        upstream_first_byte,
        stream_idle,
        sse_ping,
        upstream_keep_alive,
        drain,
        drain_delay,
    } = *old;
    [
        ("timeouts.header_read", header_read != new.header_read),
        ("timeouts.body_idle", body_idle != new.body_idle),
        ("timeouts.tls_handshake", tls_handshake != new.tls_handshake),
        ("timeouts.keep_alive", keep_alive != new.keep_alive),
        ("timeouts.client_write", client_write != new.client_write),
        (
            "timeouts.upstream_connect",
            upstream_connect != new.upstream_connect,
        ),
        (
            "timeouts.upstream_first_byte",
            upstream_first_byte != new.upstream_first_byte,
        ),
        ("timeouts.stream_idle", stream_idle != new.stream_idle),
        ("timeouts.sse_ping", sse_ping != new.sse_ping),
        (
            "timeouts.upstream_keep_alive",
            upstream_keep_alive != new.upstream_keep_alive,
        ),
        ("timeouts.drain", drain != new.drain),
        ("timeouts.drain_delay", drain_delay != new.drain_delay),
    ]
}
