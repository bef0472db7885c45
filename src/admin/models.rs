//! GET /api/models: all models, and how many keys may use each; those of one account where the call names one.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::{KeyScope, Principal};
use crate::admin::response::ApiResponse;
use crate::policy::account::{AccountRules, JudgedKey};
use crate::policy::key::{Key, KeyState};
use crate::policy::person::Role;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::table::{Entry, Table, drop_incrementally, yield_every};
use crate::upstream::Routing;

#[derive(Serialize)]
struct View {
    models: Vec<ModelView>,
}

#[derive(Serialize)]
struct ModelView {
    id: String,
    /// The upstream's own name for it, where it is an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_of: Option<String>,
    upstream: String,
    replicas: usize,
    healthy: usize,
    keys: usize,
}

/// GET /api/models
pub(super) async fn respond(
    services: &Services,
    principal: &Principal,
    query: &Query,
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let (table, routing) = (Arc::clone(&services.table), services.fleet.routing());
    let scope = principal.keys();
    let named = match query.parameter("account")? {
        None => None,
        Some(id) => {
            let access = principal.account(&table, id, Role::Viewer)?;
            Some(access.id().to_owned())
        }
    };
    let of_person = || {
        principal
            .roles()
            .map(|roles| roles.iter().map(|(id, _)| id.clone()))
    };
    let accounts = match &named {
        Some(id) => Some(vec![id.clone()]),
        None => of_person().map(Iterator::collect),
    };
    // This looks at every key. With a million keys it would block the runtime's thread too long.
    let models = tokio::task::spawn_blocking(move || {
        models(
            &table,
            &routing,
            (&scope, named.as_deref()),
            accounts.as_deref(),
            now,
        )
    });
    models
        .await
        .map(|models| ApiResponse::json(&View { models }))
        .map_err(|_| ApiError::Internal)
}

/// The models that one of the accounts allows, and how many of the keys may use each: those in the scope, of the account
/// that was named. No accounts: all models.
fn models(
    table: &Table,
    routing: &Routing,
    (scope, named): (&KeyScope, Option<&str>),
    accounts: Option<&[String]>,
    now: UnixTime,
) -> Vec<ModelView> {
    let names: Vec<&str> = routing.models().map(|(name, _)| name).collect();
    let entries = table.in_file_order(yield_if_due);
    let keys = yield_every(&entries, yield_if_due);
    let is_asked_for = |key: &Key| named.is_none() || key.account() == named;
    let keys = keys.filter(|entry| scope.sees(entry.key()) && is_asked_for(entry.key()));
    let sent_as = |name: &&str| routing.sent_as(name).map(|sent_as| &**sent_as);
    let sent_as: Vec<Option<&str>> = names.iter().map(sent_as).collect();
    let counts = count(&names, &sent_as, keys, now);
    drop_incrementally(entries, yield_if_due);
    let model = |((name, upstream), keys): ((&str, &Arc<_>), usize)| {
        let upstream: &crate::upstream::Upstream = upstream;
        let replicas = upstream.replicas();
        ModelView {
            id: name.to_owned(),
            alias_of: routing.sent_as(name).map(|sent_as| sent_as.to_string()),
            upstream: upstream.name().to_owned(),
            replicas: replicas.len(),
            healthy: replicas.iter().filter(|replica| replica.is_up()).count(),
            keys,
        }
    };
    let accounts = accounts.map(|accounts| {
        let accounts = accounts.iter().filter_map(|id| table.account(id));
        accounts.collect::<Vec<_>>()
    });
    let is_theirs = |((name, _), _): &((&str, &Arc<_>), usize)| {
        let sent_as = routing.sent_as(name).map(|name| &**name);
        let allows = |account: &Arc<AccountRules>| account.model_access.allows_as(name, sent_as);
        accounts
            .as_ref()
            .is_none_or(|accounts| accounts.iter().any(allows))
    };
    let theirs = routing.models().zip(counts).filter(is_theirs);
    theirs.map(model).collect()
}

/// For each model the number of active keys that may use it. Looks at each key once, however many models there are.
fn count<'k>(
    models: &[&str],
    sent_as: &[Option<&str>],
    entries: impl Iterator<Item = &'k Arc<Entry>>,
    now: UnixTime,
) -> Vec<usize> {
    let mut counts = AccessCounts::new(models, sent_as);
    for (number, entry) in entries.enumerate() {
        let account = entry.account_rules();
        let key = JudgedKey::new(entry.key(), account.as_deref());
        if key.state(now) == KeyState::Active {
            counts.add(number, key);
        }
    }
    let AccessCounts {
        everywhere,
        included,
        excluded,
        ..
    } = counts;
    included
        .into_iter()
        .zip(excluded)
        .map(|(included, excluded)| everywhere - excluded + included)
        .collect()
}

struct AccessCounts<'m> {
    sent_as: &'m [Option<&'m str>],
    /// Where each model stands.
    place: HashMap<&'m str, usize>,
    /// Where the aliases of each model stand: an exclusive list that holds a model's own name also excludes its aliases.
    aliases: HashMap<&'m str, Vec<usize>>,
    /// The keys that may use every model but those that they exclude.
    everywhere: usize,
    included: Vec<usize>,
    excluded: Vec<usize>,
    /// The last key that was counted for each model: a list may hold a name twice.
    counted_by: Vec<Option<usize>>,
}

