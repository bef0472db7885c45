//! Authentication over TCP. The Host must be a name of this listener, the Origin must not be another one, and the request
//! needs the admin token, or a session's cookie with its secret. A cookie needs more checks: see
//! [`ListenerNames::is_own_page`].
//!
//! The Unix socket needs none of this: its file permissions decide who may connect. The response to a wrong token is
//! delayed; correct tokens and the socket never wait for that.

use std::net::IpAddr;

use http::header::{self, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, request};

use crate::admin::cookie::Scheme;
use crate::admin::error::ApiError;
use crate::admin::operation::Operation;
use crate::admin::principal::Principal;
use crate::admin::session_codes::SessionProof;
use crate::admin::throttle::delay_response;
use crate::admin::{Peer, Services, change, person_session, session};
use crate::http::credential;
use crate::observe::log::Event;
use crate::policy::audit::ChangeVia;
use crate::policy::denial::Denial;
use crate::runtime::wall_clock::now;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a call needs before it is handled.
enum Requirement {
    Nothing,
    Host,
    /// If a page sent it, a page of this listener.
    OwnPage,
    /// The token or a session.
    Token,
}

/// How a call was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthMethod {
    /// Not needed.
    NotRequired,
    /// By access to the Unix socket.
    Socket,
    /// By the admin token.
    Token,
    /// By a session's cookie and secret.
    Session,
}

impl AuthMethod {
    /// Whether it shows that the client may use the admin API.
    pub(super) fn is_proof(&self) -> bool {
        match self {
            Self::Socket | Self::Token | Self::Session => true,
            Self::NotRequired => false,
        }
    }
}

impl Requirement {
    /// An unknown path needs the token too, so that only authorised clients learn which paths exist.
    fn of(operation: Option<Operation<'_>>, services: &Services) -> Self {
        match operation {
            Some(Operation::Health | Operation::Ready) => Self::Nothing,
            Some(Operation::PanelFile(_)) => Self::Host,
            Some(Operation::Metrics) if services.config.admin.open_metrics => Self::Host,
            // Other pages send browsers there: the provider's, and those that have a link to the panel.
            Some(Operation::BeginProviderSignIn | Operation::EndProviderSignIn) => Self::Host,
            Some(Operation::SignIn | Operation::LookAtInvitation | Operation::SignInWays) => {
                Self::OwnPage
            }
            Some(
                Operation::Metrics
                | Operation::ListKeys
                | Operation::CreateKey
                | Operation::ShowKey(_)
                | Operation::ChangeKey(_)
                | Operation::DeleteKey(_)
                | Operation::RotateKey(_)
                | Operation::ExpirePrevious(_)
                | Operation::ResetBudgets(_)
                | Operation::ListAccounts
                | Operation::CreateAccount
                | Operation::ShowAccount(_)
                | Operation::ChangeAccount(_)
                | Operation::DeleteAccount(_)
                | Operation::Reload
                | Operation::AcceptRollback
                | Operation::TestAlert
                | Operation::Status
                | Operation::Gateways
                | Operation::Models
                | Operation::Overview
                | Operation::Refusals
                | Operation::Usage
                | Operation::UsageRecords
                | Operation::Audit
                | Operation::VerifyAudit
                | Operation::Explain
                | Operation::MakeSignInLink
                | Operation::ListMembers(_)
                | Operation::ChangeMember(..)
                | Operation::RemoveMember(..)
                | Operation::ResetPassword(..)
                | Operation::ListInvitations(_)
                | Operation::Invite(_)
                | Operation::RevokeInvitation(..)
                | Operation::ListSessions
                | Operation::EndSession(_)
                | Operation::ShowSession
                | Operation::SignOut
                | Operation::OpenApi,
            )
            | None => Self::Token,
        }
    }
}

/// A call that was let in.
pub(super) struct Access {
    /// How it was authenticated.
    pub(super) method: AuthMethod,
    /// Who makes it; None: nobody has to say for this call.
    pub(super) principal: Option<Principal>,
}

impl Access {
    fn operator(method: AuthMethod) -> Self {
        Self {
            method,
            principal: Some(Principal::operator()),
        }
    }

    fn of_anybody() -> Self {
        Self {
            method: AuthMethod::NotRequired,
            principal: None,
        }
    }
}

/// Authenticates a call.
pub(super) async fn check(
    services: &Services,
    peer: Peer,
    operation: Option<Operation<'_>>,
    parts: &request::Parts,
    request_id: &str,
) -> Result<Access, ApiError> {
    let Peer::Network { local, .. } = peer else {
        return Ok(Access::operator(AuthMethod::Socket));
    };
    let headers = &parts.headers;
    let requirement = Requirement::of(operation, services);
    let names = ListenerNames {
        local: local.to_canonical(),
        hosts: &services.config.admin.hosts,
    };
    if !matches!(requirement, Requirement::Nothing) && !names.is_own_host(headers) {
        return Err(ApiError::Misdirected);
    }
    if !names.is_own_origin(headers) {
        return Err(ApiError::ForeignOrigin);
    }
    match requirement {
        Requirement::Nothing | Requirement::Host => Ok(Access::of_anybody()),
        Requirement::OwnPage if ListenerNames::is_own_page(headers) => Ok(Access::of_anybody()),
        Requirement::OwnPage => Err(ApiError::ForeignOrigin),
        Requirement::Token => match credential::bearer(
            headers
                .get_all(header::AUTHORIZATION)
                .iter()
                .map(HeaderValue::as_bytes),
        ) {
            Ok(shown) if services.token.is_some_and(|token| token.is(shown)) => {
                Ok(Access::operator(AuthMethod::Token))
            }
            Err(Denial::MissingApiKey) => by_session(services, parts).await,
            Ok(_) | Err(_) => {
                let refused = |count| {
                    Event::warn("admin_token_refused")
                        .with("who", peer.to_string())
                        .with("count", count)
                };
                let origin = change::unknown(services, peer, headers, ChangeVia::Api, request_id);
                change::record_failed_sign_in(services, origin, "token").await;
                delay_response(services, refused).await;
                Err(ApiError::Unauthorized)
            }
        },
    }
}

