//! Lists, shows, creates, changes and deletes accounts. They are in the database; the key table holds what is in force.
//!
//! A change that may give access has its audit row and is in the database before it is in force. One that takes access
//! away for certain is in force first, whatever the disk does.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ETAG, HeaderValue};
use serde_json::{Map, Value, json};

use crate::admin::Services;
use crate::admin::change::{with_mark, with_origin};
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::{AccountAccess, OperatorOnly, Principal};
use crate::admin::response::ApiResponse;
use crate::observe::log::Event;
use crate::policy::account::AccountRules;
use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin};
use crate::policy::key::KeyId;
use crate::policy::person::Role;
use crate::policy::time::UnixTime;
use crate::policy::widening::account_widens;
use crate::store::account_json::{
    account_fields, account_revision, parse_account_patch, parse_new_account, unlimited,
};
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::{Database, DatabaseError, IfNotWritten};
use crate::store::from_database::{
    FollowedAccounts, follow_accounts, last_key_uses, restore_key_uses,
};
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_store::{FollowStatus, KeyStore, WriteError};
use crate::table::Table;

/// Accounts on a page, unless the call says otherwise.
const DEFAULT_PAGE: usize = 100;
/// How often other gateways' changes are looked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at the least, however many keys change.
const FOLLOW_GAP: Duration = Duration::from_millis(50);

/// The calls on accounts. It owns what it needs, so that a change can outlive a client that leaves.
pub(super) struct AccountApi {
    services: Arc<Services>,
    database: Arc<Database>,
    origin: ChangeOrigin,
}

impl AccountApi {
    /// # Errors
    /// There is no database, and so there are no accounts.
    pub(super) fn new(services: &Arc<Services>, origin: ChangeOrigin) -> Result<Self, ApiError> {
        let database = services.database.as_ref().ok_or(ApiError::NoAccounts)?;
        Ok(Self {
            services: Arc::clone(services),
            database: Arc::clone(database),
            origin,
        })
    }

    /// One page of accounts, by their ids.
    pub(super) async fn list(
        &self,
        query: &Query,
        principal: &Principal,
    ) -> Result<ApiResponse, ApiError> {
        for (name, _) in query.pairs() {
            if !matches!(name.as_str(), "limit" | "after") {
                return Err(ApiError::invalid(name, "is no known parameter; remove it"));
            }
        }
        let limit = query.limit(DEFAULT_PAGE)?;
        let after = query.parameter("after")?.map(str::to_owned);
        if let Some(after) = &after {
            KeyId::parse(after)
                .map_err(|_| ApiError::invalid("after", "must be the next of an answer"))?;
        }
        let roles = principal.roles().map(<[_]>::to_vec);
        let table = Arc::clone(&self.services.table);
        // It looks at every key. With a million of them it would block the runtime's thread too long.
        let page = move || {
            let mut accounts = table.accounts();
            let role_in = |account: &AccountRules| {
                let mut roles = roles.iter().flatten();
                let of_account = roles.find(|(id, _)| id == account.id.as_str());
                of_account.map(|(_, role)| *role)
            };
            if roles.is_some() {
                accounts.retain(|account| role_in(account).is_some());
            }
            let begin = after.map_or(0, |after| {
                accounts.partition_point(|account| account.id.as_str() <= after.as_str())
            });
            let page = &accounts[begin..];
            let next = page
                .get(limit)
                .and_then(|_| page.get(limit.checked_sub(1)?));
            let next = next.map(|last| last.id.as_str().to_owned());
            let page = &page[..limit.min(page.len())];
            let counts = key_counts(&table, page);
            let views = page.iter().map(|account| {
                let keys = counts.get(account.id.as_str()).copied();
                view(account, keys.unwrap_or(0), role_in(account))
            });
            ApiResponse::json(&json!({"accounts": views.collect::<Vec<_>>(), "next": next}))
        };
        tokio::task::spawn_blocking(page)
            .await
            .map_err(|_| ApiError::Internal)
    }

    /// Shows an account.
    pub(super) async fn show(&self, access: &AccountAccess) -> Result<ApiResponse, ApiError> {
        let account = self.existing(access.id())?;
        self.shown(&account, access.role()).await
    }

