//! The panel's sessions: who showed the admin token, or a sign-in link, once, and now shows a cookie in its place.
//!
//! A session ends by signing out, after [`IDLE_SECONDS`] without a call, with the process, and where the admin token
//! becomes another. It is looked up by the hash of its id, and nothing else of the id is kept. Every sign-in makes a
//! new id. A browser sends the cookie unasked, so that what a session may do hangs on [`is_asked_by_panel`] too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_TYPE, COOKIE, HeaderValue, ORIGIN, SET_COOKIE};
use http::{HeaderMap, Method};
use serde::Serialize;

use crate::admin::request_head;
use crate::http::client_address::client_address;
use crate::observe::log::Event;
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;
use crate::policy::token::{Code, TokenHash};
use crate::request_body::model;

use super::access::{self, AdminToken};
use super::input::Object;
use super::reply::{Refusal, Reply};
use super::{Caller, Services};

/// How long a session lives without a call.
const IDLE_SECONDS: i64 = 12 * 60 * 60;
/// How many sessions there are at once; one more ends that which was idle longest.
const MOST_SESSIONS: usize = 64;
/// How long a sign-in link waits to be used.
const LINK_SECONDS: i64 = 10 * 60;

const COOKIE_NAME: &str = "keygate_session";

/// The sessions that live, and the link that makes one more.
#[derive(Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Default)]
struct State {
    live: HashMap<TokenHash, Session>,
    link: Option<Link>,
}

struct Session {
    used: UnixTime,
    /// The admin token that was in force when it began.
    token: AdminToken,
}

struct Link {
    /// Compared in the same time whatever it is compared with.
    hash: blake3::Hash,
    ends: UnixTime,
}

impl Sessions {
    /// A new session's id.
    fn begin(&self, token: AdminToken, now: UnixTime) -> Result<Code, getrandom::Error> {
        let id = Code::make(getrandom::fill)?;
        let mut state = self.state();
        state.live.retain(|_, session| !session.is_over(now));
        while state.live.len() >= MOST_SESSIONS {
            let oldest = state.live.iter().min_by_key(|(_, session)| session.used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else {
                break;
            };
            state.live.remove(&oldest);
        }
        state.live.insert(id.hash(), Session { used: now, token });
        Ok(id)
    }

    /// Whether these cookies name a session that lives; it lives on from now.
    pub(super) fn touch(
        &self,
        headers: &HeaderMap,
        token: Option<AdminToken>,
        now: UnixTime,
    ) -> bool {
        let mut state = self.state();
        for hash in named_by(headers) {
            if let Some(session) = state.live.get_mut(&hash) {
                if !session.is_over(now) && token == Some(session.token) {
                    session.used = now;
                    return true;
                }
                state.live.remove(&hash);
            }
        }
        false
    }

    /// Ends what these cookies name.
    fn end(&self, headers: &HeaderMap) {
        let mut state = self.state();
        for hash in named_by(headers) {
            state.live.remove(&hash);
        }
    }

    fn make_link(&self, now: UnixTime) -> Result<Code, getrandom::Error> {
        let code = Code::make(getrandom::fill)?;
        self.state().link = Some(Link {
            hash: blake3::Hash::from_bytes(*code.hash().as_bytes()),
            ends: now.plus(LINK_SECONDS),
        });
        Ok(code)
    }

    /// Whether the link is this one, still; it never is again.
    fn take_link(&self, code: &str, now: UnixTime) -> bool {
        let shown = blake3::Hash::from_bytes(*TokenHash::of(code.as_bytes()).as_bytes());
        let taken = self.state().link.take_if(|link| link.hash == shown);
        taken.is_some_and(|link| now < link.ends)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_over(&self, now: UnixTime) -> bool {
        self.used.plus(IDLE_SECONDS) <= now
    }
}

/// A code that signs in once, within ten minutes; a later one takes its place.
///
/// # Errors
/// Where the system gives no random bytes.
pub fn one_time_link(services: &Services, now: UnixTime) -> Result<Code, getrandom::Error> {
    services.memory.sessions.make_link(now)
}

/// Every id that the cookies name: pages on other ports of this machine can set one of the same name beside ours.
fn named_by(headers: &HeaderMap) -> impl Iterator<Item = TokenHash> {
    let lines = headers.get_all(COOKIE).iter();
    let cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, value)| *name == COOKIE_NAME && value.len() == Code::LENGTH)
        .map(|(_, value)| TokenHash::of(value.as_bytes()))
}

