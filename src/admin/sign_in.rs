//! How a person comes in: by an e-mail address and a password, or by the link of an invitation.
//!
//! Whoever has the link of an invitation may become the person it names, if nobody is yet; an existing person shows the
//! password too, since whoever made the link has seen it.

use http::HeaderMap;
use serde_json::json;
use zeroize::Zeroizing;

use crate::admin::cookie::Scheme;
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::known_device::KnownDevice;
use crate::admin::passwords::{self, TrySource};
use crate::admin::person_session::{self, random_id, time_text};
use crate::admin::response::ApiResponse;
use crate::admin::throttle::delay_response;
use crate::admin::usage::ask;
use crate::admin::{Peer, Services, change};
use crate::observe::log::Event;
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::password;
use crate::policy::person::{EmailAddress, PersonId};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::{IfNotWritten, Invitation, NewPerson, PersonIdentity};

/// A sign-in of a person that is let in.
pub(super) struct Admitted {
    /// Who.
    pub(super) person: PersonId,
    /// The e-mail address, for log and audit.
    pub(super) email: String,
    /// The stored hash of the password that was shown; None: none was, or it has just been set.
    pub(super) password: Option<String>,
    /// The stored hash of the person's password, by which the device is known from now on; None: the person has none.
    pub(super) known_by: Option<String>,
}

/// From where a sign-in comes.
#[derive(Clone, Copy)]
pub(super) struct SignInClient<'c> {
    pub(super) peer: Peer,
    pub(super) headers: &'c HeaderMap,
    pub(super) origin: &'c ChangeOrigin,
}

/// GET /api/sign-in: what the page offers.
pub(super) fn ways(services: &Services) -> ApiResponse {
    ApiResponse::json(&json!({
        "password": person_session::sign_in_takes_passwords(services),
        "token": services.token.is_some(),
        "oidc": services.provider.as_ref().map(|provider| json!({"name": provider.name()})),
    }))
}

/// Checks an e-mail address and a password.
///
/// # Errors
/// They are wrong, or the person is in no account.
pub(super) async fn by_password(
    services: &Services,
    client: SignInClient<'_>,
    (email, password): (&str, Zeroizing<String>),
    now: UnixTime,
) -> Result<Admitted, ApiError> {
    if !person_session::sign_in_takes_passwords(services) {
        return Err(ApiError::NoPasswords);
    }
    // What is no address is nobody's; it takes as long.
    let email = EmailAddress::parse(email).ok();
    let known = match &email {
        None => None,
        Some(email) => {
            let identity = PersonIdentity::Password(email.clone());
            ask(services, move |database| database.person(&identity)).await?
        }
    };
    let address = email.as_ref().map_or("", EmailAddress::as_str);
    let (person, hash) = known.unzip();
    let hash = hash.flatten();
    let source = try_source(services, client, address, hash.as_deref(), now);
    let is_right = passwords::check(services, source, password, hash.clone(), now).await?;
    let person = person.filter(|_| is_right).ok_or(ApiError::WrongPassword)?;
    let id = person.id.clone();
    let memberships = ask(services, move |database| database.memberships(&id)).await?;
    if person_session::roles(services, memberships).is_empty()
        && !person_session::is_operator(services, &person)
    {
        return Err(ApiError::InNoAccount);
    }
    Ok(Admitted {
        person: person.id,
        email: person.email,
        password: hash.clone(),
        known_by: hash,
    })
}

/// What a try counts for. `hash`: the person's stored one.
fn try_source<'t>(
    services: &Services,
    client: SignInClient<'_>,
    email: &'t str,
    hash: Option<&str>,
    now: UnixTime,
) -> TrySource<'t> {
    let SignInClient { peer, headers, .. } = client;
    let scheme = Scheme::of(services, headers);
    match hash.and_then(|hash| KnownDevice::find(headers, scheme, hash, now)) {
        Some(device) => TrySource::Device(device),
        None => TrySource::Addresses {
            email,
            client: change::client(services, peer, headers),
        },
    }
}

/// POST /api/invitations/look: what an invitation is, for the page that its link opens. It stays open.
pub(super) async fn look(
    services: &Services,
    client: SignInClient<'_>,
    body: &[u8],
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let mut fields = JsonObject::of(body)?;
    let code = fields.required("invitation")?;
    fields.finish()?;
    let invitation = match open_invitation(services, &code, now).await {
        Err(error) if error.is_wrong_sign_in() => {
            refused(services, client.origin, "invitation", &error).await;
            return Err(error);
        }
        found => found?,
    };
    let account = services.table.account(&invitation.account);
    let name = account
        .as_ref()
        .and_then(|account| account.name.as_ref().map(|name| name.as_str().to_owned()));
    let identity = EmailAddress::parse(&invitation.email).map(PersonIdentity::Password);
    let known = match identity {
        Ok(identity) => ask(services, move |database| database.person(&identity)).await?,
        Err(_) => None,
    };
    Ok(ApiResponse::json(&json!({
        "kind": match invitation.person {
            None => "invitation",
            Some(_) => "new_password",
        },
        "email": invitation.email,
        "account": {"id": invitation.account, "name": name},
        "role": invitation.role.label(),
        "expires_at": time_text(invitation.expires_at),
        // What the page asks for: a password to set, or the one that the person has.
        "sets_password": known.is_none() || invitation.person.is_some(),
    })))
}

