//! Brings the schema forward, under a lock, so that several gateways may start at once.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use crate::store::database::error::DatabaseError;
use crate::store::database::postgres::advisory_lock::AdvisoryLock;
use crate::store::database::postgres::error::CallError;
use crate::store::database::postgres::url::PostgresUrl;
use crate::store::database::writer;

/// Each with its number, in their order. The numbers and the tables are those of SQLite, apart from what only several
/// gateways need.
const MIGRATIONS: [Migration; 8] = [
    (1, include_str!("0001_usage.sql")),
    (2, include_str!("0002_audit.sql")),
    (3, include_str!("0003_alerts.sql")),
    (4, include_str!("0004_budgets.sql")),
    (5, include_str!("0005_accounts.sql")),
    (6, include_str!("0006_people.sql")),
    (7, include_str!("0007_fleet.sql")),
    (8, include_str!("0008_leases.sql")),
];
/// The oldest version of the server that is taken, as it numbers itself.
const OLDEST_SERVER: i32 = 140_000;

/// A migration of many rows takes longer than other statements.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(600);

type Migration = (i64, &'static str);

/// Checks that server and schema are fit. The migrations that the database does not have yet.
pub(crate) async fn missing(
    client: &Client,
    url: &PostgresUrl,
) -> Result<Vec<Migration>, CallError> {
    check_server(client, url).await?;
    let applied = applied(client).await?;
    behind(&applied, oldest(client, &applied).await?, url)
}

/// The newest migration that this program knows.
pub(crate) fn known() -> i64 {
    MIGRATIONS
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or(0)
}

/// The oldest program that works with a schema which is newer than this one's. Several versions run side by side while they
/// are replaced one after the other.
async fn oldest(client: &impl GenericClient, applied: &[i64]) -> Result<i64, CallError> {
    if applied.iter().all(|version| *version <= known()) {
        return Ok(0);
    }
    let row = client
        .query_typed_one("SELECT max(oldest) FROM schema_compatibility", &[])
        .await?;
    Ok(row.try_get::<_, Option<i64>>(0)?.unwrap_or(0))
}

async fn check_server(client: &Client, url: &PostgresUrl) -> Result<(), CallError> {
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('server_encoding')",
            &[],
        )
        .await?;
    let (version, encoding): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let unfit = |why, remedy| {
        let place = url.place();
        Err(DatabaseError::Unfit { place, why, remedy }.into())
    };
    if version < OLDEST_SERVER {
        let why = format!("is PostgreSQL {}", version / 10_000);
        return unfit(why, "use version 14 or a newer one");
    }
    if encoding != "UTF8" {
        let why = format!("has the encoding {encoding}");
        return unfit(
            why,
            "make a database with ENCODING 'UTF8' TEMPLATE template0",
        );
    }
    Ok(())
}

/// The numbers of the migrations that the database has.
pub(crate) async fn applied(client: &Client) -> Result<Vec<i64>, CallError> {
    // A table that is not there would be an error in the log of the server.
    let has_table = "SELECT to_regclass('schema_migrations') IS NOT NULL";
    let row = client.query_typed_one(has_table, &[]).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client
        .query_typed("SELECT version FROM schema_migrations", &[])
        .await?;
    let versions = rows.iter().map(|row| row.try_get(0));
    Ok(versions.collect::<Result<_, _>>()?)
}

/// The migrations that a database with these does not have yet. `oldest` is the oldest program that works with it.
fn behind(applied: &[i64], oldest: i64, url: &PostgresUrl) -> Result<Vec<Migration>, CallError> {
    let (known, found) = (known(), applied.iter().copied().max());
    match found {
        Some(found) if oldest > known => Err(DatabaseError::NewerSchema {
            place: url.place(),
            found,
            known,
        }
        .into()),
        _ => {
            let is_missing = |(version, _): &(i64, &str)| !applied.contains(version);
            Ok(MIGRATIONS.into_iter().filter(is_missing).collect())
        }
    }
}

/// Applies the migrations that are missing, all in one transaction.
pub(crate) async fn migrate(client: &mut Client, url: &PostgresUrl) -> Result<(), CallError> {
    // Also on a connection that only asks.
    let transaction = client.build_transaction().read_only(false);
    let transaction = transaction.start().await?;
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0")
        .await?;
    let lock = AdvisoryLock::Migrate.number();
    transaction
        .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&lock, Type::INT8)])
        .await?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)",
        )
        .await?;
    // Another gateway may have been faster.
    let rows = transaction
        .query_typed("SELECT version FROM schema_migrations", &[])
        .await?;
    let applied: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let applied = applied?;
    let oldest = oldest(&transaction, &applied).await;
    for (version, sql) in behind(&applied, oldest?, url)? {
        transaction.batch_execute(sql).await?;
        transaction
            .execute_typed(
                "INSERT INTO schema_migrations (version, applied_at) VALUES ($1, $2)",
                &[(&version, Type::INT8), (&writer::now(), Type::INT8)],
            )
            .await?;
    }
    Ok(transaction.commit().await?)
}
