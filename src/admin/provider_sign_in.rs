//! How a person comes in by the company's identity provider: the browser goes there, comes back with a code, and the page
//! exchanges a code of this gateway for a session.
//!
//! Only the browser that began a sign-in ends it: it holds a cookie for it. The cookie is SameSite=Lax, since the provider
//! sends the browser here from its own page; the session's cookie stays Strict. Nobody comes in without an invitation: by
//! a link, by one that names an address which the provider has verified, by a claim, or as an operator of the config.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{COOKIE, HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use zeroize::Zeroizing;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::panel_url::panel_url;
use crate::admin::person_session::{self, random_id};
use crate::admin::response::ApiResponse;
use crate::admin::session_codes::is_over_tls;
use crate::admin::sign_in::{self, Admitted, SignInClient};
use crate::admin::usage::ask;
use crate::observe::log::Event;
use crate::oidc::{CallbackAnswer, OidcError, OidcIdentity, Pending, ProviderToken};
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::auto_invite;
use crate::policy::person::{PersonId, Role};
use crate::policy::time::UnixTime;
use crate::policy::token::{Code, TokenHash};
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::{IfNotWritten, NewInvitation, NewPerson, PersonIdentity};

const COOKIE_NAME: &str = "keygate_sign_in";
const TLS_COOKIE_NAME: &str = "__Host-keygate_sign_in";
/// The most sign-ins that are under way at once; a further one takes the place of the oldest.
const MOST_PENDING: usize = 10_000;
/// The most sessions whose ID tokens are kept for their sign-out.
const MOST_ID_TOKENS: usize = 10_000;
/// The page exchanges its code within this time, in seconds.
const ARRIVAL_SECONDS: i64 = 60;
/// Where the browser comes back to.
const CALLBACK_PATH: &str = "/api/sign-in/callback";

/// Sign-ins that are under way, by the hashes of their cookies, and ID tokens of sessions, by the ids of these.
#[derive(Default)]
pub(super) struct ProviderSignIns {
    under_way: Mutex<HashMap<TokenHash, UnderWay>>,
    id_tokens: Mutex<HashMap<String, ProviderToken>>,
}

struct UnderWay {
    made_at: i64,
    step: SignInStep,
}

enum SignInStep {
    /// The browser is at the provider.
    Away {
        pending: Pending,
        /// The code of the invitation that it came with.
        invitation: Option<Zeroizing<String>>,
    },
    /// It is back, and its page has this code to exchange.
    Back {
        code: blake3::Hash,
        arrival: Arrival,
    },
}

/// A person who has come back from the provider and may have a session.
pub(super) struct Arrival {
    person: PersonId,
    name: String,
    id_token: ProviderToken,
}

impl ProviderSignIns {
    fn under_way(&self) -> MutexGuard<'_, HashMap<TokenHash, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn id_tokens(&self) -> MutexGuard<'_, HashMap<String, ProviderToken>> {
        self.id_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, cookie: TokenHash, step: SignInStep, now: UnixTime) {
        let mut under_way = self.under_way();
        while under_way.len() >= MOST_PENDING {
            let oldest = under_way.iter().min_by_key(|(_, one)| one.made_at);
            let Some(oldest) = oldest.map(|(cookie, _)| *cookie) else {
                break;
            };
            under_way.remove(&oldest);
        }
        let made_at = now.seconds();
        under_way.insert(cookie, UnderWay { made_at, step });
    }

