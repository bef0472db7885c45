//! The panel's sessions. A client signs in once with the admin token or a sign-in link, and then sends a cookie and a
//! secret instead.
//!
//! A session ends on sign-out, after [`IDLE_SECONDS`] without a call, with the process, or when the admin token changes.
//! Only the hashes of its id and its secret are stored. Every sign-in makes new ones. Browsers send cookies on their own,
//! to and from every port of a host. The secret is kept by the page, so that only pages of its origin have it; every call
//! needs it, in the header `x-keygate-session`. A change must pass [`is_sent_by_panel`] too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin::cookie::{SESSION, Scheme};
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::panel_url::panel_url;
use crate::admin::principal::{Principal, SignedIn};
use crate::admin::request_head;
use crate::admin::response::ApiResponse;
use crate::admin::session_codes::{SessionCodes, SessionProof, hash_of, named_by, secret_of};
use crate::admin::sign_in::{Admitted, SignInClient};
use crate::admin::throttle::delay_response;
use crate::admin::token::AdminToken;
use crate::admin::{
    Peer, Services, change, known_device, person_session, provider_sign_in, sign_in,
};
use crate::observe::log::Event;
use crate::oidc::ProviderToken;
use crate::policy::audit::{AuditAction, ChangeOrigin, ChangeVia};
use crate::policy::network::ClientAddress;
use crate::policy::person::Role;
use crate::policy::time::UnixTime;
use crate::policy::token::{Code, TokenHash};
use crate::request_body::model;
use crate::runtime::wall_clock::now;
use crate::store::database::IfNotWritten;

/// A session ends after this time without a call.
const IDLE_SECONDS: i64 = 12 * 60 * 60;
/// The most sessions at once; a further one ends the session that was idle longest.
const MOST_SESSIONS: usize = 64;
/// A sign-in link is valid for this time.
const LINK_SECONDS: i64 = 5 * 60;
/// The most valid links at once; a further one replaces the oldest.
const MOST_LINKS: usize = 16;

/// All sessions and sign-in links.
#[derive(Default)]
pub(super) struct Sessions(Mutex<SessionTable>);

#[derive(Default)]
struct SessionTable {
    live: HashMap<TokenHash, Session>,
    /// Oldest first.
    links: Vec<SignInLink>,
}

struct Session {
    used: UnixTime,
    /// The hash of the secret. A blake3 hash compares in constant time.
    secret: blake3::Hash,
    /// The admin token when the session began.
    token: AdminToken,
}

struct SignInLink {
    /// A blake3 hash compares in constant time.
    hash: blake3::Hash,
    ends: UnixTime,
}

impl Sessions {
    /// Begins a session.
    fn begin(&self, token: AdminToken, now: UnixTime) -> Result<SessionCodes, getrandom::Error> {
        let codes = SessionCodes::make()?;
        let mut state = self.state();
        state.live.retain(|_, session| !session.is_over(now));
        while state.live.len() >= MOST_SESSIONS {
            let oldest = state.live.iter().min_by_key(|(_, session)| session.used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else {
                break;
            };
            state.live.remove(&oldest);
        }
        let session = Session {
            used: now,
            secret: hash_of(&codes.secret),
            token,
        };
        state.live.insert(codes.id.hash(), session);
        Ok(codes)
    }

    /// What these headers show of a valid session. With both cookie and secret, its idle time begins anew.
    pub(super) fn touch(
        &self,
        (headers, scheme): (&HeaderMap, Scheme),
        token: Option<AdminToken>,
        now: UnixTime,
    ) -> SessionProof {
        let secret = secret_of(headers);
        let mut found = SessionProof::None;
        let mut state = self.state();
        for hash in named_by(headers, scheme) {
            if let Some(session) = state.live.get_mut(&hash) {
                if session.is_over(now) || token != Some(session.token) {
                    state.live.remove(&hash);
                } else if secret == Some(session.secret) {
                    session.used = now;
                    return SessionProof::Whole;
                } else {
                    found = SessionProof::CookieAlone;
                }
            }
        }
        found
    }

    /// Ends the sessions that these cookies name.
    fn end(&self, headers: &HeaderMap, scheme: Scheme) {
        let mut state = self.state();
        for hash in named_by(headers, scheme) {
            state.live.remove(&hash);
        }
    }

    fn make_link(&self, now: UnixTime) -> Result<Code, getrandom::Error> {
        let code = Code::make(getrandom::fill)?;
        let mut state = self.state();
        state.links.retain(|link| now < link.ends);
        if state.links.len() >= MOST_LINKS {
            state.links.remove(0);
        }
        state.links.push(SignInLink {
            hash: hash_of(&code),
            ends: now.plus(LINK_SECONDS),
        });
        Ok(code)
    }

    /// Whether the code is that of a valid link. The link is used up then.
    fn take_link(&self, code: &str, now: UnixTime) -> bool {
        let shown = blake3::hash(code.as_bytes());
        let links = &mut self.state().links;
        let taken = links.iter().position(|link| link.hash == shown);
        taken.is_some_and(|at| now < links.remove(at).ends)
    }

    fn state(&self) -> MutexGuard<'_, SessionTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_over(&self, now: UnixTime) -> bool {
        self.used.plus(IDLE_SECONDS) <= now
    }
}

