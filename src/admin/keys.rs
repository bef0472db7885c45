//! Lists, shows, creates, changes and deletes keys, with a running gateway or on a key file alone.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_MATCH};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;

use crate::admin::change;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::key_list::KeyList;
use crate::admin::operation::Operation;
use crate::admin::response::ApiResponse;
use crate::observe::log::{Event, Log};
use crate::policy::audit::ChangeOrigin;
use crate::policy::key_view::KeyView;
use crate::policy::model_access::ModelAccess;
use crate::policy::time::UnixTime;
use crate::runtime::wall_clock::now;
use crate::store::key_revision::{ExpectedRevision, KeyRevision};
use crate::store::key_store::KeyStore;
use crate::store::patch::{NewKey, parse_new, parse_patch};
use crate::table::{Entry, Table};
use crate::upstream::Routing;

/// What the calls on keys need.
#[derive(Clone)]
pub(crate) struct KeyApi<'s> {
    /// The key table.
    pub(crate) table: &'s Arc<Table>,
    /// Changes the table and the key file.
    pub(crate) key_store: &'s KeyStore,
    /// The models that upstreams serve; None without a gateway.
    pub(crate) routing: Option<Arc<Routing>>,
    /// The OpenAI Compatible URL.
    pub(crate) url: &'s str,
    /// Whether the uses of keys are kept over a restart, as a database does.
    pub(crate) keeps_uses: bool,
}

/// The result of a change, with what is logged about it.
#[derive(Debug)]
pub(super) struct KeyChange {
    /// The response.
    pub(super) outcome: Result<ApiResponse, ApiError>,
    key_id: Option<String>,
    fields: Vec<&'static str>,
}

/// What the admin API shows of a key in addition to its rules.
#[derive(Debug, Serialize)]
struct KeyDetails<'k> {
    created_at: Option<String>,
    account: Option<&'k str>,
    disabled: bool,
    state: &'static str,
    last_used_at: Option<String>,
    requests: u64,
    revision: String,
}

#[derive(Serialize)]
struct PageView<'k> {
    keys: Vec<KeyView<'k, KeyDetails<'k>>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct CreatedView<'k> {
    key: KeyView<'k, KeyDetails<'k>>,
    token: &'k str,
    url: &'k str,
    warnings: Vec<String>,
}

impl KeyApi<'_> {
    /// Handles a call on keys without a listener. Returns status and JSON.
    pub(crate) async fn call(
        &self,
        method: &Method,
        target: &str,
        body: &[u8],
    ) -> (StatusCode, Bytes) {
        let result = self.dispatch(method, target, body).await;
        result.map_or_else(ApiError::into_parts, ApiResponse::into_parts)
    }

    async fn dispatch(
        &self,
        method: &Method,
        target: &str,
        body: &[u8],
    ) -> Result<ApiResponse, ApiError> {
        let now = now();
        let uri: Uri = target.parse().map_err(|_| ApiError::UnknownPath)?;
        match Operation::of(method.as_str(), uri.path()) {
            Some(Operation::ListKeys) => self.list(&Query::of(&uri)?, now).await,
            Some(Operation::CreateKey) => self.create(body, now).await.outcome,
            Some(Operation::ShowKey(id)) => self.show(id, now),
            Some(Operation::ChangeKey(id)) => {
                let expected = ExpectedRevision::Any;
                self.change(id, expected, body, now).await.outcome
            }
            Some(Operation::DeleteKey(id)) => self.delete(id, ExpectedRevision::Any).await.outcome,
            _ => Err(ApiError::UnknownPath),
        }
    }

    /// One page of keys.
    pub(super) async fn list(&self, query: &Query, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let wanted = KeyList::of(query, now)?;
        // Without a database a key may have been used before the last start, and nobody knows.
        if wanted.needs_uses() && !self.keeps_uses {
            return Err(ApiError::NoDatabase);
        }
        let table = Arc::clone(self.table);
        // A search looks at every key. With a million keys it would block the runtime's thread too long.
        let page = move || {
            let found = wanted.page(&table, now);
            let keys = found.entries.iter().map(|entry| view(&table, entry, now));
            ApiResponse::json(&PageView {
                keys: keys.collect(),
                next: found.next,
            })
        };
        tokio::task::spawn_blocking(page)
            .await
            .map_err(|_| ApiError::Internal)
    }

    /// Shows a key.
    pub(super) fn show(&self, id: &str, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let entry = self.table.by_id(id).ok_or(ApiError::UnknownKey)?;
        shown(self.table, &entry, now)
    }

    /// Creates a key.
    pub(super) async fn create(&self, body: &[u8], now: UnixTime) -> KeyChange {
        let new = match parse_new(body) {
            Ok(new) => new,
            Err(fault) => return KeyChange::refused(fault.into()),
        };
        let (fields, warnings) = (fields_of(&new), self.warnings(&new.model_access));
        match self.key_store.create(new, now).await {
            Ok(created) => KeyChange {
                outcome: Ok(ApiResponse::created(&CreatedView {
                    key: view(self.table, &created.entry, now),
                    token: created.token.reveal(),
                    url: self.url,
                    warnings,
                })),
                key_id: Some(created.entry.key().id().to_owned()),
                fields,
            },
            Err(error) => KeyChange {
                outcome: Err(error.into()),
                key_id: None,
                fields,
            },
        }
    }

    /// Changes some fields of a key that is at an expected revision.
    pub(super) async fn change(
        &self,
        id: &str,
        expected: ExpectedRevision,
        body: &[u8],
        now: UnixTime,
    ) -> KeyChange {
        let patch = match parse_patch(body) {
            Ok(patch) => patch,
            Err(fault) => return KeyChange::refused(fault.into()),
        };
        let fields = patch.fields();
        let changed = self
            .key_store
            .update_revision(id, expected, patch, now)
            .await;
        KeyChange {
            outcome: changed
                .map_err(ApiError::from)
                .and_then(|entry| shown(self.table, &entry, now)),
            key_id: Some(id.to_owned()),
            fields,
        }
    }

    /// Deletes a key that is at an expected revision.
    pub(super) async fn delete(&self, id: &str, expected: ExpectedRevision) -> KeyChange {
        let deleted = self.key_store.delete_revision(id, expected).await;
        KeyChange {
            outcome: deleted.map(|_| ApiResponse::done()).map_err(ApiError::from),
            key_id: Some(id.to_owned()),
            fields: Vec::new(),
        }
    }

    /// A warning for each listed model that no upstream serves. That is allowed, since upstreams change, but may be a
    /// mistake.
    fn warnings(&self, access: &ModelAccess) -> Vec<String> {
        let Some(routing) = &self.routing else {
            return Vec::new();
        };
        let unserved = access
            .models()
            .iter()
            .filter(|model| routing.upstream_of(model).is_none());
        let consequence = match access {
            ModelAccess::Exclusive(_) => "it excludes nothing today",
            ModelAccess::All | ModelAccess::Inclusive(_) => "the key cannot use it today",
        };
        unserved
            .map(|model| format!("no upstream serves {model:?}: {consequence}"))
            .collect()
    }
}

