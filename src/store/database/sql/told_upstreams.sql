SELECT about, kind
FROM alerts
WHERE kind IN ($1, $2)
ORDER BY created_at, kind DESC
