//! POST /api/explain: what the gateway would decide about a request, and which rule decides.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::admin::Services;
use crate::admin::budgets;
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::policy::account::JudgedKey;
use crate::policy::denial::Denial;
use crate::policy::explain::{Question, Subject, explain};
use crate::policy::limit_terms::{LimitClock, LimitError, UsedAmounts};
use crate::policy::network::ClientAddress;
use crate::policy::rate_limit::RateLimitError;
use crate::policy::time::UnixTime;
use crate::policy::token::Presented;
use crate::runtime::monotonic::monotonic_now;
use crate::table::{Ceiling, Entry, LimitHolder};

/// The limit or budget, of the key or of its account, that would refuse every request of this key now: the error's code,
/// and a sentence.
async fn limited(
    services: &Services,
    entry: &Arc<Entry>,
    now: UnixTime,
) -> Option<(&'static str, String)> {
    let ceilings = Ceiling::of(entry, &services.config.keys.default_limits)?;
    for ceiling in ceilings.iter().flatten() {
        // Where it cannot be read, a request is refused for that.
        let _ = budgets::load(services, &ceiling.holder).await;
        if let Some(shared) = &services.shared_limits {
            // What the other gateways have used.
            shared.renewed(ceiling).await;
        }
        if let Some((code, reason)) = limited_by(services, ceiling, now) {
            return Some(match &ceiling.holder {
                LimitHolder::Key(_) => (code, reason),
                LimitHolder::Account(account, _) => {
                    (code, format!("{reason}, of its account {}", account.id()))
                }
            });
        }
    }
    None
}

fn limited_by(
    services: &Services,
    ceiling: &Ceiling,
    now: UnixTime,
) -> Option<(&'static str, String)> {
    let clock = LimitClock {
        monotonic: monotonic_now(),
        now,
        zone: &services.config.usage.time_zone,
        fleet: services.shared_limits.as_ref().map(|shared| shared.link()),
    };
    let least = UsedAmounts {
        tokens: 1,
        ..UsedAmounts::default()
    };
    let mut limiter = ceiling.holder.limiter();
    let refused = limiter.check(&ceiling.terms(), &least, &clock).err()?;
    let seconds = |millis: u64| millis.div_ceil(1000);
    Some(match refused {
        LimitError::Rate(RateLimitError::Requests { retry_after }) => (
            "rate_limit_exceeded",
            format!(
                "requests_per_minute is used up for {} s",
                seconds(retry_after)
            ),
        ),
        LimitError::Rate(RateLimitError::Tokens { retry_after }) => (
            "rate_limit_exceeded",
            format!(
                "tokens_per_minute is used up for {} s",
                seconds(retry_after)
            ),
        ),
        LimitError::Rate(RateLimitError::Concurrent) => (
            "rate_limit_exceeded",
            "as many requests run as concurrent_requests allows".to_owned(),
        ),
        LimitError::Rate(RateLimitError::TooLarge) => return None,
        LimitError::Budget { unit, resets_at } => {
            let until = resets_at.map_or_else(String::new, |time| format!(" until {time}"));
            (
                "insufficient_quota",
                format!("the budget of {} is used up{until}", unit.label()),
            )
        }
        LimitError::Unavailable => (
            "limits_unavailable",
            "a limit or a budget is set, and no database says what is used of it".to_owned(),
        ),
    })
}

#[derive(Serialize)]
struct View {
    allowed: bool,
    denial: Option<&'static str>,
    reason: String,
}

pub(super) async fn respond(
    services: &Services,
    _: OperatorOnly,
    body: &[u8],
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let mut question = JsonObject::of(body)?;
    let (id, token) = (question.text("key")?, question.text("token")?);
    let model = question.required("model")?;
    let from = question.required("from")?;
    let at = question.text("at")?;
    question.finish()?;
    let address: IpAddr = from
        .parse()
        .map_err(|_| ApiError::invalid("from", "must be an IP address; write it like 192.0.2.7"))?;
    let at = match at {
        None => now,
        Some(text) => {
            UnixTime::parse(&text).map_err(|fault| ApiError::invalid("at", fault.to_string()))?
        }
    };
    let found = match (id, token) {
        (Some(id), None) => Ok(match services.table.by_id(&id) {
            Some(entry) => Ok((*entry.key().hash(), entry)),
            None => Err(Subject::NoSuchId),
        }),
        (None, Some(token)) => Ok(
            match Presented::parse(token.as_bytes()).map(Presented::hash) {
                Some(hash) => match services.table.find(&hash) {
                    Some(entry) => Ok((hash, entry)),
                    None => Err(Subject::NoSuchToken),
                },
                None => Err(Subject::MalformedToken),
            },
        ),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "token",
            "stands beside key; send one of the two",
        )),
        (None, None) => Err(ApiError::invalid(
            "key",
            "is missing; send key, an id, or token",
        )),
    }?;
    let routing = services.fleet.routing();
    let account = match &found {
        Ok((_, entry)) => entry.account_rules(),
        Err(_) => None,
    };
    let explanation = explain(&Question {
        subject: match &found {
            Ok((hash, entry)) => {
                Subject::Key(JudgedKey::new(entry.key(), account.as_deref()), hash)
            }
            Err(missing) => *missing,
        },
        model: &model,
        sent_as: routing.sent_as(&model).map(|name| &**name),
        served: routing.upstream_of(&model).is_some(),
        address: ClientAddress::of(address),
        at,
    });
    // Limits are of this moment; nobody knows what is left at another.
    let limited = match (&found, explanation.denial) {
        (Ok((_, entry)), None) if at == now => limited(services, entry, now).await,
        _ => None,
    };
    Ok(ApiResponse::json(&match limited {
        Some((denial, reason)) => View {
            allowed: false,
            denial: Some(denial),
            reason: format!("denied: {reason}"),
        },
        None => View {
            allowed: explanation.denial.is_none(),
            denial: explanation.denial.map(Denial::label),
            reason: explanation.reason,
        },
    }))
}
