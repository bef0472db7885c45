//! How a person comes in by the company's identity provider: the browser goes there, comes back with a code, and the page
//! exchanges a code of this gateway for a session.
//!
//! Only the browser that began a sign-in ends it: it holds a cookie for it. The cookie is SameSite=Lax, since the provider
//! sends the browser here from its own page; the session's cookie stays Strict. Nobody comes in without an invitation: by
//! a link, by one that names an address which the provider has verified, by a claim, or as an operator of the config.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use zeroize::Zeroizing;

use crate::admin::cookie::{PROVIDER_SIGN_IN, Scheme};
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::panel_url::panel_url;
use crate::admin::person_session::{self, random_id};
use crate::admin::response::ApiResponse;
use crate::admin::sign_in::{self, Admitted, SignInClient};
use crate::admin::throttle::delay_response;
use crate::admin::usage::ask;
use crate::admin::{Services, change};
use crate::observe::log::Event;
use crate::oidc::{CallbackAnswer, OidcError, OidcIdentity, Pending, ProviderToken};
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::auto_invite;
use crate::policy::person::{PersonId, Role};
use crate::policy::time::UnixTime;
use crate::policy::token::{Code, TokenHash};
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::{IfNotWritten, NewInvitation, NewPerson, PersonIdentity};

/// The most sign-ins that are under way at once; a further one takes the place of the oldest.
const MOST_PENDING: usize = 10_000;
/// The most of one client, so that nobody pushes out those of others.
const MOST_OF_CLIENT: usize = 64;
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
    id_tokens: Mutex<HashMap<String, (i64, ProviderToken)>>,
}

struct UnderWay {
    made_at: i64,
    /// The client's address, if it is known.
    client: Option<String>,
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

