//! The cookies of the panel: their names, how they are set, and how they are read.
//!
//! Over TLS a name begins with `__Host-`: browsers take such a cookie from the same host alone, and over TLS. Then the
//! plain name does not count, since another host of the domain, or anybody between, can set a cookie of that name.

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue, ORIGIN};

use crate::admin::Services;
use crate::admin::error::ApiError;

/// The id of a session. No page of another site sends it.
pub(super) const SESSION: PanelCookie = PanelCookie {
    plain: "keygate_session",
    over_tls: "__Host-keygate_session",
    same_site: "Strict",
};
/// A sign-in by the identity provider that is under way. Lax: the provider's page sends the browser here.
pub(super) const PROVIDER_SIGN_IN: PanelCookie = PanelCookie {
    plain: "keygate_sign_in",
    over_tls: "__Host-keygate_sign_in",
    same_site: "Lax",
};
/// A device where somebody has signed in before. The panel's own page alone sends it.
pub(super) const KNOWN_DEVICE: PanelCookie = PanelCookie {
    plain: "keygate_device",
    over_tls: "__Host-keygate_device",
    same_site: "Strict",
};

/// One of the cookies.
pub(super) struct PanelCookie {
    plain: &'static str,
    over_tls: &'static str,
    same_site: &'static str,
}

/// How the page was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// That of a call of the page: from this listener, or from a proxy in front of it. Then the Origin tells, which
    /// browsers send with every change; without it a proxy is not seen.
    pub(super) fn of(services: &Services, headers: &HeaderMap) -> Self {
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        let has_tls = services.config.admin.tls;
        match has_tls || origin.is_some_and(|origin| origin.starts_with(b"https://")) {
            true => Self::Https,
            false => Self::Http,
        }
    }

    /// That of a URL.
    pub(super) fn of_url(url: &str) -> Self {
        match url.starts_with("https://") {
            true => Self::Https,
            false => Self::Http,
        }
    }
}

impl PanelCookie {
    /// The name.
    pub(super) fn name(&self, scheme: Scheme) -> &'static str {
        match scheme {
            Scheme::Http => self.plain,
            Scheme::Https => self.over_tls,
        }
    }

    /// The header that sets it. `end`: further attributes.
    pub(super) fn set(
        &self,
        value: &str,
        end: &str,
        scheme: Scheme,
    ) -> Result<HeaderValue, ApiError> {
        let secure = match scheme {
            Scheme::Http => "",
            Scheme::Https => "; Secure",
        };
        let (name, same_site) = (self.name(scheme), self.same_site);
        // A name with __Host- needs this path.
        let text = format!("{name}={value}; HttpOnly; SameSite={same_site}; Path=/{end}{secure}");
        let mut cookie = HeaderValue::try_from(text).map_err(|_| ApiError::Internal)?;
        cookie.set_sensitive(true);
        Ok(cookie)
    }

    /// All values that a call has. There can be several: pages on other ports of this host can set a cookie of the same
    /// name.
    pub(super) fn values<'h>(
        &self,
        headers: &'h HeaderMap,
        scheme: Scheme,
    ) -> impl Iterator<Item = &'h str> + use<'h> {
        // Where the call may have come over TLS unseen, both names count.
        let names = match scheme {
            Scheme::Http => [self.plain, self.over_tls],
            Scheme::Https => [self.over_tls; 2],
        };
        let lines = headers.get_all(COOKIE).iter();
        let cookies = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'));
        cookies
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(move |(name, _)| names.contains(name))
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(line: &str, scheme: Scheme) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, line.parse().unwrap());
        let values = SESSION.values(&headers, scheme);
        values.map(str::to_owned).collect()
    }

    #[test]
    fn over_tls_the_plain_name_does_not_count() {
        let both = "keygate_session=planted; a=b; __Host-keygate_session=right";
        assert_eq!(values(both, Scheme::Https), ["right"]);
        assert_eq!(values(both, Scheme::Http), ["planted", "right"]);
        assert!(values("keygate_session=planted", Scheme::Https).is_empty());
    }
}
