//! What stands in `deploy/` fits the program: the configs load, the example shows the defaults, and alerts and
//! dashboard ask for no metric that the gateway does not have. The compose file and the Helm chart themselves are tested
//! in `tests/deployment/`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use keygate::store::config::parse::{Overrides, load};
use keygate::store::config::{Config, KeysSource};
use keygate::store::database::DatabaseUrl;

/// Every metric, with the suffixes of histograms apart.
const METRICS: [&str; 29] = [
    "keygate_requests_total",
    "keygate_responses_total",
    "keygate_request_seconds",
    "keygate_first_byte_seconds",
    "keygate_overhead_seconds",
    "keygate_in_flight",
    "keygate_connections",
    "keygate_keys",
    "keygate_generation",
    "keygate_reloads_total",
    "keygate_last_reload_timestamp_seconds",
    "keygate_upstream_up",
    "keygate_build_info",
    "keygate_unwritten_changes",
    "keygate_log_lines_dropped_total",
    "keygate_alerts_total",
    "keygate_alerts_pending",
    "keygate_sign_ins_total",
    "keygate_tokens_total",
    "keygate_usage_records_total",
    "keygate_database_up",
    "keygate_usage_records_dropped_total",
    "keygate_database_write_seconds",
    "keygate_audit_rows_waiting",
    "keygate_usage_waiting_bytes",
    "keygate_audit_rows_lost_total",
    "keygate_leases_up",
    "keygate_leases",
    "keygate_lease_renewal_seconds",
];
/// Metrics of gateways that share a database.
const FLEET_METRICS: [&str; 3] = [
    "keygate_fleet_revision",
    "keygate_fleet_lag_seconds",
    "keygate_gateways",
];
const HISTOGRAMS: [&str; 5] = [
    "keygate_lease_renewal_seconds",
    "keygate_database_write_seconds",
    "keygate_request_seconds",
    "keygate_first_byte_seconds",
    "keygate_overhead_seconds",
];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

