//! `?wait=5s` on a change of keys: the answer comes when the change is in force on every gateway that is seen, or after
//! that time with the names of those where it is not.
//!
//! The change itself stands in any case: nothing of its answer but a header depends on the wait.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::gateways::shared_database;
use crate::admin::input::Query;
use crate::admin::principal::Principal;
use crate::request_body::model::{percent_decoded, percent_encoded};
use crate::store::config::value;

/// The header with what came of it.
pub(crate) const WAIT: HeaderName = HeaderName::from_static("keygate-wait");
/// The parameter.
const PARAMETER: &str = "wait";
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The time between two looks at what the gateways have reported.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The change is in force on all gateways that are seen.
    InForce,
    /// It is not on those of these names.
    Behind(Vec<String>),
    /// The database could not be read all the time, so that nobody knows.
    Unknown,
}

/// How long to wait, where the call asks for it.
///
/// # Errors
/// It is no such time, or the keys are not those of a fleet.
pub(super) fn asked(services: &Services, query: &Query) -> Result<Option<Duration>, ApiError> {
    let Some(text) = query.parameter(PARAMETER)? else {
        return Ok(None);
    };
    let wait = duration(text).map_err(|fault| ApiError::invalid(PARAMETER, fault))?;
    if services.key_store.revision().borrow().is_none() {
        let fault = "is for keys that gateways share in a database; leave it out, or set source = \"database\" in [keys]";
        return Err(ApiError::invalid(PARAMETER, fault));
    }
    Ok(Some(wait))
}

/// A time to wait, from 1s to 60s.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wait = value::duration(text)?;
    match (SHORTEST..=LONGEST).contains(&wait) {
        true => Ok(wait),
        false => Err("must be from 1s to 60s; write a time like \"5s\"".to_owned()),
    }
}

/// Waits until the last change of the keys is in force on all gateways that are seen.
pub(super) async fn until_in_force(services: &Services, wait: Duration) -> Waited {
    // A change that was answered is in this revision, or in one before it.
    let revision = *services.key_store.revision().borrow();
    let (Some(revision), Some(database)) = (revision, shared_database(services)) else {
        return Waited::Unknown;
    };
    let mut next = Instant::now();
    let until = next + wait;
    // As of the last look that succeeded.
    let mut waited = Waited::Unknown;
    while next < until {
        sleep_until(next).await;
        let read = services.state.gateways.read(database, next);
        next = match timeout_at(until, read).await {
            Ok(Ok(read)) => {
                let behind = read.list.behind(revision, &services.gateway.instance);
                if behind.is_empty() {
                    return Waited::InForce;
                }
                waited = Waited::Behind(behind.into_iter().map(str::to_owned).collect());
                read.begun + LOOK_EVERY
            }
            Ok(Err(_)) => Instant::now() + LOOK_EVERY,
            Err(_) => break,
        };
    }
    waited
}

impl Waited {
    /// The header's value. Only operators are told which gateways there are.
    pub(super) fn as_header(&self, principal: &Principal) -> HeaderValue {
        let text = match self {
            Self::InForce => "in-force".to_owned(),
            Self::Unknown => "unknown".to_owned(),
            Self::Behind(_) if principal.roles().is_some() => "behind".to_owned(),
            Self::Behind(names) => {
                // A host's name may be any text.
                let names: Vec<String> = names.iter().map(|name| percent_encoded(name)).collect();
                format!("behind; gateways=\"{}\"", names.join(","))
            }
        };
        // It is visible ASCII.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
    }

    /// What a header says.
    pub(crate) fn of_header(value: &str) -> Option<Self> {
        Some(match value {
            "in-force" => Self::InForce,
            "unknown" => Self::Unknown,
            value => {
                let names = value.strip_prefix("behind; gateways=\"")?;
                let names = names.strip_suffix('"')?.split(',');
                let decoded = |name: &str| {
                    let bytes: Vec<u8> = percent_decoded(name.as_bytes()).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                Self::Behind(names.map(decoded).collect())
            }
        })
    }
}