    /// Creates an account.
    pub(super) async fn create(
        &self,
        _: OperatorOnly,
        body: &[u8],
        now: UnixTime,
    ) -> Result<ApiResponse, ApiError> {
        let mut patch = parse_new_account(body)?;
        let mut unwritten = self.services.state.account_changes.lock().await;
        let id = match patch.id.take() {
            Some(id) => id,
            None => random_id().ok_or(ApiError::Internal)?,
        };
        self.catch_up(&unwritten).await;
        if self.services.table.account(id.as_str()).is_some() {
            return Err(ApiError::AccountExists);
        }
        let account = patch.applied_to(&unlimited(id, now));
        self.put(AuditAction::CreateAccount, None, &account, &mut unwritten)
            .await?;
        let keys = self.keys_of(account.id.as_str()).await?.len();
        Ok(ApiResponse::created(&view(&account, keys, None)))
    }

    /// Another gateway may have made an account a moment ago, which a new one of the same id would replace. Where the database
    /// cannot be read it cannot be written, and nothing is made.
    async fn catch_up(&self, unwritten: &BTreeSet<String>) {
        if !self.database.is_shared() {
            return;
        }
        if let Ok(Some(accounts)) = asked(&self.database, Database::accounts).await {
            let (table, unwritten) = (Arc::clone(&self.services.table), unwritten.clone());
            let follow = move || follow_accounts(accounts, &table, &unwritten);
            // What it has changed, the next look would have.
            let _ = tokio::task::spawn_blocking(follow).await;
        }
    }

    /// Changes some fields of an account that is at an expected revision.
    pub(super) async fn change(
        &self,
        _: OperatorOnly,
        id: &str,
        expected: &ExpectedRevision,
        body: &[u8],
    ) -> Result<ApiResponse, ApiError> {
        let patch = parse_account_patch(body)?;
        let mut unwritten = self.services.state.account_changes.lock().await;
        let before = self.existing(id)?;
        check_revision(expected, &before)?;
        let after = patch.applied_to(&before);
        if after != *before || unwritten.contains(id) {
            self.put(
                AuditAction::ChangeAccount,
                Some(&before),
                &after,
                &mut unwritten,
            )
            .await?;
        }
        if after.disabled && !before.disabled {
            // Roles in a disabled account give nothing, whatever becomes of this.
            let id = id.to_owned();
            let _ = self
                .write(move |database| database.end_sessions_in(&id), true)
                .await;
        }
        self.shown(&after, None).await
    }

    /// Deletes an account that is at an expected revision, with its keys, where it has as many as `named`.
    pub(super) async fn delete(
        &self,
        _: OperatorOnly,
        id: &str,
        expected: &ExpectedRevision,
        (named, key_store): (usize, &KeyStore),
    ) -> Result<ApiResponse, ApiError> {
        let mut unwritten = self.services.state.account_changes.lock().await;
        let before = self.existing(id)?;
        check_revision(expected, &before)?;
        let keys = self.keys_of(id).await?;
        if keys.len() != named {
            return Err(ApiError::AccountHasKeys { keys: keys.len() });
        }
        // First, so that none of them is used, and none is made, while they are deleted.
        let closed = AccountRules {
            disabled: true,
            ..AccountRules::clone(&before)
        };
        self.services.table.put_account(closed);
        match self.delete_closed(&before, keys, key_store).await {
            Ok(mark) => {
                self.services.table.remove_account(id);
                unwritten.remove(id);
                self.log(AuditAction::DeleteAccount, id, &[], mark.as_ref());
                Ok(ApiResponse::done())
            }
            Err(error) => {
                self.services
                    .table
                    .put_account(AccountRules::clone(&before));
                Err(error)
            }
        }
    }

    /// Deletes the keys, and then the account where no key is left.
    async fn delete_closed(
        &self,
        account: &AccountRules,
        keys: Vec<String>,
        key_store: &KeyStore,
    ) -> Result<Option<AuditMark>, ApiError> {
        let id = account.id.as_str();
        self.delete_keys(keys, key_store).await?;
        let left = self.keys_of(id).await?.len();
        if left > 0 {
            return Err(ApiError::AccountHasKeys { keys: left });
        }
        let row = self.row(AuditAction::DeleteAccount, Some(account), None);
        let mark = self.record(row, IfNotWritten::Refuse).await?;
        let owned = id.to_owned();
        let delete = move |database: &Database| {
            database.remove_people_of(&owned)?;
            database.delete_account(&owned)
        };
        self.write(delete, false).await?;
        Ok(mark)
    }