/// A link to the panel that signs in once, within five minutes. The code is in the URL's fragment, which browsers send to
/// nobody.
#[derive(Serialize)]
pub(crate) struct PanelLink {
    /// The URL.
    pub(crate) link: String,
    expires_at: String,
}

/// Makes a link to the panel; None if the admin API does not listen over TCP.
///
/// # Errors
/// The system provides no random bytes.
pub(crate) fn panel_link(
    services: &Services,
    now: UnixTime,
) -> Result<Option<PanelLink>, getrandom::Error> {
    let Some(url) = panel_url(services) else {
        return Ok(None);
    };
    let code = services.state.sessions.make_link(now)?;
    Ok(Some(PanelLink {
        link: format!("{url}/#link={}", code.reveal()),
        expires_at: now.plus(LINK_SECONDS).to_string(),
    }))
}

/// POST /api/session-links, on the socket alone: who may use the socket may read the admin token too.
pub(super) async fn make_link(
    services: &Services,
    peer: Peer,
    origin: ChangeOrigin,
    body: &[u8],
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    if !matches!(peer, Peer::Socket { .. }) {
        return Err(ApiError::UnknownPath);
    }
    JsonObject::of(body)?.finish()?;
    if services.state.address.get().is_none() {
        return Err(ApiError::NoPanel);
    }
    // Before the link is valid: it gives access.
    change::record_done(
        services,
        AuditAction::MakeSignInLink,
        origin,
        IfNotWritten::Refuse,
    )
    .await?;
    let link = panel_link(services, now).map_err(|_| ApiError::Internal)?;
    let link = link.ok_or(ApiError::NoPanel)?;
    Ok(ApiResponse::created(&link))
}

/// Whether the panel's own code sent a call that has a session's cookie. A page of another origin cannot send this header
/// without a CORS preflight, which is never granted.
pub(super) fn is_sent_by_panel(method: &Method, headers: &HeaderMap) -> bool {
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
    principal: Value,
    /// Of a person.
    accounts: Vec<Value>,
    /// At sign-in alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'s str>,
}

