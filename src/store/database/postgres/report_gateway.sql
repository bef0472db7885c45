-- Rows that another gateway deletes at the same time are left to it.
WITH forgotten AS (
    DELETE FROM gateways WHERE instance IN (
        SELECT instance FROM gateways WHERE seen_at < clock_timestamp() - INTERVAL '1 day' FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO gateways (instance, name, version, started_at, seen_revision, database_behind, lag_ms, in_flight, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())
ON CONFLICT (instance) DO UPDATE SET seen_revision = excluded.seen_revision,
    database_behind = excluded.database_behind, lag_ms = excluded.lag_ms,
    in_flight = excluded.in_flight, seen_at = excluded.seen_at
