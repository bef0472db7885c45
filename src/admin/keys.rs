//! Lists, shows, creates, changes, rotates and deletes keys, with a running gateway or on a key file alone.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_MATCH};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;

use crate::admin::change;
use crate::admin::error::ApiError;
use crate::admin::idempotency::{Repeat, Reservation};
use crate::admin::input::{JsonObject, Query};
use crate::admin::key_list::KeyList;
use crate::admin::operation::Operation;
use crate::admin::principal::KeyScope;
use crate::admin::response::ApiResponse;
use crate::observe::log::{Event, Log};
use crate::policy::account::{AccountRefusal, JudgedKey};
use crate::policy::audit::ChangeOrigin;
use crate::policy::key::{KeyState, PreviousToken};
use crate::policy::key_view::KeyView;
use crate::policy::model_access::ModelAccess;
use crate::policy::time::UnixTime;
use crate::runtime::wall_clock::now;
use crate::store::allowance_json::{self, BudgetView};
use crate::store::budgets::BudgetLeftView;
use crate::store::key_revision::{ExpectedRevision, KeyRevision};
use crate::store::key_store::{CreatedKey, KeyStore, ReplyFuture, RotatedKey, WriteError};
use crate::store::patch::{KeyPatch, NewKey, parse_new, parse_patch};
use crate::table::{Entry, Table};
use crate::upstream::Routing;

/// How long a key's token works after a rotation, unless the call says otherwise: a day.
const DEFAULT_GRACE_SECONDS: u32 = 86_400;
/// The longest time that it may work: 90 days.
pub(crate) const MAX_GRACE_SECONDS: u32 = 90 * 86_400;

/// What the calls on keys need.
#[derive(Clone)]
pub(crate) struct KeyApi<'s> {
    /// The key table.
    pub(crate) table: &'s Arc<Table>,
    /// Which keys the caller may see and change.
    pub(crate) scope: KeyScope,
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
    created_by: Option<&'k str>,
    limits: serde_json::Value,
    budgets: Vec<BudgetView>,
    /// How much of the fullest budget is used, from 0 on; null where there is none, or nobody knows yet.
    budget_used_ratio: Option<f64>,
    disabled: bool,
    state: &'static str,
    last_used_at: Option<String>,
    requests: u64,
    previous: Option<PreviousView<'k>>,
    /// From when on it is refused, by its own expiry or by its account.
    ends_at: Option<String>,
    /// Why its account refuses every request with it.
    refused_by_account: Option<&'static str>,
    revision: String,
}

/// The token that the last rotation replaced.
#[derive(Debug, Serialize)]
struct PreviousView<'k> {
    hint: Option<&'k str>,
    not_after: String,
    last_used_at: Option<String>,
}