impl<'m> AccessCounts<'m> {
    fn new(models: &[&'m str], sent_as: &'m [Option<&'m str>]) -> Self {
        let mut aliases: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, sent_as) in sent_as.iter().enumerate() {
            if let Some(sent_as) = sent_as {
                aliases.entry(sent_as).or_default().push(place);
            }
        }
        Self {
            sent_as,
            place: models.iter().copied().zip(0..).collect(),
            aliases,
            everywhere: 0,
            included: vec![0; models.len()],
            excluded: vec![0; models.len()],
            counted_by: vec![None; models.len()],
        }
    }

    /// AccessCounts one more active key, which has this number.
    fn add(&mut self, number: usize, key: JudgedKey<'_>) {
        if let Some(names) = key.listed_models() {
            for name in names {
                if let Some(&place) = self.place.get(&**name)
                    && key.allows_as(name, self.sent_as[place])
                    && self.counted_by[place].replace(number) != Some(number)
                {
                    self.included[place] += 1;
                }
            }
            return;
        }
        self.everywhere += 1;
        let ceiling = key.account().map(|account| account.model_access.models());
        let names = key.key().model_access().models().iter();
        for name in names.chain(ceiling.into_iter().flatten()) {
            let aliases = self.aliases.get(&**name).into_iter().flatten();
            for &place in self.place.get(&**name).into_iter().chain(aliases) {
                if self.counted_by[place].replace(number) != Some(number) {
                    self.excluded[place] += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::account::AccountRules;
    use crate::policy::account::fixture::account;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::key::{Account, KeyFields, KeyId};
    use crate::policy::model_access::{ModelAccess, ModelList};

    fn list(names: &[&str]) -> ModelList {
        ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    fn only(names: &[&str]) -> ModelAccess {
        ModelAccess::Inclusive(list(names))
    }

    fn but(names: &[&str]) -> ModelAccess {
        ModelAccess::Exclusive(list(names))
    }

    /// A table with a key for each of these.
    fn table(keys: impl IntoIterator<Item = KeyFields>) -> Table {
        let table = Table::default();
        for (number, fields) in keys.into_iter().enumerate() {
            let fields = KeyFields {
                id: KeyId::parse(&format!("key_{number}")).unwrap(),
                hash: key_fields(&format!("key_{number}")).hash,
                ..fields
            };
            table.insert(Key::from(fields)).unwrap();
        }
        table
    }

    fn with(model_access: ModelAccess) -> KeyFields {
        KeyFields {
            model_access,
            ..key_fields("k")
        }
    }

    /// The counts, which are those of asking every key for every model.
    fn counted(table: &Table, sent_as: [Option<&str>; 3], now: UnixTime) -> Vec<usize> {
        let models = ["a", "b", "c"];
        let entries = table.in_file_order(yield_if_due);
        let counts = count(&models, &sent_as, entries.iter(), now);
        for (place, model) in models.into_iter().enumerate() {
            let allowed = entries.iter().filter(|entry| {
                let account = entry.account_rules();
                let key = JudgedKey::new(entry.key(), account.as_deref());
                key.state(now) == KeyState::Active && key.allows_as(model, sent_as[place])
            });
            assert_eq!(allowed.count(), counts[place], "{model}");
        }
        counts
    }

    const ALIAS: [Option<&str>; 3] = [None, None, Some("b")];

    #[test]
    fn keys_are_counted_as_their_access_says_and_only_while_active() {
        let now = UnixTime::from_seconds(9);
        let table = table([
            with(ModelAccess::All),
            KeyFields {
                disabled: true,
                ..with(ModelAccess::All)
            },
            KeyFields {
                expires_at: Some(now),
                ..with(ModelAccess::All)
            },
            with(only(&["a", "a", "gone"])),
            with(but(&["a", "a", "gone"])),
            with(but(&["b"])),
        ]);
        assert_eq!(counted(&table, [None; 3], now), [3, 2, 3]);
        assert_eq!(counted(&table, ALIAS, now), [3, 2, 2]);
    }

    #[test]
    fn keys_are_counted_only_where_their_account_allows_it_too() {
        let accesses = [
            ModelAccess::All,
            only(&["a"]),
            only(&["b", "c"]),
            but(&["a"]),
            but(&["b"]),
        ];
        let now = UnixTime::from_seconds(9);
        for disabled in [false, true] {
            for model_access in &accesses {
                let table = table(accesses.iter().map(|own| KeyFields {
                    account: Account::parse("acme").ok(),
                    ..with(own.clone())
                }));
                table.put_account(AccountRules {
                    model_access: model_access.clone(),
                    disabled,
                    ..account("acme")
                });
                let counts = counted(&table, [None; 3], now);
                assert_eq!(counts.iter().all(|count| *count == 0), disabled);
                counted(&table, ALIAS, now);
            }
        }
    }
}
