//! Warnings about settings that are valid but probably wrong.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::store::config::{ClientAddressSource, Config, Listen};
use crate::store::config::{names, value};
use crate::store::fault::Fault;

impl Config {
    /// Settings that are valid but probably wrong.
    #[must_use]
    pub fn warnings(&self) -> Vec<Fault> {
        let mut warnings = Vec::new();
        let mut warn = |field: String, message: &str| {
            warnings.push(Fault {
                file: self.file.clone().unwrap_or("command line".into()),
                line: 0,
                field,
                message: message.to_owned(),
            });
        };
        let exposed = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
        if self.admin.listen.is_some_and(exposed) && !self.admin.tls {
            warn(
                "admin.listen".to_owned(),
                "the admin token crosses the network in clear; set admin.tls, or listen on 127.0.0.1",
            );
        }
        if self.sign_in.oidc.is_some() && self.admin.listen.is_none() {
            warn(
                "sign_in.oidc".to_owned(),
                "has no effect without a panel to sign in to; set admin.listen, or remove it",
            );
        }
        let is_https = |url: &String| url.starts_with("https://");
        if self.admin.listen.is_some()
            && !self.admin.tls
            && self.sign_in.url.as_ref().is_some_and(is_https)
            && self.client_address == ClientAddressSource::Peer
        {
            warn(
                "client_address.from".to_owned(),
                "sign_in.url is https and admin.tls is off, so a proxy stands before the panel and every person has its \
                 address: wrong passwords of one slow down the others; set \"x-forwarded-for\", and trusted_proxies",
            );
        }
        if self
            .client_address
            .trusted_proxies()
            .iter()
            .any(|network| network.prefix_len() == 0)
        {
            warn(
                "client_address.trusted_proxies".to_owned(),
                "every client is believed, so that each can choose its address; list the load balancers alone",
            );
        }
        let is_unix = |listen: &Listen| matches!(listen, Listen::Unix(_));
        if self.client_address != ClientAddressSource::Peer && self.listen.iter().all(is_unix) {
            warn(
                "client_address.from".to_owned(),
                "has no effect on a Unix socket, whose clients have no address: keys with networks are refused there",
            );
        }
        for (field, message) in self.tls.iter().flat_map(names::shadowed_certificates) {
            warn(field, &message);
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            if upstream.ca_file.is_some() && upstream.replicas.iter().all(|url| !url.https) {
                warn(
                    format!("upstreams[{index}].ca_file"),
                    "is not used, since no url of this upstream is https; write https://, or remove it",
                );
            }
        }
        if let Some(served) = self.listed_models() {
            for (index, price) in self.prices.iter().enumerate() {
                if !served.contains(price.model.as_str()) {
                    let model = value::quoted(&price.model);
                    warn(
                        format!("prices[{index}].model"),
                        &format!(
                            "no upstream serves {model}, so no request has this price; check its spelling"
                        ),
                    );
                }
            }
        }
        warnings
    }

    /// The models and aliases of all upstreams. None if the config does not list the models of an upstream.
    #[must_use]
    pub(crate) fn listed_models(&self) -> Option<HashSet<&str>> {
        let mut listed = HashSet::new();
        for upstream in &self.upstreams {
            listed.extend(upstream.models.as_ref()?.iter().map(String::as_str));
            listed.extend(upstream.aliases.iter().map(|(alias, _)| alias.as_str()));
        }
        Some(listed)
    }
}
