//! Keys: listed, shown, made, changed, deleted. The same for a running gateway and for a key file without one.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use serde::Serialize;

use crate::observe::log::{Event, Log};
use crate::policy::key::Key;
use crate::policy::model_access::ModelAccess;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::key_store::KeyStore;
use crate::store::patch::{NewKey, parse_new, parse_patch};
use crate::table::{Entry, SortKey, Table};
use crate::upstream::Routing;

use super::input::Query;
use super::reply::{Refusal, Reply};
use super::{Route, now};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// All that calls on keys need.
#[derive(Clone)]
pub struct Keyring<'s> {
    /// The key table.
    pub table: &'s Arc<Table>,
    /// Who changes it.
    pub keeper: &'s KeyStore,
    /// The catalogue, where it is known.
    pub routing: Option<Arc<Routing>>,
    /// The OpenAI Compatible URL.
    pub url: &'s str,
}

/// What was answered without a listener.
#[derive(Debug)]
pub struct Answered(Result<Reply, Refusal>);

impl Answered {
    /// Status and JSON.
    #[must_use]
    pub fn into_parts(self) -> (StatusCode, Bytes) {
        self.0.map_or_else(Refusal::into_parts, Reply::into_parts)
    }
}

/// A change that was asked for, and what there is to log of it.
#[derive(Debug)]
pub(super) struct Change {
    /// What to answer.
    pub(super) outcome: Result<Reply, Refusal>,
    key_id: Option<String>,
    fields: Vec<&'static str>,
}

/// A key as answers show it.
#[derive(Debug, Serialize)]
struct KeyView<'k> {
    id: &'k str,
    name: &'k str,
    hint: Option<&'k str>,
    model_access: AccessView<'k>,
    allow_from: Vec<String>,
    expires_at: Option<String>,
    created_at: Option<String>,
    account: Option<&'k str>,
    disabled: bool,
    state: &'static str,
    last_used_at: Option<String>,
    requests: u64,
}

#[derive(Debug, Serialize)]
struct AccessView<'k> {
    mode: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    models: &'k [Box<str>],
}

#[derive(Serialize)]
struct PageView<'k> {
    keys: Vec<KeyView<'k>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct CreatedView<'k> {
    key: KeyView<'k>,
    token: &'k str,
    url: &'k str,
    warnings: Vec<String>,
}

