//! Who may call over TCP: the Host has to be this listener's, the Origin none other's, the token the one in the file,
//! or the cookie a session's, which asks for more: see [`Names::is_own_page`].
//!
//! The Unix socket asks for none of this: whoever may open the file is let in. A wrong token is answered late, but
//! never keeps a right one, or the socket, waiting.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use http::header::{self, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, request};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::http::credential;
use crate::observe::log::Event;
use crate::policy::denial::Denial;
use crate::policy::token::{BearerToken, MAX_LENGTH, Presented};

use super::reply::Refusal;
use super::{Caller, Route, Services, now, session};

/// How late a wrong token is answered.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(200);
/// How many wrong tokens may wait for their answer; further ones are answered at once.
const MOST_DELAYED: usize = 64;
/// How often wrong tokens are worth a log line.
const WRONG_TOKEN_LOGGED: Duration = Duration::from_secs(10);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The TCP listener's token, as its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AdminToken(blake3::Hash);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hash]")
    }
}

impl AdminToken {
    pub(super) fn of(token: &str) -> Option<Self> {
        let usable = Presented::parse(token.as_bytes())?;
        Some(Self(blake3::Hash::from_bytes(*usable.hash().as_bytes())))
    }

    /// Compares the hashes, which takes the same time whatever they are.
    fn is(&self, token: Presented<'_>) -> bool {
        self.0 == blake3::Hash::from_bytes(*token.hash().as_bytes())
    }

    /// The same for a text of any form.
    pub(super) fn admits(&self, text: &str) -> bool {
        Presented::parse(text.as_bytes()).is_some_and(|token| self.is(token))
    }
}

/// Reads the token file, or makes it, 0600, with a token of the form that keys have.
///
/// # Errors
/// Where the file can neither be read nor made, or holds no usable token.
pub fn admin_token(path: &Path) -> io::Result<AdminToken> {
    let text = match read_token(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_token(path)?,
        text => text?,
    };
    AdminToken::of(text.trim()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "holds no token of 1 to 512 visible ASCII characters; delete it, and a new one is made at the next start",
        )
    })
}

fn read_token(path: &Path) -> io::Result<Zeroizing<String>> {
    // Opening a pipe must not wait for its writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_LENGTH + 64));
    file.take(MAX_LENGTH as u64 + 64)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The file appears whole, or not at all; one that appeared meanwhile is the one to read.
fn make_token(path: &Path) -> io::Result<Zeroizing<String>> {
    let token = BearerToken::make(getrandom::fill).map_err(io::Error::other)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".admin-token-")
        .tempfile_in(folder)?;
    let line = Zeroizing::new(format!("{}\n", token.reveal()));
    io::Write::write_all(&mut file, line.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(Zeroizing::new(token.reveal().to_owned())),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => read_token(path),
        Err(failed) => Err(failed.error),
    }
}

/// What a call needs before it is answered.
enum Need {
    Nothing,
    Host,
    /// To come from a page of this listener, where it comes from a page.
    OwnPage,
    /// The token, or a session.
    Token,
}

/// By what a call was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Nothing was asked for.
    Open,
    /// Whoever may open the socket.
    Socket,
    /// The admin token.
    Token,
    /// A session's cookie.
    Session,
}

impl Need {
    /// What is not served needs the token too: only who may call learns what there is.
    fn of(route: Option<Route<'_>>, services: &Services) -> Self {
        match route {
            Some(Route::Health | Route::Ready) => Self::Nothing,
            Some(Route::PanelFile(_)) => Self::Host,
            Some(Route::Metrics) if services.config.admin.open_metrics => Self::Host,
            Some(Route::SignIn) => Self::OwnPage,
            Some(
                Route::Metrics
                | Route::ListKeys
                | Route::CreateKey
                | Route::ShowKey(_)
                | Route::ChangeKey(_)
                | Route::DeleteKey(_)
                | Route::Reload
                | Route::Status
                | Route::Models
                | Route::Overview
                | Route::Explain
                | Route::ShowSession
                | Route::SignOut
                | Route::OpenApi,
            )
            | None => Self::Token,
        }
    }
}