/// POST /api/session
pub(super) async fn sign_in(
    services: &Services,
    peer: Peer,
    (headers, request_id): (&HeaderMap, &str),
    body: &[u8],
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let mut fields = JsonObject::of(body)?;
    let (token, link) = (fields.text("token")?, fields.text("link")?);
    let (email, invitation) = (fields.text("email")?, fields.text("invitation")?);
    let password = fields.text("password")?.map(Zeroizing::new);
    fields.finish()?;
    let scheme = Scheme::of(services, headers);
    let mut origin = change::unknown(services, peer, headers, ChangeVia::Panel, request_id);
    let client = SignInClient {
        peer,
        headers,
        origin: &origin,
    };
    let (way, is_right, error) = match (token, link, email, invitation, password) {
        (Some(token), None, None, None, None) => {
            let is_right = services.token.is_some_and(|known| known.admits(&token));
            ("token", is_right, ApiError::WrongToken)
        }
        (None, Some(link), None, None, None) => {
            let sign_ins = &services.state.provider_sign_ins;
            if let Some(arrival) =
                sign_ins.arrive((headers, provider_sign_in::scheme(services)), &link, now)
            {
                let (admitted, id_token) = arrival.admitted();
                let admitted = (Ok(admitted), Some(id_token));
                return begin_for_person(services, client, admitted, "oidc", now).await;
            }
            let is_right = services.state.sessions.take_link(&link, now);
            ("link", is_right, ApiError::WrongLink)
        }
        (None, None, Some(email), None, Some(password)) => {
            let admitted = sign_in::by_password(services, client, (&email, password), now).await;
            return begin_for_person(services, client, (admitted, None), "password", now).await;
        }
        (None, None, None, Some(code), Some(password)) => {
            let admitted = sign_in::by_invitation(services, client, (&code, password), now).await;
            return begin_for_person(services, client, (admitted, None), "invitation", now).await;
        }
        (None, None, Some(_), None, None) | (None, None, None, Some(_), None) => {
            return Err(ApiError::invalid("password", "is missing; add it"));
        }
        (None, None, None, None, _) => {
            return Err(ApiError::invalid("token", "is missing; add it"));
        }
        (_, link, email, invitation, _) => {
            // The last of them, in the order in which they stand here.
            let field = match (link, email, invitation) {
                (_, _, Some(_)) => "invitation",
                (_, Some(_), None) => "email",
                (Some(_), None, None) => "link",
                (None, None, None) => "password",
            };
            let message = "comes beside another way to sign in; send one of them";
            return Err(ApiError::invalid(field, message));
        }
    };
    let line = |event: Event, origin: &ChangeOrigin, result| {
        change::with_origin(event, origin)
            .with("action", "sign_in")
            .with("with", way)
            .with("result", result)
    };
    let Some(token) = services.token.filter(|_| is_right) else {
        change::record_failed_sign_in(services, origin.clone(), way).await;
        services.metrics.sign_in(way, error.label());
        let refused =
            |count| line(Event::warn("change"), &origin, error.label()).with("count", count);
        delay_response(services, refused).await;
        return Err(error);
    };
    if let ChangeVia::Panel = origin.via {
        origin.actor = change::OPERATOR.to_owned();
    }
    // Before the session begins: it gives access.
    let mark = change::record_sign_in(services, origin.clone(), way).await?;
    let codes = services.state.sessions.begin(token, now);
    let SessionCodes { id, secret } = codes.map_err(|_| ApiError::Internal)?;
    // Prevents session fixation: an id from before the sign-in is no longer valid.
    services.state.sessions.end(headers, scheme);
    person_session::end(services, (headers, scheme)).await?;
    services.metrics.sign_in(way, "ok");
    let event = line(Event::info("change"), &origin, "ok");
    services.log.event(change::with_mark(event, mark.as_ref()));
    let cookie = SESSION.set(id.reveal(), "", scheme)?;
    let view = View {
        secret: Some(secret.reveal()),
        ..view(services, peer, headers, &Principal::operator())
    };
    Ok(ApiResponse::json(&view).with(SET_COOKIE, cookie))
}

/// Begins the session of a person who was let in, or answers why not.
async fn begin_for_person(
    services: &Services,
    client: SignInClient<'_>,
    (admitted, id_token): (Result<Admitted, ApiError>, Option<ProviderToken>),
    way: &'static str,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let SignInClient {
        peer,
        headers,
        origin,
    } = client;
    let scheme = Scheme::of(services, headers);
    let Admitted {
        person,
        email,
        password,
        known_by,
    } = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            if error.is_wrong_sign_in() {
                sign_in::refused(services, origin, way, &error).await;
            }
            return Err(error);
        }
    };
    let origin = ChangeOrigin {
        actor: email,
        ..origin.clone()
    };
    // Before the session begins: it gives access.
    let mark = change::record_sign_in(services, origin.clone(), way).await?;
    let codes = person_session::begin(services, peer, headers, (person, password), now).await?;
    // Prevents session fixation: an id from before the sign-in is no longer valid.
    services.state.sessions.end(headers, scheme);
    person_session::end(services, (headers, scheme)).await?;
    services.metrics.sign_in(way, "ok");
    let event = change::with_origin(Event::info("change"), &origin)
        .with("action", "sign_in")
        .with("with", way)
        .with("result", "ok");
    services.log.event(change::with_mark(event, mark.as_ref()));
    let cookie = SESSION.set(codes.id.reveal(), "", scheme)?;
    let shown = person_session::shown_by(services, &codes, now).await?;
    let principal = shown.ok_or(ApiError::InNoAccount)?;
    if let (Some(token), Some(signed_in)) = (id_token, principal.signed_in()) {
        let sign_ins = &services.state.provider_sign_ins;
        let times = (now, services.config.sign_in.session);
        sign_ins.keep_id_token(signed_in.session.clone(), token, times);
    }
    let view = View {
        secret: Some(codes.secret.reveal()),
        ..view(services, peer, headers, &principal)
    };
    let response = ApiResponse::json(&view).with(SET_COOKIE, cookie);
    Ok(match known_by {
        Some(stored) => response.and(SET_COOKIE, known_device::set_cookie(&stored, scheme, now)?),
        None => response,
    })
}

