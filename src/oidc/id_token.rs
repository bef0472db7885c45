//! What an ID token proves (OpenID Connect Core 1.0, 3.1.3.7): pure, of token, keys and time.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::oidc::error::TokenFault;
use crate::oidc::keys::KeySet;
use crate::policy::time::UnixTime;

/// How far apart the clocks of provider and gateway may be, in seconds.
const CLOCK_SKEW: i64 = 60;
/// The longest subject, in bytes (OpenID Connect Core 1.0, 2).
const MAX_SUBJECT: usize = 255;

/// What an ID token has to be about.
#[derive(Clone, Copy)]
pub(super) struct Expected<'e> {
    pub(super) issuer: &'e str,
    pub(super) client_id: &'e str,
    pub(super) nonce: &'e str,
}

/// The header of a token (RFC 7515 4.1). A member that stands there twice is refused.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// The claims of an ID token that is signed by one of these keys, is about this sign-in, and is valid now.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    expected: Expected<'_>,
    now: UnixTime,
) -> Result<Map<String, Value>, TokenFault> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenFault::Malformed)?;
    let header: TokenHeader = json(header)?;
    if header.crit.is_some() {
        return Err(TokenFault::Extension);
    }
    let signature = decoded(signature)?;
    keys.verify(
        &header.alg,
        header.kid.as_deref(),
        message.as_bytes(),
        &signature,
    )?;
    let claims: Map<String, Value> = json(payload)?;
    check(&claims, expected, now)?;
    Ok(claims)
}

/// The subject of checked claims.
pub(super) fn subject(claims: &Map<String, Value>) -> Option<&str> {
    let subject = claims.get("sub")?.as_str()?;
    (1..=MAX_SUBJECT)
        .contains(&subject.len())
        .then_some(subject)
}

fn check(
    claims: &Map<String, Value>,
    expected: Expected<'_>,
    now: UnixTime,
) -> Result<(), TokenFault> {
    let text = |name| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(expected.issuer) {
        return Err(TokenFault::Issuer);
    }
    check_audience(claims, expected.client_id)?;
    let now = now.seconds();
    let expires = time(claims, "exp")?.ok_or(TokenFault::NoTime)?;
    let issued = time(claims, "iat")?.ok_or(TokenFault::NoTime)?;
    let begins = time(claims, "nbf")?.unwrap_or(issued);
    if expires.saturating_add(CLOCK_SKEW) <= now {
        return Err(TokenFault::Expired);
    }
    if issued.max(begins) > now.saturating_add(CLOCK_SKEW) {
        return Err(TokenFault::TooEarly);
    }
    if text("nonce") != Some(expected.nonce) {
        return Err(TokenFault::Nonce);
    }
    subject(claims).map(drop).ok_or(TokenFault::NoSubject)
}

fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), TokenFault> {
    let several = match claims.get("aud") {
        Some(Value::String(audience)) if audience == client_id => false,
        Some(Value::Array(audiences)) if audiences.iter().any(|one| *one == *client_id) => {
            audiences.len() > 1
        }
        _ => return Err(TokenFault::Audience),
    };
    match claims.get("azp") {
        None if several => Err(TokenFault::AuthorizedParty),
        Some(party) if *party != *client_id => Err(TokenFault::AuthorizedParty),
        _ => Ok(()),
    }
}

/// A time in whole seconds; None: it is not said.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, TokenFault> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    // Some providers write fractions. `as` keeps within the bounds of i64.
    #[expect(clippy::cast_possible_truncation, reason = "the fraction is cut off")]
    let cut = |seconds: f64| seconds.floor() as i64;
    let seconds = value.as_i64().or_else(|| value.as_f64().map(cut));
    seconds.map(Some).ok_or(TokenFault::Malformed)
}

fn json<T: for<'d> Deserialize<'d>>(part: &str) -> Result<T, TokenFault> {
    serde_json::from_slice(&decoded(part)?).map_err(|_| TokenFault::Malformed)
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenFault> {
    let decoded = BASE64URL_NOPAD.decode(part.as_bytes());
    decoded.map_err(|_| TokenFault::Malformed)
}