/// Whether a call that a session's cookie came with was made by the panel's own code. No form and no page elsewhere
/// can send such a header without being asked for permission first, which nobody gives.
pub(super) fn is_asked_by_panel(method: &Method, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD) {
        return true;
    }
    let mut lines = headers.get_all("x-keygate-panel").iter();
    let is_marked = lines.next().is_some_and(|value| value == "1") && lines.next().is_none();
    is_marked
        && headers.contains_key(CONTENT_TYPE)
        && model::is_json(request_head::content_type(headers))
}

#[derive(Serialize)]
struct View<'s> {
    client_address: Option<String>,
    url: &'s str,
    version: &'static str,
}

/// POST /api/session
pub(super) async fn sign_in(
    services: &Services,
    caller: Caller,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixTime,
) -> Result<Reply, Refusal> {
    let mut fields = Object::of(body)?;
    let (token, link) = (fields.text("token")?, fields.text("link")?);
    fields.finish()?;
    let (way, is_right, refusal) = match (token, link) {
        (Some(token), None) => {
            let is_right = services.token.is_some_and(|known| known.admits(&token));
            ("token", is_right, Refusal::WrongToken)
        }
        (None, Some(link)) => {
            let is_right = services.memory.sessions.take_link(&link, now);
            ("link", is_right, Refusal::WrongLink)
        }
        (None, None) => return Err(Refusal::invalid("token", "is missing; add it")),
        (Some(_), Some(_)) => {
            let message = "comes beside token; send one of the two";
            return Err(Refusal::invalid("link", message));
        }
    };
    let who = who(services, caller, headers);
    let line = |event: Event, result| {
        event
            .with("action", "sign_in")
            .with("who", who.as_str())
            .with("with", way)
            .with("result", result)
    };
    let Some(token) = services.token.filter(|_| is_right) else {
        let refused = |count| line(Event::warn("change"), refusal.label()).with("count", count);
        access::slow_down(services, refused).await;
        return Err(refusal);
    };
    let id = services.memory.sessions.begin(token, now);
    let id = id.map_err(|_| Refusal::Internal)?;
    // Whoever held the id from before the sign-in holds nothing now.
    services.memory.sessions.end(headers);
    services.log.event(line(Event::info("change"), "ok"));
    let cookie = cookie(id.reveal(), "", is_over_tls(services, headers))?;
    Ok(show(services, caller, headers).with(SET_COOKIE, cookie))
}

