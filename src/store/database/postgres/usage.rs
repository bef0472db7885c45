//! Usage in PostgreSQL. A batch is a few statements, each of which adds many rows, so that a server far away takes no
//! longer for it than one nearby.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::policy::usage::{Certainty, RequestCounts};
use crate::store::database::driver::{Retention, SumsRowKey, WrittenBatches, grouped_sums};
use crate::store::database::error::DatabaseError;
use crate::store::database::people::{statement, text};
use crate::store::database::postgres::Postgres;
use crate::store::database::postgres::advisory_lock::AdvisoryLock;
use crate::store::database::postgres::connection::Work;
use crate::store::database::postgres::error::CallError;
use crate::store::database::postgres::value::ColumnKind::{self, Integer, Text};
use crate::store::database::query::{StoredKeyUse, StoredRecord, SumsQuery, SumsRow};
use crate::store::database::record::{Batch, DAY, HOUR, KeyUse, UsageRecord, UsageSums, whole};
use crate::store::database::statements::{self, SqlValue, Statement, SumsScope};

const ONE_SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
const WRITERS: &str = "SELECT writer, batch FROM writers";
const DELETE_SUMS: &str = include_str!("delete_sums.sql");

/// A writer that wrote nothing for so long is gone, and nothing of it waits in a spool.
const FORGET_WRITERS_AFTER: i64 = 400 * DAY;

/// The columns of the statements that add rows, in their order.
const RECORD: [ColumnKind; 24] = [
    Text, Text, Integer, Integer, Text, Text, Text, Text, Text, Integer, Text, Text, Integer,
    Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer, Text, Integer,
];
const SUMS: [ColumnKind; 18] = [
    Integer, Integer, Integer, Text, Text, Text, Text, Integer, Integer, Integer, Integer, Integer,
    Integer, Integer, Integer, Integer, Integer, Integer,
];
const KEY_USE: [ColumnKind; 3] = [Text, Integer, Integer];

impl Postgres {
    pub(crate) fn write_batch(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let Batch {
            writer,
            gateway,
            number,
            now,
            records,
            sums,
            key_uses,
        } = batch;
        self.connection.transaction(async |work| {
            let claim = [
                text(writer),
                text(gateway),
                SqlValue::Integer(*number),
                SqlValue::Integer(*now),
            ];
            let claimed = work
                .execute(&statement(statements::CLAIM_BATCH, claim))
                .await?;
            if claimed == 0 {
                // It was applied before, and only the answer was lost.
                return Ok(());
            }
            let records = records.iter().map(|record| record_row(record, gateway));
            work.add(statements::ADD_RECORD, &RECORD, records).await?;
            // All gateways add rows in the same order, so that none of them waits for another that waits for it.
            let sums = grouped_sums(sums);
            let sums = sums.iter().map(|(key, sums)| sums_values(key, sums));
            work.add(statements::ADD_SUMS, &SUMS, sums).await?;
            let key_uses = merged(key_uses);
            let key_uses = key_uses.iter().map(|(key_id, (requests, last_used_at))| {
                [
                    text(key_id),
                    SqlValue::Integer(*last_used_at),
                    SqlValue::Integer(whole(*requests)),
                ]
            });
            work.add(statements::ADD_KEY_USE, &KEY_USE, key_uses).await
        })
    }

    pub(crate) fn delete_rows(
        &mut self,
        retention: &Retention,
        most: u32,
    ) -> Result<u64, DatabaseError> {
        let Retention {
            now,
            records_before,
            sums_before,
        } = *retention;
        self.connection.transaction(async |work| {
            // Another gateway that deletes has the same rows in hand.
            if !work.try_lock(AdvisoryLock::Delete).await? {
                return Ok(0);
            }
            let numbers = |sql: &str, values: &[i64]| -> Statement {
                statement(sql, values.iter().copied().map(SqlValue::Integer))
            };
            let most = i64::from(most);
            let records = [records_before.saturating_mul(1000), most];
            let mut deleted = work
                .execute(&numbers(statements::DELETE_RECORDS, &records))
                .await?;
            for scope in [SumsScope::All, SumsScope::Account, SumsScope::Key] {
                for width in [HOUR, DAY] {
                    let sums = [scope as i64, width, sums_before, most];
                    deleted += work.execute(&numbers(DELETE_SUMS, &sums)).await?;
                }
            }
            let writers = [now.saturating_sub(FORGET_WRITERS_AFTER)];
            work.execute(&numbers(statements::DELETE_WRITERS, &writers))
                .await?;
            Ok(deleted)
        })
    }