    fn id_tokens(&self) -> MutexGuard<'_, HashMap<String, (i64, ProviderToken)>> {
        self.id_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, cookie: TokenHash, client: Option<String>, step: SignInStep, now: UnixTime) {
        let mut under_way = self.under_way();
        let of_client = under_way.values().filter(|one| one.client == client);
        let is_full = under_way.len() >= MOST_PENDING;
        if of_client.count() >= MOST_OF_CLIENT || is_full {
            let candidates = under_way
                .iter()
                .filter(|(_, one)| is_full || one.client == client);
            let oldest = candidates.min_by_key(|(_, one)| one.made_at);
            if let Some(oldest) = oldest.map(|(cookie, _)| *cookie) {
                under_way.remove(&oldest);
            }
        }
        let made_at = now.seconds();
        let one = UnderWay {
            made_at,
            client,
            step,
        };
        under_way.insert(cookie, one);
    }

    /// The sign-in of this browser, which is used up by that.
    fn take_away(
        &self,
        (headers, scheme): (&HeaderMap, Scheme),
        state: &str,
        now: UnixTime,
    ) -> Option<(TokenHash, Pending, Option<Zeroizing<String>>)> {
        let mut under_way = self.under_way();
        under_way.retain(|_, one| match &one.step {
            SignInStep::Away { pending, .. } => pending.is_alive(now),
            SignInStep::Back { .. } => {
                (0..ARRIVAL_SECONDS).contains(&(now.seconds() - one.made_at))
            }
        });
        for cookie in named_by(headers, scheme) {
            // Another page may send the browser here, and must not end what is under way.
            if let Some(UnderWay {
                step: SignInStep::Away { pending, .. },
                ..
            }) = under_way.get(&cookie)
                && pending.has_state(state)
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
    pub(super) fn arrive(
        &self,
        (headers, scheme): (&HeaderMap, Scheme),
        code: &str,
        now: UnixTime,
    ) -> Option<Arrival> {
        let shown = blake3::hash(code.as_bytes());
        let mut under_way = self.under_way();
        for cookie in named_by(headers, scheme) {
            let is_right = match under_way.get(&cookie) {
                Some(UnderWay {
                    made_at,
                    client: _,
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
    pub(super) fn keep_id_token(
        &self,
        session: String,
        token: ProviderToken,
        (now, longest): (UnixTime, i64),
    ) {
        let mut tokens = self.id_tokens();
        let now = now.seconds();
        if tokens.len() >= MOST_ID_TOKENS {
            tokens.retain(|_, (made_at, _)| (0..longest).contains(&(now - *made_at)));
        }
        // Nobody misses one of so many: its person signs out here alone.
        if tokens.len() < MOST_ID_TOKENS {
            tokens.insert(session, (now, token));
        }
    }

    /// What the provider is shown now that this session ends.
    pub(super) fn take_id_token(&self, session: &str) -> Option<ProviderToken> {
        let (_, token) = self.id_tokens().remove(session)?;
        Some(token)
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
                password: None,
                known_by: None,
            },
            id_token,
        )
    }
}

/// GET /api/sign-in/oidc: sends the browser to the provider.
pub(super) async fn begin(
    services: &Services,
    client: SignInClient<'_>,
    query: Result<Query, ApiError>,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let provider = services.provider.as_ref().ok_or(ApiError::UnknownPath)?;
    let query = query?;
    let redirect_uri = redirect_uri(services).ok_or(ApiError::NoPanel)?;
    let invitation = query.parameter("invitation")?;
    let invitation = match invitation {
        Some(code) if code.len() != Code::LENGTH => return Err(ApiError::WrongInvitation),
        code => code.map(|code| Zeroizing::new(code.to_owned())),
    };
    let begun = match provider.begin(&redirect_uri, now).await {
        Ok(begun) => begun,
        Err(error) => return failed(services, client.origin, &error).await,
    };
    let cookie = Code::make(getrandom::fill).map_err(|_| ApiError::Internal)?;
    let step = SignInStep::Away {
        pending: begun.pending,
        invitation,
    };
    let address = client.origin.address.clone();
    let sign_ins = &services.state.provider_sign_ins;
    sign_ins.keep(cookie.hash(), address, step, now);
    // The browser says nothing of how it came here.
    let set = PROVIDER_SIGN_IN.set(cookie.reveal(), "; Max-Age=600", scheme(services))?;
    Ok(redirect(&begun.url)?.with(SET_COOKIE, set))
}

/// GET /api/sign-in/callback: the browser comes back. Whoever may come in gets a code for the page; everybody else the
/// reason.
pub(super) async fn come_back(
    services: &Services,
    client: SignInClient<'_>,
    query: Result<Query, ApiError>,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let provider = services.provider.as_ref().ok_or(ApiError::UnknownPath)?;
    let query = query?;
    let sign_ins = &services.state.provider_sign_ins;
    let state = query.parameter("state")?.unwrap_or_default();
    let Some((cookie, pending, invitation)) =
        sign_ins.take_away((client.headers, scheme(services)), state, now)
    else {
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
        Err(error) => return failed(services, client.origin, &error).await,
    };
    let admitted = admit(services, client.origin, &identity, invitation, now).await;
    let (person, name) = match admitted {
        Ok(admitted) => admitted,
        Err(error @ (ApiError::NotInvited | ApiError::InNoAccount | ApiError::WrongInvitation)) => {
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
    sign_ins.keep(cookie, client.origin.address.clone(), step, now);
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
    let codes = invitations(services, identity, (invitation, known.is_some()), now).await?;
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
    let wanted = new.identity.clone();
    let lost = note(services, new, by_claim, now).await?;
    // Two first sign-ins at once make one person.
    let noted = ask(services, move |database| database.person(&wanted)).await?;
    let id = noted.map_or(id, |(person, _)| person.id);
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

/// The open invitations that the person takes: the one whose link was opened; at the first sign-in without a link, all that
/// name the address. The provider has verified the address; a link for another one is not the person's. Later on nobody is
/// made a member without opening a link.
async fn invitations(
    services: &Services,
    identity: &OidcIdentity,
    (link, is_known): (Option<Zeroizing<String>>, bool),
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
    let mut open = open.await?;
    match link {
        Some(link) => {
            let hash = TokenHash::of(link.as_bytes()).to_string();
            open.retain(|invitation| invitation.hash == hash);
            if open.is_empty() {
                return Err(ApiError::NotInvited);
            }
        }
        None if is_known => open.clear(),
        None => {}
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

/// Tells the page, and from time to time the operator, why nobody has signed in.
async fn failed(
    services: &Services,
    origin: &ChangeOrigin,
    error: &OidcError,
) -> Result<ApiResponse, ApiError> {
    change::record_failed_sign_in(services, origin.clone(), "oidc").await;
    let line = |count| {
        change::with_origin(Event::warn("change"), origin)
            .with("action", "sign_in")
            .with("with", "oidc")
            .with("result", error.label())
            .with("reason", error.to_string())
            .with("count", count)
    };
    delay_response(services, line).await;
    back_to_panel(&format!("#sign-in-error={}", error.label()))
}

/// Where the browser comes back to, as it is registered at the provider.
fn redirect_uri(services: &Services) -> Option<String> {
    Some(format!("{}{CALLBACK_PATH}", panel_url(services)?))
}

/// How browsers load the panel. The provider's page sends them here without an Origin.
pub(super) fn scheme(services: &Services) -> Scheme {
    Scheme::of_url(&panel_url(services).unwrap_or_default())
}

/// Sends the browser to the panel. `fragment` is sent to nobody.
fn back_to_panel(fragment: &str) -> Result<ApiResponse, ApiError> {
    redirect(&format!("/{fragment}"))
}

fn redirect(url: &str) -> Result<ApiResponse, ApiError> {
    let location = HeaderValue::try_from(url).map_err(|_| ApiError::Internal)?;
    Ok(ApiResponse::empty(StatusCode::SEE_OTHER).with(LOCATION, location))
}

/// The hashes of the sign-ins that these cookies name.
fn named_by(headers: &HeaderMap, scheme: Scheme) -> impl Iterator<Item = TokenHash> {
    let codes = PROVIDER_SIGN_IN.values(headers, scheme);
    codes
        .filter(|code| code.len() == Code::LENGTH)
        .map(|code| TokenHash::of(code.as_bytes()))
}