/// Lets a call pass, or says why not.
pub(super) async fn check(
    services: &Services,
    caller: Caller,
    route: Option<Route<'_>>,
    parts: &request::Parts,
) -> Result<Pass, Refusal> {
    let Caller::Network { local, .. } = caller else {
        return Ok(Pass::Socket);
    };
    let headers = &parts.headers;
    let need = Need::of(route, services);
    let names = Names {
        local: local.to_canonical(),
        hosts: &services.config.admin.hosts,
    };
    if !matches!(need, Need::Nothing) && !names.is_own_host(headers) {
        return Err(Refusal::Misdirected);
    }
    if !names.is_own_origin(headers) {
        return Err(Refusal::ForeignOrigin);
    }
    match need {
        Need::Nothing | Need::Host => Ok(Pass::Open),
        Need::OwnPage if Names::is_own_page(headers) => Ok(Pass::Open),
        Need::OwnPage => Err(Refusal::ForeignOrigin),
        Need::Token => match credential::bearer(
            headers
                .get_all(header::AUTHORIZATION)
                .iter()
                .map(HeaderValue::as_bytes),
        ) {
            Ok(shown) if services.token.is_some_and(|token| token.is(shown)) => Ok(Pass::Token),
            Err(Denial::MissingApiKey) => by_session(services, parts),
            Ok(_) | Err(_) => {
                let refused = |count| {
                    Event::warn("admin_token_refused")
                        .with("who", caller.to_string())
                        .with("count", count)
                };
                slow_down(services, refused).await;
                Err(Refusal::Unauthorized)
            }
        },
    }
}

fn by_session(services: &Services, parts: &request::Parts) -> Result<Pass, Refusal> {
    let (sessions, headers) = (&services.memory.sessions, &parts.headers);
    if !sessions.touch(headers, services.token, now()) {
        Err(Refusal::Unauthorized)
    } else if !Names::is_own_page(headers) {
        Err(Refusal::ForeignOrigin)
    } else if !session::is_asked_by_panel(&parts.method, headers) {
        Err(Refusal::NotFromPanel)
    } else {
        Ok(Pass::Session)
    }
}

/// Lets whoever showed a wrong secret wait. `line`, with the count of such since the last, is logged now and then.
pub(super) async fn slow_down(services: &Services, line: impl FnOnce(u64) -> Event) {
    let throttle = &services.memory.throttle;
    if let Some(count) = throttle.count() {
        services.log.event(line(count));
    }
    throttle.delay().await;
}

/// Slows down whoever guesses.
pub(super) struct Throttle {
    seats: Semaphore,
    /// Wrong tokens since the last log line, and when that was.
    wrong: Mutex<(u64, Option<Instant>)>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            seats: Semaphore::new(MOST_DELAYED),
            wrong: Mutex::default(),
        }
    }
}

impl Throttle {
    async fn delay(&self) {
        if let Ok(_seat) = self.seats.try_acquire() {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
    }

    /// Counts a wrong token. Some: that many deserve a log line now.
    fn count(&self) -> Option<u64> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.0 += 1;
        if wrong
            .1
            .is_some_and(|last| last.elapsed() < WRONG_TOKEN_LOGGED)
        {
            return None;
        }
        let count = wrong.0;
        *wrong = (0, Some(Instant::now()));
        Some(count)
    }
}

/// The names of this listener: a page of another name that was pointed here (DNS rebinding) must get nothing.
struct Names<'s> {
    local: IpAddr,
    hosts: &'s [String],
}

impl Names<'_> {
    fn is_own_host(&self, headers: &HeaderMap) -> bool {
        only(headers, &HOST).is_some_and(|host| self.is_ours(host))
    }

    /// No Origin, or that of a page of this listener: with the Host's port too, since what another port of the same
    /// machine serves is another's.
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

    /// Whether no page asks, or one of this listener: a browser sends a cookie along for pages on other ports of the same
    /// host too, and says so where the host is this machine or comes over TLS.
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

/// The value of a header that was sent exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    first.to_str().ok().filter(|_| lines.next().is_none())
}

/// The host of an authority (RFC 3986 3.2), where what follows it is a port at most.
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

/// An IPv6 address without its brackets; anything else as it is.
fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(hosts: &[String], authority: &str) -> bool {
        let local = [192, 0, 2, 1].into();
        Names { local, hosts }.is_ours(authority)
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

    #[test]
    fn a_token_file_is_made_once_private_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let made = admin_token(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(made.is(Presented::parse(text.trim().as_bytes()).unwrap()));
        assert_eq!(admin_token(&path).unwrap().0, made.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_file_without_a_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        for text in ["", "\n", "two words", "kg_torn", &"x".repeat(513)] {
            std::fs::write(&path, text).unwrap();
            assert!(admin_token(&path).is_err(), "{text:?}");
        }
        assert!(admin_token(folder.path()).is_err());
    }
}