/// GET /api/session
pub(super) fn show(
    services: &Services,
    peer: Peer,
    headers: &HeaderMap,
    principal: &Principal,
) -> ApiResponse {
    ApiResponse::json(&view(services, peer, headers, principal))
}

fn view<'s>(
    services: &'s Services,
    peer: Peer,
    headers: &HeaderMap,
    principal: &Principal,
) -> View<'s> {
    let account = |(id, role): &(String, Role)| {
        let rules = services.table.account(id);
        let name = rules.and_then(|rules| rules.name.as_ref().map(|name| name.as_str().to_owned()));
        json!({"id": id, "name": name, "role": role.label()})
    };
    View {
        principal: principal_view(principal),
        accounts: principal
            .roles()
            .into_iter()
            .flatten()
            .map(account)
            .collect(),
        client_address: match change::client(services, peer, headers) {
            ClientAddress::Known(address) => Some(address.to_string()),
            ClientAddress::Unknown => None,
        },
        url: &services.url,
        version: env!("CARGO_PKG_VERSION"),
        secret: None,
    }
}

fn principal_view(principal: &Principal) -> Value {
    let kind = match principal.roles() {
        None => "operator",
        Some(_) => "person",
    };
    match principal.signed_in() {
        None => json!({"kind": kind}),
        Some(SignedIn { person, .. }) => {
            json!({"kind": kind, "id": person.id.as_str(), "email": person.email, "name": person.name})
        }
    }
}