    /// The sign-in of this browser, which is used up by that.
    fn take_away(
        &self,
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Option<(TokenHash, Pending, Option<Zeroizing<String>>)> {
        let mut under_way = self.under_way();
        under_way.retain(|_, one| match &one.step {
            SignInStep::Away { pending, .. } => pending.is_alive(now),
            SignInStep::Back { .. } => {
                (0..ARRIVAL_SECONDS).contains(&(now.seconds() - one.made_at))
            }
        });
        for cookie in named_by(headers) {
            if let Some(UnderWay {
                step: SignInStep::Away { .. },
                ..
            }) = under_way.get(&cookie)
                && let Some(UnderWay {
                    step:
                        SignInStep::Away {
                            pending,
                            invitation,
                        },
                    ..
                }) = under_way.remove(&cookie)
            {
                return Some((cookie, pending, invitation));
            }
        }
        None
    }

    /// Who has come back in this browser, if the page has the right code. The code is used up by that.
    pub(super) fn arrive(&self, headers: &HeaderMap, code: &str, now: UnixTime) -> Option<Arrival> {
        let shown = blake3::hash(code.as_bytes());
        let mut under_way = self.under_way();
        for cookie in named_by(headers) {
            let is_right = match under_way.get(&cookie) {
                Some(UnderWay {
                    made_at,
                    step: SignInStep::Back { code, .. },
                }) => {
                    // A blake3 hash compares in constant time.
                    *code == shown && (0..ARRIVAL_SECONDS).contains(&(now.seconds() - made_at))
                }
                _ => false,
            };
            if is_right
                && let Some(UnderWay {
                    step: SignInStep::Back { arrival, .. },
                    ..
                }) = under_way.remove(&cookie)
            {
                return Some(arrival);
            }
        }
        None
    }

    /// Keeps what the provider is shown when this session ends.
    pub(super) fn keep_id_token(&self, session: String, token: ProviderToken) {
        let mut tokens = self.id_tokens();
        // Nobody misses one of so many: its person signs out here alone.
        if tokens.len() < MOST_ID_TOKENS {
            tokens.insert(session, token);
        }
    }

    /// What the provider is shown now that this session ends.
    pub(super) fn take_id_token(&self, session: &str) -> Option<ProviderToken> {
        self.id_tokens().remove(session)
    }
}

impl Arrival {
    /// Who may have a session, and the ID token for its end.
    pub(super) fn admitted(self) -> (Admitted, ProviderToken) {
        let Self {
            person,
            name,
            id_token,
        } = self;
        (
            Admitted {
                person,
                email: name,
            },
            id_token,
        )
    }
}

/// GET /api/sign-in/oidc: sends the browser to the provider.
pub(super) async fn begin(
    services: &Services,
    headers: &HeaderMap,
    query: &Query,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let provider = services.provider.as_ref().ok_or(ApiError::UnknownPath)?;
    let redirect_uri = redirect_uri(services).ok_or(ApiError::NoPanel)?;
    let invitation = query.parameter("invitation")?;
    let invitation = invitation.map(|code| Zeroizing::new(code.to_owned()));
    let begun = match provider.begin(&redirect_uri, now).await {
        Ok(begun) => begun,
        Err(error) => return back_to_panel(&failed(services, None, &error)),
    };
    let cookie = Code::make(getrandom::fill).map_err(|_| ApiError::Internal)?;
    let step = SignInStep::Away {
        pending: begun.pending,
        invitation,
    };
    services
        .state
        .provider_sign_ins
        .keep(cookie.hash(), step, now);
    let set = set_cookie(
        cookie.reveal(),
        "; Max-Age=600",
        is_over_tls(services, headers),
    )?;
    Ok(redirect(&begun.url)?.with(SET_COOKIE, set))
}

/// GET /api/sign-in/callback: the browser comes back. Whoever may come in gets a code for the page; everybody else the
/// reason.
pub(super) async fn come_back(
    services: &Services,
    client: SignInClient<'_>,
    query: &Query,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let provider = services.provider.as_ref().ok_or(ApiError::UnknownPath)?;
    let sign_ins = &services.state.provider_sign_ins;
    let Some((cookie, pending, invitation)) = sign_ins.take_away(client.headers, now) else {
        return back_to_panel("#sign-in-error=not_begun_here");
    };
    let text = |name| Ok::<_, ApiError>(query.parameter(name)?.map(str::to_owned));
    let answer = CallbackAnswer {
        code: text("code")?.map(Zeroizing::new),
        state: text("state")?,
        iss: text("iss")?,
        error: text("error")?,
    };
    let identity = match provider.finish(pending, answer, now).await {
        Ok(identity) => identity,
        Err(error) => return back_to_panel(&failed(services, Some(client.origin), &error)),
    };
    let admitted = admit(services, client.origin, &identity, invitation, now).await;
    let (person, name) = match admitted {
        Ok(admitted) => admitted,
        Err(error @ (ApiError::NotInvited | ApiError::InNoAccount)) => {
            sign_in::refused(services, client.origin, "oidc", &error).await;
            return back_to_panel(&format!("#sign-in-error={}", error.label()));
        }
        Err(error) => return Err(error),
    };
    let code = Code::make(getrandom::fill).map_err(|_| ApiError::Internal)?;
    let fragment = format!("#link={}", code.reveal());
    let step = SignInStep::Back {
        code: blake3::hash(code.reveal().as_bytes()),
        arrival: Arrival {
            person,
            name,
            id_token: identity.id_token,
        },
    };
    sign_ins.keep(cookie, step, now);
    back_to_panel(&fragment)
}

/// Whether the person whom the provider has identified may come in, and who that is. Brings the person's roles up to date.
async fn admit(
    services: &Services,
    origin: &ChangeOrigin,
    identity: &OidcIdentity,
    invitation: Option<Zeroizing<String>>,
    now: UnixTime,
) -> Result<(PersonId, String), ApiError> {
    let config = &services.config.sign_in;
    let rules = config
        .oidc
        .as_ref()
        .map_or(&[][..], |oidc| &oidc.auto_invite);
    let by_claim: Vec<(String, Role)> = auto_invite::matching(rules, &identity.claims)
        .into_iter()
        .map(|(account, role)| (account.as_str().to_owned(), role))
        .filter(|(account, _)| services.table.account(account).is_some())
        .collect();
    let who = PersonIdentity::Provider {
        issuer: identity.issuer.clone(),
        subject: identity.subject.clone(),
    };
    let wanted = who.clone();
    let known = ask(services, move |database| database.person(&wanted)).await?;
    let codes = invitations(services, identity, invitation, now).await?;
    let is_operator = identity.is_among(&config.operators);
    if known.is_none() && by_claim.is_empty() && codes.is_empty() && !is_operator {
        return Err(ApiError::NotInvited);
    }
    let id = match known {
        Some((person, _)) => person.id,
        None => PersonId::parse(&random_id("per_")?).map_err(|_| ApiError::Internal)?,
    };
    let new = NewPerson {
        id: id.clone(),
        identity: who,
        email: identity.verified_email().cloned(),
        name: identity.name.clone(),
        password: None,
    };
    let origin = ChangeOrigin {
        actor: new
            .email
            .as_ref()
            .map_or_else(|| id.as_str().to_owned(), |email| email.as_str().to_owned()),
        ..origin.clone()
    };
    for invitation in codes {
        sign_in::accept(
            services,
            &origin,
            &invitation.invitation,
            new.clone(),
            &invitation.hash,
            now,
        )
        .await?;
    }
    let lost = note(services, new, by_claim, now).await?;
    tell_lost(services, &origin, &id, lost).await;
    let person = id.clone();
    let memberships = ask(services, move |database| database.memberships(&person)).await?;
    if person_session::roles(services, memberships).is_empty() && !is_operator {
        let person = id.clone();
        ask(services, move |database| database.end_sessions_of(&person)).await?;
        return Err(ApiError::InNoAccount);
    }
    Ok((id, origin.actor))
}

/// The open invitations that are this person's: those that name an address which the provider has verified. A link for
/// another address is not.
async fn invitations(
    services: &Services,
    identity: &OidcIdentity,
    link: Option<Zeroizing<String>>,
    now: UnixTime,
) -> Result<Vec<NewInvitation>, ApiError> {
    let Some(email) = identity.verified_email().cloned() else {
        return match link {
            None => Ok(Vec::new()),
            Some(_) => Err(ApiError::NotInvited),
        };
    };
    let wanted = email.as_str().to_owned();
    let open = ask(services, move |database| {
        database.invitations_for(&wanted, now.seconds())
    });
    let open = open.await?;
    if let Some(link) = link {
        let hash = TokenHash::of(link.as_bytes()).to_string();
        if !open.iter().any(|invitation| invitation.hash == hash) {
            return Err(ApiError::NotInvited);
        }
    }
    let in_force = |new: &NewInvitation| {
        let account = services.table.account(&new.invitation.account);
        account.is_some_and(|account| !account.disabled)
    };
    Ok(open.into_iter().filter(in_force).collect())
}

/// Writes down who has signed in with which roles by claims. Returns the roles that are gone by that.
async fn note(
    services: &Services,
    person: NewPerson,
    by_claim: Vec<(String, Role)>,
    now: UnixTime,
) -> Result<Vec<(String, Role)>, ApiError> {
    ask(services, move |database| {
        let before = database.memberships(&person.id)?;
        database.note_provider_sign_in(&person, &by_claim, now.seconds())?;
        let gone = before.into_iter().filter(|before| {
            before.by_claim
                && !by_claim
                    .iter()
                    .any(|(account, _)| *account == before.account)
        });
        Ok(gone.map(|gone| (gone.account, gone.role)).collect())
    })
    .await
}

/// Tells the owners of accounts whose member somebody is no longer: in the account's activity, and in the log.
async fn tell_lost(
    services: &Services,
    origin: &ChangeOrigin,
    person: &PersonId,
    lost: Vec<(String, Role)>,
) {
    for (account, role) in lost {
        let before = json!({"role": role.label()}).to_string();
        let row = AuditEntry {
            target: Some(person.as_str().to_owned()),
            account: Some(account.clone()),
            before: Some(before),
            ..entry(AuditAction::LoseMember, origin.clone(), None)
        };
        let trail = AuditTrail::of(services.database.clone());
        // It takes access away, so that it is in force in any case.
        let _ = trail.record(row, IfNotWritten::Wait).await;
        let event = Event::warn("change")
            .with("action", AuditAction::LoseMember.label())
            .with("account", account)
            .with("target", person.as_str().to_owned())
            .with("actor", origin.actor.clone());
        services.log.event(event);
    }
}

/// DELETE /api/session: where the browser goes to sign out of the provider too.
pub(super) async fn end_session_url(
    services: &Services,
    session: &str,
    now: UnixTime,
) -> Option<String> {
    let token = services.state.provider_sign_ins.take_id_token(session)?;
    let provider = services.provider.as_ref()?;
    let panel = panel_url(services)?;
    provider
        .end_session_url(&token, &format!("{panel}/"), now)
        .await
}

/// Logs why nobody has signed in; the fragment that tells the page.
fn failed(services: &Services, origin: Option<&ChangeOrigin>, error: &OidcError) -> String {
    let event = Event::warn("sign_in")
        .with("with", "oidc")
        .with("result", error.label())
        .with("reason", error.to_string())
        .with("address", origin.and_then(|origin| origin.address.clone()));
    services.log.event(event);
    services.metrics.sign_in("oidc", error.label());
    format!("#sign-in-error={}", error.label())
}

/// Where the browser comes back to, as it is registered at the provider.
fn redirect_uri(services: &Services) -> Option<String> {
    Some(format!("{}{CALLBACK_PATH}", panel_url(services)?))
}

/// Sends the browser to the panel. `fragment` is sent to nobody.
fn back_to_panel(fragment: &str) -> Result<ApiResponse, ApiError> {
    redirect(&format!("/{fragment}"))
}

fn redirect(url: &str) -> Result<ApiResponse, ApiError> {
    let location = HeaderValue::try_from(url).map_err(|_| ApiError::Internal)?;
    Ok(ApiResponse::empty(StatusCode::SEE_OTHER).with(LOCATION, location))
}

fn set_cookie(value: &str, end: &str, is_over_tls: bool) -> Result<HeaderValue, ApiError> {
    let (name, secure) = match is_over_tls {
        true => (TLS_COOKIE_NAME, "; Secure"),
        false => (COOKIE_NAME, ""),
    };
    // Lax: the provider's page sends the browser here.
    let text = format!("{name}={value}; HttpOnly; SameSite=Lax; Path=/{end}{secure}");
    let mut cookie = HeaderValue::try_from(text).map_err(|_| ApiError::Internal)?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

/// The hashes of the sign-ins that these cookies name.
fn named_by(headers: &HeaderMap) -> impl Iterator<Item = TokenHash> {
    let lines = headers.get_all(COOKIE).iter();
    let cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, value)| {
            matches!(*name, COOKIE_NAME | TLS_COOKIE_NAME) && value.len() == Code::LENGTH
        })
        .map(|(_, value)| TokenHash::of(value.as_bytes()))
}
