//! Sessions of persons. They are in the database, so they outlive a restart, and end at once for every gateway when a role
//! is taken away.
//!
//! Browsers hold what those of operators hold: a cookie, and a secret that pages of this origin alone have. The database
//! has only hashes of both.

use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::admin::cookie::Scheme;
use crate::admin::error::ApiError;
use crate::admin::principal::{Principal, SignedIn};
use crate::admin::response::ApiResponse;
use crate::admin::session_codes::{SessionCodes, SessionProof, hash_of, named_by, secret_of};
use crate::admin::usage::ask;
use crate::admin::{Peer, Services, change};
use crate::policy::network::ClientAddress;
use crate::policy::person::{PersonId, Role};
use crate::policy::time::UnixTime;
use crate::store::config::SignInConfig;
use crate::store::database::{
    Membership, NewSession, Person, PersonIdentity, PersonSession, SessionLimits, StoredSession,
};

/// The most cookies of one call that are looked up.
const MOST_COOKIES: usize = 16;
/// The longest name of a client that is kept, in characters.
const MAX_USER_AGENT: usize = 200;

/// A random id: the prefix and 16 hexadecimal digits.
///
/// # Errors
/// The system provides no random bytes.
pub(super) fn random_id(prefix: &str) -> Result<String, ApiError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::Internal)?;
    Ok(format!("{prefix}{:016x}", u64::from_be_bytes(bytes)))
}

/// What these headers show of a session of a person, and who that is. With both cookie and secret, its idle time begins
/// anew.
///
/// # Errors
/// The database cannot be read.
pub(super) async fn touch(
    services: &Services,
    headers: &HeaderMap,
    now: UnixTime,
) -> Result<(SessionProof, Option<Principal>), ApiError> {
    let scheme = Scheme::of(services, headers);
    let cookies: Vec<String> = named_by(headers, scheme)
        .take(MOST_COOKIES)
        .map(|hash| hash.to_string())
        .collect();
    if cookies.is_empty() || services.database.is_none() {
        return Ok((SessionProof::None, None));
    }
    let limits = limits(services);
    let secret = secret_of(headers);
    let found = ask(services, move |database| {
        let mut cookie_alone = false;
        for cookie in cookies {
            let Some(session) = database.session(&cookie, limits, now.seconds())? else {
                continue;
            };
            // A blake3 hash compares in constant time.
            let stored = blake3::Hash::from_hex(&session.secret).ok();
            if secret.is_some() && stored == secret {
                // If this fails, the session only ends earlier.
                let _ = database.use_session(&session, now.seconds());
                return Ok((SessionProof::Whole, Some(session)));
            }
            cookie_alone = true;
        }
        Ok(match cookie_alone {
            true => (SessionProof::CookieAlone, None),
            false => (SessionProof::None, None),
        })
    });
    Ok(match found.await? {
        (SessionProof::Whole, Some(session)) => match principal_of(services, session) {
            Some(principal) => (SessionProof::Whole, Some(principal)),
            None => (SessionProof::None, None),
        },
        (proof, _) => (proof, None),
    })
}

/// Who has this session; None: a person who may not do anything any more.
fn principal_of(services: &Services, session: PersonSession) -> Option<Principal> {
    let PersonSession {
        id,
        person,
        memberships,
        ..
    } = session;
    // After a change of the config, nobody stays who could not come in.
    let may_sign_in = match (&person.identity, &services.config.sign_in.oidc) {
        (PersonIdentity::Password(_), oidc) => oidc.is_none(),
        (PersonIdentity::Provider { issuer, .. }, Some(oidc)) => *issuer == oidc.issuer,
        (PersonIdentity::Provider { .. }, None) => false,
    };
    if !may_sign_in {
        return None;
    }
    let roles = roles(services, memberships);
    let signed_in = SignedIn {
        person,
        session: id,
    };
    if is_operator(services, &signed_in.person) {
        return Some(Principal::operator_person(signed_in));
    }
    (!roles.is_empty()).then(|| Principal::person(signed_in, roles))
}

/// Whether persons can sign in by a password: with a database, and where no identity provider is configured.
pub(super) fn sign_in_takes_passwords(services: &Services) -> bool {
    services.database.is_some() && services.config.sign_in.oidc.is_none()
}

/// How long sessions of persons last.
fn limits(services: &Services) -> SessionLimits {
    let config = &services.config.sign_in;
    SessionLimits {
        whole: config.session,
        idle: config.idle,
    }
}

