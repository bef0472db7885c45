//! Keys in PostgreSQL. Each change has the next revision, and is committed under a lock, so that the order of the revisions
//! is the order of the commits and none is missing.
//!
//! Invariant: a reader gets the revision and the rows that belong to it, from one snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::store::database::error::DatabaseError;
use crate::store::database::people::statement;
use crate::store::database::postgres::advisory_lock::AdvisoryLock;
use crate::store::database::postgres::connection::{
    Connection, PAUSE, PostgresServer, Use, within,
};
use crate::store::database::postgres::error::CallError;
use crate::store::database::postgres::listen::Listening;
use crate::store::database::postgres::value::SqlParameter;
use crate::store::database::statements::SqlValue;

/// What the server tells the others when a change is committed.
pub(crate) const CHANNEL: &str = "keygate_keys";

const LOOK: &str = include_str!("look_at_keys.sql");
const CHANGED_KEYS: &str = include_str!("changed_keys.sql");
const ALL_KEYS: &str = include_str!("all_keys.sql");
const AGE: &str = include_str!("age_of_revision.sql");
const NEWEST_SEEN: &str = include_str!("newest_seen_revision.sql");
const PUT_KEYS: &str = include_str!("put_keys.sql");
const DELETE_KEYS: &str = include_str!("delete_keys.sql");
const ADD_REVISION: &str = include_str!("add_key_revision.sql");
const DELETE_TOMBSTONES: &str = include_str!("delete_tombstones.sql");
const DELETE_REVISIONS: &str = include_str!("delete_key_revisions.sql");

/// Rows that are fetched at once.
const FETCHED: u32 = 20_000;
/// Keys that one statement writes.
const WRITTEN: usize = 5_000;
/// Old rows are deleted with every so many revisions.
const DELETE_EVERY: u64 = 256;
/// A server that answers is faster; what takes access away is answered after this where the server is stuck.
const LOCK_ANSWER: Duration = Duration::from_secs(2);
/// A connection that was broken while nobody used it fails at once.
const BROKEN_WITHIN: Duration = Duration::from_secs(1);

/// A state of the keys in the database: the revision, and the random number of the change that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyPosition {
    /// The revision; 0: no key was ever changed.
    pub n: u64,
    /// Of the change; 0 where only another gateway has seen it.
    pub change_id: u128,
}

/// A key in the database.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) revision: u64,
    /// The key as a line of the key file; None: it is deleted.
    pub(crate) line: Option<String>,
    /// How long ago the key was changed last, by the server's clock; None: that is not known.
    pub(crate) age: Option<Duration>,
}

/// What the database has compared with a position that was seen.
#[derive(Clone, Debug)]
pub(crate) enum KeyChanges {
    /// The same.
    None,
    /// These keys were changed since.
    Some {
        rows: Vec<KeyRow>,
        to: KeyPosition,
        /// How long ago the newest change was committed, by the server's clock.
        age: Duration,
    },
    /// All keys have to be read: the changes since are not kept any more, or an operator has accepted that the database goes
    /// another way.
    Unknown,
    /// The database lacks the position: it is an older state, or went another way since.
    Behind { found: u64 },
}

/// What a commit changes.
#[derive(Debug, Default)]
pub(crate) struct KeyWrites {
    /// The id and the line of each key that is added or replaced.
    pub(crate) put: Vec<(String, String)>,
    /// The ids of keys that are deleted.
    pub(crate) deleted: Vec<String>,
}

impl KeyWrites {
    pub(crate) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.deleted.is_empty()
    }
}

/// A connection that reads and changes keys.
pub(crate) struct PostgresKeys {
    connection: Connection,
    /// A change was begun, and neither committed nor taken back.
    in_change: bool,
    gateway: String,
}

impl PostgresKeys {
    pub(crate) fn new(server: &Arc<PostgresServer>, gateway: &str) -> Self {
        Self {
            connection: Connection::new(server, Use::Write),
            in_change: false,
            gateway: gateway.to_owned(),
        }
    }

    /// Calls `notified` when another gateway has committed a change, and each time when a connection is made for it.
    pub(crate) fn listen(&self, notified: impl Fn() + Send + Sync + 'static) -> Listening {
        Listening::start(self.connection.server(), CHANNEL, notified)
    }

    /// What was changed since a position.
    pub(crate) fn changes(&mut self, seen: KeyPosition) -> Result<KeyChanges, DatabaseError> {
        let changes = self.connection.run(async |client, limit| {
            look(client, limit, seen).await.map(|(changes, _)| changes)
        })?;
        if !matches!(changes, KeyChanges::Some { .. }) {
            return Ok(changes);
        }
        self.connection.transaction(async |work| {
            work.execute(&statement(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                [],
            ))
            .await?;
            changes_since(work.client(), work.limit(), seen).await
        })
    }