/// One key.
#[derive(Serialize)]
struct ShownView<'k> {
    #[serde(flatten)]
    key: KeyView<'k, KeyDetails<'k>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets_left: Vec<BudgetLeftView>,
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
    /// Handles a call on keys without a listener, a change only on a key at an expected revision. Returns status and
    /// JSON.
    pub(crate) async fn call(
        &self,
        method: &Method,
        target: &str,
        expected: ExpectedRevision,
        body: &[u8],
    ) -> (StatusCode, Bytes) {
        let result = self.dispatch(method, target, expected, body).await;
        result.map_or_else(ApiError::into_parts, ApiResponse::into_parts)
    }

    async fn dispatch(
        &self,
        method: &Method,
        target: &str,
        expected: ExpectedRevision,
        body: &[u8],
    ) -> Result<ApiResponse, ApiError> {
        let (now, repeat) = (now(), Repeat::default());
        let uri: Uri = target.parse().map_err(|_| ApiError::UnknownPath)?;
        let change = match Operation::of(method.as_str(), uri.path()) {
            Some(Operation::ListKeys) => return self.list(&Query::of(&uri)?, now).await,
            Some(Operation::ShowKey(id)) => return self.show(id, Vec::new(), now),
            Some(Operation::CreateKey) => self.create(body, repeat, now).await,
            Some(Operation::ChangeKey(id)) => self.change(id, expected, body, now).await,
            Some(Operation::RotateKey(id)) => self.rotate(id, expected, body, repeat, now).await,
            Some(Operation::ExpirePrevious(id)) => {
                self.expire_previous(id, expected, body, now).await
            }
            Some(Operation::DeleteKey(id)) => self.delete(id, expected).await,
            _ => return Err(ApiError::UnknownPath),
        };
        change.outcome
    }

    /// One page of keys.
    pub(super) async fn list(&self, query: &Query, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let wanted = KeyList::of(query, now)?;
        // Without a database a key may have been used before the last start, and nobody knows.
        if wanted.needs_uses() && !self.keeps_uses {
            return Err(ApiError::NoDatabase);
        }
        let (table, scope) = (Arc::clone(self.table), self.scope.clone());
        let routing = self.routing.clone();
        // A search looks at every key. With a million keys it would block the runtime's thread too long.
        let page = move || {
            let found = wanted.page(&table, &scope, now);
            let entries = found.entries.iter();
            let keys = entries.map(|entry| view(&table, routing.as_deref(), entry, now));
            ApiResponse::json(&PageView {
                keys: keys.collect(),
                next: found.next,
            })
        };
        tokio::task::spawn_blocking(page)
            .await
            .map_err(|_| ApiError::Internal)
    }

    /// # Errors
    /// The key does not exist for the caller.
    pub(super) fn check_sees(&self, id: &str) -> Result<(), ApiError> {
        let entry = self.table.by_id(id);
        let entry = entry.filter(|entry| self.scope.sees(entry.key()));
        entry.map(drop).ok_or(ApiError::UnknownKey)
    }

    fn view<'k>(&self, entry: &'k Entry, now: UnixTime) -> KeyView<'k, KeyDetails<'k>> {
        view(self.table, self.routing.as_deref(), entry, now)
    }

    /// What whoever makes a token should know where the account refuses it.
    fn account_warning(&self, entry: &Entry, now: UnixTime) -> Option<String> {
        let account = entry.account_rules();
        let judged = JudgedKey::new(entry.key(), account.as_deref());
        let refusal = account_refusal(judged, self.routing.as_deref(), now)?;
        let reason = refusal.reason();
        Some(format!(
            "the key's account refuses every request with it: {reason}"
        ))
    }

    /// One key, with its revision as entity tag.
    fn shown(
        &self,
        entry: &Entry,
        budgets_left: Vec<BudgetLeftView>,
        now: UnixTime,
    ) -> Result<ApiResponse, ApiError> {
        let tag = HeaderValue::try_from(format!("\"{}\"", KeyRevision::of(entry.key())));
        let tag = tag.map_err(|_| ApiError::Internal)?;
        let key = ShownView {
            key: self.view(entry, now),
            budgets_left,
        };
        Ok(ApiResponse::json(&key).with(ETAG, tag))
    }

    /// Shows a key, and what is left of its budgets where that is passed.
    pub(super) fn show(
        &self,
        id: &str,
        budgets_left: Vec<BudgetLeftView>,
        now: UnixTime,
    ) -> Result<ApiResponse, ApiError> {
        let entry = self.table.by_id(id);
        let entry = entry.filter(|entry| self.scope.sees(entry.key()));
        let entry = entry.ok_or(ApiError::UnknownKey)?;
        self.shown(&entry, budgets_left, now)
    }

    /// Creates a key.
    pub(super) async fn create(&self, body: &[u8], repeat: Repeat, now: UnixTime) -> KeyChange {
        let new = parse_new(body).map_err(ApiError::from).and_then(|mut new| {
            self.scope.admit_new(&mut new)?;
            Ok(new)
        });
        let new = match new {
            Ok(new) => new,
            Err(error) => return KeyChange::refused(error),
        };
        let reservation = match repeat.reserve(now) {
            Ok(reservation) => reservation,
            Err(key_id) => return self.repeated(key_id, now),
        };
        let (fields, warnings) = (fields_of(&new), self.warnings(&new));
        let id = |created: &CreatedKey| created.entry.key().id().to_owned();
        match settle(self.key_store.create(new, now), reservation, id).await {
            Ok(created) => KeyChange {
                outcome: Ok(ApiResponse::created(&CreatedView {
                    key: self.view(&created.entry, now),
                    token: created.token.reveal(),
                    url: self.url,
                    warnings: warnings
                        .into_iter()
                        .chain(self.account_warning(&created.entry, now))
                        .collect(),
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
        self.update(id, expected, patch, now).await
    }

    /// The revision that a change of a key is made on, where the caller may change it: what was judged is what is changed.
    fn admit(&self, id: &str, expected: ExpectedRevision) -> Result<ExpectedRevision, ApiError> {
        if self.scope.is_all() {
            return Ok(expected);
        }
        let entry = self.table.by_id(id);
        let entry = entry.filter(|entry| self.scope.may_change(entry.key()));
        let entry = entry.ok_or(ApiError::UnknownKey)?;
        let judged = KeyRevision::of(entry.key()).to_string();
        Ok(ExpectedRevision::OneOf(match expected {
            ExpectedRevision::Any => vec![judged],
            ExpectedRevision::OneOf(expected) => {
                expected.into_iter().filter(|one| *one == judged).collect()
            }
        }))
    }

    async fn update(
        &self,
        id: &str,
        expected: ExpectedRevision,
        patch: KeyPatch,
        now: UnixTime,
    ) -> KeyChange {
        let fields = patch.fields();
        let expected = self.admit(id, expected).and_then(|expected| {
            if let Some(entry) = self.table.by_id(id) {
                self.scope.admit_change(entry.key(), &patch)?;
            }
            Ok(expected)
        });
        let expected = match expected {
            Ok(expected) => expected,
            Err(error) => return KeyChange::refused(error),
        };
        let changed = self
            .key_store
            .update_revision(id, expected, patch, now)
            .await;
        KeyChange {
            outcome: changed
                .map_err(ApiError::from)
                .and_then(|entry| self.shown(&entry, Vec::new(), now)),
            key_id: Some(id.to_owned()),
            fields,
        }
    }

    /// Gives a key that is at an expected revision a new token. The one that it has works on for a while.
    pub(super) async fn rotate(
        &self,
        id: &str,
        expected: ExpectedRevision,
        body: &[u8],
        repeat: Repeat,
        now: UnixTime,
    ) -> KeyChange {
        let grace = JsonObject::of(body).and_then(|mut body| {
            let grace = body.number("grace_seconds", MAX_GRACE_SECONDS)?;
            body.finish().map(|()| grace)
        });
        let grace = match grace {
            Ok(grace) => grace.unwrap_or(DEFAULT_GRACE_SECONDS),
            Err(fault) => return KeyChange::refused(fault),
        };
        let expected = match self.admit(id, expected) {
            Ok(expected) => expected,
            Err(error) => return KeyChange::refused(error),
        };
        let reservation = match repeat.reserve(now) {
            Ok(reservation) => reservation,
            Err(key_id) => return self.repeated(key_id, now),
        };
        let rotated = self.key_store.rotate(id, expected, grace, now);
        let id_of = |rotated: &RotatedKey| rotated.entry.key().id().to_owned();
        let rotated = settle(rotated, reservation, id_of).await;
        KeyChange {
            outcome: rotated.map_err(ApiError::from).map(|rotated| {
                ApiResponse::created(&CreatedView {
                    key: self.view(&rotated.entry, now),
                    token: rotated.token.reveal(),
                    url: self.url,
                    warnings: rotation_warnings(&rotated, now)
                        .into_iter()
                        .chain(self.account_warning(&rotated.entry, now))
                        .collect(),
                })
            }),
            key_id: Some(id.to_owned()),
            fields: vec!["hint", "previous", "token"],
        }
    }

    /// Ends the previous token of a key that is at an expected revision.
    pub(super) async fn expire_previous(
        &self,
        id: &str,
        expected: ExpectedRevision,
        body: &[u8],
        now: UnixTime,
    ) -> KeyChange {
        if let Err(fault) = JsonObject::of(body).and_then(JsonObject::finish) {
            return KeyChange::refused(fault);
        }
        let patch = KeyPatch {
            ends_previous: true,
            ..KeyPatch::default()
        };
        self.update(id, expected, patch, now).await
    }

    /// The answer to a call that was made before under the same Idempotency-Key.
    fn repeated(&self, key_id: Option<String>, now: UnixTime) -> KeyChange {
        let entry = key_id.as_deref().and_then(|id| self.table.by_id(id));
        let entry = entry.filter(|entry| self.scope.sees(entry.key()));
        let key = entry.and_then(|entry| serde_json::to_value(self.view(&entry, now)).ok());
        KeyChange {
            outcome: Err(ApiError::Repeated {
                key: key.unwrap_or_default(),
            }),
            key_id,
            fields: Vec::new(),
        }
    }

    /// Deletes a key that is at an expected revision.
    pub(super) async fn delete(&self, id: &str, expected: ExpectedRevision) -> KeyChange {
        let expected = match self.admit(id, expected) {
            Ok(expected) => expected,
            Err(error) => return KeyChange::refused(error),
        };
        let deleted = self.key_store.delete_revision(id, expected).await;
        KeyChange {
            outcome: deleted.map(|_| ApiResponse::done()).map_err(ApiError::from),
            key_id: Some(id.to_owned()),
            fields: Vec::new(),
        }
    }

    /// A warning for each listed model that no upstream serves. That is allowed, since upstreams change, but may be a
    /// mistake.
    fn warnings(&self, new: &NewKey) -> Vec<String> {
        let Some(routing) = &self.routing else {
            return Vec::new();
        };
        let access = &new.model_access;
        // To a person, models that the account does not allow do not exist.
        let account = new.account.as_ref().filter(|_| !self.scope.is_all());
        let account = account.and_then(|account| self.table.account(account.as_str()));
        let is_known = |model: &str| {
            let sent_as = routing.sent_as(model).map(|name| &**name);
            routing.upstream_of(model).is_some()
                && account
                    .as_ref()
                    .is_none_or(|account| account.model_access.allows_as(model, sent_as))
        };
        let unserved = access.models().iter().filter(|model| !is_known(model));
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

/// Waits for the key store. With a reservation the wait outlives a client that leaves, so that its next attempt finds
/// what became of this one.
async fn settle<T: Send + 'static>(
    reply: ReplyFuture<T, WriteError>,
    reservation: Option<Reservation>,
    id_of: impl FnOnce(&T) -> String + Send + 'static,
) -> Result<T, WriteError> {
    let Some(reservation) = reservation else {
        return reply.await;
    };
    let waiting = tokio::spawn(async move {
        let result = reply.await;
        match &result {
            Ok(done) => reservation.keep(id_of(done)),
            Err(_) => reservation.release(),
        }
        result
    });
    let lost = |error| WriteError::NotWritten {
        in_force: false,
        error: std::io::Error::other(error).into(),
    };
    waiting.await.unwrap_or_else(|error| Err(lost(error)))
}

/// What whoever rotates a key should know beside its new token.
fn rotation_warnings(rotated: &RotatedKey, now: UnixTime) -> Vec<String> {
    let key = rotated.entry.key();
    let ended = rotated.ended.as_ref().map(|ended| {
        let (hint, end) = (ended.hint(), ended.not_after());
        let which = hint.map_or_else(String::new, |hint| format!(" that ends in {hint}"));
        format!("the older token{which} has ended: it would have worked until {end}")
    });
    let state = match key.state(now) {
        KeyState::Active => None,
        KeyState::Disabled => Some("the key is disabled, so its new token is refused too"),
        KeyState::Expired => Some("the key has expired, so its new token is refused too"),
    };
    ended.into_iter().chain(state.map(str::to_owned)).collect()
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
        created_by: _,
        allowance,
    } = new;
    let set = [
        (true, "name"),
        (true, "model_access"),
        (!allow_from.networks().is_empty(), "allow_from"),
        (expires_at.is_some(), "expires_at"),
        (account.is_some(), "account"),
        (!allowance.limits.are_unset(), "limits"),
        (!allowance.budgets.is_empty(), "budgets"),
    ];
    let named = set.into_iter().filter(|(is_set, _)| *is_set);
    named.map(|(_, name)| name).collect()
}

fn view<'k>(
    table: &Table,
    routing: Option<&Routing>,
    entry: &'k Entry,
    now: UnixTime,
) -> KeyView<'k, KeyDetails<'k>> {
    let (key, usage) = (entry.key(), table.usage(entry));
    let account = entry.account_rules();
    let judged = JudgedKey::new(key, account.as_deref());
    let text = |time: UnixTime| time.to_string();
    let details = KeyDetails {
        created_at: key.created_at().map(text),
        account: key.account(),
        created_by: key.created_by(),
        limits: allowance_json::limits_view(&key.limits()),
        budgets: key.budgets().iter().map(BudgetView::of).collect(),
        budget_used_ratio: entry.budget_used_ratio(),
        disabled: key.disabled(),
        state: judged.state(now).label(),
        last_used_at: usage.last_used_at.map(text),
        requests: usage.requests,
        previous: key
            .previous()
            .map(|previous| previous_view(previous, usage.previous_last_used_at)),
        ends_at: judged.expires_at().map(text),
        refused_by_account: account_refusal(judged, routing, now).map(AccountRefusal::label),
        revision: KeyRevision::of(key).to_string(),
    };
    KeyView::for_operator(key, details)
}

fn account_refusal(
    key: JudgedKey<'_>,
    routing: Option<&Routing>,
    now: UnixTime,
) -> Option<AccountRefusal> {
    key.refused_by_account(now, |model| {
        let sent_as = routing.and_then(|routing| routing.sent_as(model));
        sent_as.map(|sent_as| &**sent_as)
    })
}

fn previous_view(previous: &PreviousToken, last_used_at: Option<UnixTime>) -> PreviousView<'_> {
    PreviousView {
        hint: previous.hint(),
        not_after: previous.not_after().to_string(),
        last_used_at: last_used_at.map(|time| time.to_string()),
    }
}