/// Whether a person is an operator.
pub(super) fn is_operator(services: &Services, person: &Person) -> bool {
    let SignInConfig {
        oidc, operators, ..
    } = &services.config.sign_in;
    match (&person.identity, oidc) {
        // The database has only addresses that the provider has verified.
        (PersonIdentity::Provider { issuer, .. }, Some(oidc)) if *issuer == oidc.issuer => {
            operators.iter().any(|email| email.as_str() == person.email)
        }
        _ => false,
    }
}

/// The roles in accounts that exist and are not disabled.
pub(super) fn roles(services: &Services, memberships: Vec<Membership>) -> Vec<(String, Role)> {
    let in_force = |membership: &Membership| {
        let account = services.table.account(&membership.account);
        account.is_some_and(|account| !account.disabled)
    };
    let memberships = memberships.into_iter().filter(in_force);
    memberships
        .map(|membership| (membership.account, membership.role))
        .collect()
}

/// Begins a session of a person, whose password has still this stored hash, where one was shown.
pub(super) async fn begin(
    services: &Services,
    peer: Peer,
    headers: &HeaderMap,
    (person, password): (PersonId, Option<String>),
    now: UnixTime,
) -> Result<SessionCodes, ApiError> {
    let codes = SessionCodes::make().map_err(|_| ApiError::Internal)?;
    let user_agent = headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let session = NewSession {
        id: random_id("ses_")?,
        cookie: codes.id.hash().to_string(),
        secret: hash_of(&codes.secret).to_hex().to_string(),
        person,
        password,
        address: match change::client(services, peer, headers) {
            ClientAddress::Known(address) => Some(address.to_string()),
            ClientAddress::Unknown => None,
        },
        user_agent: user_agent.map(|name| name.chars().take(MAX_USER_AGENT).collect()),
    };
    let begun = ask(services, move |database| {
        database.begin_session(&session, now.seconds())
    });
    match begun.await? {
        true => Ok(codes),
        false => Err(ApiError::WrongPassword),
    }
}

/// Who has a session that has just begun; None: a person who may not do anything any more.
pub(super) async fn shown_by(
    services: &Services,
    codes: &SessionCodes,
    now: UnixTime,
) -> Result<Option<Principal>, ApiError> {
    let (cookie, limits) = (codes.id.hash().to_string(), limits(services));
    let session = ask(services, move |database| {
        database.session(&cookie, limits, now.seconds())
    });
    let session = session.await?;
    Ok(session.and_then(|session| principal_of(services, session)))
}

/// Ends the sessions of persons that these cookies name.
pub(super) async fn end(
    services: &Services,
    (headers, scheme): (&HeaderMap, Scheme),
) -> Result<(), ApiError> {
    let cookies: Vec<String> = named_by(headers, scheme)
        .take(MOST_COOKIES)
        .map(|hash| hash.to_string())
        .collect();
    if cookies.is_empty() || services.database.is_none() {
        return Ok(());
    }
    ask(services, move |database| {
        for cookie in &cookies {
            database.end_session(cookie)?;
        }
        Ok(())
    })
    .await
}

/// GET /api/sessions: one's own.
pub(super) async fn list(
    services: &Services,
    principal: &Principal,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let SignedIn { person, session } = principal.signed_in().ok_or(ApiError::UnknownPath)?.clone();
    let limits = limits(services);
    let sessions = ask(services, move |database| {
        database.sessions_of(&person.id, limits, now.seconds())
    });
    let view = |stored: StoredSession| -> Value {
        let StoredSession {
            id,
            created_at,
            used_at,
            address,
            user_agent,
        } = stored;
        json!({
            "current": id == session, "id": id, "created_at": time_text(created_at), "used_at": time_text(used_at),
            "address": address, "user_agent": user_agent,
        })
    };
    let sessions: Vec<Value> = sessions.await?.into_iter().map(view).collect();
    Ok(ApiResponse::json(&json!({"sessions": sessions})))
}

/// DELETE /api/sessions/{id}: one of one's own.
pub(super) async fn end_one(
    services: &Services,
    principal: &Principal,
    id: &str,
) -> Result<ApiResponse, ApiError> {
    let signed_in = principal.signed_in().ok_or(ApiError::UnknownPath)?;
    let (person, id) = (signed_in.person.id.clone(), id.to_owned());
    let ended = ask(services, move |database| {
        database.end_session_of(&person, &id)
    });
    match ended.await? {
        true => Ok(ApiResponse::empty(StatusCode::NO_CONTENT)),
        false => Err(ApiError::UnknownSession),
    }
}

/// A time as the API shows it.
pub(super) fn time_text(seconds: i64) -> String {
    UnixTime::from_seconds(seconds).to_string()
}
