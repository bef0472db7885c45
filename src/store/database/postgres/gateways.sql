SELECT instance, name, version, started_at, seen_revision, lag_ms, in_flight,
    CAST(FLOOR(EXTRACT(EPOCH FROM seen_at)) AS BIGINT),
    CAST(GREATEST(EXTRACT(EPOCH FROM clock_timestamp() - seen_at) * 1000, 0) AS BIGINT),
    (SELECT value FROM revisions WHERE name = 'keys'),
    database_behind
FROM gateways ORDER BY name, started_at, instance