/// GET /api/session
pub(super) fn show(services: &Services, caller: Caller, headers: &HeaderMap) -> Reply {
    Reply::json(&View {
        client_address: match client(services, caller, headers) {
            ClientAddress::Known(address) => Some(address.to_string()),
            ClientAddress::Unknown => None,
        },
        url: &services.url,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// DELETE /api/session
pub(super) fn sign_out(
    services: &Services,
    who: &str,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    services.memory.sessions.end(headers);
    let event = Event::info("change").with("action", "sign_out");
    services
        .log
        .event(event.with("who", who).with("result", "ok"));
    let cookie = cookie("", "; Max-Age=0", is_over_tls(services, headers))?;
    Ok(Reply::done().with(SET_COOKIE, cookie))
}

/// How change lines name whoever calls through the panel.
pub(super) fn who(services: &Services, caller: Caller, headers: &HeaderMap) -> String {
    match caller {
        Caller::Socket { .. } => caller.to_string(),
        Caller::Network { .. } => format!("panel from {}", client(services, caller, headers)),
    }
}

/// Where a caller is, as the gateway would judge a key's request from there.
fn client(services: &Services, caller: Caller, headers: &HeaderMap) -> ClientAddress {
    let peer = match caller {
        Caller::Socket { .. } => None,
        Caller::Network { peer, .. } => Some(peer.ip()),
    };
    let lines = headers.get_all("x-forwarded-for").iter();
    let forwarded_for: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    client_address(
        &services.config.client_address,
        peer,
        forwarded_for.into_iter(),
    )
}

/// Whether the page came over TLS: this listener's, or that of a proxy before it, which the page's origin tells.
fn is_over_tls(services: &Services, headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
    services.config.admin.tls || origin.is_some_and(|origin| origin.starts_with(b"https://"))
}

fn cookie(value: &str, end: &str, is_over_tls: bool) -> Result<HeaderValue, Refusal> {
    let secure = if is_over_tls { "; Secure" } else { "" };
    let text = format!("{COOKIE_NAME}={value}; HttpOnly; SameSite=Strict; Path=/{end}{secure}");
    let mut cookie = HeaderValue::try_from(text).map_err(|_| Refusal::Internal)?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn token(text: &str) -> AdminToken {
        AdminToken::of(text).unwrap()
    }

    fn shown(cookies: &[&str]) -> HeaderMap {
        let cookies = cookies.iter();
        let line = |cookie: &&str| (COOKIE, HeaderValue::from_str(cookie).unwrap());
        cookies.map(line).collect()
    }

    fn held(id: &Code) -> HeaderMap {
        shown(&[&format!("{COOKIE_NAME}={}", id.reveal())])
    }

    #[test]
    fn a_session_ends_after_twelve_hours_without_a_call() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let headers = held(&sessions.begin(token, at(0)).unwrap());
        for now in [12 * HOUR - 1, 24 * HOUR - 2, 36 * HOUR - 3] {
            assert!(sessions.touch(&headers, Some(token), at(now)), "{now}");
        }
        assert!(!sessions.touch(&headers, Some(token), at(48 * HOUR - 3)));
        assert!(
            !sessions.touch(&headers, Some(token), at(36 * HOUR)),
            "what ended does not come back with an older clock"
        );
        assert!(sessions.state().live.is_empty());
    }

    #[test]
    fn a_session_ends_where_the_admin_token_becomes_another() {
        let sessions = Sessions::default();
        let headers = held(&sessions.begin(token("t"), at(0)).unwrap());
        assert!(sessions.touch(&headers, Some(token("t")), at(1)));
        assert!(!sessions.touch(&headers, Some(token("u")), at(2)));
        assert!(!sessions.touch(&headers, Some(token("t")), at(3)));
        let headers = held(&sessions.begin(token("t"), at(4)).unwrap());
        assert!(!sessions.touch(&headers, None, at(5)));
    }

    #[test]
    fn one_session_too_many_ends_the_one_that_was_idle_longest() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let ids: Vec<Code> = (0..64)
            .map(|now| sessions.begin(token, at(now)).unwrap())
            .collect();
        let is_live = |at_: usize, now| sessions.touch(&held(&ids[at_]), Some(token), at(now));
        assert!(is_live(0, 100));
        let last = sessions.begin(token, at(101)).unwrap();
        assert!(!is_live(1, 102));
        assert!(is_live(0, 102) && is_live(2, 102));
        assert!(sessions.touch(&held(&last), Some(token), at(102)));
        assert_eq!(sessions.state().live.len(), 64);
    }

    #[test]
    fn a_cookie_is_found_among_others_of_any_name_and_its_own() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let id = sessions.begin(token, at(0)).unwrap();
        let id = id.reveal();
        let other = "x".repeat(43);
        for cookies in [
            &[format!("a=b; keygate_session={id}")][..],
            &[format!("keygate_session={id};a=b")],
            &[
                format!("keygate_session={other}"),
                format!("keygate_session={id}"),
            ],
            &[format!(
                "keygate_session=; keygate_session={other}; keygate_session={id}"
            )],
        ] {
            let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
            assert!(
                sessions.touch(&shown(&cookies), Some(token), at(1)),
                "{cookies:?}"
            );
        }
        for cookie in [
            format!("Keygate_Session={id}"),
            format!("xkeygate_session={id}"),
            format!("keygate_session={id}x"),
            format!("keygate_session=\"{id}\""),
            format!("keygate_session={}", &id[..42]),
            format!("keygate_session={other}"),
            id.to_owned(),
            "keygate_session=".to_owned(),
        ] {
            assert!(
                !sessions.touch(&shown(&[&cookie]), Some(token), at(1)),
                "{cookie}"
            );
        }
    }

    #[test]
    fn a_link_signs_in_once_and_within_ten_minutes() {
        let sessions = Sessions::default();
        assert!(!sessions.take_link("", at(0)));
        let link = sessions.make_link(at(0)).unwrap();
        assert!(!sessions.take_link("wrong", at(1)));
        assert!(
            sessions.take_link(link.reveal(), at(599)),
            "a wrong one takes nothing away"
        );
        assert!(!sessions.take_link(link.reveal(), at(599)));
        let late = sessions.make_link(at(0)).unwrap();
        assert!(!sessions.take_link(late.reveal(), at(600)));
        let (older, newer) = (
            sessions.make_link(at(0)).unwrap(),
            sessions.make_link(at(0)).unwrap(),
        );
        assert!(!sessions.take_link(older.reveal(), at(1)));
        assert!(sessions.take_link(newer.reveal(), at(1)));
    }
}
