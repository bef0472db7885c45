//! A URL whose requests nobody reads on their way: https, or http on this machine.

use std::net::IpAddr;

use crate::store::config::{ReplicaUrl, value};

/// The longest path and query, in bytes.
const MAX_TARGET: usize = 2048;

/// A URL of https, or of http on this machine. Its path and query may hold a secret, so only its server is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecureUrl {
    /// Scheme and authority.
    pub server: ReplicaUrl,
    target: String,
}

impl SecureUrl {
    /// Reads a URL. Messages never contain it: it may hold a secret.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let start = text.find("://").map_or(0, |scheme| scheme + 3);
        let end = text[start..].find(['/', '?', '#', '\\']);
        let end = end.map_or(text.len(), |end| start + end);
        let (server, target) = text.split_at(end);
        if server.contains('@') {
            return Err("holds a user name or a password; drop it".to_owned());
        }
        let server = value::base_url(server)?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"#\\".contains(&byte);
        if target.len() > MAX_TARGET || !target.bytes().all(is_plain) {
            return Err(
                "has a path that is too long, or a fragment, or characters that have to be escaped; write it as its \
                 server shows it"
                    .to_owned(),
            );
        }
        if !server.https && !is_loopback(&server.host) {
            return Err(
                "would cross the network in clear; write https://, or name a server on this machine"
                    .to_owned(),
            );
        }
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        Ok(Self { server, target })
    }

    /// Another path on the same server.
    #[must_use]
    pub(crate) fn at(&self, target: String) -> Self {
        let server = self.server.clone();
        Self { server, target }
    }

    /// Path and query, for the request.
    #[must_use]
    pub fn reveal_target(&self) -> &str {
        &self.target
    }
}

impl std::fmt::Debug for SecureUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/[redacted]", self.server)
    }
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_or_on_this_machine_and_its_path_is_not_shown() {
        for (text, server, target) in [
            ("https://h.example.com", "https://h.example.com", "/"),
            (
                "https://h.example.com/a/b?c=d",
                "https://h.example.com",
                "/a/b?c=d",
            ),
            (
                "https://h.example.com?c=d",
                "https://h.example.com",
                "/?c=d",
            ),
            ("http://127.0.0.1:99/x", "http://127.0.0.1:99", "/x"),
            ("http://[::1]:99/x", "http://[::1]:99", "/x"),
            ("http://localhost/x", "http://localhost", "/x"),
        ] {
            let url = SecureUrl::parse(text).unwrap();
            assert_eq!(
                (url.server.to_string(), &*url.target),
                (server.to_owned(), target)
            );
            assert_eq!(format!("{url:?}"), format!("{server}/[redacted]"));
        }
        for text in [
            "",
            "h.example.com/secret",
            "ftp://h.example.com/secret",
            "http://h.example.com/secret",
            "http://10.0.0.1/secret",
            "http://localhost.example.com/secret",
            "https://u:secret@h.example.com/",
            "https://h.example.com/secret#x",
            "https://h.example.com/secret secret",
            "https://h.example.com/secret\r\nx: y",
            "https:///secret",
        ] {
            let fault = SecureUrl::parse(text).unwrap_err();
            assert!(!fault.contains("secret"), "{text}: {fault}");
        }
    }
}
