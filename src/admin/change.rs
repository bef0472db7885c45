//! Who makes a change, its log line, and the audit rows of sign-ins.

use http::HeaderMap;
use http::header::HeaderValue;
use serde_json::{Value, json};

use crate::admin::principal::{Principal, SignedIn};
use crate::admin::{Peer, Services};
use crate::http::client_address::client_address;
use crate::http::request_id::RequestIds;
use crate::observe::log::Event;
use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin, ChangeVia};
use crate::policy::network::ClientAddress;
use crate::store::audit::{AuditError, AuditTrail, entry};
use crate::store::database::IfNotWritten;

/// The actor that has the admin token.
pub(super) const OPERATOR: &str = "operator";
/// The longest `before` or `after` of a log line, in bytes. The row has all of it.
const MAX_LOGGED: usize = 4 << 10;

/// An id that no other call has.
pub(super) fn request_id() -> String {
    let mut seed = [0; 32];
    match getrandom::fill(&mut seed) {
        Ok(()) => RequestIds::new(seed).make().as_str().to_owned(),
        Err(_) => "req_unknown".to_owned(),
    }
}

/// Who makes a call that was let in.
pub(super) fn origin(
    services: &Services,
    peer: Peer,
    headers: &HeaderMap,
    via: ChangeVia,
    request_id: &str,
    principal: &Principal,
) -> ChangeOrigin {
    let mut origin = unknown(services, peer, headers, via, request_id);
    if let Some(SignedIn { person, .. }) = principal.signed_in() {
        origin.actor = person.actor().to_owned();
    } else if let Peer::Network { .. } = peer {
        origin.actor = OPERATOR.to_owned();
    }
    origin
}

/// Somebody who has not shown who it is. A peer on the socket is known in any case.
pub(super) fn unknown(
    services: &Services,
    peer: Peer,
    headers: &HeaderMap,
    via: ChangeVia,
    request_id: &str,
) -> ChangeOrigin {
    let (actor, via, address) = match peer {
        Peer::Socket { .. } => (peer.to_string(), ChangeVia::Socket, None),
        Peer::Network { .. } => {
            let address = match client(services, peer, headers) {
                ClientAddress::Known(address) => Some(address.to_string()),
                ClientAddress::Unknown => None,
            };
            ("unknown".to_owned(), via, address)
        }
    };
    ChangeOrigin {
        actor,
        via,
        address,
        request_id: Some(request_id.to_owned()),
    }
}

/// Adds who asked for a change.
pub(super) fn with_origin(event: Event, origin: &ChangeOrigin) -> Event {
    event
        .with("who", origin.to_string())
        .with("actor", origin.actor.clone())
        .with("via", origin.via.label())
        .with("address", origin.address.clone())
        .with("request_id", origin.request_id.clone())
}

/// Adds the number and the hash of the audit row.
pub(super) fn with_mark(event: Event, mark: Option<&AuditMark>) -> Event {
    event
        .with("n", mark.map(|mark| mark.n))
        .with("hash", mark.map(|mark| mark.hash.clone()))
}

/// The line of a change of a key that is in force.
pub(super) fn change_line(entry: &AuditEntry, mark: Option<&AuditMark>, is_written: bool) -> Event {
    let (before, after) = (object(&entry.before), object(&entry.after));
    let names = after.as_object().or(before.as_object());
    let fields: Vec<&String> = match entry.action {
        AuditAction::Delete => Vec::new(),
        _ => names.into_iter().flat_map(|fields| fields.keys()).collect(),
    };
    let result = match is_written {
        true => "ok",
        false => "in_force_not_written",
    };
    let event = with_origin(Event::info("change"), &entry.origin)
        .with("action", entry.action.label())
        .with("key_id", entry.target.clone())
        .with("fields", json!(fields))
        .with("before", before)
        .with("after", after)
        .with("result", result);
    with_mark(event, mark)
}

fn object(text: &Option<String>) -> Value {
    let text = text.as_deref().filter(|text| text.len() <= MAX_LOGGED);
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Records a sign-in. It must not begin where this fails.
pub(super) async fn record_sign_in(
    services: &Services,
    origin: ChangeOrigin,
    way: &'static str,
) -> Result<Option<AuditMark>, AuditError> {
    let entry = entry(AuditAction::SignIn, origin, Some(json!({"with": way})));
    let trail = AuditTrail::of(services.database.clone());
    trail.record(entry, IfNotWritten::Refuse).await
}

/// Records that a wrong token or link was shown.
pub(super) async fn record_failed_sign_in(
    services: &Services,
    origin: ChangeOrigin,
    way: &'static str,
) {
    let Some(count) = services.state.throttle.row() else {
        return;
    };
    let after = json!({"count": count, "with": way});
    let entry = entry(AuditAction::SignInFailed, origin, Some(after));
    let trail = AuditTrail::of(services.database.clone());
    // The sign-in is refused in any case.
    let _ = trail.record(entry, IfNotWritten::Wait).await;
}

/// Records and logs something that needs no more words.
pub(super) async fn record_done(
    services: &Services,
    action: AuditAction,
    origin: ChangeOrigin,
    if_not_written: IfNotWritten,
) -> Result<(), AuditError> {
    let entry = entry(action, origin.clone(), None);
    let trail = AuditTrail::of(services.database.clone());
    let mark = trail.record(entry, if_not_written).await?;
    let event = with_origin(Event::info("change"), &origin)
        .with("action", action.label())
        .with("result", "ok");
    services.log.event(with_mark(event, mark.as_ref()));
    Ok(())
}

/// The client's address, found as for a request to the gateway.
pub(super) fn client(services: &Services, peer: Peer, headers: &HeaderMap) -> ClientAddress {
    let address = match peer {
        Peer::Socket { .. } => None,
        Peer::Network { address, .. } => Some(address.ip()),
    };
    let lines = headers.get_all("x-forwarded-for").iter();
    let forwarded_for: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    client_address(
        &services.config.client_address,
        address,
        forwarded_for.into_iter(),
    )
}