    async fn delete_keys(&self, keys: Vec<String>, key_store: &KeyStore) -> Result<(), ApiError> {
        // All are sent before the first answer is waited for, so that the key file is written once for many.
        let replies: Vec<_> = keys.iter().map(|id| key_store.delete(id)).collect();
        for reply in replies {
            match reply.await {
                Ok(_) | Err(WriteError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Puts a new or changed account into force, in the order of the module's page.
    async fn put(
        &self,
        action: AuditAction,
        before: Option<&AccountRules>,
        after: &AccountRules,
        unwritten: &mut BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let row = self.row(action, before, Some(after));
        let table = &self.services.table;
        let widens = account_widens(before, Some(after));
        let if_not_written = match widens {
            true => IfNotWritten::Refuse,
            false => IfNotWritten::Wait,
        };
        if !widens {
            unwritten.insert(after.id.as_str().to_owned());
            table.put_account(after.clone());
            self.services.key_store.accounts_changed();
        }
        let mark = self.record(row, if_not_written).await?;
        let account = after.clone();
        self.write(move |database| database.put_account(&account), !widens)
            .await?;
        unwritten.remove(after.id.as_str());
        if widens {
            table.put_account(after.clone());
        }
        let fields = before.map_or_else(Vec::new, |before| after.changed_fields(before));
        self.log(action, after.id.as_str(), &fields, mark.as_ref());
        Ok(())
    }

    /// `in_force`: the change is in force already.
    async fn write(
        &self,
        write: impl FnOnce(&Database) -> Result<(), DatabaseError> + Send + 'static,
        in_force: bool,
    ) -> Result<(), ApiError> {
        let database = Arc::clone(&self.database);
        let written = tokio::task::spawn_blocking(move || write(&database)).await;
        let written = written.map_err(|_| ApiError::Internal)?;
        written.map_err(|error| {
            let state = match in_force {
                true => "in force until the gateway is started again; make the change again",
                false => "nothing was changed",
            };
            ApiError::NotWritten {
                in_force,
                message: format!("{error} ({state})"),
            }
        })
    }

    fn row(
        &self,
        action: AuditAction,
        before: Option<&AccountRules>,
        after: Option<&AccountRules>,
    ) -> AuditEntry {
        let names = before
            .zip(after)
            .map(|(before, after)| after.changed_fields(before));
        let text = |account: &AccountRules| {
            let mut fields: Map<String, Value> = account_fields(account);
            if let Some(names) = &names {
                fields.retain(|name, _| names.contains(&name.as_str()));
            }
            Value::from(fields).to_string()
        };
        let id = after
            .or(before)
            .map(|account| account.id.as_str().to_owned());
        AuditEntry {
            target: id.clone(),
            account: id,
            before: before.map(text),
            after: after.map(text),
            ..entry(action, self.origin.clone(), None)
        }
    }

    async fn record(
        &self,
        row: AuditEntry,
        if_not_written: IfNotWritten,
    ) -> Result<Option<AuditMark>, ApiError> {
        let trail = AuditTrail::of(Some(Arc::clone(&self.database)));
        Ok(trail.record(row, if_not_written).await?)
    }

    fn log(
        &self,
        action: AuditAction,
        id: &str,
        fields: &[&'static str],
        mark: Option<&AuditMark>,
    ) {
        let event = with_origin(Event::info("change"), &self.origin)
            .with("action", action.label())
            .with("account", id.to_owned())
            .with("fields", json!(fields))
            .with("result", "ok");
        self.services.log.event(with_mark(event, mark));
    }

    fn existing(&self, id: &str) -> Result<Arc<AccountRules>, ApiError> {
        self.services
            .table
            .account(id)
            .ok_or(ApiError::UnknownAccount)
    }

    /// The ids of its keys.
    async fn keys_of(&self, id: &str) -> Result<Vec<String>, ApiError> {
        let (table, id) = (Arc::clone(&self.services.table), id.to_owned());
        tokio::task::spawn_blocking(move || table.keys_of_account(&id))
            .await
            .map_err(|_| ApiError::Internal)
    }

    async fn shown(
        &self,
        account: &AccountRules,
        role: Option<Role>,
    ) -> Result<ApiResponse, ApiError> {
        let keys = self.keys_of(account.id.as_str()).await?.len();
        let tag = HeaderValue::try_from(format!("\"{}\"", account_revision(account)));
        let tag = tag.map_err(|_| ApiError::Internal)?;
        Ok(ApiResponse::json(&view(account, keys, role)).with(ETAG, tag))
    }
}

/// Takes over what other gateways change in a database that they share. `is_loaded`: the start has read all of it.
pub(crate) async fn follow(services: Arc<Services>, mut is_loaded: bool) {
    let database = services.database.as_ref();
    let Some(database) = database.filter(|database| database.is_shared()) else {
        return;
    };
    let (mut seen, mut told) = (SeenAccounts::default(), None);
    let mut keys = services.key_store.revision();
    loop {
        keys.borrow_and_update();
        let followed = follow_once(&services, database, &mut seen, &mut is_loaded).await;
        let failed = followed.err().map(|error| error.to_string());
        if failed.is_some() {
            seen.doubt();
        }
        if failed.is_some() && failed != told {
            let event = Event::warn("database").with("message", "the accounts cannot be read");
            let reason = failed.clone().unwrap_or_default();
            services.log.event(event.with("reason", reason));
        }
        told = failed;
        // A new key may be of a new account, without which it has no ceilings.
        tokio::time::sleep(FOLLOW_GAP).await;
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY.saturating_sub(FOLLOW_GAP)) => {}
            Ok(()) = keys.changed() => {}
        }
    }
}

/// The accounts that are in force.
#[derive(Default)]
struct SeenAccounts {
    /// Their revision.
    revision: Option<i64>,
    /// Since then the database may be a backup, until the keys were compared with it.
    doubted: Option<Instant>,
}

impl SeenAccounts {
    /// It may be another database when it is back.
    fn doubt(&mut self) {
        *self = Self {
            revision: None,
            doubted: Some(Instant::now()),
        };
    }

    /// Whether accounts of this revision may be those of a backup.
    fn is_doubtful(&mut self, revision: Option<i64>, key_store: &KeyStore) -> bool {
        if key_store.status().database.is_none() {
            // The keys are not in the database, so that nobody can tell.
            return false;
        }
        if revision < self.revision {
            self.doubted.get_or_insert_with(Instant::now);
        }
        let compared = *key_store.fresh().borrow();
        self.doubted
            .is_some_and(|since| compared.is_none_or(|compared| compared <= since))
    }
}

async fn follow_once(
    services: &Services,
    database: &Arc<Database>,
    seen: &mut SeenAccounts,
    is_loaded: &mut bool,
) -> Result<(), DatabaseError> {
    let status = services.key_store.status();
    let is_behind = status
        .database
        .as_ref()
        .is_some_and(FollowStatus::is_behind);
    if is_behind {
        // A backup: its accounts are of before, as its keys are. Once it is accepted, all of them are read.
        seen.doubt();
        return Ok(());
    }
    let Some(revision) = asked(database, Database::accounts_revision).await? else {
        return Ok(());
    };
    if revision == seen.revision || seen.is_doubtful(revision, &services.key_store) {
        return Ok(());
    }
    // No change of this gateway is half done meanwhile.
    let unwritten = services.state.account_changes.lock().await;
    let Some(accounts) = asked(database, Database::accounts).await? else {
        return Ok(());
    };
    // It may look at every key, so that it would block the runtime's thread too long.
    let (table, ids) = (Arc::clone(&services.table), unwritten.clone());
    let follow = move || follow_accounts(accounts, &table, &ids);
    let Ok(followed) = tokio::task::spawn_blocking(follow).await else {
        return Ok(());
    };
    if !*is_loaded {
        let table = Arc::clone(&services.table);
        asked(database, move |database| restore_key_uses(database, &table)).await?;
        *is_loaded = true;
    }
    services.table.accounts_are_known();
    services.key_store.accounts_changed();
    // Read before the accounts: a change in between is seen the next time.
    *seen = SeenAccounts {
        revision,
        doubted: None,
    };
    drop(unwritten);
    log_followed(services, &followed);
    Ok(())
}

fn log_followed(services: &Services, followed: &FollowedAccounts) {
    let FollowedAccounts {
        changed,
        removed,
        closed,
    } = followed;
    if !changed.is_empty() || !removed.is_empty() {
        let message = "accounts were changed through another gateway";
        services.log.event(
            Event::info("accounts")
                .with("message", message)
                .with("changed", json!(changed))
                .with("removed", json!(removed)),
        );
    }
    if !closed.is_empty() {
        let message = "accounts that keys here name were deleted through another gateway; these keys are refused, delete them \
                       or give them another account";
        services.log.event(
            Event::warn("accounts")
                .with("message", message)
                .with("accounts", json!(closed)),
        );
    }
}

/// Learns when keys were used through other gateways that share the database: a key that is used there is not unused here.
pub(super) async fn learn_key_uses(services: &Services) -> Result<(), ApiError> {
    let database = services.database.as_ref();
    let Some(database) = database.filter(|database| database.is_shared()) else {
        return Ok(());
    };
    let table = Arc::clone(&services.table);
    let learned = asked(database, move |database| last_key_uses(database, &table)).await;
    learned.map(drop).map_err(|error| {
        let event = Event::warn("database").with("message", "the uses of keys cannot be read");
        services.log.event(event.with("reason", error.to_string()));
        ApiError::DatabaseFailed
    })
}

/// Asks the database off the runtime's thread. None: the question has ended by a panic.
async fn asked<T: Send + 'static>(
    database: &Arc<Database>,
    ask: impl FnOnce(&Database) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<Option<T>, DatabaseError> {
    let database = Arc::clone(database);
    let asked = tokio::task::spawn_blocking(move || ask(&database)).await;
    asked.ok().transpose()
}

/// How many keys go with an account, from the parameter `keys`.
pub(super) fn named_keys(query: &Query) -> Result<usize, ApiError> {
    let Some(text) = query.parameter("keys")? else {
        return Ok(0);
    };
    let wrong = "must be the number of keys that go with the account";
    text.parse().map_err(|_| ApiError::invalid("keys", wrong))
}

/// Makes a change to its end, also where its client leaves: what is in force and what is in the database stay the same.
pub(super) async fn to_its_end(
    change: impl Future<Output = Result<ApiResponse, ApiError>> + Send + 'static,
) -> Result<ApiResponse, ApiError> {
    tokio::spawn(change)
        .await
        .unwrap_or(Err(ApiError::Internal))
}

fn check_revision(expected: &ExpectedRevision, account: &AccountRules) -> Result<(), ApiError> {
    match expected {
        ExpectedRevision::Any => Ok(()),
        ExpectedRevision::OneOf(revisions) if revisions.contains(&account_revision(account)) => {
            Ok(())
        }
        ExpectedRevision::OneOf(_) => Err(ApiError::AccountChanged),
    }
}

/// How many keys each of these accounts has.
fn key_counts(table: &Table, accounts: &[Arc<AccountRules>]) -> HashMap<String, usize> {
    let ids = accounts
        .iter()
        .map(|account| account.id.as_str().to_owned());
    let mut counts: HashMap<String, usize> = ids.map(|id| (id, 0)).collect();
    table.walk_newest_first(None, |_, entry| {
        let account = entry.key().account();
        if let Some(count) = account.and_then(|account| counts.get_mut(account)) {
            *count += 1;
        }
        ControlFlow::Continue(())
    });
    counts
}

/// `role`: that of the person who asks.
fn view(account: &AccountRules, keys: usize, role: Option<Role>) -> Value {
    let mut fields = account_fields(account);
    fields.insert("keys".to_owned(), keys.into());
    fields.insert("revision".to_owned(), account_revision(account).into());
    if let Some(role) = role {
        fields.insert("role".to_owned(), role.label().into());
    }
    fields.into()
}

/// `account_` and 16 hexadecimal digits.
fn random_id() -> Option<KeyId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    KeyId::parse(&format!("account_{:016x}", u64::from_be_bytes(bytes))).ok()
}