/// DELETE /api/session
pub(super) async fn sign_out(
    services: &Services,
    principal: &Principal,
    origin: ChangeOrigin,
    headers: &HeaderMap,
) -> Result<ApiResponse, ApiError> {
    let scheme = Scheme::of(services, headers);
    services.state.sessions.end(headers, scheme);
    person_session::end(services, (headers, scheme)).await?;
    change::record_done(services, AuditAction::SignOut, origin, IfNotWritten::Wait).await?;
    let cookie = SESSION.set("", "; Max-Age=0", scheme)?;
    let session = principal.signed_in().map(|signed_in| &signed_in.session);
    let elsewhere = match session {
        Some(session) => provider_sign_in::end_session_url(services, session, now()).await,
        None => None,
    };
    let response = match elsewhere {
        Some(url) => ApiResponse::json(&json!({"end_session_url": url})),
        None => ApiResponse::done(),
    };
    Ok(response.with(SET_COOKIE, cookie))
}

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HeaderValue};

    use super::*;
    use crate::admin::session_codes::SECRET_HEADER;

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

    fn held(codes: &SessionCodes) -> HeaderMap {
        let name = SESSION.name(Scheme::Http);
        with_secret(&[&format!("{name}={}", codes.id.reveal())], &codes.secret)
    }

    fn with_secret(cookies: &[&str], secret: &Code) -> HeaderMap {
        let mut headers = shown(cookies);
        let secret = HeaderValue::from_str(secret.reveal()).unwrap();
        headers.insert(SECRET_HEADER, secret);
        headers
    }

    impl Sessions {
        fn admits(&self, headers: &HeaderMap, token: Option<AdminToken>, now: UnixTime) -> bool {
            self.touch((headers, Scheme::Http), token, now) == SessionProof::Whole
        }
    }

    #[test]
    fn a_session_ends_after_twelve_hours_without_a_call() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let headers = held(&sessions.begin(token, at(0)).unwrap());
        for now in [12 * HOUR - 1, 24 * HOUR - 2, 36 * HOUR - 3] {
            assert!(sessions.admits(&headers, Some(token), at(now)), "{now}");
        }
        assert!(!sessions.admits(&headers, Some(token), at(48 * HOUR - 3)));
        assert!(
            !sessions.admits(&headers, Some(token), at(36 * HOUR)),
            "what ended does not come back with an older clock"
        );
        assert!(sessions.state().live.is_empty());
    }

    #[test]
    fn a_session_ends_where_the_admin_token_becomes_another() {
        let sessions = Sessions::default();
        let headers = held(&sessions.begin(token("t"), at(0)).unwrap());
        assert!(sessions.admits(&headers, Some(token("t")), at(1)));
        assert!(!sessions.admits(&headers, Some(token("u")), at(2)));
        assert!(!sessions.admits(&headers, Some(token("t")), at(3)));
        let headers = held(&sessions.begin(token("t"), at(4)).unwrap());
        assert!(!sessions.admits(&headers, None, at(5)));
    }

    #[test]
    fn one_session_too_many_ends_the_one_that_was_idle_longest() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let ids: Vec<SessionCodes> = (0..64)
            .map(|now| sessions.begin(token, at(now)).unwrap())
            .collect();
        let is_live = |at_: usize, now| sessions.admits(&held(&ids[at_]), Some(token), at(now));
        assert!(is_live(0, 100));
        let last = sessions.begin(token, at(101)).unwrap();
        assert!(!is_live(1, 102));
        assert!(is_live(0, 102) && is_live(2, 102));
        assert!(sessions.admits(&held(&last), Some(token), at(102)));
        assert_eq!(sessions.state().live.len(), 64);
    }

    #[test]
    fn a_cookie_is_found_among_others_of_any_name_and_its_own() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let SessionCodes { id, secret } = sessions.begin(token, at(0)).unwrap();
        let id = id.reveal();
        let other = "x".repeat(43);
        for cookies in [
            &[format!("a=b; keygate_session={id}")][..],
            &[format!("keygate_session={id};a=b")],
            &[format!("__Host-keygate_session={id}")],
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
                sessions.admits(&with_secret(&cookies, &secret), Some(token), at(1)),
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
                !sessions.admits(&with_secret(&[&cookie], &secret), Some(token), at(1)),
                "{cookie}"
            );
        }
    }

    #[test]
    fn a_session_needs_its_own_secret_once_and_is_not_kept_alive_without() {
        let (sessions, token) = (Sessions::default(), token("t"));
        let (one, other) = (
            sessions.begin(token, at(0)).unwrap(),
            sessions.begin(token, at(0)).unwrap(),
        );
        let cookie = format!("{}={}", SESSION.name(Scheme::Http), one.id.reveal());
        let mut twice = held(&one);
        twice.append(SECRET_HEADER, twice[SECRET_HEADER].clone());
        let late = at(12 * HOUR - 1);
        for headers in [
            shown(&[&cookie]),
            with_secret(&[&cookie], &other.secret),
            with_secret(&[&cookie], &one.id),
            twice,
        ] {
            let proof = sessions.touch((&headers, Scheme::Http), Some(token), late);
            assert_eq!(proof, SessionProof::CookieAlone);
        }
        let proof = sessions.touch(
            (&with_secret(&[], &one.secret), Scheme::Http),
            Some(token),
            late,
        );
        assert_eq!(proof, SessionProof::None);
        assert!(!sessions.admits(&held(&one), Some(token), at(12 * HOUR)));
    }

    #[test]
    fn a_link_signs_in_once_and_within_five_minutes() {
        let sessions = Sessions::default();
        assert!(!sessions.take_link("", at(0)));
        let link = sessions.make_link(at(0)).unwrap();
        assert!(!sessions.take_link("wrong", at(1)));
        assert!(
            sessions.take_link(link.reveal(), at(299)),
            "a wrong one takes nothing away"
        );
        assert!(!sessions.take_link(link.reveal(), at(299)));
        let late = sessions.make_link(at(0)).unwrap();
        assert!(!sessions.take_link(late.reveal(), at(300)));
        let (older, newer) = (
            sessions.make_link(at(0)).unwrap(),
            sessions.make_link(at(0)).unwrap(),
        );
        assert!(sessions.take_link(older.reveal(), at(1)));
        assert!(sessions.take_link(newer.reveal(), at(1)));
        let links: Vec<Code> = (0..17)
            .map(|_| sessions.make_link(at(2)).unwrap())
            .collect();
        assert!(!sessions.take_link(links[0].reveal(), at(3)));
        assert!(sessions.take_link(links[1].reveal(), at(3)));
    }
}