    /// Visits all keys, in any order, each with its place in the list. Returns the position that they are of.
    pub(crate) fn all(
        &mut self,
        visit: &mut dyn FnMut(i64, KeyRow),
    ) -> Result<KeyPosition, DatabaseError> {
        self.connection.transaction(async |work| {
            for setting in [
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                // All of it may take longer; each part of it may not.
                "SET LOCAL statement_timeout = '60s'",
                "SET LOCAL idle_in_transaction_session_timeout = '60s'",
            ] {
                work.execute(&statement(setting, [])).await?;
            }
            let (_, position) = look(work.client(), work.limit(), KeyPosition::default()).await?;
            let cursor = format!("DECLARE keys_cursor NO SCROLL CURSOR FOR {ALL_KEYS}");
            work.execute(&statement(&cursor, [])).await?;
            let fetch = statement(&format!("FETCH {FETCHED} FROM keys_cursor"), []);
            loop {
                let rows = work.query(&fetch).await?;
                for row in &rows {
                    visit(row.try_get(3)?, key_row(row)?);
                }
                if rows.is_empty() {
                    return Ok(position);
                }
            }
        })
    }

    /// The ids of keys that were deleted in the last 30 days.
    pub(crate) fn deleted(&mut self) -> Result<Vec<String>, DatabaseError> {
        let deleted = statement("SELECT id FROM keys WHERE deleted_at IS NOT NULL", []);
        self.connection.ask(&deleted, |row| Ok(row.try_get(0)?))
    }

    /// Begins a change: until [`commit`](Self::commit) or [`rollback`](Self::rollback) no other gateway changes keys. False:
    /// another one is about to, and `wait` is false, or it takes too long.
    pub(crate) fn begin(&mut self, wait: bool) -> Result<bool, DatabaseError> {
        let (is_old, began) = (self.connection.is_open(), Instant::now());
        let begun = match self.try_begin(wait) {
            // The server was restarted, or another one has taken over, since the connection was used last.
            Err(error) if is_old && error.passes() && began.elapsed() < BROKEN_WITHIN => {
                std::thread::sleep(PAUSE[0]);
                self.try_begin(wait)
            }
            begun => begun,
        };
        self.in_change = matches!(begun, Ok(true));
        begun
    }