    /// Both are as they are at one instant.
    pub(crate) fn ask_sums_and_batches(
        &mut self,
        query: &SumsQuery,
    ) -> Result<(Vec<SumsRow>, WrittenBatches), DatabaseError> {
        self.connection.transaction(async |work| {
            work.execute(&statement(ONE_SNAPSHOT, [])).await?;
            let rows = work.query(&statements::sums(query)).await?;
            let rows = rows.iter().map(sums_row).collect::<Result<_, _>>()?;
            let writers = work.query(&statement(WRITERS, [])).await?;
            let batch = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
            let batches = writers
                .iter()
                .map(batch)
                .collect::<Result<_, CallError>>()?;
            Ok((rows, batches))
        })
    }

    /// The rows that a question finds.
    pub(crate) fn ask_rows<T>(
        &mut self,
        question: &Statement,
        read: impl Fn(&Row) -> Result<T, CallError>,
    ) -> Result<Vec<T>, DatabaseError> {
        self.connection.ask(question, read)
    }
}

/// The uses of each key once: one statement cannot change a row twice.
fn merged(key_uses: &[KeyUse]) -> BTreeMap<&str, (u64, i64)> {
    let mut merged: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
    for key_use in key_uses {
        let (requests, last_used_at) = merged.entry(&key_use.key_id).or_insert((0, i64::MIN));
        *requests = requests.saturating_add(key_use.requests);
        *last_used_at = key_use.last_used_at.max(*last_used_at);
    }
    merged
}

fn optional(number: Option<i64>) -> SqlValue {
    number.map_or(SqlValue::Null, SqlValue::Integer)
}

fn record_row(record: &UsageRecord, gateway: &str) -> [SqlValue; 24] {
    let UsageRecord {
        request_id,
        started_at,
        ended_at,
        key_id,
        account,
        model,
        upstream,
        route,
        status,
        end,
        client_address,
        first_byte_ms,
        duration_ms,
        bytes_in,
        bytes_out,
        counts,
        cost,
    } = record;
    let RequestCounts {
        input,
        input_cached,
        output,
        output_reasoning,
        audio_microseconds,
        images,
        certainty,
    } = *counts;
    let count = |count: Option<u64>| optional(count.map(whole));
    let optional_text = |value: Option<&str>| value.map_or(SqlValue::Null, text);
    let address = client_address.map(|address| address.to_string());
    [
        text(request_id),
        text(gateway),
        SqlValue::Integer(*started_at),
        SqlValue::Integer(*ended_at),
        text(key_id),
        optional_text(account.as_deref()),
        text(model),
        text(upstream),
        text(route),
        SqlValue::Integer((*status).into()),
        text(end.label()),
        optional_text(address.as_deref()),
        optional(first_byte_ms.map(i64::from)),
        SqlValue::Integer((*duration_ms).into()),
        SqlValue::Integer(whole(*bytes_in)),
        SqlValue::Integer(whole(*bytes_out)),
        count(input),
        count(input_cached),
        count(output),
        count(output_reasoning),
        count(audio_microseconds),
        count(images),
        text(certainty.label()),
        count(cost.map(|cost| cost.millionths())),
    ]
}

