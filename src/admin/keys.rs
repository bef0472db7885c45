//! Lists, shows, creates, changes and deletes keys, with a running gateway or on a key file alone.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use serde::Serialize;

use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::operation::Operation;
use crate::admin::response::ApiResponse;
use crate::observe::log::{Event, Log};
use crate::policy::key::Key;
use crate::policy::key_view::KeyView;
use crate::policy::model_access::ModelAccess;
use crate::policy::time::{UnixTime, parse_span};
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock::now;
use crate::store::key_store::KeyStore;
use crate::store::patch::{NewKey, parse_new, parse_patch};
use crate::table::{Entry, SortKey, Table};
use crate::upstream::Routing;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

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
            Some(Operation::ChangeKey(id)) => self.change(id, body, now).await.outcome,
            Some(Operation::DeleteKey(id)) => self.delete(id).await.outcome,
            _ => Err(ApiError::UnknownPath),
        }
    }

    /// One page of keys, newest first.
    pub(super) async fn list(&self, query: &Query, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let wanted = ListRequest::of(query, now)?;
        // Without a database a key may have been used before the last start, and nobody knows.
        if wanted.unused_since.is_some() && !self.keeps_uses {
            return Err(ApiError::NoDatabase);
        }
        let table = Arc::clone(self.table);
        // A search looks at every key. With a million keys it would block the runtime's thread too long.
        let page = move || {
            let found = table.newest_first(wanted.after, wanted.limit, |entry| {
                yield_if_due();
                wanted.search.matches(entry.key())
                    && wanted
                        .unused_since
                        .is_none_or(|since| !is_used_since(&table, entry, since))
            });
            let keys = found.entries.iter().map(|entry| view(&table, entry, now));
            ApiResponse::json(&PageView {
                keys: keys.collect(),
                next: found.next.map(cursor),
            })
        };
        tokio::task::spawn_blocking(page)
            .await
            .map_err(|_| ApiError::Internal)
    }

    /// Shows a key.
    pub(super) fn show(&self, id: &str, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let entry = self.table.by_id(id).ok_or(ApiError::UnknownKey)?;
        Ok(ApiResponse::json(&view(self.table, &entry, now)))
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

    /// Changes some fields of a key.
    pub(super) async fn change(&self, id: &str, body: &[u8], now: UnixTime) -> KeyChange {
        let patch = match parse_patch(body) {
            Ok(patch) => patch,
            Err(fault) => return KeyChange::refused(fault.into()),
        };
        let fields = patch.fields();
        let changed = self.key_store.update(id, patch, now).await;
        KeyChange {
            outcome: changed
                .map(|entry| ApiResponse::json(&view(self.table, &entry, now)))
                .map_err(ApiError::from),
            key_id: Some(id.to_owned()),
            fields,
        }
    }

    /// Deletes a key.
    pub(super) async fn delete(&self, id: &str) -> KeyChange {
        let deleted = self.key_store.delete(id).await;
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

/// Logs a change.
pub(super) fn log_change(log: &Log, who: &str, action: &'static str, change: &KeyChange) {
    let result = change
        .outcome
        .as_ref()
        .map_or_else(ApiError::label, |_| "ok");
    // An unknown id may be anything, even a token pasted by mistake, so it is not logged.
    let known = !matches!(change.outcome, Err(ApiError::UnknownKey));
    log.event(
        Event::info("change")
            .with("action", action)
            .with("who", who)
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
    };
    KeyView::for_operator(key, details)
}

/// The parameters of a list.
struct ListRequest {
    after: Option<SortKey>,
    limit: usize,
    search: Search,
    unused_since: Option<UnixTime>,
}

/// Whether a key was used then or later, or made: a new key is not yet one that nobody uses.
fn is_used_since(table: &Table, entry: &Entry, since: UnixTime) -> bool {
    let used = table.usage(entry).last_used_at;
    [used, entry.key().created_at()]
        .into_iter()
        .flatten()
        .any(|time| time >= since)
}

impl ListRequest {
    fn of(query: &Query, now: UnixTime) -> Result<Self, ApiError> {
        let limit = match query.parameter("limit")? {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| {
                    ApiError::invalid("limit", format!("must be a number from 1 to {MAX_LIMIT}"))
                })?,
        };
        let after = match query.parameter("after")? {
            None => None,
            Some(text) => Some(place_of(text).ok_or_else(|| {
                ApiError::invalid(
                    "after",
                    "is no place in the list; take it from an answer's next",
                )
            })?),
        };
        let unused_since = match query.parameter("unused_for")? {
            None => None,
            Some(text) => Some(
                parse_span(text)
                    .filter(|span| *span > 0)
                    .map(|span| now.plus(-span))
                    .ok_or_else(|| {
                        ApiError::invalid("unused_for", "must be a span like 90d or 12h")
                    })?,
            ),
        };
        Ok(Self {
            after,
            limit,
            unused_since,
            search: Search::of(query.parameter("query")?.unwrap_or_default()),
        })
    }
}

/// Where the next page begins, as text. It holds the sort key of the last key, so it stays valid when that key is deleted.
fn cursor(age: SortKey) -> String {
    format!(
        "{:016x}{:016x}",
        age.created_at.cast_unsigned(),
        age.position
    )
}

fn place_of(cursor: &str) -> Option<SortKey> {
    let is_plain = cursor.len() == 32
        && cursor
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let (created_at, place) = is_plain.then(|| cursor.split_at(16))?;
    Some(SortKey {
        created_at: u64::from_str_radix(created_at, 16).ok()?.cast_signed(),
        position: u64::from_str_radix(place, 16).ok()?,
    })
}

/// A text to search for in keys, ignoring case.
struct Search(String);

impl Search {
    fn of(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn matches(&self, key: &Key) -> bool {
        self.0.is_empty()
            || self.is_in(key.name())
            || self.is_in(key.id())
            || key.account().is_some_and(|account| self.is_in(account))
            || key.hint().is_some_and(|hint| self.is_in(hint))
    }

    fn is_in(&self, text: &str) -> bool {
        let wanted = self.0.as_bytes();
        if text.is_ascii() {
            // The common case, without copying the text.
            return text
                .as_bytes()
                .windows(wanted.len())
                .any(|part| part.eq_ignore_ascii_case(wanted));
        }
        text.to_lowercase().contains(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_list_survives_its_text_form() {
        for age in [
            SortKey {
                created_at: i64::MIN,
                position: 0,
            },
            SortKey {
                created_at: -1,
                position: u64::MAX,
            },
            SortKey {
                created_at: 1_800_000_000,
                position: 7,
            },
        ] {
            let text = cursor(age);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(place_of(&text), Some(age));
        }
        for bad in [
            "",
            "0",
            &"g".repeat(32),
            &"A".repeat(32),
            &"0".repeat(33),
            &format!("+{}", "0".repeat(31)),
        ] {
            assert_eq!(place_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_search_is_blind_to_case_in_every_script() {
        for (wanted, text) in [
            ("WEB", "my website"),
            ("éTÉ", "Été 2027"),
            ("ёлка", "ЁЛКА"),
            ("k", "\u{212a}elvin"),
            ("\u{212a}", "kelvin"),
        ] {
            assert!(Search::of(wanted).is_in(text), "{wanted} in {text}");
        }
        assert!(!Search::of("web").is_in("we b"));
        assert!(!Search::of("longer than the text").is_in("short"));
    }
}