/// Uses an invitation up with a password: the new one of a new person or of one who forgot it, or the present one of a
/// person who is in another account already.
///
/// # Errors
/// It is not open, or the password is wrong or too weak. It stays open then.
pub(super) async fn by_invitation(
    services: &Services,
    client: SignInClient<'_>,
    (code, password): (&str, Zeroizing<String>),
    now: UnixTime,
) -> Result<Admitted, ApiError> {
    if !person_session::sign_in_takes_passwords(services) {
        return Err(ApiError::NoPasswords);
    }
    let invitation = open_invitation(services, code, now).await?;
    let email = EmailAddress::parse(&invitation.email).map_err(|_| ApiError::Internal)?;
    let identity = PersonIdentity::Password(email.clone());
    let wanted = identity.clone();
    let known = ask(services, move |database| database.person(&wanted)).await?;
    let new_hash = match (&known, &invitation.person) {
        (Some((_, hash)), None) => {
            let source = try_source(services, client, email.as_str(), hash.as_deref(), now);
            if !passwords::check(services, source, password, hash.clone(), now).await? {
                return Err(ApiError::WrongPassword);
            }
            None
        }
        (None, _) | (Some(_), Some(_)) => {
            password::check(&password, email.as_str())
                .map_err(|error| ApiError::invalid("password", error.to_string()))?;
            Some(passwords::hash(services, password).await?)
        }
    };
    let (id, old_hash) = match known {
        Some((person, hash)) => (person.id, hash),
        None => {
            let id = PersonId::parse(&random_id("per_")?).map_err(|_| ApiError::Internal)?;
            (id, None)
        }
    };
    let known_by = new_hash.clone().or(old_hash);
    let new = NewPerson {
        id: id.clone(),
        identity,
        email: Some(email.clone()),
        name: None,
        password: new_hash,
    };
    let hash = TokenHash::of(code.as_bytes()).to_string();
    accept(services, client.origin, &invitation, new, &hash, now).await?;
    Ok(Admitted {
        person: id,
        email: email.as_str().to_owned(),
        password: None,
        known_by,
    })
}

/// Uses an invitation up for a person, who has shown who it is. `hash`: that of its code.
///
/// # Errors
/// It is not open any more, or the database cannot be written.
pub(super) async fn accept(
    services: &Services,
    origin: &ChangeOrigin,
    invitation: &Invitation,
    person: NewPerson,
    hash: &str,
    now: UnixTime,
) -> Result<(), ApiError> {
    let after = json!({"email": invitation.email, "role": invitation.role.label(), "invitation": invitation.id});
    let row = AuditEntry {
        target: Some(person.id.as_str().to_owned()),
        account: Some(invitation.account.clone()),
        ..entry(
            AuditAction::AcceptInvitation,
            ChangeOrigin {
                actor: invitation.email.clone(),
                ..origin.clone()
            },
            Some(after),
        )
    };
    // Before it is in force: it gives access.
    let trail = AuditTrail::of(services.database.clone());
    trail.record(row, IfNotWritten::Refuse).await?;
    let hash = hash.to_owned();
    let accepted = ask(services, move |database| {
        database.accept_invitation(&hash, &person, now.seconds())
    });
    match accepted.await? {
        true => Ok(()),
        false => Err(ApiError::WrongInvitation),
    }
}

/// The open invitation of a code.
pub(super) async fn open_invitation(
    services: &Services,
    code: &str,
    now: UnixTime,
) -> Result<Invitation, ApiError> {
    if services.database.is_none() {
        return Err(ApiError::NoAccounts);
    }
    let hash = TokenHash::of(code.as_bytes()).to_string();
    let found = ask(services, move |database| {
        database.open_invitation(&hash, now.seconds())
    })
    .await?;
    // One to an account that is gone or disabled gives nothing.
    let found = found.filter(|invitation| {
        let account = services.table.account(&invitation.account);
        account.is_some_and(|account| !account.disabled)
    });
    found.ok_or(ApiError::WrongInvitation)
}

/// Records a sign-in that was refused, and delays its answer.
pub(super) async fn refused(
    services: &Services,
    origin: &ChangeOrigin,
    way: &'static str,
    error: &ApiError,
) {
    change::record_failed_sign_in(services, origin.clone(), way).await;
    services.metrics.sign_in(way, error.label());
    let line = |count| {
        change::with_origin(Event::warn("change"), origin)
            .with("action", "sign_in")
            .with("with", way)
            .with("result", error.label())
            .with("count", count)
    };
    delay_response(services, line).await;
}
