SELECT id, kind, body, created_at, attempts
FROM alerts
WHERE next_at IS NOT NULL AND (next_at <= $1 OR next_at > $2)
ORDER BY next_at, created_at, id
LIMIT $3