fn config(file: &Path) -> Config {
    load(file, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

#[test]
fn the_example_config_loads_and_shows_the_defaults() {
    let example = config(&deploy("keygate.toml"));
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("keygate.toml");
    let upstream = "[[upstreams]]\nname = \"llama\"\nurl = \"http://127.0.0.1:8000\"\n";
    fs::write(&bare, upstream).unwrap();
    let mut expected = config(&bare);
    expected.file = Some(deploy("keygate.toml"));
    expected.keys.file = deploy("keys.jsonl");
    expected.admin.socket = deploy("keygate.sock");
    expected.admin.token_file = deploy("admin.token");
    expected.database = Some(DatabaseUrl::Sqlite(deploy("keygate.db")));
    expected.audit.key_file = deploy("keygate.db-audit-key");
    assert_eq!(example, expected);
}

/// Prose stands behind `# `, a setting that is switched off behind a bare `#`.
#[test]
fn what_the_example_config_leaves_out_is_spelt_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keygate.toml");
    let all: String = text("keygate.toml")
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(&file, all).unwrap();
    let faults = load(&file, &Overrides::default()).unwrap_err();
    let found: BTreeSet<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    // The files it names are not there, it shows both places of a credential, and SQLite has no password and no spool.
    let expected = [
        "database.password_file",
        "sign_in.mail.password_file",
        "sign_in.oidc.client_secret_file",
        "tls.certificate",
        "tls.client_ca",
        "tls.more[0].certificate",
        "tls.more[0].private_key",
        "tls.private_key",
        "upstreams[0].api_key_env",
        "upstreams[0].api_key_file",
        "upstreams[0].ca_file",
        "usage.spool",
    ];
    assert_eq!(found, BTreeSet::from(expected), "{faults:#?}");
}

#[test]
fn the_example_config_explains_every_setting() {
    let text = text("keygate.toml");
    let settings = [
        "listen public_url workers public_health cors_origins certificate private_key client_ca file watch",
        "max_drop_percent limits_unavailable requests_per_minute tokens_per_minute concurrent_requests socket token_file hosts tls open_metrics trusted_proxies from request_body",
        "buffered_bodies headers connections header_read body_idle tls_handshake keep_alive client_write",
        "upstream_connect upstream_first_byte stream_idle sse_ping upstream_keep_alive drain drain_delay format",
        "session_hours idle_minutes server username password_file operators issuer client_id client_secret_file scopes auto_invite",
        "webhook secret_file key_file upstream_after url gateway_name records sums spool spool_max currency time_zone default_output_tokens model input input_cached output audio_minute image",
        "name url models api_key_env api_key_file ca_file forward_headers usage engine",
    ];
    for setting in settings.iter().flat_map(|names| names.split(' ')) {
        let shown = |line: &str| {
            line.trim_start_matches('#')
                .starts_with(&format!("{setting} = "))
        };
        assert!(text.lines().any(shown), "{setting}");
    }
}

#[test]
fn the_configs_of_the_unit_and_of_the_container_keep_everything_in_writable_places() {
    for name in ["systemd.toml", "compose.toml"] {
        let config = config(&deploy(name));
        assert!(config.keys.named);
        for path in [&config.keys.file, &config.admin.token_file] {
            assert_eq!(path.parent(), Some(Path::new("/var/lib/keygate")), "{name}");
        }
        let database = Path::new("/var/lib/keygate/keygate.db").to_owned();
        assert_eq!(
            config.database,
            Some(DatabaseUrl::Sqlite(database)),
            "{name}"
        );
        assert_eq!(config.admin.socket, Path::new("/run/keygate/keygate.sock"));
        assert_eq!(config.warnings(), []);
    }
}

/// With its secrets in a folder of the test's own.
#[test]
fn the_configs_of_a_fleet_load_and_share_one_database() {
    for (name, secrets) in [
        ("fleet/keygate.toml", "/run/secrets"),
        ("helm/keygate/keygate.toml", "/run/secrets/keygate"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keygate.toml");
        let place = folder.path().display().to_string();
        for (secret, text) in [
            ("database-password", "one".to_owned()),
            ("audit-key", "7".repeat(64)),
        ] {
            let secret = folder.path().join(secret);
            fs::write(&secret, text).unwrap();
            fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        }
        fs::write(&file, text(name).replace(secrets, &place)).unwrap();
        let config = config(&file);
        assert!(config.public_health, "{name}");
        let Some(DatabaseUrl::Postgres(url)) = &config.database else {
            panic!("{name}: {:?}", config.database);
        };
        assert_eq!(
            (url.user.as_str(), url.name.as_str()),
            ("keygate", "keygate")
        );
        assert!(url.password.is_some(), "{name}");
        let copy = Path::new("/var/lib/keygate/last-good-copy.jsonl");
        assert_eq!(config.keys.source, KeysSource::Database, "{name}");
        assert_eq!(config.keys.file, copy, "{name}");
        let spool = config
            .usage
            .spool
            .as_ref()
            .map(|spool| spool.folder.as_path());
        assert_eq!(spool, Some(Path::new("/var/lib/keygate/spool")), "{name}");
        assert_eq!(config.audit.key_file, folder.path().join("audit-key"));
        assert_eq!(config.warnings(), [], "{name}");
    }
}

#[test]
fn haproxy_takes_its_config() {
    let checked = Command::new("/usr/sbin/haproxy")
        .args(["-c", "-f"])
        .arg(deploy("fleet/haproxy.cfg"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
}

#[test]
fn the_unit_and_the_container_wait_longer_than_a_drain_takes() {
    let drain = config(&deploy("keygate.toml")).timeouts;
    let drain = (drain.drain + drain.drain_delay).as_secs();
    for (name, before, after) in [
        ("keygate.service", "TimeoutStopSec=", ""),
        ("compose.yaml", "    stop_grace_period: ", "s"),
    ] {
        let text = text(name);
        let seconds = text
            .lines()
            .find_map(|line| line.strip_prefix(before)?.strip_suffix(after))
            .unwrap();
        assert!(seconds.parse::<u64>().unwrap() > drain, "{name}");
    }
}

#[test]
fn alerts_and_dashboard_ask_only_for_metrics_that_exist() {
    for name in ["prometheus/alerts.yml", "grafana/keygate.json"] {
        let used = metrics_in(&text(name));
        assert!(used.len() > 5, "{name}: {used:?}");
        for metric in used {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .filter(|base| HISTOGRAMS.contains(base));
            let bare_histogram = HISTOGRAMS.contains(&metric.as_str());
            let known = base.is_some() || METRICS.contains(&metric.as_str());
            assert!(known && !bare_histogram, "{name}: {metric}");
        }
    }
}

#[test]
fn alerts_of_a_fleet_ask_only_for_metrics_that_exist() {
    let used = metrics_in(&text("prometheus/fleet-alerts.yml"));
    assert!(used.len() > 3, "{used:?}");
    for metric in used {
        let known = METRICS.iter().chain(&FLEET_METRICS);
        assert!(known.copied().any(|known| known == metric), "{metric}");
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let used = metrics_in(&text("grafana/keygate.json"));
    for metric in METRICS {
        let shown = used.iter().any(|used| used.starts_with(metric));
        assert!(shown, "{metric}");
    }
}

#[test]
fn the_dashboard_is_json_with_every_panel_in_a_place_of_its_own() {
    let dashboard: serde_json::Value = serde_json::from_str(&text("grafana/keygate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let distinct = |of: &dyn Fn(&serde_json::Value) -> String| {
        panels.iter().map(of).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&|panel| panel["id"].to_string()), panels.len());
    let place =
        |panel: &serde_json::Value| format!("{} {}", panel["gridPos"]["x"], panel["gridPos"]["y"]);
    assert_eq!(distinct(&place), panels.len());
}

/// The names that a text mentions, save label names: those do not begin with `keygate_`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.match_indices("keygate_")
        .map(|(start, _)| {
            text[start..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}