fn sums_values(key: &SumsRowKey<'_>, sums: &UsageSums) -> [SqlValue; 18] {
    let UsageSums {
        requests,
        errors,
        at_least,
        unknown,
        input_tokens,
        input_cached_tokens,
        output_tokens,
        output_reasoning_tokens,
        audio_microseconds,
        images,
        cost,
    } = *sums;
    [
        SqlValue::Integer(key.scope as i64),
        SqlValue::Integer(key.width),
        SqlValue::Integer(key.start),
        text(key.subject),
        text(key.account),
        text(key.model),
        text(key.upstream),
        SqlValue::Integer(requests),
        SqlValue::Integer(errors),
        SqlValue::Integer(at_least),
        SqlValue::Integer(unknown),
        optional(input_tokens),
        optional(input_cached_tokens),
        optional(output_tokens),
        optional(output_reasoning_tokens),
        optional(audio_microseconds),
        optional(images),
        optional(cost),
    ]
}

pub(crate) fn sums_row(row: &Row) -> Result<SumsRow, CallError> {
    Ok(SumsRow {
        start: row.try_get(0)?,
        key_id: row.try_get(1)?,
        account: row.try_get(2)?,
        model: row.try_get(3)?,
        upstream: row.try_get(4)?,
        sums: UsageSums {
            requests: row.try_get(5)?,
            errors: row.try_get(6)?,
            at_least: row.try_get(7)?,
            unknown: row.try_get(8)?,
            input_tokens: row.try_get(9)?,
            input_cached_tokens: row.try_get(10)?,
            output_tokens: row.try_get(11)?,
            output_reasoning_tokens: row.try_get(12)?,
            audio_microseconds: row.try_get(13)?,
            images: row.try_get(14)?,
            cost: row.try_get(15)?,
        },
    })
}

pub(crate) fn stored_record(row: &Row) -> Result<StoredRecord, CallError> {
    let count = |at: usize| -> Result<Option<u64>, CallError> {
        let number: Option<i64> = row.try_get(at)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let certainty: String = row.try_get(23)?;
    Ok(StoredRecord {
        id: row.try_get(0)?,
        request_id: row.try_get(1)?,
        gateway: row.try_get(2)?,
        started_at: row.try_get(3)?,
        ended_at: row.try_get(4)?,
        key_id: row.try_get(5)?,
        account: row.try_get(6)?,
        model: row.try_get(7)?,
        upstream: row.try_get(8)?,
        route: row.try_get(9)?,
        status: row.try_get(10)?,
        end: row.try_get(11)?,
        client_address: row.try_get(12)?,
        first_byte_ms: row.try_get(13)?,
        duration_ms: row.try_get(14)?,
        bytes_in: row.try_get(15)?,
        bytes_out: row.try_get(16)?,
        counts: RequestCounts {
            input: count(17)?,
            input_cached: count(18)?,
            output: count(19)?,
            output_reasoning: count(20)?,
            audio_microseconds: count(21)?,
            images: count(22)?,
            certainty: Certainty::of_label(&certainty).unwrap_or(Certainty::Unknown),
        },
        cost: row.try_get(24)?,
    })
}

pub(crate) fn key_use(row: &Row) -> Result<StoredKeyUse, CallError> {
    let requests: i64 = row.try_get(2)?;
    Ok(StoredKeyUse {
        key_id: row.try_get(0)?,
        last_used_at: row.try_get(1)?,
        requests: u64::try_from(requests).unwrap_or(0),
    })
}

impl Work<'_> {
    /// Adds rows of these columns, many at once.
    pub(crate) async fn add<const N: usize>(
        &self,
        sql: &str,
        kinds: &[ColumnKind; N],
        rows: impl Iterator<Item = [SqlValue; N]>,
    ) -> Result<(), CallError> {
        let places = kinds
            .iter()
            .zip(1..)
            .map(|(kind, place)| format!("${place}::{}", kind.array()));
        let places: Vec<String> = places.collect();
        let unnested = format!("SELECT * FROM unnest({})", places.join(", "));
        self.execute_columns(&sql.replace(statements::ROWS, &unnested), kinds, rows)
            .await
    }
}
