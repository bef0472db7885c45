//! Where the panel is.

use crate::admin::Services;
use crate::store::config::ReplicaUrl;

/// The panel's address as browsers see it: the config's, or that of the listener. None if the admin API does not listen over TCP.
pub(super) fn panel_url(services: &Services) -> Option<String> {
    let address = services.state.address.get()?;
    if let Some(url) = &services.config.sign_in.url {
        return Some(url.clone());
    }
    let admin = &services.config.admin;
    let host = match admin.hosts.first() {
        // A certificate is for a name.
        Some(name) if admin.tls => name.trim_matches(['[', ']']).to_owned(),
        _ if address.ip().is_unspecified() => "localhost".to_owned(),
        _ => address.ip().to_string(),
    };
    let url = ReplicaUrl {
        https: admin.tls,
        host,
        port: address.port(),
    };
    Some(url.to_string())
}