    fn try_begin(&mut self, wait: bool) -> Result<bool, DatabaseError> {
        self.connection.run(async |client, limit| {
            within(LOCK_ANSWER, client.batch_execute("BEGIN")).await?;
            let lock = AdvisoryLock::Keys.number();
            if wait {
                let taken = within(
                    limit,
                    client
                        .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&lock, Type::INT8)]),
                )
                .await;
                return match taken {
                    Err(error) if error.is_of_waiting() => {
                        within(limit, client.batch_execute("ROLLBACK")).await?;
                        Ok(false)
                    }
                    taken => taken.map(|_| true),
                };
            }
            let taken: bool = within(
                LOCK_ANSWER,
                client.query_typed_one(
                    "SELECT pg_try_advisory_xact_lock($1)",
                    &[(&lock, Type::INT8)],
                ),
            )
            .await?
            .try_get(0)?;
            if !taken {
                within(limit, client.batch_execute("ROLLBACK")).await?;
            }
            Ok(taken)
        })
    }

    /// What was changed since a position, after [`begin`](Self::begin).
    pub(crate) fn changes_in_change(
        &mut self,
        seen: KeyPosition,
    ) -> Result<KeyChanges, DatabaseError> {
        self.connection.run_on_same(async |client, limit| {
            match look(client, limit, seen).await?.0 {
                KeyChanges::Some { .. } => changes_since(client, limit, seen).await,
                other => Ok(other),
            }
        })
    }

    /// Writes and commits what [`begin`](Self::begin) has begun, as the next revision behind `seen`. `accepts_rollback_from`
    /// tells the other gateways that they may follow although they have seen revisions up to this one.
    ///
    /// # Errors
    /// Where the answer was lost, the change may be there nevertheless; see [`is_committed`](Self::is_committed).
    pub(crate) fn commit(
        &mut self,
        writes: &KeyWrites,
        next: KeyPosition,
        accepts_rollback_from: Option<u64>,
    ) -> Result<(), DatabaseError> {
        self.in_change = false;
        let gateway = &self.gateway;
        self.connection.run_on_same(async |client, limit| {
            write(client, limit, writes, next.n).await?;
            let (n, change_id) = (whole(next.n), format!("{:032x}", next.change_id));
            let from = accepts_rollback_from.map(whole);
            let revision: [SqlParameter<'_>; 4] = [
                (&n, Type::INT8),
                (&change_id, Type::TEXT),
                (gateway, Type::TEXT),
                (&from, Type::INT8),
            ];
            within(limit, client.execute_typed(ADD_REVISION, &revision)).await?;
            let payload = next.n.to_string();
            let message: [SqlParameter<'_>; 2] = [(&CHANNEL, Type::TEXT), (&payload, Type::TEXT)];
            let notify = client.execute_typed("SELECT pg_notify($1, $2)", &message);
            within(limit, notify).await?;
            within(limit, client.batch_execute("COMMIT")).await
        })?;
        if next.n.is_multiple_of(DELETE_EVERY) {
            // Not part of the change. What cannot be deleted now is deleted with a later one.
            let _ = self.connection.run(async |client, limit| {
                within(limit, client.execute_typed(DELETE_TOMBSTONES, &[])).await?;
                within(limit, client.execute_typed(DELETE_REVISIONS, &[])).await
            });
        }
        Ok(())
    }

    /// Ends what [`begin`](Self::begin) has begun without a change.
    pub(crate) fn rollback(&mut self) {
        if !std::mem::take(&mut self.in_change) {
            return;
        }
        // A connection that fails here is closed, which ends the transaction too.
        let _ = self.connection.run_on_same(async |client, limit| {
            within(limit, client.batch_execute("ROLLBACK")).await
        });
    }

    /// Whether a commit whose answer was lost was done.
    pub(crate) fn is_committed(&mut self, position: KeyPosition) -> Result<bool, DatabaseError> {
        let n = whole(position.n);
        let of_revision = statement(
            "SELECT change_id FROM key_revisions WHERE n = $1",
            [SqlValue::Integer(n)],
        );
        let found = self
            .connection
            .ask(&of_revision, |row| Ok(row.try_get(0)?))?;
        let found: Vec<String> = found;
        Ok(found
            .first()
            .is_some_and(|id| parse_id(id) == Some(position.change_id)))
    }

    /// The newest revision that a gateway of the last seconds has in force.
    pub(crate) fn newest_seen(&mut self) -> Result<Option<u64>, DatabaseError> {
        let newest = statement(NEWEST_SEEN, []);
        let found = self.connection.ask(&newest, |row| Ok(row.try_get(0)?))?;
        let found: Vec<Option<i64>> = found;
        Ok(found
            .first()
            .copied()
            .flatten()
            .and_then(|n| u64::try_from(n).ok()))
    }
}

