INSERT INTO writers (writer, gateway, batch, applied_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, applied_at = excluded.applied_at
WHERE excluded.batch > writers.batch