/// Who makes the call now: of a person, roles and sessions may have ended meanwhile.
pub(super) async fn again(
    services: &Services,
    headers: &HeaderMap,
    principal: Option<Principal>,
) -> Result<Option<Principal>, ApiError> {
    let is_person = principal
        .as_ref()
        .is_some_and(|principal| principal.signed_in().is_some());
    if !is_person {
        return Ok(principal);
    }
    let (proof, principal) = person_session::touch(services, headers, now()).await?;
    match proof {
        SessionProof::Whole => Ok(principal),
        SessionProof::None | SessionProof::CookieAlone => Err(ApiError::Unauthorized),
    }
}

async fn by_session(services: &Services, parts: &request::Parts) -> Result<Access, ApiError> {
    let (sessions, headers) = (&services.state.sessions, &parts.headers);
    let scheme = Scheme::of(services, headers);
    let (proof, principal) = match sessions.touch((headers, scheme), services.token, now()) {
        SessionProof::None => person_session::touch(services, headers, now()).await?,
        proof => (proof, Some(Principal::operator())),
    };
    if proof == SessionProof::None {
        Err(ApiError::Unauthorized)
    } else if !ListenerNames::is_own_page(headers) {
        Err(ApiError::ForeignOrigin)
    } else if proof == SessionProof::CookieAlone {
        Err(ApiError::CookieAlone)
    } else if !session::is_sent_by_panel(&parts.method, headers) {
        Err(ApiError::NotFromPanel)
    } else {
        Ok(Access {
            method: AuthMethod::Session,
            principal,
        })
    }
}

/// The names of this listener. They stop DNS rebinding, where an attacker points the name of their page to this server.
struct ListenerNames<'s> {
    local: IpAddr,
    hosts: &'s [String],
}

impl ListenerNames<'_> {
    fn is_own_host(&self, headers: &HeaderMap) -> bool {
        only(headers, &HOST).is_some_and(|host| self.is_ours(host))
    }

    /// Whether there is no Origin, or it is this listener's. The port must be the Host's, since another port of the
    /// machine may serve somebody else's pages.
    fn is_own_origin(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(ORIGIN) {
            return true;
        }
        let origin = only(headers, &ORIGIN).and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, authority)| {
            let host = only(headers, &HOST);
            let is_host = host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
            self.is_ours(authority) && (is_host || self.is_configured(authority))
        })
    }

    /// Whether no page or a page of this listener sent the request. Browsers also send cookies for pages on other ports
    /// of the same host. `Sec-Fetch-Site` tells them apart; browsers send it to localhost and over TLS.
    fn is_own_page(headers: &HeaderMap) -> bool {
        !headers.contains_key(SEC_FETCH_SITE)
            || matches!(only(headers, &SEC_FETCH_SITE), Some("same-origin" | "none"))
    }

    fn is_ours(&self, authority: &str) -> bool {
        let Some(host) = without_port(authority) else {
            return false;
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let address = bare.unwrap_or(host).parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.to_canonical() == self.local)
            || self.is_configured(authority)
    }

    fn is_configured(&self, authority: &str) -> bool {
        let Some(host) = without_port(authority).map(unbracketed) else {
            return false;
        };
        self.hosts
            .iter()
            .any(|name| unbracketed(name).eq_ignore_ascii_case(host))
    }
}

/// The value of a header that occurs exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    first.to_str().ok().filter(|_| lines.next().is_none())
}

/// The host of an authority (RFC 3986 3.2); None if something other than a port follows it.
fn without_port(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(address) => address.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_port = rest.is_empty() || rest.starts_with(':');
    (is_port && port.bytes().all(|digit| digit.is_ascii_digit())).then_some(host)
}

/// An IPv6 address without its brackets; other hosts unchanged.
fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hosts: &[String], authority: &str) -> bool {
        let local = [192, 0, 2, 1].into();
        ListenerNames { local, hosts }.is_ours(authority)
    }

    #[test]
    fn a_listener_answers_to_localhost_its_address_and_the_configured_hosts() {
        let hosts = ["admin.example".to_owned(), "[2001:db8::1]".to_owned()];
        for own in [
            "localhost",
            "LOCALHOST:9180",
            "192.0.2.1",
            "192.0.2.1:80",
            "[::ffff:192.0.2.1]:80",
            "admin.example",
            "Admin.Example:443",
            "[2001:db8::1]:9180",
        ] {
            assert!(names(&hosts, own), "{own}");
        }
        for other in [
            "",
            ":80",
            "192.0.2.2",
            "127.0.0.1",
            "evil.example",
            "localhost.evil.example",
            "admin.example.evil",
            "xadmin.example",
            "localhost.",
            "[localhost",
            "2001:db8::1",
            "[2001:db8::1]x",
            "localhost:80.evil.example",
            "192.0.2.1:80:80",
            "192.0.2.1.evil.example",
        ] {
            assert!(!names(&hosts, other), "{other}");
        }
    }
}