impl KeyChange {
    fn refused(error: ApiError) -> Self {
        Self {
            outcome: Err(error),
            key_id: None,
            fields: Vec::new(),
        }
    }
}

/// The revisions in If-Match (RFC 9110 13.1.1). A revision without quotes is taken too. A weak one never matches.
pub(super) fn expected_revision(headers: &HeaderMap) -> ExpectedRevision {
    if !headers.contains_key(IF_MATCH) {
        return ExpectedRevision::Any;
    }
    let lines = headers.get_all(IF_MATCH).iter();
    let tags = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim);
    let mut expected = Vec::new();
    for tag in tags {
        if tag == "*" {
            return ExpectedRevision::Any;
        }
        let quoted = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        expected.push(quoted.unwrap_or(tag).to_owned());
    }
    ExpectedRevision::OneOf(expected)
}

/// One key, with its revision as entity tag.
fn shown(table: &Table, entry: &Entry, now: UnixTime) -> Result<ApiResponse, ApiError> {
    let tag = HeaderValue::try_from(format!("\"{}\"", KeyRevision::of(entry.key())));
    let tag = tag.map_err(|_| ApiError::Internal)?;
    Ok(ApiResponse::json(&view(table, entry, now)).with(ETAG, tag))
}

/// Logs a change that was refused. The key store logs those that are in force, in their order.
pub(super) fn log_change(
    log: &Log,
    origin: &ChangeOrigin,
    action: &'static str,
    change: &KeyChange,
) {
    let result = match &change.outcome {
        Ok(_) | Err(ApiError::NotWritten { in_force: true, .. }) => return,
        Err(error) => error.label(),
    };
    // An unknown id may be anything, even a token pasted by mistake, so it is not logged.
    let known = !matches!(change.outcome, Err(ApiError::UnknownKey));
    log.event(
        change::with_origin(Event::info("change"), origin)
            .with("action", action)
            .with("key_id", change.key_id.clone().filter(|_| known))
            .with("fields", change.fields.clone())
            .with("result", result),
    );
}

fn fields_of(new: &NewKey) -> Vec<&'static str> {
    let NewKey {
        name: _,
        model_access: _,
        allow_from,
        expires_at,
        account,
    } = new;
    let set = [
        (true, "name"),
        (true, "model_access"),
        (!allow_from.networks().is_empty(), "allow_from"),
        (expires_at.is_some(), "expires_at"),
        (account.is_some(), "account"),
    ];
    let named = set.into_iter().filter(|(is_set, _)| *is_set);
    named.map(|(_, name)| name).collect()
}

fn view<'k>(table: &Table, entry: &'k Entry, now: UnixTime) -> KeyView<'k, KeyDetails<'k>> {
    let (key, usage) = (entry.key(), table.usage(entry));
    let text = |time: UnixTime| time.to_string();
    let details = KeyDetails {
        created_at: key.created_at().map(text),
        account: key.account(),
        disabled: key.disabled(),
        state: key.state(now).label(),
        last_used_at: usage.last_used_at.map(text),
        requests: usage.requests,
        revision: KeyRevision::of(key).to_string(),
    };
    KeyView::for_operator(key, details)
}
