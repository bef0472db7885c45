//! POST /api/explain: what the gateway would decide about a request, and which rule decides.

use std::net::IpAddr;

use serde::Serialize;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::response::ApiResponse;
use crate::policy::denial::Denial;
use crate::policy::explain::{Question, Subject, explain};
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;
use crate::policy::token::Presented;

#[derive(Serialize)]
struct View {
    allowed: bool,
    denial: Option<&'static str>,
    reason: String,
}

pub(super) fn respond(
    services: &Services,
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
    let explanation = explain(&Question {
        subject: match &found {
            Ok((hash, entry)) => Subject::Key(entry.key(), hash),
            Err(missing) => *missing,
        },
        model: &model,
        sent_as: routing.sent_as(&model).map(|name| &**name),
        served: routing.upstream_of(&model).is_some(),
        address: ClientAddress::of(address),
        at,
    });
    Ok(ApiResponse::json(&View {
        allowed: explanation.denial.is_none(),
        denial: explanation.denial.map(Denial::label),
        reason: explanation.reason,
    }))
}
