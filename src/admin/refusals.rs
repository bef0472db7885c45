//! GET /api/refusals: the refused requests of the last hour, by key, client address and reason.

use serde::Serialize;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::policy::network::ClientAddress;
use crate::policy::time::UnixTime;

const DEFAULT_LIMIT: usize = 100;

#[derive(Serialize)]
struct View {
    refusals: Vec<RefusalView>,
    /// How many more rows there are.
    left_out: usize,
}

#[derive(Serialize)]
struct RefusalView {
    /// None if the token is no key's.
    key: Option<String>,
    /// None also if the key is gone.
    name: Option<String>,
    client_address: Option<String>,
    reason: &'static str,
    count: u64,
    last_at: String,
}

pub(super) fn respond(
    services: &Services,
    _: OperatorOnly,
    query: &Query,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let limit = query.limit(DEFAULT_LIMIT)?;
    let rows = services.log.recent_refusals();
    let mut rows = rows.rows(query.parameter("key")?, now);
    let left_out = rows.len().saturating_sub(limit);
    rows.truncate(limit);
    let view = rows.into_iter().map(|row| {
        let entry = row
            .key_id
            .as_deref()
            .and_then(|id| services.table.by_id(id));
        RefusalView {
            name: entry.map(|entry| entry.key().name().to_owned()),
            key: row.key_id.map(String::from),
            client_address: match row.client {
                ClientAddress::Known(address) => Some(address.to_string()),
                ClientAddress::Unknown => None,
            },
            reason: row.reason,
            count: row.count,
            last_at: row.last.to_string(),
        }
    });
    Ok(ApiResponse::json(&View {
        refusals: view.collect(),
        left_out,
    }))
}
