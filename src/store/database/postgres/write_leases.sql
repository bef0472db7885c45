-- Changes what nobody else has changed since it was read, always in the same order, so that no two gateways wait for each other.
WITH changes AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[])
        AS change (holder, kind, version, state, ends_at)
    ORDER BY holder, kind
)
INSERT INTO limit_leases AS known (holder, kind, version, state, ends_at)
SELECT holder, kind, version + 1, state, ends_at FROM changes
ON CONFLICT (holder, kind) DO UPDATE
SET version = excluded.version, state = excluded.state, ends_at = excluded.ends_at
WHERE known.version = excluded.version - 1
RETURNING holder, kind