impl Keyring<'_> {
    /// Answers a call on keys, as a listener would, without one.
    pub async fn answer(&self, method: &Method, target: &str, body: &[u8]) -> Answered {
        let now = now();
        let uri: Result<Uri, _> = target.parse();
        let Ok(uri) = uri else {
            return Answered(Err(Refusal::UnknownPath));
        };
        Answered(match Route::of(method.as_str(), uri.path()) {
            Some(Route::ListKeys) => match Query::of(&uri) {
                Ok(query) => self.list(&query, now).await,
                Err(refusal) => Err(refusal),
            },
            Some(Route::CreateKey) => self.create(body, now).await.outcome,
            Some(Route::ShowKey(id)) => self.show(id, now),
            Some(Route::ChangeKey(id)) => self.change(id, body, now).await.outcome,
            Some(Route::DeleteKey(id)) => self.delete(id).await.outcome,
            _ => Err(Refusal::UnknownPath),
        })
    }

    /// A page of keys, newest first.
    pub(super) async fn list(&self, query: &Query, now: UnixTime) -> Result<Reply, Refusal> {
        let wanted = Wanted::of(query)?;
        let table = Arc::clone(self.table);
        // A query looks at every key: a million take longer than a runtime's thread may be away.
        let page = move || {
            let found = table.newest_first(wanted.after, wanted.limit, |key| {
                yield_if_due();
                wanted.query.matches(key)
            });
            let keys = found.entries.iter().map(|entry| view(&table, entry, now));
            Reply::json(&PageView {
                keys: keys.collect(),
                next: found.next.map(cursor),
            })
        };
        tokio::task::spawn_blocking(page)
            .await
            .map_err(|_| Refusal::Internal)
    }

    /// One key.
    pub(super) fn show(&self, id: &str, now: UnixTime) -> Result<Reply, Refusal> {
        let entry = self.table.by_id(id).ok_or(Refusal::UnknownKey)?;
        Ok(Reply::json(&view(self.table, &entry, now)))
    }

    /// A new key.
    pub(super) async fn create(&self, body: &[u8], now: UnixTime) -> Change {
        let new = match parse_new(body) {
            Ok(new) => new,
            Err(fault) => return Change::refused(fault.into()),
        };
        let (fields, warnings) = (fields_of(&new), self.warnings(&new.model_access));
        match self.keeper.create(new, now).await {
            Ok(created) => Change {
                outcome: Ok(Reply::created(&CreatedView {
                    key: view(self.table, &created.entry, now),
                    token: created.token.reveal(),
                    url: self.url,
                    warnings,
                })),
                key_id: Some(created.entry.key().id().to_owned()),
                fields,
            },
            Err(error) => Change {
                outcome: Err(error.into()),
                key_id: None,
                fields,
            },
        }
    }

    /// Other values for some of a key's fields.
    pub(super) async fn change(&self, id: &str, body: &[u8], now: UnixTime) -> Change {
        let patch = match parse_patch(body) {
            Ok(patch) => patch,
            Err(fault) => return Change::refused(fault.into()),
        };
        let fields = patch.fields();
        let changed = self.keeper.update(id, patch, now).await;
        Change {
            outcome: changed
                .map(|entry| Reply::json(&view(self.table, &entry, now)))
                .map_err(Refusal::from),
            key_id: Some(id.to_owned()),
            fields,
        }
    }

    /// A key that is gone.
    pub(super) async fn delete(&self, id: &str) -> Change {
        let deleted = self.keeper.delete(id).await;
        Change {
            outcome: deleted.map(|_| Reply::done()).map_err(Refusal::from),
            key_id: Some(id.to_owned()),
            fields: Vec::new(),
        }
    }

    /// What a key names that nobody serves: taken, since upstreams come and go, but perhaps a slip.
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

impl Change {
    fn refused(refusal: Refusal) -> Self {
        Self {
            outcome: Err(refusal),
            key_id: None,
            fields: Vec::new(),
        }
    }
}

/// The change line.
pub(super) fn log_change(log: &Log, who: &str, action: &'static str, change: &Change) {
    let result = change
        .outcome
        .as_ref()
        .map_or_else(Refusal::label, |_| "ok");
    // What no key has as its id may be anything, a token pasted in its place too.
    let known = !matches!(change.outcome, Err(Refusal::UnknownKey));
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

fn view<'k>(table: &Table, entry: &'k Entry, now: UnixTime) -> KeyView<'k> {
    let (key, usage) = (entry.key(), table.usage(entry));
    let text = |time: UnixTime| time.to_string();
    KeyView {
        id: key.id(),
        name: key.name(),
        hint: key.hint(),
        model_access: AccessView {
            mode: key.model_access().mode(),
            models: key.model_access().models(),
        },
        allow_from: key
            .allow_from()
            .networks()
            .iter()
            .map(ToString::to_string)
            .collect(),
        expires_at: key.expires_at().map(text),
        created_at: key.created_at().map(text),
        account: key.account(),
        disabled: key.disabled(),
        state: key.state(now).label(),
        last_used_at: usage.last_used_at.map(text),
        requests: usage.requests,
    }
}

/// Which keys a list asks for.
struct Wanted {
    after: Option<SortKey>,
    limit: usize,
    query: Search,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let limit = match query.parameter("limit")? {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| {
                    Refusal::invalid("limit", format!("must be a number from 1 to {MAX_LIMIT}"))
                })?,
        };
        let after = match query.parameter("after")? {
            None => None,
            Some(text) => Some(place_of(text).ok_or_else(|| {
                Refusal::invalid(
                    "after",
                    "is no place in the list; take it from an answer's next",
                )
            })?),
        };
        Ok(Self {
            after,
            limit,
            query: Search::of(query.parameter("query")?.unwrap_or_default()),
        })
    }
}

/// A place in the list, by the age of the key before it, so that it holds when that key is gone.
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

/// A text to be found in a key, whatever its case.
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
            // The common case without a copy of every key's every text.
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