/// Compares a position with the database. Also the position that the database has.
async fn look(
    client: &impl tokio_postgres::GenericClient,
    limit: Duration,
    seen: KeyPosition,
) -> Result<(KeyChanges, KeyPosition), CallError> {
    let revision = whole(seen.n);
    let values: [SqlParameter<'_>; 1] = [(&revision, Type::INT8)];
    let row = within(limit, client.query_typed_one(LOOK, &values)).await?;
    let number = |at: usize| -> Result<Option<u64>, CallError> {
        let number: Option<i64> = row.try_get(at)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let id = |at: usize| -> Result<Option<u128>, CallError> {
        let id: Option<String> = row.try_get(at)?;
        Ok(id.and_then(|id| parse_id(&id)))
    };
    let now = KeyPosition {
        n: number(0)?.unwrap_or(0),
        change_id: id(2)?.unwrap_or(0),
    };
    let (of_seen, oldest, is_accepted) = (id(1)?, number(3)?, row.try_get(4)?);
    Ok((compare(seen, now, of_seen, oldest, is_accepted), now))
}

/// `of_seen` is the change that the database has at the seen revision, `oldest` the oldest revision that is kept.
fn compare(
    seen: KeyPosition,
    now: KeyPosition,
    of_seen: Option<u128>,
    oldest: Option<u64>,
    is_accepted: bool,
) -> KeyChanges {
    let is_known = seen.n == 0 || of_seen == Some(seen.change_id);
    // What only others have seen cannot be the beginning of what is followed.
    let is_of_others = seen.n > 0 && seen.change_id == 0 && of_seen.is_some();
    if is_accepted || is_of_others {
        return KeyChanges::Unknown;
    }
    match is_known {
        true if now.n == seen.n => KeyChanges::None,
        true => KeyChanges::Some {
            rows: Vec::new(),
            to: now,
            age: Duration::ZERO,
        },
        false if of_seen.is_none() && now.n > seen.n && oldest.is_some_and(|n| n > seen.n) => {
            KeyChanges::Unknown
        }
        false => KeyChanges::Behind { found: now.n },
    }
}

async fn changes_since(
    client: &impl tokio_postgres::GenericClient,
    limit: Duration,
    seen: KeyPosition,
) -> Result<KeyChanges, CallError> {
    let (changes, _) = look(client, limit, seen).await?;
    let KeyChanges::Some { to, .. } = changes else {
        return Ok(changes);
    };
    let (after, newest) = (whole(seen.n), whole(to.n));
    let after: [SqlParameter<'_>; 1] = [(&after, Type::INT8)];
    let found = within(limit, client.query_typed(CHANGED_KEYS, &after)).await?;
    let rows: Result<Vec<KeyRow>, CallError> = found.iter().map(changed_row).collect();
    let newest: [SqlParameter<'_>; 1] = [(&newest, Type::INT8)];
    let age = within(limit, client.query_typed_opt(AGE, &newest)).await?;
    let age: Option<i64> = age.map(|row| row.try_get(0)).transpose()?;
    Ok(KeyChanges::Some {
        rows: rows?,
        to,
        age: Duration::from_micros(age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0)),
    })
}

async fn write(
    client: &Client,
    limit: Duration,
    writes: &KeyWrites,
    n: u64,
) -> Result<(), CallError> {
    let revision = whole(n);
    for (batch, keys) in writes.put.chunks(WRITTEN).enumerate() {
        let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        let lines: Vec<&str> = keys.iter().map(|(_, line)| line.as_str()).collect();
        let first = position_of(n, batch * WRITTEN);
        let rows: [SqlParameter<'_>; 4] = [
            (&ids, Type::TEXT_ARRAY),
            (&lines, Type::TEXT_ARRAY),
            (&revision, Type::INT8),
            (&first, Type::INT8),
        ];
        within(limit, client.execute_typed(PUT_KEYS, &rows)).await?;
    }
    for ids in writes.deleted.chunks(WRITTEN) {
        let rows: [SqlParameter<'_>; 2] = [(&ids, Type::TEXT_ARRAY), (&revision, Type::INT8)];
        within(limit, client.execute_typed(DELETE_KEYS, &rows)).await?;
    }
    Ok(())
}

/// The place in the list of the key at this index of a change. There is room for 16 million keys in one.
fn position_of(n: u64, index: usize) -> i64 {
    whole(n.saturating_mul(1 << 24)).saturating_add(i64::try_from(index).unwrap_or(i64::MAX))
}

fn key_row(row: &Row) -> Result<KeyRow, CallError> {
    let revision: i64 = row.try_get(1)?;
    Ok(KeyRow {
        id: row.try_get(0)?,
        revision: u64::try_from(revision).unwrap_or(0),
        line: row.try_get(2)?,
        age: None,
    })
}

fn changed_row(row: &Row) -> Result<KeyRow, CallError> {
    let age: Option<i64> = row.try_get(3)?;
    // An age below 0 is of a clock that was set back.
    let age = age.and_then(|age| u64::try_from(age).ok());
    Ok(KeyRow {
        age: age.map(Duration::from_micros),
        ..key_row(row)?
    })
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn parse_id(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64, change_id: u128) -> KeyPosition {
        KeyPosition { n, change_id }
    }

    #[test]
    fn a_database_that_lacks_what_was_seen_is_not_followed() {
        let compared = |now, of_seen, oldest, is_accepted| match compare(
            at(7, 70),
            now,
            of_seen,
            oldest,
            is_accepted,
        ) {
            KeyChanges::None => "none",
            KeyChanges::Some { .. } => "some",
            KeyChanges::Unknown => "unknown",
            KeyChanges::Behind { .. } => "behind",
        };
        assert_eq!(compared(at(7, 70), Some(70), Some(1), false), "none");
        assert_eq!(compared(at(9, 90), Some(70), Some(1), false), "some");
        // An older state, also one that is new and empty.
        assert_eq!(compared(at(5, 50), None, Some(1), false), "behind");
        assert_eq!(compared(at(0, 0), None, None, false), "behind");
        // An older state that went on since.
        assert_eq!(compared(at(7, 71), Some(71), Some(1), false), "behind");
        assert_eq!(compared(at(9, 91), Some(71), Some(1), false), "behind");
        // The revisions up to the one that was seen are not kept any more.
        assert_eq!(compared(at(900, 9), None, Some(800), false), "unknown");
        assert_eq!(compared(at(5, 50), None, Some(5), false), "behind");
        // Another gateway has seen it.
        let of_others = |of_seen| compare(at(7, 0), at(9, 90), of_seen, Some(1), false);
        assert!(matches!(of_others(Some(70)), KeyChanges::Unknown));
        assert!(matches!(of_others(None), KeyChanges::Behind { .. }));
        // An operator has accepted it.
        assert_eq!(compared(at(8, 80), Some(71), Some(1), true), "unknown");
    }
}
