//! GET /api/models: all models, and how many keys may use each.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::admin::Services;
use crate::admin::error::ApiError;
use crate::admin::principal::{KeyScope, Principal};
use crate::admin::response::ApiResponse;
use crate::policy::account::AccountRules;
use crate::policy::key::{Key, KeyState};
use crate::policy::model_access::ModelAccess;
use crate::policy::person::Role;
use crate::policy::time::UnixTime;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::table::{Table, drop_incrementally, yield_every};
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
    now: UnixTime,
) -> Result<ApiResponse, ApiError> {
    let (table, routing) = (Arc::clone(&services.table), services.fleet.routing());
    let (scope, roles) = (principal.keys(), principal.roles().map(<[_]>::to_vec));
    // This looks at every key. With a million keys it would block the runtime's thread too long.
    let models = tokio::task::spawn_blocking(move || {
        models(&table, &routing, (&scope, roles.as_deref()), now)
    });
    models
        .await
        .map(|models| ApiResponse::json(&View { models }))
        .map_err(|_| ApiError::Internal)
}

/// Persons see the models that one of their accounts allows, and count their own keys.
fn models(
    table: &Table,
    routing: &Routing,
    (scope, roles): (&KeyScope, Option<&[(String, Role)]>),
    now: UnixTime,
) -> Vec<ModelView> {
    let names: Vec<&str> = routing.models().map(|(name, _)| name).collect();
    let entries = table.in_file_order(yield_if_due);
    let keys = yield_every(&entries, yield_if_due).map(|entry| entry.key());
    let keys = keys.filter(|key| scope.sees(key));
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
    let accounts = roles.map(|roles| {
        let accounts = roles.iter().filter_map(|(id, _)| table.account(id));
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
    keys: impl Iterator<Item = &'k Key>,
    now: UnixTime,
) -> Vec<usize> {
    let place: HashMap<&str, usize> = models.iter().copied().zip(0..).collect();
    // An exclusive list that holds a model's own name also excludes its aliases.
    let mut aliases: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, sent_as) in sent_as.iter().enumerate() {
        if let Some(sent_as) = sent_as {
            aliases.entry(sent_as).or_default().push(place);
        }
    }
    let mut everywhere = 0;
    let (mut included, mut excluded) = (vec![0; models.len()], vec![0; models.len()]);
    // The last key that named each model: a list may hold a name twice.
    let mut named_by = vec![None; models.len()];
    let active = keys.filter(|key| key.state(now) == KeyState::Active);
    for (number, key) in active.enumerate() {
        let counts = match key.model_access() {
            ModelAccess::All => {
                everywhere += 1;
                continue;
            }
            ModelAccess::Inclusive(_) => &mut included,
            ModelAccess::Exclusive(_) => {
                everywhere += 1;
                let names = key.model_access().models();
                for (at, name) in names.iter().enumerate() {
                    if names[..at].contains(name) {
                        continue;
                    }
                    // An alias that the list names itself is counted by that name.
                    let is_named =
                        |place: &&usize| names.iter().any(|name| **name == *models[**place]);
                    for place in aliases
                        .get(&**name)
                        .into_iter()
                        .flatten()
                        .filter(|place| !is_named(place))
                    {
                        excluded[*place] += 1;
                    }
                }
                &mut excluded
            }
        };
        for name in key.model_access().models() {
            if let Some(&place) = place.get(&**name)
                && named_by[place].replace(number) != Some(number)
            {
                counts[place] += 1;
            }
        }
    }
    included
        .into_iter()
        .zip(excluded)
        .map(|(included, excluded)| everywhere - excluded + included)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::KeyFields;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::model_access::ModelList;

    fn key(model_access: ModelAccess, change: fn(&mut KeyFields)) -> Key {
        let mut fields = KeyFields {
            model_access,
            ..key_fields("key_1")
        };
        change(&mut fields);
        fields.into()
    }

    fn list(names: &[&str]) -> ModelList {
        ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn keys_are_counted_as_their_access_says_and_only_while_active() {
        let only = |names: &[&str]| ModelAccess::Inclusive(list(names));
        let but = |names: &[&str]| ModelAccess::Exclusive(list(names));
        let keys = [
            key(ModelAccess::All, |_| ()),
            key(ModelAccess::All, |fields| fields.disabled = true),
            key(ModelAccess::All, |fields| {
                fields.expires_at = Some(UnixTime::from_seconds(9));
            }),
            key(only(&["a", "a", "gone"]), |_| ()),
            key(but(&["a", "a", "gone"]), |_| ()),
            key(but(&["b"]), |_| ()),
        ];
        let now = UnixTime::from_seconds(9);
        let none = [None; 3];
        assert_eq!(count(&["a", "b", "c"], &none, keys.iter(), now), [3, 2, 3]);
        let sent_as = [None, None, Some("b")];
        assert_eq!(
            count(&["a", "b", "c"], &sent_as, keys.iter(), now),
            [3, 2, 2]
        );
        for (model, counted) in ["a", "b", "c"].into_iter().zip([3, 2, 3]) {
            let allowed = keys.iter().filter(|key| {
                key.state(now) == KeyState::Active && key.model_access().allows(model)
            });
            assert_eq!(allowed.count(), counted, "{model}");
        }
    }
}
