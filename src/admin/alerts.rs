//! POST /api/alerts/test, and what the status says of alerts.

use serde::Serialize;

use crate::admin::Services;
use crate::admin::change;
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::principal::OperatorOnly;
use crate::admin::response::ApiResponse;
use crate::observe::log::Event;
use crate::policy::audit::ChangeOrigin;
use crate::policy::time::UnixTime;

#[derive(Serialize)]
struct TestView {
    delivered: bool,
    /// The status of the receiver's answer.
    status: Option<u16>,
    /// Why it was not delivered.
    error: Option<String>,
}

/// POST /api/alerts/test
pub(super) async fn test(
    services: &Services,
    _: OperatorOnly,
    origin: &ChangeOrigin,
    body: &[u8],
) -> Result<ApiResponse, ApiError> {
    JsonObject::of(body)?.finish()?;
    let sent = services.alerts.test().await.ok_or(ApiError::NoAlerts)?;
    let event = Event::info("change").with("action", "test_alert");
    let result = if sent.is_ok() { "ok" } else { "failed" };
    let event = change::with_origin(event, origin);
    services.log.event(event.with("result", result));
    Ok(ApiResponse::json(&TestView {
        delivered: sent.is_ok(),
        status: sent.as_ref().ok().copied(),
        error: sent.err(),
    }))
}

/// How the alerts are.
#[derive(Serialize)]
pub(super) struct AlertsView {
    /// Where they are sent: scheme, host and port alone, since the path may be a secret.
    receiver: String,
    pending: u64,
    last_delivered_at: Option<String>,
    /// Why the newest of those that wait is not delivered.
    error: Option<String>,
}

impl AlertsView {
    /// None where the config has no alerts.
    pub(super) fn of(services: &Services) -> Option<Self> {
        let (receiver, summary) = services.alerts.status()?;
        let delivered_at = summary.last_delivered_at.map(UnixTime::from_seconds);
        Some(Self {
            receiver,
            pending: summary.pending,
            last_delivered_at: delivered_at.map(|at| at.to_string()),
            error: summary.error,
        })
    }
}
